//! `ClientTrust`: the trust bundles that one server name accepts, and the decision about a client
//! certificate chain.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};

use super::bundle::TrustBundle;
use super::caller_name;
use super::certificate::candidate::Candidate;
use super::certificate::error::PathError;
use super::certificate::member::PathMember;
use super::certificate::purpose::PathPurpose;
use super::deny_list::DenyList;
use super::overlap::{ClientTrustError, check_overlap};
use super::path::{self, PathBudget, PathCertificates, PathRules, Verified};
use super::path_cache::{self, CachedPath, ChainKey, PathCache, PendingPath, RevocationState};
use super::revision::TrustRevision;
use super::revocation::RevocationOutcome;
use crate::clock;
use crate::identity::peer::VerifiedPath;
use crate::identity::text::printable;
use crate::identity::{CallerName, LeafFacts, PeerIdentity, TrustDomain};
use crate::reason::ReasonCode;

/// The reason why a client's chain is refused.
#[derive(Debug, Clone)]
pub struct ChainError {
    /// The reason code of the refusal.
    pub reason: ReasonCode,
    /// The details as text that is safe to print. The text may contain names from the certificate.
    pub detail: String,
    /// The reason in the matching deny list entry, as text that is safe to print. It is for
    /// operators and is never sent to the caller.
    pub note: Option<Box<str>>,
    /// The facts that the leaf states about itself, which are not verified. `None` if the leaf
    /// could not be read.
    pub leaf: Option<Arc<LeafFacts>>,
}

impl ChainError {
    /// Returns the text for the audit log: the details, and the reason in the deny list entry.
    #[must_use]
    pub fn recorded(&self) -> String {
        match &self.note {
            None => self.detail.clone(),
            Some(note) => format!("{}: {note}", self.detail),
        }
    }
}

impl From<PathError> for ChainError {
    fn from((reason, detail): PathError) -> Self {
        Self {
            reason,
            detail,
            note: None,
            leaf: None,
        }
    }
}

/// The trust bundles that one server name accepts.
pub struct ClientTrust {
    bundles: Vec<Arc<TrustBundle>>,
    by_domain: HashMap<TrustDomain, usize>,
    revision: TrustRevision,
    cache: Arc<PathCache>,
    denied: Option<Arc<DenyList>>,
}

/// The facts about a chain that was accepted.
#[derive(Debug)]
pub struct Admission {
    /// The identity of the caller. The caller has this identity only if it proves possession of the
    /// private key in the handshake.
    pub identity: Arc<PeerIdentity>,
    /// The verified path, if the chain was not in the path cache. The path must be stored in the
    /// cache when the handshake is complete ([`PendingPath::commit`]).
    pub pending: Option<PendingPath>,
    /// The key of the chain in the path cache. [`ClientTrust::recall`] accepts it.
    pub chain: ChainKey,
    /// Until when the chain is accepted, in seconds since the Unix epoch. This is when the path
    /// expires or when a revocation list becomes too old, whichever is earlier. Afterwards, the
    /// chain must be checked again.
    pub holds_until: i64,
}

/// Whether a chain in the path cache is accepted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// The chain is in the path cache, and is still accepted.
    Holds,
    /// The chain is in the path cache, but is no longer accepted.
    Ended,
    /// The chain is not in the path cache.
    Unknown,
}

impl ClientTrust {
    /// Creates the trust for a server name from its bundles. A path is always verified within one
    /// bundle.
    ///
    /// # Errors
    /// If two bundles have the same root, or may certify the same name.
    pub fn new(bundles: Vec<Arc<TrustBundle>>) -> Result<Self, ClientTrustError> {
        check_overlap(&bundles)?;
        let by_domain = bundles
            .iter()
            .enumerate()
            .map(|(index, bundle)| (bundle.name.clone(), index))
            .collect();
        let revision = TrustRevision::of(&bundles);
        Ok(Self {
            bundles,
            by_domain,
            revision,
            cache: Arc::new(PathCache::default()),
            denied: None,
        })
    }

    /// Sets the path cache. Each `ClientTrust` of the gateway gets the same cache, and a reload
    /// keeps it.
    #[must_use]
    pub fn with_cache(mut self, cache: Arc<PathCache>) -> Self {
        self.cache = cache;
        self
    }

    /// Sets the deny list. Chains that the deny list refuses are no longer accepted.
    #[must_use]
    pub fn with_deny_list(mut self, denied: Arc<DenyList>) -> Self {
        self.denied = Some(denied);
        self
    }

    /// Returns two hashes of the bundles: one of their certificates and rules, and one of their
    /// revocation lists. The deny list is in neither hash.
    #[must_use]
    pub const fn revision(&self) -> TrustRevision {
        self.revision
    }

    /// Returns the deny list, if there is one.
    #[must_use]
    pub const fn deny_list(&self) -> Option<&Arc<DenyList>> {
        self.denied.as_ref()
    }

    /// Returns the trust bundles that this server name accepts.
    #[must_use]
    pub fn bundles(&self) -> &[Arc<TrustBundle>] {
        &self.bundles
    }

    /// Decides whether a client's chain is accepted. If the path cache contains the chain, checks
    /// only validity dates, revocation and the deny list. Used for new handshakes, resumed sessions
    /// and open connections.
    ///
    /// # Errors
    /// Returns the same errors as [`ClientTrust::verify`].
    pub fn admit(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Admission, ChainError> {
        let key = path_cache::key_of(&self.revision.trust_set, leaf, intermediates);
        let state = self.state();
        let seconds = clock::certificate_time(now.as_secs());
        // A chain that is no longer accepted stays in the cache, because `recall` must return
        // `Ended` for it.
        let known = self.cache.get(&key);
        let known = known.and_then(|known| self.still_holds(key, known, state, seconds));
        self.cache.count(known.is_some());
        if let Some(known) = known {
            return Ok(Admission {
                identity: Arc::clone(&known.identity),
                pending: None,
                chain: key,
                holds_until: known.not_after.min(known.good_until),
            });
        }
        let found = self.verify_anew(leaf, intermediates, now)?;
        let identity = Arc::clone(&found.identity);
        let path = CachedPath {
            identity: found.identity,
            members: found.path.members.into(),
            not_before: found.path.not_before,
            not_after: found.path.not_after,
            state,
            good_until: found.path.revocation.good_until,
        };
        Ok(Admission {
            identity,
            chain: key,
            holds_until: path.not_after.min(path.good_until),
            pending: Some(PendingPath::new(&self.cache, key, path)),
        })
    }

    /// Returns whether a chain in the path cache is accepted now. This needs only the cache key,
    /// and not the certificates of the chain. For the decision about a connection, call
    /// [`ClientTrust::admit`].
    #[must_use]
    pub fn recall(&self, chain: &ChainKey, now: i64) -> Recall {
        match self.cache.get(chain) {
            None => Recall::Unknown,
            Some(known) => match self.still_holds(*chain, known, self.state(), now) {
                Some(_) => Recall::Holds,
                None => Recall::Ended,
            },
        }
    }

    /// Returns the current state of the revocation lists and the deny list. Call this function
    /// before the lists are consulted. The result is stored with the path in the path cache. If a
    /// list changes after the call, the stored state differs from the new state. The next check of
    /// the path then consults the lists again.
    fn state(&self) -> RevocationState {
        RevocationState {
            crls: self.revision.crls,
            denied: self.denied.as_ref().map_or(0, |list| list.epoch()),
        }
    }

    /// Returns the cached path `known` if it is still accepted. Checks revocation and the deny list
    /// again if one of the lists has changed since the last check. Also checks them again if a
    /// revocation list has become too old.
    fn still_holds(
        &self,
        key: ChainKey,
        known: Arc<CachedPath>,
        state: RevocationState,
        now: i64,
    ) -> Option<Arc<CachedPath>> {
        if !known.holds_at(now) {
            return None;
        }
        if known.is_current(&state, now) {
            return Some(known);
        }
        let index = self.by_domain.get(known.identity.trust_domain())?;
        let bundle = self.bundles.get(*index)?;
        let revocation = bundle.revocation.check(&known.members, now).ok()?;
        let identity = with_revocation(&known.identity, revocation);
        self.check_denied(&identity, &known.members, now).ok()?;
        let looked_up = Arc::new(CachedPath {
            identity,
            members: Arc::clone(&known.members),
            state,
            good_until: revocation.good_until,
            ..*known
        });
        self.cache.insert(key, Arc::clone(&looked_up));
        Some(looked_up)
    }

    fn check_denied(
        &self,
        identity: &PeerIdentity,
        members: &[PathMember],
        now: i64,
    ) -> Result<(), ChainError> {
        let denied = self.denied.as_ref();
        match denied.and_then(|list| list.denies(identity, members, now)) {
            None => Ok(()),
            Some(note) => Err(ChainError {
                note: (!note.is_empty()).then(|| printable(&note).into()),
                ..ChainError::from((
                    ReasonCode::IdentityDenied,
                    format!("{} is on the deny list", identity.caller()),
                ))
            }),
        }
    }

    /// Verifies a client's chain without the path cache. Returns the caller's identity.
    ///
    /// # Errors
    /// If no bundle accepts the chain, or if the deny list refuses it. If several reasons apply,
    /// the error has the most helpful one.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<PeerIdentity>, ChainError> {
        self.verify_anew(leaf, intermediates, now)
            .map(|found| found.identity)
    }

    fn verify_anew(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Accepted, ChainError> {
        path::check_size(leaf, intermediates).map_err(|error| ChainError {
            // The audit line describes the leaf, although nothing in it is verified.
            leaf: path::can_be_described(leaf)
                .then(|| LeafFacts::read(leaf).ok().map(Arc::new))
                .flatten(),
            ..ChainError::from(error)
        })?;
        let facts = LeafFacts::read(leaf).map_err(|error| {
            ChainError::from((
                ReasonCode::MalformedIdentity,
                format!("the leaf cannot be read: {error}"),
            ))
        })?;
        self.decide(leaf, intermediates, &facts, now)
            .map_err(|error| ChainError {
                leaf: Some(Arc::new(facts)),
                ..error
            })
    }

    fn decide(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        facts: &LeafFacts,
        now: UnixTime,
    ) -> Result<Accepted, ChainError> {
        let spiffe_id = caller_name::spiffe_id(facts);
        // Tries the bundle of the SPIFFE ID's trust domain first, because only this bundle can
        // accept the SPIFFE ID. The other bundles are tried because they may give a better reason
        // for a refusal.
        let own = spiffe_id
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .and_then(|id| self.by_domain.get(id.trust_domain()).copied());
        let order = own
            .into_iter()
            .chain((0..self.bundles.len()).filter(|index| Some(*index) != own));
        let chain = PresentedChain {
            leaf: Candidate::borrowed(leaf),
            intermediates: intermediates.iter().map(Candidate::borrowed).collect(),
        };
        let mut budget = PathBudget::presented(self.bundles.len());
        let mut accepted: Option<Accepted> = None;
        let mut best: Option<PathError> = None;
        // The first error of a bundle whose path search reached a limit. Without the limit, this
        // bundle might have accepted the leaf under another name. So the leaf is refused, even if
        // another bundle accepts it. A leaf that is accepted with its SPIFFE ID is an exception,
        // because no other bundle can accept it.
        let mut given_up: Option<PathError> = None;
        for bundle in order.filter_map(|index| self.bundles.get(index)) {
            let outcome = bundle.verify(&chain, now, &mut budget).and_then(|path| {
                let id = spiffe_id.clone()?;
                let caller = caller_name::name_under(bundle, facts, id.as_ref())?;
                Ok(Accepted::new(bundle, caller, facts, path))
            });
            if let Ok(found) = &outcome {
                // If the deny list refuses the leaf under one bundle, the leaf is refused
                // immediately. Otherwise it could still be accepted by another bundle, under
                // another name.
                let seconds = clock::certificate_time(now.as_secs());
                self.check_denied(&found.identity, &found.path.members, seconds)?;
            }
            match outcome {
                Ok(found) if found.identity.caller().spiffe_id().is_some() => return Ok(found),
                Ok(found) => match accepted.replace(found) {
                    None => {}
                    Some(other) => {
                        return Err(ChainError::from((
                            ReasonCode::AmbiguousIdentity,
                            format!(
                                "more than one accepted trust domain vouches for {}",
                                other.identity.caller()
                            ),
                        )));
                    }
                },
                // Keeps the first error. Only the error "unknown issuer" is replaced by a later
                // error, because "unknown issuer" explains least.
                Err(refusal) => {
                    if refusal.0 == ReasonCode::ChainTooLong && given_up.is_none() {
                        given_up = Some(refusal.clone());
                    }
                    match &best {
                        Some((reason, _)) if *reason != ReasonCode::UnknownIssuer => {}
                        _ => best = Some(refusal),
                    }
                }
            }
        }
        if let (Some(_), Some(given_up)) = (&accepted, given_up) {
            return Err(given_up.into());
        }
        accepted.ok_or_else(|| {
            let without_bundles = || {
                (
                    ReasonCode::UnknownIssuer,
                    "no trust domain is accepted here".to_owned(),
                )
            };
            best.unwrap_or_else(without_bundles).into()
        })
    }
}

/// A chain that a client has sent.
struct PresentedChain<'a> {
    leaf: Candidate<'a>,
    intermediates: Vec<Candidate<'a>>,
}

/// A chain that one bundle has accepted, with the caller's identity.
struct Accepted {
    identity: Arc<PeerIdentity>,
    path: Verified,
}

impl Accepted {
    fn new(bundle: &TrustBundle, caller: CallerName, leaf: &LeafFacts, path: Verified) -> Self {
        let identity = PeerIdentity::from_verified(VerifiedPath {
            caller,
            trust_domain: bundle.name.clone(),
            leaf: leaf.clone(),
            anchor: path.anchor,
            path_not_after: path.not_after,
            revocation: path.revocation.check,
            crl_this_update: path.revocation.this_update,
        });
        Self { identity, path }
    }
}

/// Returns the identity with the result of a new revocation check.
fn with_revocation(identity: &Arc<PeerIdentity>, found: RevocationOutcome) -> Arc<PeerIdentity> {
    if identity.revocation() == found.check && identity.crl_this_update() == found.this_update {
        return Arc::clone(identity);
    }
    PeerIdentity::from_verified(VerifiedPath {
        caller: identity.caller().clone(),
        trust_domain: identity.trust_domain().clone(),
        leaf: identity.leaf().clone(),
        anchor: *identity.anchor(),
        path_not_after: identity.path_not_after(),
        revocation: found.check,
        crl_this_update: found.this_update,
    })
}

impl TrustBundle {
    /// Verifies a client's chain with the roots of this bundle. Also checks revocation.
    fn verify(
        &self,
        chain: &PresentedChain<'_>,
        now: UnixTime,
        budget: &mut PathBudget,
    ) -> Result<Verified, PathError> {
        let rules = PathRules {
            roots: &self.roots,
            purpose: PathPurpose::Client,
            revocation: &self.revocation,
        };
        let certificates = PathCertificates {
            leaf: &chain.leaf,
            configured: &self.intermediates,
            presented: &chain.intermediates,
        };
        path::verify(rules, certificates, now, budget)
    }
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientTrust")
            .field("bundles", &self.bundles)
            .finish()
    }
}
