//! The files of a directory of keys: `ring.json` and one `KID.key` each.
//!
//! `ring.json` is replaced in one step. A key's file is written before
//! `ring.json` names it and removed after `ring.json` withdraws it, so that
//! readers need no lock; those who change the directory hold one. What the
//! records mean is the affair of `key_record`, what may be changed that of
//! `key_directory`.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pkcs8::{LineEnding, SecretDocument};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key_error::KeyRingError;
use super::key_record::KeyRecord;
use super::signing_key::{SigningAlgorithm, SigningKey};
use crate::crypto::{ProviderFailed, SigningKeyPair};
use crate::secret::{self, Existing};

/// The file that says which keys there are.
pub const RING_FILE: &str = "ring.json";
const FORMAT_VERSION: u32 = 1;
const KEY_LABEL: &str = "PRIVATE KEY";
/// No file of the directory is larger.
const MAX_FILE: u64 = 1024 * 1024;
/// How long to wait for another process to finish with the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

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

pub(super) fn existing_records(directory: &Path) -> Result<Vec<KeyRecord>, KeyRingError> {
    read_records(directory)?.ok_or_else(|| KeyRingError::NoKeys {
        directory: directory.to_owned(),
        algorithm: SigningAlgorithm::Es256,
    })
}

/// What `ring.json` says, where it is there.
pub(super) fn read_records(directory: &Path) -> Result<Option<Vec<KeyRecord>>, KeyRingError> {
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

pub(super) fn write_records(directory: &Path, records: &[KeyRecord]) -> Result<(), KeyRingError> {
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
    let path = key_path(directory, key.kid());
    secret::write_private(&path, pem.as_bytes(), Existing::Refuse)
        .map_err(KeyRingError::io("write", &path))?;
    Ok(key.kid().to_owned())
}

fn key_path(directory: &Path, kid: &str) -> PathBuf {
    directory.join(format!("{kid}.key"))
}

pub(super) fn remove_keys(directory: &Path, kids: &[String]) -> Result<(), KeyRingError> {
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

/// Holds the directory for this process; closing the file, however the process
/// ends, lets it go.
pub(super) fn lock(directory: &Path) -> Result<File, KeyRingError> {
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
