//! Path search: finds the certificates that link a leaf to a root, by names and signatures.
//!
//! webpki's own search is expensive. It compares only names until it reaches a root. Then it
//! verifies the signatures of that path, forgets the results, and stops only after 100 signatures.
//! So a few certificates with equal names on two levels cost more than a whole handshake.
//!
//! This search checks each signature only once, only with keys that are already verified, and
//! within a budget. It does not try a path again that contains an invalid signature. The search
//! itself accepts nothing. It passes each path with valid signatures to webpki and to the checks of
//! `path`.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use rustls_pki_types::SignatureVerificationAlgorithm;

use super::signature_checks::{BoundedAlgorithm, SignatureChecks};
use crate::trust::certificate::authority::{AuthorityFacts, RootSet};
use crate::trust::certificate::candidate::{Candidate, PathFields};
use crate::trust::certificate::purpose::PathPurpose;
use crate::trust::certificate::signed::SignedParts;

/// Maximum number of intermediates in a path, the same as in webpki.
const MAX_INTERMEDIATES: usize = 6;
/// If the search has more certificates than this, it first removes the certificates that may not
/// issue other certificates now, for example because they have expired. A smaller search keeps
/// them, because they help to explain a refusal.
const FEW: usize = 32;

/// How much work is left for one search, apart from signature checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Number of certificates that may still be compared by name.
    pub(crate) looks: usize,
    /// Number of times that a path may still be extended or completed.
    pub(crate) steps: usize,
    /// Number of paths that may still be passed to webpki and to our own checks.
    pub(crate) attempts: usize,
}

impl Budget {
    /// The budget for a chain that a peer presents.
    pub(crate) const PRESENTED: Self = Self {
        looks: 100_000,
        steps: 512,
        attempts: 16,
    };
    /// The budget for commands, where only an operator waits for the result.
    pub(crate) const OFFLINE: Self = Self {
        looks: 10_000_000,
        steps: 50_000,
        attempts: 64,
    };
}

/// The limit that ended the search. A valid path may exist, but was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the search for a path was given up {}: too many certificates have the same names; \
     leave out those that do not belong to the chain",
    self.after()
)]
pub(crate) enum LimitReached {
    /// The budget for signature checks is used up. The number is how many signatures were checked.
    Signatures(usize),
    Looks,
    Steps,
    Attempts,
}

impl LimitReached {
    fn after(self) -> String {
        match self {
            Self::Signatures(checks) => format!("after {checks} signature checks"),
            Self::Looks => "after too many comparisons of names".to_owned(),
            Self::Steps => "after too many paths".to_owned(),
            Self::Attempts => "after too many paths that were refused".to_owned(),
        }
    }

    /// Subtracts `count` from the remaining budget `left`. Ends the search with this limit if
    /// `left` is too small.
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

/// A certificate that the search can use.
struct Node<'a> {
    /// The position of the certificate in [`Pool::intermediates`]. Has no meaning for the leaf.
    index: usize,
    signed: SignedParts<'a>,
    fields: &'a PathFields,
    /// The position of the certificate's public key in [`Keys`].
    key: usize,
    /// The smallest number of intermediates between this certificate and a root. `None` if it leads
    /// to no root.
    distance: Option<usize>,
}

impl<'a> Node<'a> {
    fn of(candidate: &'a Candidate<'_>, index: usize, keys: &mut Keys<'a>) -> Option<Self> {
        let fields = candidate.fields.as_ref()?;
        Some(Self {
            index,
            signed: SignedParts::read(&candidate.der)?,
            fields,
            key: keys.position(&fields.key),
            distance: None,
        })
    }
}

/// The different public keys of all certificates. Equal keys have the same position in the list.
#[derive(Default)]
struct Keys<'a> {
    all: Vec<&'a [u8]>,
    positions: HashMap<&'a [u8], usize>,
}

impl<'a> Keys<'a> {
    fn position(&mut self, key: &'a [u8]) -> usize {
        let next = self.all.len();
        let position = *self.positions.entry(key).or_insert(next);
        if position == next {
            self.all.push(key);
        }
        position
    }
}

/// Identifies a signature by two positions: the position of the signed certificate in
/// [`Search::nodes`] (`None` for the leaf), and the position of the signer's public key in
/// [`Keys`].
type Edge = (Option<usize>, usize);

/// The input of a search: the certificates from which a path can be built.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a> {
    pub(crate) roots: &'a RootSet,
    pub(crate) leaf: &'a Candidate<'a>,
    /// All intermediates. The first ones are those that the operator has configured.
    pub(crate) intermediates: &'a [&'a Candidate<'a>],
    /// The number of configured intermediates at the start of `intermediates`.
    pub(crate) configured: usize,
    pub(crate) purpose: PathPurpose,
    pub(crate) now: i64,
}

/// The state of one search.
struct Search<'a, F> {
    roots: &'a RootSet,
    /// The number of configured intermediates ([`Pool::configured`]).
    configured: usize,
    leaf: Node<'a>,
    nodes: Vec<Node<'a>>,
    by_subject: HashMap<&'a [u8], Vec<usize>>,
    keys: Keys<'a>,
    root_keys: Vec<usize>,
    roots_by_subject: HashMap<&'a [u8], Vec<usize>>,
    /// The signatures that were checked, with the results. True if the signature is valid.
    known: HashMap<Edge, bool>,
    /// How outdated [`Node::distance`] is. 0 means that the distances are up to date. The first
    /// invalid signature after a call of `measure` makes them outdated. From then on, each invalid
    /// signature and each tried candidate adds 1.
    outdated: usize,
    budget: &'a mut Budget,
    checks: &'a SignatureChecks,
    algorithms: Vec<BoundedAlgorithm<'a>>,
    attempt: F,
}

/// Searches for a path that `attempt` accepts. `attempt` gets the position of the path's root, and
/// the positions of its intermediates in the pool, starting with the leaf's issuer. Returns what
/// `attempt` returned, or `None` if it accepted no path.
///
/// # Errors
/// If the search reached a limit.
pub(crate) fn find<'a, T>(
    pool: Pool<'a>,
    budget: &'a mut Budget,
    checks: &'a SignatureChecks,
    attempt: impl FnMut(usize, &[usize]) -> Option<T>,
) -> Result<Option<T>, LimitReached> {
    let mut keys = Keys::default();
    let root_keys = pool.roots.roots().iter();
    let root_keys = root_keys
        .map(|root| keys.position(&root.facts.key))
        .collect();
    let Some(leaf) = Node::of(pool.leaf, 0, &mut keys) else {
        return Ok(None);
    };
    let mut nodes = Vec::new();
    for (index, candidate) in named_above(pool) {
        nodes.extend(Node::of(candidate, index, &mut keys));
    }
    if nodes.len() > FEW {
        nodes.retain(|node| {
            let candidate = pool.intermediates.get(node.index);
            let facts = candidate.and_then(|one| AuthorityFacts::read(&one.der).ok());
            facts.is_some_and(|facts| facts.may_issue(pool.now, pool.purpose))
        });
    }
    let mut by_subject: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (position, node) in nodes.iter().enumerate() {
        let own = by_subject.entry(&node.fields.subject).or_default();
        own.push(position);
    }
    let mut roots_by_subject: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (position, root) in pool.roots.roots().iter().enumerate() {
        let named = roots_by_subject.entry(&root.facts.subject_der).or_default();
        named.push(position);
    }
    let mut search = Search {
        roots: pool.roots,
        configured: pool.configured,
        leaf,
        nodes,
        by_subject,
        keys,
        root_keys,
        roots_by_subject,
        known: HashMap::new(),
        outdated: 0,
        budget,
        checks,
        algorithms: checks.algorithms(),
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

/// Returns the intermediates that can be above the leaf according to their names. Leaves out
/// duplicates. The order is the same as in the pool.
fn named_above<'a>(pool: Pool<'a>) -> Vec<(usize, &'a Candidate<'a>)> {
    let mut by_subject: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for (index, candidate) in pool.intermediates.iter().enumerate() {
        if let Some(fields) = &candidate.fields
            && seen.insert(&candidate.der)
        {
            by_subject.entry(&fields.subject).or_default().push(index);
        }
    }
    let issuer = |candidate: &Candidate<'_>| candidate.fields.as_ref().map(|f| f.issuer.clone());
    let mut wanted: Vec<Vec<u8>> = issuer(pool.leaf).into_iter().collect();
    let mut found = Vec::new();
    while let Some(name) = wanted.pop() {
        for index in by_subject.remove(name.as_slice()).unwrap_or_default() {
            found.push(index);
            wanted.extend(pool.intermediates.get(index).and_then(|one| issuer(one)));
        }
    }
    found.sort_unstable();
    let found = found.into_iter();
    found
        .filter_map(|index| Some((index, *pool.intermediates.get(index)?)))
        .collect()
}

/// Returns the chain that the peer most likely meant, chosen only by names and key identifiers. A
/// name occurs twice only if the second certificate is for the key that signed the first one. The
/// chain is used to explain why no path was accepted.
pub(crate) fn likeliest_chain<'a>(pool: Pool<'a>) -> Vec<&'a Candidate<'a>> {
    let mut chain: Vec<&Candidate<'_>> = Vec::new();
    let mut head = pool.leaf.fields.as_ref();
    while let Some(below) = head
        && chain.len() < MAX_INTERMEDIATES
    {
        let used = |fields: &PathFields| {
            let own = pool.leaf.fields.iter();
            let above = chain.iter().filter_map(|one| one.fields.as_ref());
            let named = own.chain(above);
            match named.filter(|used| used.subject == fields.subject).count() {
                0 => false,
                1 => !below.is_rollover_by(fields),
                _ => true,
            }
        };
        let is_next = |candidate: &&&Candidate<'_>| {
            let fields = candidate.fields.as_ref();
            fields.is_some_and(|fields| fields.subject == below.issuer && !used(fields))
        };
        let is_likely = |candidate: &&&Candidate<'_>| {
            let fields = candidate.fields.as_ref();
            fields.is_some_and(|fields| below.is_likely_below(fields.key_id.as_deref()))
        };
        let mut named = pool.intermediates.iter().filter(is_next);
        let next = named.clone().find(is_likely).or_else(|| named.next());
        head = next.and_then(|next| next.fields.as_ref());
        chain.extend(next);
    }
    chain
}

type Step<T> = ControlFlow<Result<T, LimitReached>>;

impl<'a, T, F: FnMut(usize, &[usize]) -> Option<T>> Search<'a, F> {
    /// Sets the distance of each node to a root. Two certificates are linked if the names of issuer
    /// and subject match, unless a check has shown that the signature is invalid.
    fn measure(&mut self) -> Step<T> {
        self.outdated = 0;
        for candidate in &mut self.nodes {
            candidate.distance = None;
        }
        for distance in 0..MAX_INTERMEDIATES {
            LimitReached::Looks.take(&mut self.budget.looks, self.nodes.len())?;
            let near = self.at(distance);
            if near.is_empty() {
                break;
            }
            for position in near {
                if let Some(candidate) = self.nodes.get_mut(position) {
                    candidate.distance = Some(distance);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Returns the nodes that are at `distance` from a root. Nodes with a smaller distance must
    /// already have their distance.
    fn at(&self, distance: usize) -> Vec<usize> {
        let all = || self.nodes.iter().enumerate();
        let Some(below) = distance.checked_sub(1) else {
            let is_below_root = |(position, candidate): &(usize, &Node<'_>)| {
                let mut keys = self.roots_named(&candidate.fields.issuer);
                keys.any(|(_, key)| self.known.get(&(Some(*position), key)) != Some(&false))
            };
            return all()
                .filter(is_below_root)
                .map(|(position, _)| position)
                .collect();
        };
        let mut above: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (position, candidate) in all().filter(|(_, one)| one.distance == Some(below)) {
            above
                .entry(&candidate.fields.subject)
                .or_default()
                .push(position);
        }
        let is_near = |(position, candidate): &(usize, &Node<'_>)| {
            candidate.distance.is_none() && {
                let mut above = above
                    .get(candidate.fields.issuer.as_slice())
                    .into_iter()
                    .flatten();
                above.any(|above| !self.is_refused(Some(position), *above))
            }
        };
        all()
            .filter(is_near)
            .map(|(position, _)| position)
            .collect()
    }

    /// Returns the roots with this subject: for each root its position, and the position of its key
    /// in [`Keys`].
    fn roots_named(&self, name: &[u8]) -> impl Iterator<Item = (usize, usize)> {
        let named = self.roots_by_subject.get(name).into_iter().flatten();
        named.filter_map(|root| Some((*root, *self.root_keys.get(*root)?)))
    }

    fn distance(&self, position: usize) -> Option<usize> {
        self.nodes.get(position)?.distance
    }

    fn head(&self, path: &[usize]) -> &Node<'a> {
        path.last()
            .and_then(|position| self.nodes.get(*position))
            .unwrap_or(&self.leaf)
    }

    /// Continues the path with every root and every intermediate that has the name of the next
    /// issuer. Tries those with a matching key identifier first.
    fn above(&mut self, path: &mut Vec<usize>) -> Step<T> {
        LimitReached::Steps.take(&mut self.budget.steps, 1)?;
        let head = self.head(path).fields;
        let issuer = head.issuer.as_slice();
        let roots = self.roots;
        let is_likely = |root: usize| {
            let root = roots.roots().get(root);
            root.is_none_or(|root| head.is_likely_below(root.facts.key_id.as_deref()))
        };
        let (likely_roots, other_roots): (Vec<_>, Vec<_>) = self
            .roots_named(issuer)
            .partition(|(root, _)| is_likely(*root));
        let named = self.by_subject.get(issuer).map_or(0, Vec::len);
        LimitReached::Looks.take(&mut self.budget.looks, named)?;
        let room = MAX_INTERMEDIATES.saturating_sub(path.len());
        let (likely, others) = self.next(path, issuer, room);
        self.complete_all(path, &likely_roots)?;
        self.extend_by(path, &likely)?;
        self.complete_all(path, &other_roots)?;
        self.extend_by(path, &others)
    }

    fn complete_all(&mut self, path: &[usize], roots: &[(usize, usize)]) -> Step<T> {
        for (root, key) in roots {
            self.complete(path, *root, *key)?;
        }
        ControlFlow::Continue(())
    }

    fn extend_by(&mut self, path: &mut Vec<usize>, candidates: &[usize]) -> Step<T> {
        for position in candidates.iter().copied() {
            // While an earlier candidate was tried, a check may have shown that a signature of
            // `path` is invalid. Then no candidate can complete this path.
            if self.is_broken(path) {
                break;
            }
            // Measures the distances again after many invalid signatures. An outdated distance can
            // be too small but never too large, so no path is missed.
            if self.outdated > self.nodes.len() / 16 {
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
        }
        ControlFlow::Continue(())
    }

    /// Returns the intermediates that may be the next issuer of a path, in two lists: those with a
    /// matching key identifier, and the others. In both lists, configured intermediates come first,
    /// then those with the smallest distance to a root.
    fn next(&self, path: &[usize], issuer: &[u8], room: usize) -> (Vec<usize>, Vec<usize>) {
        let head = self.head(path);
        let mut next: Vec<(bool, usize, usize)> = self
            .by_subject
            .get(issuer)
            .into_iter()
            .flatten()
            .filter_map(|position| Some((*position, self.nodes.get(*position)?)))
            .filter(|(position, candidate)| {
                // The same subject and key must not occur twice in a path, because this would be a
                // loop (RFC 4158 section 5.2).
                let again = |on: &usize| {
                    self.nodes.get(*on).is_some_and(|on| {
                        on.key == candidate.key && on.fields.subject == candidate.fields.subject
                    })
                };
                !self.is_refused(path.last(), *position) && !path.iter().any(again)
            })
            .filter_map(|(position, candidate)| {
                let distance = candidate.distance.filter(|distance| *distance < room)?;
                Some((candidate.index >= self.configured, distance, position))
            })
            .collect();
        next.sort_unstable();
        let is_likely = |position: &usize| {
            let key_id = self.nodes.get(*position).map(|one| &one.fields.key_id);
            key_id.is_none_or(|id| head.fields.is_likely_below(id.as_deref()))
        };
        next.into_iter()
            .map(|(_, _, position)| position)
            .partition(is_likely)
    }

    /// Whether a check has shown that the node at `position` did not sign the certificate `below`.
    /// `None` stands for the leaf.
    fn is_refused(&self, below: Option<&usize>, position: usize) -> bool {
        self.nodes.get(position).is_none_or(|candidate| {
            let edge = (below.copied(), candidate.key);
            self.known.get(&edge) == Some(&false)
        })
    }

    /// Whether the path contains a signature that a check has shown to be invalid.
    fn is_broken(&self, path: &[usize]) -> bool {
        let below = std::iter::once(None).chain(path.iter().map(Some));
        let mut edges = below.zip(path);
        edges.any(|(below, above)| self.is_refused(below, *above))
    }

    /// Verifies all signatures of a path that ends at `root`, starting with the signature by the
    /// root. If all are valid, calls `attempt`.
    fn complete(&mut self, path: &[usize], root: usize, mut key: usize) -> Step<T> {
        LimitReached::Steps.take(&mut self.budget.steps, 1)?;
        for position in path.iter().rev().copied().map(Some).chain([None]) {
            if !self.holds((position, key))? {
                return ControlFlow::Continue(());
            }
            let above = position.and_then(|position| self.nodes.get(position));
            key = above.map_or(key, |candidate| candidate.key);
        }
        LimitReached::Attempts.take(&mut self.budget.attempts, 1)?;
        let indexes: Vec<usize> = path
            .iter()
            .filter_map(|position| Some(self.nodes.get(*position)?.index))
            .collect();
        match (self.attempt)(root, &indexes) {
            Some(found) => ControlFlow::Break(Ok(found)),
            None => ControlFlow::Continue(()),
        }
    }

    fn holds(&mut self, edge: Edge) -> ControlFlow<Result<T, LimitReached>, bool> {
        if let Some(holds) = self.known.get(&edge) {
            return ControlFlow::Continue(*holds);
        }
        let signed = match edge.0 {
            Some(position) => self.nodes.get(position),
            None => Some(&self.leaf),
        };
        let key = self.keys.all.get(edge.1);
        let holds = signed.zip(key).is_some_and(|(candidate, key)| {
            let algorithms = self.algorithms.iter();
            let algorithms = algorithms.map(|one| one as &dyn SignatureVerificationAlgorithm);
            candidate.signed.is_signed_under(key, algorithms)
        });
        if !holds && self.checks.is_spent() {
            let checks = self.checks.count();
            return ControlFlow::Break(Err(LimitReached::Signatures(checks)));
        }
        self.known.insert(edge, holds);
        self.outdated += usize::from(!holds);
        ControlFlow::Continue(holds)
    }
}
