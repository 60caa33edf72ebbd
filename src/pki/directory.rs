//! `Pki`: an authority in a directory. Opening it.
//!
//! Creating is in [`super::creating`], issuing in [`super::issuing`], revoking in
//! [`super::revoking`]. Nothing here talks to a terminal.

use std::path::Path;

use super::authority::{AuthorityCertificate, CertificateAuthority};
use super::key;
use super::layout::Layout;
use super::state::{AuthorityName, Generation, Signatory, State};
use super::{PkiError, certificates, rotating};
use crate::clock;
use crate::identity::TrustDomain;
use crate::secret::Secret;

/// The root and intermediate before the present ones.
#[derive(Debug)]
pub(super) struct EarlierGeneration {
    pub(super) generation: Generation,
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: AuthorityCertificate,
}

/// An authority in a directory: a root, an intermediate below it, and what they
/// issued.
#[derive(Debug)]
pub struct Pki {
    pub(super) layout: Layout,
    pub(super) trust_domain: TrustDomain,
    pub(super) generation: Generation,
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: AuthorityCertificate,
    /// The generation before, while it is not retired.
    pub(super) earlier: Option<EarlierGeneration>,
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
        // A rotation by another process moves the files while they are read.
        for _ in 0..4 {
            let state = rotating::settled_state(&layout)?;
            let opened = Self::read(&layout, &state);
            let after = State::read(&layout.state())?;
            if !after.unsettled
                && after.generation == state.generation
                && after.earlier.is_some() == state.earlier.is_some()
            {
                return opened;
            }
        }
        Err(PkiError::Rotated(directory.to_owned()))
    }

    fn read(layout: &Layout, state: &State) -> Result<Self, PkiError> {
        let domain = &state.trust_domain;
        let (root, intermediate) = read_generation(layout, domain)?;
        let earlier = match state.earlier {
            None => None,
            Some(earlier) => {
                let (root, intermediate) = read_generation(&layout.earlier(), domain)?;
                Some(EarlierGeneration {
                    generation: earlier.generation,
                    root,
                    intermediate,
                })
            }
        };
        Ok(Self {
            layout: layout.clone(),
            trust_domain: domain.clone(),
            generation: state.generation,
            root,
            intermediate,
            earlier,
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

    /// Which generation of authorities signs at present.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) const fn present(&self, name: AuthorityName) -> Signatory {
        Signatory {
            name,
            generation: self.generation,
        }
    }

    pub(super) fn earlier_signatory(&self, name: AuthorityName) -> Option<Signatory> {
        self.earlier.as_ref().map(|earlier| Signatory {
            name,
            generation: earlier.generation,
        })
    }

    /// The present authority of that name, then the earlier one.
    pub(super) fn signatories(&self, name: AuthorityName) -> impl Iterator<Item = Signatory> {
        [Some(self.present(name)), self.earlier_signatory(name)]
            .into_iter()
            .flatten()
    }

    pub(super) fn certificate_of(&self, signatory: Signatory) -> &AuthorityCertificate {
        match &self.earlier {
            Some(earlier) if earlier.generation == signatory.generation => match signatory.name {
                AuthorityName::Root => &earlier.root,
                AuthorityName::Intermediate => &earlier.intermediate,
            },
            _ => self.authority(signatory.name),
        }
    }

    /// Where the certificate and key of an authority are.
    pub(super) fn layout_of(&self, signatory: Signatory) -> Layout {
        if signatory.generation == self.generation {
            self.layout.clone()
        } else {
            self.layout.earlier()
        }
    }

    pub(super) fn load(&self, signatory: Signatory) -> Result<CertificateAuthority, PkiError> {
        let layout = self.layout_of(signatory);
        let key = key::read(&layout.key(signatory.name), self.passphrase.as_ref())?;
        CertificateAuthority::join(self.certificate_of(signatory).clone(), key)
            .map_err(PkiError::authority(&layout.certificate(signatory.name)))
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
        self.load(self.present(name))
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

/// Root and intermediate of one generation, which belong together.
fn read_generation(
    layout: &Layout,
    domain: &TrustDomain,
) -> Result<(AuthorityCertificate, AuthorityCertificate), PkiError> {
    let root = read_authority(&layout.certificate(AuthorityName::Root), domain)?;
    let path = layout.certificate(AuthorityName::Intermediate);
    let intermediate = read_authority(&path, domain)?;
    if !root.has_signed(intermediate.der()) {
        return Err(PkiError::Disagree {
            path,
            why: "it was not signed by root.pem".to_owned(),
        });
    }
    for (name, certificate) in [
        (AuthorityName::Root, &root),
        (AuthorityName::Intermediate, &intermediate),
    ] {
        if certificate.trust_domain() != domain {
            return Err(PkiError::Disagree {
                path: layout.certificate(name),
                why: format!(
                    "it belongs to trust domain {}, and pki.toml says {domain}",
                    certificate.trust_domain()
                ),
            });
        }
    }
    Ok((root, intermediate))
}

fn read_authority(path: &Path, domain: &TrustDomain) -> Result<AuthorityCertificate, PkiError> {
    let mut read = certificates::read(path)?.into_iter();
    match (read.next(), read.next()) {
        (Some(certificate), None) => AuthorityCertificate::read_for(certificate, Some(domain))
            .map_err(PkiError::authority(path)),
        _ => Err(PkiError::unreadable(path, "it must hold one certificate")),
    }
}
