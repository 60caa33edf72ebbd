//! The records of an authority's certificates: opening the inventory, keeping it in step with
//! `pki.toml`, and searching it.
//!
//! A part of [`Pki`]. Records of the earlier kind (`issued.jsonl`) are taken
//! over once and put aside.

use std::ops::ControlFlow;

use super::directory::Pki;
use super::files::error::PkiError;
use super::records::inventory::{self, Cause, Entry, Filter, Inventory, NewEntry};
use super::records::state::{self, IssuedRecord};
use super::revoking::Status;
use crate::clock;
use crate::directory_lock::DirectoryLock;

/// Number of leaves that are read at once when all leaves are visited.
const PAGE: u32 = 2_000;

impl Pki {
    /// Leaves of this authority, of the earlier generation as well until it is
    /// retired, oldest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn issued(&self, filter: &Filter) -> Result<Vec<(Entry, Status)>, PkiError> {
        let now = clock::certificate_now();
        Ok(self
            .inventory()?
            .find(&self.issuer_keys(), filter)?
            .into_iter()
            .map(|entry| with_status(entry, now))
            .collect())
    }

    /// Calls `visit` with each leaf that [`Self::issued`] would list, until it breaks. Only one
    /// page of leaves is in memory. Between two pages no lock is held, so that other processes can
    /// continue.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn each_issued(
        &self,
        filter: &Filter,
        mut visit: impl FnMut((Entry, Status)) -> ControlFlow<()>,
    ) -> Result<(), PkiError> {
        let (inventory, issuers) = (self.inventory()?, self.issuer_keys());
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
                return Ok(());
            }
        }
    }

    /// Returns a name as the inventory prints it: a SPIFFE ID may be given as `/path`, a host name
    /// without `dns:`.
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

    /// Opens the inventory and brings it up to date. Must not be called under the directory's lock.
    pub(super) fn inventory(&self) -> Result<Inventory, PkiError> {
        let mut inventory = Inventory::open(&self.layout().inventory())?;
        if self.layout().journal().exists() {
            let lock = self.layout().lock()?;
            self.take_over_journal(&mut inventory, &lock)?;
        }
        self.copy_revocations(&mut inventory)?;
        Ok(inventory)
    }

    /// Copies revocations into the inventory. This also repairs a crash between the recording of a
    /// revocation and its copy.
    pub(super) fn copy_revocations(&self, inventory: &mut Inventory) -> Result<(), PkiError> {
        let state = self.states.read(&self.layout().state())?;
        for signatory in self.issuers() {
            let key = self.certificate_of(signatory).key_identifier_hex();
            let revoked = || state.revoked.iter().filter(|entry| entry.is_of(signatory));
            if inventory.count_revoked(&key)? != revoked().count() {
                inventory.mark_revoked(&key, revoked())?;
            }
        }
        Ok(())
    }

    /// Returns the issuer keys whose certificates belong to this authority.
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
        // Another process may have done it while this one waited for the lock.
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
