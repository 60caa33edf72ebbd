//! `DenyTarget`: the certificates or callers that a deny list entry refuses. Targets are
//! normalized, so equal targets have equal text.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Serialize};

use crate::identity::caller::CallerName;
use crate::identity::leaf::{is_rfc4514, significant};
use crate::identity::text::hex;

/// Maximum length in bytes of the text of a target, and of the reason of an entry.
pub(super) const MAX_TEXT: usize = 2048;

/// The certificates or callers that a deny list entry refuses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum DenyTarget {
    /// The leaf or intermediate certificate with this serial number and issuer. A root cannot be
    /// refused by serial number.
    Serial {
        /// Serial number in hexadecimal.
        serial: String,
        /// The issuer's name in RFC 4514 form, as in the audit log.
        issuer: String,
    },
    /// The leaf, intermediate or root certificate with this SHA-256 hash of its DER. An operator
    /// can write the hash in hexadecimal, or in base64url as in the audit log and in assertions.
    Thumbprint {
        /// The SHA-256 hash of the certificate.
        thumbprint: String,
    },
    /// The caller with this name, whatever certificate it presents.
    Identity {
        /// The caller's name, as in the `sub` of an assertion.
        identity: String,
    },
}

impl DenyTarget {
    /// Returns the name of the caller that the target names. Returns `None` if the target names a
    /// certificate.
    #[must_use]
    pub fn caller(&self) -> Option<CallerName> {
        match self {
            Self::Identity { identity } => caller(identity).ok(),
            Self::Serial { .. } | Self::Thumbprint { .. } => None,
        }
    }

    /// Converts the target to the spelling that look-ups use.
    pub(super) fn normal(self) -> Result<Self, String> {
        match self {
            Self::Serial { serial, issuer } => {
                if issuer.is_empty() || issuer.len() > MAX_TEXT {
                    return Err("a serial number needs its issuer (RFC 4514)".to_owned());
                }
                if !is_rfc4514(&issuer) {
                    return Err(
                        "no certificate has its issuer in this form: write it as audit lines and \
                         countersign pki inspect do, for example \"CN=example.org \
                         intermediate,O=Example\", without spaces around = and commas and with \
                         the most specific part first; or name the certificate by its thumbprint"
                            .to_owned(),
                    );
                }
                let bytes = unhex(&serial)
                    .filter(|bytes| !bytes.is_empty() && bytes.len() <= 64)
                    .ok_or("a serial number is hexadecimal")?;
                Ok(Self::Serial {
                    serial: hex(significant(&bytes)),
                    issuer,
                })
            }
            Self::Thumbprint { thumbprint } => {
                let bytes = match thumbprint.len() {
                    43 => Base64UrlUnpadded::decode_vec(&thumbprint).ok(),
                    _ => unhex(&thumbprint).filter(|_| digits(&thumbprint) == 64),
                };
                let bytes = bytes.filter(|bytes| bytes.len() == 32).ok_or(
                    "a thumbprint is a SHA-256 hash: 64 hexadecimal digits, or 43 characters \
                         of base64url",
                )?;
                Ok(Self::Thumbprint {
                    thumbprint: hex(&bytes),
                })
            }
            Self::Identity { identity } => Ok(Self::Identity {
                identity: caller(&identity)?.to_string(),
            }),
        }
    }
}

/// Parses a caller's name as it is printed in the audit log.
fn caller(text: &str) -> Result<CallerName, String> {
    if text
        .strip_prefix("client:")
        .is_some_and(|name| !name.contains('/'))
    {
        return Err(
            "after client: comes the name of a [[token_issuer]], a slash and the client's identifier"
                .to_owned(),
        );
    }
    CallerName::from_printed(text).map_err(|error| error.to_string())
}

/// Returns the number of characters of a hexadecimal text, without colons.
fn digits(text: &str) -> usize {
    text.chars().filter(|c| *c != ':').count()
}

/// Decodes a hexadecimal text, which may contain colons. If the number of digits is odd, a zero is
/// added before the first digit.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<Vec<u8>>>()?;
    let digits = if digits.len() % 2 == 1 {
        [&[0], digits.as_slice()].concat()
    } else {
        digits
    };
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect(),
    )
}
