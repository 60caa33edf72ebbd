//! What an authority remembers of its certificates: opening the inventory,
//! keeping it in step with `pki.toml`, and searching it.
//!
//! A part of [`Pki`]. Records of the earlier kind (`issued.jsonl`) are taken
//! over once and put aside.

use super::PkiError;
use super::directory::{Pki, unix_now};
use super::inventory::{self, Cause, Entry, Filter, Inventory, NewEntry};
use super::revoking::Status;
use super::state::{self, IssuedRecord};
use super::store::Lock;

impl Pki {
    /// Leaves of this authority, of the earlier generation as well until it is
    /// retired, oldest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn issued(&self, filter: &Filter) -> Result<Vec<(Entry, Status)>, PkiError> {
        let now = unix_now();
        Ok(self
            .inventory()?
            .find(&self.issuer_keys(), filter)?
            .into_iter()
            .map(|entry| {
                let status = if entry.revoked.is_some() {
                    Status::Revoked
                } else if entry.not_after < now {
                    Status::Expired
                } else {
                    Status::Valid
                };
                (entry, status)
            })
            .collect())
    }

    /// A name as the inventory prints it: a SPIFFE ID may be given as `/path`, a
    /// host name without `dns:`.
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

    /// The inventory, up to date. Must not be called under the directory's lock.
    pub(super) fn inventory(&self) -> Result<Inventory, PkiError> {
        let mut inventory = Inventory::open(&self.layout().inventory())?;
        if self.layout().journal().exists() {
            let lock = self.layout().lock()?;
            self.take_over_journal(&mut inventory, &lock)?;
        }
        self.copy_revocations(&mut inventory)?;
        Ok(inventory)
    }

    /// A crash between recording a revocation and copying it is mended here.
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

    /// Whose certificates are this authority's.
    pub(super) fn issuer_keys(&self) -> Vec<String> {
        self.issuers()
            .map(|signatory| self.certificate_of(signatory).key_identifier_hex())
            .collect()
    }

    fn take_over_journal(&self, inventory: &mut Inventory, _: &Lock) -> Result<(), PkiError> {
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
        issued_at: record.not_before.saturating_add(super::profile::BACKDATING),
        cause: Cause::Import,
    }
}
