//! Creates an authority in a directory, with a new root or with an existing one.
//!
//! A part of [`Pki`]. One `Transaction` writes all files. So after a crash, the directory contains
//! either the earlier files or the complete new authority. [`super::signing::authority`] signs the
//! certificates.

use std::path::{Path, PathBuf};

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::{Layout, Scope};
use super::files::transaction::Transaction;
use super::records::state::{State, StateCache};
use super::signing::authority::{AuthorityKind, CertificateAuthority};
use super::signing::authority_certificate::AuthorityCertificate;
use super::signing::error::AuthorityError;
use super::signing::lifetime::Lifetime;
use super::signing::profile::Profiles;
use super::signing::revocation_list::{self, RevocationList};
use super::signing::signatory::{AuthorityName, Generation};
use super::store::key::{self, KeyAlgorithm, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::clock;
use crate::identity::TrustDomain;
use crate::secret::Secret;

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
    /// The existing root that becomes the root of the authority. If `None`, a new root is made.
    pub import: Option<ExistingRoot>,
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
            import: None,
            beside: Vec::new(),
            overwrite: false,
        }
    }
}

/// A root that another program has made, for [`AuthorityOptions::import`].
#[derive(Debug, Clone)]
pub struct ExistingRoot {
    /// The file with the root's certificate, in PEM.
    pub certificate: PathBuf,
    /// The file with the root's private key, as PKCS#8 in PEM.
    pub key: PathBuf,
    /// The passphrase of the private key, if the key is encrypted.
    pub passphrase: Option<Secret>,
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
        // Signs the certificates before any file is written, so an invalid option leaves no files.
        let (root, intermediate) = authorities(&layout, domain, options, now)?;
        // If the process is killed before the commit, only empty directories and a lock file
        // remain. These do not prevent a new attempt.
        store::create_directory(directory)?;
        let lock = layout.lock()?;
        let existing = if options.overwrite {
            Existing::Replace
        } else {
            refuse_existing_authority(&layout)?;
            Existing::Refuse
        };
        store::create_directory(&directory.join("issued"))?;
        store::create_directory(&layout.crls())?;
        let mut change = Transaction::begin(&layout, Scope::Authority, &[layout.crls()], &lock)?;
        let mut public = |path: &Path, content: &[u8], existing| {
            change.stage(path, content, Audience::Public, existing)
        };
        let mut state = State::new(domain.clone(), options.root_only);
        let both = [
            Some((AuthorityName::Root, &root)),
            intermediate
                .as_ref()
                .map(|authority| (AuthorityName::Intermediate, authority)),
        ];
        for (name, authority) in both.into_iter().flatten() {
            let issues_leaves = options.root_only || name == AuthorityName::Intermediate;
            let pem = certificates::pem(authority.certificate().der());
            public(&layout.certificate(name), pem.as_bytes(), existing)?;
            let list = RevocationList {
                number: state.crl_number.take_next(name),
                this_update: now,
                lifetime: revocation_list::default_lifetime(issues_leaves),
                entries: Vec::new(),
            };
            let pem = authority
                .sign_list(&list, now)
                .map_err(PkiError::authority(&layout.certificate(name)))?;
            public(&layout.crl(name), pem.as_bytes(), existing)?;
        }
        let trust = certificates::pem(root.certificate().der());
        public(&layout.trust(), trust.as_bytes(), existing)?;
        for (path, content) in &options.beside {
            public(path, content.as_bytes(), Existing::Replace)?;
        }
        for (name, authority) in both.into_iter().flatten() {
            let pem = key::to_pem(authority.key(), &options.protection)?;
            let path = layout.key(name);
            change.stage(&path, pem.as_bytes(), Audience::Owner, existing)?;
        }
        let path = layout.state();
        let content = state.to_file(&path)?;
        change.stage(&path, &content, Audience::Public, existing)?;
        change.commit()?;
        Ok(Self {
            layout,
            trust_domain: domain.clone(),
            generation: Generation::FIRST,
            earlier: None,
            root: root.certificate().clone(),
            intermediate: intermediate
                .as_ref()
                .map(|authority| authority.certificate().clone()),
            passphrase: options.protection.secret().cloned(),
            signer: Some(intermediate.unwrap_or(root)),
            profiles: options.profiles.clone(),
            states: StateCache::default(),
        })
    }
}

fn authorities(
    layout: &Layout,
    domain: &TrustDomain,
    options: &AuthorityOptions,
    now: i64,
) -> Result<(CertificateAuthority, Option<CertificateAuthority>), PkiError> {
    let (root, path) = match &options.import {
        Some(existing) => (import(existing, domain)?, existing.certificate.clone()),
        None => {
            let path = layout.certificate(AuthorityName::Root);
            let kind = AuthorityKind {
                algorithm: options.algorithm.unwrap_or_default(),
                lifetime: options.root_lifetime,
                path_length: if options.root_only {
                    Some(0)
                } else {
                    options.path_length
                },
            };
            let root = CertificateAuthority::new_root_as(domain, &kind, now)
                .map_err(PkiError::authority(&path))?;
            (root, path)
        }
    };
    // An imported root can have a name that rcgen cannot copy exactly. So a certificate is signed
    // here in any case: without an intermediate by `check_name`, otherwise the intermediate. This
    // reports a wrong issuer name as an error.
    if options.root_only {
        root.check_name(now).map_err(PkiError::authority(&path))?;
        return Ok((root, None));
    }
    let lifetime = options.intermediate_lifetime;
    let intermediate = new_intermediate(&root, &options.profiles, options.algorithm, lifetime, now)
        .map_err(PkiError::authority(&path))?;
    Ok((root, Some(intermediate)))
}

/// Makes a new intermediate according to its profile, and signs it with `root`.
pub(super) fn new_intermediate(
    root: &CertificateAuthority,
    profiles: &Profiles,
    algorithm: Option<KeyAlgorithm>,
    lifetime: Option<Lifetime>,
    now: i64,
) -> Result<CertificateAuthority, AuthorityError> {
    let profile = profiles.intermediate();
    let kind = AuthorityKind {
        algorithm: algorithm.unwrap_or_else(|| profile.new_key_type()),
        lifetime,
        path_length: None,
    };
    let intermediate = root.new_intermediate_as(profile, &kind, now)?;
    profile.check_key(intermediate.certificate().public_key_der())?;
    Ok(intermediate)
}

fn import(existing: &ExistingRoot, domain: &TrustDomain) -> Result<CertificateAuthority, PkiError> {
    let path = &existing.certificate;
    let disagree = |why: String| PkiError::Disagree {
        path: path.clone(),
        why,
    };
    let mut read = certificates::read_named(path)?.into_iter();
    let (Some(der), None) = (read.next(), read.next()) else {
        return Err(PkiError::unreadable(path, "it must hold one certificate"));
    };
    let certificate =
        AuthorityCertificate::read_for(der, Some(domain)).map_err(PkiError::authority(path))?;
    if !certificate.is_root() {
        return Err(disagree(
            "it is not a root; gateways trust roots only, so import the root that signed it"
                .to_owned(),
        ));
    }
    if certificate.trust_domain() != domain {
        return Err(disagree(format!(
            "it belongs to trust domain {}",
            certificate.trust_domain()
        )));
    }
    let public = certificate.public_key_der();
    let key = key::read_named(&existing.key, existing.passphrase.as_ref(), public)?;
    CertificateAuthority::join(certificate, key).map_err(PkiError::authority(path))
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
