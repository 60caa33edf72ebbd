//! Publishing revocation lists.
//!
//! A part of [`Pki`]. While two generations are trusted, `crl/NAME.crl` holds one list for each,
//! the current generation's first. Gateways then need no other configuration during a
//! rotation.

use std::io;
use std::path::{Path, PathBuf};

use super::directory::Pki;
use super::files::error::PkiError;
use super::files::layout::Scope;
use super::files::transaction::Transaction;
use super::records::state::State;
use super::signing::authority::CertificateAuthority;
use super::signing::error::AuthorityError;
use super::signing::lifetime::Lifetime;
use super::signing::revocation_list::{self, RevocationList};
use super::signing::signatory::{AuthorityName, Generation, Signatory};
use super::store::{self, Audience, Existing, StoreError};
use crate::clock;
use crate::directory_lock::DirectoryLock;
use crate::pem::{self, PemError};

/// A revocation list that was signed.
#[derive(Debug, Clone)]
pub struct SignedCrl {
    /// The authority that issued the list.
    pub authority: AuthorityName,
    /// The generation of that authority.
    pub generation: Generation,
    /// The subject of that authority, in RFC 4514 form.
    pub issuer: String,
    /// The file of the list.
    pub path: PathBuf,
    /// The CRL number of the list.
    pub number: u64,
    /// Seconds since the Unix epoch.
    pub this_update: i64,
    /// Seconds since the Unix epoch.
    pub next_update: i64,
    /// Number of certificates that the list revokes.
    pub entries: usize,
}

impl Pki {
    /// Signs an authority's revocation list anew, with the next number; during a
    /// rotation that of the earlier generation as well, as far as its key is here
    /// and its time is not over. The present generation's list comes first.
    ///
    /// # Errors
    /// When the authority cannot sign or files cannot be written.
    pub fn sign_crls(
        &mut self,
        name: AuthorityName,
        lifetime: Option<Lifetime>,
    ) -> Result<Vec<SignedCrl>, PkiError> {
        let mut authorities = vec![(self.present(name), self.load_authority(name)?)];
        if let Some(earlier) = self.earlier_signatory(name)
            && self.layout_of(earlier).key(name).exists()
        {
            authorities.push((earlier, self.load(earlier)?));
        }
        let lock = self.layout().lock()?;
        let mut state = self.current_state()?;
        self.publish(&authorities, lifetime, &mut state, &lock)
    }

    /// Reads the present state. The caller holds the directory's lock.
    ///
    /// Fails if the authority was rotated since it was opened: the generation that this process
    /// holds is then no longer the present one.
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

    /// Signs the lists that follow from `state`, and publishes them together with `state`. So
    /// `state` knows of every published list, and no CRL number is used twice. Omits the list of an
    /// earlier generation that has expired, if there is another list: the certificates of that
    /// generation are refused anyway.
    ///
    /// Leaves out the list of an earlier generation that has expired, if there is
    /// another: its certificates are refused anyway.
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
        // Lists first: gateways wait for them.
        for name in AuthorityName::ALL {
            if signed.iter().any(|(signatory, _)| signatory.name == name) {
                let content = self.with_the_others(name, &signed)?;
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
            entries: state
                .revoked
                .iter()
                .filter(|entry| entry.is_of(signatory))
                .collect(),
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

    /// Returns the new content of the authority's CRL file. A generation that is not in `signed`
    /// keeps its list from the current file.
    fn with_the_others(
        &self,
        name: AuthorityName,
        signed: &[(Signatory, String)],
    ) -> Result<String, PkiError> {
        let mut content = String::new();
        for signatory in self.signatories(name) {
            match signed.iter().find(|(known, _)| *known == signatory) {
                Some((_, pem)) => content.push_str(pem),
                None => content.push_str(&self.kept_list(signatory)?),
            }
        }
        Ok(content)
    }

    /// Reads the list of an authority that does not sign now from its file. Returns an empty text
    /// if there is none. Refuses a damaged file, because the list would be lost.
    fn kept_list(&self, signatory: Signatory) -> Result<String, PkiError> {
        let path = self.layout().crl(signatory.name);
        let content = match store::read(&path) {
            Err(StoreError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(String::new());
            }
            content => content?,
        };
        list_of(&content, self.certificate_of(signatory).subject_der())
            .map(Option::unwrap_or_default)
            .map_err(|error| self.damaged_list(&path, error))
    }

    pub(super) fn damaged_list(&self, path: &Path, error: PemError) -> PkiError {
        PkiError::DamagedList {
            path: path.to_owned(),
            error,
            directory: self.layout().directory().to_owned(),
        }
    }
}

/// Finds the list of one issuer in a file of lists, as PEM.
pub(super) fn list_of(content: &[u8], issuer: &[u8]) -> Result<Option<String>, PemError> {
    let lists = pem::revocation_lists(content)?;
    let list = lists.iter().find(|der| {
        x509_parser::parse_x509_crl(der).is_ok_and(|(_, list)| list.issuer().as_raw() == issuer)
    });
    Ok(list.map(|der| pem::encode_revocation_list(der)))
}
