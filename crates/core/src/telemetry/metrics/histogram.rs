//! A histogram of request durations that takes no lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds of the buckets of request durations, in microseconds.
const BUCKETS_MICROS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// A histogram of durations. It consists of atomic integers, because the library's histogram takes
/// a lock.
#[derive(Debug, Clone, Default)]
pub(super) struct DurationHistogram(Arc<DurationCounts>);

#[derive(Debug, Default)]
struct DurationCounts {
    buckets: [AtomicU64; BUCKETS_MICROS.len()],
    beyond: AtomicU64,
    sum_micros: AtomicU64,
}

impl DurationHistogram {
    pub(super) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let index = BUCKETS_MICROS.partition_point(|end| *end < micros);
        self.0
            .buckets
            .get(index)
            .unwrap_or(&self.0.beyond)
            .fetch_add(1, Ordering::Relaxed);
        self.0.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl TypedMetric for DurationHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let ends = BUCKETS_MICROS.iter().map(|micros| seconds(*micros));
        let counts = self.0.buckets.iter().chain([&self.0.beyond]);
        // These counts are not cumulative, because the encoder itself computes the cumulative
        // counts.
        let buckets: Vec<(f64, u64)> = ends
            .chain([f64::INFINITY])
            .zip(counts.map(|count| count.load(Ordering::Relaxed)))
            .collect();
        let sum = seconds(self.0.sum_micros.load(Ordering::Relaxed));
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}
