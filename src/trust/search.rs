//! Path search for where webpki gives up: many certificates with the names of the
//! true ones.
//!
//! webpki compares names only until it has reached a root, verifies the signatures
//! of the whole path then, forgets what it found out and stops after 100 of them: two
//! dozen namesakes on two levels are enough. Here a signature is verified once, and a
//! certificate that does not carry on is not tried again above the same subordinate.
//! Nothing is accepted here: each path whose signatures hold goes back to webpki and
//! to the checks of [`super::path`].

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::authority::{AuthorityFacts, RootSet};
use super::path::PathPurpose;
use super::signed::SignedParts;

/// Most intermediates in a path, as in webpki.
const MAX_INTERMEDIATES: usize = 6;
/// Most signatures verified in one search.
const MAX_SIGNATURES: usize = 4096;
/// Most paths looked at, by names, in one search.
const MAX_STEPS: usize = 50_000;
/// Most paths whose signatures hold that are handed on in one search.
const MAX_ATTEMPTS: usize = 64;

/// The search was ended by one of its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GaveUp;

/// A certificate that may stand in a path.
struct Candidate<'a> {
    /// Where it stands among the intermediates; the leaf has none.
    index: usize,
    signed: SignedParts<'a>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    /// Where its key stands among the keys.
    key: usize,
    key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    /// Intermediates above it at least; none where no root can be reached.
    distance: Option<usize>,
}

impl<'a> Candidate<'a> {
    fn read(der: &'a [u8], index: usize, keys: &mut Keys) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut candidate = Self {
            index,
            signed: SignedParts::read(der)?,
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            key: keys.position(certificate.public_key().raw),
            key_id: None,
            authority_key_id: None,
            distance: None,
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    candidate.key_id = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    candidate.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        Some(candidate)
    }

    /// Key identifiers help to try the likely one first; they prove nothing.
    fn is_likely_below(&self, issuer: &Self) -> bool {
        match (&self.authority_key_id, &issuer.key_id) {
            (Some(wanted), Some(own)) => wanted == own,
            _ => true,
        }
    }
}

/// Each key once: copies of a certificate share theirs.
#[derive(Default)]
struct Keys(Vec<Vec<u8>>);

impl Keys {
    fn position(&mut self, key: &[u8]) -> usize {
        let known = self.0.iter().position(|other| other == key);
        known.unwrap_or_else(|| {
            self.0.push(key.to_vec());
            self.0.len() - 1
        })
    }
}

/// A signature: the position of what is signed (none: the leaf) and of the key.
type Edge = (Option<usize>, usize);

/// One search.
struct Search<'a, F> {
    roots: &'a RootSet,
    leaf: Candidate<'a>,
    candidates: Vec<Candidate<'a>>,
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
    keys: Keys,
    root_keys: Vec<usize>,
    /// Whether the signatures that were looked at hold.
    known: HashMap<Edge, bool>,
    /// Whether one was found not to hold since the distances were measured.
    outdated: bool,
    signatures: usize,
    steps: usize,
    attempts: usize,
    attempt: F,
}

/// Searches a path that `attempt` takes: it is given a root's position in `roots`
/// and those of the intermediates, the leaf's issuer first.
///
/// # Errors
/// When a limit ended the search.
pub(super) fn find<T>(
    roots: &RootSet,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    (purpose, now): (PathPurpose, i64),
    attempt: impl FnMut(usize, &[usize]) -> Option<T>,
) -> Result<Option<T>, GaveUp> {
    let mut keys = Keys::default();
    let root_keys = roots.roots().iter();
    let root_keys = root_keys
        .map(|root| keys.position(&root.facts.key))
        .collect();
    let Some(leaf) = Candidate::read(leaf, 0, &mut keys) else {
        return Ok(None);
    };
    // What can stand in no path at this moment is not looked at again.
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let candidates: Vec<Candidate<'_>> = intermediates
        .iter()
        .map(AsRef::as_ref)
        .enumerate()
        .filter(|(_, der)| seen.insert(der))
        .filter(|(_, der)| {
            AuthorityFacts::read(der).is_ok_and(|facts| facts.may_issue(now, purpose))
        })
        .filter_map(|(index, der)| Candidate::read(der, index, &mut keys))
        .collect();
    let mut by_subject: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (position, candidate) in candidates.iter().enumerate() {
        let own = by_subject.entry(candidate.subject.clone()).or_default();
        own.push(position);
    }
    let mut search = Search {
        roots,
        leaf,
        candidates,
        by_subject,
        keys,
        root_keys,
        known: HashMap::new(),
        outdated: false,
        signatures: 0,
        steps: 0,
        attempts: 0,
        attempt,
    };
    search.measure();
    match search.above(&mut Vec::new()) {
        ControlFlow::Continue(()) => Ok(None),
        ControlFlow::Break(found) => found.map(Some),
    }
}

type Step<T> = ControlFlow<Result<T, GaveUp>>;

impl<T, F: FnMut(usize, &[usize]) -> Option<T>> Search<'_, F> {
    /// How far each candidate is from a root, by names and by the signatures that
    /// are known not to hold.
    fn measure(&mut self) {
        self.outdated = false;
        for candidate in &mut self.candidates {
            candidate.distance = None;
        }
        for distance in 0..MAX_INTERMEDIATES {
            let near: Vec<usize> = (0..self.candidates.len())
                .filter(|position| self.is_at(*position, distance))
                .collect();
            for position in near {
                if let Some(candidate) = self.candidates.get_mut(position) {
                    candidate.distance = Some(distance);
                }
            }
        }
    }

    /// Whether a candidate without a distance yet has this one.
    fn is_at(&self, position: usize, distance: usize) -> bool {
        let Some(candidate) = self.candidates.get(position) else {
            return false;
        };
        if candidate.distance.is_some() {
            return false;
        }
        let Some(below) = distance.checked_sub(1) else {
            let mut roots = self.roots.roots().iter().zip(&self.root_keys);
            return roots.any(|(root, key)| {
                root.facts.subject_der == candidate.issuer
                    && self.known.get(&(Some(position), *key)) != Some(&false)
            });
        };
        let mut above = self.by_subject.get(&candidate.issuer).into_iter().flatten();
        above.any(|above| {
            self.distance(*above) == Some(below) && !self.is_refused(Some(&position), *above)
        })
    }

    fn distance(&self, position: usize) -> Option<usize> {
        self.candidates.get(position)?.distance
    }

    fn head(&self, path: &[usize]) -> &Candidate<'_> {
        path.last()
            .and_then(|position| self.candidates.get(*position))
            .unwrap_or(&self.leaf)
    }

    /// Tries every root and every candidate above the path's last certificate.
    fn above(&mut self, path: &mut Vec<usize>) -> Step<T> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return ControlFlow::Break(Err(GaveUp));
        }
        let issuer = self.head(path).issuer.clone();
        for root in 0..self.roots.roots().len() {
            let named = self.roots.roots().get(root);
            if named.is_some_and(|root| root.facts.subject_der == issuer) {
                self.complete(path, root)?;
            }
        }
        let room = MAX_INTERMEDIATES.saturating_sub(path.len());
        for position in self.next(path, &issuer, room) {
            // Much may have been found out since the list was made.
            if self.outdated {
                self.measure();
            }
            if self.is_refused(path.last(), position) || self.distance(position).is_none() {
                continue;
            }
            path.push(position);
            let step = self.above(path);
            path.pop();
            step?;
            // A signature below may have turned out not to hold: then nothing
            // above it matters any longer.
            if self.is_broken(path) {
                break;
            }
        }
        ControlFlow::Continue(())
    }

    /// Candidates above a path, the likely ones first.
    fn next(&self, path: &[usize], issuer: &[u8], room: usize) -> Vec<usize> {
        let head = self.head(path);
        let mut next: Vec<(bool, usize, usize)> = self
            .by_subject
            .get(issuer)
            .into_iter()
            .flatten()
            .filter_map(|position| Some((*position, self.candidates.get(*position)?)))
            .filter(|(position, candidate)| {
                // No loops (RFC 4158 section 5.2).
                let again = |on: &usize| {
                    self.candidates.get(*on).is_some_and(|on| {
                        on.key == candidate.key && on.subject == candidate.subject
                    })
                };
                !self.is_refused(path.last(), *position) && !path.iter().any(again)
            })
            .filter_map(|(position, candidate)| {
                let distance = candidate.distance.filter(|distance| *distance < room)?;
                Some((!head.is_likely_below(candidate), distance, position))
            })
            .collect();
        next.sort_unstable();
        next.into_iter().map(|(_, _, position)| position).collect()
    }

    /// Whether a candidate is known not to have signed `below`, or the leaf.
    fn is_refused(&self, below: Option<&usize>, position: usize) -> bool {
        self.candidates.get(position).is_none_or(|candidate| {
            let edge = (below.copied(), candidate.key);
            self.known.get(&edge) == Some(&false)
        })
    }

    /// Whether a signature of the path is known not to hold.
    fn is_broken(&self, path: &[usize]) -> bool {
        let below = std::iter::once(None).chain(path.iter().map(Some));
        let mut edges = below.zip(path);
        edges.any(|(below, above)| self.is_refused(below, *above))
    }

    /// Verifies a path's signatures, the root's first, and hands it on.
    fn complete(&mut self, path: &[usize], root: usize) -> Step<T> {
        self.steps += 1;
        let Some(mut key) = self.root_keys.get(root).copied() else {
            return ControlFlow::Continue(());
        };
        for position in path.iter().rev().copied().map(Some).chain([None]) {
            if !self.holds((position, key))? {
                return ControlFlow::Continue(());
            }
            let above = position.and_then(|position| self.candidates.get(position));
            key = above.map_or(key, |candidate| candidate.key);
        }
        self.attempts += 1;
        if self.attempts > MAX_ATTEMPTS {
            return ControlFlow::Break(Err(GaveUp));
        }
        let indexes: Vec<usize> = path
            .iter()
            .filter_map(|position| Some(self.candidates.get(*position)?.index))
            .collect();
        match (self.attempt)(root, &indexes) {
            Some(found) => ControlFlow::Break(Ok(found)),
            None => ControlFlow::Continue(()),
        }
    }

    fn holds(&mut self, edge: Edge) -> ControlFlow<Result<T, GaveUp>, bool> {
        if let Some(holds) = self.known.get(&edge) {
            return ControlFlow::Continue(*holds);
        }
        self.signatures += 1;
        if self.signatures > MAX_SIGNATURES {
            return ControlFlow::Break(Err(GaveUp));
        }
        let signed = match edge.0 {
            Some(position) => self.candidates.get(position),
            None => Some(&self.leaf),
        };
        let key = self.keys.0.get(edge.1);
        let holds = signed
            .zip(key)
            .is_some_and(|(candidate, key)| candidate.signed.is_signed_by(key));
        self.known.insert(edge, holds);
        self.outdated |= !holds;
        ControlFlow::Continue(holds)
    }
}
