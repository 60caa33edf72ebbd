//! Roots and revocation lists summed up for the inventory, with a warning for
//! each list that is out of date.

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::Context;
use super::pem::Found;
use crate::clock;
use crate::config::diagnostics::Diagnostic;
use crate::config::inventory::{CertificateSummary, ListSummary};
use crate::identity::LeafFacts;
use crate::identity::leaf::rfc4514;
use crate::identity::text::printable;
use crate::trust::RevocationPosture;

pub(super) fn root_summaries(roots: &[Found<CertificateDer<'static>>]) -> Vec<CertificateSummary> {
    roots
        .iter()
        .filter_map(|root| {
            let facts = LeafFacts::read(&root.value).ok()?;
            Some(CertificateSummary::new(&root.path, &facts))
        })
        .collect()
}

/// Sums lists up, and warns of those that are out of date.
pub(super) fn list_summaries(
    lists: &[Found<CertificateRevocationListDer<'static>>],
    posture: RevocationPosture,
    context: &mut Context<'_>,
) -> Vec<ListSummary> {
    let mut summaries = Vec::new();
    for list in lists {
        // The bundle reports the ones that cannot be read.
        let Ok((_, parsed)) = CertificateRevocationList::from_der(&list.value) else {
            continue;
        };
        let next_update = parsed.next_update().map(|time| time.timestamp());
        if posture != RevocationPosture::Off
            && next_update.is_some_and(|next_update| next_update < context.now)
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
                        clock::rfc3339(next_update.unwrap_or_default())
                    ),
                )
                .help("fetch the current list from its issuer"),
            );
        }
        summaries.push(ListSummary {
            file: list.path.display().to_string(),
            issuer: printable(&rfc4514(parsed.issuer())),
            next_update: next_update.map(clock::rfc3339),
            revoked: parsed.iter_revoked_certificates().count(),
        });
    }
    summaries
}
