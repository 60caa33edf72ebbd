//! `RevokedCertificate`: which certificate is revoked, when, and for which reason.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::signatory::{AuthorityName, Generation, Signatory};

/// A revoked certificate, identified by its issuer and its serial number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedCertificate {
    /// Whether the root or the intermediate signed the certificate.
    pub issuer: AuthorityName,
    /// The generation of the authority that signed the certificate.
    #[serde(default, skip_serializing_if = "Generation::is_first")]
    pub generation: Generation,
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// The time of the revocation, in seconds since the Unix epoch.
    pub time: i64,
    /// The reason that the revocation list contains.
    pub reason: RevocationReason,
}

impl RevokedCertificate {
    /// Whether the authority `signatory` has signed the certificate.
    #[must_use]
    pub fn is_of(&self, signatory: Signatory) -> bool {
        self.issuer == signatory.name && self.generation == signatory.generation
    }
}

macro_rules! revocation_reasons {
    ($( $variant:ident = $word:literal, $meaning:literal; )+) => {
        /// The reason of a revocation (RFC 5280 section 5.3.1). `certificateHold` and
        /// `removeFromCRL` do not exist here, because a revocation cannot be undone.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum RevocationReason {
            $( #[doc = $meaning] $variant, )+
        }

        impl RevocationReason {
            /// All reasons that an operator can select.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// Returns the word that stands for the reason in options and files, for example
            /// `key-compromise`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }

            pub(super) const fn encoded(self) -> rcgen::RevocationReason {
                match self { $( Self::$variant => rcgen::RevocationReason::$variant, )+ }
            }
        }
    };
}

revocation_reasons! {
    Unspecified = "unspecified", "No reason is given.";
    KeyCompromise = "key-compromise", "The private key is known or suspected to have leaked.";
    CaCompromise = "ca-compromise", "An authority's private key has leaked.";
    AffiliationChanged = "affiliation-changed", "The holder's names have changed.";
    Superseded = "superseded", "Another certificate replaces this one.";
    CessationOfOperation = "cessation-of-operation", "The holder no longer exists.";
    PrivilegeWithdrawn = "privilege-withdrawn", "The holder lost the right to it.";
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The error for a word that is not a revocation reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the reasons are {}", RevocationReason::ALL.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(", "))]
pub struct UnknownReason;

impl FromStr for RevocationReason {
    type Err = UnknownReason;

    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == word)
            .ok_or(UnknownReason)
    }
}

/// Returns a serial number in lower-case hexadecimal, without leading zero bytes. `text` may
/// contain upper case, colons, spaces or `0x`. Returns `None` if it is not a serial number.
#[must_use]
pub fn normalized_serial(text: &str) -> Option<String> {
    let digits: String = text
        .trim()
        .trim_start_matches("0x")
        .trim_start_matches("0X")
        .chars()
        .filter(|c| !matches!(c, ':' | ' '))
        .collect();
    let digits = match digits.len() % 2 {
        0 => digits,
        _ => format!("0{digits}"),
    };
    let bytes = from_hex(&digits)?;
    let bytes = crate::identity::leaf::significant(&bytes);
    // RFC 5280 section 4.1.2.2: a serial number has at most 20 bytes.
    (!bytes.is_empty() && bytes.len() <= 20).then(|| crate::identity::text::hex(bytes))
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    (rest.is_empty() && !pairs.is_empty())
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reasons_read_as_they_print() {
        for reason in RevocationReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert_eq!(
                serde_json::to_string(reason).unwrap(),
                format!("{:?}", reason.as_str())
            );
        }
        assert_eq!("hold".parse::<RevocationReason>(), Err(UnknownReason));
    }

    #[test]
    fn serials_are_read_in_every_usual_form() {
        for text in ["0A0b", "a0b", "0x0A0B", "0a:0b", " 0A 0B ", "00:0a:0b"] {
            assert_eq!(normalized_serial(text).as_deref(), Some("0a0b"), "{text}");
        }
        for text in [
            "",
            "xyz",
            "0x",
            "é",
            "12345678901234567890123456789012345678901234",
        ] {
            assert_eq!(normalized_serial(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn serial_parsing_never_panics(text in ".{0,50}") {
            let _ = normalized_serial(&text);
        }

        #[test]
        fn hexadecimal_survives_a_round_trip(octets in proptest::collection::vec(any::<u8>(), 1..20)) {
            let text = crate::identity::text::hex(&octets);
            prop_assert_eq!(from_hex(&text), Some(octets));
        }
    }
}
