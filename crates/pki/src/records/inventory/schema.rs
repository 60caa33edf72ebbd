//! The tables of the inventory, their versions, and the SQL statements.

use rusqlite::{Connection, TransactionBehavior};

/// The version of the tables that this program writes. SQLite stores it as `user_version`.
pub(super) const VERSION: i64 = 1;

/// `MIGRATIONS[n]` changes the tables of version `n` to those of version `n + 1`. A migration that
/// was released must never change. Add a new one instead.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE certificate (
        id INTEGER PRIMARY KEY,
        serial TEXT NOT NULL,
        issuer_key TEXT NOT NULL,
        issuer TEXT NOT NULL,
        parent TEXT NOT NULL,
        profile TEXT NOT NULL,
        names TEXT NOT NULL,
        not_before INTEGER NOT NULL,
        not_after INTEGER NOT NULL,
        thumbprint TEXT NOT NULL,
        certificate TEXT NOT NULL,
        issued_at INTEGER NOT NULL,
        issued_by TEXT NOT NULL,
        cause TEXT NOT NULL,
        revoked_at INTEGER,
        revoked_reason TEXT,
        UNIQUE (issuer_key, serial)
    ) STRICT;
    CREATE INDEX certificate_not_after ON certificate (not_after);
    CREATE INDEX certificate_revoked ON certificate (issuer_key) WHERE revoked_at IS NOT NULL;
    CREATE TABLE name (
        name TEXT NOT NULL,
        certificate INTEGER NOT NULL REFERENCES certificate (id),
        PRIMARY KEY (name, certificate)
    ) STRICT, WITHOUT ROWID;
"];

pub(super) const INSERT: &str = "
    INSERT INTO certificate (serial, issuer_key, issuer, parent, profile, names, not_before,
        not_after, thumbprint, certificate, issued_at, issued_by, cause)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

pub(super) const HAS_LIVE: &str = "
    SELECT 1 FROM name JOIN certificate ON certificate.id = name.certificate
    WHERE name.name = ?2 AND certificate.certificate = ?3 AND not_after >= ?4
        AND revoked_at IS NULL AND issuer_key IN (SELECT value FROM json_each(?1))";

/// SQL condition: certificate `s` is a live renewal of certificate `c`. Both have the same file and
/// the same names. `s` is newer, not revoked and not expired.
macro_rules! succeeds {
    () => {
        "s.id > c.id AND s.certificate = c.certificate AND s.names = c.names
         AND s.not_after >= ?2 AND s.revoked_at IS NULL
         AND s.issuer_key IN (SELECT value FROM json_each(?3))"
    };
}

/// Counts the live certificates of an issuer that have a live renewal.
pub(super) const COUNT_RENEWED: &str = concat!(
    "SELECT COUNT(*) FROM certificate AS c
     WHERE c.issuer_key = ?1 AND c.revoked_at IS NULL AND c.not_after >= ?2 AND EXISTS (
         SELECT 1 FROM name AS n JOIN certificate AS s ON s.id = n.certificate
         WHERE n.name = json_extract(c.names, '$[0]') AND ",
    succeeds!(),
    ")"
);

/// Finds the serial number of the newest live renewal of a certificate.
pub(super) const SUCCESSOR: &str = concat!(
    "SELECT s.serial FROM certificate AS c
     JOIN name AS n ON n.name = json_extract(c.names, '$[0]')
     JOIN certificate AS s ON s.id = n.certificate
     WHERE c.id = ?1 AND ",
    succeeds!(),
    " ORDER BY s.id DESC LIMIT 1"
);

/// Up to this number of rows, looking each row up and sorting all of them takes no noticeable time.
pub(super) const FEW: i64 = 20_000;

/// Counts the revoked certificates. Stops counting at `?1`, which is [`FEW`].
pub(super) const COUNT_REVOKED: &str = "
    SELECT COUNT(*) FROM (SELECT 1 FROM certificate INDEXED BY certificate_revoked
        WHERE revoked_at IS NOT NULL LIMIT ?1)";

/// Counts the certificates that expire between `?2` and `?3`. Stops counting at `?1`, which is
/// [`FEW`].
pub(super) const COUNT_ENDING: &str = "
    SELECT COUNT(*) FROM (SELECT 1 FROM certificate INDEXED BY certificate_not_after
        WHERE not_after BETWEEN ?2 AND ?3 LIMIT ?1)";

/// The database index that a search uses. SQLite has no statistics here and would select an index
/// that returns every row, so that it must sort up to a million rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads the rows in the order of issuing. If the filter has a name, first looks up the rows
    /// with this name.
    InOrder,
    BySerial,
    ByRevocation,
    ByEnd,
}

/// Returns the SELECT statement of a search. All `conditions` must be true for a row.
pub(super) fn find(access: Access, conditions: &[&str]) -> String {
    let table = match access {
        Access::InOrder => "certificate NOT INDEXED",
        Access::BySerial => "certificate",
        Access::ByRevocation => "certificate INDEXED BY certificate_revoked",
        Access::ByEnd => "certificate INDEXED BY certificate_not_after",
    };
    let conditions: String = conditions
        .iter()
        .map(|condition| format!(" AND {condition}"))
        .collect();
    format!(
        "SELECT * FROM {table}
         WHERE id > :after AND issuer_key IN (SELECT value FROM json_each(:issuers)){conditions}
         ORDER BY id LIMIT :limit"
    )
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Creates the tables in a new file, which no other process uses yet.
pub(super) fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    // After a crash, the incomplete file is never read, because it does not have its final path
    // yet. So no journal file is needed.
    connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = FULL;")?;
    migrate(connection)
}

/// Changes the tables of an old version to the current version, in one step per version.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    if version(connection)? == VERSION {
        return Ok(());
    }
    // Reads the version again, now under the lock of the database. Another process may have updated
    // the tables before the lock was taken.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = usize::try_from(version(&transaction)?).unwrap_or(usize::MAX);
    for statements in MIGRATIONS.iter().skip(from) {
        transaction.execute_batch(statements)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {VERSION}"))?;
    transaction.commit()
}
