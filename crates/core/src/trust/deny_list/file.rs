//! The file of the deny list. It contains JSON and is replaced atomically.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::{DenyEntry, DenyListError, MAX_ENTRIES};
use crate::file_read::read_regular;
use crate::secret::{Existing, write_private};

/// The content of the file. A later release that changes the format will write another `version`.
/// If this release reads such a file, its error names the version.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<E> {
    version: u32,
    entries: Vec<E>,
}

const VERSION: u32 = 1;
/// Maximum size of the file in bytes. [`write()`] never writes more: an entry has two texts of at
/// most 2 KiB, and JSON needs at most six bytes for each byte of these texts. The rest of an entry
/// is small.
const MAX_FILE: u64 = MAX_ENTRIES as u64 * 32 * 1024;

/// Reads the entries of the file. Returns `None` if the file does not exist.
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

/// Replaces the file. When this function returns, the new content is on disk and survives a power
/// failure. If the process is killed before that, the file has the old or the new content, and a
/// temporary file `.countersign-…` may remain, which is never read.
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
