//! One public key as a JSON Web Key (RFC 7517, RFC 7518 section 6, RFC 8037).

use serde_json::{Map, Value, json};

use super::jws::text_member;
use super::{Algorithm, JoseError, base64url_decode, base64url_encode, json as strict_json};
use crate::crypto::{self, Scheme};

/// Members that only private keys have (RFC 7518 section 6). The member `k` of symmetric keys is
/// not in this list, because it causes [`JoseError::SymmetricKey`].
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// A public key that can verify signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    material: Material,
    key_id: Option<String>,
    /// The `alg` member, which is the only algorithm that the key permits.
    algorithm: Option<Algorithm>,
}

/// The key material. EC keys are uncompressed SEC 1 points (`04 ‖ x ‖ y`).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
    #[cfg(feature = "all-algorithms")]
    P384(Vec<u8>),
    #[cfg(feature = "all-algorithms")]
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

impl Jwk {
    /// Parses one key from its JSON text.
    ///
    /// # Errors
    ///
    /// [`JoseError::SymmetricKey`] or [`JoseError::PrivateKey`] if the key is not a public key.
    /// [`JoseError::UnsupportedKey`] if this build cannot verify signatures with the key's type,
    /// curve, algorithm or use. [`JoseError::WeakKey`], [`JoseError::Member`] or
    /// [`JoseError::Base64Url`] if the key is invalid.
    pub fn from_json(text: &[u8]) -> Result<Self, JoseError> {
        Self::from_members(&strict_json::parse_object(text, "key")?)
    }

    /// Makes a P-256 key from an uncompressed SEC 1 point: 65 bytes, `04 ‖ x ‖ y`.
    ///
    /// # Errors
    ///
    /// [`JoseError::Member`] if the bytes do not have this form.
    pub fn from_p256_point(point: &[u8]) -> Result<Self, JoseError> {
        if point.len() != 65 || point.first() != Some(&4) {
            return Err(JoseError::Member { member: "x" });
        }
        Ok(Self::named(
            Material::P256(point.to_vec()),
            Algorithm::Es256,
        ))
    }

    /// Makes an Ed25519 key from the 32 bytes of the public key (RFC 8032 section 5.1.5).
    #[must_use]
    pub fn from_ed25519(octets: &[u8; 32]) -> Self {
        Self::named(Material::Ed25519(octets.to_vec()), Algorithm::EdDsa)
    }

    /// Returns the `kid` member.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Returns whether `key_id` names this key. It must be the `kid` of the key, or the
    /// thumbprint if the key has no `kid`.
    #[must_use]
    pub fn is_named(&self, key_id: &str) -> bool {
        match &self.key_id {
            Some(own) => own == key_id,
            None => super::thumbprint(self) == key_id,
        }
    }

    /// Returns the `alg` member, or the only algorithm that the key's type allows. Returns
    /// `None` for an RSA key without `alg`.
    #[must_use]
    pub const fn algorithm(&self) -> Option<Algorithm> {
        match (self.algorithm, &self.material) {
            (Some(algorithm), _) => Some(algorithm),
            (None, Material::P256(_)) => Some(Algorithm::Es256),
            (None, Material::Ed25519(_)) => Some(Algorithm::EdDsa),
            #[cfg(feature = "all-algorithms")]
            (None, Material::P384(_)) => Some(Algorithm::Es384),
            #[cfg(feature = "all-algorithms")]
            (None, Material::Rsa { .. }) => None,
        }
    }

    /// Returns whether the key may verify tokens with this algorithm (RFC 8725 section 3.1).
    #[must_use]
    pub fn permits(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.material.fits(algorithm)
    }

    /// Returns the key as a public JWK: `kty` and the members of this key type, `kid`, `use` =
    /// `sig`, and `alg` if the key permits only one algorithm.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = match &self.material {
            Material::P256(point) => elliptic_curve_members("P-256", point),
            Material::Ed25519(octets) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url_encode(octets)})
            }
            #[cfg(feature = "all-algorithms")]
            Material::P384(point) => elliptic_curve_members("P-384", point),
            #[cfg(feature = "all-algorithms")]
            Material::Rsa { modulus, exponent } => {
                json!({"kty": "RSA", "n": base64url_encode(modulus), "e": base64url_encode(exponent)})
            }
        };
        if let Value::Object(members) = &mut members {
            members.insert("use".to_owned(), json!("sig"));
            if let Some(key_id) = &self.key_id {
                members.insert("kid".to_owned(), json!(key_id));
            }
            if let Some(algorithm) = self.algorithm() {
                members.insert("alg".to_owned(), json!(algorithm.name()));
            }
        }
        members
    }

    /// Returns the JSON text whose hash is the thumbprint: only the required members,
    /// sorted, without spaces (RFC 7638 section 3.2, RFC 8037 section 2).
    pub(super) fn canonical_json(&self) -> String {
        // Curve names and base64url text need no escapes in JSON.
        match &self.material {
            Material::P256(point) => canonical_elliptic_curve("P-256", point),
            Material::Ed25519(octets) => format!(
                r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
                base64url_encode(octets)
            ),
            #[cfg(feature = "all-algorithms")]
            Material::P384(point) => canonical_elliptic_curve("P-384", point),
            #[cfg(feature = "all-algorithms")]
            Material::Rsa { modulus, exponent } => format!(
                r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
                base64url_encode(exponent),
                base64url_encode(modulus)
            ),
        }
    }

    pub(super) fn from_members(members: &Map<String, Value>) -> Result<Self, JoseError> {
        let key_type = text_member(members, "kty")?.ok_or(JoseError::Member { member: "kty" })?;
        if key_type == "oct" || members.contains_key("k") {
            return Err(JoseError::SymmetricKey);
        }
        if PRIVATE_MEMBERS
            .iter()
            .any(|name| members.contains_key(*name))
        {
            return Err(JoseError::PrivateKey);
        }
        require_verification_use(members)?;
        let algorithm = match text_member(members, "alg")? {
            None => None,
            Some(name) => Some(Algorithm::from_name(name).ok_or(JoseError::UnsupportedKey)?),
        };
        let material = match key_type {
            "EC" => elliptic_curve(members)?,
            "OKP" => octet_key_pair(members)?,
            #[cfg(feature = "all-algorithms")]
            "RSA" => {
                let (modulus, exponent) = (octets(members, "n")?, octets(members, "e")?);
                super::rsa::refuse_weak_key(&modulus, &exponent)?;
                Material::Rsa { modulus, exponent }
            }
            _ => return Err(JoseError::UnsupportedKey),
        };
        if algorithm.is_some_and(|algorithm| !material.fits(algorithm)) {
            return Err(JoseError::UnsupportedKey);
        }
        Ok(Self {
            material,
            key_id: text_member(members, "kid")?.map(str::to_owned),
            algorithm,
        })
    }

    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), JoseError> {
        if !self.permits(algorithm) {
            return Err(JoseError::AlgorithmMismatch);
        }
        let good = match &self.material {
            // RFC 7518 section 3.4: r and s have a fixed length. The signature is not DER.
            Material::P256(point) => {
                signature.len() == 64
                    && crypto::verify(Scheme::EcdsaP256, point, message, signature)
            }
            Material::Ed25519(octets) => {
                signature.len() == 64 && crypto::verify(Scheme::Ed25519, octets, message, signature)
            }
            #[cfg(feature = "all-algorithms")]
            Material::P384(point) => {
                signature.len() == 96
                    && crypto::verify(Scheme::EcdsaP384, point, message, signature)
            }
            #[cfg(feature = "all-algorithms")]
            Material::Rsa { modulus, exponent } => {
                let scheme = super::rsa::scheme(algorithm).ok_or(JoseError::AlgorithmMismatch)?;
                crypto::verify_rsa(scheme, modulus, exponent, message, signature)
            }
        };
        if good {
            Ok(())
        } else {
            Err(JoseError::Signature)
        }
    }

    /// Makes a key whose `kid` is its thumbprint.
    fn named(material: Material, algorithm: Algorithm) -> Self {
        let mut key = Self {
            material,
            key_id: None,
            algorithm: Some(algorithm),
        };
        key.key_id = Some(super::thumbprint(&key));
        key
    }
}

impl Material {
    const fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::P256(_) => matches!(algorithm, Algorithm::Es256),
            Self::Ed25519(_) => matches!(algorithm, Algorithm::EdDsa),
            #[cfg(feature = "all-algorithms")]
            Self::P384(_) => matches!(algorithm, Algorithm::Es384),
            #[cfg(feature = "all-algorithms")]
            Self::Rsa { .. } => super::rsa::scheme(algorithm).is_some(),
        }
    }
}

/// Checks that `use` and `key_ops`, if present, allow verification (RFC 7517 sections
/// 4.2 and 4.3).
fn require_verification_use(members: &Map<String, Value>) -> Result<(), JoseError> {
    if text_member(members, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(JoseError::UnsupportedKey);
    }
    match members.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(operations)) if operations.iter().all(Value::is_string) => {
            if operations.iter().any(|operation| operation == "verify") {
                Ok(())
            } else {
                Err(JoseError::UnsupportedKey)
            }
        }
        Some(_) => Err(JoseError::Member { member: "key_ops" }),
    }
}

fn elliptic_curve(members: &Map<String, Value>) -> Result<Material, JoseError> {
    let curve = text_member(members, "crv")?.ok_or(JoseError::Member { member: "crv" })?;
    match curve {
        "P-256" => Ok(Material::P256(point(members, 32)?)),
        #[cfg(feature = "all-algorithms")]
        "P-384" => Ok(Material::P384(point(members, 48)?)),
        _ => Err(JoseError::UnsupportedKey),
    }
}

/// Returns the uncompressed SEC 1 point of a key. Each coordinate must have `length`
/// bytes, the full length of the curve's field (RFC 7518 section 6.2.1).
fn point(members: &Map<String, Value>, length: usize) -> Result<Vec<u8>, JoseError> {
    let mut point = vec![4];
    for member in ["x", "y"] {
        let coordinate = octets(members, member)?;
        if coordinate.len() != length {
            return Err(JoseError::Member { member });
        }
        point.extend(coordinate);
    }
    Ok(point)
}

fn octet_key_pair(members: &Map<String, Value>) -> Result<Material, JoseError> {
    match text_member(members, "crv")?.ok_or(JoseError::Member { member: "crv" })? {
        "Ed25519" => {
            let key = octets(members, "x")?;
            if key.len() == 32 {
                Ok(Material::Ed25519(key))
            } else {
                Err(JoseError::Member { member: "x" })
            }
        }
        _ => Err(JoseError::UnsupportedKey),
    }
}

fn octets(members: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, JoseError> {
    let text = text_member(members, member)?.ok_or(JoseError::Member { member })?;
    base64url_decode(text, member)
}

/// Returns `x` and `y` of an uncompressed point, each in base64url.
fn coordinates(point: &[u8]) -> (String, String) {
    let coordinates = point.get(1..).unwrap_or_default();
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    (base64url_encode(x), base64url_encode(y))
}

fn elliptic_curve_members(curve: &str, point: &[u8]) -> Value {
    let (x, y) = coordinates(point);
    json!({"kty": "EC", "crv": curve, "x": x, "y": y})
}

fn canonical_elliptic_curve(curve: &str, point: &[u8]) -> String {
    let (x, y) = coordinates(point);
    format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#)
}
