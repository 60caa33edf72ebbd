//! `PathCache`: paths that were verified before. If a caller connects again with the same chain,
//! its path is not verified again. The caller must still prove possession of its key.
//!
//! The cache key is a hash of the chain and of the rules under which it was verified, without
//! revocation lists and deny list. A cached path contains the identity, and the facts with which
//! each certificate is looked up in these lists. So a change of the lists costs one look-up for
//! each certificate, and no verification of the path.
//!
//! Refused chains are never stored. A chain is stored only after the handshake, by
//! [`PendingPath::commit`]. So a peer cannot change the cache by presenting the chain of another
//! caller, even if it adds useless certificates to the chain.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;

use super::certificate::member::PathMember;
use super::digest::Digest;
use crate::clock;
use crate::identity::text::hex;
use crate::identity::{CallerName, PeerIdentity};

/// Default for the maximum number of paths in the cache.
pub const DEFAULT_CAPACITY: usize = 16_384;

/// Identifies a chain in the cache: the SHA-256 hash of the chain and of the rules under which it
/// was verified.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainKey([u8; 32]);

impl ChainKey {
    /// Restores a key from the bytes that [`Self::bytes`] returned.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key. They can be stored, for example in a session ticket.
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

/// Identifies the content of the revocation lists and the deny list with which a path was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RevocationState {
    /// The hash of all revocation lists.
    pub(super) crls: [u8; 32],
    /// The epoch of the deny list, or 0 if there is none.
    pub(super) denied: u64,
}

/// A path in the cache.
#[derive(Debug)]
pub(super) struct CachedPath {
    pub(super) identity: Arc<PeerIdentity>,
    pub(super) members: Arc<[PathMember]>,
    /// The latest notBefore of all certificates in the path, in seconds since the Unix epoch.
    pub(super) not_before: i64,
    /// The earliest notAfter of all certificates in the path, in seconds since the Unix epoch.
    pub(super) not_after: i64,
    pub(super) state: RevocationState,
    /// When the first of the revocation lists that were consulted becomes too old, in seconds since
    /// the Unix epoch. The lists must then be consulted again.
    pub(super) good_until: i64,
}

impl CachedPath {
    /// Whether all certificates of the path are within their validity dates at `now`.
    pub(super) const fn holds_at(&self, now: i64) -> bool {
        self.not_before <= now && !clock::certificate_is_over(self.not_after, now)
    }

    /// Whether revocation and the deny list need no new check: the lists have not changed since the
    /// last check, and none of them is too old.
    pub(super) fn is_current(&self, state: &RevocationState, now: i64) -> bool {
        self.state == *state && now < self.good_until
    }
}

/// The cache of verified paths. All server names share it, and a reload keeps it.
pub struct PathCache {
    paths: Cache<ChainKey, Arc<CachedPath>>,
    known: AtomicU64,
    verified: AtomicU64,
}

/// Counters of the path cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainCounts {
    /// Number of paths in the cache now.
    pub kept: usize,
    /// Number of chains that were accepted from the cache, without a verification of the path.
    pub known: u64,
    /// Number of chains whose path was verified, because no cached path could be used. Includes
    /// chains that were refused.
    pub verified: u64,
}

impl PathCache {
    /// Creates a cache for at most `capacity` paths.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            paths: Cache::new(capacity),
            known: AtomicU64::new(0),
            verified: AtomicU64::new(0),
        }
    }

    /// Returns the number of paths in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether the cache is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns the counters of the cache.
    #[must_use]
    pub fn counts(&self) -> ChainCounts {
        ChainCounts {
            kept: self.len(),
            known: self.known.load(Ordering::Relaxed),
            verified: self.verified.load(Ordering::Relaxed),
        }
    }

    /// Whether the cache contains a path of this caller. Searches all paths in the cache.
    #[must_use]
    pub fn has_caller(&self, name: &CallerName) -> bool {
        self.paths
            .iter()
            .any(|(_, path)| path.identity.caller() == name)
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

/// A verified path that is not in the cache yet, because the caller has not proven possession of
/// its key.
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

    /// Stores the path in the cache. Call this function only after the handshake is complete,
    /// because the handshake proves possession of the key.
    pub fn commit(self) {
        self.cache.insert(self.key, self.path);
    }
}

/// Returns the cache key of a chain. `trust_set` is the hash of the rules. The length of each field
/// is hashed before the field, so two different chains never give the same input.
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
