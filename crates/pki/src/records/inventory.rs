//! `Inventory`: every signed certificate, in `inventory.db` (SQLite).
//!
//! A certificate is recorded durably before it is written to its final path. So the inventory knows
//! every certificate that the authority has issued. `pki.toml` decides which certificates are
//! revoked. The inventory has a copy of the revocations, which is used for searching. Several
//! processes may read and write at the same time, because SQLite uses a write-ahead log.

/// Why the inventory cannot be used.
mod error;
/// The database file, and the files that SQLite keeps next to it.
mod files;
/// Reads the inventory without writing anything.
mod reading;
/// The tables, and their versions.
mod schema;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};
use tempfile::TempDir;

pub use self::error::InventoryError;

use self::error::sqlite;
use self::schema::Access;
use crate::file_stamp::FileStamp;
use crate::identity::text::printable;
use crate::kill_point::kill_point;
use crate::signing::revoked::RevokedCertificate;
use crate::store::{self, StoreError};

/// Maximum time to wait if another process has locked the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The origin of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The command `pki issue`.
    Issue,
    /// The command `pki sign`.
    Sign,
    /// The command `pki renew`.
    Renew,
    /// No command: the record was imported from `issued.jsonl`, in which old versions of this
    /// program kept their records.
    Import,
}

impl Cause {
    /// Returns the word that stands for the command in the database and in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Sign => "sign",
            Self::Renew => "renew",
            Self::Import => "import",
        }
    }
}

/// A certificate that will be recorded.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    pub(crate) serial: String,
    pub(crate) issuer_key: String,
    pub(crate) issuer: String,
    pub(crate) parent: String,
    pub(crate) profile: String,
    pub(crate) names: Vec<String>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) thumbprint: String,
    pub(crate) certificate: PathBuf,
    pub(crate) issued_at: i64,
    pub(crate) cause: Cause,
}

/// One certificate in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The number of the record. A certificate that was recorded later has a greater number.
    pub id: i64,
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// The subject key identifier of the authority that signed the certificate, in hexadecimal.
    pub issuer_key: String,
    /// The subject of the authority that signed the certificate, in RFC 4514 form.
    pub issuer: String,
    /// The SHA-256 hash of the authority's certificate in base64url.
    pub parent: String,
    /// The profile under which the certificate was issued.
    pub profile: String,
    /// The names in printed form, for example `dns:a`. The first name identifies the holder.
    pub names: Vec<String>,
    /// notBefore in seconds since the Unix epoch.
    pub not_before: i64,
    /// notAfter in seconds since the Unix epoch.
    pub not_after: i64,
    /// The SHA-256 hash of the certificate in base64url.
    pub thumbprint: String,
    /// The path of the certificate file.
    pub certificate: PathBuf,
    /// The time of signing, in seconds since the Unix epoch.
    pub issued_at: i64,
    /// The user of the operating system that ran the command.
    pub issued_by: String,
    /// The command that signed the certificate: `issue`, `sign`, `renew`.
    pub cause: String,
    /// The time of the revocation in seconds since the Unix epoch, and its reason. `None` if the
    /// certificate is not revoked.
    pub revoked: Option<(i64, String)>,
}

/// Selects certificates in the inventory. All conditions that are set must be true.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Selects certificates that contain exactly this name, in printed form.
    pub name: Option<String>,
    /// Selects the certificate with this serial number.
    pub serial: Option<String>,
    /// Selects certificates that are not revoked and expire at this time or later.
    pub live_at: Option<i64>,
    /// Selects certificates that expire at this time or earlier.
    pub ending_by: Option<i64>,
    /// Selects certificates that were signed before this time.
    pub issued_before: Option<i64>,
    /// If true, selects only revoked certificates.
    pub revoked: bool,
    /// Selects certificates that were issued after the certificate with this [`Entry::id`].
    pub after: Option<i64>,
    /// Maximum number of certificates in the result.
    pub limit: Option<u32>,
}

/// An open connection to the inventory.
#[derive(Debug)]
pub(crate) struct Inventory {
    connection: Connection,
    path: PathBuf,
    /// The stamp of the database file, if the file was opened without locks.
    stamp: Option<FileStamp>,
    /// The temporary directory, if this is a private copy. It is declared after `connection`, so it
    /// is removed after the connection is closed.
    _home: Option<TempDir>,
}

impl Inventory {
    /// Opens the inventory at `path`. Creates the file if it does not exist. Updates the tables if
    /// an old version of this program has written them.
    pub(crate) fn open(path: &Path) -> Result<Self, InventoryError> {
        if !files::keep_private(path)? {
            files::create(path, schema::create)?;
        }
        let failed = sqlite(path);
        let connection = Connection::open(path).map_err(&failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
        let mut inventory = Self::with(connection, path);
        inventory.check_version()?;
        // With `synchronous = FULL`, a record is on the disk when the commit returns. So no
        // certificate is handed out before its record is durable.
        inventory
            .connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .map_err(&failed)?;
        schema::migrate(&mut inventory.connection).map_err(&failed)?;
        Ok(inventory)
    }

    fn with(connection: Connection, path: &Path) -> Self {
        Self {
            connection,
            path: path.to_owned(),
            stamp: None,
            _home: None,
        }
    }

    fn check_version(&self) -> Result<(), InventoryError> {
        let found = schema::version(&self.connection).map_err(sqlite(&self.path))?;
        if found > schema::VERSION {
            return Err(InventoryError::Newer {
                path: self.path.clone(),
                found,
            });
        }
        // `files::create` gives a new file its final path only when it has its tables. So a file
        // without tables has lost its content.
        if found == 0 {
            return Err(InventoryError::Empty(self.path.clone()));
        }
        Ok(())
    }

    /// Whether the inventory contains the certificate with this issuer and serial number.
    pub(crate) fn has(&self, issuer_key: &str, serial: &str) -> Result<bool, InventoryError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM certificate WHERE issuer_key = ?1 AND serial = ?2")
            .map_err(sqlite(&self.path))?;
        statement
            .exists(params![issuer_key, serial])
            .map_err(sqlite(&self.path))
    }

    /// Records all `entries` durably, or none of them.
    pub(crate) fn record(&mut self, entries: &[NewEntry]) -> Result<(), InventoryError> {
        let user = user();
        let transaction = self.connection.transaction().map_err(sqlite(&self.path))?;
        kill_point();
        let result = entries
            .iter()
            .try_for_each(|entry| insert(&transaction, entry, &user))
            .and_then(|()| transaction.commit());
        result.map_err(sqlite(&self.path))
    }

    /// Imports records that old versions of this program have written. Skips certificates that are
    /// already recorded.
    pub(crate) fn import(&mut self, entries: &[NewEntry]) -> Result<(), InventoryError> {
        let failed = sqlite(&self.path);
        kill_point();
        let transaction = self.connection.transaction().map_err(&failed)?;
        let result = entries
            .iter()
            .try_for_each(|entry| {
                let known: Option<i64> = transaction
                    .prepare_cached(
                        "SELECT id FROM certificate WHERE issuer_key = ?1 AND serial = ?2",
                    )?
                    .query_row(params![entry.issuer_key, entry.serial], |row| row.get(0))
                    .optional()?;
                match known {
                    Some(_) => Ok(()),
                    None => insert(&transaction, entry, "unknown"),
                }
            })
            .and_then(|()| transaction.commit());
        result.map_err(&failed)
    }

    /// Copies the revocations of one issuer from `pki.toml` into the inventory.
    pub(crate) fn mark_revoked<'a>(
        &mut self,
        issuer_key: &str,
        revoked: impl Iterator<Item = &'a RevokedCertificate>,
    ) -> Result<(), InventoryError> {
        let failed = sqlite(&self.path);
        kill_point();
        let transaction = self.connection.transaction().map_err(&failed)?;
        let result = (|| {
            let mut update = transaction.prepare_cached(
                "UPDATE certificate SET revoked_at = ?3, revoked_reason = ?4
                 WHERE issuer_key = ?1 AND serial = ?2 AND revoked_at IS NULL",
            )?;
            for entry in revoked {
                update.execute(params![
                    issuer_key,
                    entry.serial,
                    entry.time,
                    entry.reason.as_str()
                ])?;
            }
            drop(update);
            transaction.commit()
        })();
        result.map_err(&failed)
    }

    /// Returns the number of revoked certificates of an issuer.
    pub(crate) fn count_revoked(&self, issuer_key: &str) -> Result<usize, InventoryError> {
        self.connection
            .query_row(
                "SELECT COUNT(*) FROM certificate WHERE issuer_key = ?1 AND revoked_at IS NOT NULL",
                [issuer_key],
                |row| row.get::<_, i64>(0),
            )
            .map(|count| usize::try_from(count).unwrap_or(0))
            .map_err(sqlite(&self.path))
    }

    /// Returns the number of certificates of an issuer that are neither revoked nor expired at
    /// `now`.
    pub(crate) fn count_live(&self, issuer_key: &str, now: i64) -> Result<u64, InventoryError> {
        self.connection
            .query_row(
                "SELECT COUNT(*) FROM certificate
                 WHERE issuer_key = ?1 AND revoked_at IS NULL AND not_after >= ?2",
                params![issuer_key, now],
                |row| row.get::<_, i64>(0),
            )
            .map(|count| u64::try_from(count).unwrap_or(0))
            .map_err(sqlite(&self.path))
    }

    /// Counts the live certificates of an issuer that were renewed. The inventory must have a newer
    /// live certificate with the same file and the same names. One of `issuer_keys` must have
    /// signed the newer certificate.
    pub(crate) fn count_renewed(
        &self,
        issuer_key: &str,
        issuer_keys: &[String],
        now: i64,
    ) -> Result<u64, InventoryError> {
        let issuers = serde_json::json!(issuer_keys).to_string();
        self.connection
            .query_row(
                schema::COUNT_RENEWED,
                params![issuer_key, now, issuers],
                |row| row.get::<_, i64>(0),
            )
            .map(|count| u64::try_from(count).unwrap_or(0))
            .map_err(sqlite(&self.path))
    }

    /// Returns the serial number of the newest live renewal of the certificate `entry`. Returns
    /// `None` if it was not renewed.
    pub(crate) fn successor(
        &self,
        entry: &Entry,
        issuer_keys: &[String],
        now: i64,
    ) -> Result<Option<String>, InventoryError> {
        let issuers = serde_json::json!(issuer_keys).to_string();
        let run = || {
            self.connection
                .prepare_cached(schema::SUCCESSOR)?
                .query_row(params![entry.id, now, issuers], |row| row.get(0))
                .optional()
        };
        run().map_err(sqlite(&self.path))
    }

    /// Whether one of the issuers has signed a live certificate with this name and this path.
    pub(crate) fn has_live(
        &self,
        issuer_keys: &[String],
        name: &str,
        place: &Path,
        now: i64,
    ) -> Result<bool, InventoryError> {
        let issuers = serde_json::json!(issuer_keys).to_string();
        let run = || {
            self.connection
                .prepare_cached(schema::HAS_LIVE)?
                .exists(params![issuers, name, place.to_string_lossy(), now])
        };
        run().map_err(sqlite(&self.path))
    }

    /// Returns the certificates of these issuers that the filter selects, the oldest first.
    pub(crate) fn find(
        &self,
        issuer_keys: &[String],
        filter: &Filter,
    ) -> Result<Vec<Entry>, InventoryError> {
        let run = || -> rusqlite::Result<Vec<Entry>> {
            let issuers = serde_json::json!(issuer_keys).to_string();
            let (after, limit) = (
                filter.after.unwrap_or(0),
                filter.limit.map_or(-1, i64::from),
            );
            let mut values: Vec<(&str, &dyn ToSql)> = vec![
                (":issuers", &issuers),
                (":after", &after),
                (":limit", &limit),
            ];
            let mut conditions = Vec::new();
            if let Some(name) = &filter.name {
                conditions.push("id IN (SELECT certificate FROM name WHERE name = :name)");
                values.push((":name", name));
            }
            if let Some(serial) = &filter.serial {
                conditions.push("serial = :serial");
                values.push((":serial", serial));
            }
            if let Some(time) = &filter.live_at {
                conditions.push("not_after >= :live_at AND revoked_at IS NULL");
                values.push((":live_at", time));
            }
            if let Some(time) = &filter.ending_by {
                conditions.push("not_after <= :ending_by");
                values.push((":ending_by", time));
            }
            if let Some(time) = &filter.issued_before {
                conditions.push("issued_at < :issued_before");
                values.push((":issued_before", time));
            }
            if filter.revoked {
                conditions.push("revoked_at IS NOT NULL");
            }
            let statement = schema::find(self.access(filter)?, &conditions);
            let mut statement = self.connection.prepare_cached(&statement)?;
            let rows = statement.query_map(values.as_slice(), entry)?;
            rows.collect()
        };
        run().map_err(sqlite(&self.path))
    }

    /// Selects the database index for a search. If the filter selects many records, reading all
    /// records in order finds the first page fastest.
    fn access(&self, filter: &Filter) -> rusqlite::Result<Access> {
        let is_few = |count: i64| count < schema::FEW;
        if filter.serial.is_some() {
            return Ok(Access::BySerial);
        }
        if filter.name.is_some() {
            return Ok(Access::InOrder);
        }
        if filter.revoked {
            let mut statement = self.connection.prepare_cached(schema::COUNT_REVOKED)?;
            if is_few(statement.query_row([schema::FEW], |row| row.get(0))?) {
                return Ok(Access::ByRevocation);
            }
        }
        if let Some(end) = filter.ending_by {
            let begin = filter.live_at.unwrap_or(i64::MIN);
            let mut statement = self.connection.prepare_cached(schema::COUNT_ENDING)?;
            if is_few(statement.query_row([schema::FEW, begin, end], |row| row.get(0))?) {
                return Ok(Access::ByEnd);
            }
        }
        Ok(Access::InOrder)
    }
}

fn insert(connection: &Connection, entry: &NewEntry, user: &str) -> rusqlite::Result<()> {
    let names = serde_json::json!(entry.names).to_string();
    connection.prepare_cached(schema::INSERT)?.execute(params![
        entry.serial,
        entry.issuer_key,
        entry.issuer,
        entry.parent,
        entry.profile,
        names,
        entry.not_before,
        entry.not_after,
        entry.thumbprint,
        entry.certificate.to_string_lossy(),
        entry.issued_at,
        user,
        entry.cause.as_str(),
    ])?;
    let id = connection.last_insert_rowid();
    let mut statement = connection
        .prepare_cached("INSERT OR IGNORE INTO name (name, certificate) VALUES (?1, ?2)")?;
    for name in &entry.names {
        statement.execute(params![name, id])?;
    }
    Ok(())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let names: String = row.get("names")?;
    let revoked_at: Option<i64> = row.get("revoked_at")?;
    let reason: Option<String> = row.get("revoked_reason")?;
    Ok(Entry {
        id: row.get("id")?,
        serial: row.get("serial")?,
        issuer_key: row.get("issuer_key")?,
        issuer: row.get("issuer")?,
        parent: row.get("parent")?,
        profile: row.get("profile")?,
        names: serde_json::from_str(&names).unwrap_or_default(),
        not_before: row.get("not_before")?,
        not_after: row.get("not_after")?,
        thumbprint: row.get("thumbprint")?,
        certificate: PathBuf::from(row.get::<_, String>("certificate")?),
        issued_at: row.get("issued_at")?,
        issued_by: row.get("issued_by")?,
        cause: row.get("cause")?,
        revoked: revoked_at.map(|at| (at, reason.unwrap_or_default())),
    })
}

/// Returns the name of the user who ran the command, from the environment. The name is not
/// verified.
fn user() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .map_or_else(|| "unknown".to_owned(), |user| printable(&user))
}

/// Renames `issued.jsonl` after its records were imported, so that they are not imported again.
pub(crate) fn retire_journal(journal: &Path) -> Result<(), StoreError> {
    store::rename(journal, &journal.with_extension("jsonl.imported"))
}

#[cfg(test)]
#[path = "inventory/tests.rs"]
mod tests;
