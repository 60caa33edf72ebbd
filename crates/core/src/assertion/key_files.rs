//! The files of a directory of keys: `ring.json` and one `KID.key` each.
//!
//! `ring.json` is replaced in one step. A key's file is written before `ring.json` names it and
//! removed after `ring.json` withdraws it, so that readers need no lock; commands that change the
//! directory hold one. A process that is killed in between leaves an unused private key; the next
//! command removes it ([`settle`]). `key_record` defines what the records mean, and `key_directory`
//! which changes are allowed.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pkcs8::{LineEnding, SecretDocument};
use serde::{Deserialize, Serialize};

use super::key_error::KeyRingError;
use super::key_record::KeyRecord;
use super::signing_key::{SigningAlgorithm, SigningKey};
use crate::crypto::{ProviderFailed, SigningKeyPair};
use crate::directory_lock::DirectoryLock;
use crate::file_read::{PrivateFile, is_not_regular, read_private};
use crate::kill_point::kill_point;
use crate::pem;
use crate::secret::{Existing, write_private_by};

/// The file that says which keys there are.
pub const RING_FILE: &str = "ring.json";
const FORMAT_VERSION: u32 = 1;
const KEY_LABEL: &str = "PRIVATE KEY";
/// Maximum size of a file in the directory.
const MAX_FILE: u64 = 1024 * 1024;
/// The prefix of the names of files that are written aside.
const ASIDE_PREFIX: &str = ".countersign-keys-";
/// The prefix of the name of the file that says which key is being made. A key that `ring.json`
/// does not contain is removed only if there is such a file: without one, an operator may be
/// copying the directory, with `ring.json` last.
const MAKING_PREFIX: &str = ".making-";

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
    let PrivateFile { content, mode } = read_file(&path)?;
    if mode & 0o077 != 0 {
        warnings.push(format!(
            "{}: others than its owner can read this private key (mode {:04o}); 0600 is right",
            path.display(),
            mode & 0o7777
        ));
    }
    let document = pem::plain_pkcs8_key(&content)
        .map_err(|error| KeyRingError::malformed(&path, format!("{error}; {}", error.remedy())))?;
    let key = SigningKey::from_pkcs8(record.algorithm, document.expose()).map_err(|_| {
        let problem = format!("this is not a private key for {}", record.algorithm);
        KeyRingError::malformed(&path, problem)
    })?;
    if key.kid() != record.kid {
        let problem = format!("this is another key, its thumbprint is {}", key.kid());
        return Err(KeyRingError::malformed(&path, problem));
    }
    Ok(key)
}

pub(super) fn existing_records(directory: &Path) -> Result<Vec<KeyRecord>, KeyRingError> {
    read_records(directory)?.ok_or_else(|| KeyRingError::NoKeys {
        directory: directory.to_owned(),
        algorithm: SigningAlgorithm::Es256,
    })
}

/// Reads `ring.json`, if it exists.
pub(super) fn read_records(directory: &Path) -> Result<Option<Vec<KeyRecord>>, KeyRingError> {
    let path = directory.join(RING_FILE);
    let content = match read_file(&path) {
        Err(error) if error.is_missing_file() => return Ok(None),
        other => other?.content,
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
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
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

pub(super) fn write_records(directory: &Path, records: &[KeyRecord]) -> Result<(), KeyRingError> {
    let path = directory.join(RING_FILE);
    let ring = RingFile {
        version: FORMAT_VERSION,
        keys: records.to_vec(),
    };
    let mut text = serde_json::to_string_pretty(&ring)
        .map_err(|error| KeyRingError::malformed(&path, error))?;
    text.push('\n');
    write_private_by(&path, text.as_bytes(), Existing::Replace, ASIDE_PREFIX)
        .map_err(KeyRingError::io("write", &path))
}

/// Makes a key and its file; [`key_is_recorded`] has to follow once `ring.json` names
/// it.
pub(super) fn write_new_key(
    directory: &Path,
    algorithm: SigningAlgorithm,
) -> Result<String, KeyRingError> {
    let document = SigningKeyPair::generate_pkcs8(algorithm.scheme())?;
    let key = SigningKey::from_pkcs8(algorithm, document.expose()).map_err(|_| ProviderFailed)?;
    let pem = SecretDocument::try_from(document.expose())
        .map_err(|_| ProviderFailed)?
        .to_pem(KEY_LABEL, LineEnding::LF)
        .map_err(|_| ProviderFailed)?;
    let path = making_path(directory, key.kid());
    kill_point();
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(KeyRingError::io("create", &path))?;
    // The marker file becomes durable with the key file, whose directory is synced.
    let path = key_path(directory, key.kid());
    write_private_by(&path, pem.as_bytes(), Existing::Refuse, ASIDE_PREFIX)
        .map_err(KeyRingError::io("write", &path))?;
    Ok(key.kid().to_owned())
}

/// Notes that a new key is recorded in `ring.json`.
pub(super) fn key_is_recorded(directory: &Path, kid: &str) -> Result<(), KeyRingError> {
    remove(&making_path(directory, kid))
}

fn making_path(directory: &Path, kid: &str) -> PathBuf {
    directory.join(format!("{MAKING_PREFIX}{kid}"))
}

fn key_path(directory: &Path, kid: &str) -> PathBuf {
    directory.join(format!("{kid}.key"))
}

pub(super) fn remove_keys(directory: &Path, kids: &[String]) -> Result<(), KeyRingError> {
    kids.iter()
        .try_for_each(|kid| remove(&key_path(directory, kid)))
}

fn remove(path: &Path) -> Result<(), KeyRingError> {
    kill_point();
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KeyRingError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn read_file(path: &Path) -> Result<PrivateFile, KeyRingError> {
    read_private(path, MAX_FILE).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => KeyRingError::malformed(path, error),
        _ if is_not_regular(&error) => KeyRingError::NotRegular {
            path: path.to_owned(),
            error,
        },
        _ => KeyRingError::io("read", path)(error),
    })
}

/// Creates the directory, for its owner only. Its parents get the usual permissions.
pub(super) fn create_directory(path: &Path) -> Result<(), KeyRingError> {
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

/// Locks the directory, and finishes a change that a killed process left incomplete.
pub(super) fn lock(directory: &Path) -> Result<DirectoryLock, KeyRingError> {
    let lock = DirectoryLock::acquire(directory)?;
    let records = read_records(directory)?.unwrap_or_default();
    settle(&leftovers(directory, &records), &lock)?;
    Ok(lock)
}

/// Completes the change of a killed process, for commands that only read. If another process holds
/// the lock or a file cannot be removed, the next change does it.
pub(super) fn tidy(directory: &Path, records: &[KeyRecord]) {
    if !leftovers(directory, records).is_empty()
        && let Ok(lock) = DirectoryLock::try_acquire(directory)
        && let Ok(Some(records)) = read_records(directory)
    {
        let _ = settle(&leftovers(directory, &records), &lock);
    }
}

fn settle(leftovers: &[PathBuf], _: &DirectoryLock) -> Result<(), KeyRingError> {
    leftovers.iter().try_for_each(|path| remove(path))
}

/// Lists leftover files in the order in which they may be removed: files that were written aside,
/// keys that were made but not recorded, the files that say that they were being made, and
/// withdrawn keys.
fn leftovers(directory: &Path, records: &[KeyRecord]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with(ASIDE_PREFIX) {
            found.push(entry.path());
        } else if let Some(kid) = name.strip_prefix(MAKING_PREFIX) {
            if !records.iter().any(|record| record.kid == kid) {
                found.push(key_path(directory, kid));
            }
            found.push(entry.path());
        } else if let Some(kid) = name.strip_suffix(".key")
            && records
                .iter()
                .any(|record| record.kid == kid && !record.is_usable())
        {
            found.push(entry.path());
        }
    }
    found
}
