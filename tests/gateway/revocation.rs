//! CRLs: revoked certificates, signatures, and age.

use std::time::Duration;

use countersign_testkit::{Authority, Crl, TestCa, in_time};

use super::identity::refused;
use crate::support::{CALLER, World, decode, replace};

/// Starts a gateway with these CRLs. `more` contains further keys of the trust domain.
async fn world(ca: TestCa, lists: Vec<Vec<u8>>, more: &str) -> World {
    World::of(ca, |settings, ca, echo| {
        let files = lists.iter().enumerate();
        let files: Vec<String> = files
            .map(|(index, der)| format!("{:?}", ca.write(&format!("{index}.crl"), der)))
            .collect();
        let keys = format!("crls = [{}]\n{more}", files.join(", "));
        settings.trust(ca, &keys).everything_to(echo)
    })
    .await
}

/// Returns CRLs of both authorities without entries.
fn clean(ca: &TestCa) -> Vec<Vec<u8>> {
    vec![empty(ca.root()), empty(ca.intermediate())]
}

fn empty(authority: &Authority) -> Vec<u8> {
    Crl::new().signed_by(authority)
}

const HARD: &str = "revocation = \"hard\"";

#[tokio::test]
async fn a_revoked_leaf_is_refused_and_others_are_not() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let lists = vec![
        empty(ca.root()),
        Crl::new()
            .revoke(&[1])
            .revoke(revoked.serial())
            .signed_by(ca.intermediate()),
    ];
    let world = world(ca, lists, HARD).await;
    refused(&world, &revoked, "certificate-revoked", 44).await;
    let answer = world.client().get("/a").await.unwrap();
    assert_eq!(answer.status, 200);
    let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
    assert_eq!(claims["authn"]["revocation"], "checked");
}

#[tokio::test]
async fn a_revoked_intermediate_is_refused() {
    let ca = TestCa::new("example.org");
    let lists = vec![
        Crl::new()
            .revoke(&ca.intermediate().serial())
            .signed_by(ca.root()),
        empty(ca.intermediate()),
    ];
    let world = world(ca, lists, HARD).await;
    refused(&world, &world.caller, "certificate-revoked", 44).await;
}

#[tokio::test]
async fn pem_lists_are_read_like_der() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let lists = vec![
        Crl::new().pem_signed_by(ca.root()).into_bytes(),
        Crl::new()
            .revoke(revoked.serial())
            .pem_signed_by(ca.intermediate())
            .into_bytes(),
    ];
    let world = world(ca, lists, HARD).await;
    refused(&world, &revoked, "certificate-revoked", 44).await;
}

#[tokio::test]
async fn a_missing_list_refuses_under_hard() {
    let ca = TestCa::new("example.org");
    let lists = vec![empty(ca.root())];
    let world = world(ca, lists, HARD).await;
    refused(&world, &world.caller, "revocation-unknown", 48).await;
}

#[tokio::test]
async fn a_list_of_a_namesake_with_another_key_does_not_count() {
    let ca = TestCa::new("example.org");
    let namesake = TestCa::new("example.org");
    let lists = vec![empty(ca.root()), empty(namesake.intermediate())];
    let world = world(ca, lists, HARD).await;
    refused(&world, &world.caller, "revocation-unknown", 48).await;
}

#[tokio::test]
async fn a_stale_list_refuses_under_hard() {
    let ca = TestCa::new("example.org");
    let lists = vec![
        empty(ca.root()),
        Crl::new().stale().signed_by(ca.intermediate()),
    ];
    let world = world(ca, lists, HARD).await;
    refused(&world, &world.caller, "revocation-stale", 48).await;
}

#[tokio::test]
async fn depth_leaf_needs_the_list_of_the_leafs_issuer_only() {
    let ca = TestCa::new("example.org");
    let lists = vec![empty(ca.intermediate())];
    let world = world(
        ca,
        lists,
        "revocation = \"hard\"\nrevocation_depth = \"leaf\"",
    )
    .await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn without_revocation_a_list_means_nothing_and_the_service_is_told() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let mut lists = clean(&ca);
    lists.push(
        Crl::new()
            .revoke(revoked.serial())
            .signed_by(ca.intermediate()),
    );
    let world = world(ca, lists, "revocation = \"off\"").await;
    let client = world.anonymous().with(&revoked);
    let answer = client.get("/a").await.unwrap();
    let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
    assert_eq!(claims["authn"]["revocation"], "off");
}

#[tokio::test]
async fn soft_tolerates_what_is_unknown_and_says_so_but_never_what_is_revoked() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let lists = vec![
        Crl::new()
            .revoke(revoked.serial())
            .signed_by(ca.intermediate()),
    ];
    let world = world(ca, lists, "revocation = \"soft\"").await;
    let answer = world.client().get("/a").await.unwrap();
    let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
    assert_eq!(claims["authn"]["revocation"], "soft");
    refused(&world, &revoked, "certificate-revoked", 44).await;
}

#[tokio::test]
async fn an_open_connection_tells_services_of_the_newest_list() {
    let ca = TestCa::new("example.org");
    let of_root = Crl::new().valid(-60, 90_000).signed_by(ca.root());
    let old = Crl::new().valid(-7_200, 90_000);
    let old = old.signed_by(ca.intermediate());
    let world = world(ca, vec![of_root, old], HARD).await;
    let mut session = world.client().session().await.unwrap();
    let mut said = async || {
        let answer = session.get("/a").await.unwrap();
        let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
        claims["authn"]["crl_this_update"].as_i64().unwrap()
    };
    let before = said().await;
    let new = Crl::new().number(2).valid(-3_600, 90_000);
    let new = new.signed_by(world.ca.intermediate());
    replace(&world.ca.directory().join("1.crl"), new);
    in_time("the newest list's time", async {
        loop {
            let now = said().await;
            if now != before {
                return assert!(now - before > 3_000, "{before} {now}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
