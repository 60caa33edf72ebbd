//! Replaces root and intermediate in two stages: prepare, then retire.
//!
//! A part of [`Pki`]. A generation is a root with its intermediate. `prepare_rotation` makes a new
//! generation, and moves the current one to `earlier/`. The earlier generation stays trusted, until
//! `retire` moves it to `retired/`. Each stage is one `Transaction`. So after a crash, the files
//! are as before or after the stage. Keys are never deleted.

use std::io;
use std::path::PathBuf;

use super::crls::{list_of, lists_except, revokes};
use super::directory::{EarlierGeneration, Pki};
use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::{Layout, Scope};
use super::files::transaction::Transaction;
use super::generation::{GenerationPlan, NewGeneration, PresentRoot, RootSource};
use super::records::inventory::{Entry, Filter};
use super::records::state::State;
use super::signed_elsewhere::discard_request;
use super::signing::authority_certificate::AuthorityCertificate;
use super::signing::lifetime::Lifetime;
use super::signing::signatory::{AuthorityName, Generation, Signatory};
use super::store::key::{self, KeyAlgorithm, KeyError, KeyProtection};
use super::store::{self, Audience, Existing, StoreError};
use crate::clock;
use crate::directory_lock::DirectoryLock;

/// Options for [`Pki::prepare_rotation`].
#[derive(Debug, Clone, Default)]
pub struct RotationOptions {
    /// Where the root of the new generation comes from.
    pub root: RootSource,
    /// The algorithm of the keys of the new root and intermediate. If `None`, the default is the
    /// same as in [`super::AuthorityOptions`].
    pub algorithm: Option<KeyAlgorithm>,
    /// Lifetime of the new root. If `None`, the lifetime of the built-in profile for roots.
    pub root_lifetime: Option<Lifetime>,
    /// Lifetime of the new intermediate. If `None`, the lifetime of its profile.
    pub intermediate_lifetime: Option<Lifetime>,
}

/// A rotation that is in progress.
#[derive(Debug)]
pub struct Rotation<'a> {
    /// The earlier generation, which will be retired.
    pub earlier: Generation,
    /// The root of the earlier generation.
    pub root: &'a AuthorityCertificate,
    /// The authority that signed the leaves of the earlier generation: its intermediate, or its
    /// root if it has none.
    pub issuer: &'a AuthorityCertificate,
    /// Number of certificates that the earlier generation has signed and that are neither revoked
    /// nor expired.
    pub dependents: u64,
    /// Number of these certificates whose files already contain a newer certificate.
    pub renewed: u64,
}

/// A live certificate that depends on the earlier generation.
#[derive(Debug, Clone)]
pub struct Dependent {
    /// The entry of the certificate in the inventory.
    pub entry: Entry,
    /// The serial number of the newer certificate that its files contain now. `None` if the
    /// certificate was not renewed.
    pub renewed_as: Option<String>,
}

/// What [`Pki::retire`] has done.
#[derive(Debug, Clone)]
pub struct Retired {
    /// The generation that was retired.
    pub generation: Generation,
    /// The directory that now contains the certificates and keys of the retired generation.
    pub directory: PathBuf,
    /// Number of certificates that gateways refuse from now on, although they are neither revoked
    /// nor expired.
    pub abandoned: u64,
    /// Whether the last list of the retired intermediate stays published, because its root is still
    /// trusted and has not revoked it.
    pub keeps_list: bool,
}

impl EarlierGeneration {
    /// Returns the authority that signed the leaves of this generation: its intermediate, or its
    /// root.
    fn issuer(&self) -> &AuthorityCertificate {
        self.intermediate.as_ref().unwrap_or(&self.root)
    }
}

impl Pki {
    /// Makes a new generation, which signs all certificates from now on. Adds its root to the
    /// trusted roots. If the current key that signs leaves is encrypted, encrypts the new keys with
    /// the same passphrase.
    ///
    /// # Errors
    /// If a rotation is already in progress, if the passphrase is wrong, or if files cannot be
    /// written.
    pub fn prepare_rotation(&mut self, options: &RotationOptions) -> Result<(), PkiError> {
        let protection = self.protection()?;
        let lock = self.layout().lock()?;
        let mut state = self.states.read(&self.layout().state())?;
        if let Some(earlier) = state.earlier {
            return Err(PkiError::RotationUnderWay(earlier.generation));
        }
        if self.layout().earlier().directory().exists() {
            // `earlier/` contains files of an authority that was replaced. These files are no
            // longer used, so it does no harm if the process is killed directly after this step.
            put_aside(self.layout(), state.generation.previous())?;
        }
        let plan = GenerationPlan {
            layout: self.layout(),
            domain: self.trust_domain(),
            profiles: &self.profiles,
            source: &options.root,
            root_only: self.intermediate.is_none(),
            algorithm: options.algorithm,
            root_lifetime: options.root_lifetime,
            intermediate_lifetime: options.intermediate_lifetime,
            path_length: None,
            present: Some(PresentRoot {
                certificate: &self.root,
                issuer: self.authority(self.issuer()),
                passphrase: self.passphrase.as_ref(),
            }),
        };
        let made = plan.make(&mut state, clock::certificate_now())?;
        self.put_in_place(&made, &protection, &state, &lock)?;
        let leftover_key = match options.root {
            RootSource::SignedElsewhere(_) => discard_request(self.layout()),
            _ => None,
        };
        drop(lock);
        self.reopen()?;
        self.leftover_key = leftover_key;
        Ok(())
    }

    /// Returns the protection of the current key that signs leaves. New keys get the same
    /// protection, so this function also reads the key to check the passphrase.
    pub(super) fn protection(&self) -> Result<KeyProtection, PkiError> {
        self.load_authority(self.issuer())?;
        let key = self.layout().key(self.issuer());
        if !key::is_sealed(&key)? {
            return Ok(KeyProtection::Plain);
        }
        let secret = self.passphrase.clone();
        let secret = secret.ok_or(KeyError::PassphraseNeeded(key))?;
        Ok(KeyProtection::passphrase(secret)?)
    }

    /// Returns the rotation that is in progress. Returns `None` if there is no earlier generation.
    ///
    /// # Errors
    /// If the inventory cannot be read.
    pub fn rotation(&self) -> Result<Option<Rotation<'_>>, PkiError> {
        let Some(earlier) = &self.earlier else {
            return Ok(None);
        };
        let issuer = earlier.issuer();
        let key = issuer.key_identifier_hex();
        let inventory = self.inventory_to_read()?;
        let now = clock::certificate_now();
        let dependents = inventory.count_live(&key, now)?;
        let renewed = inventory.count_renewed(&key, &self.issuer_keys(), now)?;
        inventory.check_unchanged()?;
        Ok(Some(Rotation {
            earlier: earlier.generation,
            root: &earlier.root,
            issuer,
            dependents,
            renewed,
        }))
    }

    /// Returns certificates that the earlier generation has signed and that are neither revoked nor
    /// expired. The oldest come first. Returns at most `limit`.
    ///
    /// # Errors
    /// If the inventory cannot be read.
    pub fn dependents(&self, limit: Option<u32>) -> Result<Vec<Dependent>, PkiError> {
        let Some(earlier) = &self.earlier else {
            return Ok(Vec::new());
        };
        let now = clock::certificate_now();
        let filter = Filter {
            live_at: Some(now),
            limit,
            ..Filter::default()
        };
        let key = earlier.issuer().key_identifier_hex();
        let (inventory, issuers) = (self.inventory_to_read()?, self.issuer_keys());
        let mut found = Vec::new();
        for entry in inventory.find(&[key], &filter)? {
            let renewed_as = inventory.successor(&entry, &issuers, now)?;
            found.push(Dependent { entry, renewed_as });
        }
        inventory.check_unchanged()?;
        Ok(found)
    }

    /// Ends a rotation: removes the root of the earlier generation from the trusted roots, unless
    /// the current generation has the same root. Moves the files of the earlier generation to
    /// `retired/`. Gateways that read the new files then refuse the certificates of that
    /// generation.
    ///
    /// A certificate is renewed if the inventory has a newer live certificate for the same files.
    /// Live certificates that were not renewed prevent the retirement, unless `force` is true.
    ///
    /// # Errors
    /// If there is no earlier generation. If some certificates of that generation are live and not
    /// renewed, and `force` is false. If files cannot be written.
    pub fn retire(&mut self, force: bool) -> Result<Retired, PkiError> {
        let Some(earlier) = &self.earlier else {
            return self.finish_retiring();
        };
        let generation = earlier.generation;
        let inventory = self.inventory()?;
        let lock = self.layout().lock()?;
        let mut state = self.current_state()?;
        let (key, now) = (
            earlier.issuer().key_identifier_hex(),
            clock::certificate_now(),
        );
        let live = inventory.count_live(&key, now)?;
        let renewed = inventory.count_renewed(&key, &self.issuer_keys(), now)?;
        if !force && live != renewed {
            return Err(PkiError::StillInUse { live, renewed });
        }
        let keeps_list = self.needs_list_of(earlier, &state, now)?;
        if !force && keeps_list {
            return Err(PkiError::EarlierNotRevoked {
                directory: self.layout().directory().to_owned(),
                is_root_here: self.layout().key(AuthorityName::Root).exists(),
            });
        }
        state.retire();
        let directory = retired_directory(self.layout(), generation);
        let lists = self.layout().crls();
        let mut change = Transaction::begin(self.layout(), Scope::Authority, &[lists], &lock)?;
        let trusted: String = certificates::read(&self.layout().trust())?
            .iter()
            .filter(|root| *root != earlier.root.der() || *root == self.root.der())
            .map(certificates::pem)
            .collect();
        change.stage_public(&self.layout().trust(), trusted.as_bytes())?;
        let mut moved = Vec::new();
        for name in self.authorities() {
            if *name == AuthorityName::Intermediate && keeps_list {
                continue;
            }
            let emptied = self.retire_lists(*name, &mut change)?;
            moved.extend(emptied);
        }
        let path = self.layout().state();
        change.stage_public(&path, &state.to_file(&path)?)?;
        let earlier = self.layout().earlier();
        change.rename(earlier.directory().to_owned(), directory.clone());
        for path in moved {
            let kept = directory.join(path.file_name().unwrap_or_default());
            change.rename(path, kept);
        }
        change.commit()?;
        drop(lock);
        self.reopen()?;
        Ok(Retired {
            generation,
            directory,
            abandoned: live,
            keeps_list,
        })
    }

    /// Whether gateways need the list of the earlier intermediate also after the rotation: to refuse
    /// the certificates that it revokes. This is so if the root stays trusted and has not revoked the
    /// intermediate.
    fn needs_list_of(
        &self,
        earlier: &EarlierGeneration,
        state: &State,
        now: i64,
    ) -> Result<bool, PkiError> {
        let Some(intermediate) = earlier.intermediate.as_ref().filter(|_| self.keeps_root()) else {
            return Ok(false);
        };
        if clock::certificate_is_over(intermediate.facts().not_after, now) {
            return Ok(false);
        }
        let serial = intermediate.facts().serial_hex();
        let path = self.layout().crl(AuthorityName::Root);
        let content = store::read_if_present(&path)?.unwrap_or_default();
        let is_published = !content.is_empty()
            && revokes(&content, self.root.subject_der(), &serial)
                .map_err(|error| self.damaged_list(&path, error))?;
        let root = self.present(AuthorityName::Root);
        Ok(!is_published || !state.is_revoked(root, &serial))
    }

    /// Returns the retired intermediates whose roots are still trusted.
    ///
    /// # Errors
    /// If a directory or a certificate cannot be read.
    pub(super) fn retired_intermediates(&self) -> Result<Vec<RetiredIntermediate>, PkiError> {
        let directory = self.layout().retired();
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(StoreError::io("read", &directory))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &directory))?;
            let generation = Layout::new(entry.path());
            let path = generation.certificate(AuthorityName::Intermediate);
            // A generation without intermediate has no such file.
            if path.symlink_metadata().is_err() {
                continue;
            }
            for der in certificates::read(&path)? {
                let signed = |root: &Signatory| self.certificate_of(*root).has_signed(&der);
                let Some(root) = self.signatories(AuthorityName::Root).find(signed) else {
                    continue;
                };
                let domain = Some(self.trust_domain());
                let certificate = AuthorityCertificate::read_for(der, domain)
                    .map_err(|error| PkiError::unreadable(&path, error))?;
                found.push(RetiredIntermediate {
                    path: path.clone(),
                    certificate,
                    root,
                });
            }
        }
        Ok(found)
    }

    /// Removes the list of the earlier generation from the CRL file of an authority. If no list would
    /// be left, leaves the file as it is, and returns its path.
    fn retire_lists(
        &self,
        name: AuthorityName,
        change: &mut Transaction,
    ) -> Result<Option<PathBuf>, PkiError> {
        let path = self.layout().crl(name);
        let (Some(retired), Some(content)) =
            (self.earlier_signatory(name), store::read_if_present(&path)?)
        else {
            return Ok(None);
        };
        let damaged = |error| self.damaged_list(&path, error);
        let list = match self.keeps_root() {
            // The file may also contain revocation lists that other intermediates have signed.
            true => {
                let retired = self.certificate_of(retired).subject_der();
                lists_except(&content, &[retired]).map_err(damaged)?
            }
            false => list_of(&content, self.authority(name).subject_der())
                .map_err(damaged)?
                .unwrap_or_default(),
        };
        if list.is_empty() {
            // The key of the current root is elsewhere, and its list is not published yet.
            return Ok(Some(path));
        }
        change.stage_public(&path, list.as_bytes())?;
        Ok(None)
    }

    /// Moves `earlier/` to `retired/` although `pki.toml` has no earlier generation. The reason is
    /// that an old version of this program was killed while it retired the generation, or that the
    /// authority was replaced.
    fn finish_retiring(&self) -> Result<Retired, PkiError> {
        let _lock = self.layout().lock()?;
        let state = self.current_state()?;
        if !self.layout().earlier().directory().exists() {
            return Err(PkiError::NothingToRetire);
        }
        let generation = state.generation.previous();
        Ok(Retired {
            generation,
            directory: put_aside(self.layout(), generation)?,
            abandoned: 0,
            keeps_list: false,
        })
    }

    fn reopen(&mut self) -> Result<(), PkiError> {
        let passphrase = self.passphrase.take();
        let profiles = std::mem::take(&mut self.profiles);
        *self = Self::open(self.layout().directory())?;
        self.passphrase = passphrase;
        self.profiles = profiles;
        Ok(())
    }

    /// Writes the files of the new generation in one transaction. The files get their final paths
    /// in this order: trusted roots, revocation lists, certificates and keys (the root's first),
    /// `pki.toml`. The old certificates and keys are moved to `earlier/`.
    fn put_in_place(
        &self,
        made: &NewGeneration,
        protection: &KeyProtection,
        state: &State,
        lock: &DirectoryLock,
    ) -> Result<(), PkiError> {
        let (layout, earlier) = (self.layout(), self.layout().earlier());
        let mut change = Transaction::begin(layout, Scope::Authority, &[layout.crls()], lock)?;
        let mut trusted = certificates::read(&layout.trust())?;
        for member in &made.members {
            let certificate = member.certificate.der();
            if member.name == AuthorityName::Root && !trusted.contains(certificate) {
                trusted.push(certificate.clone());
            }
        }
        let trusted: String = trusted.iter().map(certificates::pem).collect();
        change.stage_public(&layout.trust(), trusted.as_bytes())?;
        for member in &made.members {
            let Some(list) = &member.list else { continue };
            let path = layout.crl(member.name);
            let mut lists = list.clone().into_bytes();
            // If the root stays, its new list replaces its old list. Otherwise the list of the
            // earlier generation stays in the file.
            if member.name == AuthorityName::Intermediate || !made.keeps_root {
                lists.extend(store::read_if_present(&path)?.unwrap_or_default());
            }
            change.stage_public(&path, &lists)?;
        }
        for member in &made.members {
            let name = member.name;
            let pem = certificates::pem(member.certificate.der());
            let (path, kept) = (layout.certificate(name), earlier.certificate(name));
            change.stage_and_keep(&path, pem.as_bytes(), Audience::Public, kept)?;
            // If the root stays, both generations use its key, so the key file is not moved. The
            // operator may have brought the key into the directory with this command.
            if name == AuthorityName::Root && made.keeps_root {
                let path = layout.key(name);
                if let Some(signer) = &member.signer
                    && path.symlink_metadata().is_err()
                {
                    let pem = key::to_pem(signer.key(), protection)?;
                    change.stage(&path, pem.as_bytes(), Audience::Owner, Existing::Refuse)?;
                }
                continue;
            }
            let (path, kept) = (layout.key(name), earlier.key(name));
            match &member.signer {
                // An operator may keep the root's old key elsewhere. If it is not in the
                // directory, it is not moved.
                Some(signer) => {
                    let pem = key::to_pem(signer.key(), protection)?;
                    change.stage_and_keep(&path, pem.as_bytes(), Audience::Owner, kept)?;
                }
                None => change.rename(path, kept),
            }
        }
        let path = layout.state();
        change.stage_public(&path, &state.to_file(&path)?)?;
        Ok(change.commit()?)
    }
}

/// A retired intermediate whose root is still trusted.
pub(super) struct RetiredIntermediate {
    pub(super) path: PathBuf,
    pub(super) certificate: AuthorityCertificate,
    /// The root that has signed the intermediate.
    pub(super) root: Signatory,
}

/// Moves the directory `earlier/` into `retired/` with one rename. Returns its new path.
fn put_aside(layout: &Layout, generation: Generation) -> Result<PathBuf, PkiError> {
    let directory = retired_directory(layout, generation);
    store::create_directory(&layout.retired())?;
    store::rename(layout.earlier().directory(), &directory)?;
    Ok(directory)
}

/// Returns a new path in `retired/` for a generation. The last part of the path is the number of
/// the generation. If this path exists, because a replaced authority had a generation with this
/// number, the next free number is used.
fn retired_directory(layout: &Layout, generation: Generation) -> PathBuf {
    let retired = layout.retired();
    (generation.number()..=u32::MAX)
        .map(|number| retired.join(number.to_string()))
        .find(|directory| !directory.exists())
        .unwrap_or(retired)
}
