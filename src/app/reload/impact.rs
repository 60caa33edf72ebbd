//! Reports which recent callers new trust material refuses. The gateway has kept the certificate
//! chains of these callers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use serde::Serialize;

use crate::clock;
use crate::identity::text::printable;
use crate::identity::{LeafFacts, PeerIdentity};
use crate::reason::ReasonCode;
use crate::snapshot::Snapshot;
use crate::telemetry::chains::{self, KeptChain};

/// Callers that were seen within this time count as recent.
const LATELY: Duration = Duration::from_secs(7 * 86_400);
/// Maximum number of chains that are checked after a reload.
const MAX_CHAINS: usize = 2_000;
/// Maximum number of callers that the log names.
const NAMED: usize = 20;

/// A recent caller that the new trust material refuses.
#[derive(Debug, Clone, Serialize)]
pub struct WouldRefuse {
    /// The identifier of the kept chain.
    pub chain: String,
    /// The names in the leaf certificate.
    pub names: String,
    /// The serial number of the leaf certificate, in lower-case hexadecimal.
    pub serial: String,
    /// The server name of the caller's TLS handshake.
    pub server_name: Option<String>,
    /// When the caller was last seen, in RFC 3339 format.
    pub last_seen: String,
    /// The reason why the caller would be refused.
    pub reason: ReasonCode,
    /// The details of the reason, for the operator.
    pub detail: String,
}

/// How a snapshot decides about one caller.
#[derive(Debug)]
pub enum Outlook {
    /// The snapshot admits the caller, with this identity.
    Admitted(Arc<PeerIdentity>),
    /// The caller's own certificate has expired since its chain was kept, so the new trust material
    /// is not the cause of a refusal.
    Expired,
    /// The snapshot refuses the caller.
    Refused(Box<WouldRefuse>),
}

/// Decides whether a snapshot would admit the caller that presented a kept chain.
#[must_use]
pub fn outlook(snapshot: &Snapshot, kept: &KeptChain) -> Outlook {
    let now = UnixTime::since_unix_epoch(clock::since_epoch());
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let leaf = kept
        .chain
        .first()
        .and_then(|leaf| LeafFacts::read(leaf).ok());
    let is_over = |leaf: &LeafFacts| clock::certificate_is_over(leaf.not_after, seconds);
    if leaf.as_ref().is_some_and(is_over) {
        return Outlook::Expired;
    }
    let refused = |reason, detail: &str| {
        Outlook::Refused(Box::new(WouldRefuse {
            chain: kept.id.text().to_string(),
            names: leaf
                .as_ref()
                .map_or_else(String::new, |leaf| leaf.sans.summary()),
            serial: leaf
                .as_ref()
                .map_or_else(String::new, LeafFacts::serial_hex),
            server_name: kept.sni.clone(),
            last_seen: clock::rfc3339(i64::try_from(clock::unix(kept.seen)).unwrap_or(i64::MAX)),
            reason,
            detail: printable(detail),
        }))
    };
    let Some(entry) = snapshot.server_names.select(kept.sni.as_deref()) else {
        return refused(
            ReasonCode::HostMismatch,
            "no [[server_name]] entry answers for its server name",
        );
    };
    let Some((leaf, intermediates)) = kept.chain.split_first() else {
        return Outlook::Expired;
    };
    match entry.trust().verify(leaf, intermediates, now) {
        Ok(identity) => Outlook::Admitted(identity),
        Err(refusal) => refused(refusal.reason, &refusal.detail),
    }
}

/// Logs the recent callers that the snapshot `before` admitted and the snapshot `after` refuses.
pub(super) fn report(directory: &Path, before: &Snapshot, after: &Snapshot) {
    if before.server_names.revisions() == after.server_names.revisions() {
        return;
    }
    let kept = match chains::admitted_since(directory, LATELY, MAX_CHAINS) {
        Ok(kept) => kept,
        Err(error) => {
            tracing::warn!(%error, "the kept chains cannot be read: no preview of the new trust");
            return;
        }
    };
    let mut refused = Vec::new();
    for chain in &kept {
        if let Outlook::Refused(why) = outlook(after, chain)
            && matches!(outlook(before, chain), Outlook::Admitted(_))
        {
            refused.push(why);
        }
    }
    let (looked_at, count) = (kept.len(), refused.len());
    if count == 0 {
        tracing::info!(
            looked_at,
            "the new trust refuses none of the callers seen lately"
        );
        return;
    }
    tracing::warn!(
        looked_at,
        refused = count,
        "the new trust refuses callers seen lately"
    );
    for why in refused.iter().take(NAMED) {
        tracing::warn!(
            names = why.names,
            serial = why.serial,
            reason = why.reason.as_str(),
            detail = why.detail,
            last_seen = why.last_seen,
            "refused from now on"
        );
    }
}
