//! Caches judgements about tokens. A judgement is an acceptance or a refusal.
//!
//! The [`CacheKey`] contains the token, issuer, key set, demands of the route and client
//! certificate. So a judgement is reused only if all of them are the same. An entry ends at the
//! latest when its token expires. Entries can also be purged. If a token *could not be checked*,
//! that result is not cached. Concurrent requests with the same key share one check.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::single_flight::{FlightResult, SingleFlight};
use crate::crypto;
use crate::identity::TokenClaims;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// The result of a token check: the accepted claims, or a denial.
pub type Judgement = Result<Arc<TokenClaims>, Denial>;

/// Memory of a cache entry in bytes, without the texts in its judgement.
const ENTRY_BYTES: u64 = 512;

/// How many judgements are cached, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct CacheSettings {
    /// How long accepted tokens are cached, in seconds. They are never cached after their `exp`.
    pub positive: u64,
    /// How long refused tokens are cached, in seconds.
    pub negative: u64,
    /// Maximum size in bytes of all entries together.
    pub bytes: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            positive: 60,
            negative: 5,
            bytes: 16 * 1024 * 1024,
        }
    }
}

/// A hash of what a judgement depends on, except the time: token, issuer, key set, demands of the
/// route and client certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// Creates the key for a token of `issuer`. `generation` is the number of the issuer's key set.
    /// `demands` is the hash of the route's demands. `thumbprint` is the SHA-256 of the client
    /// certificate, if there is one.
    #[must_use]
    pub fn new(
        token: &str,
        issuer: &str,
        generation: u64,
        demands: &[u8; 32],
        thumbprint: Option<&[u8; 32]>,
    ) -> Self {
        let mut text = Vec::with_capacity(token.len() + issuer.len() + 96);
        text.extend_from_slice(demands);
        match thumbprint {
            Some(thumbprint) => {
                text.push(1);
                text.extend_from_slice(thumbprint);
            }
            None => text.push(0),
        }
        text.extend_from_slice(&generation.to_be_bytes());
        // The length prefix makes the encoding unique: two different lists of parts never give the
        // same bytes.
        text.extend_from_slice(&(issuer.len() as u64).to_be_bytes());
        text.extend_from_slice(issuer.as_bytes());
        text.extend_from_slice(token.as_bytes());
        Self(crypto::sha256(&text))
    }
}

/// Prints nothing of the key, because even the hash of a token should not appear in logs.
impl fmt::Debug for CacheKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CacheKey")
    }
}

#[derive(Clone)]
struct Entry {
    judgement: Judgement,
    stored_at: u64,
    until: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<CacheKey, Entry> for ByBytes {
    fn weight(&self, _: &CacheKey, entry: &Entry) -> u64 {
        let texts = match &entry.judgement {
            Ok(claims) => claims.memory_size(),
            Err(denial) => denial.detail.len(),
        };
        ENTRY_BYTES.saturating_add(texts as u64)
    }
}

/// Caches judgements, with limits on memory and time.
pub struct TokenCache {
    settings: CacheSettings,
    entries: Cache<CacheKey, Entry, ByBytes>,
    flights: SingleFlight<CacheKey, Judgement>,
    purges: AtomicU64,
}

impl TokenCache {
    /// Creates an empty cache.
    #[must_use]
    pub fn new(settings: CacheSettings) -> Self {
        let max = usize::try_from(settings.bytes / ENTRY_BYTES).unwrap_or(usize::MAX);
        Self {
            settings,
            entries: Cache::with_weighter(max.max(1), settings.bytes, ByBytes),
            flights: SingleFlight::default(),
            purges: AtomicU64::new(0),
        }
    }

    /// Returns the judgement for this key, if it is cached and still valid.
    #[must_use]
    pub fn get(&self, key: &CacheKey, now: u64) -> Option<Judgement> {
        // If `stored_at` is in the future, the clock was set back. Such an entry is ignored,
        // because it would be valid for too long.
        self.entries
            .get(key)
            .filter(|entry| entry.stored_at <= now && now < entry.until)
            .map(|entry| entry.judgement)
    }

    /// Returns the cached judgement, or else the result of `check`. Concurrent requests with the
    /// same key share one check, even if it fails. `positive` limits how long an acceptance is
    /// cached, in seconds.
    ///
    /// # Errors
    /// The [`Denial`] that `check` returned, now or earlier.
    pub async fn get_or_check<F>(
        &self,
        key: CacheKey,
        positive: Option<u64>,
        now: u64,
        check: F,
    ) -> Judgement
    where
        F: Future<Output = Judgement>,
    {
        if let Some(judgement) = self.get(&key, now) {
            return judgement;
        }
        let checking = async {
            let purges = self.purges.load(Ordering::SeqCst);
            let judgement = check.await;
            // The judgement is stored before the shared check ends. Otherwise a request that comes
            // directly after the check could start another check.
            self.store(key, &judgement, positive, now, purges);
            match &judgement {
                // This denial depends on the caller that asked, not on the token. The next waiting
                // request therefore checks for itself.
                Err(denial) if denial.reason == ReasonCode::CallerLimit => {
                    FlightResult::Own(judgement)
                }
                _ => FlightResult::Shared(judgement),
            }
        };
        self.flights.join(key, checking).await
    }

    /// Removes all entries. The results of checks in progress are not cached either.
    pub fn purge(&self) {
        self.purges.fetch_add(1, Ordering::SeqCst);
        self.entries.clear();
    }

    /// Removes the judgements about one token for all routes and certificates. `hash` is the
    /// token's hash, as audit lines show it.
    pub fn purge_token(&self, hash: &str) {
        self.purges.fetch_add(1, Ordering::SeqCst);
        self.entries.retain(|_, entry| match &entry.judgement {
            Ok(claims) => claims.hash != hash,
            // A refusal does not say which token it is about, so all refusals are removed. This
            // costs little, because refusals are cached only for a short time.
            Err(_) => false,
        });
    }

    /// Returns the number of cached judgements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the cache is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn store(
        &self,
        key: CacheKey,
        judgement: &Judgement,
        positive: Option<u64>,
        now: u64,
        purges: u64,
    ) {
        let until = match judgement {
            Ok(claims) => now
                .saturating_add(positive.unwrap_or(self.settings.positive))
                .min(now.saturating_add(self.settings.positive))
                .min(claims.expires),
            // The token could not be checked, so the next request has to check it again.
            Err(denial)
                if [ReasonCode::KeysUnavailable, ReasonCode::CallerLimit]
                    .contains(&denial.reason) =>
            {
                return;
            }
            Err(_) => now.saturating_add(self.settings.negative),
        };
        if until <= now {
            return;
        }
        let entry = Entry {
            judgement: judgement.clone(),
            stored_at: now,
            until,
        };
        self.entries.insert(key, entry);
        // A purge during the check applies to this judgement too.
        if self.purges.load(Ordering::SeqCst) != purges {
            self.entries.remove(&key);
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenCache")
            .field("settings", &self.settings)
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
