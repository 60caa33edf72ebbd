//! Revokes certificates.
//!
//! A part of [`Pki`]. One `transaction` records the revocations in `pki.toml` and publishes the new
//! lists (see `crls`). So after a crash, either both changes are complete, or neither was made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::crls::SignedCrl;
use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::records::inventory::{Entry, Filter, Inventory};
use super::records::state::State;
use super::signing::revoked::{RevocationReason, RevokedCertificate, normalized_serial};
use super::signing::signatory::{AuthorityName, Signatory};
use crate::clock;
use crate::identity::LeafFacts;

/// Selects the certificates to revoke.
#[derive(Debug, Clone)]
pub enum RevocationTarget {
    /// The first certificate of this PEM file. An authority of this directory must have signed it.
    File(PathBuf),
    /// The certificate with this serial number in hexadecimal. An authority of this directory must
    /// have signed it.
    Serial(String),
    /// The certificate with this serial number in hexadecimal. The inventory need not contain it,
    /// because the inventory may have lost it.
    UnrecordedSerial(String),
    /// The live certificates with this name, in printed form. [`Among`] selects some of them.
    Name(String, Among),
}

/// Selects certificates among all live ones with the same name. A certificate is live if it is
/// neither revoked nor expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// The only live certificate with the name. It is an error if there are several.
    Only,
    /// All live certificates with the name. For example, both certificates after a renewal.
    All,
    /// Live certificates that were signed before this time, in seconds since the Unix epoch.
    IssuedBefore(i64),
}

/// What [`Pki::revoke`] has done.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// The certificates that are revoked now. At least one.
    pub revoked: Vec<Revoked>,
    /// The revocation lists that were published: one for each authority that has signed a revoked
    /// certificate.
    pub crls: Vec<SignedCrl>,
}

/// A certificate that is revoked now.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// The serial number, and the time and reason of the revocation.
    pub entry: RevokedCertificate,
    /// Whether the certificate had already been revoked before this command.
    pub repeated: bool,
}

/// The status of a certificate in the inventory at the time of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The certificate is neither expired nor revoked.
    Valid,
    /// The certificate has expired and is not revoked.
    Expired,
    /// The certificate is revoked, and may have expired.
    Revoked,
}

impl Status {
    /// Returns the word that stands for the status in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Pki {
    /// Revokes certificates and publishes new revocation lists. If all these certificates are
    /// already revoked, it only publishes new lists.
    ///
    /// # Errors
    /// If this authority has not issued the certificate, if the authority cannot sign, or if files
    /// cannot be written.
    pub fn revoke(
        &mut self,
        target: &RevocationTarget,
        reason: RevocationReason,
    ) -> Result<Revocation, PkiError> {
        let found = self.find(target)?;
        // Reads the keys of the authorities before anything is recorded. So with a wrong
        // passphrase, nothing changes.
        let mut authorities = Vec::new();
        for (signatory, _) in &found {
            if !authorities.iter().any(|(known, _)| known == signatory) {
                authorities.push((*signatory, self.load(*signatory)?));
            }
        }
        let lock = self.layout().lock()?;
        let mut state = self.current_state()?;
        let revoked = record_all(&mut state, found, clock::certificate_now(), reason);
        let crls = self.publish(&authorities, None, &mut state, &lock)?;
        drop(lock);
        // `pki.toml` has the revocations now. The inventory has a copy, which is used only for
        // searching. If copying fails here, the next command that opens the inventory copies the
        // revocations (`copy_revocations`).
        let _ = self.mark_revoked(&revoked);
        Ok(Revocation { revoked, crls })
    }

    /// Copies the revocations into the inventory.
    fn mark_revoked(&self, revoked: &[Revoked]) -> Result<(), PkiError> {
        let mut inventory = Inventory::open(&self.layout().inventory())?;
        for signatory in self.issuers() {
            let key = self.certificate_of(signatory).key_identifier_hex();
            let entries = revoked.iter().map(|revoked| &revoked.entry);
            inventory.mark_revoked(&key, entries.filter(|entry| entry.is_of(signatory)))?;
        }
        Ok(())
    }

    /// Returns the serial numbers of the selected certificates, each with the authority that signed
    /// the certificate. Returns at least one.
    ///
    /// # Errors
    /// If no authority of this directory has signed a selected certificate, or if the selection is
    /// ambiguous.
    pub fn find(&self, target: &RevocationTarget) -> Result<Vec<(Signatory, String)>, PkiError> {
        match target {
            RevocationTarget::File(path) => self.find_file(path).map(|found| vec![found]),
            RevocationTarget::Serial(text) => self.find_serial(text).map(|found| vec![found]),
            RevocationTarget::UnrecordedSerial(text) => match self.find_serial(text) {
                // It is unknown which generation has signed the certificate, so each generation
                // revokes the number. A list may contain a serial number that its issuer has never
                // used.
                Err(PkiError::UnknownSerial(serial)) => Ok(self
                    .issuers()
                    .map(|issuer| (issuer, serial.clone()))
                    .collect()),
                found => found.map(|found| vec![found]),
            },
            RevocationTarget::Name(name, among) => self.find_named(name, *among),
        }
    }

    fn find_file(&self, path: &Path) -> Result<(Signatory, String), PkiError> {
        let presented = certificates::read_beside_key(path)?;
        let not_ours = || PkiError::NotIssuedHere(path.to_owned());
        let leaf = presented.first().ok_or_else(not_ours)?;
        let facts = LeafFacts::read(leaf).map_err(|error| PkiError::unreadable(path, error))?;
        let signed = |name| {
            self.signatories(name)
                .find(|signatory| self.certificate_of(*signatory).has_signed(leaf))
        };
        if let Some(intermediate) = signed(AuthorityName::Intermediate) {
            return Ok((intermediate, facts.serial_hex()));
        }
        let root = signed(AuthorityName::Root).ok_or_else(not_ours)?;
        if leaf == self.certificate_of(root).der() {
            return Err(PkiError::RootCannotBeRevoked);
        }
        Ok((root, facts.serial_hex()))
    }

    fn find_serial(&self, text: &str) -> Result<(Signatory, String), PkiError> {
        let serial =
            normalized_serial(text).ok_or_else(|| PkiError::MalformedSerial(text.to_owned()))?;
        let carries = |name| {
            self.signatories(name)
                .find(|signatory| self.certificate_of(*signatory).facts().serial_hex() == serial)
        };
        if let Some(intermediate) = carries(AuthorityName::Intermediate) {
            return Ok((self.root_of(intermediate.generation), serial));
        }
        if carries(AuthorityName::Root).is_some() {
            return Err(PkiError::RootCannotBeRevoked);
        }
        let retired = self.retired_intermediates()?;
        if let Some(intermediate) = retired
            .iter()
            .find(|intermediate| intermediate.certificate.facts().serial_hex() == serial)
        {
            return Ok((intermediate.root, serial));
        }
        let filter = Filter {
            serial: Some(serial.clone()),
            ..Filter::default()
        };
        if let Some((entry, _)) = self.issued(&filter)?.first() {
            return Ok((self.issuer_of(entry)?, serial));
        }
        // No list of a retired intermediate is signed any more. To revoke the number in the lists of
        // the other authorities would leave the certificate valid.
        let inventory = self.inventory_to_read()?;
        for intermediate in retired {
            let key = intermediate.certificate.key_identifier_hex();
            if !inventory.find(&[key], &filter)?.is_empty() {
                return Err(PkiError::IssuerRetired {
                    serial,
                    intermediate: intermediate.path,
                    directory: self.layout().directory().to_owned(),
                });
            }
        }
        Err(PkiError::UnknownSerial(serial))
    }

    /// Returns the authority that signed the certificate of an inventory entry.
    fn issuer_of(&self, entry: &Entry) -> Result<Signatory, PkiError> {
        self.issuers()
            .find(|signatory| {
                self.certificate_of(*signatory).key_identifier_hex() == entry.issuer_key
            })
            .ok_or_else(|| PkiError::UnknownSerial(entry.serial.clone()))
    }

    /// Returns the serial numbers of live certificates with a name, each with the authority that
    /// signed it. After a renewal, the old and the new certificate have the same name. So `among`
    /// must select.
    fn find_named(&self, name: &str, among: Among) -> Result<Vec<(Signatory, String)>, PkiError> {
        let filter = Filter {
            name: Some(name.to_owned()),
            live_at: Some(clock::certificate_now()),
            issued_before: match among {
                Among::IssuedBefore(time) => Some(time),
                Among::Only | Among::All => None,
            },
            ..Filter::default()
        };
        let found = self.issued(&filter)?;
        if found.is_empty() {
            return Err(PkiError::UnknownName(name.to_owned()));
        }
        if found.len() > 1 && among == Among::Only {
            return Err(PkiError::Ambiguous {
                name: name.to_owned(),
                candidates: found
                    .iter()
                    .map(|(entry, _)| {
                        format!(
                            "{}  signed {}  until {}  {}",
                            entry.serial,
                            clock::rfc3339(entry.issued_at),
                            clock::rfc3339(entry.not_after),
                            entry.certificate.display()
                        )
                    })
                    .collect(),
            });
        }
        let found = found.into_iter();
        found
            .map(|(entry, _)| Ok((self.issuer_of(&entry)?, entry.serial)))
            .collect()
    }
}

/// Adds the revocations of the certificates in `found` to `state`, unless `state` already has them.
/// Returns all these revocations, the old and the new ones.
fn record_all(
    state: &mut State,
    found: Vec<(Signatory, String)>,
    now: i64,
    reason: RevocationReason,
) -> Vec<Revoked> {
    let mut places: HashMap<(Signatory, String), usize> = state
        .revoked
        .iter()
        .enumerate()
        .map(|(place, entry)| {
            let issuer = Signatory {
                name: entry.issuer,
                generation: entry.generation,
            };
            ((issuer, entry.serial.clone()), place)
        })
        .collect();
    let mut revoked = Vec::with_capacity(found.len());
    for (issuer, serial) in found {
        let next = state.revoked.len();
        let place = *places.entry((issuer, serial.clone())).or_insert(next);
        if let Some(entry) = state.revoked.get(place) {
            revoked.push(Revoked {
                entry: entry.clone(),
                repeated: true,
            });
            continue;
        }
        let entry = RevokedCertificate {
            issuer: issuer.name,
            generation: issuer.generation,
            serial,
            time: now,
            reason,
        };
        state.revoked.push(entry.clone());
        revoked.push(Revoked {
            entry,
            repeated: false,
        });
    }
    revoked
}
