//! Logs when a CRL should have been replaced, or a certificate of the gateway should have been
//! renewed. Also updates the metrics about CRLs and certificates. `/readyz` makes these checks
//! independently.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock;
use crate::identity::text::printable;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::{CertificateLabels, Metrics};
use crate::tls::LifeLeft;
use crate::trust::Freshness;

/// The interval at which CRLs and certificates are checked.
const LOOK: Duration = Duration::from_secs(1);

/// The freshness of each CRL at the last check. The keys are the trust domain and the CRL's hash.
type Seen = BTreeMap<(String, [u8; 32]), Freshness>;
/// How much of each certificate's lifetime was left at the last check. The keys are the labels in
/// metrics and the certificate's hash.
type SeenCertificates = BTreeMap<(CertificateLabels, [u8; 32]), LifeLeft>;

/// Checks all CRLs and certificates every second until the process ends.
pub(super) async fn watch(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) {
    let mut seen = Seen::new();
    let mut certificates = SeenCertificates::new();
    loop {
        {
            let snapshot = snapshot.load();
            seen = look(&snapshot, &metrics, &seen);
            certificates = look_at_certificates(&snapshot, &metrics, &certificates);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn look_at_certificates(
    snapshot: &Snapshot,
    metrics: &Metrics,
    before: &SeenCertificates,
) -> SeenCertificates {
    let now = clock::certificate_now();
    let mut seen = SeenCertificates::new();
    // A leaf and an intermediate may have the same labels. The metric then shows the earlier
    // notAfter.
    let mut ends: BTreeMap<CertificateLabels, i64> = BTreeMap::new();
    for certificate in &snapshot.own_certificates {
        let labels = CertificateLabels {
            r#use: certificate.owner.usage(),
            name: certificate.owner.name().to_owned(),
            serial: certificate.serial.clone(),
        };
        let end = ends.entry(labels.clone()).or_insert(i64::MAX);
        *end = certificate.not_after.min(*end);
        let key = (labels, certificate.hash);
        let left = certificate.left(now);
        if before.get(&key) != Some(&left)
            && let Some(alarm) = certificate.alarm(now)
        {
            let alarm = printable(&alarm);
            match left {
                LifeLeft::Expired => tracing::error!("{alarm}"),
                LifeLeft::Expiring | LifeLeft::Enough => tracing::warn!("{alarm}"),
            }
        }
        seen.insert(key, left);
    }
    for (labels, _) in before
        .keys()
        .filter(|(labels, _)| !ends.contains_key(labels))
    {
        metrics.forget_certificate(labels);
    }
    for (labels, end) in &ends {
        metrics.own_certificate(labels, *end);
    }
    seen
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
            let key = (domain.to_owned(), list.hash);
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
