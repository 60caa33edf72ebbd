//! Keys for the test vectors. Their secrets are public: the secret of key N is the SHA-256 of the
//! text `countersign vectors N`.
//!
//! Signatures are deterministic (RFC 6979, RFC 8032), so that the generator always writes the same
//! bytes.

use countersign_verify::jose::base64url_encode;
use p256::ecdsa::signature::Signer;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

/// The key that signs most assertions.
pub(super) const CURRENT: Key = Key::new(Kind::P256, 1);
/// The Ed25519 key of the same gateway.
pub(super) const EDWARDS: Key = Key::new(Kind::Ed25519, 1);
/// The key that follows [`CURRENT`] in a rotation.
pub(super) const NEXT: Key = Key::new(Kind::P256, 2);
/// A key that no key set contains.
pub(super) const STRANGER: Key = Key::new(Kind::P256, 3);
/// A key that the verifier must not use. In each key set that contains this key, its JWK is changed
/// so that it is not usable.
pub(super) const UNUSABLE: Key = Key::new(Kind::P256, 4);

#[derive(Clone, Copy)]
pub(super) enum Kind {
    P256,
    Ed25519,
}

/// Identifies a key pair, which is computed again for each use.
#[derive(Clone, Copy)]
pub(super) struct Key {
    kind: Kind,
    number: u32,
}

impl Key {
    const fn new(kind: Kind, number: u32) -> Self {
        Self { kind, number }
    }

    /// Returns the secret: the Ed25519 seed, or the P-256 scalar. If the secret is not a valid
    /// scalar, [`Self::p256`] hashes it again.
    fn secret(self) -> [u8; 32] {
        sha256(format!("countersign vectors {}", self.number).as_bytes())
    }

    fn p256(self) -> p256::ecdsa::SigningKey {
        let mut scalar = self.secret();
        loop {
            match p256::ecdsa::SigningKey::from_slice(&scalar) {
                Ok(key) => return key,
                Err(_) => scalar = sha256(&scalar),
            }
        }
    }

    fn ed25519(self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.secret()).unwrap()
    }

    /// Returns the public key: a P-256 point as `04 ‖ x ‖ y`, or the 32 bytes of an Ed25519 key
    /// (RFC 8032).
    pub(super) fn public(self) -> Vec<u8> {
        match self.kind {
            Kind::P256 => {
                let point = self.p256().verifying_key().to_encoded_point(false);
                point.as_bytes().to_vec()
            }
            Kind::Ed25519 => self.ed25519().public_key().as_ref().to_vec(),
        }
    }

    pub(super) const fn algorithm(self) -> &'static str {
        match self.kind {
            Kind::P256 => "ES256",
            Kind::Ed25519 => "EdDSA",
        }
    }

    /// Returns the JSON text whose hash is the thumbprint (RFC 7638 section 3.2).
    fn canonical_json(self) -> String {
        let public = self.public();
        match self.kind {
            Kind::P256 => format!(
                r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
                base64url_encode(&public[1..33]),
                base64url_encode(&public[33..])
            ),
            Kind::Ed25519 => format!(
                r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
                base64url_encode(&public)
            ),
        }
    }

    /// Returns the `kid`, which is the thumbprint of the key (RFC 7638).
    pub(super) fn key_id(self) -> String {
        base64url_encode(&sha256(self.canonical_json().as_bytes()))
    }

    /// Returns the public key as a gateway publishes it.
    pub(super) fn jwk(self) -> Value {
        let mut jwk: Value = serde_json::from_str(&self.canonical_json()).unwrap();
        jwk["kid"] = json!(self.key_id());
        jwk["alg"] = json!(self.algorithm());
        jwk["use"] = json!("sig");
        jwk
    }

    /// Returns the header of an assertion that this key signs.
    pub(super) fn header(self) -> Value {
        json!({"alg": self.algorithm(), "kid": self.key_id(), "typ": "countersign+jwt"})
    }

    pub(super) fn sign(self, message: &str) -> Vec<u8> {
        match self.kind {
            Kind::P256 => {
                let signature: p256::ecdsa::Signature = self.p256().sign(message.as_bytes());
                signature.to_bytes().to_vec()
            }
            Kind::Ed25519 => self.ed25519().sign(message.as_bytes()).as_ref().to_vec(),
        }
    }

    /// Returns a token with a header and a payload, which need not be valid.
    pub(super) fn token(self, header: &[u8], payload: &[u8]) -> String {
        self.token_of_parts(&base64url_encode(header), &base64url_encode(payload))
    }

    /// Returns a token with an encoded header and an encoded payload. Their encoding need not be
    /// valid.
    pub(super) fn token_of_parts(self, header: &str, payload: &str) -> String {
        let input = format!("{header}.{payload}");
        format!("{input}.{}", base64url_encode(&self.sign(&input)))
    }
}

/// Returns a token with an HMAC instead of a signature.
pub(super) fn hmac_token(secret: &[u8], header: &str, payload: &str) -> String {
    let input = countersign_verify::jose::signing_input(header, payload);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    format!("{input}.{}", base64url_encode(tag.as_ref()))
}

pub(super) fn sha256(octets: &[u8]) -> [u8; 32] {
    digest(&SHA256, octets).as_ref().try_into().unwrap()
}

/// Returns the value of `htq` or `htb` for a query or a body.
pub(super) fn hash(octets: &[u8]) -> String {
    base64url_encode(&sha256(octets))
}

#[test]
fn signatures_are_those_of_rfc_6979() {
    // The example of RFC 6979 appendix A.2.5 for SHA-256 and the message "sample".
    let scalar = octets("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721");
    let key = p256::ecdsa::SigningKey::from_slice(&scalar).unwrap();
    let signature: p256::ecdsa::Signature = key.sign(b"sample");
    assert_eq!(
        signature.to_bytes().to_vec(),
        octets(
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716\
             F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"
        )
    );
}

/// Decodes hexadecimal digits.
pub(super) fn octets(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}
