//! Replacing root and intermediate in stages: prepare, then retire.
//!
//! A part of [`Pki`]. `prepare` makes a new generation in `next/` and writes into
//! `pki.toml` that it shall be the present one; from then on every process that
//! finds it unfinished completes it, so that a crash at any point leaves the old
//! generation or both. The present one moves to `earlier/` and stays trusted
//! until `retire` moves it to `retired/`. Keys are never destroyed here.

use std::path::PathBuf;

use super::authority::{AuthorityKind, CertificateAuthority};
use super::creating::new_intermediate;
use super::directory::{EarlierGeneration, Pki, unix_now};
use super::inventory::{Entry, Filter};
use super::key::{self, KeyAlgorithm, KeyError, KeyProtection};
use super::layout::Layout;
use super::lifetime::Lifetime;
use super::lists::list_of;
use super::revocation::RevocationList;
use super::state::{AuthorityName, CrlNumbers, Generation, State, StateCache};
use super::store::{self, Audience, Existing};
use super::{AuthorityCertificate, PkiError, certificates};

/// What can be chosen about a new generation.
#[derive(Debug, Clone, Copy, Default)]
pub struct RotationOptions {
    /// The kind of both keys; otherwise as in [`super::AuthorityOptions`].
    pub algorithm: Option<KeyAlgorithm>,
    /// How long the root is good for.
    pub root_lifetime: Option<Lifetime>,
    /// How long the intermediate is good for.
    pub intermediate_lifetime: Option<Lifetime>,
}

/// A rotation that is under way.
#[derive(Debug)]
pub struct Rotation<'a> {
    /// The generation that is to be retired.
    pub earlier: Generation,
    /// Its root.
    pub root: &'a AuthorityCertificate,
    /// What signed its leaves: its intermediate, or the root itself.
    pub issuer: &'a AuthorityCertificate,
    /// How many live certificates depend on it.
    pub dependents: u64,
}

/// A generation that was retired.
#[derive(Debug, Clone)]
pub struct Retired {
    /// Which one.
    pub generation: Generation,
    /// Where its certificates and keys are now.
    pub directory: PathBuf,
    /// How many live certificates are refused from now on.
    pub abandoned: u64,
}

impl EarlierGeneration {
    /// What signed its leaves.
    fn issuer(&self) -> &AuthorityCertificate {
        self.intermediate.as_ref().unwrap_or(&self.root)
    }
}

impl Pki {
    /// Makes a new root and intermediate, which issue from now on, and adds the
    /// root to the trusted ones. The keys are sealed if the present
    /// intermediate's is, with the same passphrase.
    ///
    /// # Errors
    /// When a rotation is under way, the passphrase is wrong, or files cannot be
    /// written.
    pub fn prepare_rotation(&mut self, options: &RotationOptions) -> Result<(), PkiError> {
        // Shows that the passphrase is right: one for both generations.
        self.load_authority(self.issuer())?;
        let key = self.layout().key(self.issuer());
        let protection = if key::is_sealed(&key)? {
            let secret = self.passphrase.clone();
            KeyProtection::passphrase(secret.ok_or(KeyError::PassphraseNeeded(key))?)?
        } else {
            KeyProtection::Plain
        };
        let lock = self.layout().lock()?;
        let mut state = State::read(&self.layout().state())?;
        if let Some(earlier) = state.earlier {
            return Err(PkiError::RotationUnderWay(earlier.generation));
        }
        if self.layout().earlier().directory().exists() {
            // Retiring it was interrupted, or the authority was replaced.
            put_aside(self.layout(), state.generation.previous())?;
        }
        let numbers = self.make_next(options, &protection)?;
        state.rotate(numbers);
        state.write(&self.layout().state())?;
        settle(self.layout(), &mut state)?;
        drop(lock);
        self.reopen()
    }

    /// The rotation that is under way, if there is one.
    ///
    /// # Errors
    /// When the inventory cannot be read.
    pub fn rotation(&self) -> Result<Option<Rotation<'_>>, PkiError> {
        let Some(earlier) = &self.earlier else {
            return Ok(None);
        };
        let issuer = earlier.issuer();
        let key = issuer.key_identifier_hex();
        Ok(Some(Rotation {
            earlier: earlier.generation,
            root: &earlier.root,
            issuer,
            dependents: self.inventory()?.count_live(&key, unix_now())?,
        }))
    }

    /// Live certificates of the earlier generation, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the inventory cannot be read.
    pub fn dependents(&self, limit: Option<u32>) -> Result<Vec<Entry>, PkiError> {
        let Some(earlier) = &self.earlier else {
            return Ok(Vec::new());
        };
        let filter = Filter {
            live_at: Some(unix_now()),
            limit,
            ..Filter::default()
        };
        let key = earlier.issuer().key_identifier_hex();
        Ok(self.inventory()?.find(&[key], &filter)?)
    }

    /// Takes the earlier root from the trusted ones and puts its generation
    /// aside. Its certificates are refused from then on.
    ///
    /// # Errors
    /// When there is none, live certificates depend on it and `force` is not
    /// given, or files cannot be written.
    pub fn retire(&mut self, force: bool) -> Result<Retired, PkiError> {
        let Some(earlier) = &self.earlier else {
            return self.finish_retiring();
        };
        let generation = earlier.generation;
        let inventory = self.inventory()?;
        let lock = self.layout().lock()?;
        let mut state = self.current_state()?;
        let live = inventory.count_live(&earlier.issuer().key_identifier_hex(), unix_now())?;
        if live > 0 && !force {
            return Err(PkiError::StillInUse(live));
        }
        // Repeating any of this is harmless; pki.toml, last, ends it.
        let trusted: String = certificates::read(&self.layout().trust())?
            .iter()
            .filter(|root| *root != earlier.root.der())
            .map(certificates::pem)
            .collect();
        replace(&self.layout().trust(), &trusted)?;
        for name in self.authorities() {
            let path = self.layout().crl(*name);
            let subject = self.authority(*name).subject_der();
            if let Some(list) = list_of(&store::read(&path)?, subject) {
                replace(&path, &list)?;
            }
        }
        state.retire();
        state.write(&self.layout().state())?;
        let directory = put_aside(self.layout(), generation)?;
        drop(lock);
        self.reopen()?;
        Ok(Retired {
            generation,
            directory,
            abandoned: live,
        })
    }

    /// Ends a retirement that was interrupted after its last decision.
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

    /// Writes a new generation and its first lists to `next/`, in place of what
    /// an interrupted attempt left there.
    fn make_next(
        &self,
        options: &RotationOptions,
        protection: &KeyProtection,
    ) -> Result<CrlNumbers, PkiError> {
        let next = self.layout().next();
        store::remove_directory(next.directory())?;
        store::create_directory(&next.directory().join("crl"))?;
        let now = unix_now();
        let root_only = self.intermediate.is_none();
        let kind = AuthorityKind {
            algorithm: options.algorithm.unwrap_or_default(),
            lifetime: options.root_lifetime,
            path_length: root_only.then_some(0),
        };
        let failed = |name| {
            let path = self.layout().certificate(name);
            move |error| PkiError::Authority { path, error }
        };
        let root = CertificateAuthority::new_root_as(self.trust_domain(), &kind, now)
            .map_err(failed(AuthorityName::Root))?;
        let mut made = vec![(AuthorityName::Root, &root)];
        let intermediate;
        if !root_only {
            let lifetime = options.intermediate_lifetime;
            intermediate =
                new_intermediate(&root, &self.profiles, options.algorithm, lifetime, now)
                    .map_err(failed(AuthorityName::Intermediate))?;
            made.push((AuthorityName::Intermediate, &intermediate));
        }
        let mut numbers = CrlNumbers::default();
        for (name, authority) in made {
            key::stage(
                &next.key(name),
                authority.key(),
                protection,
                Existing::Refuse,
            )?
            .place()?;
            let pem = certificates::pem(authority.certificate().der());
            replace(&next.certificate(name), &pem)?;
            let list = RevocationList {
                number: numbers.take_next(name),
                this_update: now,
                lifetime: self.list_lifetime(name),
                entries: Vec::new(),
            };
            let pem = authority.sign_list(&list, now).map_err(failed(name))?;
            replace(&next.crl(name), &pem)?;
        }
        Ok(numbers)
    }
}

/// The state, after completing a rotation that was interrupted.
pub(super) fn settled_state(layout: &Layout, states: &StateCache) -> Result<State, PkiError> {
    let state = states.read(&layout.state())?;
    if !state.unsettled {
        return Ok(state);
    }
    let _lock = layout.lock()?;
    // Another process may have done it while this one waited for the lock.
    let mut state = State::read(&layout.state())?;
    if state.unsettled {
        settle(layout, &mut state)?;
    }
    Ok(state)
}

/// Puts everything of `next/` in its place. Each step can be repeated, and none
/// takes anything away before its successor is there.
fn settle(layout: &Layout, state: &mut State) -> Result<(), PkiError> {
    let (next, earlier) = (layout.next(), layout.earlier());
    // Trusted first, issuing last.
    let new_root = next.certificate(AuthorityName::Root);
    if new_root.exists() {
        let mut trusted = certificates::read(&layout.trust())?;
        for root in certificates::read(&new_root)? {
            if !trusted.contains(&root) {
                trusted.push(root);
            }
        }
        let trusted: String = trusted.iter().map(certificates::pem).collect();
        replace(&layout.trust(), &trusted)?;
    }
    for name in AuthorityName::ALL {
        if next.crl(name).exists() {
            let mut lists = store::read(&next.crl(name))?;
            let present = store::read(&layout.crl(name))?;
            if !present.starts_with(&lists) {
                lists.extend(present);
                let path = layout.crl(name);
                store::write(&path, &lists, Audience::Public, Existing::Replace)?;
            }
            store::remove(&next.crl(name))?;
        }
    }
    store::create_directory(earlier.directory())?;
    for name in AuthorityName::ALL {
        for file in [Layout::certificate, Layout::key] {
            let (new, place, old) = (file(&next, name), file(layout, name), file(&earlier, name));
            if new.exists() {
                // A root's key may be kept elsewhere.
                if place.exists() && !old.exists() {
                    store::rename(&place, &old)?;
                }
                store::rename(&new, &place)?;
            }
        }
    }
    state.unsettled = false;
    state.write(&layout.state())?;
    store::remove_directory(next.directory())?;
    Ok(())
}

/// Moves `earlier/` below `retired/`, in one step.
fn put_aside(layout: &Layout, generation: Generation) -> Result<PathBuf, PkiError> {
    let retired = layout.retired();
    store::create_directory(&retired)?;
    // The number may be taken by an authority that was replaced.
    let directory = (generation.number()..=u32::MAX)
        .map(|number| retired.join(number.to_string()))
        .find(|directory| !directory.exists())
        .unwrap_or(retired);
    store::rename(layout.earlier().directory(), &directory)?;
    Ok(directory)
}

fn replace(path: &std::path::Path, content: &str) -> Result<(), PkiError> {
    let content = content.as_bytes();
    Ok(store::write(
        path,
        content,
        Audience::Public,
        Existing::Replace,
    )?)
}
