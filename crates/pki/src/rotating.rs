//! Replaces root and intermediate in two stages: prepare, then retire.
//!
//! A part of [`Pki`]. A generation is a root with its intermediate. `prepare_rotation` makes a new
//! generation, and moves the current one to `earlier/`. The earlier generation stays trusted, until
//! `retire` moves it to `retired/`. Each stage is one `Transaction`. So after a crash, the files
//! are as before or after the stage. Keys are never deleted.

use std::path::PathBuf;

use super::crls::list_of;
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
use super::signing::signatory::{AuthorityName, Generation};
use super::store::key::{self, KeyAlgorithm, KeyError, KeyProtection};
use super::store::{self, Audience};
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
    /// Number of those whose files hold a newer certificate.
    pub renewed: u64,
}

/// A live certificate that depends on the earlier generation.
#[derive(Debug, Clone)]
pub struct Dependent {
    /// The inventory's entry.
    pub entry: Entry,
    /// The serial number of the certificate that is in its files now.
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
}

impl EarlierGeneration {
    /// Returns the authority that signed the leaves of this generation: its intermediate, or its
    /// root.
    fn issuer(&self) -> &AuthorityCertificate {
        self.intermediate.as_ref().unwrap_or(&self.root)
    }
}

impl Pki {
    /// Makes a new root and intermediate, which sign all certificates from now on. Adds the new
    /// root to the trusted roots. If the current key that signs leaves is encrypted, encrypts the
    /// new keys with the same passphrase.
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
                numbers: state.crl_number,
                passphrase: self.passphrase.as_ref(),
            }),
        };
        let made = plan.make(clock::certificate_now())?;
        state.rotate(made.numbers, made.keeps_root);
        self.put_in_place(&made, &protection, &state, &lock)?;
        if matches!(options.root, RootSource::SignedElsewhere(_)) {
            discard_request(self.layout());
        }
        drop(lock);
        self.reopen()
    }

    /// Returns how the present key that signs leaves is protected. Checks the passphrase by reading
    /// that key, because new keys get the same one.
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
    /// When the inventory cannot be read.
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

    /// Ends a rotation: removes the root of the earlier generation from the trusted roots, and
    /// moves the files of that generation to `retired/`. Gateways that read the new files then
    /// refuse the certificates of that generation.
    ///
    /// Certificates whose files hold a newer one according to the inventory are superseded, and do
    /// not prevent it. With `force`, no certificate does.
    ///
    /// # Errors
    /// If there is no earlier generation. If some certificates of that generation are neither
    /// superseded nor revoked nor expired and `force` is false. If files cannot be written.
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
        for name in self.authorities() {
            let path = self.layout().crl(*name);
            let subject = self.authority(*name).subject_der();
            // A root elsewhere may have published no list.
            let Some(content) = store::read_if_present(&path)? else {
                continue;
            };
            let list =
                list_of(&content, subject).map_err(|error| self.damaged_list(&path, error))?;
            if let Some(list) = list {
                change.stage_public(&path, list.as_bytes())?;
            }
        }
        let path = self.layout().state();
        change.stage_public(&path, &state.to_file(&path)?)?;
        let earlier = self.layout().earlier();
        change.rename(earlier.directory().to_owned(), directory.clone());
        change.commit()?;
        drop(lock);
        self.reopen()?;
        Ok(Retired {
            generation,
            directory,
            abandoned: live,
        })
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
            // A root that stays has one list, and this one replaces the last one.
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
            // The key of a root that stays is for both generations.
            if name == AuthorityName::Root && made.keeps_root {
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
