//! API keys, for callers that have no certificate.
//!
//! A key is `ck_ID_SECRET`. ID is a public identifier of 16 hexadecimal digits for logs and
//! look-ups. SECRET has 256 random bits. The configuration contains only an HMAC-SHA-256 of the
//! whole key, so a leaked configuration reveals no key. Because the secret has 256 random bits, a
//! slower hash is not needed. Keys are never forwarded to services.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use countersign_verify::jose::{base64url_decode, base64url_encode};
use http::HeaderName;
use ipnet::IpNet;

use super::authenticator::{Authenticator, Credentials, Outcome, RequestAddresses, Resource};
use super::beside::Beside;
use super::presented::Field;
use crate::crypto;
use crate::identity::{ApiKeyUse, CallerName, IdentityPattern, Method, Principal};
use crate::now_or_later::NowOrLater;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::secret::Secret;

/// The header field that carries a key by default.
pub const DEFAULT_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// The prefix of every key. Secret scanners can find keys by this prefix.
const PREFIX: &str = "ck_";
/// Length of the public identifier in bytes.
const ID_BYTES: usize = 8;
/// Length of every key: prefix, 16 digits, `_`, 43 characters.
const KEY_LENGTH: usize = PREFIX.len() + 2 * ID_BYTES + 1 + 43;

/// Minimum length in bytes of the HMAC key (RFC 2104 section 3).
pub const MIN_HMAC_KEY: usize = 32;

/// The stored form of a key: its HMAC-SHA-256, 43 characters in base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Parses the stored form: 43 base64url characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = base64url_decode(text, "hash").ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// Computes the digest of a presented key. `hmac_key` is the operator's HMAC key.
    fn of(hmac_key: &[u8], key: &str) -> Self {
        Self(crypto::hmac_sha256(hmac_key, key.as_bytes()))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&base64url_encode(&self.0))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyDigest")
    }
}

/// A new key. No other copy of the key exists.
#[derive(Debug)]
pub struct NewKey {
    /// The public identifier of the key.
    pub id: String,
    /// The key itself, which is shown only once.
    pub key: Secret,
    /// The digest to store in the configuration.
    pub digest: KeyDigest,
}

/// Creates a key. Its digest is computed with `hmac_key`.
///
/// # Errors
/// Returns an error if the system's random number generator fails.
pub fn generate(hmac_key: &[u8]) -> Result<NewKey, crypto::NoRandomness> {
    use fmt::Write as _;
    let mut id = String::with_capacity(2 * ID_BYTES);
    for byte in crypto::random::<ID_BYTES>()? {
        let _ = write!(id, "{byte:02x}");
    }
    let secret = zeroize::Zeroizing::new(crypto::random::<32>()?);
    let key = format!("{PREFIX}{id}_{}", base64url_encode(&*secret));
    let digest = KeyDigest::of(hmac_key, &key);
    Ok(NewKey {
        id,
        key: Secret::from(key),
        digest,
    })
}

/// One `[[api_key]]` of the configuration.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// The name of the key. The caller's name is `api-key:NAME`.
    pub name: String,
    /// The public identifier of the key.
    pub id: String,
    /// The stored digest of the key.
    pub digest: KeyDigest,
    /// When the key expires, in seconds since the Unix epoch. The key is refused from that second
    /// on.
    pub expires: Option<u64>,
    /// The routes that accept the key. If empty, all routes that accept API keys.
    pub routes: Vec<String>,
    /// The networks in which the caller's address must be. If empty, all networks.
    pub networks: Vec<IpNet>,
    /// The networks from which the TCP connection must come, whatever address a PROXY header names.
    /// If empty, all networks.
    pub connection_networks: Vec<IpNet>,
    /// Callers whose certificate the key may accompany. Empty if `callers` is not configured.
    pub callers: Vec<IdentityPattern>,
}

impl ApiKey {
    /// Whether `text` has the form of a key's public identifier.
    #[must_use]
    pub fn is_id(text: &str) -> bool {
        text.len() == 2 * ID_BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// Whether the key may be used on a route.
    fn is_for(&self, route: &str) -> bool {
        self.routes.is_empty() || self.routes.iter().any(|allowed| allowed == route)
    }
}

/// The error for two keys that have the same identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the API keys {first} and {second} have the same id")]
pub struct DuplicateId {
    /// The name of the earlier key.
    pub first: String,
    /// The name of the later key.
    pub second: String,
}

/// All configured API keys. `keys` finds them by their public identifiers.
pub struct ApiKeys {
    header: HeaderName,
    hmac_key: Secret,
    keys: HashMap<String, ApiKey>,
}

impl ApiKeys {
    /// Creates the set of the configured keys. Callers send a key in the field `header`. `hmac_key`
    /// is the secret with which the digests of `keys` were computed.
    ///
    /// # Errors
    /// [`DuplicateId`] if two keys have the same identifier.
    pub fn new(
        header: HeaderName,
        hmac_key: Secret,
        keys: impl IntoIterator<Item = ApiKey>,
    ) -> Result<Self, DuplicateId> {
        let mut by_id: HashMap<String, ApiKey> = HashMap::new();
        for key in keys {
            if let Some(first) = by_id.get(&key.id) {
                return Err(DuplicateId {
                    first: first.name.clone(),
                    second: key.name,
                });
            }
            by_id.insert(key.id.clone(), key);
        }
        Ok(Self {
            header,
            hmac_key,
            keys: by_id,
        })
    }

    /// Creates an empty set of keys.
    #[must_use]
    pub fn none(header: HeaderName) -> Self {
        Self {
            header,
            hmac_key: Secret::new(Vec::new()),
            keys: HashMap::new(),
        }
    }

    /// Returns the names of the keys.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.values().map(|key| key.name.as_str())
    }

    /// Returns the names of the keys that may be used on a route, sorted.
    #[must_use]
    pub fn names_on(&self, route: &str) -> Vec<&str> {
        let keys = self.keys.values().filter(|key| key.is_for(route));
        let mut names: Vec<&str> = keys.map(|key| key.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Returns the name of the header field that carries API keys. This field is never forwarded.
    #[must_use]
    pub const fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Finds the configured key for a presented one. Checks that the key may be used now, on this
    /// route and from these addresses.
    ///
    /// # Errors
    /// - `token-malformed` if the text is not an API key
    /// - `token-signature` if the identifier is unknown or the secret is wrong, so that callers
    ///   cannot distinguish the two cases
    /// - `token-expired` if the key has expired
    /// - `caller-not-allowed` if the key is for other routes or networks
    pub fn authenticate(
        &self,
        presented: &str,
        route: &str,
        addresses: RequestAddresses,
        now: u64,
    ) -> Result<&ApiKey, Denial> {
        let id = identifier(presented)
            .ok_or_else(|| Denial::new(ReasonCode::TokenMalformed, "it is not an API key"))?;
        let digest = KeyDigest::of(self.hmac_key.expose(), presented);
        let found = self.keys.get(id);
        // The comparison runs for an unknown identifier too. Otherwise the time of the response
        // would reveal whether the identifier exists.
        let stored = found.map_or(&[0; 32], |key| &key.digest.0);
        let good = crypto::constant_time_equal(stored, &digest.0);
        let Some(key) = found.filter(|_| good) else {
            return Err(Denial::new(
                ReasonCode::TokenSignature,
                "the API key is not known",
            ));
        };
        if key.expires.is_some_and(|expires| now >= expires) {
            return Err(Denial::new(
                ReasonCode::TokenExpired,
                format!("the API key {id} has expired"),
            ));
        }
        if !key.is_for(route) {
            return Err(Denial::new(
                ReasonCode::CallerNotAllowed,
                format!("the API key {id} is not for this route"),
            ));
        }
        let is_from = |networks: &[IpNet], address: Option<IpAddr>| {
            let address = address.map(|address| address.to_canonical());
            let contains = |network: &IpNet| address.is_some_and(|ip| network.contains(&ip));
            networks.is_empty() || networks.iter().any(contains)
        };
        if !is_from(&key.networks, addresses.caller)
            || !is_from(&key.connection_networks, Some(addresses.connection))
        {
            return Err(Denial::new(
                ReasonCode::CallerNotAllowed,
                format!("the API key {id} is not for this network"),
            ));
        }
        Ok(key)
    }
}

/// Prints only names. The keys and the HMAC key must not appear in logs.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_set()
            .entries(self.keys.values().map(|key| &key.name))
            .finish()
    }
}

/// Returns the API key in the field of a request. Returns `None` if the field is absent.
///
/// # Errors
/// `malformed-request` if the request has several API keys.
pub fn presented(field: &Field) -> Result<Option<&str>, Denial> {
    let refused = |detail: &str| Denial::new(ReasonCode::MalformedRequest, detail);
    match field {
        Field::Absent => Ok(None),
        Field::Several => Err(refused("there is more than one API key")),
        Field::One(value) => value
            .to_str()
            .map(Some)
            .map_err(|_| refused("the API key is not text")),
    }
}

/// Authenticates the requests of one route by API keys.
#[derive(Debug)]
pub struct ApiKeyAuthenticator {
    /// All configured keys.
    pub keys: Arc<ApiKeys>,
    /// The name of the route.
    pub route: String,
    /// How the route treats the certificate of the connection.
    pub beside: Beside,
}

impl ApiKeyAuthenticator {
    fn judge(&self, credentials: &Credentials<'_>) -> Result<Option<Principal>, Denial> {
        let Some(presented) = presented(&credentials.presented.api_key)? else {
            return Ok(None);
        };
        let (addresses, now) = (credentials.addresses, credentials.now);
        let key = self
            .keys
            .authenticate(presented, &self.route, addresses, now)?;
        let used = ApiKeyUse {
            name: key.name.as_str().into(),
            id: key.id.as_str().into(),
            expires: key.expires,
        };
        let Some(proof) = self.beside.certificate(credentials.proof) else {
            let name = CallerName::from_api_key(&key.name)
                .map_err(|error| Denial::new(ReasonCode::CallerNotAllowed, error.to_string()))?;
            return Ok(Some(Principal::named(name, now).with_api_key(used)));
        };
        let caller = proof.identity.caller();
        let fits = match self.beside {
            // If the route requires a certificate too, a key without `callers` may accompany any
            // certificate. In all other cases, a pattern in `callers` must match the caller that
            // the certificate names.
            Beside::Demanded if key.callers.is_empty() => true,
            _ => key.callers.iter().any(|pattern| pattern.matches(caller)),
        };
        if fits {
            Ok(Some(proof.principal().with_api_key(used)))
        } else {
            Err(Denial::new(
                ReasonCode::CallerNotAllowed,
                format!("the API key {} is not for {caller}", key.id),
            ))
        }
    }

    fn outcome(&self, credentials: &Credentials<'_>) -> Outcome {
        match self.judge(credentials) {
            Ok(Some(principal)) => Outcome::Authenticated(principal),
            Ok(None) => Outcome::NotApplicable,
            Err(denial) => Outcome::Denied(denial),
        }
    }
}

impl Authenticator for ApiKeyAuthenticator {
    fn method(&self) -> Method {
        Method::ApiKey
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> NowOrLater<'a, Outcome> {
        NowOrLater::Now(self.outcome(credentials))
    }

    fn recheck(&self, credentials: &Credentials<'_>, _: &Principal, _: bool) -> Outcome {
        self.outcome(credentials)
    }

    /// Returns a constant, because `recheck` can always check an API key completely, even if the
    /// rules have changed.
    fn rules(&self) -> [u8; 32] {
        [0; 32]
    }

    /// Returns a challenge with the scheme `ApiKey`, which is not registered with IANA. It contains
    /// the name of the header field, which is all that the caller needs.
    fn challenge(&self, _: ReasonCode, _: &Resource<'_>) -> Option<String> {
        Some(format!("ApiKey header=\"{}\"", self.keys.header))
    }
}

/// Returns the public identifier in a key, if the key has the right form.
fn identifier(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let good = key.len() == KEY_LENGTH
        && ApiKey::is_id(id)
        && base64url_decode(secret, "secret").is_ok_and(|bytes| bytes.len() == 32);
    good.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_770_000_000;
    const HMAC: &[u8] = b"operator's own";

    fn with(
        hmac_key: &[u8],
        keys: impl IntoIterator<Item = ApiKey>,
    ) -> Result<ApiKeys, DuplicateId> {
        ApiKeys::new(DEFAULT_HEADER, Secret::new(hmac_key.to_vec()), keys)
    }

    fn made() -> (ApiKeys, String) {
        let new = generate(HMAC).unwrap();
        let text = String::from_utf8(new.key.expose().to_vec()).unwrap();
        let key = ApiKey {
            name: "batch".to_owned(),
            id: new.id,
            digest: KeyDigest::parse(&new.digest.to_string()).unwrap(),
            expires: Some(NOW + 10),
            routes: vec!["orders".to_owned()],
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            connection_networks: vec!["192.0.2.0/24".parse().unwrap()],
            callers: Vec::new(),
        };
        let keys = with(HMAC, [key]).unwrap();
        (keys, text)
    }

    fn ask(
        keys: &ApiKeys,
        key: &str,
        route: &str,
        address: &str,
        now: u64,
    ) -> Result<String, ReasonCode> {
        let connection = IpAddr::from([192, 0, 2, 9]);
        ask_through(
            keys,
            key,
            route,
            [address.parse().unwrap(), connection],
            now,
        )
    }

    fn ask_through(
        keys: &ApiKeys,
        key: &str,
        route: &str,
        [caller, connection]: [IpAddr; 2],
        now: u64,
    ) -> Result<String, ReasonCode> {
        let addresses = RequestAddresses {
            caller: Some(caller),
            connection,
        };
        keys.authenticate(key, route, addresses, now)
            .map(|key| key.name.clone())
            .map_err(|denial| denial.reason)
    }

    #[test]
    fn a_key_is_good_for_its_route_network_and_time() {
        let (keys, key) = made();
        let good = Ok("batch".to_owned());
        assert_eq!(ask(&keys, &key, "orders", "10.1.2.3", NOW), good);
        assert_eq!(ask(&keys, &key, "orders", "::ffff:10.1.2.3", NOW), good);
        let not_allowed = Err(ReasonCode::CallerNotAllowed);
        assert_eq!(ask(&keys, &key, "payments", "10.1.2.3", NOW), not_allowed);
        assert_eq!(ask(&keys, &key, "orders", "192.0.2.1", NOW), not_allowed);
        let caller = IpAddr::from([10, 1, 2, 3]);
        for (connection, expected) in [
            ("192.0.2.1", &good),
            ("::ffff:192.0.2.1", &good),
            ("10.1.2.3", &not_allowed),
        ] {
            let addresses = [caller, connection.parse().unwrap()];
            let asked = ask_through(&keys, &key, "orders", addresses, NOW);
            assert_eq!(asked, *expected, "{connection}");
        }
        let unknown = RequestAddresses {
            caller: None,
            connection: IpAddr::from([192, 0, 2, 1]),
        };
        let refused = keys.authenticate(&key, "orders", unknown, NOW).unwrap_err();
        assert_eq!(refused.reason, ReasonCode::CallerNotAllowed);
        assert_eq!(
            ask(&keys, &key, "orders", "10.1.2.3", NOW + 10),
            Err(ReasonCode::TokenExpired)
        );
    }

    #[test]
    fn other_keys_are_refused_alike() {
        let (keys, key) = made();
        let (_, stranger) = made();
        let last = if key.ends_with('A') { 'E' } else { 'A' };
        let mut wrong = key.clone();
        wrong.pop();
        wrong.push(last);
        for other in [stranger, wrong] {
            let addresses = RequestAddresses {
                caller: Some(IpAddr::from([10, 0, 0, 1])),
                connection: IpAddr::from([192, 0, 2, 9]),
            };
            let refused = keys
                .authenticate(&other, "orders", addresses, NOW)
                .unwrap_err();
            assert_eq!(refused.reason, ReasonCode::TokenSignature);
            assert_eq!(refused.detail, "the API key is not known");
        }
        for malformed in [
            "",
            "ck_",
            "ck__",
            "ck_0_a",
            &key.to_uppercase(),
            key.trim_start_matches('c'),
            &format!("{key}="),
        ] {
            let refused = ask(&keys, malformed, "orders", "10.0.0.1", NOW);
            assert_eq!(refused, Err(ReasonCode::TokenMalformed), "{malformed}");
        }
        let elsewhere = with(b"other", keys.keys.into_values()).unwrap();
        let refused = ask(&elsewhere, &key, "orders", "10.0.0.1", NOW);
        assert_eq!(refused, Err(ReasonCode::TokenSignature));
    }

    #[test]
    fn keys_are_new_each_time_and_shown_nowhere() {
        let (keys, key) = made();
        assert_ne!(made().1, key);
        assert_eq!(key.len(), KEY_LENGTH);
        let (_, secret) = key.split_at(KEY_LENGTH - 43);
        assert!(!format!("{keys:?}{:?}", keys.keys).contains(secret));
        assert!(!format!("{:?}", generate(HMAC).unwrap()).contains("ck_"));
    }

    #[test]
    fn identifiers_are_unique_and_fields_single() {
        let (keys, key) = made();
        let one = keys.keys.values().next().unwrap().clone();
        let two = ApiKey {
            name: "other".to_owned(),
            ..one.clone()
        };
        assert!(with(b"", [one, two]).is_err());
        let mut headers = http::HeaderMap::new();
        let mut field = |times: usize| {
            for _ in 0..times {
                headers.append(DEFAULT_HEADER, key.parse().unwrap());
            }
            Field::take(&mut headers, &DEFAULT_HEADER)
        };
        assert_eq!(presented(&field(0)), Ok(None));
        assert_eq!(presented(&field(1)), Ok(Some(key.as_str())));
        assert!(presented(&field(2)).is_err());
    }
}
