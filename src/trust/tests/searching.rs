//! What a search among many certificates of the same names costs: counted, not timed.

use countersign_testkit::{Authority, AuthoritySpec, Credentials, Leaf};
use rustls_pki_types::CertificateDer;

use super::now;
use crate::trust::authority::{AuthorityFacts, RootSet};
use crate::trust::path::PathPurpose;
use crate::trust::search::{Budget, GaveUp, find};

/// Levels between root and leaf, and forged certificates on each.
const LEVELS: usize = 3;
const FORGED: usize = 400;

struct Forest {
    roots: RootSet,
    leaf: Credentials,
    forged: Vec<CertificateDer<'static>>,
    genuine: Vec<CertificateDer<'static>>,
}

fn authority(level: usize) -> Authority {
    Authority::root(&AuthoritySpec::new(&format!("Level {level}")))
}

/// Forged certificates have the names of the genuine ones, and keys of their own.
fn forest() -> Forest {
    let genuine: Vec<Authority> = (0..=LEVELS).map(authority).collect();
    let forgers: Vec<Authority> = (0..=LEVELS).map(authority).collect();
    let mut roots = RootSet::default();
    let root = genuine[0].der();
    roots
        .add(root, AuthorityFacts::read(root).unwrap())
        .unwrap();
    let levels = 1..=LEVELS;
    Forest {
        roots,
        leaf: genuine[LEVELS].issue(Leaf::with_uri("spiffe://example.org/a")),
        forged: (levels.clone())
            .flat_map(|level| (0..FORGED).map(move |_| level))
            .map(|level| forgers[level - 1].cross_sign(&authority(level)))
            .collect(),
        genuine: levels
            .map(|level| genuine[level - 1].cross_sign(&genuine[level]))
            .collect(),
    }
}

impl Forest {
    /// What comes of a search, and what is left of its budget.
    fn search(
        &self,
        certificates: &[CertificateDer<'_>],
        mut budget: Budget,
    ) -> (Result<Option<usize>, GaveUp>, Budget) {
        let found = find(
            &self.roots,
            self.leaf.leaf(),
            certificates,
            (PathPurpose::Client, now()),
            &mut budget,
            |_, path| Some(path.len()),
        );
        (found, budget)
    }
}

#[test]
fn a_search_costs_no_more_than_its_budget() {
    let forest = forest();
    let usual = Budget::USUAL;
    let all = [forest.forged.clone(), forest.genuine.clone()].concat();
    // Key identifiers lead past most of them; no certificate is refused twice.
    let (found, left) = forest.search(&all, usual);
    assert_eq!(found, Ok(Some(LEVELS)));
    let signatures = usual.signatures - left.signatures;
    assert!(signatures <= LEVELS * (FORGED + 2) + 1, "{signatures}");
    let looks = usual.looks - left.looks;
    assert!(looks <= 200 * all.len(), "{looks}");
    // Those next to the root are refused, and what is left leads nowhere.
    let (found, left) = forest.search(&forest.forged, usual);
    assert_eq!(found, Ok(None));
    assert_eq!(usual.signatures - left.signatures, FORGED);
    for (budget, gave_up) in [
        (
            Budget {
                signatures: 100,
                ..usual
            },
            GaveUp::Signatures,
        ),
        (
            Budget {
                looks: 5000,
                ..usual
            },
            GaveUp::Looks,
        ),
        (
            Budget {
                steps: 100,
                ..usual
            },
            GaveUp::Steps,
        ),
    ] {
        let (found, left) = forest.search(&forest.forged, budget);
        assert_eq!(found, Err(gave_up));
        // It is used up, and the search goes no further.
        assert!(gave_up != GaveUp::Signatures || left.signatures == 0);
    }
    let budget = Budget {
        attempts: 0,
        ..usual
    };
    let (found, _) = forest.search(&all, budget);
    assert_eq!(found, Err(GaveUp::Attempts));
}

#[test]
fn names_that_lead_to_no_root_cost_no_signature() {
    let mut forest = forest();
    forest.roots = RootSet::default();
    let other = Authority::root(&AuthoritySpec::new("Another root"));
    let facts = AuthorityFacts::read(other.der()).unwrap();
    forest.roots.add(other.der(), facts).unwrap();
    let (found, left) = forest.search(&forest.forged, Budget::USUAL);
    assert_eq!(found, Ok(None));
    assert_eq!(left.signatures, Budget::USUAL.signatures);
    let looks = Budget::USUAL.looks - left.looks;
    assert!(looks <= 10 * forest.forged.len(), "{looks}");
}
