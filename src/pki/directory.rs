//! `Pki`: an authority in a directory. Creating and opening it.
//!
//! Knows in which order files are written, so that a crash at any point leaves
//! something that works or says what is wrong. Certificates are made by
//! [`super::authority`]; issuing is in [`super::issuing`], revoking in
//! [`super::revoking`]. Nothing here talks to a terminal.

use std::path::Path;

use super::authority::{AuthorityCertificate, CertificateAuthority};
use super::key::{self, KeyProtection};
use super::layout::Layout;
use super::revocation::{self, RevocationList};
use super::state::{AuthorityName, State};
use super::store::{self, Audience, Existing};
use super::{PkiError, certificates};
use crate::clock;
use crate::identity::TrustDomain;
use crate::secret::Secret;

/// An authority in a directory: a root, an intermediate below it, and what they
/// issued.
#[derive(Debug)]
pub struct Pki {
    layout: Layout,
    trust_domain: TrustDomain,
    root: AuthorityCertificate,
    intermediate: AuthorityCertificate,
    passphrase: Option<Secret>,
    /// The intermediate with its key, once it was needed.
    signer: Option<CertificateAuthority>,
}

impl Pki {
    /// Makes a root, an intermediate and their revocation lists in a directory,
    /// which is created where it is not there.
    ///
    /// # Errors
    /// When files of an authority are there already, or cannot be written.
    pub fn create(
        directory: &Path,
        domain: &TrustDomain,
        protection: &KeyProtection,
    ) -> Result<Self, PkiError> {
        Self::create_with(directory, domain, protection, Existing::Refuse)
    }

    /// Checks that [`Pki::create`] would find nothing in its way.
    ///
    /// # Errors
    /// When files of an authority are there already.
    pub fn check_absent(directory: &Path) -> Result<(), PkiError> {
        refuse_existing_authority(&Layout::new(directory))
    }

    /// Like [`Pki::create`], replacing an authority that is there already.
    /// Nothing it issued will be trusted any longer.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn replace(
        directory: &Path,
        domain: &TrustDomain,
        protection: &KeyProtection,
    ) -> Result<Self, PkiError> {
        Self::create_with(directory, domain, protection, Existing::Replace)
    }

    fn create_with(
        directory: &Path,
        domain: &TrustDomain,
        protection: &KeyProtection,
        existing: Existing,
    ) -> Result<Self, PkiError> {
        let layout = Layout::new(directory);
        store::create_directory(directory)?;
        let _lock = layout.lock()?;
        match existing {
            Existing::Refuse => refuse_existing_authority(&layout)?,
            // `pki.toml` is written last: while it is missing, every other
            // command says that the authority is incomplete.
            Existing::Replace => store::remove(&layout.state())?,
        }
        store::create_directory(&directory.join("issued"))?;
        store::create_directory(&directory.join("crl"))?;
        let now = unix_now();
        let mut state = State::new(domain.clone());
        let root = CertificateAuthority::new_root(domain, now).map_err(PkiError::authority(
            &layout.certificate(AuthorityName::Root),
        ))?;
        let intermediate = root.new_intermediate(now).map_err(PkiError::authority(
            &layout.certificate(AuthorityName::Root),
        ))?;
        for (name, authority) in [
            (AuthorityName::Root, &root),
            (AuthorityName::Intermediate, &intermediate),
        ] {
            key::stage(&layout.key(name), authority.key(), protection, existing)?.place()?;
            let pem = certificates::pem(authority.certificate().der());
            store::write(
                &layout.certificate(name),
                pem.as_bytes(),
                Audience::Public,
                existing,
            )?;
            let list = RevocationList {
                number: state.crl_number.take_next(name),
                this_update: now,
                lifetime: revocation::default_lifetime(name),
                entries: Vec::new(),
            };
            let pem = authority
                .sign_list(&list, now)
                .map_err(PkiError::authority(&layout.certificate(name)))?;
            store::write(
                &layout.crl(name),
                pem.as_bytes(),
                Audience::Public,
                existing,
            )?;
        }
        let trust = certificates::pem(root.certificate().der());
        store::write(
            &layout.trust(),
            trust.as_bytes(),
            Audience::Public,
            existing,
        )?;
        state.write(&layout.state())?;
        Ok(Self {
            layout,
            trust_domain: domain.clone(),
            root: root.certificate().clone(),
            intermediate: intermediate.certificate().clone(),
            passphrase: protection.secret().cloned(),
            signer: Some(intermediate),
        })
    }

    /// Opens an authority. Private keys are read when they are needed.
    ///
    /// # Errors
    /// When the directory holds no complete authority or its files disagree.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let layout = Layout::new(directory);
        if !layout.state().exists() {
            let started = AuthorityName::ALL
                .iter()
                .any(|name| layout.key(*name).exists());
            return Err(if started {
                PkiError::Incomplete(directory.to_owned())
            } else {
                PkiError::NoAuthority(directory.to_owned())
            });
        }
        let state = State::read(&layout.state())?;
        let root = read_authority(&layout.certificate(AuthorityName::Root))?;
        let intermediate = read_authority(&layout.certificate(AuthorityName::Intermediate))?;
        if !root.has_signed(intermediate.der()) {
            return Err(PkiError::Disagree {
                path: layout.certificate(AuthorityName::Intermediate),
                why: "it was not signed by root.pem".to_owned(),
            });
        }
        for (name, certificate) in [
            (AuthorityName::Root, &root),
            (AuthorityName::Intermediate, &intermediate),
        ] {
            if *certificate.trust_domain() != state.trust_domain {
                return Err(PkiError::Disagree {
                    path: layout.certificate(name),
                    why: format!(
                        "it belongs to trust domain {}, and pki.toml says {}",
                        certificate.trust_domain(),
                        state.trust_domain
                    ),
                });
            }
        }
        Ok(Self {
            layout,
            trust_domain: state.trust_domain,
            root,
            intermediate,
            passphrase: None,
            signer: None,
        })
    }

    /// Where its files are.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The trust domain it vouches for.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificate of one of its authorities.
    #[must_use]
    pub const fn authority(&self, name: AuthorityName) -> &AuthorityCertificate {
        match name {
            AuthorityName::Root => &self.root,
            AuthorityName::Intermediate => &self.intermediate,
        }
    }

    /// Whether a passphrase is needed before this authority can sign.
    ///
    /// # Errors
    /// When its key file cannot be read.
    pub fn needs_passphrase(&self, name: AuthorityName) -> Result<bool, PkiError> {
        if self.passphrase.is_some() {
            return Ok(false);
        }
        Ok(key::is_sealed(&self.layout.key(name))?)
    }

    /// Sets the passphrase for encrypted keys.
    pub fn set_passphrase(&mut self, passphrase: Secret) {
        self.passphrase = Some(passphrase);
    }

    /// The passphrase, once it was set.
    #[must_use]
    pub const fn passphrase(&self) -> Option<&Secret> {
        self.passphrase.as_ref()
    }

    pub(super) fn load_authority(
        &self,
        name: AuthorityName,
    ) -> Result<CertificateAuthority, PkiError> {
        let key = key::read(&self.layout.key(name), self.passphrase.as_ref())?;
        CertificateAuthority::load(self.authority(name).der().clone(), key)
            .map_err(PkiError::authority(&self.layout.certificate(name)))
    }

    pub(super) fn signer(&mut self) -> Result<&CertificateAuthority, PkiError> {
        let signer = match self.signer.take() {
            Some(signer) => signer,
            None => self.load_authority(AuthorityName::Intermediate)?,
        };
        Ok(self.signer.insert(signer))
    }
}

pub(super) fn unix_now() -> i64 {
    i64::try_from(clock::unix_now()).unwrap_or(i64::MAX)
}

fn refuse_existing_authority(layout: &Layout) -> Result<(), PkiError> {
    if layout.state().exists() {
        return Err(PkiError::AuthorityExists(layout.directory().to_owned()));
    }
    for file in layout.all_fixed_files() {
        store::refuse_existing(&file)?;
    }
    Ok(())
}

fn read_authority(path: &Path) -> Result<AuthorityCertificate, PkiError> {
    let mut read = certificates::read(path)?.into_iter();
    match (read.next(), read.next()) {
        (Some(certificate), None) => {
            AuthorityCertificate::read(certificate).map_err(PkiError::authority(path))
        }
        _ => Err(PkiError::unreadable(path, "it must hold one certificate")),
    }
}
