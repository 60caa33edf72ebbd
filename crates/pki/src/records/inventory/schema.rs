//! Tables of the inventory, their versions, and the statements on them.

use rusqlite::{Connection, TransactionBehavior};

/// The version this program writes, in `user_version`.
pub(super) const VERSION: i64 = 1;

/// `MIGRATIONS[n]` leads from version `n` to `n + 1`. Never change one that was
/// released; add another.
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

/// Up to this number of rows, looking each row up and sorting all of them takes no noticeable time.
pub(super) const FEW: i64 = 20_000;

/// Counts the revoked rows, up to [`FEW`].
pub(super) const COUNT_REVOKED: &str = "
    SELECT COUNT(*) FROM (SELECT 1 FROM certificate INDEXED BY certificate_revoked
        WHERE revoked_at IS NOT NULL LIMIT ?1)";

/// Counts the rows that expire in a period, up to [`FEW`].
pub(super) const COUNT_ENDING: &str = "
    SELECT COUNT(*) FROM (SELECT 1 FROM certificate INDEXED BY certificate_not_after
        WHERE not_after BETWEEN ?2 AND ?3 LIMIT ?1)";

/// The index by which rows are found. The query planner does not choose it: without statistics it
/// takes an index that leads to every row, and sorts a million of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// In the order of issuing, or by name.
    InOrder,
    BySerial,
    ByRevocation,
    ByEnd,
}

/// Builds the statement of a search with only the requested conditions.
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

/// Brings an older file up to date, in one step per version.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    if version(connection)? == VERSION {
        return Ok(());
    }
    // Looked at again under the lock: another process may have been faster.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = usize::try_from(version(&transaction)?).unwrap_or(usize::MAX);
    for statements in MIGRATIONS.iter().skip(from) {
        transaction.execute_batch(statements)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {VERSION}"))?;
    transaction.commit()
}
