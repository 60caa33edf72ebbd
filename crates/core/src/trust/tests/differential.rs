//! Compares the results of our revocation index with webpki's own revocation check, for random
//! lists.
//!
//! One difference is known. webpki applies a list with a distribution point also to certificates
//! that name none. RFC 5280 section 6.3.3 (b)(2) does not allow this, so the test does not give
//! these lists to webpki.

use std::sync::LazyLock;
use std::time::Duration;

use countersign_testkit::{Authority, AuthoritySpec, Credentials, Leaf};
use proptest::prelude::*;
use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use time::OffsetDateTime;
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, Error, ExpirationPolicy,
    KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::reason::ReasonCode;
use crate::trust::certificate::authority::{AuthorityFacts, RootSet};
use crate::trust::certificate::candidate::Candidate;
use crate::trust::certificate::purpose::PathPurpose;
use crate::trust::path::{self, PathBudget, PathCertificates, PathRules};
use crate::trust::revocation::{KnownIssuer, RevocationIndex};
use crate::trust::{RevocationDepth, RevocationPosture};

const POINT: &str = "http://crl.example.org/a.crl";
const OTHER_POINT: &str = "http://crl.example.org/b.crl";

/// The properties of one random revocation list.
#[derive(Debug, Clone)]
struct List {
    forged: bool,
    revoking: bool,
    stale: bool,
    /// The issuingDistributionPoint of the list. The bool says whether its distribution point is
    /// `POINT` (true) or `OTHER_POINT` (false). The number says which certificates the list covers:
    /// 0 for all, 1 for user certificates, 2 for authorities. `None` if the list has no
    /// issuingDistributionPoint.
    scope: Option<(bool, u8)>,
}

fn list() -> impl Strategy<Value = Option<List>> {
    let scope = prop_oneof![2 => Just(None), 3 => (any::<bool>(), 0_u8..3).prop_map(Some)];
    let list = (
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.15),
        scope,
    )
        .prop_map(|(forged, revoking, stale, scope)| List {
            forged,
            revoking,
            stale,
            scope,
        });
    prop::option::weighted(0.85, list)
}

struct Pki {
    root: Authority,
    intermediate: Authority,
    /// Authorities with the names of root and intermediate, but with other keys. They sign forged
    /// lists.
    namesakes: [Authority; 2],
    /// Four leaves. The first names no distribution point, the others name `POINT`, `OTHER_POINT`,
    /// and both.
    leaves: Vec<Credentials>,
}

static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let root = Authority::root(&AuthoritySpec::new("Root"));
    let intermediate = root.intermediate(&AuthoritySpec::new("Intermediate"));
    let namesakes = ["Root", "Intermediate"].map(|n| Authority::root(&AuthoritySpec::new(n)));
    let points = [
        vec![],
        vec![POINT],
        vec![OTHER_POINT],
        vec![OTHER_POINT, POINT],
    ];
    let leaves = points
        .iter()
        .map(|uris| {
            let leaf = Leaf::with_uri("spiffe://example.org/a");
            intermediate.issue(if uris.is_empty() {
                leaf
            } else {
                leaf.extension(&[2, 5, 29, 31], false, &distribution_points(uris))
            })
        })
        .collect();
    Pki {
        root,
        intermediate,
        namesakes,
        leaves,
    }
});

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80);
    [&[tag, length], content].concat()
}

fn distribution_points(uris: &[&str]) -> Vec<u8> {
    let points: Vec<u8> = uris
        .iter()
        .flat_map(|uri| der(0x30, &der(0xa0, &der(0xa0, &der(0x86, uri.as_bytes())))))
        .collect();
    der(0x30, &points)
}

impl List {
    fn sign(&self, authority: &Authority, namesake: &Authority, revoked: &[u8]) -> Vec<u8> {
        let signer = if self.forged { namesake } else { authority };
        let key = KeyPair::from_pem(&signer.key_pem()).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&signer.pem(), key).unwrap();
        let now = OffsetDateTime::now_utc();
        let age = time::Duration::hours(if self.stale { 48 } else { 1 });
        CertificateRevocationListParams {
            this_update: now - age,
            next_update: now - age + time::Duration::hours(24),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: self.scope.map(|(same, scope)| {
                CrlIssuingDistributionPoint {
                    distribution_point: CrlDistributionPoint {
                        uris: vec![if same { POINT } else { OTHER_POINT }.to_owned()],
                    },
                    scope: match scope {
                        1 => Some(CrlScope::UserCertsOnly),
                        2 => Some(CrlScope::CaCertsOnly),
                        _ => None,
                    },
                }
            }),
            revoked_certs: self
                .revoking
                .then(|| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(revoked),
                    revocation_time: now - age,
                    reason_code: None,
                    invalidity_date: None,
                })
                .into_iter()
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&issuer)
        .unwrap()
        .der()
        .to_vec()
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(crate::clock::unix_now()))
}

fn by_webpki(leaf: &Credentials, lists: &[Vec<u8>], deep: bool) -> Result<(), Error> {
    let lists: Vec<CertRevocationList<'_>> = lists
        .iter()
        .map(|der| BorrowedCertRevocationList::from_der(der).unwrap().into())
        .collect();
    let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
    let options = RevocationOptionsBuilder::new(&lists)
        .map_err(|_| Error::UnknownRevocationStatus)?
        .with_depth(if deep {
            RevocationCheckDepth::Chain
        } else {
            RevocationCheckDepth::EndEntity
        })
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let anchor = webpki::anchor_from_trusted_cert(PKI.root.der()).unwrap();
    EndEntityCert::try_from(leaf.leaf())?
        .verify_for_usage(
            crate::crypto::provider()
                .signature_verification_algorithms
                .all,
            &[anchor],
            &leaf.chain[1..],
            now(),
            KeyUsage::client_auth(),
            Some(options),
            None,
        )
        .map(|_| ())
}

fn by_ours(
    leaf: &Credentials,
    lists: &[Vec<u8>],
    deep: bool,
    known: bool,
    posture: RevocationPosture,
) -> Result<(), ReasonCode> {
    let mut roots = RootSet::default();
    let facts = AuthorityFacts::read(PKI.root.der()).unwrap();
    let key = facts.key.clone();
    let name = facts.subject_der.clone();
    roots.add(PKI.root.der(), facts).unwrap();
    let depth = if deep {
        RevocationDepth::Chain
    } else {
        RevocationDepth::Leaf
    };
    let mut revocation = RevocationIndex::new(posture, depth, Duration::ZERO);
    let lists: Vec<_> = lists
        .iter()
        .map(|der| CertificateRevocationListDer::from(der.as_slice()))
        .collect();
    let issuer = KnownIssuer {
        name: &name,
        key: &key,
    };
    let issuers = if known { vec![issuer] } else { Vec::new() };
    let refused = revocation.load(lists.iter().map(AsRef::as_ref), &issuers, None, 0);
    assert_eq!(refused, Vec::new());
    let rules = PathRules {
        roots: &roots,
        purpose: PathPurpose::Client,
        revocation: &revocation,
    };
    let presented: Vec<_> = leaf.chain[1..].iter().map(Candidate::borrowed).collect();
    let certificates = PathCertificates {
        leaf: &Candidate::borrowed(leaf.leaf()),
        configured: &[],
        presented: &presented,
    };
    path::verify(rules, certificates, now(), &mut PathBudget::presented(1))
        .map(|_| ())
        .map_err(|(reason, _)| reason)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_index_decides_as_webpki_does(
        of_root in list(),
        of_intermediate in list(),
        leaf in 0_usize..4,
        deep: bool,
        known: bool,
    ) {
        // Leaf 0 and the intermediate name no distribution point.
        let leaf_names_points = leaf > 0;
        let leaf = &PKI.leaves[leaf];
        let mut lists = Vec::new();
        let mut for_webpki = Vec::new();
        if let Some(list) = &of_root {
            lists.push(list.sign(&PKI.root, &PKI.namesakes[0], &PKI.intermediate.serial()));
            if list.scope.is_none() {
                for_webpki.extend(lists.last().cloned());
            }
        }
        if let Some(list) = &of_intermediate {
            lists.push(list.sign(&PKI.intermediate, &PKI.namesakes[1], leaf.serial()));
            if list.scope.is_none() || leaf_names_points {
                for_webpki.extend(lists.last().cloned());
            }
        }
        let theirs = by_webpki(leaf, &for_webpki, deep);
        let ours = by_ours(leaf, &lists, deep, known, RevocationPosture::Hard);
        prop_assert_eq!(theirs.is_ok(), ours.is_ok(), "webpki {:?}, here {:?}", theirs, ours);
        // If only the leaf is looked up (`deep` is false), the reasons must be equal too, with two
        // exceptions. First exception: a stale list still revokes here, but webpki reports that the
        // list has expired.
        if !deep && let (Err(theirs), Err(ours)) = (theirs, ours) {
            let expected = match theirs {
                Error::CertRevoked => ReasonCode::CertificateRevoked,
                Error::CrlExpired { .. } => ReasonCode::RevocationStale,
                _ => ReasonCode::RevocationUnknown,
            };
            let still_revoked = ours == ReasonCode::CertificateRevoked
                && expected == ReasonCode::RevocationStale;
            // Second exception: a list that does not cover the leaf revokes it here. webpki ignores
            // such a list and reports an unknown status.
            let revoked_here = ours == ReasonCode::CertificateRevoked
                && expected == ReasonCode::RevocationUnknown
                && of_intermediate.as_ref().is_some_and(|list| list.revoking && !list.forged);
            prop_assert!(
                ours == expected || still_revoked || revoked_here,
                "{theirs:?}, here {ours}"
            );
        }
    }
}

#[test]
fn a_list_with_a_distribution_point_revokes_whom_it_cannot_vouch_for() {
    // The list is for `POINT`. The first leaf names no distribution point, and the other leaf names
    // `OTHER_POINT`. So the list can revoke the leaf, but cannot show that it is not revoked.
    for leaf in [&PKI.leaves[0], &PKI.leaves[2]] {
        let list = |revoking| {
            let list = List {
                forged: false,
                revoking,
                stale: false,
                scope: Some((true, 0)),
            };
            list.sign(&PKI.intermediate, &PKI.namesakes[1], leaf.serial())
        };
        let revoked = Err(ReasonCode::CertificateRevoked);
        for (revoking, posture, expected) in [
            (true, RevocationPosture::Soft, revoked),
            (true, RevocationPosture::Hard, revoked),
            (false, RevocationPosture::Soft, Ok(())),
            (
                false,
                RevocationPosture::Hard,
                Err(ReasonCode::RevocationUnknown),
            ),
        ] {
            let found = by_ours(leaf, &[list(revoking)], false, true, posture);
            assert_eq!(found, expected, "{revoking} {posture:?}");
        }
    }
}
