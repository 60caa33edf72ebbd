//! Tests of chains that an attacker builds to make verification expensive. The tests count
//! signature checks.

use countersign_testkit::{Authority, AuthoritySpec, Credentials, Leaf, TestCa};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{at, bundle, config};
use crate::reason::ReasonCode;
use crate::trust::certificate::candidate::Candidate;
use crate::trust::certificate::error::PathError;
use crate::trust::certificate::purpose::PathPurpose;
use crate::trust::path::signature_checks::SignatureBudget;
use crate::trust::path::{self, PathBudget, PathCertificates, PathRules, check_size};

/// Maximum number of signature checks with the result "invalid", for one bundle.
const FAILURES: usize = SignatureBudget::PRESENTED.failures;

/// Verifies a chain as if a peer had presented it. Returns the result and the number of signature
/// checks.
fn verify(
    ca: &TestCa,
    configured: &[CertificateDer<'static>],
    chain: &[CertificateDer<'static>],
) -> (Result<(), PathError>, usize) {
    let bundle = bundle(config(ca, &[]));
    let (leaf, presented) = chain.split_first().unwrap();
    check_size(leaf, presented).unwrap();
    let configured: Vec<_> = configured.iter().cloned().map(Candidate::new).collect();
    let presented: Vec<_> = presented.iter().map(Candidate::borrowed).collect();
    let leaf = Candidate::borrowed(leaf);
    let rules = PathRules {
        roots: &bundle.roots,
        purpose: PathPurpose::Client,
        revocation: &bundle.revocation,
    };
    let certificates = PathCertificates {
        leaf: &leaf,
        configured: &configured,
        presented: &presented,
    };
    let mut budget = PathBudget::presented(1);
    let now: UnixTime = at(0);
    let verified = path::verify(rules, certificates, now, &mut budget);
    (verified.map(drop), budget.signatures())
}

fn named(name: &str) -> Authority {
    Authority::root(&AuthoritySpec::new(name))
}

fn leaf_of(authority: &Authority) -> Credentials {
    authority.issue(Leaf::with_uri("spiffe://example.org/a"))
}

/// Returns forged authorities: they have the name of the intermediate, but other keys. Each is
/// certified by an authority with the name of the root and another key.
fn forged(count: usize) -> Vec<(Authority, CertificateDer<'static>)> {
    let root = named("example.org root");
    let forge = |_| {
        let authority = named("example.org intermediate");
        let der = root.cross_sign(&authority);
        (authority, der)
    };
    (0..count).map(forge).collect()
}

fn reason(outcome: &Result<(), PathError>) -> Option<ReasonCode> {
    outcome.as_ref().err().map(|(reason, _)| *reason)
}

#[test]
fn a_good_chain_costs_a_check_for_each_certificate() {
    let ca = TestCa::new("example.org");
    let (verified, signatures) = verify(&ca, &[], &ca.client("/a").chain);
    assert_eq!(verified, Ok(()));
    assert_eq!(signatures, 2);
}

#[test]
fn forged_namesakes_of_an_intermediate_cost_no_more_than_the_budget() {
    let ca = TestCa::new("example.org");
    let forged = forged(7);
    let mut chain = vec![leaf_of(&forged[0].0).leaf().clone()];
    chain.extend(forged.iter().map(|(_, der)| der.clone()));
    let (verified, signatures) = verify(&ca, &[], &chain);
    assert_eq!(reason(&verified), Some(ReasonCode::ChainTooLong));
    assert_eq!(signatures, FAILURES);
    // An attacker can also present the genuine intermediate, because it is public. This costs only
    // one more signature check, whose result is "valid".
    chain[7] = ca.intermediate().der().clone();
    let (verified, signatures) = verify(&ca, &[], &chain);
    assert_eq!(reason(&verified), Some(ReasonCode::ChainTooLong));
    assert!(signatures <= FAILURES + 1, "{signatures}");
}

#[test]
fn namesakes_that_certify_each_other_cost_no_more_than_the_budget() {
    let ca = TestCa::new("example.org");
    // All authorities have the same name, so according to the names, each authority could have
    // issued the certificate of every other one.
    for name in ["example.org root", "nowhere"] {
        let clique: Vec<_> = (0..7).map(|_| named(name)).collect();
        let mut chain = vec![leaf_of(&clique[0]).leaf().clone()];
        chain.extend(clique.iter().map(|authority| authority.der().clone()));
        let (verified, signatures) = verify(&ca, &[], &chain);
        assert!(verified.is_err());
        assert!(signatures <= FAILURES, "{name}: {signatures}");
    }
}

#[test]
fn namesakes_on_several_levels_cost_no_more_than_the_budget() {
    let ca = TestCa::new("example.org");
    let root = named("example.org root");
    let level = |name: &str| [named(name), named(name)];
    let (upper, lower) = (level("upper"), level("lower"));
    let mut chain = vec![leaf_of(&lower[0]).leaf().clone()];
    for (below, above) in lower.iter().zip(&upper) {
        chain.push(above.cross_sign(below));
        chain.push(root.cross_sign(above));
        chain.push(ca.root().cross_sign(above));
    }
    // The chain contains genuine paths from the root to `lower`. But the leaf was signed by another
    // authority with the name `lower`.
    chain[0] = leaf_of(&named("lower")).leaf().clone();
    let (verified, signatures) = verify(&ca, &[], &chain);
    assert!(verified.is_err());
    let SignatureBudget { checks, .. } = SignatureBudget::PRESENTED;
    assert!(signatures <= checks, "{signatures}");
}

#[test]
fn what_the_operator_configured_is_tried_before_what_a_peer_presents() {
    let ca = TestCa::new("example.org");
    let good = ca.client("/a").without_intermediates();
    let mut chain = good.chain;
    chain.extend(forged(7).into_iter().map(|(_, der)| der));
    let configured = [ca.intermediate().der().clone()];
    let (verified, signatures) = verify(&ca, &configured, &chain);
    assert_eq!(verified, Ok(()));
    assert_eq!(signatures, 2);
}

#[test]
fn key_identifiers_lead_past_namesakes() {
    let ca = TestCa::new("example.org");
    let good = ca.client("/a").chain;
    let mut chain = vec![good[0].clone()];
    chain.extend(forged(6).into_iter().map(|(_, der)| der));
    chain.push(good[1].clone());
    let (verified, signatures) = verify(&ca, &[], &chain);
    assert_eq!(verified, Ok(()));
    assert_eq!(signatures, 2);
}

#[test]
fn certificates_of_thousands_of_names_are_refused_before_they_are_read() {
    let ca = TestCa::new("example.org");
    let names = (0..5000).fold(Leaf::with_uri("spiffe://example.org/a"), |leaf, _| {
        leaf.raw_name(0x82, b"a")
    });
    let chain = ca.issue(names).chain;
    let (leaf, presented) = chain.split_first().unwrap();
    let refusal = check_size(leaf, presented).unwrap_err();
    assert_eq!(refusal.0, ReasonCode::ChainTooLong);
    assert!(refusal.1.contains("elements"), "{}", refusal.1);
    // 500 names stay below the limit of elements, so the certificate is accepted.
    let names = (0..500).fold(Leaf::with_uri("spiffe://example.org/a"), |leaf, _| {
        leaf.raw_name(0x82, b"a")
    });
    assert_eq!(verify(&ca, &[], &ca.issue(names).chain).0, Ok(()));
}
