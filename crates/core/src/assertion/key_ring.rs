//! `SigningKeyRing`: next, current and retiring assertion keys, in memory.
//!
//! Which key signs depends on the time alone, so that a published next key
//! takes over in a running gateway without a reload. `key_files`
//! has the files, `key_directory` the changes.

use std::path::Path;
use std::sync::Arc;

pub use super::key_error::KeyRingError;
use super::key_files;
use super::key_record::{self, KeyRecord};
use super::signing_key::jwk_set;
pub use super::signing_key::{SigningAlgorithm, SigningKey};

/// The keys of a directory.
#[derive(Debug)]
pub struct SigningKeyRing {
    algorithm: SigningAlgorithm,
    /// The keys in the order in which they sign.
    entries: Vec<Entry>,
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<SigningKey>,
    active_from: u64,
    /// When the key leaves the key set. None if no later key follows it.
    published_until: Option<u64>,
}

impl SigningKeyRing {
    /// Loads the keys of a directory; those of `algorithm` sign, all others are
    /// published only, so that a change of algorithm can be published ahead.
    ///
    /// # Errors
    /// When a file is unreadable or does not fit the others, or when there is no
    /// key of `algorithm`. Messages name the file or the command that helps.
    pub fn load(directory: &Path, algorithm: SigningAlgorithm) -> Result<Self, KeyRingError> {
        let stored = key_files::load(directory)?;
        let ring = Self::new(algorithm, &stored.records, stored.keys, stored.warnings);
        if ring.entries.is_empty() {
            return Err(KeyRingError::NoKeys {
                directory: directory.to_owned(),
                algorithm,
            });
        }
        if !ring.entries.iter().any(|entry| entry.signs(algorithm)) {
            return Err(KeyRingError::OtherAlgorithm {
                directory: directory.to_owned(),
                algorithm,
            });
        }
        Ok(ring)
    }

    fn new(
        algorithm: SigningAlgorithm,
        records: &[KeyRecord],
        keys: Vec<SigningKey>,
        warnings: Vec<String>,
    ) -> Self {
        let mut entries: Vec<Entry> = keys
            .into_iter()
            .filter_map(|key| {
                let record = records.iter().find(|record| record.kid == key.kid())?;
                Some(Entry {
                    key: Arc::new(key),
                    active_from: record.active_from,
                    published_until: key_record::published_until(records, record),
                })
            })
            .collect();
        // Stable, as in `key_record::succession`.
        entries.sort_by_key(|entry| entry.active_from);
        Self {
            algorithm,
            entries,
            warnings,
        }
    }

    /// Returns the configured algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// Returns the key that signs at `now` (seconds since the Unix epoch): the rule of
    /// [`key_record::current`]. Called for every request: a scan of a few entries, no allocation,
    /// no lock.
    #[must_use]
    pub fn current(&self, now: u64) -> Option<&Arc<SigningKey>> {
        let mut line = self.entries.iter().filter(|e| e.signs(self.algorithm));
        line.clone()
            .rev()
            .find(|entry| entry.active_from <= now)
            .or_else(|| line.next())
            .map(|entry| &entry.key)
    }

    /// Iterates over the keys in the key set at `now`, the oldest first.
    pub fn published(&self, now: u64) -> impl Iterator<Item = &Arc<SigningKey>> {
        self.entries
            .iter()
            .filter(move |entry| entry.published_until.is_none_or(|end| now < end))
            .map(|entry| &entry.key)
    }

    /// Returns the key set at `now`, as JSON.
    #[must_use]
    pub fn jwks(&self, now: u64) -> String {
        jwk_set(self.published(now).map(Arc::as_ref)).to_string()
    }

    /// Warnings about keys that can be used.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Entry {
    fn signs(&self, algorithm: SigningAlgorithm) -> bool {
        self.key.algorithm() == algorithm
    }
}

#[cfg(test)]
mod tests;
