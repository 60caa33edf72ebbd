//! Opens the inventory, copies revocations from `pki.toml` into it, and searches it.
//!
//! A part of [`Pki`]. Old versions of this program recorded certificates in `issued.jsonl`. These
//! records are imported once, and the file is then renamed.

use std::ops::ControlFlow;

use super::directory::Pki;
use super::files::error::PkiError;
use super::records::inventory::{self, Cause, Entry, Filter, Inventory, NewEntry};
use super::records::state::{self, IssuedRecord};
use super::revoking::Status;
use crate::clock;
use crate::directory_lock::DirectoryLock;

/// Number of leaves in one page. [`Pki::each_issued`] reads the leaves page by page.
const PAGE: u32 = 2_000;

impl Pki {
    /// Returns the leaves that `filter` selects, the oldest first. During a rotation, the leaves of
    /// both generations are searched.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn issued(&self, filter: &Filter) -> Result<Vec<(Entry, Status)>, PkiError> {
        let now = clock::certificate_now();
        let inventory = self.inventory_to_read()?;
        let found = inventory.find(&self.issuer_keys(), filter)?;
        inventory.check_unchanged()?;
        Ok(found
            .into_iter()
            .map(|entry| with_status(entry, now))
            .collect())
    }

    /// Calls `visit` for each leaf that [`Self::issued`] would return, until `visit` returns a
    /// break. Only one page of leaves is in memory. Between two pages, no lock of the database is
    /// held, so other processes can write.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn each_issued(
        &self,
        filter: &Filter,
        mut visit: impl FnMut((Entry, Status)) -> ControlFlow<()>,
    ) -> Result<(), PkiError> {
        let (inventory, issuers) = (self.inventory_to_read()?, self.issuer_keys());
        let now = clock::certificate_now();
        let mut page = filter.clone();
        let mut left = filter.limit;
        loop {
            let limit = left.map_or(PAGE, |left| left.min(PAGE));
            page.limit = Some(limit);
            let found = inventory.find(&issuers, &page)?;
            let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
            for entry in found {
                page.after = Some(entry.id);
                if visit(with_status(entry, now)).is_break() {
                    return Ok(());
                }
            }
            left = left.map(|left| left.saturating_sub(count));
            if count < limit || left == Some(0) {
                return Ok(inventory.check_unchanged()?);
            }
        }
    }

    /// Returns a name in the form that the inventory contains. `text` may be a SPIFFE ID without
    /// its trust domain (`/path`), a mail address, or a host name.
    #[must_use]
    pub fn printed_name(&self, text: &str) -> String {
        if text.starts_with('/') {
            format!("spiffe://{}{text}", self.trust_domain())
        } else if text.contains(':') {
            text.to_owned()
        } else if text.contains('@') {
            format!("mailto:{text}")
        } else {
            format!("dns:{}", text.to_ascii_lowercase())
        }
    }

    /// Opens the inventory, and updates it from `issued.jsonl` and `pki.toml`. The caller of this
    /// function must not hold the lock of the directory.
    pub(super) fn inventory(&self) -> Result<Inventory, PkiError> {
        let mut inventory = Inventory::open(&self.layout().inventory())?;
        if self.layout().journal().exists() {
            let lock = self.layout().lock()?;
            self.take_over_journal(&mut inventory, &lock)?;
        }
        self.copy_revocations(&mut inventory)?;
        Ok(inventory)
    }

    /// Opens the inventory for a command that only reads. If this user may not write to the
    /// inventory, opens it read-only. Missing revocations and records are then added only to a
    /// private copy.
    pub(super) fn inventory_to_read(&self) -> Result<Inventory, PkiError> {
        let path = self.layout().inventory();
        let journal = self.layout().journal();
        if Inventory::is_writable(&path) && (path.exists() || journal.exists()) {
            return self.inventory();
        }
        let mut inventory = Inventory::open_to_read(&path)?;
        if journal.exists() {
            inventory = inventory.private_copy()?;
            let records = state::read_issued(&journal)?;
            let entries: Vec<NewEntry> = records.into_iter().map(from_record).collect();
            inventory.import(&entries)?;
        }
        if self.lacks_revocations(&inventory)? {
            inventory = inventory.private_copy()?;
            self.copy_revocations(&mut inventory)?;
        }
        Ok(inventory)
    }

    fn lacks_revocations(&self, inventory: &Inventory) -> Result<bool, PkiError> {
        let state = self.states.read(&self.layout().state())?;
        for signatory in self.issuers() {
            let key = self.certificate_of(signatory).key_identifier_hex();
            let revoked = || state.revoked.iter().filter(|entry| entry.is_of(signatory));
            if inventory.count_revoked(&key)? != revoked().count()
                && inventory.lacks_one_of(&key, revoked())?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Copies all revocations of `pki.toml` into the inventory. If a crash prevented an earlier
    /// copy, the missing revocations are copied now.
    pub(super) fn copy_revocations(&self, inventory: &mut Inventory) -> Result<(), PkiError> {
        let state = self.states.read(&self.layout().state())?;
        for signatory in self.issuers() {
            let key = self.certificate_of(signatory).key_identifier_hex();
            let revoked = || state.revoked.iter().filter(|entry| entry.is_of(signatory));
            // The counts differ permanently if the inventory has lost a revoked certificate. So
            // `lacks_one_of` checks whether there is a revocation that can be copied.
            if inventory.count_revoked(&key)? != revoked().count()
                && inventory.lacks_one_of(&key, revoked())?
            {
                inventory.mark_revoked(&key, revoked())?;
            }
        }
        Ok(())
    }

    /// Returns the key identifiers of the authorities that have signed leaves, one for each
    /// generation.
    pub(super) fn issuer_keys(&self) -> Vec<String> {
        self.issuers()
            .map(|signatory| self.certificate_of(signatory).key_identifier_hex())
            .collect()
    }

    fn take_over_journal(
        &self,
        inventory: &mut Inventory,
        _: &DirectoryLock,
    ) -> Result<(), PkiError> {
        let journal = self.layout().journal();
        // The records are read under the lock. If another process has already imported them, there
        // is no file now.
        let records = state::read_issued(&journal)?;
        if records.is_empty() && !journal.exists() {
            return Ok(());
        }
        let entries: Vec<NewEntry> = records.into_iter().map(from_record).collect();
        inventory.import(&entries)?;
        inventory::retire_journal(&journal)?;
        Ok(())
    }
}

fn with_status(entry: Entry, now: i64) -> (Entry, Status) {
    let status = if entry.revoked.is_some() {
        Status::Revoked
    } else if clock::certificate_is_over(entry.not_after, now) {
        Status::Expired
    } else {
        Status::Valid
    };
    (entry, status)
}

fn from_record(record: IssuedRecord) -> NewEntry {
    NewEntry {
        serial: record.serial,
        issuer_key: record.issuer_key,
        issuer: String::new(),
        parent: String::new(),
        profile: record.profile,
        names: record.names,
        not_before: record.not_before,
        not_after: record.not_after,
        thumbprint: record.thumbprint,
        certificate: record.certificate,
        issued_at: record
            .not_before
            .saturating_add(super::signing::profile::BACKDATING),
        cause: Cause::Import,
    }
}
