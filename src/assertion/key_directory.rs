//! The directory of assertion-signing keys: `ring.json` and one `KID.key` each.
//!
//! `ring.json` says which keys there are and when they sign; it is replaced in
//! one step. A key's file is written before `ring.json` names it and removed
//! after `ring.json` withdraws it, so that readers need no lock; those who
//! change the directory hold one. States follow from `key_record` alone.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pkcs8::{LineEnding, SecretDocument};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key_record::{self, KeyRecord, KeyState};
use super::signing_key::{SigningAlgorithm, SigningKey, jwk_set};
use crate::crypto::{ProviderFailed, SigningKeyPair};
use crate::secret::{self, Existing};

/// How long a new key is published before it signs, unless told otherwise.
pub const PUBLISH_AHEAD: Duration = Duration::from_secs(3600);
/// The shortest time that a new key must be published before it signs.
pub const MIN_PUBLISH_AHEAD: Duration = Duration::from_secs(15 * 60);
/// The longest, so that a mistyped unit is noticed.
pub const MAX_PUBLISH_AHEAD: Duration = Duration::from_secs(366 * 86_400);
/// The most keys that are in use at once.
pub const MAX_KEYS: usize = 16;

const RING_FILE: &str = "ring.json";
const FORMAT_VERSION: u32 = 1;
const KEY_LABEL: &str = "PRIVATE KEY";
/// No file of the directory is larger.
const MAX_FILE: u64 = 1024 * 1024;
/// How long to wait for another process to finish with the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Why keys cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The directory holds no key that could be used.
    #[error(
        "there is no assertion-signing key in {0}; make one with: \
         countersign keys generate --dir {0} --algorithm {algorithm}",
        .directory.display()
    )]
    NoKeys {
        /// The directory.
        directory: PathBuf,
        /// The algorithm that is wanted.
        algorithm: SigningAlgorithm,
    },
    /// All keys are for another algorithm.
    #[error(
        "no assertion-signing key in {0} is for {algorithm}; make one with: \
         countersign keys generate --dir {0} --algorithm {algorithm}, or configure the other algorithm",
        .directory.display()
    )]
    OtherAlgorithm {
        /// The directory.
        directory: PathBuf,
        /// The configured algorithm.
        algorithm: SigningAlgorithm,
    },
    /// An operation of the file system failed.
    #[error("cannot {act} {}: {error}", .path.display())]
    Io {
        /// The failed act.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A file is there but cannot be understood.
    #[error("{}: {problem}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A new key would sign before consumers of the key set know it.
    #[error(
        "a new key must be published at least 15 minutes, and at most 366 days, before it signs"
    )]
    PublishAhead,
    /// There are many keys already.
    #[error(
        "{} has {MAX_KEYS} keys in use already; revoke those that are not needed", .0.display()
    )]
    TooManyKeys(PathBuf),
    /// No key has this name.
    #[error("{} has no key {kid}", .directory.display())]
    UnknownKey {
        /// The directory.
        directory: PathBuf,
        /// The name asked for.
        kid: String,
    },
    /// Without this key nothing could be signed.
    #[error(
        "{kid} is the only usable {algorithm} key: without it no assertion can be signed; \
         rotate first, or insist with --force"
    )]
    OnlyKey {
        /// The key.
        kid: String,
        /// Its algorithm.
        algorithm: SigningAlgorithm,
    },
    /// Another process holds the directory.
    #[error("another process is changing {}; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Generate(#[from] ProviderFailed),
}

impl KeyRingError {
    fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { act, path, error }
    }

    fn malformed(path: &Path, problem: impl ToString) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    fn is_missing_file(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A key as `countersign keys list` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ListedKey {
    /// What is on record.
    #[serde(flatten)]
    pub record: KeyRecord,
    /// What it is good for now.
    pub state: KeyState,
    /// When it leaves the key set, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_until: Option<u64>,
}

/// What a revocation did.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// The key that signs from now on, where the revoked one did before.
    pub successor: Option<String>,
}

/// Everything that a directory holds.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) records: Vec<KeyRecord>,
    /// The usable keys, in the order of their records.
    pub(super) keys: Vec<SigningKey>,
    pub(super) warnings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    version: u32,
    keys: Vec<KeyRecord>,
}

/// Makes a key: the first of a directory signs at once, later ones after
/// [`PUBLISH_AHEAD`].
///
/// # Errors
/// As [`add`].
pub fn generate(
    directory: &Path,
    algorithm: SigningAlgorithm,
    now: u64,
) -> Result<ListedKey, KeyRingError> {
    add(directory, Some(algorithm), PUBLISH_AHEAD, now)
}

/// Makes a key, of the kind of the newest one where `algorithm` is none: the
/// first of a directory signs at once, later ones after `active_in`. Keys that
/// expired meanwhile lose their private half.
///
/// # Errors
/// When `active_in` is too short or too long, there are too many keys, or a
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
    let usable = records.iter().filter(|record| record.is_usable());
    let (count, newest) = (usable.clone().count(), usable.last());
    if count >= MAX_KEYS {
        return Err(KeyRingError::TooManyKeys(directory.to_owned()));
    }
    let algorithm = algorithm
        .or(newest.map(|record| record.algorithm))
        .unwrap_or(SigningAlgorithm::Es256);
    let ahead = newest.map_or(0, |_| active_in.as_secs());
    let kid = write_new_key(directory, algorithm)?;
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
    remove_keys(directory, &expired)?;
    Ok(listed(&records, &record, now))
}

/// Withdraws a key at once and removes its private half. Where it was the one
/// that signs, another takes its place: the next one if it has been published
/// for [`MIN_PUBLISH_AHEAD`], else the one before.
///
/// # Errors
/// When there is no such key, it is the only one of its algorithm and `force`
/// is not set, or a file cannot be read or written.
pub fn revoke(directory: &Path, kid: &str, force: bool, now: u64) -> Result<Revoked, KeyRingError> {
    let unknown = || KeyRingError::UnknownKey {
        directory: directory.to_owned(),
        kid: kid.to_owned(),
    };
    // Nothing, a lock file neither, is left behind where there are no keys.
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

/// All keys on record with their states at `now`.
///
/// # Errors
/// When there are none, or `ring.json` cannot be read.
pub fn list(directory: &Path, now: u64) -> Result<Vec<ListedKey>, KeyRingError> {
    let records = existing_records(directory)?;
    Ok(records
        .iter()
        .map(|record| listed(&records, record, now))
        .collect())
}

/// The key set that a gateway with this directory publishes at `now`.
///
/// # Errors
/// When there are no keys, or a file is unreadable or does not fit the others.
pub fn jwks(directory: &Path, now: u64) -> Result<serde_json::Value, KeyRingError> {
    existing_records(directory)?;
    let stored = load(directory)?;
    let is_published = |key: &&SigningKey| {
        stored.records.iter().any(|record| {
            record.kid == key.kid()
                && key_record::state(&stored.records, record, now).is_published()
        })
    };
    Ok(jwk_set(stored.keys.iter().filter(is_published)))
}

/// Reads all that is needed to sign and publish. No `ring.json` is no keys.
pub(super) fn load(directory: &Path) -> Result<Stored, KeyRingError> {
    match load_once(directory) {
        // A key was withdrawn after `ring.json` was read; it is newer now.
        Err(error) if error.is_missing_file() => load_once(directory),
        other => other,
    }
}

fn load_once(directory: &Path) -> Result<Stored, KeyRingError> {
    let records = read_records(directory)?.unwrap_or_default();
    let mut warnings = Vec::new();
    let mut keys = Vec::new();
    for record in records.iter().filter(|record| record.is_usable()) {
        keys.push(read_key(directory, record, &mut warnings)?);
    }
    Ok(Stored {
        records,
        keys,
        warnings,
    })
}

fn read_key(
    directory: &Path,
    record: &KeyRecord,
    warnings: &mut Vec<String>,
) -> Result<SigningKey, KeyRingError> {
    let path = key_path(directory, &record.kid);
    let (content, mode) = read_file(&path)?;
    if mode & 0o077 != 0 {
        warnings.push(format!(
            "{}: others than its owner can read this private key (mode {:04o}); 0600 is right",
            path.display(),
            mode & 0o7777
        ));
    }
    let document = str::from_utf8(&content)
        .ok()
        .and_then(|text| SecretDocument::from_pem(text).ok())
        .filter(|(label, _)| *label == KEY_LABEL)
        .map(|(_, document)| document)
        .ok_or_else(|| {
            KeyRingError::malformed(&path, "this is not a PKCS#8 private key in PEM form")
        })?;
    let key = SigningKey::from_pkcs8(record.algorithm, document.as_bytes()).map_err(|_| {
        let problem = format!("this is not a private key for {}", record.algorithm);
        KeyRingError::malformed(&path, problem)
    })?;
    if key.kid() != record.kid {
        let problem = format!("this is another key, its thumbprint is {}", key.kid());
        return Err(KeyRingError::malformed(&path, problem));
    }
    Ok(key)
}

fn existing_records(directory: &Path) -> Result<Vec<KeyRecord>, KeyRingError> {
    read_records(directory)?.ok_or_else(|| KeyRingError::NoKeys {
        directory: directory.to_owned(),
        algorithm: SigningAlgorithm::Es256,
    })
}

/// What `ring.json` says, where it is there.
fn read_records(directory: &Path) -> Result<Option<Vec<KeyRecord>>, KeyRingError> {
    let path = directory.join(RING_FILE);
    let content = match read_file(&path) {
        Err(error) if error.is_missing_file() => return Ok(None),
        other => other?.0,
    };
    let ring: RingFile =
        serde_json::from_slice(&content).map_err(|error| KeyRingError::malformed(&path, error))?;
    if ring.version != FORMAT_VERSION {
        let problem = format!("format version {} is not known here", ring.version);
        return Err(KeyRingError::malformed(&path, problem));
    }
    for (index, record) in ring.keys.iter().enumerate() {
        // The name becomes a path.
        let is_thumbprint = record.kid.len() == 43
            && record
                .kid
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
        if !is_thumbprint {
            let problem = format!("the kid of key {} is not a thumbprint", index + 1);
            return Err(KeyRingError::malformed(&path, problem));
        }
        if ring
            .keys
            .iter()
            .take(index)
            .any(|other| other.kid == record.kid)
        {
            let problem = format!("key {} is listed twice", record.kid);
            return Err(KeyRingError::malformed(&path, problem));
        }
    }
    Ok(Some(ring.keys))
}

fn write_records(directory: &Path, records: &[KeyRecord]) -> Result<(), KeyRingError> {
    let path = directory.join(RING_FILE);
    let ring = RingFile {
        version: FORMAT_VERSION,
        keys: records.to_vec(),
    };
    let mut text = serde_json::to_string_pretty(&ring)
        .map_err(|error| KeyRingError::malformed(&path, error))?;
    text.push('\n');
    secret::write_private(&path, text.as_bytes(), Existing::Replace)
        .map_err(KeyRingError::io("write", &path))
}

fn write_new_key(directory: &Path, algorithm: SigningAlgorithm) -> Result<String, KeyRingError> {
    let document = SigningKeyPair::generate_pkcs8(algorithm.scheme())?;
    let key = SigningKey::from_pkcs8(algorithm, document.expose()).map_err(|_| ProviderFailed)?;
    let pem = SecretDocument::try_from(document.expose())
        .map_err(|_| ProviderFailed)?
        .to_pem(KEY_LABEL, LineEnding::LF)
        .map_err(|_| ProviderFailed)?;
    let path = key_path(directory, key.kid());
    secret::write_private(&path, pem.as_bytes(), Existing::Refuse)
        .map_err(KeyRingError::io("write", &path))?;
    Ok(key.kid().to_owned())
}

/// Marks what has expired, before a change of the succession could revive it.
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

/// Who signs in place of a revoked key: whom the consumers know already.
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

fn key_path(directory: &Path, kid: &str) -> PathBuf {
    directory.join(format!("{kid}.key"))
}

fn remove_keys(directory: &Path, kids: &[String]) -> Result<(), KeyRingError> {
    for path in kids.iter().map(|kid| key_path(directory, kid)) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KeyRingError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file's content and mode.
fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), KeyRingError> {
    let file = File::open(path).map_err(KeyRingError::io("open", path))?;
    let mode = file
        .metadata()
        .map_err(KeyRingError::io("look at", path))?
        .permissions()
        .mode();
    let mut content = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(KeyRingError::io("read", path))?;
    if content.len() as u64 > MAX_FILE {
        return Err(KeyRingError::malformed(path, "this file is too large"));
    }
    Ok((content, mode))
}

/// The directory itself is for its owner; its parents are as usual.
fn create_directory(path: &Path) -> Result<(), KeyRingError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(KeyRingError::io("create directory", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(KeyRingError::io("create directory", path)(error))
        }
        _ => Ok(()),
    }
}

/// Holds the directory for this process; closing the file, however the process
/// ends, lets it go.
fn lock(directory: &Path) -> Result<File, KeyRingError> {
    let path = directory.join(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(KeyRingError::io("open", &path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(KeyRingError::Busy(directory.to_owned()));
            }
            Err(TryLockError::Error(error)) => {
                return Err(KeyRingError::io("lock", &path)(error));
            }
        }
    }
}
