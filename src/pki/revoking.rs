//! Revoking certificates and publishing lists.
//!
//! The second half of [`Pki`]. A revocation is recorded before the list that
//! says so is written, so that a crash in between loses nothing: the next list
//! has it.

use std::path::PathBuf;

use super::authority::CertificateAuthority;
use super::directory::{Pki, unix_now};
use super::inventory::Filter;
use super::lifetime::Lifetime;
use super::revocation::{self, RevocationList, RevocationReason, normalized_serial};
use super::state::{AuthorityName, RevokedCertificate, State};
use super::store::{self, Audience, Existing};
use super::{PkiError, certificates};
use crate::clock;
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
    /// A name that live certificates carry, in printed form.
    Name(String, Among),
}

/// Which of the live certificates that carry a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// The only one there is.
    Only,
    /// All of them.
    All,
    /// Those signed before this time, in seconds since the Unix epoch.
    IssuedBefore(i64),
}

/// What a revocation did.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// Each certificate; at least one.
    pub revoked: Vec<Revoked>,
    /// The list that says so.
    pub list: SignedList,
}

/// A certificate that is revoked now.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// Its serial number, when and why it was revoked: now, or earlier.
    pub entry: RevokedCertificate,
    /// It had been revoked before.
    pub repeated: bool,
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
        let (name, serials) = self.find(target)?;
        // Before anything is recorded: a wrong passphrase changes nothing.
        let authority = self.load_authority(name)?;
        let mut inventory = self.inventory()?;
        let _lock = self.layout().lock()?;
        let mut state = State::read(&self.layout().state())?;
        let now = unix_now();
        let revoked = serials
            .into_iter()
            .map(|serial| record(&mut state, name, serial, now, reason))
            .collect();
        let list = self.publish(&authority, name, None, &mut state)?;
        self.copy_revocations(&mut inventory)?;
        Ok(Revocation { revoked, list })
    }

    /// Which authority signed the target, and its serial numbers; at least one.
    ///
    /// # Errors
    /// When neither did.
    pub fn find(
        &self,
        target: &RevocationTarget,
    ) -> Result<(AuthorityName, Vec<String>), PkiError> {
        match target {
            RevocationTarget::File(path) => {
                let presented = certificates::read(path)?;
                let not_ours = || PkiError::NotIssuedHere(path.clone());
                let leaf = presented.first().ok_or_else(not_ours)?;
                let facts =
                    LeafFacts::read(leaf).map_err(|error| PkiError::unreadable(path, error))?;
                if self.authority(AuthorityName::Intermediate).has_signed(leaf) {
                    Ok((AuthorityName::Intermediate, vec![facts.serial_hex()]))
                } else if leaf == self.authority(AuthorityName::Root).der() {
                    Err(PkiError::RootCannotBeRevoked)
                } else if self.authority(AuthorityName::Root).has_signed(leaf) {
                    Ok((AuthorityName::Root, vec![facts.serial_hex()]))
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
                    return Ok((AuthorityName::Root, vec![serial]));
                }
                if serial == self.authority(AuthorityName::Root).facts().serial_hex() {
                    return Err(PkiError::RootCannotBeRevoked);
                }
                let filter = Filter {
                    serial: Some(serial.clone()),
                    ..Filter::default()
                };
                if self.issued(&filter)?.is_empty() {
                    return Err(PkiError::UnknownSerial(serial));
                }
                Ok((AuthorityName::Intermediate, vec![serial]))
            }
            RevocationTarget::Name(name, among) => {
                Ok((AuthorityName::Intermediate, self.find_named(name, *among)?))
            }
        }
    }

    /// Serial numbers of the live certificates that carry a name. A renewed
    /// certificate and its predecessor carry the same one: which of them is
    /// meant is not guessed.
    fn find_named(&self, name: &str, among: Among) -> Result<Vec<String>, PkiError> {
        let filter = Filter {
            name: Some(name.to_owned()),
            live_at: Some(unix_now()),
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
        Ok(found.into_iter().map(|(entry, _)| entry.serial).collect())
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

/// Adds a revocation to the records unless it is there.
fn record(
    state: &mut State,
    issuer: AuthorityName,
    serial: String,
    now: i64,
    reason: RevocationReason,
) -> Revoked {
    let known = state
        .revoked
        .iter()
        .find(|entry| entry.issuer == issuer && entry.serial == serial);
    if let Some(entry) = known {
        return Revoked {
            entry: entry.clone(),
            repeated: true,
        };
    }
    let entry = RevokedCertificate {
        issuer,
        serial,
        time: now,
        reason,
    };
    state.revoked.push(entry.clone());
    Revoked {
        entry,
        repeated: false,
    }
}
