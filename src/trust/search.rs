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
use x509_parser::x509::X509Name;

use super::authority::{AuthorityFacts, RootSet};
use super::path::PathPurpose;
use super::signed::SignedParts;

/// Most intermediates in a path, as in webpki.
const MAX_INTERMEDIATES: usize = 6;
/// Most certificates that webpki is asked to find a path among. It goes through all of
/// them at each step, and takes 200,000 steps before it gives up.
pub(super) const FEW: usize = 32;

const MAX_SIGNATURES: usize = 4096;
const MAX_LOOKS: usize = 10_000_000;
const MAX_STEPS: usize = 50_000;
const MAX_ATTEMPTS: usize = 64;

/// What a search may still cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Signatures to be verified.
    pub(super) signatures: usize,
    /// Certificates to be looked at, by names.
    pub(super) looks: usize,
    /// Paths to be begun or completed, by names.
    pub(super) steps: usize,
    /// Paths whose signatures hold, to be handed on.
    pub(super) attempts: usize,
}

impl Budget {
    /// That of every search.
    pub(super) const USUAL: Self = Self {
        signatures: MAX_SIGNATURES,
        looks: MAX_LOOKS,
        steps: MAX_STEPS,
        attempts: MAX_ATTEMPTS,
    };
}

/// The search was ended by one of its limits, and there may be a path all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the search for a path was given up {}: too many certificates have the same names; \
     leave out those that do not belong to the chain",
    self.after()
)]
pub(super) enum GaveUp {
    Signatures,
    Looks,
    Steps,
    Attempts,
}

impl GaveUp {
    fn after(self) -> String {
        match self {
            Self::Signatures => format!("after {MAX_SIGNATURES} signature checks"),
            Self::Looks => format!("after {MAX_LOOKS} comparisons of names"),
            Self::Steps => format!("after {MAX_STEPS} paths"),
            Self::Attempts => format!("after {MAX_ATTEMPTS} paths that were refused"),
        }
    }

    /// Takes `count` of what is `left`.
    fn take<T>(self, left: &mut usize, count: usize) -> Step<T> {
        match left.checked_sub(count) {
            Some(rest) => {
                *left = rest;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(Err(self)),
        }
    }
}

/// The certificates over which a path from `leaf` may lead by their names, each once, in
/// their order.
pub(super) fn named_above<'a>(
    leaf: &CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    let names = |der| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let name = |name: &X509Name<'_>| name.as_raw().to_vec();
        Some((name(certificate.subject()), name(certificate.issuer())))
    };
    let mut by_subject: HashMap<Vec<u8>, Vec<(usize, Vec<u8>)>> = HashMap::new();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for (index, der) in intermediates.iter().enumerate() {
        if seen.insert(der)
            && let Some((subject, issuer)) = names(der)
        {
            by_subject.entry(subject).or_default().push((index, issuer));
        }
    }
    let mut wanted: Vec<Vec<u8>> = names(leaf).into_iter().map(|(_, issuer)| issuer).collect();
    let mut found = Vec::new();
    while let Some(name) = wanted.pop() {
        for (index, issuer) in by_subject.remove(&name).unwrap_or_default() {
            found.push(index);
            wanted.push(issuer);
        }
    }
    found.sort_unstable();
    let found = found
        .into_iter()
        .filter_map(|index| intermediates.get(index));
    found
        .map(|der| CertificateDer::from(der.as_ref()))
        .collect()
}

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
struct Keys {
    all: Vec<Vec<u8>>,
    positions: HashMap<Vec<u8>, usize>,
}

impl Keys {
    fn position(&mut self, key: &[u8]) -> usize {
        if let Some(position) = self.positions.get(key) {
            return *position;
        }
        let position = self.all.len();
        self.all.push(key.to_vec());
        self.positions.insert(key.to_vec(), position);
        position
    }
}

/// A signature: the position of what is signed (none: the leaf) and of the key.
type Edge = (Option<usize>, usize);

/// One search.
struct Search<'a, F> {
    leaf: Candidate<'a>,
    candidates: Vec<Candidate<'a>>,
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
    keys: Keys,
    root_keys: Vec<usize>,
    roots_by_subject: HashMap<&'a [u8], Vec<usize>>,
    /// Whether the signatures that were looked at hold.
    known: HashMap<Edge, bool>,
    /// How many were found not to hold since the distances were measured, and how many
    /// paths were in vain for it.
    outdated: usize,
    budget: &'a mut Budget,
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
    budget: &mut Budget,
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
    let mut roots_by_subject: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (position, root) in roots.roots().iter().enumerate() {
        let named = roots_by_subject.entry(&root.facts.subject_der).or_default();
        named.push(position);
    }
    let mut search = Search {
        leaf,
        candidates,
        by_subject,
        keys,
        root_keys,
        roots_by_subject,
        known: HashMap::new(),
        outdated: 0,
        budget,
        attempt,
    };
    let mut all = || {
        search.measure()?;
        search.above(&mut Vec::new())
    };
    match all() {
        ControlFlow::Continue(()) => Ok(None),
        ControlFlow::Break(found) => found.map(Some),
    }
}

type Step<T> = ControlFlow<Result<T, GaveUp>>;

impl<T, F: FnMut(usize, &[usize]) -> Option<T>> Search<'_, F> {
    /// How far each candidate is from a root at least, by names and by the signatures
    /// that are known not to hold.
    fn measure(&mut self) -> Step<T> {
        self.outdated = 0;
        for candidate in &mut self.candidates {
            candidate.distance = None;
        }
        for distance in 0..MAX_INTERMEDIATES {
            GaveUp::Looks.take(&mut self.budget.looks, self.candidates.len())?;
            let near = self.at(distance);
            if near.is_empty() {
                break;
            }
            for position in near {
                if let Some(candidate) = self.candidates.get_mut(position) {
                    candidate.distance = Some(distance);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// The candidates without a distance yet that have this one.
    fn at(&self, distance: usize) -> Vec<usize> {
        let all = || self.candidates.iter().enumerate();
        let Some(below) = distance.checked_sub(1) else {
            let is_below_root = |(position, candidate): &(usize, &Candidate<'_>)| {
                let mut keys = self.roots_named(&candidate.issuer);
                keys.any(|(_, key)| self.known.get(&(Some(*position), key)) != Some(&false))
            };
            return all()
                .filter(is_below_root)
                .map(|(position, _)| position)
                .collect();
        };
        let mut above: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (position, candidate) in all().filter(|(_, one)| one.distance == Some(below)) {
            above.entry(&candidate.subject).or_default().push(position);
        }
        let is_near = |(position, candidate): &(usize, &Candidate<'_>)| {
            candidate.distance.is_none() && {
                let mut above = above.get(candidate.issuer.as_slice()).into_iter().flatten();
                above.any(|above| !self.is_refused(Some(position), *above))
            }
        };
        all()
            .filter(is_near)
            .map(|(position, _)| position)
            .collect()
    }

    /// The positions of the roots of a name, and those of their keys.
    fn roots_named(&self, name: &[u8]) -> impl Iterator<Item = (usize, usize)> {
        let named = self.roots_by_subject.get(name).into_iter().flatten();
        named.filter_map(|root| Some((*root, *self.root_keys.get(*root)?)))
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
        GaveUp::Steps.take(&mut self.budget.steps, 1)?;
        let issuer = self.head(path).issuer.clone();
        let roots: Vec<_> = self.roots_named(&issuer).collect();
        for (root, key) in roots {
            self.complete(path, root, key)?;
        }
        let named = self.by_subject.get(&issuer).map_or(0, Vec::len);
        GaveUp::Looks.take(&mut self.budget.looks, named)?;
        let room = MAX_INTERMEDIATES.saturating_sub(path.len());
        for position in self.next(path, &issuer, room) {
            // Much may have been found out since the list was made. What is out of date
            // is too short, which misses nothing.
            if self.outdated > self.candidates.len() / 16 {
                self.measure()?;
            }
            if self.is_refused(path.last(), position) || self.distance(position).is_none() {
                continue;
            }
            path.push(position);
            let step = self.above(path);
            path.pop();
            step?;
            self.outdated += usize::from(self.outdated > 0);
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
    fn complete(&mut self, path: &[usize], root: usize, mut key: usize) -> Step<T> {
        GaveUp::Steps.take(&mut self.budget.steps, 1)?;
        for position in path.iter().rev().copied().map(Some).chain([None]) {
            if !self.holds((position, key))? {
                return ControlFlow::Continue(());
            }
            let above = position.and_then(|position| self.candidates.get(position));
            key = above.map_or(key, |candidate| candidate.key);
        }
        GaveUp::Attempts.take(&mut self.budget.attempts, 1)?;
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
        if let ControlFlow::Break(gave_up) = GaveUp::Signatures.take(&mut self.budget.signatures, 1)
        {
            return ControlFlow::Break(gave_up);
        }
        let signed = match edge.0 {
            Some(position) => self.candidates.get(position),
            None => Some(&self.leaf),
        };
        let key = self.keys.all.get(edge.1);
        let holds = signed
            .zip(key)
            .is_some_and(|(candidate, key)| candidate.signed.is_signed_by(key));
        self.known.insert(edge, holds);
        self.outdated += usize::from(!holds);
        ControlFlow::Continue(holds)
    }
}
