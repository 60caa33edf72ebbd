//! `PeerIdentity`: the identity of a peer that TLS has proved.

use std::sync::{Arc, OnceLock};

use super::caller::CallerName;
use super::leaf::LeafFacts;
use super::trust_domain::TrustDomain;

/// How the revocation status of a verified path was established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationCheck {
    /// Every certificate that the posture covers was looked up in a usable list.
    Checked,
    /// A list was missing or stale and the posture allowed that.
    Soft,
    /// The trust domain does not check revocation.
    Off,
}

impl RevocationCheck {
    /// Returns the word used in assertions and audit lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checked => "checked",
            Self::Soft => "soft",
            Self::Off => "off",
        }
    }
}

/// Identity of a peer whose certificate path was verified.
///
/// Built by [`crate::trust`] alone; its fields cannot be changed afterwards.
#[derive(Debug)]
pub struct PeerIdentity {
    caller: CallerName,
    trust_domain: TrustDomain,
    leaf: LeafFacts,
    anchor: [u8; 32],
    path_not_after: i64,
    revocation: RevocationCheck,
    crl_this_update: Option<i64>,
    memo: OnceLock<String>,
    audit_memo: OnceLock<String>,
}

/// The results of [`crate::trust`] from which a [`PeerIdentity`] is made.
#[derive(Debug)]
pub(crate) struct VerifiedPath {
    pub(crate) caller: CallerName,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) leaf: LeafFacts,
    pub(crate) anchor: [u8; 32],
    pub(crate) path_not_after: i64,
    pub(crate) revocation: RevocationCheck,
    pub(crate) crl_this_update: Option<i64>,
}

impl PeerIdentity {
    /// Must only be called by `trust`, after a path was verified. A test enforces this.
    pub(crate) fn from_verified(path: VerifiedPath) -> Arc<Self> {
        Arc::new(Self {
            caller: path.caller,
            trust_domain: path.trust_domain,
            leaf: path.leaf,
            anchor: path.anchor,
            path_not_after: path.path_not_after,
            revocation: path.revocation,
            crl_this_update: path.crl_this_update,
            memo: OnceLock::new(),
            audit_memo: OnceLock::new(),
        })
    }

    /// Returns the caller's one name.
    #[must_use]
    pub const fn caller(&self) -> &CallerName {
        &self.caller
    }

    /// Returns the trust domain under whose bundle the name was verified.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the facts of the leaf, which were verified together with the path.
    #[must_use]
    pub const fn leaf(&self) -> &LeafFacts {
        &self.leaf
    }

    /// SHA-256 of the root certificate at the end of the path.
    #[must_use]
    pub const fn anchor(&self) -> &[u8; 32] {
        &self.anchor
    }

    /// Earliest notAfter of the path, in seconds since the Unix epoch.
    #[must_use]
    pub const fn path_not_after(&self) -> i64 {
        self.path_not_after
    }

    /// Returns how the revocation status was established.
    #[must_use]
    pub const fn revocation(&self) -> RevocationCheck {
        self.revocation
    }

    /// thisUpdate of the oldest list consulted, in seconds since the Unix epoch.
    #[must_use]
    pub const fn crl_this_update(&self) -> Option<i64> {
        self.crl_this_update
    }

    /// Returns the text about this identity for assertions. Only the first call makes it, so every
    /// caller must pass the same function.
    pub(crate) fn memo(&self, make: fn(&Self) -> String) -> &str {
        self.memo.get_or_init(|| make(self))
    }

    /// Returns the text about this identity for audit lines. It is made once, as in [`Self::memo`].
    pub(crate) fn audit_memo(&self, make: fn(&Self) -> String) -> &str {
        self.audit_memo.get_or_init(|| make(self))
    }
}
