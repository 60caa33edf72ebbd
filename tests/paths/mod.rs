//! Path building with generated authorities: cycles, cross-certificates, copies with other keys,
//! expired copies, and copies that may not sign, in any order.
//!
//! For each input, the test knows whether a path of valid signatures leads from the leaf to the
//! root. The result of path building must agree.

use std::sync::LazyLock;
use std::time::Duration;

use countersign_core::clock;
use countersign_core::reason::ReasonCode;
use countersign_core::trust::{PathError, PathPurpose, PathTrust};
use countersign_testkit::{Authority, AuthoritySpec, Credentials, Leaf};
use proptest::prelude::*;
use rcgen::KeyUsagePurpose;
use rustls_pki_types::{CertificateDer, UnixTime};

/// The number of authorities. The first one is the root, and the last one issues the leaf.
const AUTHORITIES: usize = 5;

struct Pki {
    authorities: Vec<Authority>,
    /// Authorities with the same names but with other keys.
    namesakes: Vec<Authority>,
    forgers: Vec<Authority>,
    leaf: Credentials,
}

static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let make = || -> Vec<Authority> {
        (0..AUTHORITIES)
            .map(|number| Authority::root(&AuthoritySpec::new(&format!("Authority {number}"))))
            .collect()
    };
    let authorities = make();
    let leaf = authorities[AUTHORITIES - 1].issue(Leaf::with_uri("spiffe://example.org/a"));
    Pki {
        authorities,
        namesakes: make(),
        forgers: make(),
        leaf,
    }
});

/// The kinds of certificates that one authority issues for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crossing {
    Good,
    /// The signature is by another authority with the name of the issuer.
    Forged,
    /// The certificate is for another authority with the name of the subject.
    OtherKey,
    Expired,
    /// The key usage does not allow signing certificates.
    NoSigning,
    /// The path length constraint allows no intermediate below the subject.
    NoLength,
}

impl Crossing {
    fn sign(self, issuer: usize, subject: usize) -> CertificateDer<'static> {
        let spec = AuthoritySpec::new("");
        let (by, of) = (&PKI.authorities[issuer], &PKI.authorities[subject]);
        match self {
            Self::Good => by.cross_sign(of),
            Self::Forged => PKI.forgers[issuer].cross_sign(of),
            Self::OtherKey => by.cross_sign(&PKI.namesakes[subject]),
            Self::Expired => by.cross_sign_as(of, &spec.valid(-7200, -3600)),
            Self::NoSigning => {
                by.cross_sign_as(of, &spec.key_usages(&[KeyUsagePurpose::DigitalSignature]))
            }
            Self::NoLength => by.cross_sign_as(of, &spec.path_length(0)),
        }
    }
}

type Edge = (usize, usize, Crossing);

/// Returns whether valid signatures lead from `at` to the root without a loop. A certificate with
/// a path length of 0 may only issue the leaf.
fn leads_to_root(edges: &[Edge], at: usize, path: &[usize]) -> bool {
    at == 0
        || edges.iter().any(|(issuer, subject, crossing)| {
            let holds = match crossing {
                Crossing::Good => true,
                Crossing::NoLength => path.is_empty(),
                _ => false,
            };
            let path = [path, &[at]].concat();
            *subject == at && holds && !path.contains(issuer) && {
                leads_to_root(edges, *issuer, &path)
            }
        })
}

fn verify(certificates: Vec<CertificateDer<'static>>) -> Result<(), PathError> {
    let root = PKI.authorities[0].der().clone();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()));
    PathTrust::new(&[root], certificates, None, PathPurpose::Client)
        .verify(PKI.leaf.leaf(), now)
        .map(|_| ())
}

fn edges() -> impl Strategy<Value = Vec<Edge>> {
    let crossing = prop_oneof![
        4 => Just(Crossing::Good),
        2 => Just(Crossing::Forged),
        2 => Just(Crossing::OtherKey),
        1 => Just(Crossing::Expired),
        1 => Just(Crossing::NoSigning),
        1 => Just(Crossing::NoLength),
    ];
    let edge = (0..AUTHORITIES, 0..AUTHORITIES, crossing);
    prop::collection::vec(edge, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn a_path_is_found_exactly_where_there_is_one(edges in edges(), with_root: bool) {
        let mut certificates: Vec<_> = edges
            .iter()
            .map(|(issuer, subject, crossing)| crossing.sign(*issuer, *subject))
            .collect();
        if with_root {
            certificates.push(PKI.authorities[0].der().clone());
        }
        let expected = leads_to_root(&edges, AUTHORITIES - 1, &[]);
        let verdict = verify(certificates);
        prop_assert_eq!(verdict.is_ok(), expected, "{:?}", verdict);
    }
}

/// webpki stops after 100 signature checks. This search needs many more.
#[test]
fn many_namesakes_on_every_level_hide_no_path() {
    const COPIES: usize = 20;
    for crossing in [Crossing::OtherKey, Crossing::Forged] {
        let mut certificates = Vec::new();
        for subject in 1..AUTHORITIES {
            for _ in 0..COPIES {
                certificates.push(match crossing {
                    // Each certificate has a different key.
                    Crossing::OtherKey => {
                        let spec = AuthoritySpec::new(&format!("Authority {subject}"));
                        PKI.authorities[subject - 1].cross_sign(&Authority::root(&spec))
                    }
                    other => other.sign(subject - 1, subject),
                });
            }
        }
        let (reason, _) = verify(certificates.clone()).unwrap_err();
        assert!(
            matches!(reason, ReasonCode::UnknownIssuer | ReasonCode::BadSignature),
            "{reason}"
        );
        certificates.extend((1..AUTHORITIES).map(|n| Crossing::Good.sign(n - 1, n)));
        verify(certificates.clone()).unwrap();
        certificates.reverse();
        verify(certificates).unwrap();
    }
}

/// If no path of valid signatures leads to the root, the search ends in limited time.
#[test]
fn a_thicket_of_good_signatures_without_a_way_out_ends() {
    let mut edges = Vec::new();
    for issuer in 1..AUTHORITIES {
        edges.extend((1..AUTHORITIES).map(|subject| Crossing::Good.sign(issuer, subject)));
        edges.extend((0..8).map(|_| Crossing::Forged.sign(0, issuer)));
    }
    verify(edges).unwrap_err();
}

/// There are very many certificates, but none has a signature that completes the path.
#[test]
fn a_search_ends_with_its_budget_of_signatures_and_says_so() {
    let mut certificates: Vec<_> = (2..AUTHORITIES)
        .map(|subject| Crossing::Good.sign(subject - 1, subject))
        .collect();
    certificates.extend((0..4200).map(|_| Crossing::Forged.sign(0, 1)));
    let (reason, detail) = verify(certificates).unwrap_err();
    assert_eq!(reason, ReasonCode::ChainTooLong);
    assert!(
        detail.contains("given up after 4096 signature checks"),
        "{detail}"
    );
}

/// Certificates that are unrelated to the names in the path are not verified.
#[test]
fn strangers_in_any_number_do_not_matter() {
    let spec = AuthoritySpec::new("Stranger");
    let stranger = Authority::root(&spec);
    let mut certificates: Vec<_> = (0..500)
        .map(|_| PKI.forgers[1].cross_sign(&stranger))
        .collect();
    assert_eq!(
        verify(certificates.clone()).unwrap_err().0,
        ReasonCode::UnknownIssuer
    );
    certificates.extend((1..AUTHORITIES).map(|n| Crossing::Good.sign(n - 1, n)));
    verify(certificates.clone()).unwrap();
    // The reason code is the same as without the unrelated certificates.
    certificates[500] = Crossing::Expired.sign(0, 1);
    assert_eq!(
        verify(certificates).unwrap_err().0,
        ReasonCode::CertificateExpired
    );
}
