//! The deny list's file: JSON, replaced in one step.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::{DenyEntry, DenyListError, MAX_ENTRIES};
use crate::file_read::read_regular;
use crate::secret::{Existing, write_private};

/// The structure of the file. By its version, a later format is distinguished from a damaged file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<E> {
    version: u32,
    entries: Vec<E>,
}

const VERSION: u32 = 1;
/// [`write`] writes nothing larger: two texts of 2 KiB, of which each byte takes
/// six in JSON, and the rest of an entry.
const MAX_FILE: u64 = MAX_ENTRIES as u64 * 32 * 1024;

/// Reads the entries; `None` if there is no file.
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

/// Replaces the file; on return the new content survives a power failure. A process
/// that is killed leaves the old one or the new one, and beside it, at worst, a file
/// `.countersign-…` that is never read.
pub(super) fn write(path: &Path, entries: &[Arc<DenyEntry>]) -> Result<(), DenyListError> {
    let document = Document {
        version: VERSION,
        entries: entries.to_vec(),
    };
    let mut content =
        serde_json::to_vec_pretty(&document).map_err(|error| failed(path, error.into()))?;
    content.push(b'\n');
    write_private(path, &content, Existing::Replace).map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: io::Error) -> DenyListError {
    DenyListError::File {
        path: path.to_owned(),
        error,
    }
}
