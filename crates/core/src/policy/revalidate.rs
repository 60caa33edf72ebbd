//! Verifies the certificate chain of a live connection again.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};

use super::Denial;
use crate::clock;
use crate::identity::PeerIdentity;
use crate::reason::ReasonCode;
use crate::trust::ClientTrust;

/// Verifies a chain (leaf and intermediates) again. An earlier verification accepted it for the
/// identity `before`. Returns the new identity, and the time until which it is valid, in seconds
/// since the Unix epoch.
///
/// # Errors
/// Returns the reason why the chain is no longer accepted for the caller name in `before`.
pub fn revalidate(
    trust: &ClientTrust,
    (leaf, intermediates): (&CertificateDer<'static>, &[CertificateDer<'static>]),
    before: &PeerIdentity,
) -> Result<(Arc<PeerIdentity>, i64), Denial> {
    let now = UnixTime::since_unix_epoch(clock::since_epoch());
    let admission = trust
        .admit(leaf, intermediates, now)
        .map_err(|refusal| Denial {
            note: refusal.note,
            ..Denial::new(refusal.reason, refusal.detail)
        })?;
    // The path cache stores a chain only after its handshake is complete. The handshake of this
    // connection is already complete, so the chain is stored here.
    if let Some(pending) = admission.pending {
        pending.commit();
    }
    let identity = admission.identity;
    if identity.caller() != before.caller() || identity.trust_domain() != before.trust_domain() {
        return Err(Denial::new(
            ReasonCode::TrustDomainMismatch,
            "the certificate stands for another identity now",
        ));
    }
    Ok((identity, admission.holds_until))
}
