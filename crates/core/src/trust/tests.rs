//! Tests of [`ClientTrust`] as the TLS listener uses it: revocation lists, cached chains, deny
//! list.

mod differential;
mod hostile;
mod searching;
mod succession;

use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::{Authority, AuthoritySpec, Credentials, Crl, Leaf, TestCa};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::fixture::{config, trust};
use super::*;
use crate::clock;
use crate::identity::{IdentityPattern, NameType, TrustDomain};
use crate::reason::ReasonCode;

pub(super) fn now() -> i64 {
    i64::try_from(clock::unix_now()).unwrap()
}

fn at(offset: i64) -> UnixTime {
    let seconds = u64::try_from(now() + offset).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn bundle(config: TrustBundleConfig) -> Arc<TrustBundle> {
    Arc::new(TrustBundle::build(config, now()).unwrap())
}

fn admit(trust: &ClientTrust, caller: &Credentials, offset: i64) -> Result<Admission, ChainError> {
    let (leaf, rest) = caller.chain.split_first().unwrap();
    trust.admit(leaf, rest, at(offset))
}

fn reason(trust: &ClientTrust, caller: &Credentials) -> Option<ReasonCode> {
    admit(trust, caller, 0).err().map(|refusal| refusal.reason)
}

/// Returns the revocation lists of root and intermediate. `crl` becomes the list of the
/// intermediate.
fn lists(ca: &TestCa, crl: Crl) -> Vec<Vec<u8>> {
    vec![
        Crl::new().signed_by(ca.root()),
        crl.signed_by(ca.intermediate()),
    ]
}

/// Stores the caller's chain in the path cache, as after a complete handshake.
fn learn(trust: &ClientTrust, caller: &Credentials) {
    admit(trust, caller, 0).unwrap().pending.unwrap().commit();
    assert!(admit(trust, caller, 0).unwrap().pending.is_none());
}

#[test]
fn a_chain_is_known_only_after_the_handshake() {
    let ca = TestCa::new("example.org");
    let trust = trust(config(&ca, &[]));
    let caller = ca.client("/a");
    let first = admit(&trust, &caller, 0).unwrap();
    assert!(admit(&trust, &caller, 0).unwrap().pending.is_some());
    first.pending.unwrap().commit();
    let again = admit(&trust, &caller, 0).unwrap();
    assert!(again.pending.is_none());
    assert!(Arc::ptr_eq(&first.identity, &again.identity));
    // A chain with one more certificate is another chain, although the leaf is the same.
    let longer = caller.clone().with_extra(ca.root().der().clone());
    assert!(admit(&trust, &longer, 0).unwrap().pending.is_some());
}

#[test]
fn junk_chains_change_nothing() {
    let ca = TestCa::new("example.org");
    let stranger = TestCa::new("example.com");
    let cache = Arc::new(PathCache::new(8));
    let trust = trust(config(&ca, &[])).with_cache(Arc::clone(&cache));
    let good: Vec<_> = (0..4).map(|n| ca.client(&format!("/{n}"))).collect();
    good.iter().for_each(|caller| learn(&trust, caller));
    for number in 0_u32..2_000 {
        // The attacker presents the chain of another caller with a useless certificate. `admit`
        // verifies it, but nothing is stored in the cache because the handshake is never completed.
        let junk = CertificateDer::from(number.to_be_bytes().to_vec());
        let _ = admit(&trust, &good[0].clone().with_extra(junk), 0);
    }
    let refused = stranger.client("/a");
    assert_eq!(reason(&trust, &refused), Some(ReasonCode::UnknownIssuer));
    assert_eq!(cache.len(), 4);
    for caller in &good {
        assert!(admit(&trust, caller, 0).unwrap().pending.is_none());
    }
}

#[test]
fn the_cache_is_bounded() {
    let ca = TestCa::new("example.org");
    let cache = Arc::new(PathCache::new(4));
    let trust = trust(config(&ca, &[])).with_cache(Arc::clone(&cache));
    for number in 0..40 {
        let caller = ca.client(&format!("/{number}"));
        admit(&trust, &caller, 0).unwrap().pending.unwrap().commit();
    }
    assert!(cache.len() <= 4, "{}", cache.len());
}

#[test]
fn a_known_chain_ends_with_its_dates() {
    let ca = TestCa::new("example.org");
    let trust = trust(config(&ca, &[]));
    let caller = ca.issue(Leaf::with_uri(&ca.spiffe("/a")).valid(-60, 60));
    learn(&trust, &caller);
    for (offset, expected) in [
        (90, ReasonCode::CertificateExpired),
        (-90, ReasonCode::CertificateNotYetValid),
    ] {
        let refusal = admit(&trust, &caller, offset).unwrap_err();
        assert_eq!(refusal.reason, expected);
    }
}

#[test]
fn a_reload_with_other_lists_is_seen_by_known_chains() {
    let ca = TestCa::new("example.org");
    let cache = Arc::new(PathCache::new(64));
    let caller = ca.client("/a");
    let bystander = ca.client("/b");
    let before = trust(config(&ca, &lists(&ca, Crl::new()))).with_cache(Arc::clone(&cache));
    learn(&before, &caller);
    learn(&before, &bystander);
    let revoking = Crl::new().number(2).revoke(caller.serial());
    let after = trust(config(&ca, &lists(&ca, revoking))).with_cache(Arc::clone(&cache));
    assert_ne!(before.revision(), after.revision());
    assert_eq!(
        reason(&after, &caller),
        Some(ReasonCode::CertificateRevoked)
    );
    // `pending` is `None`, so the path of the bystander was not verified again. Its certificates
    // were only looked up in the new lists.
    assert!(admit(&after, &bystander, 0).unwrap().pending.is_none());
    // A handshake that still uses the old lists must not change the result under the new lists.
    assert!(admit(&before, &bystander, 0).unwrap().pending.is_none());
    assert_eq!(
        reason(&after, &caller),
        Some(ReasonCode::CertificateRevoked)
    );
}

#[test]
fn another_trust_set_knows_nothing_of_a_chain() {
    let ca = TestCa::new("example.org");
    let other = TestCa::new("example.com");
    let cache = Arc::new(PathCache::new(64));
    let caller = ca.client("/a");
    let first = trust(config(&ca, &[])).with_cache(Arc::clone(&cache));
    learn(&first, &caller);
    let without_root = trust(config(&other, &[])).with_cache(Arc::clone(&cache));
    assert_eq!(
        reason(&without_root, &caller),
        Some(ReasonCode::UnknownIssuer)
    );
    let mut narrower = config(&ca, &[]);
    narrower.vouches_for = vec![IdentityPattern::parse("spiffe://example.org/b/**").unwrap()];
    let narrower = trust(narrower).with_cache(Arc::clone(&cache));
    assert_eq!(
        reason(&narrower, &caller),
        Some(ReasonCode::TrustDomainMismatch)
    );
    let same = trust(config(&ca, &[])).with_cache(Arc::clone(&cache));
    assert_eq!(first.revision(), same.revision());
    assert!(admit(&same, &caller, 0).unwrap().pending.is_none());
}

#[test]
fn a_known_chain_is_refused_once_its_list_is_stale() {
    let ca = TestCa::new("example.org");
    let caller = ca.client("/a");
    let short = lists(&ca, Crl::new().valid(-60, 60));
    let strict = trust(config(&ca, &short));
    learn(&strict, &caller);
    let refusal = admit(&strict, &caller, 90).unwrap_err();
    assert_eq!(refusal.reason, ReasonCode::RevocationStale);

    let mut with_grace = config(&ca, &short);
    with_grace.grace = Duration::from_secs(60);
    let with_grace = trust(with_grace);
    learn(&with_grace, &caller);
    let in_grace = admit(&with_grace, &caller, 90).unwrap();
    assert!(in_grace.pending.is_none());
    assert!((100..=125).contains(&(in_grace.holds_until - now())));
    assert!(admit(&with_grace, &caller, 150).is_err());

    let mut soft = config(&ca, &short);
    soft.posture = RevocationPosture::Soft;
    let soft = trust(soft);
    learn(&soft, &caller);
    let known = admit(&soft, &caller, 0).unwrap().identity;
    assert_eq!(known.revocation().as_str(), "checked");
    let later = admit(&soft, &caller, 90).unwrap();
    assert_eq!(later.identity.revocation().as_str(), "soft");
    assert!(later.pending.is_none());
}

#[test]
fn the_identity_says_how_old_the_oldest_list_was() {
    let ca = TestCa::new("example.org");
    let lists = vec![
        Crl::new().valid(-7_000, 60).signed_by(ca.root()),
        Crl::new().valid(-100, 60).signed_by(ca.intermediate()),
    ];
    let identity = admit(&trust(config(&ca, &lists)), &ca.client("/a"), 0)
        .unwrap()
        .identity;
    let age = now() - identity.crl_this_update().unwrap();
    assert!((6_990..7_060).contains(&age), "{age}");
}

#[test]
fn a_forged_newer_list_displaces_nothing() {
    let ca = TestCa::new("example.org");
    let caller = ca.client("/a");
    let namesake = Authority::root(&AuthoritySpec::new("example.org intermediate"));
    let mut lists = lists(&ca, Crl::new().revoke(caller.serial()));
    lists.push(Crl::new().number(9).signed_by(&namesake));
    for known in [Vec::new(), vec![ca.intermediate().der().clone()]] {
        let mut config = config(&ca, &lists);
        config.intermediates = known;
        assert_eq!(
            reason(&trust(config), &caller),
            Some(ReasonCode::CertificateRevoked)
        );
    }
}

#[test]
fn lists_tell_when_they_are_due() {
    let ca = TestCa::new("example.org");
    let of = |from, until| {
        let mut config = config(&ca, &[Crl::new().valid(from, until).signed_by(ca.root())]);
        config.grace = Duration::from_secs(100);
        bundle(config).freshness(now()).remove(0)
    };
    for (from, until, expected) in [
        (-10, 1_000, Freshness::Fresh),
        (-1_000, 900, Freshness::Due),
        (-1_000, -50, Freshness::Grace),
        (-1_000, -200, Freshness::Stale),
        (500, 1_000, Freshness::NotYet),
    ] {
        let status = of(from, until);
        assert_eq!(status.freshness, expected);
        assert_eq!(status.alarm().is_none(), expected == Freshness::Fresh);
        assert!(status.verified);
    }
}

#[test]
fn a_list_of_the_future_is_not_consulted() {
    let ca = TestCa::new("example.org");
    let future = lists(&ca, Crl::new().valid(3_600, 7_200));
    let trust = trust(config(&ca, &future));
    assert_eq!(
        reason(&trust, &ca.client("/a")),
        Some(ReasonCode::RevocationUnknown)
    );
}

#[test]
fn the_deny_list_reaches_known_chains_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new("example.org");
    let denied = Arc::new(DenyList::open(folder.path().join("deny.json")).unwrap());
    let trust = trust(config(&ca, &[])).with_deny_list(Arc::clone(&denied));
    let caller = ca.client("/a");
    let facts = admit(&trust, &caller, 0).unwrap().identity;
    let issuer = facts.leaf().issuer.clone();
    let serial = facts.leaf().serial_hex();
    let targets = [
        DenyTarget::Identity {
            identity: ca.spiffe("/a"),
        },
        DenyTarget::Thumbprint {
            thumbprint: crate::identity::text::hex(&facts.leaf().thumbprint),
        },
        DenyTarget::Serial { serial, issuer },
    ];
    learn(&trust, &caller);
    for target in targets {
        let entry = denied
            .add(target, "lost\u{202e} laptop", Some(now() + 600), now())
            .unwrap();
        let refusal = admit(&trust, &caller, 0).unwrap_err();
        assert_eq!(refusal.reason, ReasonCode::IdentityDenied);
        let recorded = refusal.recorded();
        assert!(recorded.contains("lost") && !recorded.contains('\u{202e}'));
        assert!(!refusal.detail.contains("lost"), "the caller is told that");
        assert!(refusal.leaf.is_some());
        assert_eq!(reason(&trust, &ca.client("/b")), None);
        // At 700 seconds the entry has ended, so the caller is accepted. After the entry was
        // removed, the caller is accepted too.
        assert!(admit(&trust, &caller, 700).is_ok());
        assert!(denied.remove(&entry.id).unwrap());
        assert_eq!(reason(&trust, &caller), None);
    }
}

#[test]
fn a_denied_intermediate_takes_its_leaves_along() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new("example.org");
    let denied = Arc::new(DenyList::open(folder.path().join("deny.json")).unwrap());
    let trust = trust(config(&ca, &[])).with_deny_list(Arc::clone(&denied));
    let intermediate = crate::identity::LeafFacts::read(ca.intermediate().der()).unwrap();
    let target = DenyTarget::Serial {
        serial: intermediate.serial_hex(),
        issuer: intermediate.issuer,
    };
    denied.add(target, "", None, now()).unwrap();
    assert_eq!(
        reason(&trust, &ca.client("/a")),
        Some(ReasonCode::IdentityDenied)
    );
}

#[test]
fn a_denied_root_takes_all_below_it_along() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new("example.org");
    let denied = Arc::new(DenyList::open(folder.path().join("deny.json")).unwrap());
    let trust = trust(config(&ca, &[])).with_deny_list(Arc::clone(&denied));
    learn(&trust, &ca.client("/a"));
    let target = DenyTarget::Thumbprint {
        thumbprint: crate::identity::text::hex(&crate::crypto::sha256(ca.root().der())),
    };
    denied.add(target, "", None, now()).unwrap();
    assert_eq!(
        reason(&trust, &ca.client("/b")),
        Some(ReasonCode::IdentityDenied)
    );
}

#[test]
fn denying_one_of_two_names_does_not_let_the_other_one_in() {
    let folder = tempfile::tempdir().unwrap();
    let roots = ["one", "two"].map(|name| Authority::root(&AuthoritySpec::new(name)));
    let issuing = roots[0].intermediate(&AuthoritySpec::new("issuing"));
    let leaf = Leaf::with_uri("https://b.example.org/x").dns("a.example.org");
    let caller = issuing
        .issue(leaf)
        .with_extra(roots[1].cross_sign(&issuing));
    let ca = TestCa::new("example.org");
    let under = |index: usize, name: &str, vouched: &str, kind: NameType| {
        bundle(TrustBundleConfig {
            name: TrustDomain::parse(name).unwrap(),
            roots: vec![roots[index].der().clone()],
            vouches_for: vec![IdentityPattern::parse(vouched).unwrap()],
            identity_from: vec![kind],
            ..config(&ca, &[])
        })
    };
    let bundles = [
        under(0, "one.test", "dns:a.example.org", NameType::Dns),
        under(1, "two.test", "uri:https://b.example.org/x", NameType::Uri),
    ];
    let denied = Arc::new(DenyList::open(folder.path().join("deny.json")).unwrap());
    for order in [[0, 1], [1, 0]] {
        let bundles = order.map(|index: usize| Arc::clone(&bundles[index]));
        let trust = ClientTrust::new(bundles.to_vec()).unwrap();
        let trust = trust.with_deny_list(Arc::clone(&denied));
        assert_eq!(reason(&trust, &caller), Some(ReasonCode::AmbiguousIdentity));
        for name in ["dns:a.example.org", "https://b.example.org/x"] {
            let identity = name.to_owned();
            let target = DenyTarget::Identity { identity };
            let entry = denied.add(target, "", None, now()).unwrap();
            let found = reason(&trust, &caller);
            assert_eq!(found, Some(ReasonCode::IdentityDenied), "{name}");
            assert!(denied.remove(&entry.id).unwrap());
        }
    }
}

fn documents(lists: &[&Vec<u8>]) -> Vec<CertificateRevocationListDer<'static>> {
    let lists = lists.iter();
    lists.map(|der| der.to_vec().into()).collect()
}

#[test]
fn a_document_without_a_successor_of_each_list_is_refused() {
    let ca = TestCa::new("example.org");
    let stranger = TestCa::new("example.com");
    let namesake = Authority::root(&AuthoritySpec::new("example.org intermediate"));
    let caller = ca.client("/a");
    let of_root = Crl::new().signed_by(ca.root());
    let kept = Crl::new().number(3).revoke(caller.serial());
    let kept = kept.signed_by(ca.intermediate());
    let next = Crl::new().number(4).signed_by(ca.intermediate());
    let foreign = Crl::new().number(9).signed_by(stranger.root());
    let forged = Crl::new().number(9).signed_by(&namesake);
    let configured = [Vec::new(), vec![ca.intermediate().der().clone()]];
    for (round, intermediates) in configured.into_iter().enumerate() {
        let bundle = bundle(TrustBundleConfig {
            intermediates,
            ..config(&ca, &[of_root.clone(), kept.clone()])
        });
        let check = |new: &[&Vec<u8>], kept: &[&Vec<u8>]| {
            bundle.check_crls(&documents(new), &documents(kept), now())
        };
        for bad in [&[&foreign][..], &[&of_root], &[]] {
            assert!(check(bad, &[&kept]).is_err(), "{bad:?}");
        }
        assert!(check(&[&next], &[&kept]).is_ok());
        // The new file must contain a newer list for each list of the old file.
        assert!(check(&[&next], &[&kept, &of_root]).is_err());
        assert!(check(&[&of_root], &[&kept, &of_root]).is_err());
        assert!(check(&[&of_root, &next], &[&kept, &of_root]).is_ok());
        // The list of another authority in the new file does not matter.
        assert!(check(&[&next, &foreign], &[&kept]).is_ok());
        assert_eq!(check(&[&forged], &[&kept]).is_err(), round == 1);
        let older = Crl::new().number(2).signed_by(ca.intermediate());
        assert!(check(&[&older], &[&kept]).is_err());
        assert!(check(&[&kept], &[&kept]).is_ok());
        // This verified path contains the intermediate's key. From now on, the forged list is
        // refused in both rounds.
        let trust = ClientTrust::new(vec![Arc::clone(&bundle)]).unwrap();
        assert_eq!(
            reason(&trust, &caller),
            Some(ReasonCode::CertificateRevoked)
        );
        assert!(check(&[&forged], &[&kept]).is_err());
        assert!(check(&[&forged, &next], &[&kept]).is_err());
        assert!(check(&[&older], &[&kept]).is_err());
        assert!(check(&[&next], &[&kept]).is_ok());
        // The signature of `next` is verified and that of `forged` is not. So `next` may replace
        // `forged`, although its CRL number is lower.
        assert!(check(&[&next], &[&kept, &forged]).is_ok());
    }
}

#[test]
fn a_list_nobody_has_proven_is_not_displaced_by_another_such() {
    let ca = TestCa::new("example.org");
    let namesake = Authority::root(&AuthoritySpec::new("example.org intermediate"));
    let caller = ca.client("/a");
    let genuine = lists(&ca, Crl::new().revoke(caller.serial()));
    let mut current = bundle(config(&ca, &genuine));
    for number in 5..9 {
        let forged = Crl::new().number(number).signed_by(&namesake);
        let next = config(&ca, &[genuine[0].clone(), forged]);
        let next =
            TrustBundle::build_after(&next, now(), Some(&current), Predecessors::Replaced).unwrap();
        current = Arc::new(next);
        // The lists of root and intermediate. Of the two unverified lists with the intermediate's
        // name, the status shows only the newer one.
        assert_eq!(current.freshness(now()).len(), 2);
    }
    let trust = ClientTrust::new(vec![Arc::clone(&current)]).unwrap();
    assert_eq!(
        reason(&trust, &caller),
        Some(ReasonCode::CertificateRevoked)
    );
    let genuine = lists(&ca, Crl::new().number(2));
    let next = TrustBundle::build_after(
        &config(&ca, &genuine),
        now(),
        Some(&current),
        Predecessors::Replaced,
    )
    .unwrap();
    let trust = ClientTrust::new(vec![Arc::new(next)]).unwrap();
    assert_eq!(reason(&trust, &caller), None);
}

/// RFC 5280 section 4.1.2.5: a certificate is valid including the second of its notAfter. Tested
/// for a new handshake, a cached chain, `recall`, and `pki verify`.
#[test]
fn a_path_holds_through_its_last_second() {
    let ca = TestCa::new("example.org");
    let caller = ca.client("/a");
    let (leaf, rest) = caller.chain.split_first().unwrap();
    let trust = trust(config(&ca, &[]));
    let end = trust
        .admit(leaf, rest, at(0))
        .unwrap()
        .identity
        .path_not_after();
    let moment = |offset: i64| {
        let seconds = u64::try_from(end + offset).unwrap();
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    };
    let alone = PathTrust::new(
        std::slice::from_ref(ca.root().der()),
        rest.to_vec(),
        None,
        PathPurpose::Client,
    );
    for (offset, holds) in [(-1, true), (0, true), (1, false)] {
        let anew = trust.verify(leaf, rest, moment(offset)).map(|_| ());
        let admitted = trust.admit(leaf, rest, moment(offset));
        let verified = alone.verify(leaf, moment(offset)).map(|_| ());
        assert_eq!(anew.is_ok(), holds, "{offset}");
        assert_eq!(admitted.is_ok(), holds, "{offset}");
        assert_eq!(verified.is_ok(), holds, "{offset}");
        if let Ok(admission) = admitted {
            let chain = admission.chain;
            if let Some(pending) = admission.pending {
                pending.commit();
            }
            assert_eq!(trust.recall(&chain, end + offset), Recall::Holds);
            assert_eq!(trust.recall(&chain, end + 1), Recall::Ended);
        } else {
            assert_eq!(anew.unwrap_err().reason, ReasonCode::CertificateExpired);
            assert_eq!(verified.unwrap_err().0, ReasonCode::CertificateExpired);
        }
    }
}
