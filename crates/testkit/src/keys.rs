//! Keys and serial numbers of certificates.

use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::KeyPair;

/// Types of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA with P-256
    P256,
    /// ECDSA with P-384
    P384,
    /// Ed25519
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

    /// OID of its signatures, DER (RFC 5758 section 3.2, RFC 8410 section 3).
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

/// Serial numbers that differ within a process and never begin with a sign bit.
pub(crate) fn next_serial() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut serial = vec![0x4c, 0x05];
    serial.extend_from_slice(&number.to_be_bytes());
    serial
}
