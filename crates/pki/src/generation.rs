//! Makes the root and the intermediate of a generation in memory. The root can be new, or come from
//! another program.
//!
//! [`super::creating`] and [`super::rotating`] write the result to files.

use std::path::{Path, PathBuf};

use super::crls::list_of;
use super::files::error::{PkiError, RootTask};
use super::files::layout::Layout;
use super::records::state::State;
use super::root_lists::{Lost, RootList, take_over};
use super::signed_elsewhere::{self, SignedIntermediate, read_root};
use super::signing::authority::{AuthorityKind, CertificateAuthority};
use super::signing::authority_certificate::AuthorityCertificate;
use super::signing::error::AuthorityError;
use super::signing::lifetime::Lifetime;
use super::signing::profile::Profiles;
use super::signing::revocation_list::{self, RevocationList};
use super::signing::signatory::AuthorityName;
use super::store::{self, key, key::KeyAlgorithm};
use crate::identity::TrustDomain;
use crate::secret::Secret;

/// Where the root of a generation comes from.
#[derive(Debug, Clone, Default)]
pub enum RootSource {
    /// A new root is made.
    #[default]
    New,
    /// Another program has made the root. Its certificate and private key are read from files.
    Existing(ExistingRoot),
    /// The private key of the root is not available to this program. The root has signed the
    /// intermediate elsewhere.
    SignedElsewhere(SignedIntermediate),
    /// The current root stays, and only the intermediate is replaced.
    Present {
        /// The file with the root's private key. If `None`, the key is read from the authority's
        /// directory.
        key: Option<PathBuf>,
    },
}

/// A root that another program has made, for [`RootSource::Existing`].
#[derive(Debug, Clone)]
pub struct ExistingRoot {
    /// The file with the root's certificate, in PEM.
    pub certificate: PathBuf,
    /// The file with the root's private key, in PEM.
    pub key: PathBuf,
    /// The passphrase of the private key, if the key is encrypted.
    pub passphrase: Option<Secret>,
    /// The file with the last revocation list that the root has signed elsewhere, in PEM. If
    /// `None`, the root has signed no list yet.
    pub root_list: Option<PathBuf>,
}

/// The current root, and the current authority that signs leaves. A rotation needs them.
#[derive(Debug, Clone, Copy)]
pub(super) struct PresentRoot<'a> {
    pub(super) certificate: &'a AuthorityCertificate,
    pub(super) issuer: &'a AuthorityCertificate,
    /// The passphrase of the authority's keys, if they are encrypted.
    pub(super) passphrase: Option<&'a Secret>,
}

/// The settings for a new generation.
#[derive(Debug)]
pub(super) struct GenerationPlan<'a> {
    pub(super) layout: &'a Layout,
    pub(super) domain: &'a TrustDomain,
    pub(super) profiles: &'a Profiles,
    pub(super) source: &'a RootSource,
    pub(super) root_only: bool,
    pub(super) algorithm: Option<KeyAlgorithm>,
    pub(super) root_lifetime: Option<Lifetime>,
    pub(super) intermediate_lifetime: Option<Lifetime>,
    pub(super) path_length: Option<u8>,
    /// The authorities of the current generation. `None` if this is the first generation.
    pub(super) present: Option<PresentRoot<'a>>,
}

/// A new generation that exists only in memory.
pub(super) struct NewGeneration {
    /// The root, then the intermediate if there is one.
    pub(super) members: Vec<Member>,
    /// Whether the root has the name and the key of the current root.
    pub(super) keeps_root: bool,
}

/// One authority of a new generation.
pub(super) struct Member {
    pub(super) name: AuthorityName,
    pub(super) certificate: AuthorityCertificate,
    /// The authority with its private key. `None` if its key is not written to the directory.
    pub(super) signer: Option<CertificateAuthority>,
    /// The first revocation list of the authority, in PEM. `None` for a root whose list is already
    /// published, or will be signed elsewhere.
    pub(super) list: Option<String>,
}

impl NewGeneration {
    /// Returns the authority that signs leaves.
    pub(super) fn into_signer(self) -> Option<CertificateAuthority> {
        self.members.into_iter().next_back()?.signer
    }

    /// Returns the certificate of an authority.
    pub(super) fn certificate(&self, name: AuthorityName) -> Option<&AuthorityCertificate> {
        let member = self.members.iter().find(|member| member.name == name)?;
        Some(&member.certificate)
    }
}

/// Root and intermediate before their first lists are signed.
struct Authorities {
    root: AuthorityCertificate,
    /// `None` if the key of the root is elsewhere.
    root_signer: Option<CertificateAuthority>,
    intermediate: Option<CertificateAuthority>,
    root_list: Option<RootList>,
    /// Whether the key of the root is written to the directory.
    stores_root_key: bool,
}

impl Authorities {
    /// Returns the authority that signs leaves.
    fn issuer(&self) -> &AuthorityCertificate {
        match &self.intermediate {
            Some(intermediate) => intermediate.certificate(),
            None => &self.root,
        }
    }
}

impl GenerationPlan<'_> {
    /// Makes keys, certificates and first revocation lists, and records the lists in `state`. If
    /// there is a current generation, makes it the earlier one in `state`. Writes no files.
    pub(super) fn make(&self, state: &mut State, now: i64) -> Result<NewGeneration, PkiError> {
        let made = self.authorities(now)?;
        let keeps_root = self.check_beside_present(&made)?;
        if self.present.is_some() {
            state.rotate(keeps_root);
        }
        if let Some(list) = &made.root_list {
            let published = match keeps_root {
                true => self.published_root_list(&made.root)?,
                false => None,
            };
            let root = state.current(AuthorityName::Root);
            take_over(state, root, list, published.as_deref(), Lost::Refused)?;
        }
        let mut members = Vec::with_capacity(2);
        let name = AuthorityName::Root;
        let list = match (&made.root_signer, made.root_list) {
            (None, list) => list.map(|list| list.pem),
            // A list from elsewhere is continued here.
            (Some(signer), list) if list.is_some() || !keeps_root => {
                Some(self.first_list(name, signer, state, now)?)
            }
            _ => None,
        };
        members.push(Member {
            name,
            certificate: made.root,
            signer: made.root_signer.filter(|_| made.stores_root_key),
            list,
        });
        if let Some(signer) = made.intermediate {
            let name = AuthorityName::Intermediate;
            members.push(Member {
                name,
                certificate: signer.certificate().clone(),
                list: Some(self.first_list(name, &signer, state, now)?),
                signer: Some(signer),
            });
        }
        Ok(NewGeneration {
            members,
            keeps_root,
        })
    }

    /// Returns the list of a root from the current CRL file, in PEM.
    fn published_root_list(&self, root: &AuthorityCertificate) -> Result<Option<String>, PkiError> {
        let path = self.layout.crl(AuthorityName::Root);
        let Some(content) = store::read_if_present(&path)? else {
            return Ok(None);
        };
        list_of(&content, root.subject_der()).map_err(|error| PkiError::DamagedList {
            path,
            error,
            directory: self.layout.directory().to_owned(),
        })
    }

    fn first_list(
        &self,
        name: AuthorityName,
        signer: &CertificateAuthority,
        state: &mut State,
        now: i64,
    ) -> Result<String, PkiError> {
        let issues_leaves = self.root_only || name == AuthorityName::Intermediate;
        let signatory = state.current(name);
        let list = RevocationList {
            number: state.take_number(signatory),
            this_update: now,
            lifetime: revocation_list::default_lifetime(issues_leaves),
            entries: state.revoked_by(signatory),
        };
        signer
            .sign_list(&list, now)
            .map_err(PkiError::authority(&self.layout.certificate(name)))
    }

    fn authorities(&self, now: i64) -> Result<Authorities, PkiError> {
        let (root, path, stores_root_key) = match self.source {
            RootSource::SignedElsewhere(signed) => {
                let present = self.present.map(|present| present.certificate);
                let read = signed_elsewhere::read(self.layout, self.domain, signed, present, now)?;
                return Ok(Authorities {
                    root: read.root,
                    root_signer: None,
                    intermediate: Some(read.intermediate),
                    root_list: read.root_list,
                    stores_root_key: false,
                });
            }
            RootSource::Existing(existing) => {
                let root = import(existing, self.domain)?;
                (root, existing.certificate.clone(), true)
            }
            RootSource::Present { key } => {
                let root = self.present_root(key.as_deref())?;
                (root, self.layout.certificate(AuthorityName::Root), false)
            }
            RootSource::New => {
                let path = self.layout.certificate(AuthorityName::Root);
                (self.new_root(&path, now)?, path, true)
            }
        };
        // An imported root can have a name that rcgen cannot copy exactly. Signing a certificate
        // with the root reports this as an error. If there is no intermediate to sign, `check_name`
        // signs a certificate only for this purpose.
        let intermediate = if self.root_only {
            root.check_name(now).map_err(PkiError::authority(&path))?;
            None
        } else {
            let made = self.new_intermediate(&root, now);
            Some(made.map_err(PkiError::authority(&path))?)
        };
        let mut root_list = None;
        if let RootSource::Existing(existing) = self.source {
            if let Some(path) = &existing.root_list {
                root_list = Some(RootList::read_of_any_time(path, root.certificate())?);
            }
            self.try_out(&root, intermediate.as_ref(), now)
                .map_err(PkiError::authority(&path))?;
        }
        Ok(Authorities {
            root: root.certificate().clone(),
            root_signer: Some(root),
            intermediate,
            root_list,
            stores_root_key,
        })
    }

    fn new_root(&self, path: &Path, now: i64) -> Result<CertificateAuthority, PkiError> {
        let kind = AuthorityKind {
            algorithm: self.algorithm.unwrap_or_default(),
            lifetime: self.root_lifetime,
            path_length: if self.root_only {
                Some(0)
            } else {
                self.path_length
            },
        };
        CertificateAuthority::new_root_as(self.domain, &kind, now)
            .map_err(PkiError::authority(path))
    }

    /// Makes a new intermediate according to its profile, and signs it with `root`.
    fn new_intermediate(
        &self,
        root: &CertificateAuthority,
        now: i64,
    ) -> Result<CertificateAuthority, AuthorityError> {
        let profile = self.profiles.intermediate();
        let kind = AuthorityKind {
            algorithm: self.algorithm.unwrap_or_else(|| profile.new_key_type()),
            lifetime: self.intermediate_lifetime,
            path_length: None,
        };
        let intermediate = root.new_intermediate_as(profile, &kind, now)?;
        profile.check_key(intermediate.certificate().public_key_der())?;
        Ok(intermediate)
    }

    /// Verifies a trial leaf as gateways do. A root of another program can have extensions that
    /// make gateways refuse all its certificates.
    fn try_out(
        &self,
        root: &CertificateAuthority,
        intermediate: Option<&CertificateAuthority>,
        now: i64,
    ) -> Result<(), AuthorityError> {
        let trial = intermediate.unwrap_or(root).sign_trial(now)?;
        let path = intermediate.map(|authority| authority.certificate().der().clone());
        let path = path.into_iter().collect();
        signed_elsewhere::verify(root.certificate(), path, None, &trial, now)
            .map_err(|(reason, detail)| AuthorityError::Refused { reason, detail })
    }

    /// Returns the current root with its private key. Reads the key from the file `key`. If `key`
    /// is `None`, reads it from the authority's directory.
    fn present_root(&self, key: Option<&Path>) -> Result<CertificateAuthority, PkiError> {
        let directory = || self.layout.directory().to_owned();
        let present = self
            .present
            .ok_or_else(|| PkiError::NoAuthority(directory()))?;
        if self.root_only {
            return Err(PkiError::NoIntermediate(directory()));
        }
        let here = self.layout.key(AuthorityName::Root);
        let public = present.certificate.public_key_der();
        let key = match key {
            Some(path) => key::read_named(path, present.passphrase, public)?,
            None if here.exists() => key::read_of(&here, present.passphrase, public)?,
            None => return Err(PkiError::NoRootKey(directory(), RootTask::Intermediate)),
        };
        CertificateAuthority::join(present.certificate.clone(), key).map_err(PkiError::authority(
            &self.layout.certificate(AuthorityName::Root),
        ))
    }

    /// Checks that gateways can distinguish the new generation from the current one. Returns
    /// whether both generations have the same root.
    fn check_beside_present(&self, made: &Authorities) -> Result<bool, PkiError> {
        let Some(present) = self.present else {
            return Ok(false);
        };
        let disagree = |why: &str| PkiError::Disagree {
            path: match self.source {
                RootSource::SignedElsewhere(signed) => signed.certificate.clone(),
                RootSource::Existing(existing) => existing.certificate.clone(),
                _ => self.layout.certificate(AuthorityName::Root),
            },
            why: why.to_owned(),
        };
        let keeps_root = made.root.is_same_authority(present.certificate);
        if keeps_root && self.root_only {
            return Err(disagree(
                "it has the key of the present root, which issues; a rotation needs another",
            ));
        }
        if !keeps_root && made.root.subject_der() == present.certificate.subject_der() {
            return Err(disagree(
                "the root has the name of the present one and another key; gateways find revocation \
                 lists by name and could not tell them apart",
            ));
        }
        if made.issuer().is_confusable_with(present.issuer) {
            return Err(disagree(&format!(
                "the {} has the name, the key or the key identifier of the present one; a rotation \
                 needs another",
                if self.root_only {
                    "root"
                } else {
                    "intermediate"
                }
            )));
        }
        Ok(keeps_root)
    }
}

fn import(existing: &ExistingRoot, domain: &TrustDomain) -> Result<CertificateAuthority, PkiError> {
    let path = &existing.certificate;
    let certificate = read_root(path, domain)?;
    let key = {
        let public = certificate.public_key_der();
        key::read_named(&existing.key, existing.passphrase.as_ref(), public)?
    };
    CertificateAuthority::join(certificate, key).map_err(PkiError::authority(path))
}
