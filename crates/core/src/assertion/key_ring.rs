//! `SigningKeyRing`: the next, current and retiring assertion-signing keys in memory.
//!
//! The time alone determines which of the loaded keys signs. A loaded next key therefore starts to
//! sign at its `active_from` time, without a reload. `key_files` reads the files, and
//! `key_directory` changes them.

use std::path::Path;
use std::sync::Arc;

pub use super::key_error::KeyRingError;
use super::key_files;
use super::key_record::{self, KeyRecord};
use super::signing_key::jwk_set;
pub use super::signing_key::{SigningAlgorithm, SigningKey};

/// The keys of a directory, loaded for signing and publishing.
#[derive(Debug)]
pub struct SigningKeyRing {
    algorithm: SigningAlgorithm,
    /// The keys, ordered by the time from which they sign.
    entries: Vec<Entry>,
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<SigningKey>,
    active_from: u64,
    /// The time at which the key leaves the published key set. `None` if there is no later key of
    /// its algorithm.
    published_until: Option<u64>,
}

impl SigningKeyRing {
    /// Loads the keys of a directory. Keys of `algorithm` sign. All other keys are only published,
    /// so that consumers know them before a change of the algorithm.
    ///
    /// # Errors
    /// Returns an error if a file is unreadable, if the files contradict each other, or if there is
    /// no key of `algorithm`. The error's message names the file, or a command that helps.
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
        // The sort is stable: keys with the same `active_from` keep the order of their records, as
        // in `key_record::succession`.
        entries.sort_by_key(|entry| entry.active_from);
        Self {
            algorithm,
            entries,
            warnings,
        }
    }

    /// Returns the algorithm of the keys that sign.
    #[must_use]
    pub const fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// Returns the key that signs at `now` (seconds since the Unix epoch), by the rule of
    /// [`key_record::current`]. This is called for every request. It therefore only scans a few
    /// entries, and neither allocates memory nor takes a lock.
    #[must_use]
    pub fn current(&self, now: u64) -> Option<&Arc<SigningKey>> {
        let mut line = self.entries.iter().filter(|e| e.signs(self.algorithm));
        line.clone()
            .rev()
            .find(|entry| entry.active_from <= now)
            .or_else(|| line.next())
            .map(|entry| &entry.key)
    }

    /// Returns the keys that are published at `now`, in the order in which they sign.
    pub fn published(&self, now: u64) -> impl Iterator<Item = &Arc<SigningKey>> {
        self.entries
            .iter()
            .filter(move |entry| entry.published_until.is_none_or(|end| now < end))
            .map(|entry| &entry.key)
    }

    /// Returns the published key set at `now` as JSON.
    #[must_use]
    pub fn jwks(&self, now: u64) -> String {
        jwk_set(self.published(now).map(Arc::as_ref)).to_string()
    }

    /// Returns warnings about problems of keys that do not prevent the use of these keys.
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
