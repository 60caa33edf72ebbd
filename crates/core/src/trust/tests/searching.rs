//! Tests of the cost of a path search among many certificates with equal names. The tests count
//! steps and do not measure time.

use countersign_testkit::{Authority, AuthoritySpec, Credentials, Leaf};
use rustls_pki_types::CertificateDer;

use super::now;
use crate::trust::certificate::authority::{AuthorityFacts, RootSet};
use crate::trust::certificate::candidate::Candidate;
use crate::trust::certificate::purpose::PathPurpose;
use crate::trust::path::search::{Budget, LimitReached, Pool, find};
use crate::trust::path::signature_checks::{SignatureBudget, SignatureChecks};

/// Number of levels of intermediates below the root, and number of forged certificates on each
/// level.
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

/// Creates a genuine chain, and forged certificates with the same names as the genuine ones but
/// other keys.
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

/// The result of a search, the remaining budget, and the number of signatures that were checked.
struct Outcome {
    found: Result<Option<usize>, LimitReached>,
    left: Budget,
    signatures: usize,
}

impl Forest {
    fn search(
        &self,
        certificates: &[CertificateDer<'_>],
        mut budget: Budget,
        signatures: SignatureBudget,
    ) -> Outcome {
        let leaf = Candidate::borrowed(self.leaf.leaf());
        let candidates: Vec<_> = certificates.iter().map(Candidate::borrowed).collect();
        let candidates: Vec<_> = candidates.iter().collect();
        let checks = SignatureChecks::new(signatures);
        let pool = Pool {
            roots: &self.roots,
            leaf: &leaf,
            intermediates: &candidates,
            configured: 0,
            purpose: PathPurpose::Client,
            now: now(),
        };
        let found = find(pool, &mut budget, &checks, |_, path| Some(path.len()));
        Outcome {
            found,
            left: budget,
            signatures: checks.count(),
        }
    }
}

#[test]
fn a_search_costs_no_more_than_its_budget() {
    let forest = forest();
    let (usual, many) = (Budget::OFFLINE, SignatureBudget::OFFLINE);
    let all = [forest.forged.clone(), forest.genuine.clone()].concat();
    // The search finds the genuine path. Each certificate costs about one signature check, because
    // no invalid signature is checked twice.
    let outcome = forest.search(&all, usual, many);
    assert_eq!(outcome.found, Ok(Some(LEVELS)));
    let signatures = outcome.signatures;
    assert!(signatures <= LEVELS * (FORGED + 2) + 1, "{signatures}");
    let looks = usual.looks - outcome.left.looks;
    assert!(looks <= 200 * all.len(), "{looks}");
    // Without the genuine certificates, only the forged ones on the first level have the name of
    // the root as issuer. Their signatures are checked and are invalid. After that, no other
    // certificate leads to the root.
    let outcome = forest.search(&forest.forged, usual, many);
    assert_eq!(outcome.found, Ok(None));
    assert_eq!(outcome.signatures, FORGED);
    let few = SignatureBudget {
        checks: 100,
        ..many
    };
    let outcome = forest.search(&forest.forged, usual, few);
    assert_eq!(outcome.found, Err(LimitReached::Signatures(100)));
    let few = SignatureBudget {
        failures: 7,
        ..many
    };
    let outcome = forest.search(&forest.forged, usual, few);
    assert_eq!(outcome.found, Err(LimitReached::Signatures(7)));
    for (budget, gave_up) in [
        (
            Budget {
                looks: 5000,
                ..usual
            },
            LimitReached::Looks,
        ),
        (
            Budget {
                steps: 100,
                ..usual
            },
            LimitReached::Steps,
        ),
    ] {
        let outcome = forest.search(&forest.forged, budget, many);
        assert_eq!(outcome.found, Err(gave_up));
    }
    let budget = Budget {
        attempts: 0,
        ..usual
    };
    let outcome = forest.search(&all, budget, many);
    assert_eq!(outcome.found, Err(LimitReached::Attempts));
}

#[test]
fn names_that_lead_to_no_root_cost_no_signature() {
    let mut forest = forest();
    forest.roots = RootSet::default();
    let other = Authority::root(&AuthoritySpec::new("Another root"));
    let facts = AuthorityFacts::read(other.der()).unwrap();
    forest.roots.add(other.der(), facts).unwrap();
    let outcome = forest.search(&forest.forged, Budget::OFFLINE, SignatureBudget::OFFLINE);
    assert_eq!(outcome.found, Ok(None));
    assert_eq!(outcome.signatures, 0);
    let looks = Budget::OFFLINE.looks - outcome.left.looks;
    assert!(looks <= 10 * forest.forged.len(), "{looks}");
}
