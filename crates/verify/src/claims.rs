//! The claims of an assertion: the contract between gateway and services.
//!
//! The gateway's signer and [`AssertionVerifier`](crate::AssertionVerifier) share
//! these types. Fields have the same names as in the JSON, and are written in
//! this order. Nothing here decides whether an assertion is valid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crypto;
use crate::jose::base64url_encode;

/// The header field that contains the assertion: exactly one field line with one
/// compact JWS.
pub const HEADER: &str = "Countersign-Assertion";

/// [`HEADER`] in lower case, for HTTP libraries that require it.
pub const HEADER_LOWERCASE: &str = "countersign-assertion";

/// `typ` of the JOSE header. It distinguishes assertions from all other tokens
/// that an issuer may sign (RFC 8725 section 3.11).
pub const TYP: &str = "countersign+jwt";

/// Maximum length of an assertion, in bytes.
pub const MAX_ASSERTION_BYTES: usize = 4096;

/// Maximum time between `iat` and `exp`, in seconds.
pub const MAX_LIFETIME_SECONDS: u64 = 300;

/// Default time between `iat` and `exp`, in seconds.
pub const DEFAULT_LIFETIME_SECONDS: u64 = 30;

/// Maximum number of subject alternative names of one type in `client_cert.sans`.
pub const MAX_SANS_PER_TYPE: usize = 16;

/// The content of an assertion: the gateway confirms which caller sent which
/// request to which service, and when.
///
/// Times are whole seconds since 1970 (RFC 7519 section 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assertion {
    /// The gateway: its issuer URL, compared exactly.
    pub iss: String,
    /// The one service the assertion is for.
    pub aud: String,
    /// The caller. A SPIFFE ID or other URI verbatim, `dns:NAME`,
    /// `mailto:ADDRESS`, `ip:ADDRESS`; for callers without certificate
    /// `api-key:NAME` or `client:ISSUER-NAME/CLIENT_ID`. Never a token's subject.
    pub sub: String,
    /// When it was signed.
    pub iat: u64,
    /// From this second on it is not valid any more. At most 300 s after `iat`.
    pub exp: u64,
    /// Unique identifier: 128 random bits as 22 base64url characters. Absent if
    /// the assertion is not bound to one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Transaction identifier (RFC 8417 section 2.2). It is kept across hops if
    /// the route is configured to do so. It authenticates nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// The method of the forwarded request (name from RFC 9449 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htm: Option<String>,
    /// The URL of the forwarded request, without query. The scheme is always
    /// `https` and has no meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htu: Option<String>,
    /// base64url SHA-256 of the bytes after `?`. Absent only if there is no `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htq: Option<String>,
    /// base64url SHA-256 of the body, on routes with `bind_body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htb: Option<String>,
    /// The caller's certificate. Absent for callers without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<ClientCertificate>,
    /// How the caller was authenticated.
    pub authn: Authentication,
    /// Claims of the access token, if the caller presented one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenClaims>,
}

/// The caller's leaf certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// base64url SHA-256 of the DER, 43 characters (RFC 8705 section 3.1).
    #[serde(rename = "x5t#S256")]
    pub x5t_s256: String,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Issuer name, as text (RFC 4514).
    pub issuer: String,
    /// Start of validity.
    pub not_before: u64,
    /// End of validity.
    pub not_after: u64,
    /// Subject alternative names by type.
    pub sans: SubjectAlternativeNames,
    /// base64url SHA-256 of the root certificate of the path.
    pub anchor: String,
    /// `true` if a type had more than 16 names. Otherwise absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sans_truncated: bool,
}

/// Subject alternative names (RFC 5280 section 4.2.1.6), as in the certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectAlternativeNames {
    /// `uniformResourceIdentifier` names.
    #[serde(default)]
    pub uri: Vec<String>,
    /// `dNSName` names.
    #[serde(default)]
    pub dns: Vec<String>,
    /// `rfc822Name` names.
    #[serde(default)]
    pub email: Vec<String>,
    /// `iPAddress` names in text form.
    #[serde(default)]
    pub ip: Vec<String>,
}

/// How and when the caller was authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// All methods that were used: `certificate`, `token`, `api-key`.
    pub methods: Vec<String>,
    /// The trust domain that verified the certificate. Absent for callers without
    /// certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The result of the revocation check. Absent for callers without
    /// certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    /// `thisUpdate` of the list that was checked, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_this_update: Option<u64>,
    /// When the caller last proved that it has the key of its certificate or credential.
    pub at: u64,
    /// Whether the TLS session was resumed.
    pub resumed: bool,
}

/// How revocation was checked when the caller was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Revocation {
    /// Checked against current lists.
    Checked,
    /// The status was unknown or stale, which `revocation = "soft"` tolerates.
    Soft,
    /// Not checked.
    Off,
}

/// Selected claims of a token that accompanied the certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The token's issuer.
    pub iss: String,
    /// The token's subject: the user on whose behalf the caller acts. It is never
    /// the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The OAuth client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Granted scopes, separated by spaces (RFC 8693 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The token's identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// base64url SHA-256 of the token (RFC 9449 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ath: Option<String>,
    /// Further claims that the route passes on.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Assertion {
    /// Whether the assertion is for one request. Otherwise it is for any request
    /// of its caller to its audience.
    #[must_use]
    pub const fn is_request_bound(&self) -> bool {
        self.htm.is_some() && self.htu.is_some() && self.jti.is_some()
    }

    /// Compares a body with `htb`. `None` if the assertion has no `htb`, and
    /// therefore is not bound to a body.
    #[must_use]
    pub fn matches_body(&self, body: &[u8]) -> Option<bool> {
        self.htb
            .as_ref()
            .map(|claim| crypto::constant_time_equal(claim.as_bytes(), hash(body).as_bytes()))
    }
}

/// Computes the base64url SHA-256, as in `htq` and `htb`.
#[must_use]
pub fn hash(octets: &[u8]) -> String {
    base64url_encode(&crypto::sha256(octets))
}
