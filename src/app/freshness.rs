//! Updates the metric about the freshness of CRLs, and logs an alarm if a CRL is not fresh.
//! `/readyz` computes the freshness itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock;
use crate::identity::text::printable;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::trust::Freshness;

/// The interval at which the freshness of CRLs is checked.
const LOOK: Duration = Duration::from_secs(1);

/// The freshness of each CRL. The key is the trust domain, the issuer and the CRL number.
type Seen = BTreeMap<(String, String, String), Freshness>;

/// Computes the freshness of all CRLs every second until the process ends.
pub(super) async fn watch(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) {
    let mut seen = Seen::new();
    loop {
        seen = look(&snapshot.load(), &metrics, &seen);
        tokio::time::sleep(LOOK).await;
    }
}

fn look(snapshot: &Snapshot, metrics: &Metrics, before: &Seen) -> Seen {
    let now = clock::certificate_now();
    let mut seen = Seen::new();
    for bundle in &snapshot.bundles {
        let domain = bundle.name().as_str();
        let lists = bundle.freshness(now);
        for freshness in Freshness::ALL {
            let count = lists
                .iter()
                .filter(|list| list.freshness == freshness)
                .count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            metrics.revocation_lists(domain, freshness.as_str(), count);
        }
        for list in lists {
            let key = (domain.to_owned(), list.issuer.clone(), list.number.clone());
            if before.get(&key) != Some(&list.freshness)
                && let Some(alarm) = list.alarm()
            {
                let alarm = printable(&alarm);
                match list.freshness {
                    Freshness::Grace | Freshness::Stale => {
                        tracing::error!(trust_domain = domain, "{alarm}");
                    }
                    _ => tracing::warn!(trust_domain = domain, "{alarm}"),
                }
            }
            seen.insert(key, list.freshness);
        }
    }
    seen
}
