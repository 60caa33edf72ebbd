//! The claims of an assertion: the contract between gateway and services.
//!
//! The gateway's signer and [`AssertionVerifier`](crate::AssertionVerifier)
//! share these types. Fields carry the names they have on the wire; the order
//! of the fields is the order in which they are written. Nothing here decides
//! whether an assertion is valid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crypto;
use crate::jose::base64url_encode;

/// The header field that carries the assertion: exactly one field line with
/// one compact JWS.
pub const HEADER: &str = "Countersign-Assertion";

/// [`HEADER`] in lower case, as HTTP libraries want it.
pub const HEADER_LOWERCASE: &str = "countersign-assertion";

/// `typ` of the JOSE header. It keeps assertions apart from every other token
/// an issuer may sign (RFC 8725 section 3.11).
pub const TYP: &str = "countersign+jwt";

/// The longest assertion, in octets.
pub const MAX_ASSERTION_BYTES: usize = 4096;

/// The longest time between `iat` and `exp`, in seconds.
pub const MAX_LIFETIME_SECONDS: u64 = 300;

/// The usual time between `iat` and `exp`, in seconds.
pub const DEFAULT_LIFETIME_SECONDS: u64 = 30;

/// The most subject alternative names of one type in `client_cert.sans`.
pub const MAX_SANS_PER_TYPE: usize = 16;

/// What the gateway vouches for: who asked for this request, of whom, when.
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
    /// From this second on it is no longer valid; at most 300 s after `iat`.
    pub exp: u64,
    /// Unique identifier, 128 random bits as 22 base64url characters. Absent
    /// from assertions that are not bound to one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Transaction identifier, kept across hops where the route says so
    /// (RFC 8417 section 2.2). It authenticates nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// The request's method, as forwarded (name from RFC 9449 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htm: Option<String>,
    /// The request's URL as forwarded, without query; the scheme is always
    /// `https` and means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htu: Option<String>,
    /// base64url SHA-256 of the octets after `?`; absent only without `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htq: Option<String>,
    /// base64url SHA-256 of the body, on routes where the gateway buffers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htb: Option<String>,
    /// The caller's certificate; absent for callers without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<ClientCertificate>,
    /// How the caller was authenticated.
    pub authn: Authentication,
    /// What a token beside the certificate said, if one was presented.
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
    /// Issuer name as a RFC 4514 text.
    pub issuer: String,
    /// Start of validity.
    pub not_before: u64,
    /// End of validity.
    pub not_after: u64,
    /// Subject alternative names by type.
    pub sans: SubjectAlternativeNames,
    /// base64url SHA-256 of the root certificate the path ends in.
    pub anchor: String,
    /// `true` when a type had more than 16 names; absent otherwise.
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
    /// `certificate`, `token`, `api-key`: all that were used.
    pub methods: Vec<String>,
    /// The trust domain that vouched; absent for callers without certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// What revocation checking can say; absent for callers without certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    /// `thisUpdate` of the list that was checked, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_this_update: Option<u64>,
    /// When the certificate path was last verified.
    pub at: u64,
    /// Whether the TLS session was resumed.
    pub resumed: bool,
}

/// The revocation posture that admitted the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Revocation {
    /// Checked against current lists.
    Checked,
    /// Unknown or stale lists were tolerated.
    Soft,
    /// Not checked.
    Off,
}

/// Selected claims of a token that accompanied the certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The token's issuer.
    pub iss: String,
    /// The token's subject: on whose behalf, never who called.
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
    /// Whether the assertion is for one request, rather than for any request of
    /// its caller to its audience.
    #[must_use]
    pub const fn is_request_bound(&self) -> bool {
        self.htm.is_some() && self.htu.is_some() && self.jti.is_some()
    }

    /// Compares a body with `htb`: `None` when the assertion has no `htb` and
    /// so says nothing about the body.
    #[must_use]
    pub fn matches_body(&self, body: &[u8]) -> Option<bool> {
        self.htb
            .as_ref()
            .map(|claim| crypto::constant_time_equal(claim.as_bytes(), hash(body).as_bytes()))
    }
}

/// base64url SHA-256: the form of `htq` and `htb`.
#[must_use]
pub fn hash(octets: &[u8]) -> String {
    base64url_encode(&crypto::sha256(octets))
}
