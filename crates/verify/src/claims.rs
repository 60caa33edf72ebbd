//! The claims of an assertion: the contract between gateway and services.
//!
//! The gateway's signer and [`AssertionVerifier`](crate::AssertionVerifier) share
//! these types. The fields have the same names and the same order as in the JSON.
//! This module does not decide whether an assertion is valid.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crypto;
use crate::jose::base64url_encode;

/// The name of the header field that contains the assertion. A request has exactly
/// one such field line, and its value is one compact JWS.
pub const HEADER: &str = "Countersign-Assertion";

/// [`HEADER`] in lower case, for HTTP libraries that require it.
pub const HEADER_LOWERCASE: &str = "countersign-assertion";

/// The value of `typ` in the JOSE header. This value distinguishes assertions from all other
/// tokens that an issuer may sign (RFC 8725 section 3.11).
pub const TYP: &str = "countersign+jwt";

/// The maximum length of an assertion that a verifier accepts, in bytes. Gateways send
/// assertions of at most 7 KiB, and of 4 KiB by default.
pub const MAX_ASSERTION_BYTES: usize = 8192;

/// The maximum time between `iat` and `exp`, in seconds.
pub const MAX_LIFETIME_SECONDS: u64 = 300;

/// The default time between `iat` and `exp`, in seconds.
pub const DEFAULT_LIFETIME_SECONDS: u64 = 30;

/// The maximum number of subject alternative names of one type in `client_cert.sans`. The
/// gateway leaves out further names (see [`ClientCertificate::sans_truncated`]).
pub const MAX_SANS_PER_TYPE: usize = 16;

/// The content of an assertion. The gateway states in it which caller sent which request to
/// which service, and when.
///
/// All times are whole seconds since 1970 (RFC 7519 section 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assertion {
    /// The gateway's issuer URL. A verifier compares this URL with the configured issuer byte by
    /// byte.
    pub iss: String,
    /// The audience: the only service that may accept the assertion.
    pub aud: String,
    /// The caller's name. If a certificate names the caller: the SPIFFE ID or other URI
    /// unchanged, or `dns:NAME`, `mailto:ADDRESS`, `ip:ADDRESS` or `upn:NAME@REALM`. Otherwise:
    /// `api-key:NAME` or `client:ISSUER-NAME/CLIENT_ID`. The subject of an access token is never the caller's name
    /// (see [`TokenClaims::sub`]).
    pub sub: String,
    /// The time at which the gateway signed the assertion.
    pub iat: u64,
    /// The expiry: the first second at which the assertion is not valid any more. The expiry is
    /// at most 300 s after `iat`.
    pub exp: u64,
    /// The unique identifier of the assertion: 128 random bits as 22 base64url
    /// characters. It is absent if the assertion is not bound to one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The transaction identifier (RFC 8417 section 2.2), for logs only. A service may send an
    /// assertion along when it calls another service through the gateway. With the setting
    /// `continue_transaction`, the assertion for that other service has the same `txn`. The
    /// identifier authenticates nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// The method of the forwarded request (the claim name is from RFC 9449 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htm: Option<String>,
    /// The URL of the forwarded request, without query. The scheme is always
    /// `https` and has no meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htu: Option<String>,
    /// The base64url SHA-256 of the query, which is the bytes after `?`. In a request-bound
    /// assertion, it is absent only if the request target has no `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htq: Option<String>,
    /// The base64url SHA-256 of the body. It is present if the gateway's route has the setting
    /// `bind_body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htb: Option<String>,
    /// The caller's certificate. Absent for callers without one, and if the gateway's route has
    /// the setting `assertion = "compact"`.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub client_cert: Option<ClientCertificate>,
    /// How the caller was authenticated.
    #[serde(deserialize_with = "object")]
    pub authn: Authentication,
    /// Claims of the access token. They are absent if the caller presented no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenClaims>,
}

/// The caller's leaf certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The base64url SHA-256 of the DER certificate, 43 characters (RFC 8705 section 3.1).
    #[serde(rename = "x5t#S256")]
    pub x5t_s256: String,
    /// The serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The issuer's distinguished name as text (RFC 4514). Empty if the gateway has left it out
    /// (see [`Self::issuer_truncated`]).
    pub issuer: String,
    /// The `notBefore` time of the certificate.
    pub not_before: u64,
    /// The `notAfter` time of the certificate.
    pub not_after: u64,
    /// Subject alternative names by type.
    #[serde(deserialize_with = "object")]
    pub sans: SubjectAlternativeNames,
    /// The base64url SHA-256 of the root certificate at the end of the certificate path.
    pub anchor: String,
    /// `true` if `sans` is not complete, because the certificate has more than
    /// [`MAX_SANS_PER_TYPE`] names of one type, or because the assertion would be too long. If
    /// the value is `false`, the JSON does not contain this member.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sans_truncated: bool,
    /// `true` if `issuer` was left out, because the assertion would be too long. If the value is
    /// `false`, the JSON does not contain this member.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub issuer_truncated: bool,
}

/// Subject alternative names (RFC 5280 section 4.2.1.6), written as in the certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectAlternativeNames {
    /// The names of type `uniformResourceIdentifier`.
    #[serde(default)]
    pub uri: Vec<String>,
    /// The names of type `dNSName`.
    #[serde(default)]
    pub dns: Vec<String>,
    /// The names of type `rfc822Name`.
    #[serde(default)]
    pub email: Vec<String>,
    /// The names of type `iPAddress`, as text.
    #[serde(default)]
    pub ip: Vec<String>,
}

/// How and when the gateway authenticated the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// The base64url SHA-256 of the DER certificate, if the gateway's route has the setting
    /// `assertion = "compact"`. There is no `client_cert` then.
    #[serde(default, rename = "x5t#S256", skip_serializing_if = "Option::is_none")]
    pub x5t_s256: Option<String>,
    /// All methods that the gateway used: `certificate`, `token`, `api-key`.
    pub methods: Vec<String>,
    /// The name of the trust domain whose roots verified the certificate. It is absent
    /// if the caller has no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The result of the revocation check. It is absent if the caller has no
    /// certificate.
    #[serde(
        default,
        deserialize_with = "optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub revocation: Option<Revocation>,
    /// The `thisUpdate` time of the CRL that the gateway checked. It is absent if the
    /// gateway checked no CRL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_this_update: Option<u64>,
    /// The time of authentication. For a certificate: when the caller last proved in a full TLS
    /// handshake that it has the private key. For other credentials: when the gateway checked
    /// the credential.
    pub at: u64,
    /// Whether the caller resumed an earlier TLS session. The handshake then did not prove again
    /// that the caller has the private key.
    pub resumed: bool,
}

/// How the gateway checked revocation when it admitted the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Revocation {
    /// The gateway checked the certificate against current CRLs.
    Checked,
    /// The revocation status was unknown, or the CRL was stale. The gateway admitted the caller
    /// nevertheless, because its setting is `revocation = "soft"`.
    Soft,
    /// The gateway did not check revocation.
    Off,
}

/// Selected claims of the access token that the caller presented.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The issuer of the token.
    pub iss: String,
    /// The subject of the token: the user on whose behalf the caller acts. [`Assertion::sub`]
    /// names the caller itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The OAuth client identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The granted scopes, separated by spaces (RFC 8693 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The unique identifier of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The base64url SHA-256 of the token (RFC 9449 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ath: Option<String>,
    /// Other claims of the token that the route is configured to pass on.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Assertion {
    /// Returns whether the assertion is bound to one request. An unbound assertion is
    /// valid for any request of its caller to its audience.
    #[must_use]
    pub const fn is_request_bound(&self) -> bool {
        self.htm.is_some() && self.htu.is_some() && self.jti.is_some()
    }

    /// Returns whether the gateway verified a certificate of the caller. Use this and not
    /// `client_cert` for the question: with the setting `assertion = "compact"`, assertions have
    /// no `client_cert`.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.authn
            .methods
            .iter()
            .any(|method| method == "certificate")
    }

    /// Returns the base64url SHA-256 of the caller's certificate (RFC 8705 section 3.1), from
    /// `client_cert` or from `authn`. Returns `None` if the caller has no certificate.
    #[must_use]
    pub fn certificate_thumbprint(&self) -> Option<&str> {
        let full = self.client_cert.as_ref().map(|leaf| leaf.x5t_s256.as_str());
        full.or(self.authn.x5t_s256.as_deref())
    }

    /// Returns whether the hash of `body` is equal to `htb`. Returns `None` if the assertion has
    /// no `htb`, because the assertion is then not bound to a body.
    #[must_use]
    pub fn matches_body(&self, body: &[u8]) -> Option<bool> {
        self.htb
            .as_ref()
            .map(|claim| crypto::constant_time_equal(claim.as_bytes(), hash(body).as_bytes()))
    }
}

/// Returns the base64url SHA-256 of `octets`, in the form that `htq` and `htb` use.
#[must_use]
pub fn hash(octets: &[u8]) -> String {
    base64url_encode(&crypto::sha256(octets))
}

/// A structure that is deserialized only from a JSON object. The implementation that serde derives
/// would also accept a JSON array of the values.
struct FromObject<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_map(MembersVisitor(PhantomData))
            .map(Self)
    }
}

struct MembersVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
    }
}

fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    FromObject::deserialize(deserializer).map(|FromObject(value)| value)
}

fn optional_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let value = Option::deserialize(deserializer)?;
    Ok(value.map(|FromObject(value)| value))
}

/// Deserializes an enumeration only from a JSON string. The implementation that serde derives would
/// also accept an object with one member.
fn optional_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| T::deserialize(text.into_deserializer()))
        .transpose()
}
