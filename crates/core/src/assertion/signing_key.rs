//! `SigningKey`: one assertion-signing key, ready to sign.
//!
//! The JOSE header is the same in all assertions of a key, so it is encoded only once. Key files
//! are read in `key_files`, and `key_ring` selects the key.

use std::fmt;

use countersign_verify::claims::TYP;
use countersign_verify::jose::{Jwk, base64url_encode};
use serde_json::{Value, json};

use crate::crypto::{KeyRefused, ProviderFailed, SignatureScheme, SigningKeyPair};

/// The algorithms that can sign assertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SigningAlgorithm {
    /// ECDSA with P-256 and SHA-256 (RFC 7518 section 3.4).
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    /// Both algorithms.
    pub const ALL: [Self; 2] = [Self::Es256, Self::EdDsa];

    /// Returns the JOSE name: `ES256` or `EdDSA`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Finds an algorithm by its JOSE name. Returns `None` if `name` names no such algorithm.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
    }

    /// Returns the signature scheme for the cryptography provider.
    #[must_use]
    pub const fn scheme(self) -> SignatureScheme {
        match self {
            Self::Es256 => SignatureScheme::EcdsaP256Sha256,
            Self::EdDsa => SignatureScheme::Ed25519,
        }
    }
}

impl fmt::Display for SigningAlgorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One assertion-signing key, with its public key and its JOSE header.
#[derive(Debug)]
pub struct SigningKey {
    kid: String,
    algorithm: SigningAlgorithm,
    header: String,
    public: Jwk,
    pair: SigningKeyPair,
}

impl SigningKey {
    /// Reads a key from PKCS#8 in DER.
    ///
    /// # Errors
    /// Returns [`KeyRefused`] if the key is damaged or is for another algorithm.
    pub fn from_pkcs8(algorithm: SigningAlgorithm, document: &[u8]) -> Result<Self, KeyRefused> {
        let pair = SigningKeyPair::from_pkcs8(algorithm.scheme(), document)?;
        let public = match algorithm {
            SigningAlgorithm::Es256 => {
                Jwk::from_p256_point(pair.public_key()).map_err(|_| KeyRefused)?
            }
            SigningAlgorithm::EdDsa => {
                Jwk::from_ed25519(pair.public_key().try_into().map_err(|_| KeyRefused)?)
            }
        };
        let kid = public.key_id().ok_or(KeyRefused)?.to_owned();
        // The header is in every assertion, and the order of its members should not depend on a
        // map. Therefore it is written as text, and not with `json!`.
        let header = format!(r#"{{"alg":"{algorithm}","kid":"{kid}","typ":"{TYP}"}}"#);
        Ok(Self {
            kid,
            algorithm,
            header: base64url_encode(header.as_bytes()),
            public,
            pair,
        })
    }

    /// Returns the key's RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the signature algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// Returns the JOSE header of all assertions of this key, encoded in base64url.
    #[must_use]
    pub fn header_base64url(&self) -> &str {
        &self.header
    }

    /// Returns the public key as JSON, as it is published.
    #[must_use]
    pub fn public_jwk(&self) -> Value {
        self.public.to_json()
    }

    /// Returns the public key.
    #[must_use]
    pub const fn public(&self) -> &Jwk {
        &self.public
    }

    /// Signs the JWS signing input. Returns `r ‖ s` (RFC 7518 section 3.4) or an Ed25519 signature.
    ///
    /// # Errors
    /// Returns [`ProviderFailed`] if the system provides no random bytes.
    pub fn sign(&self, signing_input: &[u8]) -> Result<[u8; 64], ProviderFailed> {
        self.pair.sign(signing_input)
    }
}

/// Returns a JWK Set (RFC 7517 section 5) with the public keys of `keys`.
pub(super) fn jwk_set<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> Value {
    let keys: Vec<Value> = keys.into_iter().map(SigningKey::public_jwk).collect();
    json!({ "keys": keys })
}

#[cfg(test)]
mod tests {
    use countersign_verify::jose::{CompactJws, JwkSet, MAX_TOKEN_BYTES};

    use super::*;

    fn new_key(algorithm: SigningAlgorithm) -> SigningKey {
        let document = SigningKeyPair::generate_pkcs8(algorithm.scheme()).unwrap();
        SigningKey::from_pkcs8(algorithm, document.expose()).unwrap()
    }

    #[test]
    fn names_are_those_of_jose() {
        for algorithm in SigningAlgorithm::ALL {
            assert_eq!(SigningAlgorithm::parse(algorithm.as_str()), Some(algorithm));
            assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.as_str());
        }
        assert_eq!(SigningAlgorithm::parse("es256"), None);
        assert_eq!(SigningAlgorithm::parse("none"), None);
    }

    #[test]
    fn what_it_signs_verifies_with_what_it_publishes() {
        for algorithm in SigningAlgorithm::ALL {
            let key = new_key(algorithm);
            let input = format!("{}.{}", key.header_base64url(), base64url_encode(b"{}"));
            let signature = base64url_encode(&key.sign(input.as_bytes()).unwrap());
            let token = format!("{input}.{signature}");
            let set = JwkSet::from_json(jwk_set([&key]).to_string().as_bytes()).unwrap();
            assert!(set.refused().is_empty());
            let jws = CompactJws::parse(&token, MAX_TOKEN_BYTES).unwrap();
            assert_eq!(jws.header().key_id(), Some(key.kid()));
            assert_eq!(jws.header().token_type(), Some(TYP));
            assert_eq!(jws.header().members().len(), 3);
            let public = set.key_for(jws.header()).unwrap();
            assert_eq!(jws.verify(public).unwrap(), b"{}");
            let other = JwkSet::from_json(jwk_set([&new_key(algorithm)]).to_string().as_bytes());
            assert!(other.unwrap().key_for(jws.header()).is_err());
        }
    }

    #[test]
    fn the_published_half_has_exactly_the_public_members() {
        for algorithm in SigningAlgorithm::ALL {
            for _ in 0..8 {
                let key = new_key(algorithm);
                let jwk = key.public_jwk();
                let mut members: Vec<&str> = jwk
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(String::as_str)
                    .collect();
                members.sort_unstable();
                let expected: &[&str] = match algorithm {
                    SigningAlgorithm::Es256 => &["alg", "crv", "kid", "kty", "use", "x", "y"],
                    SigningAlgorithm::EdDsa => &["alg", "crv", "kid", "kty", "use", "x"],
                };
                assert_eq!(members, expected);
                assert_eq!(jwk["use"], "sig");
                assert_eq!(jwk["alg"], algorithm.as_str());
                assert_eq!(jwk["kid"], key.kid());
            }
        }
    }
}
