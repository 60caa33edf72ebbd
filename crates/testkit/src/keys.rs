//! Keys and serial numbers of certificates.

use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::KeyPair;

/// The types of keys that certificates of this crate can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// An ECDSA key on P-256. It signs with SHA-256.
    P256,
    /// An ECDSA key on P-384. It signs with SHA-384.
    P384,
    /// An Ed25519 key (RFC 8410).
    Ed25519,
}

impl KeyKind {
    pub(crate) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::Ed25519];

    pub(crate) fn algorithm(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }

    /// Returns the OID of the key's signature algorithm in DER (RFC 5758 section 3.2, RFC 8410
    /// section 3).
    pub(crate) const fn signature_oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            Self::P384 => &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
            Self::Ed25519 => &[0x06, 3, 0x2b, 0x65, 0x70],
        }
    }

    pub(crate) fn generate(self) -> KeyPair {
        KeyPair::generate_for(self.algorithm()).expect("a key pair")
    }
}

/// Returns a serial number that is unique within the process and positive in DER.
pub(crate) fn next_serial() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut serial = vec![0x4c, 0x05];
    serial.extend_from_slice(&number.to_be_bytes());
    serial
}
