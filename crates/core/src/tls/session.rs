//! `Session`: the data that the gateway adds to rustls' own session state in a ticket.

use crate::trust::ChainKey;

/// Length of an encoded session in bytes: `proven_at` (8), `path_not_after` (8) and the hash
/// `chain` (32).
const LENGTH: usize = 48;

/// The TLS version for which a ticket is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Version {
    Tls12 = 0x12,
    Tls13 = 0x13,
}

/// The data that the gateway adds to rustls' session state in a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub(super) version: Version,
    pub(super) chain: ChainKey,
    pub(super) proven_at: u64,
    pub(super) path_not_after: i64,
}

impl Session {
    /// Returns when the caller last proved that it holds its private key, in seconds since the Unix
    /// epoch.
    #[must_use]
    pub const fn proven_at(&self) -> u64 {
        self.proven_at
    }

    pub(super) fn write(&self) -> [u8; LENGTH] {
        let mut prefix = [0_u8; LENGTH];
        let fields = self
            .proven_at
            .to_be_bytes()
            .into_iter()
            .chain(self.path_not_after.to_be_bytes())
            .chain(*self.chain.bytes());
        for (to, from) in prefix.iter_mut().zip(fields) {
            *to = from;
        }
        prefix
    }

    pub(super) fn read(version: Version, opened: &[u8]) -> Option<(Self, &[u8])> {
        let (proven_at, rest) = opened.split_first_chunk::<8>()?;
        let (path_not_after, rest) = rest.split_first_chunk::<8>()?;
        let (chain, state) = rest.split_first_chunk::<32>()?;
        let session = Self {
            version,
            chain: ChainKey::from_bytes(*chain),
            proven_at: u64::from_be_bytes(*proven_at),
            path_not_after: i64::from_be_bytes(*path_not_after),
        };
        Some((session, state))
    }
}
