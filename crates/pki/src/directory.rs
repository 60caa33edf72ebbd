//! `Pki`: an authority in a directory. This file opens it.
//!
//! [`super::creating`] creates an authority, [`super::issuing`] issues leaves, and
//! [`super::revoking`] revokes certificates. This module never uses a terminal.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::certificates;
use super::files::error::{PkiError, RootTask};
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

/// Maximum time to wait until another process has completed its change. Only users who may not lock
/// the directory wait in this way.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts to read the files.
const SETTLE_INTERVAL: Duration = Duration::from_millis(20);

/// The root and intermediate of the generation before the current one.
#[derive(Debug)]
pub(super) struct EarlierGeneration {
    pub(super) generation: Generation,
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: Option<AuthorityCertificate>,
}

/// An authority in a directory: a root, its intermediate, and the certificates that they have
/// signed. There is no intermediate if the root signs leaves itself.
#[derive(Debug)]
pub struct Pki {
    pub(super) layout: Layout,
    pub(super) trust_domain: TrustDomain,
    pub(super) generation: Generation,
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: Option<AuthorityCertificate>,
    /// The earlier generation, which is still trusted. `None` if no rotation is in progress.
    pub(super) earlier: Option<EarlierGeneration>,
    pub(super) passphrase: Option<Secret>,
    /// The authority that signs leaves, with its private key. `None` until it is first needed.
    pub(super) signer: Option<CertificateAuthority>,
    pub(super) profiles: Profiles,
    pub(super) states: StateCache,
    /// See [`Pki::leftover_key`].
    pub(super) leftover_key: Option<PathBuf>,
}

impl Pki {
    /// Opens an authority. Private keys are not read until they are needed.
    ///
    /// # Errors
    /// If the directory contains no complete authority, or if its files contradict each other.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let layout = Layout::new(directory);
        let opened = match Self::read_unlocked(&layout)? {
            Some(opened) => opened,
            None => match layout.lock() {
                Ok(_lock) => {
                    let (states, state) = read_state(&layout)?;
                    let opened = Self::read(&layout, &state)?;
                    Self { states, ..opened }
                }
                Err(error) if error.is_denied_lock() => Self::read_when_settled(&layout)?,
                Err(error) => return Err(error),
            },
        };
        layout.settle_leaves();
        Ok(opened)
    }

    /// Reads the authority without the lock of the directory. Returns `None` if a process is
    /// changing the files, or was killed before the change was complete.
    fn read_unlocked(layout: &Layout) -> Result<Option<Self>, PkiError> {
        if layout.is_unsettled() {
            return Ok(None);
        }
        let (states, state) = read_state(layout)?;
        let opened = Self::read(layout, &state);
        // Another process may have rotated the authority while the files were read. The files that
        // were read could then belong to different generations.
        let after = states.read(&layout.state())?;
        if layout.is_unsettled()
            || after.generation != state.generation
            || after.earlier.is_some() != state.earlier.is_some()
        {
            return Ok(None);
        }
        opened.map(|pki| Some(Self { states, ..pki }))
    }

    /// Reads the authority for a user who may not lock the directory. First waits until no other
    /// process is changing the files, for at most `SETTLE_TIMEOUT`.
    fn read_when_settled(layout: &Layout) -> Result<Self, PkiError> {
        let begin = Instant::now();
        while begin.elapsed() < SETTLE_TIMEOUT {
            if let Some(opened) = Self::read_unlocked(layout)? {
                return Ok(opened);
            }
            std::thread::sleep(SETTLE_INTERVAL);
        }
        Err(PkiError::Unsettled(layout.directory().to_owned()))
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
            leftover_key: None,
        })
    }

    /// Returns the paths of the authority's files.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the copy of the intermediate's private key in `pending/`, if the last operation put a
    /// requested intermediate in place and could not remove the copy.
    #[must_use]
    pub fn leftover_key(&self) -> Option<&Path> {
        self.leftover_key.as_deref()
    }

    /// Returns the trust domain of the authority.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the certificate profiles: those for leaves, and the one for intermediates.
    #[must_use]
    pub const fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Sets the certificate profiles. By default, an authority has the built-in profiles.
    pub fn set_profiles(&mut self, profiles: Profiles) {
        self.profiles = profiles;
    }

    /// Returns the names of the authorities: root and intermediate, or only the root.
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

    /// Returns the default lifetime of the revocation lists that the authority `name` signs.
    #[must_use]
    pub fn crl_lifetime(&self, name: AuthorityName) -> Lifetime {
        revocation_list::default_lifetime(name == self.issuer())
    }

    /// Returns the certificate of the authority `name`, of the current generation. If `name` is the
    /// intermediate and there is none, returns the root's certificate.
    #[must_use]
    pub fn authority(&self, name: AuthorityName) -> &AuthorityCertificate {
        match name {
            AuthorityName::Root => &self.root,
            AuthorityName::Intermediate => self.intermediate.as_ref().unwrap_or(&self.root),
        }
    }

    /// Returns the number of the current generation, which signs new certificates.
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

    /// Whether the roots of both generations have the same name and key. The root then has only one
    /// revocation list, which belongs to the current generation. Returns false if there is no
    /// earlier generation.
    #[must_use]
    pub fn keeps_root(&self) -> bool {
        self.earlier
            .as_ref()
            .is_some_and(|earlier| earlier.root.is_same_authority(&self.root))
    }

    /// Returns the root that has signed the intermediate of a generation.
    pub(super) fn root_of(&self, generation: Generation) -> Signatory {
        let name = AuthorityName::Root;
        match self.earlier_signatory(name) {
            Some(earlier) if earlier.generation == generation => earlier,
            _ => self.present(name),
        }
    }

    pub(super) fn earlier_signatory(&self, name: AuthorityName) -> Option<Signatory> {
        if name == AuthorityName::Root && self.keeps_root() {
            return None;
        }
        self.earlier.as_ref().map(|earlier| Signatory {
            name,
            generation: earlier.generation,
        })
    }

    /// Iterates over the authorities with this name: first the authority of the current generation,
    /// then the authority of the earlier generation. Empty if there is no intermediate and `name`
    /// is the intermediate.
    pub(super) fn signatories(&self, name: AuthorityName) -> impl Iterator<Item = Signatory> {
        [Some(self.present(name)), self.earlier_signatory(name)]
            .into_iter()
            .flatten()
            .filter(move |signatory| self.authorities().contains(&signatory.name))
    }

    /// Iterates over the authorities that have signed leaves: first the authority of the current
    /// generation, then the authority of the earlier generation.
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

    /// Returns the paths of an authority's certificate and key. The paths depend on the authority's
    /// generation.
    pub(super) fn layout_of(&self, signatory: Signatory) -> Layout {
        if signatory.generation == self.generation {
            self.layout.clone()
        } else {
            self.layout.earlier()
        }
    }

    pub(super) fn load(&self, signatory: Signatory) -> Result<CertificateAuthority, PkiError> {
        let layout = self.layout_of(signatory);
        self.check_root_key(&layout, signatory.name)?;
        let public = self.certificate_of(signatory).public_key_der();
        let path = layout.key(signatory.name);
        let key = key::read_of(&path, self.passphrase.as_ref(), public)?;
        CertificateAuthority::join(self.certificate_of(signatory).clone(), key)
            .map_err(PkiError::authority(&layout.certificate(signatory.name)))
    }

    /// Whether the authority needs a passphrase to sign: its key is encrypted, and no passphrase is
    /// set.
    ///
    /// # Errors
    /// If the key file cannot be read.
    pub fn needs_passphrase(&self, name: AuthorityName) -> Result<bool, PkiError> {
        if self.passphrase.is_some() {
            return Ok(false);
        }
        self.check_root_key(&self.layout, name)?;
        Ok(key::is_sealed(&self.layout.key(name))?)
    }

    /// Returns an error with advice if `name` is the root and its key is not in the directory. Does
    /// nothing if the authority has no intermediate.
    fn check_root_key(&self, layout: &Layout, name: AuthorityName) -> Result<(), PkiError> {
        if name == AuthorityName::Root && self.intermediate.is_some() && !layout.key(name).exists()
        {
            let directory = layout.directory().to_owned();
            return Err(PkiError::NoRootKey(directory, RootTask::List));
        }
        Ok(())
    }

    /// Sets the passphrase with which encrypted private keys are read.
    pub fn set_passphrase(&mut self, passphrase: Secret) {
        self.passphrase = Some(passphrase);
    }

    /// Returns the passphrase for private keys, if it is set.
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

/// Reads `pki.toml`. If the file is missing, the error depends on whether there are keys of an
/// authority.
fn read_state(layout: &Layout) -> Result<(StateCache, State), PkiError> {
    if !layout.state().exists() {
        let directory = layout.directory().to_owned();
        if layout.pending().key(AuthorityName::Intermediate).exists() {
            return Err(PkiError::Pending(directory));
        }
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

/// Reads the root and the intermediate of one generation. Checks that the root has signed the
/// intermediate.
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
