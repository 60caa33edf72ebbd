//! `Pki`: an authority in a directory. Opening it.
//!
//! Creating is in [`super::creating`], issuing in [`super::issuing`], revoking in
//! [`super::revoking`]. Nothing here talks to a terminal.

use std::path::Path;

use super::authority::{AuthorityCertificate, CertificateAuthority};
use super::key;
use super::layout::Layout;
use super::state::{AuthorityName, State};
use super::{PkiError, certificates};
use crate::clock;
use crate::identity::TrustDomain;
use crate::secret::Secret;

/// An authority in a directory: a root, an intermediate below it, and what they
/// issued.
#[derive(Debug)]
pub struct Pki {
    pub(super) layout: Layout,
    pub(super) trust_domain: TrustDomain,
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: AuthorityCertificate,
    pub(super) passphrase: Option<Secret>,
    /// The intermediate with its key, once it was needed.
    pub(super) signer: Option<CertificateAuthority>,
}

impl Pki {
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
        let root = read_authority(
            &layout.certificate(AuthorityName::Root),
            &state.trust_domain,
        )?;
        let intermediate = read_authority(
            &layout.certificate(AuthorityName::Intermediate),
            &state.trust_domain,
        )?;
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
        CertificateAuthority::join(self.authority(name).clone(), key)
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

fn read_authority(path: &Path, domain: &TrustDomain) -> Result<AuthorityCertificate, PkiError> {
    let mut read = certificates::read(path)?.into_iter();
    match (read.next(), read.next()) {
        (Some(certificate), None) => AuthorityCertificate::read_for(certificate, Some(domain))
            .map_err(PkiError::authority(path)),
        _ => Err(PkiError::unreadable(path, "it must hold one certificate")),
    }
}
