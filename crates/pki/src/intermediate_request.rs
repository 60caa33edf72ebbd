//! Requests an intermediate from a root whose private key is not in this directory.
//!
//! A part of [`Pki`]. The new key and a copy of the request stay in `pending/` until the root has
//! signed the intermediate. Then [`super::creating`] or [`super::rotating`] reads the signed
//! certificate.

use std::path::{Path, PathBuf};

use super::creating::refuse_existing_authority;
use super::directory::Pki;
use super::files::error::PkiError;
use super::files::layout::{Layout, Scope};
use super::files::own::refuse_own;
use super::files::transaction::Transaction;
use super::signing::authority::CertificateAuthority;
use super::signing::profile::Profiles;
use super::signing::signatory::AuthorityName;
use super::store::key::{self, KeyAlgorithm, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::file_access;
use crate::identity::TrustDomain;

/// Options of a request for an intermediate.
#[derive(Debug, Clone)]
pub struct IntermediateRequest {
    /// The file for the request (PKCS#10) in PEM.
    pub out: PathBuf,
    /// The algorithm of the key. If `None`, the first key type in the profile of intermediates, or
    /// P-256 if the profile has no key types.
    pub algorithm: Option<KeyAlgorithm>,
    /// Whether a pending request and an existing file `out` are replaced.
    pub overwrite: bool,
}

impl Pki {
    /// Makes the key of an intermediate in `directory`, and a request for its certificate.
    /// [`Pki::create_as`] completes the authority with the signed certificate.
    ///
    /// # Errors
    /// If the directory contains an authority or a pending request, or files cannot be written.
    pub fn request_intermediate(
        directory: &Path,
        domain: &TrustDomain,
        profiles: &Profiles,
        protection: &KeyProtection,
        request: &IntermediateRequest,
    ) -> Result<(), PkiError> {
        let layout = Layout::new(directory);
        refuse_existing_authority(&layout)?;
        write_request(&layout, domain, profiles, protection, request)
    }

    /// Makes the key of the next intermediate, and a request for its certificate. The current
    /// intermediate stays in use until [`Pki::prepare_rotation`] gets the signed certificate.
    ///
    /// # Errors
    /// If the authority has no intermediate, if the passphrase is wrong, if a request is pending,
    /// or if files cannot be written.
    pub fn request_next_intermediate(
        &mut self,
        request: &IntermediateRequest,
    ) -> Result<(), PkiError> {
        if self.issuer() == AuthorityName::Root {
            return Err(PkiError::NoIntermediate(
                self.layout().directory().to_owned(),
            ));
        }
        let protection = self.protection()?;
        let (layout, domain) = (self.layout(), self.trust_domain());
        write_request(layout, domain, &self.profiles, &protection, request)
    }

    /// Whether the key of a requested intermediate is encrypted.
    ///
    /// # Errors
    /// If there is no request, or its key cannot be read.
    pub fn is_request_sealed(directory: &Path) -> Result<bool, PkiError> {
        let key = Self::request_key(directory);
        if !key.exists() {
            return Err(PkiError::NoRequest(directory.to_owned()));
        }
        Ok(key::is_sealed(&key)?)
    }

    /// Returns the path of the key of a requested intermediate.
    #[must_use]
    pub fn request_key(directory: &Path) -> PathBuf {
        let pending = Layout::new(directory).pending();
        pending.key(AuthorityName::Intermediate)
    }
}

fn write_request(
    layout: &Layout,
    domain: &TrustDomain,
    profiles: &Profiles,
    protection: &KeyProtection,
    request: &IntermediateRequest,
) -> Result<(), PkiError> {
    refuse_own(&request.out)?;
    let existing = match request.overwrite {
        true => Existing::Replace,
        false => Existing::Refuse,
    };
    let profile = profiles.intermediate();
    let algorithm = request.algorithm.unwrap_or_else(|| profile.new_key_type());
    let new_key = key::generate_for(algorithm)?;
    let csr = CertificateAuthority::request_intermediate(profile, domain, &new_key)
        .map_err(PkiError::authority(&request.out))?;
    store::create_directory(layout.directory())?;
    let lock = layout.lock()?;
    let pending = layout.pending();
    let key_file = pending.key(AuthorityName::Intermediate);
    if key_file.exists() && !request.overwrite {
        return Err(PkiError::RequestPending(pending.intermediate_request()));
    }
    store::create_directory(pending.directory())?;
    let places = [
        pending.directory().to_owned(),
        file_access::parent(&request.out).to_owned(),
    ];
    let mut change = Transaction::begin(layout, Scope::Authority, &places, &lock)?;
    change.stage(&request.out, csr.as_bytes(), Audience::Public, existing)?;
    let copy = pending.intermediate_request();
    change.stage(&copy, csr.as_bytes(), Audience::Public, Existing::Replace)?;
    let pem = key::to_pem(&new_key, protection)?;
    change.stage(
        &key_file,
        pem.as_bytes(),
        Audience::Owner,
        Existing::Replace,
    )?;
    Ok(change.commit()?)
}
