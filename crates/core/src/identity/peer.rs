//! `PeerIdentity`: the identity of a peer that was verified in the TLS handshake.

use std::sync::{Arc, OnceLock};

use super::caller::CallerName;
use super::leaf::LeafFacts;
use super::trust_domain::TrustDomain;

/// How the revocation status of a verified path was established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationCheck {
    /// A usable revocation list shows for each checked certificate that it is not revoked.
    Checked,
    /// For at least one certificate, the revocation list is missing or stale. The configuration
    /// (`revocation = "soft"`) accepts this.
    Soft,
    /// The trust domain does not check revocation.
    Off,
}

impl RevocationCheck {
    /// Returns the word that stands for this value in assertions and audit lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checked => "checked",
            Self::Soft => "soft",
            Self::Off => "off",
        }
    }
}

/// The identity of a peer whose certificate path was verified.
///
/// Only [`crate::trust`] creates this type, and the fields cannot be changed.
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

/// The results of a verification in [`crate::trust`], from which a [`PeerIdentity`] is made.
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
    /// Creates the identity of a peer. Only [`crate::trust`] may call this function, after it has
    /// verified the path. A test enforces this rule.
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

    /// Returns the name of the caller.
    #[must_use]
    pub const fn caller(&self) -> &CallerName {
        &self.caller
    }

    /// Returns the trust domain to whose roots the certificate path leads.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the facts that the leaf certificate states. The certificate was verified.
    #[must_use]
    pub const fn leaf(&self) -> &LeafFacts {
        &self.leaf
    }

    /// Returns the SHA-256 hash of the root certificate at the end of the path.
    #[must_use]
    pub const fn anchor(&self) -> &[u8; 32] {
        &self.anchor
    }

    /// Returns the earliest notAfter of all certificates in the path, in seconds since the Unix
    /// epoch.
    #[must_use]
    pub const fn path_not_after(&self) -> i64 {
        self.path_not_after
    }

    /// Returns how the revocation status of the path was established.
    #[must_use]
    pub const fn revocation(&self) -> RevocationCheck {
        self.revocation
    }

    /// Returns thisUpdate of the oldest revocation list that was consulted, in seconds since the
    /// Unix epoch. Returns `None` if no list was consulted.
    #[must_use]
    pub const fn crl_this_update(&self) -> Option<i64> {
        self.crl_this_update
    }

    /// Returns the text about this identity in assertions. The first call computes the text with
    /// `make` and stores it. Later calls return the stored text, so each call must pass the same
    /// function.
    pub(crate) fn memo(&self, make: fn(&Self) -> String) -> &str {
        self.memo.get_or_init(|| make(self))
    }

    /// Returns the text about this identity in audit lines. Computes it once, in the same way as
    /// [`Self::memo`].
    pub(crate) fn audit_memo(&self, make: fn(&Self) -> String) -> &str {
        self.audit_memo.get_or_init(|| make(self))
    }
}
