//! Private keys as PKCS#8 files, plain or encrypted with a passphrase.
//!
//! Encrypted keys use PBES2 with scrypt and AES-256-CBC (RFC 8018, RFC 7914), with parameters that
//! OpenSSL 3 can read. The command asks the operator for the passphrase.

use std::path::{Path, PathBuf};

use pkcs8::der::pem::PemLabel as _;
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef};
use rcgen::KeyPair;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::identity::text::{shell, shell_with};
use crate::pem::{self, PemError, Pkcs8Key};
use crate::secret::Secret;
use crate::store::{self, Audience, Existing, Staged, StoreError};

/// The reason why a private key cannot be read, written or generated.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is not valid PEM, or does not contain exactly one PKCS#8 key.
    #[error("{}; {}", .error.in_file(.path.display()), .error.remedy_for(shell_with(path)))]
    Pem {
        /// The path of the file.
        path: PathBuf,
        /// The reason why the content cannot be read.
        error: PemError,
    },
    /// The content of the PEM block is not valid PKCS#8.
    #[error("the private key in {} is damaged: its PEM block holds no PKCS#8", .0.display())]
    Unreadable(PathBuf),
    /// This build of the program cannot use keys of this algorithm.
    #[error("the private key in {} is of a kind that this program cannot use", .0.display())]
    Unsupported(PathBuf),
    /// The key is an EC key without its public part, and there is no certificate to take it from.
    #[error(
        "the private key in {} lacks its public part, as Java writes it; add it: {}",
        .path.display(), with_public_part(.path, *.is_encrypted)
    )]
    NoPublicPart {
        /// The path of the file.
        path: PathBuf,
        /// Whether the key is encrypted.
        is_encrypted: bool,
    },
    /// The key is encrypted, and no passphrase was given.
    #[error("the private key in {} is encrypted; a passphrase is needed", .0.display())]
    PassphraseNeeded(PathBuf),
    /// The passphrase does not decrypt the key.
    #[error("the passphrase does not open the private key in {}", .0.display())]
    WrongPassphrase(PathBuf),
    /// The passphrase is empty, so it would not protect the key.
    #[error("the passphrase is empty; use --no-passphrase if the key shall not be encrypted")]
    EmptyPassphrase,
    /// The cryptography provider of this build cannot generate RSA keys.
    #[error(
        "this build makes no RSA keys: {} is its cryptography. Build countersign with the feature \
         aws-lc-rs, choose another kind of key, or bring the key along (--ca-cert and --ca-key, or \
         pki sign)",
        crate::crypto::PROVIDER
    )]
    NoRsa,
    /// A key could not be generated.
    #[error("cannot generate a private key: {0}")]
    Generate(rcgen::Error),
    /// A key could not be encrypted.
    #[error("cannot encrypt a private key: {0}")]
    Seal(pkcs8::Error),
}

/// Whether private keys are written encrypted.
#[derive(Debug, Clone)]
pub enum KeyProtection {
    /// Plain PKCS#8. Only the mode 0600 of the file protects the key.
    Plain,
    /// PKCS#8, encrypted with this passphrase (PBES2).
    Passphrase(Secret),
}

impl KeyProtection {
    /// Returns the value for keys that are encrypted with `passphrase`.
    ///
    /// # Errors
    /// [`KeyError::EmptyPassphrase`] if the passphrase is empty.
    pub fn passphrase(passphrase: Secret) -> Result<Self, KeyError> {
        if passphrase.expose().is_empty() {
            return Err(KeyError::EmptyPassphrase);
        }
        Ok(Self::Passphrase(passphrase))
    }

    /// Returns the passphrase.
    #[must_use]
    pub const fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Plain => None,
            Self::Passphrase(passphrase) => Some(passphrase),
        }
    }
}

/// The algorithm and size of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA with P-256: small, fast to verify, and supported by every TLS stack.
    #[default]
    P256,
    /// ECDSA with P-384: required by some regulations, but many times slower to verify.
    P384,
    /// Ed25519: not supported by every TLS stack.
    Ed25519,
    /// RSA with 2048 bits, for software that supports nothing else.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
}

/// OIDs in the AlgorithmIdentifier of a public key: id-ecPublicKey, the curves prime256v1 and
/// secp384r1, and id-Ed25519.
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";

impl KeyAlgorithm {
    /// All algorithms and sizes.
    pub const ALL: [Self; 6] = [
        Self::P256,
        Self::P384,
        Self::Ed25519,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
    ];

    /// Returns the word that stands for the algorithm in command-line options and files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
        }
    }

    /// Whether a public key (SubjectPublicKeyInfo in DER) has this algorithm. An RSA key may also
    /// have more bits than the algorithm names.
    pub(crate) fn covers(self, public_key_info: &[u8]) -> bool {
        let Ok((_, info)) = SubjectPublicKeyInfo::from_der(public_key_info) else {
            return false;
        };
        let algorithm = info.algorithm.algorithm.to_id_string();
        let is_curve = |curve: &str| {
            let parameters = info.algorithm.parameters.as_ref();
            algorithm == EC
                && parameters
                    .and_then(|any| any.as_oid().ok())
                    .is_some_and(|oid| oid.to_id_string() == curve)
        };
        let has_bits = |bits: usize| match info.parsed() {
            Ok(PublicKey::RSA(key)) => key.key_size() >= bits,
            _ => false,
        };
        match self {
            Self::P256 => is_curve(P256),
            Self::P384 => is_curve(P384),
            Self::Ed25519 => algorithm == ED25519,
            Self::Rsa2048 => has_bits(2048),
            Self::Rsa3072 => has_bits(3072),
            Self::Rsa4096 => has_bits(4096),
        }
    }
}

/// Generates a new P-256 key, which is the default algorithm.
pub(crate) fn generate() -> Result<KeyPair, KeyError> {
    generate_for(KeyAlgorithm::P256)
}

/// Generates a new key with this algorithm.
pub(crate) fn generate_for(algorithm: KeyAlgorithm) -> Result<KeyPair, KeyError> {
    let algorithm = match algorithm {
        KeyAlgorithm::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyAlgorithm::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        KeyAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
            return generate_rsa(algorithm);
        }
    };
    KeyPair::generate_for(algorithm).map_err(KeyError::Generate)
}

#[cfg(feature = "aws-lc-rs")]
fn generate_rsa(algorithm: KeyAlgorithm) -> Result<KeyPair, KeyError> {
    let bits = match algorithm {
        KeyAlgorithm::Rsa2048 => rcgen::RsaKeySize::_2048,
        KeyAlgorithm::Rsa4096 => rcgen::RsaKeySize::_4096,
        _ => rcgen::RsaKeySize::_3072,
    };
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, bits).map_err(KeyError::Generate)
}

/// Always returns an error, because ring can use RSA keys but cannot generate them.
#[cfg(not(feature = "aws-lc-rs"))]
const fn generate_rsa(_: KeyAlgorithm) -> Result<KeyPair, KeyError> {
    Err(KeyError::NoRsa)
}

/// Encodes a private key as PKCS#8 in PEM. Encrypts it if `protection` has a passphrase.
pub(crate) fn to_pem(
    key: &KeyPair,
    protection: &KeyProtection,
) -> Result<Zeroizing<String>, KeyError> {
    let KeyProtection::Passphrase(passphrase) = protection else {
        return Ok(Zeroizing::new(key.serialize_pem()));
    };
    let sealed = PrivateKeyInfoRef::try_from(key.serialized_der())
        .and_then(|info| info.encrypt(passphrase.expose()))
        .map_err(KeyError::Seal)?;
    sealed
        .to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF)
        .map_err(|error| KeyError::Seal(error.into()))
}

/// Writes a private key to a temporary file with mode 0600.
pub(crate) fn stage(
    path: &Path,
    key: &KeyPair,
    protection: &KeyProtection,
    existing: Existing,
) -> Result<Staged, KeyError> {
    let pem = to_pem(key, protection)?;
    Ok(Staged::new(
        path,
        pem.as_bytes(),
        Audience::Owner,
        existing,
    )?)
}

/// Whether the private key in a file is encrypted.
pub(crate) fn is_sealed(path: &Path) -> Result<bool, KeyError> {
    parse_pem(path, store::read(path)?).map(|key| key.is_encrypted())
}

/// Reads a private key of the authority from a file. Ignores the passphrase if the key is not
/// encrypted.
pub(crate) fn read(path: &Path, passphrase: Option<&Secret>) -> Result<KeyPair, KeyError> {
    open(path, store::read(path)?, passphrase, None)
}

/// Same as [`read`], for the key of a certificate. `public` is its SubjectPublicKeyInfo.
pub(crate) fn read_of(
    path: &Path,
    passphrase: Option<&Secret>,
    public: &[u8],
) -> Result<KeyPair, KeyError> {
    open(path, store::read(path)?, passphrase, Some(public))
}

/// Same as [`read_of`], for a path that the operator gave. The path may be a pipe.
pub(crate) fn read_named(
    path: &Path,
    passphrase: Option<&Secret>,
    public: &[u8],
) -> Result<KeyPair, KeyError> {
    open(path, store::read_named(path)?, passphrase, Some(public))
}

/// Decodes the private key in `content`. `path` is used only in error messages.
fn open(
    path: &Path,
    content: Vec<u8>,
    passphrase: Option<&Secret>,
    public: Option<&[u8]>,
) -> Result<KeyPair, KeyError> {
    let stored = parse_pem(path, content)?;
    if !stored.is_encrypted() {
        return key_pair(path, stored.expose(), public, false);
    }
    let passphrase = passphrase.ok_or_else(|| KeyError::PassphraseNeeded(path.to_owned()))?;
    let plain = EncryptedPrivateKeyInfoRef::try_from(stored.expose())
        .map_err(|_| KeyError::Unreadable(path.to_owned()))?
        .decrypt(passphrase.expose())
        .map_err(|_| KeyError::WrongPassphrase(path.to_owned()))?;
    key_pair(path, plain.as_bytes(), public, true)
}

/// Returns a command that adds the public part to an EC key. An encrypted key stays encrypted.
fn with_public_part(path: &Path, is_encrypted: bool) -> String {
    let (from, to) = (shell(path), shell_with(path)(".key"));
    match is_encrypted {
        true => format!("openssl ec -in {from} | openssl pkcs8 -topk8 -out {to}"),
        false => format!("openssl ec -in {from} -out {to}, then chmod 600 {to}"),
    }
}

/// Decodes a private key. `is_encrypted` is whether the file `path` contains it encrypted.
fn key_pair(
    path: &Path,
    pkcs8: &[u8],
    public: Option<&[u8]>,
    is_encrypted: bool,
) -> Result<KeyPair, KeyError> {
    if pem::lacks_public_part(pkcs8) {
        let whole = public.and_then(|public| pem::with_public_part(pkcs8, public));
        return whole
            .and_then(|whole| KeyPair::try_from(whole.as_slice()).ok())
            .ok_or_else(|| KeyError::NoPublicPart {
                path: path.to_owned(),
                is_encrypted,
            });
    }
    KeyPair::try_from(pkcs8).map_err(|_| match PrivateKeyInfoRef::try_from(pkcs8) {
        Ok(_) => KeyError::Unsupported(path.to_owned()),
        Err(_) => KeyError::Unreadable(path.to_owned()),
    })
}

fn parse_pem(path: &Path, content: Vec<u8>) -> Result<Pkcs8Key, KeyError> {
    let content = Zeroizing::new(content);
    pem::pkcs8_key(&content).map_err(|error| KeyError::Pem {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(passphrase: &str) -> KeyProtection {
        KeyProtection::passphrase(Secret::from(passphrase.to_owned())).unwrap()
    }

    fn write(path: &Path, key: &KeyPair, protection: &KeyProtection) {
        let staged = stage(path, key, protection, Existing::Refuse).unwrap();
        staged.place().unwrap();
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let key = generate().unwrap();
        write(&path, &key, &sealed("correct horse"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        assert!(is_sealed(&path).unwrap());
        let right = Secret::from("correct horse".to_owned());
        let wrong = Secret::from("Correct horse".to_owned());
        let opened = read(&path, Some(&right)).unwrap();
        assert_eq!(opened.serialized_der(), key.serialized_der());
        assert!(matches!(
            read(&path, Some(&wrong)),
            Err(KeyError::WrongPassphrase(_))
        ));
        assert!(matches!(
            read(&path, None),
            Err(KeyError::PassphraseNeeded(_))
        ));
    }

    #[test]
    fn kinds_of_keys_are_told_apart() {
        use rcgen::PublicKeyData as _;
        for made in [
            KeyAlgorithm::P256,
            KeyAlgorithm::P384,
            KeyAlgorithm::Ed25519,
        ] {
            let key = generate_for(made).unwrap();
            let info = key.subject_public_key_info();
            for kind in KeyAlgorithm::ALL {
                assert_eq!(kind.covers(&info), kind == made, "{made:?} {kind:?}");
            }
        }
        assert!(!KeyAlgorithm::P256.covers(&[0x30, 0]));
    }

    #[test]
    fn rsa_keys_are_made_or_the_build_says_why_not() {
        use rcgen::PublicKeyData as _;
        match generate_for(KeyAlgorithm::Rsa3072) {
            Ok(key) => {
                let info = key.subject_public_key_info();
                assert!(KeyAlgorithm::Rsa2048.covers(&info));
                assert!(KeyAlgorithm::Rsa3072.covers(&info));
                assert!(!KeyAlgorithm::Rsa4096.covers(&info));
            }
            Err(error) => {
                assert_eq!(crate::crypto::PROVIDER, "ring");
                assert!(error.to_string().contains("aws-lc-rs"), "{error}");
            }
        }
    }

    #[test]
    fn plain_keys_need_none_and_empty_passphrases_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let key = generate().unwrap();
        write(&path, &key, &KeyProtection::Plain);
        assert!(!is_sealed(&path).unwrap());
        assert!(read(&path, None).is_ok());
        assert!(matches!(
            KeyProtection::passphrase(Secret::new(Vec::new())),
            Err(KeyError::EmptyPassphrase)
        ));
    }

    #[test]
    fn an_encrypted_key_stays_encrypted_when_it_is_completed() {
        let error = |is_encrypted| {
            let path = PathBuf::from("a b.key");
            KeyError::NoPublicPart { path, is_encrypted }.to_string()
        };
        let command = "openssl ec -in 'a b.key' | openssl pkcs8 -topk8 -out 'a b.key.key'";
        assert!(error(true).ends_with(command), "{}", error(true));
        assert!(!error(false).contains("pkcs8"), "{}", error(false));
    }

    #[test]
    fn rubbish_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        write(&path, &generate().unwrap(), &KeyProtection::Plain);
        let whole = std::fs::read_to_string(&path).unwrap();
        let half = whole.get(..whole.len() / 2).unwrap().to_owned();
        let certificate = whole.replace("PRIVATE KEY", "CERTIFICATE");
        for content in [
            "".to_owned(),
            "rubbish".to_owned(),
            half,
            certificate,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
                .to_owned(),
        ] {
            std::fs::write(&path, &content).unwrap();
            let secret = Secret::from("x".to_owned());
            assert!(
                matches!(
                    read(&path, Some(&secret)),
                    Err(KeyError::Unreadable(_) | KeyError::Pem { .. })
                ),
                "{content:?}"
            );
        }
    }
}
