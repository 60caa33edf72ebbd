//! `PathCache`: chains that were verified before, so that a repeated handshake
//! only has to prove possession of the key.
//!
//! The key is the presented chain together with everything it was verified against except
//! revocation lists and deny list; the value is the identity, and the facts by which each
//! certificate of the path is looked up. A change of the lists costs one look-up per certificate,
//! not a new path. Refusals are never kept, and an entry enters only by [`PendingPath::commit`],
//! after the handshake: presenting the chain of another caller, with any junk behind it, changes
//! nothing here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;

use super::certificate::member::PathMember;
use super::digest::Digest;
use crate::clock;
use crate::identity::PeerIdentity;
use crate::identity::text::hex;

/// Chains kept by default.
pub const DEFAULT_CAPACITY: usize = 16_384;

/// Names a presented chain under a trust set: the SHA-256 of both.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainKey([u8; 32]);

impl ChainKey {
    /// Restores a key that was stored with [`Self::bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key, to be stored.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ChainKey({})", hex(&self.0))
    }
}

/// State of lists and deny list under which an entry was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RevocationState {
    /// Digest of every revocation list of the trust set.
    pub(super) crls: [u8; 32],
    /// Epoch of the deny list.
    pub(super) denied: u64,
}

/// A verified chain.
#[derive(Debug)]
pub(super) struct CachedPath {
    pub(super) identity: Arc<PeerIdentity>,
    pub(super) members: Arc<[PathMember]>,
    /// Latest notBefore of the path.
    pub(super) not_before: i64,
    /// Earliest notAfter of the path.
    pub(super) not_after: i64,
    pub(super) state: RevocationState,
    /// When a list that was consulted stops counting.
    pub(super) good_until: i64,
}

impl CachedPath {
    /// Whether the path is within its validity.
    pub(super) const fn holds_at(&self, now: i64) -> bool {
        self.not_before <= now && !clock::certificate_is_over(self.not_after, now)
    }

    /// Whether the revocation state is the same as when the path was looked up.
    pub(super) fn is_current(&self, state: &RevocationState, now: i64) -> bool {
        self.state == *state && now < self.good_until
    }
}

/// Verified chains; shared by every trust set and kept across reloads.
pub struct PathCache {
    paths: Cache<ChainKey, Arc<CachedPath>>,
    known: AtomicU64,
    verified: AtomicU64,
}

/// Statistics of the cache of chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainCounts {
    /// Chains that are remembered now.
    pub kept: usize,
    /// Questions about a chain that was known and still held.
    pub known: u64,
    /// Look-ups that needed a verification, whether it succeeded or failed.
    pub verified: u64,
}

impl PathCache {
    /// Creates a cache for at most `capacity` chains.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            paths: Cache::new(capacity),
            known: AtomicU64::new(0),
            verified: AtomicU64::new(0),
        }
    }

    /// Returns the number of chains in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether the cache is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns the statistics of the cache.
    #[must_use]
    pub fn counts(&self) -> ChainCounts {
        ChainCounts {
            kept: self.len(),
            known: self.known.load(Ordering::Relaxed),
            verified: self.verified.load(Ordering::Relaxed),
        }
    }

    pub(super) fn count(&self, known: bool) {
        let counter = if known { &self.known } else { &self.verified };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, key: &ChainKey) -> Option<Arc<CachedPath>> {
        self.paths.get(key)
    }

    pub(super) fn insert(&self, key: ChainKey, path: Arc<CachedPath>) {
        self.paths.insert(key, path);
    }
}

impl Default for PathCache {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for PathCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PathCache")
            .field("paths", &self.paths.len())
            .finish_non_exhaustive()
    }
}

/// A verified chain whose holder has not proven possession of its key yet.
#[must_use = "the chain is verified anew next time unless it is committed"]
#[derive(Debug)]
pub struct PendingPath {
    cache: Arc<PathCache>,
    key: ChainKey,
    path: Arc<CachedPath>,
}

impl PendingPath {
    pub(super) fn new(cache: &Arc<PathCache>, key: ChainKey, path: CachedPath) -> Self {
        Self {
            cache: Arc::clone(cache),
            key,
            path: Arc::new(path),
        }
    }

    /// Keeps the chain. To be called once the handshake is complete, never
    /// before.
    pub fn commit(self) {
        self.cache.insert(self.key, self.path);
    }
}

/// The key of a presented chain under a trust set. Lengths go before contents,
/// so that two different chains never give the same bytes.
pub(super) fn key_of(
    trust_set: &[u8; 32],
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> ChainKey {
    let mut digest = Digest::new();
    digest.field(trust_set);
    for der in std::iter::once(leaf).chain(intermediates) {
        digest.field(der);
    }
    ChainKey(digest.finish())
}
