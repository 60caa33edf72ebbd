//! `CrlStatus`: the age of each revocation list, for readiness, metrics and alarms.

use crate::clock;

/// The age of a revocation list, compared with its thisUpdate and nextUpdate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// thisUpdate is in the future. The list cannot show yet that a certificate is not revoked.
    NotYet,
    /// Less than half of the time from thisUpdate to nextUpdate has passed.
    Fresh,
    /// At least half of the time from thisUpdate to nextUpdate has passed, but nextUpdate has not.
    /// An operator should check why there is no newer list.
    Due,
    /// nextUpdate has passed, but the grace period after it has not.
    Grace,
    /// nextUpdate and the grace period have passed. The list no longer shows that a certificate is
    /// not revoked.
    Stale,
}

impl Freshness {
    /// All states from best to worst. The state of lists that are not valid yet comes last.
    pub const ALL: [Self; 5] = [
        Self::Fresh,
        Self::Due,
        Self::Grace,
        Self::Stale,
        Self::NotYet,
    ];

    /// Returns the word used in metrics and by `countersign status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotYet => "not-yet",
            Self::Fresh => "fresh",
            Self::Due => "due",
            Self::Grace => "grace",
            Self::Stale => "stale",
        }
    }
}

/// One revocation list and its age, for readiness and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlStatus {
    /// SHA-256 hash of the list's DER.
    pub hash: [u8; 32],
    /// A description of the certificates that the list covers. `None` if the list covers all
    /// certificates of its issuer.
    pub covers: Option<&'static str>,
    /// The issuer's name in RFC 4514 form.
    pub issuer: String,
    /// cRLNumber in lower-case hexadecimal. `None` if the list has no number.
    pub number: Option<String>,
    /// thisUpdate in seconds since the Unix epoch.
    pub this_update: i64,
    /// nextUpdate in seconds since the Unix epoch. If the list has no nextUpdate, the time
    /// `max_age` after thisUpdate.
    pub next_update: i64,
    /// Number of certificates that the list revokes.
    pub entries: usize,
    /// Whether the signature of the list has been verified.
    pub verified: bool,
    /// The age of the list, compared with its thisUpdate and nextUpdate.
    pub freshness: Freshness,
}

impl CrlStatus {
    /// Returns an alarm for the operator. Returns `None` if the list is [`Freshness::Fresh`].
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        let until = clock::rfc3339(self.next_update);
        let says = match self.freshness {
            Freshness::Fresh => return None,
            Freshness::NotYet => format!(
                "is valid only from {} and not consulted before",
                clock::rfc3339(self.this_update)
            ),
            Freshness::Due => format!("is to be replaced by {until} and has not been"),
            Freshness::Grace => format!("was to be replaced by {until}; the grace period runs"),
            Freshness::Stale => format!("was to be replaced by {until} and is stale"),
        };
        Some(format!("{} {says}", self.title()))
    }

    /// Returns the name of the list for messages.
    #[must_use]
    pub fn title(&self) -> String {
        let name = match &self.number {
            Some(number) => format!("revocation list {number} of {}", self.issuer),
            None => format!(
                "revocation list without number, made at {}, of {}",
                clock::rfc3339(self.this_update),
                self.issuer
            ),
        };
        match self.covers {
            Some(covers) => format!("{name} ({covers})"),
            None => name,
        }
    }
}
