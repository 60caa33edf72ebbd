//! Changes of a directory of assertion-signing keys: creates, revokes, lists and publishes keys.
//!
//! Each change holds the lock of the directory, and replaces `ring.json` in one step. The rules
//! that decide which key signs at which time are in `key_record`. `key_files` reads and writes the
//! files.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::key_error::KeyRingError;
pub use super::key_error::MAX_KEYS;
use super::key_files::{
    create_directory, existing_records, key_is_recorded, load, lock, read_records, remove_keys,
    tidy, write_new_key, write_records,
};
use super::key_record::{self, KeyRecord, KeyState};
use super::signing_key::{SigningAlgorithm, SigningKey, jwk_set};

/// Default time for which a new key is published before it signs.
pub const PUBLISH_AHEAD: Duration = Duration::from_secs(3600);
/// Minimum time for which a new key must be published before it signs.
pub const MIN_PUBLISH_AHEAD: Duration = Duration::from_secs(15 * 60);
/// Maximum time for which a new key can be published before it signs. The limit detects times that
/// an operator gave in a wrong unit.
pub const MAX_PUBLISH_AHEAD: Duration = Duration::from_secs(366 * 86_400);

/// A key as `countersign keys list` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ListedKey {
    /// The recorded facts about the key.
    #[serde(flatten)]
    pub record: KeyRecord,
    /// The state of the key at the time of the listing.
    pub state: KeyState,
    /// The time at which the key leaves the published key set, in seconds since the Unix epoch.
    /// `None` if there is no later key of its algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_until: Option<u64>,
}

/// The result of a revocation.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// The `kid` of the key that signs instead of the revoked key. `None` if the revoked key was
    /// not the signing key.
    pub successor: Option<String>,
}

/// Creates a key. The first key of a directory signs immediately. Later keys sign after
/// [`PUBLISH_AHEAD`].
///
/// # Errors
/// Returns the same errors as [`add`].
pub fn generate(
    directory: &Path,
    algorithm: SigningAlgorithm,
    now: u64,
) -> Result<ListedKey, KeyRingError> {
    add(directory, Some(algorithm), PUBLISH_AHEAD, now)
}

/// Creates a key. If `algorithm` is `None`, uses the algorithm of the newest key. The first key of
/// a directory signs immediately, and later keys sign after `active_in`. Also deletes the private
/// keys that have expired.
///
/// # Errors
/// Returns an error if `active_in` is too short or too long, if there are too many keys, or if a
/// file cannot be read or written.
pub fn add(
    directory: &Path,
    algorithm: Option<SigningAlgorithm>,
    active_in: Duration,
    now: u64,
) -> Result<ListedKey, KeyRingError> {
    if !(MIN_PUBLISH_AHEAD..=MAX_PUBLISH_AHEAD).contains(&active_in) {
        return Err(KeyRingError::PublishAhead);
    }
    create_directory(directory)?;
    let _lock = lock(directory)?;
    let mut records = read_records(directory)?.unwrap_or_default();
    let expired = retire_expired(&mut records, now);
    let mut usable = records.iter().filter(|record| record.is_usable());
    let (count, newest) = (usable.clone().count(), usable.next_back());
    if count >= MAX_KEYS {
        return Err(KeyRingError::TooManyKeys(directory.to_owned()));
    }
    let algorithm = algorithm
        .or(newest.map(|record| record.algorithm))
        .unwrap_or(SigningAlgorithm::Es256);
    let ahead = newest.map_or(0, |_| active_in.as_secs());
    let before = newest.map(|record| record.kid.clone());
    let kid = write_new_key(directory, algorithm, before.as_deref())?;
    let record = KeyRecord {
        kid,
        algorithm,
        created: now,
        active_from: now.saturating_add(ahead),
        retired_at: None,
        revoked_at: None,
    };
    records.push(record.clone());
    write_records(directory, &records)?;
    key_is_recorded(directory, &record.kid)?;
    remove_keys(directory, &expired)?;
    Ok(listed(&records, &record, now))
}

/// Revokes a key immediately and deletes its private key. If the revoked key is the signing key,
/// another key signs instead. This is the next key if it has been published for
/// [`MIN_PUBLISH_AHEAD`]. Otherwise it is the previous key. If there is no previous key, it is the
/// next key, although consumers may not know it yet.
///
/// # Errors
/// Returns an error if there is no such key, or if a file cannot be read or written. Also returns
/// an error if the key is the only usable one of its algorithm and `force` is false.
pub fn revoke(directory: &Path, kid: &str, force: bool, now: u64) -> Result<Revoked, KeyRingError> {
    let unknown = || KeyRingError::UnknownKey {
        directory: directory.to_owned(),
        kid: kid.to_owned(),
    };
    // Called before the lock is taken: if the directory has no keys, the command must create no
    // file there, not even a lock file.
    existing_records(directory)?;
    let _lock = lock(directory)?;
    let mut records = existing_records(directory)?;
    let mut removed = retire_expired(&mut records, now);
    let record = records
        .iter_mut()
        .find(|record| record.kid == kid)
        .ok_or_else(unknown)?;
    let (algorithm, was_usable) = (record.algorithm, record.is_usable());
    let before = key_record::current(&records, algorithm, now).map(|record| record.kid.clone());
    if let Some(record) = records.iter_mut().find(|record| record.kid == kid) {
        record.revoked_at.get_or_insert(now);
    }
    if was_usable && !force && key_record::succession(&records, algorithm).is_empty() {
        return Err(KeyRingError::OnlyKey {
            kid: kid.to_owned(),
            algorithm,
        });
    }
    let mut successor = None;
    if before.as_deref() == Some(kid) {
        successor = choose_successor(&records, algorithm, now);
        if let Some(record) = records
            .iter_mut()
            .find(|record| Some(&record.kid) == successor.as_ref())
        {
            record.active_from = now;
        }
    }
    write_records(directory, &records)?;
    removed.push(kid.to_owned());
    remove_keys(directory, &removed)?;
    Ok(Revoked { successor })
}

/// Lists all recorded keys with their states at `now`.
///
/// # Errors
/// Returns an error if there are no keys, or if `ring.json` cannot be read.
pub fn list(directory: &Path, now: u64) -> Result<Vec<ListedKey>, KeyRingError> {
    let records = existing_records(directory)?;
    tidy(directory, &records);
    Ok(records
        .iter()
        .map(|record| listed(&records, record, now))
        .collect())
}

/// Returns the key set that a gateway with this directory publishes at `now`.
///
/// # Errors
/// Returns an error if there are no keys, if a file is unreadable, or if the files contradict each
/// other.
pub fn jwks(directory: &Path, now: u64) -> Result<serde_json::Value, KeyRingError> {
    tidy(directory, &existing_records(directory)?);
    let stored = load(directory)?;
    let is_published = |key: &&SigningKey| {
        stored.records.iter().any(|record| {
            record.kid == key.kid()
                && key_record::state(&stored.records, record, now).is_published()
        })
    };
    Ok(jwk_set(stored.keys.iter().filter(is_published)))
}

/// Marks expired keys as retired and returns their `kid`s. Without this mark, an expired key could
/// sign again if the key that replaced it is revoked.
fn retire_expired(records: &mut [KeyRecord], now: u64) -> Vec<String> {
    let expired: Vec<String> = records
        .iter()
        .filter(|record| {
            record.is_usable() && key_record::state(records, record, now) == KeyState::Expired
        })
        .map(|record| record.kid.clone())
        .collect();
    for record in records {
        if expired.contains(&record.kid) {
            record.retired_at = Some(now);
        }
    }
    expired
}

/// Selects the key that signs after the signing key was revoked. The first choice is a next key
/// that consumers know from the published key set. The second choice is the previous key, and the
/// last choice is any next key.
fn choose_successor(
    records: &[KeyRecord],
    algorithm: SigningAlgorithm,
    now: u64,
) -> Option<String> {
    let line = key_record::succession(records, algorithm);
    let known_since = now.saturating_sub(MIN_PUBLISH_AHEAD.as_secs());
    let next = || line.iter().filter(|record| record.active_from > now);
    next()
        .find(|record| record.created <= known_since)
        .or_else(|| line.iter().rfind(|record| record.active_from <= now))
        .or_else(|| next().next())
        .map(|record| record.kid.clone())
}

fn listed(records: &[KeyRecord], record: &KeyRecord, now: u64) -> ListedKey {
    ListedKey {
        record: record.clone(),
        state: key_record::state(records, record, now),
        published_until: record
            .is_usable()
            .then(|| key_record::published_until(records, record))
            .flatten(),
    }
}
