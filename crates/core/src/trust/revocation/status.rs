//! `CrlStatus`: how far each list has come, for readiness, metrics and alarms.

use crate::clock;

/// The age of a list between its thisUpdate and its nextUpdate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The list is not valid yet, and is not used.
    NotYet,
    /// Less than half of the time to nextUpdate has passed.
    Fresh,
    /// More than half of that time has passed without a newer list. An operator should check why.
    Due,
    /// nextUpdate has passed; the grace period has not.
    Grace,
    /// nextUpdate and the grace period have passed. The list is no longer evidence of a status.
    Stale,
}

impl Freshness {
    /// All states from the best to the worst, then the state of lists that are not valid yet.
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

/// The state of one list, for readiness and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlStatus {
    /// The issuer's name, RFC 4514.
    pub issuer: String,
    /// cRLNumber, lower-case hexadecimal.
    pub number: String,
    /// thisUpdate in seconds since the Unix epoch.
    pub this_update: i64,
    /// nextUpdate in seconds since the Unix epoch.
    pub next_update: i64,
    /// Number of certificates that the list revokes.
    pub entries: usize,
    /// Whether the signature of the list has been verified.
    pub verified: bool,
    /// The age of the list.
    pub freshness: Freshness,
}

impl CrlStatus {
    /// Returns an alarm for the operator, if there is one.
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
        Some(format!(
            "revocation list {} of {} {says}",
            self.number, self.issuer
        ))
    }
}
