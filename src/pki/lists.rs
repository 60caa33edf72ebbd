//! Publishing revocation lists.
//!
//! A part of [`Pki`]. While two generations are trusted, `crl/NAME.crl` holds
//! the list of either, the present one's first, so that gateways need no other
//! configuration during a rotation.

use std::path::{Path, PathBuf};

use super::PkiError;
use super::authority::{AuthorityError, CertificateAuthority};
use super::directory::{Pki, unix_now};
use super::lifetime::Lifetime;
use super::revocation::{self, RevocationList};
use super::state::{AuthorityName, Generation, Signatory, State};
use super::store::{self, Audience, Existing};

/// A revocation list that was signed.
#[derive(Debug, Clone)]
pub struct SignedList {
    /// Whose list it is.
    pub authority: AuthorityName,
    /// That authority's generation.
    pub generation: Generation,
    /// That authority's subject, RFC 4514.
    pub issuer: String,
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

impl Pki {
    /// Signs an authority's revocation list anew, with the next number; during a
    /// rotation that of the earlier generation as well, as far as its key is here
    /// and its time is not over. The present generation's list comes first.
    ///
    /// # Errors
    /// When the authority cannot sign or files cannot be written.
    pub fn sign_lists(
        &mut self,
        name: AuthorityName,
        lifetime: Option<Lifetime>,
    ) -> Result<Vec<SignedList>, PkiError> {
        let mut authorities = vec![(self.present(name), self.load_authority(name)?)];
        if let Some(earlier) = self.earlier_signatory(name)
            && self.layout_of(earlier).key(name).exists()
        {
            authorities.push((earlier, self.load(earlier)?));
        }
        let _lock = self.layout().lock()?;
        let mut state = self.current_state()?;
        let mut lists = Vec::with_capacity(authorities.len());
        for (signatory, authority) in &authorities {
            match self.publish(authority, *signatory, lifetime, &mut state) {
                // Its certificates are refused by their issuer's time anyway.
                Err(PkiError::Authority {
                    error: AuthorityError::Expired(_),
                    ..
                }) if !lists.is_empty() => {}
                list => lists.push(list?),
            }
        }
        Ok(lists)
    }

    /// The state as it is now. Under the directory's lock.
    ///
    /// Refuses when the authority was rotated since it was opened: what this
    /// process holds for the present generation no longer is.
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

    /// The number is taken before the list exists, so no number is used twice.
    pub(super) fn publish(
        &self,
        authority: &CertificateAuthority,
        signatory: Signatory,
        lifetime: Option<Lifetime>,
        state: &mut State,
    ) -> Result<SignedList, PkiError> {
        let name = signatory.name;
        let lifetime = lifetime.unwrap_or_else(|| self.list_lifetime(name));
        if lifetime > revocation::LONGEST {
            return Err(PkiError::ListLifetime(lifetime));
        }
        let now = unix_now();
        let number = state.take_number(signatory);
        self.states.write(&self.layout().state(), state)?;
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
        let path = self.layout().crl(name);
        let content = self.beside_the_other(&path, signatory, &pem);
        store::write(
            &path,
            content.as_bytes(),
            Audience::Public,
            Existing::Replace,
        )?;
        Ok(SignedList {
            authority: name,
            generation: signatory.generation,
            issuer: self.certificate_of(signatory).facts().subject.clone(),
            path,
            number,
            this_update: now,
            next_update: list.next_update(),
            entries: list.entries.len(),
        })
    }

    /// A list, and that of the other generation as it stands in the file.
    fn beside_the_other(&self, path: &Path, signatory: Signatory, pem: &str) -> String {
        let is_present = signatory.generation == self.generation;
        let other = match self.earlier_signatory(signatory.name) {
            None => return pem.to_owned(),
            Some(earlier) if is_present => earlier,
            Some(_) => self.present(signatory.name),
        };
        // A file that does not read is about to be replaced by one that does.
        let kept = store::read(path)
            .ok()
            .and_then(|content| list_of(&content, self.certificate_of(other).subject_der()))
            .unwrap_or_default();
        if is_present {
            format!("{pem}{kept}")
        } else {
            format!("{kept}{pem}")
        }
    }
}

/// The list of one issuer among those of a PEM file, as PEM.
pub(super) fn list_of(content: &[u8], issuer: &[u8]) -> Option<String> {
    x509_parser::pem::Pem::iter_from_buffer(content)
        .filter_map(Result::ok)
        .find(|block| {
            x509_parser::parse_x509_crl(&block.contents)
                .is_ok_and(|(_, list)| list.issuer().as_raw() == issuer)
        })
        .map(|block| super::certificates::pem_block("X509 CRL", &block.contents))
}
