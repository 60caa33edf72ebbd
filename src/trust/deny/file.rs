//! The deny list's file: JSON, written aside, fsynced, renamed.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DenyEntry, DenyListError, MAX_ENTRIES};
use crate::descriptors::open_with_spare;
use crate::file_read::read_regular;

/// The file's shape; the version lets a later one be told from a damaged one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<E> {
    version: u32,
    entries: Vec<E>,
}

const VERSION: u32 = 1;
/// The file is never larger: entries have a few hundred bytes, and texts a bound.
const MAX_FILE: u64 = 1 << 29;

/// The entries, or `None` where there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<DenyEntry>>, DenyListError> {
    let content = match read_regular(path, MAX_FILE) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    let malformed = |why: String| DenyListError::Malformed {
        path: path.to_owned(),
        why,
    };
    let document: Document<DenyEntry> =
        serde_json::from_slice(&content).map_err(|error| malformed(error.to_string()))?;
    if document.version != VERSION {
        return Err(malformed(format!(
            "version {} is not one this program knows",
            document.version
        )));
    }
    if document.entries.len() > MAX_ENTRIES {
        return Err(malformed(format!("more than {MAX_ENTRIES} entries")));
    }
    Ok(Some(document.entries))
}

/// Replaces the file; on return the new content survives a power failure.
pub(super) fn write(path: &Path, entries: &[Arc<DenyEntry>]) -> Result<(), DenyListError> {
    replace(path, entries).map_err(|error| failed(path, error))
}

fn replace(path: &Path, entries: &[Arc<DenyEntry>]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Made with mode 0600.
    let mut aside = open_with_spare(|| tempfile::NamedTempFile::new_in(folder))?;
    let document = Document {
        version: VERSION,
        entries: entries.to_vec(),
    };
    serde_json::to_writer_pretty(&mut aside, &document)?;
    aside.write_all(b"\n")?;
    aside.as_file().sync_all()?;
    aside.persist(path).map_err(|error| error.error)?;
    open_with_spare(|| File::open(folder))?.sync_all()
}

fn failed(path: &Path, error: io::Error) -> DenyListError {
    DenyListError::File {
        path: path.to_owned(),
        error,
    }
}
