//! `Pki`: an authority in a directory. Opening it.
//!
//! Creating is in [`super::creating`], issuing in [`super::issuing`], revoking in
//! [`super::revoking`]. Nothing here talks to a terminal.

use std::path::Path;

use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::Layout;
use super::records::state::{State, StateCache};
use super::signing::authority::CertificateAuthority;
use super::signing::authority_certificate::AuthorityCertificate;
use super::signing::lifetime::Lifetime;
use super::signing::profile::Profiles;
use super::signing::revocation_list;
use super::signing::signatory::{AuthorityName, Generation, Signatory};
use super::store::key;
use crate::identity::TrustDomain;
use crate::secret::Secret;

/// The root and intermediate before the present ones.
#[derive(Debug)]
pub(super) struct EarlierGeneration {
    pub(super) generation: Generation,
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: Option<AuthorityCertificate>,
}

/// An authority in a directory: a root, an intermediate below it (unless the root issues by
/// itself), and the certificates that they issued.
#[derive(Debug)]
pub struct Pki {
    pub(super) layout: Layout,
    pub(super) trust_domain: TrustDomain,
    pub(super) generation: Generation,
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: Option<AuthorityCertificate>,
    /// The generation before, while it is not retired.
    pub(super) earlier: Option<EarlierGeneration>,
    pub(super) passphrase: Option<Secret>,
    /// The authority that signs leaves, with its key. Loaded when it is first needed.
    pub(super) signer: Option<CertificateAuthority>,
    pub(super) profiles: Profiles,
    pub(super) states: StateCache,
}

impl Pki {
    /// Opens an authority. Private keys are read when they are needed.
    ///
    /// # Errors
    /// When the directory holds no complete authority or its files disagree.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let layout = Layout::new(directory);
        let opened = match Self::read_unlocked(&layout)? {
            Some(opened) => opened,
            None => {
                let _lock = layout.lock()?;
                let (states, state) = read_state(&layout)?;
                let opened = Self::read(&layout, &state)?;
                Self { states, ..opened }
            }
        };
        layout.settle_leaves();
        Ok(opened)
    }

    /// Reads it without the lock. Returns nothing if another process changes its files
    /// meanwhile, or was killed while it did.
    fn read_unlocked(layout: &Layout) -> Result<Option<Self>, PkiError> {
        if layout.is_unsettled() {
            return Ok(None);
        }
        let (states, state) = read_state(layout)?;
        let opened = Self::read(layout, &state);
        // A rotation may also have begun and ended in between.
        let after = states.read(&layout.state())?;
        if layout.is_unsettled()
            || after.generation != state.generation
            || after.earlier.is_some() != state.earlier.is_some()
        {
            return Ok(None);
        }
        opened.map(|pki| Some(Self { states, ..pki }))
    }

    fn read(layout: &Layout, state: &State) -> Result<Self, PkiError> {
        let (root, intermediate) = read_generation(layout, state)?;
        let earlier = match state.earlier {
            None => None,
            Some(earlier) => {
                let (root, intermediate) = read_generation(&layout.earlier(), state)?;
                Some(EarlierGeneration {
                    generation: earlier.generation,
                    root,
                    intermediate,
                })
            }
        };
        Ok(Self {
            layout: layout.clone(),
            trust_domain: state.trust_domain.clone(),
            generation: state.generation,
            root,
            intermediate,
            earlier,
            passphrase: None,
            signer: None,
            profiles: Profiles::default(),
            states: StateCache::default(),
        })
    }

    /// Returns the file layout of the directory.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the trust domain of the authority.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the profiles for leaves and intermediates.
    #[must_use]
    pub const fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Takes an operator's profiles in place of the built-in ones.
    pub fn set_profiles(&mut self, profiles: Profiles) {
        self.profiles = profiles;
    }

    /// Returns the authorities of the directory: root and intermediate, or the root alone.
    #[must_use]
    pub const fn authorities(&self) -> &'static [AuthorityName] {
        match self.intermediate {
            Some(_) => &AuthorityName::ALL,
            None => &[AuthorityName::Root],
        }
    }

    /// Returns the authority that signs leaves.
    #[must_use]
    pub const fn issuer(&self) -> AuthorityName {
        match self.intermediate {
            Some(_) => AuthorityName::Intermediate,
            None => AuthorityName::Root,
        }
    }

    /// Returns the lifetime of an authority's revocation list if none is requested.
    #[must_use]
    pub fn crl_lifetime(&self, name: AuthorityName) -> Lifetime {
        revocation_list::default_lifetime(name == self.issuer())
    }

    /// Returns the certificate of an authority. Without an intermediate, returns the root.
    #[must_use]
    pub fn authority(&self, name: AuthorityName) -> &AuthorityCertificate {
        match name {
            AuthorityName::Root => &self.root,
            AuthorityName::Intermediate => self.intermediate.as_ref().unwrap_or(&self.root),
        }
    }

    /// Returns the generation that signs at present.
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

    /// Iterates over the present authority of that name, then the earlier one. Empty if the
    /// intermediate is requested but the root issues by itself.
    pub(super) fn signatories(&self, name: AuthorityName) -> impl Iterator<Item = Signatory> {
        [Some(self.present(name)), self.earlier_signatory(name)]
            .into_iter()
            .flatten()
            .filter(move |signatory| self.authorities().contains(&signatory.name))
    }

    /// Iterates over the authorities that sign leaves: the present one first, then the earlier one.
    pub(super) fn issuers(&self) -> impl Iterator<Item = Signatory> {
        self.signatories(self.issuer())
    }

    pub(super) fn certificate_of(&self, signatory: Signatory) -> &AuthorityCertificate {
        match &self.earlier {
            Some(earlier) if earlier.generation == signatory.generation => match signatory.name {
                AuthorityName::Root => &earlier.root,
                AuthorityName::Intermediate => {
                    earlier.intermediate.as_ref().unwrap_or(&earlier.root)
                }
            },
            _ => self.authority(signatory.name),
        }
    }

    /// Returns the layout with the certificate and key of an authority.
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

    /// Returns the passphrase, if it was set.
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
            None => self.load_authority(self.issuer())?,
        };
        Ok(self.signer.insert(signer))
    }
}

/// Reads `pki.toml`. If it is missing, reports whether there is no authority or an incomplete one.
fn read_state(layout: &Layout) -> Result<(StateCache, State), PkiError> {
    if !layout.state().exists() {
        let directory = layout.directory().to_owned();
        let started = AuthorityName::ALL
            .iter()
            .any(|name| layout.key(*name).exists());
        return Err(if started {
            PkiError::Incomplete(directory)
        } else {
            PkiError::NoAuthority(directory)
        });
    }
    let states = StateCache::default();
    let state = states.read(&layout.state())?;
    Ok((states, state))
}

/// Reads root and intermediate of one generation, and checks that they belong together.
fn read_generation(
    layout: &Layout,
    state: &State,
) -> Result<(AuthorityCertificate, Option<AuthorityCertificate>), PkiError> {
    let domain = &state.trust_domain;
    let root = read_authority(&layout.certificate(AuthorityName::Root), domain)?;
    let path = layout.certificate(AuthorityName::Intermediate);
    let intermediate = match state.root_only {
        true => None,
        false => Some(read_authority(&path, domain)?),
    };
    if let Some(intermediate) = &intermediate
        && !root.has_signed(intermediate.der())
    {
        return Err(PkiError::Disagree {
            path,
            why: "it was not signed by root.pem".to_owned(),
        });
    }
    let both = [
        Some((AuthorityName::Root, &root)),
        intermediate
            .as_ref()
            .map(|certificate| (AuthorityName::Intermediate, certificate)),
    ];
    for (name, certificate) in both.into_iter().flatten() {
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
