//! `TrustRevision`: hashes of trust bundles, which show whether a reload changed them.

use std::fmt;
use std::sync::Arc;

use super::bundle::TrustBundle;
use super::certificate::purpose::PathPurpose;
use super::digest::Digest;
use crate::identity::text::hex;

/// Two hashes of the trust bundles that one server name accepts. If both hashes are the same after
/// a reload, these bundles decide about each chain as before the reload. Then no open connection
/// needs another check.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrustRevision {
    /// Hash of the bundles without their revocation lists: their certificates and all their rules.
    pub(super) trust_set: [u8; 32],
    /// Hash of the bundles' revocation lists.
    pub(super) crls: [u8; 32],
}

impl TrustRevision {
    /// Returns the hash of the bundles without their revocation lists: their certificates and all
    /// their rules.
    #[must_use]
    pub const fn trust_set(&self) -> &[u8; 32] {
        &self.trust_set
    }

    pub(super) fn of(bundles: &[Arc<TrustBundle>]) -> Self {
        let mut trust_set = Digest::new();
        let mut crls = Digest::new();
        trust_set.field(PathPurpose::Client.as_str().as_bytes());
        for bundle in bundles {
            bundle.describe(&mut trust_set);
            crls.field(bundle.revocation.digest());
        }
        Self {
            trust_set: trust_set.finish(),
            crls: crls.finish(),
        }
    }
}

impl fmt::Debug for TrustRevision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |hash: &[u8; 32]| hash.first_chunk::<8>().map(|first| hex(first));
        formatter
            .debug_struct("TrustRevision")
            .field("trust_set", &short(&self.trust_set))
            .field("crls", &short(&self.crls))
            .finish()
    }
}
