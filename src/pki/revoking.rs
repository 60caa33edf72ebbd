//! Revoking certificates, publishing lists, and listing what was issued.
//!
//! The second half of [`Pki`]. A revocation is recorded before the list that
//! says so is written, so that a crash in between loses nothing: the next list
//! has it.

use std::collections::HashSet;
use std::path::PathBuf;

use super::authority::CertificateAuthority;
use super::directory::{Pki, unix_now};
use super::lifetime::Lifetime;
use super::revocation::{self, RevocationList, RevocationReason, normalized_serial};
use super::state::{self, AuthorityName, IssuedRecord, RevokedCertificate, State};
use super::store::{self, Audience, Existing};
use super::{PkiError, certificates};
use crate::identity::LeafFacts;

/// A revocation list that was signed.
#[derive(Debug, Clone)]
pub struct SignedList {
    /// Whose list it is.
    pub authority: AuthorityName,
    /// Its file.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
    /// Seconds since the Unix epoch.
    pub this_update: i64,
    /// Seconds since the Unix epoch.
    pub next_update: i64,
    /// How many certificates it revokes.
    pub entries: usize,
}

/// Which certificate to revoke.
#[derive(Debug, Clone)]
pub enum RevocationTarget {
    /// The first certificate of a PEM file, which this authority must have signed.
    File(PathBuf),
    /// A serial number in hexadecimal, which this authority must have issued.
    Serial(String),
}

/// What a revocation did.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// The serial number.
    pub serial: String,
    /// When, and why, it was revoked: now, or earlier.
    pub entry: RevokedCertificate,
    /// It had been revoked before.
    pub repeated: bool,
    /// The list that says so.
    pub list: SignedList,
}

/// How a certificate of the inventory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// In its time and not revoked.
    Valid,
    /// Its time is over.
    Expired,
    /// It is on the revocation list.
    Revoked,
}

impl Status {
    /// The word in listings.
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
    /// Signs an authority's revocation list anew, with the next number.
    ///
    /// # Errors
    /// When the authority cannot sign or files cannot be written.
    pub fn sign_list(
        &mut self,
        name: AuthorityName,
        lifetime: Option<Lifetime>,
    ) -> Result<SignedList, PkiError> {
        let authority = self.load_authority(name)?;
        let _lock = self.layout().lock()?;
        let mut state = State::read(&self.layout().state())?;
        self.publish(&authority, name, lifetime, &mut state)
    }

    /// Revokes a certificate and publishes the list that says so. Repeating it
    /// changes nothing but publishes the list again.
    ///
    /// # Errors
    /// When this authority did not issue the certificate, cannot sign, or files
    /// cannot be written.
    pub fn revoke(
        &mut self,
        target: &RevocationTarget,
        reason: RevocationReason,
    ) -> Result<Revocation, PkiError> {
        let (name, serial) = self.find(target)?;
        // Before anything is recorded: a wrong passphrase changes nothing.
        let authority = self.load_authority(name)?;
        let _lock = self.layout().lock()?;
        let mut state = State::read(&self.layout().state())?;
        let known = state
            .revoked
            .iter()
            .find(|entry| entry.issuer == name && entry.serial == serial)
            .cloned();
        let repeated = known.is_some();
        let entry = match known {
            Some(entry) => entry,
            None => {
                let entry = RevokedCertificate {
                    issuer: name,
                    serial: serial.clone(),
                    time: unix_now(),
                    reason,
                };
                state.revoked.push(entry.clone());
                entry
            }
        };
        let list = self.publish(&authority, name, None, &mut state)?;
        Ok(Revocation {
            serial,
            entry,
            repeated,
            list,
        })
    }

    /// Every certificate this authority's intermediate issued, oldest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn issued(&self) -> Result<Vec<(IssuedRecord, Status)>, PkiError> {
        let state = State::read(&self.layout().state())?;
        let revoked: HashSet<&str> = state
            .revoked
            .iter()
            .filter(|entry| entry.issuer == AuthorityName::Intermediate)
            .map(|entry| entry.serial.as_str())
            .collect();
        let now = unix_now();
        Ok(self
            .own_records()?
            .into_iter()
            .map(|record| {
                let status = if revoked.contains(record.serial.as_str()) {
                    Status::Revoked
                } else if record.not_after < now {
                    Status::Expired
                } else {
                    Status::Valid
                };
                (record, status)
            })
            .collect())
    }

    /// Which authority signed the target, and its serial number.
    ///
    /// # Errors
    /// When neither did.
    pub fn find(&self, target: &RevocationTarget) -> Result<(AuthorityName, String), PkiError> {
        match target {
            RevocationTarget::File(path) => {
                let presented = certificates::read(path)?;
                let not_ours = || PkiError::NotIssuedHere(path.clone());
                let leaf = presented.first().ok_or_else(not_ours)?;
                let facts =
                    LeafFacts::read(leaf).map_err(|error| PkiError::unreadable(path, error))?;
                if self.authority(AuthorityName::Intermediate).has_signed(leaf) {
                    Ok((AuthorityName::Intermediate, facts.serial_hex()))
                } else if leaf == self.authority(AuthorityName::Root).der() {
                    Err(PkiError::RootCannotBeRevoked)
                } else if self.authority(AuthorityName::Root).has_signed(leaf) {
                    Ok((AuthorityName::Root, facts.serial_hex()))
                } else {
                    Err(not_ours())
                }
            }
            RevocationTarget::Serial(text) => {
                let serial = normalized_serial(text)
                    .ok_or_else(|| PkiError::MalformedSerial(text.clone()))?;
                if serial
                    == self
                        .authority(AuthorityName::Intermediate)
                        .facts()
                        .serial_hex()
                {
                    return Ok((AuthorityName::Root, serial));
                }
                if serial == self.authority(AuthorityName::Root).facts().serial_hex() {
                    return Err(PkiError::RootCannotBeRevoked);
                }
                if self
                    .own_records()?
                    .iter()
                    .any(|record| record.serial == serial)
                {
                    return Ok((AuthorityName::Intermediate, serial));
                }
                Err(PkiError::UnknownSerial(serial))
            }
        }
    }

    fn own_records(&self) -> Result<Vec<IssuedRecord>, PkiError> {
        let issuer_key = self
            .authority(AuthorityName::Intermediate)
            .key_identifier_hex();
        let mut records = state::read_issued(&self.layout().journal())?;
        records.retain(|record| record.issuer_key == issuer_key);
        Ok(records)
    }

    /// The number is taken before the list exists, so no number is used twice.
    fn publish(
        &self,
        authority: &CertificateAuthority,
        name: AuthorityName,
        lifetime: Option<Lifetime>,
        state: &mut State,
    ) -> Result<SignedList, PkiError> {
        let lifetime = lifetime.unwrap_or(revocation::default_lifetime(name));
        if lifetime > revocation::LONGEST {
            return Err(PkiError::ListLifetime(lifetime));
        }
        let now = unix_now();
        let number = state.crl_number.take_next(name);
        state.write(&self.layout().state())?;
        let list = RevocationList {
            number,
            this_update: now,
            lifetime,
            entries: state
                .revoked
                .iter()
                .filter(|entry| entry.issuer == name)
                .collect(),
        };
        let pem = authority
            .sign_list(&list, now)
            .map_err(PkiError::authority(&self.layout().certificate(name)))?;
        let path = self.layout().crl(name);
        store::write(&path, pem.as_bytes(), Audience::Public, Existing::Replace)?;
        Ok(SignedList {
            authority: name,
            path,
            number,
            this_update: now,
            next_update: list.next_update(),
            entries: list.entries.len(),
        })
    }
}
