//! `DenyTarget`: the certificates or callers that an entry of the deny list refuses, in one
//! spelling.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Serialize};

use crate::identity::caller::CallerName;
use crate::identity::leaf::{is_rfc4514, significant};
use crate::identity::text::hex;

/// Longest text of a target or a reason, in bytes.
pub(super) const MAX_TEXT: usize = 2048;

/// The certificates or callers that an entry refuses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum DenyTarget {
    /// One certificate, leaf or intermediate, by serial number and issuer. A root cannot be denied
    /// this way.
    Serial {
        /// Serial number in hexadecimal.
        serial: String,
        /// The issuer in the form of RFC 4514, as in the audit log.
        issuer: String,
    },
    /// One certificate, leaf, intermediate or root, by the SHA-256 of its encoding: in hexadecimal,
    /// or in base64url as in the audit log and in assertions.
    Thumbprint {
        /// The hash.
        thumbprint: String,
    },
    /// Every certificate of one caller.
    Identity {
        /// The name as an assertion's `sub` has it.
        identity: String,
    },
}

impl DenyTarget {
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

/// Reads a caller's printed form.
fn caller(text: &str) -> Result<CallerName, String> {
    let name = if let Some(name) = text.strip_prefix("dns:") {
        CallerName::from_dns(name)
    } else if let Some(address) = text.strip_prefix("mailto:") {
        CallerName::from_email(address)
    } else if let Some(address) = text.strip_prefix("ip:") {
        return address
            .parse()
            .map(CallerName::Ip)
            .map_err(|_| "after ip: comes an address".to_owned());
    } else {
        CallerName::from_uri(text)
    };
    name.map_err(|error| error.to_string())
}

/// Counts the digits; colons do not count.
fn digits(text: &str) -> usize {
    text.chars().filter(|c| *c != ':').count()
}

/// Reads bytes from hexadecimal digits, with or without colons. With an odd number of digits, the
/// first digit is a separate byte.
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
