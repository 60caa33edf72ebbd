//! A certificate chain with its private key, and functions that write PEM text and private
//! files.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate chain and the private key of its leaf.
pub struct Credentials {
    /// The certificates: first the leaf, then the intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    serial: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("certificates", &self.chain.len())
            .field("serial", &self.serial_hex())
            .finish_non_exhaustive()
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            serial: self.serial.clone(),
        }
    }
}

impl Credentials {
    /// Creates credentials from an existing chain and an existing private key (PKCS#8).
    /// [`Credentials::serial`] returns an empty slice for these credentials.
    #[must_use]
    pub fn from_parts(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Self {
        Self::new(chain, key, Vec::new())
    }

    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: Vec<u8>, serial: Vec<u8>) -> Self {
        Self {
            chain,
            key: PrivatePkcs8KeyDer::from(key),
            serial,
        }
    }

    /// Returns the leaf certificate in DER.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Returns the private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    /// Returns the serial number of the leaf as bytes.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Returns the serial number of the leaf in lower-case hexadecimal.
    #[must_use]
    pub fn serial_hex(&self) -> String {
        self.serial.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Returns the chain in PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect()
    }

    /// Returns the private key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.key.secret_pkcs8_der())
    }

    /// Returns the same credentials with the certificate `der` added at the end of the chain.
    #[must_use]
    pub fn with_extra(mut self, der: CertificateDer<'static>) -> Self {
        self.chain.push(der);
        self
    }

    /// Returns the same credentials with only the leaf in the chain.
    #[must_use]
    pub fn without_intermediates(mut self) -> Self {
        self.chain.truncate(1);
        self
    }
}

pub(crate) fn write_private(path: &Path, content: &[u8]) -> PathBuf {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path.to_owned()
}

/// Returns a PEM block with this label and content.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let word = group
                .iter()
                .chain([0_u8, 0].iter())
                .take(3)
                .fold(0_usize, |word, octet| word << 8 | usize::from(*octet));
            for position in 0..4 {
                text.push(if position <= group.len() {
                    char::from(ALPHABET[word >> (18 - 6 * position) & 63])
                } else {
                    '='
                });
            }
        }
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_base64_with_padding() {
        assert_eq!(
            pem("X", b"ab"),
            "-----BEGIN X-----\nYWI=\n-----END X-----\n"
        );
        assert_eq!(pem("X", b"a"), "-----BEGIN X-----\nYQ==\n-----END X-----\n");
        assert_eq!(
            pem("X", b"abc"),
            "-----BEGIN X-----\nYWJj\n-----END X-----\n"
        );
    }
}
