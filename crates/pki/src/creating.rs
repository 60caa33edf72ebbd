//! Creates an authority in a directory, with a new root or with an existing one.
//!
//! A part of [`Pki`]. One `Transaction` writes all files. So after a crash, the directory contains
//! either the earlier files or the complete new authority. The module `generation` makes the
//! certificates.

use std::path::{Path, PathBuf};

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::{Layout, Scope};
use super::files::transaction::Transaction;
use super::generation::{GenerationPlan, NewGeneration, RootSource};
use super::records::state::{State, StateCache};
use super::signed_elsewhere::discard_request;
use super::signing::lifetime::Lifetime;
use super::signing::profile::Profiles;
use super::signing::signatory::{AuthorityName, Generation};
use super::store::key::{self, KeyAlgorithm, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::clock;
use crate::directory_lock::DirectoryLock;
use crate::identity::TrustDomain;

/// Options for [`Pki::create_as`].
#[derive(Debug, Clone)]
pub struct AuthorityOptions {
    /// Whether the private keys are written encrypted with a passphrase.
    pub protection: KeyProtection,
    /// The algorithm of the keys of root and intermediate. If `None`, the root has a P-256 key, and
    /// the intermediate has a key of the first type in its profile, or P-256 if the profile has no
    /// types.
    pub algorithm: Option<KeyAlgorithm>,
    /// Whether the root signs leaves itself, so that there is no intermediate.
    pub root_only: bool,
    /// The certificate profiles of the authority, including the profile for the intermediate.
    pub profiles: Profiles,
    /// Lifetime of the root. If `None`, the lifetime of the built-in profile for roots.
    pub root_lifetime: Option<Lifetime>,
    /// Lifetime of the intermediate. If `None`, the lifetime of its profile.
    pub intermediate_lifetime: Option<Lifetime>,
    /// Path length constraint of a new root: how many intermediates may follow below it in a path.
    pub path_length: Option<u8>,
    /// Where the root comes from.
    pub root: RootSource,
    /// Additional public files, each with its content. They are written in the same transaction as
    /// the authority's files, and replace existing files.
    pub beside: Vec<(PathBuf, String)>,
    /// Whether an authority that already exists in the directory is replaced.
    pub overwrite: bool,
}

impl AuthorityOptions {
    /// Returns the options for a new root and intermediate with P-256 keys.
    #[must_use]
    pub fn new(protection: KeyProtection) -> Self {
        Self {
            protection,
            algorithm: None,
            root_only: false,
            profiles: Profiles::default(),
            root_lifetime: None,
            intermediate_lifetime: None,
            path_length: None,
            root: RootSource::New,
            beside: Vec::new(),
            overwrite: false,
        }
    }
}

impl Pki {
    /// Creates a root, an intermediate and their revocation lists in `directory`. Creates the
    /// directory if it does not exist.
    ///
    /// # Errors
    /// If files of an authority already exist, or files cannot be written.
    pub fn create(
        directory: &Path,
        domain: &TrustDomain,
        protection: &KeyProtection,
    ) -> Result<Self, PkiError> {
        Self::create_as(
            directory,
            domain,
            &AuthorityOptions::new(protection.clone()),
        )
    }

    /// Checks that the directory does not contain an authority.
    ///
    /// # Errors
    /// If files of an authority already exist.
    pub fn check_absent(directory: &Path) -> Result<(), PkiError> {
        let layout = Layout::new(directory);
        // Another process may have been killed after it had committed a new authority. Taking the
        // lock then completes the files of that authority.
        let _lock = match layout.is_unsettled() {
            true => Some(layout.lock()?),
            false => None,
        };
        refuse_existing_authority(&layout)
    }

    /// Same as [`Pki::create`], but replaces an authority that already exists. The certificates of
    /// the replaced authority are then no longer trusted.
    ///
    /// # Errors
    /// If files cannot be written.
    pub fn replace(
        directory: &Path,
        domain: &TrustDomain,
        protection: &KeyProtection,
    ) -> Result<Self, PkiError> {
        let mut options = AuthorityOptions::new(protection.clone());
        options.overwrite = true;
        Self::create_as(directory, domain, &options)
    }

    /// Same as [`Pki::create`], with options.
    ///
    /// # Errors
    /// If files of an authority already exist and `overwrite` is false. If the imported root is not
    /// an authority, or its key belongs to another certificate. If files cannot be written.
    pub fn create_as(
        directory: &Path,
        domain: &TrustDomain,
        options: &AuthorityOptions,
    ) -> Result<Self, PkiError> {
        let layout = Layout::new(directory);
        let now = clock::certificate_now();
        let plan = GenerationPlan {
            layout: &layout,
            domain,
            profiles: &options.profiles,
            source: &options.root,
            root_only: options.root_only,
            algorithm: options.algorithm,
            root_lifetime: options.root_lifetime,
            intermediate_lifetime: options.intermediate_lifetime,
            path_length: options.path_length,
            present: None,
        };
        let is_elsewhere = matches!(options.root, RootSource::SignedElsewhere(_));
        let mut state = State::new(domain.clone(), options.root_only);
        // Without the lock, another process could replace the requested key after it was read.
        let early = match is_elsewhere && directory.is_dir() {
            true => Some(layout.lock()?),
            false => None,
        };
        // Signs the certificates before any file is written, so an invalid option leaves no files.
        let made = plan.make(&mut state, now)?;
        // If the process is killed before the commit, only empty directories and a lock file
        // remain. These do not prevent a new attempt.
        store::create_directory(directory)?;
        let lock = match early {
            Some(lock) => lock,
            None => layout.lock()?,
        };
        let pending = layout.pending().intermediate_request();
        if !is_elsewhere && !options.overwrite && pending.exists() {
            return Err(PkiError::RequestPending(pending));
        }
        // An authority whose root key is elsewhere has fewer files. If it replaced another
        // authority, some files of the replaced authority would remain. So it never replaces one.
        let existing = if options.overwrite && !is_elsewhere {
            Existing::Replace
        } else {
            refuse_existing_authority(&layout)?;
            Existing::Refuse
        };
        store::create_directory(&directory.join("issued"))?;
        store::create_directory(&layout.crls())?;
        write(&layout, options, &made, existing, &state, &lock)?;
        let leftover_key = match is_elsewhere {
            true => discard_request(&layout),
            false => None,
        };
        let absent = || PkiError::Incomplete(directory.to_owned());
        let root = made.certificate(AuthorityName::Root).ok_or_else(absent)?;
        Ok(Self {
            trust_domain: domain.clone(),
            generation: Generation::FIRST,
            earlier: None,
            root: root.clone(),
            intermediate: made.certificate(AuthorityName::Intermediate).cloned(),
            passphrase: options.protection.secret().cloned(),
            signer: made.into_signer(),
            profiles: options.profiles.clone(),
            states: StateCache::default(),
            leftover_key,
            layout,
        })
    }
}

/// Writes the files of a new authority in one transaction.
fn write(
    layout: &Layout,
    options: &AuthorityOptions,
    made: &NewGeneration,
    existing: Existing,
    state: &State,
    lock: &DirectoryLock,
) -> Result<(), PkiError> {
    let mut change = Transaction::begin(layout, Scope::Authority, &[layout.crls()], lock)?;
    let mut public = |path: &Path, content: &[u8], existing| {
        change.stage(path, content, Audience::Public, existing)
    };
    for member in &made.members {
        let pem = certificates::pem(member.certificate.der());
        public(&layout.certificate(member.name), pem.as_bytes(), existing)?;
        if let Some(list) = &member.list {
            public(&layout.crl(member.name), list.as_bytes(), existing)?;
        }
        if member.name == AuthorityName::Root {
            public(&layout.trust(), pem.as_bytes(), existing)?;
        }
    }
    for (path, content) in &options.beside {
        public(path, content.as_bytes(), Existing::Replace)?;
    }
    for member in &made.members {
        if let Some(signer) = &member.signer {
            let pem = key::to_pem(signer.key(), &options.protection)?;
            let path = layout.key(member.name);
            change.stage(&path, pem.as_bytes(), Audience::Owner, existing)?;
        }
    }
    let path = layout.state();
    let content = state.to_file(&path)?;
    change.stage(&path, &content, Audience::Public, existing)?;
    Ok(change.commit()?)
}

/// Refuses a directory with files of an authority.
pub(super) fn refuse_existing_authority(layout: &Layout) -> Result<(), PkiError> {
    if layout.state().exists() {
        return Err(PkiError::AuthorityExists(layout.directory().to_owned()));
    }
    for file in layout.all_fixed_files() {
        store::refuse_existing(&file)?;
    }
    Ok(())
}
