//! Reads the inventory without writing anything. This is necessary on a read-only file system, and
//! for users who may only read the files.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use rustix::fs::{Access, access};
use tempfile::TempDir;

use super::error::{InventoryError, sqlite};
use super::{BUSY_TIMEOUT, Inventory, files, schema};
use crate::file_access;
use crate::file_stamp::FileStamp;
use crate::signing::revoked::RevokedCertificate;
use crate::store::{self, StoreError};

/// Options for SQLite: read the database while other processes have it open. SQLite uses the shared
/// memory that these processes have created.
const BESIDE_OTHERS: &str = "mode=ro&readonly_shm=1";
/// Options for SQLite: read the database file without locks. The result is correct only if no
/// process changes the file meanwhile.
const UNLOCKED: &str = "mode=ro&immutable=1";

impl Inventory {
    /// Whether this process may open the inventory for writing.
    pub(crate) fn is_writable(path: &Path) -> bool {
        let may_write = |path: &Path, how| access(path, how).is_ok();
        may_write(
            file_access::parent(path),
            Access::WRITE_OK | Access::EXEC_OK,
        ) && (may_write(path, Access::READ_OK | Access::WRITE_OK) || !path.exists())
    }

    /// Opens the inventory without writing anything. If the file does not exist, the inventory is
    /// empty. After reading, the caller must call [`Self::check_unchanged`].
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, InventoryError> {
        if !files::check(path)? {
            return Self::empty(path);
        }
        files::require_regular_files(path)?;
        access(path, Access::READ_OK)
            .map_err(|error| StoreError::io("read", path)(error.into()))?;
        // The shared memory must already exist. Otherwise SQLite would try to create it, and the
        // new files would belong to the current user.
        if files::has_shared_memory(path) {
            match Self::open_by(path, BESIDE_OTHERS) {
                Err(InventoryError::Sqlite { error, .. }) if needs_more_rights(&error) => {}
                opened => return opened,
            }
        }
        // No process has the database open, or this user may not read its shared memory.
        if files::has_changes_beside(path) {
            return Self::open_copy_of_files(path);
        }
        let stamp = FileStamp::at(path);
        let inventory = Self::open_by(path, UNLOCKED)?;
        Ok(Self { stamp, ..inventory })
    }

    /// Creates an inventory without certificates, in memory.
    pub(crate) fn empty(path: &Path) -> Result<Self, InventoryError> {
        let failed = sqlite(path);
        let mut connection = Connection::open_in_memory().map_err(&failed)?;
        schema::create(&mut connection).map_err(&failed)?;
        Ok(Self::with(connection, path))
    }

    fn open_by(path: &Path, how: &str) -> Result<Self, InventoryError> {
        let failed = sqlite(path);
        let place = std::path::absolute(path).map_err(StoreError::io("look at", path))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let uri = format!("file:{}?{how}", escaped(&place));
        let connection = Connection::open_with_flags(uri, flags).map_err(&failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
        let inventory = Self::with(connection, path);
        // SQLite opens the files when it executes the first statement. So errors of opening are
        // returned here.
        inventory.check_version()?;
        Ok(inventory)
    }

    /// Opens a private copy of the database and of its write-ahead log. This is needed if a killed
    /// process has left changes in the log.
    fn open_copy_of_files(path: &Path) -> Result<Self, InventoryError> {
        let home = private_directory(path)?;
        let copy = home.path().join("inventory.db");
        let sources = || [path.to_owned()].into_iter().chain(files::beside(path));
        let stamps = || {
            sources()
                .map(|file| FileStamp::at(&file))
                .collect::<Vec<_>>()
        };
        let before = stamps();
        for (source, target) in sources()
            .zip([copy.clone()].into_iter().chain(files::beside(&copy)))
            // The shared memory is not copied, because SQLite creates it again from the write-ahead
            // log.
            .filter(|(source, _)| !source.as_os_str().as_bytes().ends_with(b"-shm"))
        {
            match std::fs::copy(&source, &target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => {
                    copied.map_err(StoreError::io("copy", &source))?;
                }
            }
        }
        if stamps() != before {
            return Err(InventoryError::Changed(path.to_owned()));
        }
        Self::open_at(&copy, path, home)
    }

    /// Returns a private copy of the inventory, which can be changed. The files of the inventory
    /// stay unchanged.
    pub(crate) fn private_copy(self) -> Result<Self, InventoryError> {
        let home = private_directory(&self.path)?;
        let copy = home.path().join("inventory.db");
        self.connection
            .execute("VACUUM INTO ?1", [copy.to_string_lossy()])
            .map_err(sqlite(&self.path))?;
        self.check_unchanged()?;
        Self::open_at(&copy, &self.path, home)
    }

    /// Opens the private copy `copy` in the temporary directory `home`. `path` is the path of the
    /// original, for error messages.
    fn open_at(copy: &Path, path: &Path, home: TempDir) -> Result<Self, InventoryError> {
        store::make_private(copy)?;
        let opened = Self::open(copy)?;
        Ok(Self {
            path: path.to_owned(),
            _home: Some(home),
            ..opened
        })
    }

    /// Returns an error if the file has changed since it was opened without locks, because the
    /// records that were read may be wrong.
    pub(crate) fn check_unchanged(&self) -> Result<(), InventoryError> {
        match &self.stamp {
            Some(stamp) if FileStamp::at(&self.path).as_ref() != Some(stamp) => {
                Err(InventoryError::Changed(self.path.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the inventory contains a certificate that is in the list `revoked`, but that the
    /// inventory itself does not record as revoked.
    pub(crate) fn lacks_one_of<'a>(
        &self,
        issuer_key: &str,
        revoked: impl Iterator<Item = &'a RevokedCertificate>,
    ) -> Result<bool, InventoryError> {
        let failed = sqlite(&self.path);
        let mut unmarked = self
            .connection
            .prepare_cached(
                "SELECT 1 FROM certificate
                 WHERE issuer_key = ?1 AND serial = ?2 AND revoked_at IS NULL",
            )
            .map_err(&failed)?;
        for entry in revoked {
            if unmarked
                .exists(params![issuer_key, entry.serial])
                .map_err(&failed)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether SQLite has failed because this user may not open a file, or may not write to it.
fn needs_more_rights(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
    )
}

fn private_directory(path: &Path) -> Result<TempDir, StoreError> {
    tempfile::tempdir().map_err(StoreError::io("make a directory for a copy of", path))
}

/// Escapes a path for a URI.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_for_sqlite() {
        let text = escaped(Path::new("/a b/%3F?x#y/ü-1.db"));
        assert_eq!(text, "/a%20b/%253F%3Fx%23y/%C3%BC-1.db");
    }

    #[test]
    fn a_file_with_an_odd_name_is_read_and_a_change_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("a?b#c %d");
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("inventory.db");
        drop(Inventory::open(&path).unwrap());
        let unlocked = Inventory::open_to_read(&path).unwrap();
        unlocked.check_unchanged().unwrap();
        assert_eq!(unlocked.count_revoked("k").unwrap(), 0);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        let database = Connection::open(&path).unwrap();
        database
            .execute_batch("CREATE TABLE other (a); PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        let error = unlocked.check_unchanged().unwrap_err();
        assert!(matches!(error, InventoryError::Changed(_)), "{error}");
    }
}
