//! Certificate-bound tokens: compares a token's `cnf` with the client certificate of the connection
//! (RFC 8705 section 3).
//!
//! If any part of `cnf` cannot be checked, the token is refused. A bound token that is presented
//! without its certificate may be stolen.

use countersign_verify::jose::base64url_decode;
use serde_json::{Map, Value};

use crate::crypto;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// Whether an issuer's tokens must be bound to the caller's certificate. In all three cases, a
/// bound token is accepted only with its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateBinding {
    /// Unbound tokens are refused.
    Required,
    /// Unbound tokens and bound tokens are accepted.
    IfPresent,
    /// The issuer does not bind tokens. If a token is bound, the gateway checks the binding
    /// nevertheless.
    Off,
}

impl CertificateBinding {
    /// Returns the word used in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::IfPresent => "if-present",
            Self::Off => "off",
        }
    }

    /// Compares a token's `cnf` with the SHA-256 of the client certificate. Returns whether the
    /// token is bound.
    ///
    /// # Errors
    /// `token-unbound`, `token-binding-mismatch` or `token-malformed`.
    pub fn check(
        self,
        claims: &Map<String, Value>,
        thumbprint: Option<&[u8; 32]>,
    ) -> Result<bool, Denial> {
        let Some(confirmation) = claims.get("cnf") else {
            return match self {
                Self::Required => Err(Denial::new(
                    ReasonCode::TokenUnbound,
                    "it has no cnf and this issuer's tokens must be bound to a certificate",
                )),
                Self::IfPresent | Self::Off => Ok(false),
            };
        };
        let bound_to = certificate_of(confirmation)?;
        let thumbprint = thumbprint.ok_or_else(|| {
            Denial::new(
                ReasonCode::TokenBindingMismatch,
                "it is bound to a certificate and this connection has none",
            )
        })?;
        if crypto::constant_time_equal(&bound_to, thumbprint) {
            Ok(true)
        } else {
            Err(Denial::new(
                ReasonCode::TokenBindingMismatch,
                "it is bound to another certificate than this connection's",
            ))
        }
    }
}

/// Reads the certificate thumbprint from `cnf`. The thumbprint must have exactly 43 base64url
/// characters (RFC 8705 section 3.1). Hexadecimal, padded and SHA-1 values are refused.
fn certificate_of(confirmation: &Value) -> Result<Vec<u8>, Denial> {
    let malformed = |detail: &str| Denial::new(ReasonCode::TokenMalformed, detail);
    let Value::Object(methods) = confirmation else {
        return Err(malformed("its cnf is not an object"));
    };
    // A DPoP-bound token is never a bearer token, even if it is also bound to a certificate (RFC
    // 9449 section 7.1).
    if methods.contains_key("jkt") {
        return Err(Denial::new(
            ReasonCode::TokenBindingMismatch,
            "it is bound to a DPoP key and came without a DPoP proof",
        ));
    }
    match methods.get("x5t#S256") {
        Some(Value::String(text)) => base64url_decode(text, "x5t#S256")
            .ok()
            .filter(|bytes| bytes.len() == 32)
            .ok_or_else(|| malformed("its cnf has no well-formed x5t#S256")),
        Some(_) => Err(malformed("its cnf has no well-formed x5t#S256")),
        None => Err(Denial::new(
            ReasonCode::TokenBindingMismatch,
            "it is bound in a way that this gateway cannot check",
        )),
    }
}

#[cfg(test)]
mod tests {
    use countersign_verify::jose::base64url_encode;
    use serde_json::json;

    use super::*;

    const OURS: [u8; 32] = [7; 32];

    fn check(
        binding: CertificateBinding,
        cnf: Value,
        with: Option<&[u8; 32]>,
    ) -> Result<bool, ReasonCode> {
        let Value::Object(claims) = json!({ "cnf": cnf }) else {
            unreachable!()
        };
        binding.check(&claims, with).map_err(|denial| denial.reason)
    }

    #[test]
    fn bound_tokens_need_their_certificate_whatever_the_setting() {
        let bound = json!({"x5t#S256": base64url_encode(&OURS)});
        for binding in [
            CertificateBinding::Required,
            CertificateBinding::IfPresent,
            CertificateBinding::Off,
        ] {
            assert_eq!(check(binding, bound.clone(), Some(&OURS)), Ok(true));
            for other in [None, Some(&[8; 32])] {
                assert_eq!(
                    check(binding, bound.clone(), other),
                    Err(ReasonCode::TokenBindingMismatch)
                );
            }
        }
    }

    #[test]
    fn unbound_tokens_pass_only_where_that_is_said() {
        let none = Map::new();
        assert_eq!(
            CertificateBinding::Required
                .check(&none, Some(&OURS))
                .unwrap_err()
                .reason,
            ReasonCode::TokenUnbound
        );
        assert_eq!(CertificateBinding::IfPresent.check(&none, None), Ok(false));
        assert_eq!(CertificateBinding::Off.check(&none, Some(&OURS)), Ok(false));
    }

    #[test]
    fn what_cannot_be_checked_refuses() {
        let good = base64url_encode(&OURS);
        let hexadecimal = "07".repeat(32);
        for (cnf, reason) in [
            (json!(null), ReasonCode::TokenMalformed),
            (json!("x5t#S256"), ReasonCode::TokenMalformed),
            (json!([]), ReasonCode::TokenMalformed),
            (json!({}), ReasonCode::TokenBindingMismatch),
            (json!({"jwk": {}}), ReasonCode::TokenBindingMismatch),
            (json!({"x5t": good}), ReasonCode::TokenBindingMismatch),
            (json!({"jkt": good}), ReasonCode::TokenBindingMismatch),
            (
                json!({"x5t#S256": good, "jkt": good}),
                ReasonCode::TokenBindingMismatch,
            ),
            (json!({"x5t#S256": null}), ReasonCode::TokenMalformed),
            (json!({"x5t#S256": [good]}), ReasonCode::TokenMalformed),
            (json!({"x5t#S256": ""}), ReasonCode::TokenMalformed),
            (
                json!({"x5t#S256": format!("{good}=")}),
                ReasonCode::TokenMalformed,
            ),
            (json!({"x5t#S256": hexadecimal}), ReasonCode::TokenMalformed),
            // The example of RFC 8705 section 3.1 is not a valid hash: its last two bits are not
            // zero.
            (
                json!({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}),
                ReasonCode::TokenMalformed,
            ),
            (
                json!({"x5t#S256": base64url_encode(&OURS[..31])}),
                ReasonCode::TokenMalformed,
            ),
        ] {
            for binding in [CertificateBinding::Required, CertificateBinding::Off] {
                assert_eq!(
                    check(binding, cnf.clone(), Some(&OURS)),
                    Err(reason),
                    "{cnf}"
                );
            }
        }
    }
}
