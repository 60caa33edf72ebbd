//! `ClientTrust`: the bundles that one server name accepts, and the decision
//! about a presented chain.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    CertRevocationList, ExpirationPolicy, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use super::bundle::{RevocationDepth, RevocationPosture, TrustBundle};
use super::naming;
use super::path::{self, AuthorityFacts, PathPurpose, PathRefusal, Verified};
use crate::identity::peer::{RevocationCheck, VerifiedPath};
use crate::identity::{LeafFacts, PeerIdentity, TrustDomain};
use crate::reason::ReasonCode;

/// A chain was refused: why, and what the leaf says, unproven.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The reason code.
    pub reason: ReasonCode,
    /// What exactly, safe to print; may quote names of the certificate.
    pub detail: String,
    /// What the leaf says, where it could be read.
    pub leaf: Option<Arc<LeafFacts>>,
}

/// Two bundles that must not be accepted together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientTrustError {
    /// One anchor stands in two bundles, so a path would not say whose it is.
    #[error(
        "trust domains {0} and {1} share a root certificate; each root belongs to exactly one trust domain"
    )]
    SharedAnchor(String, String),
    /// Both bundles may vouch for the same name.
    #[error("trust domains {0} and {1} may both vouch for {2}; their vouches_for must not overlap")]
    Overlap(String, String, String),
}

/// The trust bundles one server name accepts.
pub struct ClientTrust {
    bundles: Vec<Arc<TrustBundle>>,
    by_domain: HashMap<TrustDomain, usize>,
}

impl ClientTrust {
    /// Brings bundles together without merging them.
    ///
    /// # Errors
    /// When two bundles share an anchor or overlap in what they vouch for.
    pub fn new(bundles: Vec<Arc<TrustBundle>>) -> Result<Self, ClientTrustError> {
        Self::check_disjoint(&bundles)?;
        let by_domain = bundles
            .iter()
            .enumerate()
            .map(|(index, bundle)| (bundle.name.clone(), index))
            .collect();
        Ok(Self { bundles, by_domain })
    }

    /// Checks that no two bundles share an anchor or overlap in what they may
    /// vouch for.
    ///
    /// # Errors
    /// Names the first two that do.
    pub fn check_disjoint(bundles: &[Arc<TrustBundle>]) -> Result<(), ClientTrustError> {
        let mut owners: HashMap<(&[u8], &[u8]), &TrustBundle> = HashMap::new();
        for bundle in bundles {
            for key in bundle.anchor_keys() {
                if let Some(other) = owners.insert(key, bundle)
                    && other.name != bundle.name
                {
                    return Err(ClientTrustError::SharedAnchor(
                        other.name.to_string(),
                        bundle.name.to_string(),
                    ));
                }
            }
        }
        for (index, bundle) in bundles.iter().enumerate() {
            for other in bundles.iter().take(index) {
                for pattern in &bundle.vouches_for {
                    if let Some(both) = other
                        .vouches_for
                        .iter()
                        .find(|theirs| pattern.overlaps(theirs))
                    {
                        return Err(ClientTrustError::Overlap(
                            other.name.to_string(),
                            bundle.name.to_string(),
                            format!("{both} and {pattern}"),
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// The accepted bundles.
    #[must_use]
    pub fn bundles(&self) -> &[Arc<TrustBundle>] {
        &self.bundles
    }

    /// Decides about a presented chain: who is it, or why not.
    ///
    /// # Errors
    /// A [`Refusal`] with the reason that explains it best.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<PeerIdentity>, Refusal> {
        let refuse = |(reason, detail): PathRefusal, leaf: Option<&LeafFacts>| Refusal {
            reason,
            detail,
            leaf: leaf.cloned().map(Arc::new),
        };
        path::check_size(leaf, intermediates).map_err(|refusal| refuse(refusal, None))?;
        let facts = LeafFacts::read(leaf).map_err(|error| {
            refuse(
                (
                    ReasonCode::MalformedIdentity,
                    format!("the leaf cannot be read: {error}"),
                ),
                None,
            )
        })?;
        self.decide(leaf, intermediates, &facts, now)
            .map_err(|refusal| refuse(refusal, Some(&facts)))
    }

    fn decide(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        facts: &LeafFacts,
        now: UnixTime,
    ) -> Result<Arc<PeerIdentity>, PathRefusal> {
        let spiffe_id = naming::check_leaf(facts);
        // The bundle of the claimed trust domain first: it is the only one that
        // can accept a SPIFFE ID. The others are asked to explain a refusal.
        let own = spiffe_id
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .and_then(|id| self.by_domain.get(id.trust_domain()).copied());
        let order = own
            .into_iter()
            .chain((0..self.bundles.len()).filter(|index| Some(*index) != own));
        let mut accepted: Option<Arc<PeerIdentity>> = None;
        let mut best: Option<PathRefusal> = None;
        for bundle in order.filter_map(|index| self.bundles.get(index)) {
            let outcome =
                bundle
                    .verify(leaf, intermediates, now)
                    .and_then(|(verified, revocation)| {
                        let id = spiffe_id.clone()?;
                        let caller = naming::name_under(bundle, facts, id.as_ref())?;
                        Ok(PeerIdentity::from_verified(VerifiedPath {
                            caller,
                            trust_domain: bundle.name.clone(),
                            leaf: facts.clone(),
                            anchor: bundle.anchor_hash(verified.anchor),
                            path_not_after: verified.not_after,
                            revocation,
                            crl_this_update: None,
                        }))
                    });
            match outcome {
                Ok(identity) if identity.caller().spiffe_id().is_some() => return Ok(identity),
                Ok(identity) => match accepted.replace(identity) {
                    None => {}
                    Some(other) => {
                        return Err((
                            ReasonCode::AmbiguousIdentity,
                            format!(
                                "more than one accepted trust domain vouches for {}",
                                other.caller()
                            ),
                        ));
                    }
                },
                // "Not mine" explains least; otherwise the first refusal stands.
                Err(refusal) => match &best {
                    Some((reason, _)) if *reason != ReasonCode::UnknownIssuer => {}
                    _ => best = Some(refusal),
                },
            }
        }
        accepted.ok_or_else(|| {
            best.unwrap_or_else(|| {
                (
                    ReasonCode::UnknownIssuer,
                    "no trust domain is accepted here".to_owned(),
                )
            })
        })
    }
}

impl TrustBundle {
    /// Verifies a client's path under this bundle, revocation included.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(Verified, RevocationCheck), PathRefusal> {
        match self.posture {
            RevocationPosture::Off => Ok((
                self.verify_with(leaf, intermediates, now, None)?,
                RevocationCheck::Off,
            )),
            RevocationPosture::Hard => Ok((
                self.verify_with(leaf, intermediates, now, Some(true))?,
                RevocationCheck::Checked,
            )),
            RevocationPosture::Soft => match self.verify_with(leaf, intermediates, now, Some(true))
            {
                Err((ReasonCode::RevocationUnknown | ReasonCode::RevocationStale, _)) => Ok((
                    self.verify_with(leaf, intermediates, now, Some(false))?,
                    RevocationCheck::Soft,
                )),
                other => other.map(|verified| (verified, RevocationCheck::Checked)),
            },
        }
    }

    fn verify_with(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        strict_revocation: Option<bool>,
    ) -> Result<Verified, PathRefusal> {
        let lists: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = match strict_revocation {
            None => None,
            Some(strict) => {
                let builder = RevocationOptionsBuilder::new(&lists).map_err(|_| {
                    (
                        ReasonCode::RevocationUnknown,
                        format!("trust domain {} has no revocation list", self.name),
                    )
                })?;
                let builder = builder.with_depth(match self.depth {
                    RevocationDepth::Chain => RevocationCheckDepth::Chain,
                    RevocationDepth::Leaf => RevocationCheckDepth::EndEntity,
                });
                let builder = if strict {
                    builder
                        .with_status_policy(UnknownStatusPolicy::Deny)
                        .with_expiration_policy(ExpirationPolicy::Enforce)
                } else {
                    builder
                        .with_status_policy(UnknownStatusPolicy::Allow)
                        .with_expiration_policy(ExpirationPolicy::Ignore)
                };
                Some(builder.build())
            }
        };
        let roots: Vec<&AuthorityFacts> = self.roots.iter().map(|root| &root.facts).collect();
        let with_ours: Vec<CertificateDer<'_>>;
        let intermediates = if self.intermediates.is_empty() {
            intermediates
        } else {
            with_ours = intermediates
                .iter()
                .chain(&self.intermediates)
                .map(|der| CertificateDer::from(der.as_ref()))
                .collect();
            &with_ours
        };
        path::verify(
            leaf,
            intermediates,
            &self.anchors,
            &roots,
            now,
            PathPurpose::Client,
            revocation,
        )
    }

    fn anchor_hash(&self, anchor: usize) -> [u8; 32] {
        self.roots
            .get(anchor)
            .map(|root| root.hash)
            .unwrap_or_default()
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
