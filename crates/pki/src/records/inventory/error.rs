//! `InventoryError`: why the inventory cannot be used.

use std::path::{Path, PathBuf};

use super::schema;
use crate::identity::text::printable;
use crate::store::StoreError;

/// The reason why the inventory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// SQLite returned an error.
    #[error("cannot use {}: {error}", .path.display())]
    Sqlite {
        /// The path of the database.
        path: PathBuf,
        /// The error of SQLite.
        error: rusqlite::Error,
    },
    /// The database has lost its content: it is empty or has no tables. Or it is missing although
    /// its write-ahead log still exists.
    #[error(
        "{path} is empty, although this program never leaves it so: its records of what was issued \
         are lost. Restore it from a backup. If there is none, move it away together with the files \
         beside it ({name}-wal, {name}-shm): the next command then begins a new one, and a \
         certificate that it does not know can still be revoked, with --cert FILE or with --serial \
         HEX --unrecorded",
        path = .0.display(), name = file_name(.0)
    )]
    Empty(PathBuf),
    /// A newer version of this program has written the database.
    #[error(
        "{} has format version {found}; this program knows {} and older. Use the newer program",
        .path.display(), schema::VERSION
    )]
    Newer {
        /// The path of the database.
        path: PathBuf,
        /// The version of the tables in the database.
        found: i64,
    },
    /// Another process changed the database while this process read it without locks.
    #[error("{} was changed while it was read; run the command again", .0.display())]
    Changed(PathBuf),
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    printable(&name.to_string_lossy())
}

pub(super) fn sqlite(path: &Path) -> impl Fn(rusqlite::Error) -> InventoryError + use<> {
    let path = path.to_owned();
    move |error| InventoryError::Sqlite {
        path: path.clone(),
        error,
    }
}
