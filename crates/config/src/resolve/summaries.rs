//! Summarizes roots and CRLs for the inventory. Warns about CRLs that a newer CRL should have
//! replaced already.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::context::Context;
use super::pem::Found;
use crate::clock;
use crate::diagnostics::Diagnostic;
use crate::identity::LeafFacts;
use crate::identity::text::printable;
use crate::material::inventory::{CertificateSummary, CrlSummary};
use crate::trust::{CrlOutline, RevocationPosture};

pub(super) fn root_summaries(roots: &[Found<CertificateDer<'static>>]) -> Vec<CertificateSummary> {
    roots
        .iter()
        .filter_map(|root| {
            let facts = LeafFacts::read(&root.value).ok()?;
            Some(CertificateSummary::new(&root.path, &facts))
        })
        .collect()
}

/// Summarizes CRLs. Unless `posture` is `Off`, warns about CRLs whose nextUpdate has passed. If a
/// CRL has no nextUpdate, `max_age` after its thisUpdate counts instead.
pub(super) fn crl_summaries(
    lists: &[Found<CertificateRevocationListDer<'static>>],
    posture: RevocationPosture,
    max_age: Option<Duration>,
    context: &mut Context<'_>,
) -> Vec<CrlSummary> {
    let mut summaries = Vec::new();
    for list in lists {
        // A CRL that cannot be read is left out here. Building the trust bundle reports the error.
        let Some(outline) = CrlOutline::read(&list.value) else {
            continue;
        };
        let end = outline.times.end(max_age);
        if let Some(end) = end
            && posture != RevocationPosture::Off
            && end < context.now
        {
            let effect = if posture == RevocationPosture::Hard {
                "callers it concerns are refused"
            } else {
                "callers it concerns are let in unchecked"
            };
            context.warn(
                Diagnostic::new(
                    list.place.clone(),
                    format!(
                        "the revocation list {} was due for renewal at {}: {effect}",
                        list.path.display(),
                        clock::rfc3339(end)
                    ),
                )
                .help("fetch the current list from its issuer"),
            );
        }
        summaries.push(CrlSummary {
            file: list.path.display().to_string(),
            issuer: printable(&outline.issuer),
            next_update: end.map(clock::rfc3339),
            revoked: outline.entries,
        });
    }
    summaries
}
