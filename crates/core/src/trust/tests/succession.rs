//! Tests which of several lists of one authority is used: always the newest. A list is never
//! replaced by an older one.

use std::sync::Arc;

use countersign_testkit::{Credentials, Crl, TestCa};

use super::{bundle, documents, lists, now, reason};
use crate::reason::ReasonCode;
use crate::trust::fixture::{config, trust};
use crate::trust::{
    ClientTrust, CrlNumber, CrlRules, Predecessors, RevocationPosture, TrustBundle,
    TrustBundleConfig,
};

/// Returns a configuration with these lists of the intermediate. The intermediate is configured, so
/// its key is known. If `optional` is true, lists without a number are accepted.
fn known(ca: &TestCa, lists: &[&Vec<u8>], optional: bool) -> TrustBundleConfig {
    let mut all: Vec<Vec<u8>> = lists.iter().map(|list| list.to_vec()).collect();
    all.push(Crl::new().signed_by(ca.root()));
    let mut config = config(ca, &all);
    config.intermediates = vec![ca.intermediate().der().clone()];
    if optional {
        config.crl_rules = CrlRules {
            number: CrlNumber::Optional,
            max_age: None,
        };
    }
    config
}

fn after(config: &TrustBundleConfig, now: i64, previous: &TrustBundle) -> Arc<TrustBundle> {
    let built = TrustBundle::build_after(config, now, Some(previous), Predecessors::Replaced);
    Arc::new(built.unwrap())
}

fn verdict(bundle: &Arc<TrustBundle>, caller: &Credentials) -> Option<ReasonCode> {
    reason(&ClientTrust::new(vec![Arc::clone(bundle)]).unwrap(), caller)
}

/// A list revokes certificates even if its thisUpdate is later than the current time. If a server
/// that is out of date serves an older list again, the older list must not undo the revocation.
#[test]
fn a_fetched_list_does_not_take_the_place_of_a_newer_one_that_is_not_valid_yet() {
    let ca = TestCa::new("example.org");
    let caller = ca.client("/a");
    let signed = |crl: Crl, optional: bool| {
        let crl = match optional {
            true => crl.without_number(),
            false => crl,
        };
        crl.signed_by(ca.intermediate())
    };
    for optional in [false, true] {
        let older = signed(Crl::new().number(5), optional);
        let ahead = Crl::new().number(6).valid(600, 90_000);
        let ahead = signed(ahead.revoke(caller.serial()), optional);
        let first = Arc::new(TrustBundle::build(known(&ca, &[&older], optional), now()).unwrap());
        assert_eq!(verdict(&first, &caller), None);
        let second = after(&known(&ca, &[&ahead], optional), now(), &first);
        let revoked = Some(ReasonCode::CertificateRevoked);
        assert_eq!(verdict(&second, &caller), revoked);
        let check =
            |new: &Vec<u8>| second.check_crls(&documents(&[new]), &documents(&[&ahead]), now());
        assert!(check(&older).is_err(), "{optional}");
        assert!(check(&ahead).is_ok(), "{optional}");
        let later = Crl::new().number(7).valid(700, 90_000);
        assert!(check(&signed(later, optional)).is_ok());
        // This list has an earlier thisUpdate, because the issuer's clock was wrong. Only a higher
        // number shows that the list is newer.
        let corrected = check(&signed(Crl::new().number(7), optional));
        assert_eq!(corrected.is_ok(), !optional, "{corrected:?}");
    }
}

/// Only with `hard` do lists that are suspended or out of date refuse callers.
#[test]
fn a_domain_refuses_all_callers_only_if_it_needs_lists() {
    let ca = TestCa::new("example.org");
    let stale = Crl::new().stale().signed_by(ca.intermediate());
    let root = Crl::new().stale().signed_by(ca.root());
    let fresh = Crl::new().signed_by(ca.root());
    for (posture, refuses) in [
        (RevocationPosture::Hard, true),
        (RevocationPosture::Soft, false),
    ] {
        let of = |lists: &[Vec<u8>]| {
            bundle(TrustBundleConfig {
                posture,
                ..config(&ca, lists)
            })
        };
        let outdated = of(&[stale.clone(), root.clone()]);
        assert_eq!(outdated.refuses_all(now()), refuses);
        let mixed = of(&[stale.clone(), fresh.clone()]);
        assert!(!mixed.refuses_all(now()));
        assert_eq!(mixed.suspended(now()).refuses_all(now()), refuses);
    }
}

/// If two lists have the same age, it is unknown which is newer. So both revoke, in any order.
#[test]
fn two_lists_of_one_second_revoke_both() {
    let ca = TestCa::new("example.org");
    let (a, b) = (ca.client("/a"), ca.client("/b"));
    let base = Crl::new().without_number().valid(-60, 90_000);
    let base = base.revoke(a.serial());
    let pair = [base.clone(), base.revoke(b.serial())];
    let pair = pair.map(|crl| crl.signed_by(ca.intermediate()));
    for order in [[0, 1], [1, 0]] {
        let lists: Vec<&Vec<u8>> = order.iter().map(|index| &pair[*index]).collect();
        let bundle = Arc::new(TrustBundle::build(known(&ca, &lists, true), now()).unwrap());
        let revoked = Some(ReasonCode::CertificateRevoked);
        assert_eq!(verdict(&bundle, &a), revoked);
        assert_eq!(verdict(&bundle, &b), revoked);
        assert!(
            bundle
                .alarms()
                .iter()
                .any(|alarm| alarm.contains("same age"))
        );
        let again = after(&known(&ca, &lists, true), now(), &bundle);
        assert_eq!(again.freshness(now()).len(), 3, "{:?}", again.alarms());
        // A newer list replaces both lists.
        let next = Crl::new().without_number().valid(-30, 90_000);
        let next = next.signed_by(ca.intermediate());
        let next = after(&known(&ca, &[&next], true), now(), &bundle);
        assert_eq!(verdict(&next, &b), None);
        assert_eq!(next.freshness(now()).len(), 2);
    }
}

#[test]
fn the_newest_of_several_lists_counts_whatever_their_order() {
    let ca = TestCa::new("example.org");
    let caller = ca.client("/a");
    let old = Crl::new().signed_by(ca.intermediate());
    let new = Crl::new()
        .number(2)
        .revoke(caller.serial())
        .signed_by(ca.intermediate());
    let root = Crl::new().signed_by(ca.root());
    for order in [[&old, &new], [&new, &old]] {
        let lists = [order[0].clone(), root.clone(), order[1].clone()];
        // No intermediate is configured. So the key that verifies both lists is unknown until a
        // path contains it.
        let unknown = trust(config(&ca, &lists));
        assert_eq!(
            reason(&unknown, &caller),
            Some(ReasonCode::CertificateRevoked)
        );
        // The intermediate is configured, so both lists are verified when they are loaded.
        let mut known = config(&ca, &lists);
        known.intermediates = vec![ca.intermediate().der().clone()];
        let known = bundle(known);
        assert_eq!(known.freshness(now()).len(), 2);
        assert!(known.alarms().iter().any(|alarm| alarm.contains("newer")));
        let known = ClientTrust::new(vec![known]).unwrap();
        assert_eq!(
            reason(&known, &caller),
            Some(ReasonCode::CertificateRevoked)
        );
    }
}

#[test]
fn a_roll_back_is_refused_and_alarmed() {
    let ca = TestCa::new("example.org");
    let caller = ca.client("/a");
    for configured in [true, false] {
        roll_back(&ca, &caller, configured);
    }
}

/// Replaces a list by older ones, which must be refused. If `configured` is true, the intermediate
/// is configured. If false, the intermediate's key is known only from the first verified path.
fn roll_back(ca: &TestCa, caller: &Credentials, configured: bool) {
    let known = |crl: Crl| {
        let mut config = config(ca, &lists(ca, crl));
        if configured {
            config.intermediates = vec![ca.intermediate().der().clone()];
        }
        config
    };
    let current = bundle(known(Crl::new().number(5).revoke(caller.serial())));
    let trust = ClientTrust::new(vec![Arc::clone(&current)]).unwrap();
    assert_eq!(reason(&trust, caller), Some(ReasonCode::CertificateRevoked));
    for rollback in [
        Crl::new().number(4),
        Crl::new().number(5).valid(-90_000, 90_000),
        Crl::new().number(6).valid(-90_000, 90_000),
    ] {
        let next = TrustBundle::build_after(
            &known(rollback),
            now(),
            Some(&current),
            Predecessors::Replaced,
        )
        .unwrap();
        assert!(
            next.alarms().iter().any(|alarm| alarm.contains("refused")),
            "{next:?}"
        );
        let trust = ClientTrust::new(vec![Arc::new(next)]).unwrap();
        assert_eq!(reason(&trust, caller), Some(ReasonCode::CertificateRevoked));
    }
    let next = TrustBundle::build_after(
        &known(Crl::new().number(6)),
        now(),
        Some(&current),
        Predecessors::Replaced,
    );
    let next = next.unwrap();
    assert!(next.alarms().is_empty(), "{:?}", next.alarms());
    assert_eq!(
        reason(&ClientTrust::new(vec![Arc::new(next)]).unwrap(), caller),
        None
    );
}
