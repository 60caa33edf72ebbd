//! Signing keys, signed assertions, and a clock that a test can set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_verify::jose::{Jwk, JwkSet, base64url_encode, signing_input};
use countersign_verify::{RequestParts, Verifier, VerifierBuilder, claims};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://gateway.example.org:9080";
pub(crate) const AUDIENCE: &str = "orders";
pub(crate) const NOW: u64 = 1_770_000_000;

/// A signing key like those of a gateway.
pub(crate) enum SigningKey {
    Es256(Box<EcdsaKeyPair>),
    EdDsa(Ed25519KeyPair),
}

impl SigningKey {
    pub(crate) fn es256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Es256(Box::new(
            EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap(),
        ))
    }

    pub(crate) fn ed_dsa() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::EdDsa(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    pub(crate) fn public(&self) -> Jwk {
        match self {
            Self::Es256(pair) => Jwk::from_p256_point(pair.public_key().as_ref()).unwrap(),
            Self::EdDsa(pair) => Jwk::from_ed25519(pair.public_key().as_ref().try_into().unwrap()),
        }
    }

    pub(crate) fn key_id(&self) -> String {
        self.public().key_id().unwrap().to_owned()
    }

    pub(crate) fn header(&self) -> Value {
        let algorithm = match self {
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        };
        json!({"alg": algorithm, "kid": self.key_id(), "typ": claims::TYP})
    }

    /// Signs a header and a payload, which need not be valid.
    pub(crate) fn sign(&self, header: &Value, payload: &str) -> String {
        let input = signing_input(&header.to_string(), payload);
        let signature = match self {
            Self::Es256(pair) => pair
                .sign(&SystemRandom::new(), input.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
            Self::EdDsa(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
        };
        format!("{input}.{}", base64url_encode(&signature))
    }

    /// Signs `claims` with a valid header.
    pub(crate) fn assertion(&self, claims: &Value) -> String {
        self.sign(&self.header(), &claims.to_string())
    }
}

/// Returns a set of the public keys of `keys`.
pub(crate) fn key_set(keys: &[&SigningKey]) -> JwkSet {
    keys.iter().map(|key| key.public()).collect()
}

/// Returns claims about `GET https://orders.example.org/orders/7`, signed at
/// [`NOW`].
pub(crate) fn request_claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "spiffe://example.org/ns/shop/sa/checkout",
        "iat": NOW,
        "exp": NOW + 30,
        "jti": "AAAAAAAAAAAAAAAAAAAAAA",
        "txn": "1f0c",
        "htm": "GET",
        "htu": "https://orders.example.org/orders/7",
        "client_cert": {
            "x5t#S256": "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0",
            "serial": "0a1b",
            "issuer": "CN=Example Issuing CA",
            "not_before": NOW - 300,
            "not_after": NOW + 86_100,
            "sans": {"uri": ["spiffe://example.org/ns/shop/sa/checkout"], "dns": [], "email": [], "ip": []},
            "anchor": "v68ffgcPn6jdYpBfFY2nP4ShE2Yk-6_Mk5PI9yh6aes"
        },
        "authn": {
            "methods": ["certificate"],
            "trust_domain": "example.org",
            "revocation": "checked",
            "crl_this_update": NOW - 3600,
            "at": NOW,
            "resumed": false
        }
    })
}

/// Returns claims of an assertion that is not bound to one request.
pub(crate) fn caller_claims() -> Value {
    without(request_claims(), &["jti", "txn", "htm", "htu"])
}

pub(crate) fn with(mut claims: Value, name: &str, value: impl Into<Value>) -> Value {
    claims[name] = value.into();
    claims
}

pub(crate) fn without(mut claims: Value, names: &[&str]) -> Value {
    for name in names {
        claims.as_object_mut().unwrap().remove(*name);
    }
    claims
}

/// Returns the request to which [`request_claims`] is bound.
pub(crate) fn request() -> RequestParts {
    RequestParts::new("GET", "orders.example.org", "/orders/7").unwrap()
}

/// A clock that tests can advance and set back.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW)))
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn set_back(&self, seconds: u64) {
        self.0.fetch_sub(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Returns a builder in which only the keys are missing. Its clock stays at [`NOW`].
pub(crate) fn builder() -> VerifierBuilder {
    builder_with_clock(&TestClock::new())
}

pub(crate) fn builder_with_clock(clock: &TestClock) -> VerifierBuilder {
    let clock = clock.clone();
    Verifier::builder()
        .issuer(ISSUER)
        .audience(AUDIENCE)
        .clock(move || clock.now())
}

pub(crate) fn verifier(key: &SigningKey) -> Verifier {
    builder().jwks(key_set(&[key])).build().unwrap()
}
