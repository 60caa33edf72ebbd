//! The files of a directory of keys: `ring.json`, and one file `KID.key` for each key.
//!
//! Commands replace `ring.json` in one step. They write a key's file before `ring.json` names the
//! key. They remove the file after `ring.json` marks the key as revoked or retired. Therefore only
//! commands that change the directory hold a lock, and readers need none. If a process is killed
//! between two steps, an unused private key stays in the directory. The next command removes it
//! ([`settle`]). The meaning of the records is defined in `key_record`, and the allowed changes in
//! `key_directory`.

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
use crate::file_access::FileAccess;
use crate::file_read::{PrivateFile, is_not_regular, read_private};
use crate::identity::text::shell_with;
use crate::kill_point::kill_point;
use crate::pem;
use crate::secret::{Existing, write_private_with};

/// The file that lists the keys of the directory.
pub const RING_FILE: &str = "ring.json";
const FORMAT_VERSION: u32 = 1;
const KEY_LABEL: &str = "PRIVATE KEY";
/// Maximum size in bytes of a file in the directory.
const MAX_FILE: u64 = 1024 * 1024;
/// The prefix of the names of temporary files. A temporary file is renamed when it is complete.
const ASIDE_PREFIX: &str = ".countersign-keys-";
/// The prefix of the name of a marker file. A marker file exists while a key is being created. If
/// `ring.json` does not contain a key, the key's file is removed only if its marker file exists. A
/// key's file without a marker file stays, because an operator may be copying the directory, and
/// may copy `ring.json` last.
const MAKING_PREFIX: &str = ".making-";

/// The content of a directory of keys.
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

/// Reads the records and keys of a directory. If `ring.json` does not exist, there are no keys.
pub(super) fn load(directory: &Path) -> Result<Stored, KeyRingError> {
    match load_once(directory) {
        // A key was probably revoked after `ring.json` was read, so the key's file is missing. The
        // second call reads the new `ring.json`.
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
    let document = pem::plain_pkcs8_key(&content).map_err(|error| {
        KeyRingError::malformed(&path, {
            let remedy = error.remedy_for(shell_with(&path));
            format!("{error}; {remedy}")
        })
    })?;
    let key = SigningKey::from_pkcs8(record.algorithm, document.expose()).map_err(|_| {
        let problem = match pem::lacks_public_part(document.expose()) {
            true => {
                let name = shell_with(&path);
                let out = name(".key");
                format!(
                    "this key lacks its public part; add it: openssl ec -in {} -out {out}",
                    name("")
                )
            }
            false => format!("this is not a private key for {}", record.algorithm),
        };
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

/// Reads `ring.json`. Returns `None` if the file does not exist.
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
        // The `kid` becomes a part of a file name, so it must have the form of a thumbprint.
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
    let access = access_like(directory, &path)?;
    let replace = Existing::Replace;
    write_private_with(&path, text.as_bytes(), replace, ASIDE_PREFIX, access)
        .map_err(KeyRingError::io("write", &path))
}

/// Returns the owner, group and mode of the file at `path`, for a new file. If there is no file at
/// `path`, returns the access that root gives to new files in another user's directory. Returns
/// `None` if neither applies.
fn access_like(directory: &Path, path: &Path) -> Result<Option<FileAccess>, KeyRingError> {
    let access = FileAccess::of_secret(path).map_err(KeyRingError::io("look at", path))?;
    Ok(access.or_else(|| FileAccess::inherited(directory, 0o600)))
}

/// Creates a key and its file, and returns its `kid`. The caller must call [`key_is_recorded`]
/// after `ring.json` contains the key. The file gets the owner, group and mode of the file of the
/// key `before`, if there is such a key.
pub(super) fn write_new_key(
    directory: &Path,
    algorithm: SigningAlgorithm,
    before: Option<&str>,
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
    // The marker file needs no sync of its own: writing the key file syncs the directory that
    // contains both files.
    let path = key_path(directory, key.kid());
    let like = before.map_or_else(|| path.clone(), |kid| key_path(directory, kid));
    let access = access_like(directory, &like)?;
    let refuse = Existing::Refuse;
    write_private_with(&path, pem.as_bytes(), refuse, ASIDE_PREFIX, access)
        .map_err(KeyRingError::io("write", &path))?;
    Ok(key.kid().to_owned())
}

/// Removes the marker file of a new key. Called when `ring.json` contains the key.
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

/// Creates a directory that only its owner can access. Missing parent directories get the default
/// permissions.
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

/// Locks the directory, and removes the files that a killed process has left.
pub(super) fn lock(directory: &Path) -> Result<DirectoryLock, KeyRingError> {
    let lock = DirectoryLock::acquire(directory)?;
    let records = read_records(directory)?.unwrap_or_default();
    settle(&leftovers(directory, &records), &lock)?;
    Ok(lock)
}

/// Removes the files that a killed process has left. Commands that only read call this function. If
/// another process holds the lock or a file cannot be removed, the next command that changes the
/// directory removes the files.
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

/// Lists the files that a killed process has left. In the list, a key's file comes before the key's
/// marker file, so that the marker file is removed last. The files are:
/// - temporary files
/// - marker files, and the file of each marked key that `ring.json` does not contain
/// - files of revoked or retired keys
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
