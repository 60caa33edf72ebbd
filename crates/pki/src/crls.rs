//! Signs and publishes revocation lists.
//!
//! A part of [`Pki`]. During a rotation, two generations of root and intermediate are trusted. The
//! file `crl/NAME.crl` then contains one list for each generation, the current one first. So
//! gateways need no configuration change during a rotation. If both generations have the same root,
//! `crl/root.crl` contains only one list.

use std::path::{Path, PathBuf};

use super::directory::Pki;
use super::files::error::PkiError;
use super::files::layout::Scope;
use super::files::transaction::Transaction;
use super::records::state::State;
use super::root_lists::{Lost, RootList, take_over};
use super::signing::authority::CertificateAuthority;
use super::signing::error::AuthorityError;
use super::signing::lifetime::Lifetime;
use super::signing::revocation_list::{self, RevocationList};
use super::signing::signatory::{AuthorityName, Generation, Signatory};
use super::store::{self, Audience, Existing};
use crate::clock;
use crate::directory_lock::DirectoryLock;
use crate::identity::leaf::significant;
use crate::identity::text::hex;
use crate::pem::{self, PemError};

/// A signed revocation list.
#[derive(Debug, Clone)]
pub struct SignedCrl {
    /// The authority that signed the list.
    pub authority: AuthorityName,
    /// The generation of the authority that signed the list.
    pub generation: Generation,
    /// The subject of the authority that signed the list, in RFC 4514 form.
    pub issuer: String,
    /// The path of the file that contains the list.
    pub path: PathBuf,
    /// The CRL number of the list.
    pub number: u64,
    /// thisUpdate in seconds since the Unix epoch.
    pub this_update: i64,
    /// nextUpdate in seconds since the Unix epoch.
    pub next_update: i64,
    /// Number of certificates that the list revokes.
    pub entries: usize,
}

impl Pki {
    /// Signs a new revocation list of the authority `name`, with the next CRL number. During a
    /// rotation, the same authority of the earlier generation signs a list too, if its key is in
    /// the directory and it has not expired. The list of the current generation is the first in the
    /// result.
    ///
    /// # Errors
    /// If the authority cannot sign, or files cannot be written.
    pub fn sign_crls(
        &mut self,
        name: AuthorityName,
        lifetime: Option<Lifetime>,
    ) -> Result<Vec<SignedCrl>, PkiError> {
        self.sign_numbered_crls(name, lifetime, None)
    }

    /// Checks that the next list of the authority `name` may have the CRL number `number`. During a
    /// rotation, checks this for the earlier generation too.
    ///
    /// # Errors
    /// [`PkiError::ListNumber`] if `number` is lower than the next CRL number, or too high.
    pub fn check_crl_number(&self, name: AuthorityName, number: u64) -> Result<(), PkiError> {
        let mut state = self.states.read(&self.layout().state())?;
        for signatory in self.signatories(name) {
            set_number(&mut state, signatory, number)?;
        }
        Ok(())
    }

    /// Same as [`Pki::sign_crls`], but the lists get the CRL number `number`, if it is given. This
    /// is needed if `pki.toml` was restored from a backup. Gateways may then have seen higher CRL
    /// numbers than `pki.toml` contains.
    ///
    /// # Errors
    /// Same as [`Pki::sign_crls`]. Also if `number` is lower than the next CRL number, or too high.
    pub fn sign_numbered_crls(
        &mut self,
        name: AuthorityName,
        lifetime: Option<Lifetime>,
        number: Option<u64>,
    ) -> Result<Vec<SignedCrl>, PkiError> {
        let mut authorities = vec![(self.present(name), self.load_authority(name)?)];
        if let Some(earlier) = self.earlier_signatory(name)
            && self.layout_of(earlier).key(name).exists()
        {
            authorities.push((earlier, self.load(earlier)?));
        }
        let lock = self.layout().lock()?;
        let mut state = self.current_state()?;
        if let Some(number) = number {
            for (signatory, _) in &authorities {
                set_number(&mut state, *signatory, number)?;
            }
        }
        self.publish(&authorities, lifetime, &mut state, &lock)
    }

    /// Publishes a revocation list of a root whose key is not in the directory. The list was signed
    /// where the key is.
    ///
    /// If `may_lack` is true, the list may lack revocations that were recorded before, and they are
    /// forgotten. Those of intermediates in the directory, and of retired ones that have not expired,
    /// must not be missing.
    ///
    /// # Errors
    /// If gateways cannot use the list, or if no root of this authority has signed it. If the list
    /// is older than the published one, or lacks a certificate that is already revoked. If files
    /// cannot be written.
    pub fn publish_root_list(
        &mut self,
        path: &Path,
        may_lack: bool,
    ) -> Result<SignedCrl, PkiError> {
        let name = AuthorityName::Root;
        if self.issuer() == name {
            return Err(PkiError::NoIntermediate(
                self.layout().directory().to_owned(),
            ));
        }
        let now = clock::certificate_now();
        let mut signatories = self.signatories(name);
        let first = RootList::read(path, &self.root, now).map(|list| (self.present(name), list));
        let (signatory, list) = first.or_else(|error| {
            let found = signatories.find_map(|signatory| {
                let list = RootList::read(path, self.certificate_of(signatory), now).ok()?;
                Some((signatory, list))
            });
            found.ok_or(error)
        })?;
        let lock = self.layout().lock()?;
        let mut state = self.current_state()?;
        let mut known: Vec<String> = self
            .signatories(AuthorityName::Intermediate)
            .filter(|intermediate| self.root_of(intermediate.generation) == signatory)
            .map(|intermediate| self.certificate_of(intermediate).facts().serial_hex())
            .collect();
        for intermediate in self.retired_intermediates()? {
            let facts = intermediate.certificate.facts();
            let is_over = clock::certificate_is_over(facts.not_after, now);
            if intermediate.root == signatory && !is_over {
                known.push(facts.serial_hex());
            }
        }
        let lost = match may_lack {
            true => Lost::RemovedExcept(&known),
            false => Lost::Refused,
        };
        let published = self.kept_list(signatory)?;
        let published = (!published.is_empty()).then_some(published.as_str());
        take_over(&mut state, signatory, &list, published, lost)?;
        let signed = [(signatory, list.pem.clone())];
        let content = self.with_the_others(name, &signed, &state)?;
        let published = self.layout().crl(name);
        let directory = self.layout().crls();
        let mut change = Transaction::begin(self.layout(), Scope::Authority, &[directory], &lock)?;
        change.stage_public(&published, content.as_bytes())?;
        let file = self.layout().state();
        let content = state.to_file(&file)?;
        change.stage_public(&file, &content)?;
        change.commit()?;
        self.states.remember(content, &state);
        Ok(SignedCrl {
            authority: name,
            generation: signatory.generation,
            issuer: self.certificate_of(signatory).facts().subject.clone(),
            path: published,
            number: list.number,
            this_update: list.this_update,
            next_update: list.next_update,
            entries: list.entries.len(),
        })
    }

    /// Whether a list of the current root is published. If the key of the root is elsewhere, the
    /// file may be missing, or contain only the list of the earlier root.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn has_root_list(&self) -> Result<bool, PkiError> {
        let list = self.kept_list(self.present(AuthorityName::Root))?;
        Ok(!list.is_empty())
    }

    /// Reads the current `pki.toml`. The caller of this function must hold the lock of the
    /// directory.
    ///
    /// Fails if another process has rotated the authority since this process opened it, because the
    /// generation in memory is then outdated.
    pub(super) fn current_state(&self) -> Result<State, PkiError> {
        let state = self.states.read(&self.layout().state())?;
        let earlier = state.earlier.map(|earlier| earlier.generation);
        if state.generation != self.generation
            || earlier != self.earlier.as_ref().map(|earlier| earlier.generation)
        {
            return Err(PkiError::Rotated(self.layout().directory().to_owned()));
        }
        Ok(state)
    }

    /// Signs the lists of `authorities` with the revocations in `state`. Publishes the lists and
    /// writes `state` in one transaction. So `pki.toml` has the CRL number of every published list,
    /// and no CRL number is used twice.
    ///
    /// Skips an authority that has expired, because gateways refuse its certificates anyway. If no
    /// list was signed before it, returns an error instead.
    pub(super) fn publish(
        &self,
        authorities: &[(Signatory, CertificateAuthority)],
        lifetime: Option<Lifetime>,
        state: &mut State,
        lock: &DirectoryLock,
    ) -> Result<Vec<SignedCrl>, PkiError> {
        let mut signed: Vec<(Signatory, String)> = Vec::with_capacity(authorities.len());
        let mut lists = Vec::with_capacity(authorities.len());
        for (signatory, authority) in authorities {
            match self.sign_list(authority, *signatory, lifetime, state) {
                Err(PkiError::Authority {
                    error: AuthorityError::Expired(_),
                    ..
                }) if !lists.is_empty() => {}
                list => {
                    let (list, pem) = list?;
                    lists.push(list);
                    signed.push((*signatory, pem));
                }
            }
        }
        let directory = self.layout().crls();
        let mut change = Transaction::begin(self.layout(), Scope::Authority, &[directory], lock)?;
        // The commit renames the files in the order in which they are staged. The lists are staged
        // before `pki.toml`, because gateways wait for new lists.
        for name in AuthorityName::ALL {
            if signed.iter().any(|(signatory, _)| signatory.name == name) {
                let content = self.with_the_others(name, &signed, state)?;
                let path = self.layout().crl(name);
                let content = content.as_bytes();
                change.stage(&path, content, Audience::Public, Existing::Replace)?;
            }
        }
        let path = self.layout().state();
        let content = state.to_file(&path)?;
        change.stage(&path, &content, Audience::Public, Existing::Replace)?;
        change.commit()?;
        self.states.remember(content, state);
        Ok(lists)
    }

    fn sign_list(
        &self,
        authority: &CertificateAuthority,
        signatory: Signatory,
        lifetime: Option<Lifetime>,
        state: &mut State,
    ) -> Result<(SignedCrl, String), PkiError> {
        let name = signatory.name;
        let lifetime = lifetime.unwrap_or_else(|| self.crl_lifetime(name));
        if lifetime > revocation_list::MAX_LIFETIME {
            return Err(PkiError::ListLifetime(lifetime));
        }
        let now = clock::certificate_now();
        let number = state.take_number(signatory);
        let list = RevocationList {
            number,
            this_update: now,
            lifetime,
            entries: state.revoked_by(signatory),
        };
        let signing = self.layout_of(signatory).certificate(name);
        let pem = authority
            .sign_list(&list, now)
            .map_err(PkiError::authority(&signing))?;
        let signed = SignedCrl {
            authority: name,
            generation: signatory.generation,
            issuer: self.certificate_of(signatory).facts().subject.clone(),
            path: self.layout().crl(name),
            number,
            this_update: now,
            next_update: list.next_update(),
            entries: list.entries.len(),
        };
        Ok((signed, pem))
    }

    /// Returns the new content of an authority's CRL file, with one list for each generation. If
    /// `signed` has no new list for a generation, takes its list from the current file.
    fn with_the_others(
        &self,
        name: AuthorityName,
        signed: &[(Signatory, String)],
        state: &State,
    ) -> Result<String, PkiError> {
        let mut content = String::new();
        for signatory in self.signatories(name) {
            match signed.iter().find(|(known, _)| *known == signatory) {
                Some((_, pem)) => content.push_str(pem),
                None => content.push_str(&self.kept_list(signatory)?),
            }
        }
        content.push_str(&self.lists_of_retired(name, state)?);
        Ok(content)
    }

    /// Returns the list of an authority from the current CRL file. Returns an empty text if there
    /// is no list. If the file is damaged, returns an error, because otherwise the list would be
    /// lost.
    fn kept_list(&self, signatory: Signatory) -> Result<String, PkiError> {
        let path = self.layout().crl(signatory.name);
        let Some(content) = store::read_if_present(&path)? else {
            return Ok(String::new());
        };
        list_of(&content, self.certificate_of(signatory).subject_der())
            .map(Option::unwrap_or_default)
            .map_err(|error| self.damaged_list(&path, error))
    }

    /// Returns the lists of retired intermediates from the current CRL file. [`Pki::retire`] leaves
    /// such a list there if the root that signed the intermediate is still trusted and has not
    /// revoked it.
    ///
    /// # Errors
    /// If the file is damaged and may contain such a list. Otherwise signing repairs the file.
    fn lists_of_retired(&self, name: AuthorityName, state: &State) -> Result<String, PkiError> {
        let path = self.layout().crl(name);
        if name == AuthorityName::Root {
            return Ok(String::new());
        }
        let known: Vec<&[u8]> = self
            .signatories(name)
            .map(|signatory| self.certificate_of(signatory).subject_der())
            .collect();
        let read = store::read_if_present(&path).map_err(PkiError::from);
        let lists = read.and_then(|content| {
            lists_except(&content.unwrap_or_default(), &known)
                .map_err(|error| self.damaged_list(&path, error))
        });
        match lists {
            Err(error) if self.has_list_of_retired(state)? => Err(error),
            lists => Ok(lists.unwrap_or_default()),
        }
    }

    /// Whether gateways may still need the list of a retired intermediate.
    fn has_list_of_retired(&self, state: &State) -> Result<bool, PkiError> {
        let now = clock::certificate_now();
        let retired = self.retired_intermediates()?;
        Ok(retired.iter().any(|intermediate| {
            let facts = intermediate.certificate.facts();
            !clock::certificate_is_over(facts.not_after, now)
                && !state.is_revoked(intermediate.root, &facts.serial_hex())
        }))
    }

    pub(super) fn damaged_list(&self, path: &Path, error: PemError) -> PkiError {
        PkiError::DamagedList {
            path: path.to_owned(),
            error,
            directory: self.layout().directory().to_owned(),
        }
    }
}

fn set_number(state: &mut State, signatory: Signatory, asked: u64) -> Result<(), PkiError> {
    state
        .set_next_number(signatory, asked)
        .map_err(|next| PkiError::ListNumber {
            authority: signatory.name,
            next,
            asked,
        })
}

/// Finds the list of one issuer in a file of lists, as PEM.
pub(super) fn list_of(content: &[u8], issuer: &[u8]) -> Result<Option<String>, PemError> {
    let lists = pem::revocation_lists(content)?;
    let list = lists.iter().find(|der| {
        x509_parser::parse_x509_crl(der).is_ok_and(|(_, list)| list.issuer().as_raw() == issuer)
    });
    Ok(list.map(|der| pem::encode_revocation_list(der)))
}

/// Returns the lists in a file of lists that are not of these issuers, as PEM.
pub(super) fn lists_except(content: &[u8], issuers: &[&[u8]]) -> Result<String, PemError> {
    let lists = pem::revocation_lists(content)?;
    let is_other = |der: &[u8]| {
        x509_parser::parse_x509_crl(der)
            .is_ok_and(|(_, list)| !issuers.contains(&list.issuer().as_raw()))
    };
    Ok(lists
        .iter()
        .filter(|der| is_other(der))
        .map(|der| pem::encode_revocation_list(der))
        .collect())
}

/// Whether the list of one issuer, in a file of lists, contains a serial number in hexadecimal.
pub(super) fn revokes(content: &[u8], issuer: &[u8], serial: &str) -> Result<bool, PemError> {
    let lists = pem::revocation_lists(content)?;
    Ok(lists.iter().any(|der| {
        x509_parser::parse_x509_crl(der).is_ok_and(|(_, list)| {
            list.issuer().as_raw() == issuer
                && list
                    .iter_revoked_certificates()
                    .any(|entry| hex(significant(entry.raw_serial())) == serial)
        })
    }))
}
