//! Authorities that change their key under their name: the old key certifies the new one, by a
//! self-issued certificate.

use countersign_testkit::{Authority, AuthoritySpec, Credentials, Leaf, TestCa};

use super::identity::refused;
use crate::support::{CALLER, World};

fn leaf() -> Leaf {
    Leaf::with_uri(&format!("spiffe://example.org{CALLER}"))
}

/// A gateway that trusts this root.
async fn trusting(root: &Authority) -> World {
    let ca = TestCa::new("example.org");
    let file = ca.write("trusted.pem", root.pem());
    World::of(ca, |settings, _, echo| {
        settings
            .trust_domain(&format!(
                "name = \"example.org\"\nroots = [{file:?}]\nrevocation = \"off\""
            ))
            .everything_to(echo)
    })
    .await
}

/// A leaf of an issuing authority's new key: the old key, whose certificate is made of `old`, has
/// certified the new one, with a certificate that is made of `rollover`.
fn after_rollover(root: &Authority, old: &AuthoritySpec, rollover: &AuthoritySpec) -> Credentials {
    let old = root.intermediate(old);
    let new = Authority::root(&AuthoritySpec::new("issuing"));
    let certified = old.cross_sign_as(&new, rollover);
    let caller = new.issue(leaf());
    caller.with_extra(certified).with_extra(old.der().clone())
}

fn issuing() -> AuthoritySpec {
    AuthoritySpec::new("issuing")
}

#[tokio::test]
async fn a_new_key_is_accepted_where_no_rule_is_in_the_way() {
    let root = Authority::root(&AuthoritySpec::new("root"));
    let world = trusting(&root).await;
    for old in [
        issuing(),
        issuing().path_length(1),
        issuing().permitted_dns("example.org"),
    ] {
        let caller = after_rollover(&root, &old, &issuing());
        let answer = world.anonymous().with(&caller).get("/a").await.unwrap();
        assert_eq!(answer.status, 200, "{old:?}");
    }
}

#[tokio::test]
async fn a_root_with_a_path_length_may_change_its_key() {
    let old = Authority::root(&AuthoritySpec::new("root").path_length(1));
    let new = Authority::root(&AuthoritySpec::new("root").path_length(1));
    let caller = new.intermediate(&issuing()).issue(leaf());
    let caller = caller.with_extra(old.cross_sign(&new));
    let world = trusting(&old).await;
    let answer = world.anonymous().with(&caller).get("/a").await.unwrap();
    assert_eq!(answer.status, 200);
}

/// RFC 5280 exempts self-issued certificates from both rules, webpki does not. The reason is the
/// rule, and not a signature: all signatures of the chain are valid.
#[tokio::test]
async fn the_reason_is_the_rule_that_counts_the_self_issued_certificate() {
    let root = Authority::root(&AuthoritySpec::new("root"));
    let world = trusting(&root).await;
    let short = after_rollover(&root, &issuing().path_length(0), &issuing());
    let line = refused(&world, &short, "chain-too-long", 46).await;
    let detail = line["detail"].as_str().unwrap();
    for part in [
        "CN=issuing allows 0 intermediate certificates below it, the path has 1",
        "1 of them self-issued",
        "RFC 5280 section 4.2.1.9",
        "have the authority above certify the new key",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    let named = issuing().dns("elsewhere.example.com");
    let constrained = issuing().permitted_dns("example.org");
    let constrained = after_rollover(&root, &constrained, &named);
    let line = refused(&world, &constrained, "name-constraint", 46).await;
    let detail = line["detail"].as_str().unwrap();
    assert!(
        detail.contains("a name constraint of CN=issuing"),
        "{detail}"
    );
    assert!(detail.contains("self-issued"), "{detail}");
}

#[tokio::test]
async fn a_damaged_signature_after_a_rollover_is_still_one() {
    let root = Authority::root(&AuthoritySpec::new("root"));
    let world = trusting(&root).await;
    let old = root.intermediate(&issuing().path_length(0));
    let new = Authority::root(&issuing());
    let caller = new.issue(leaf().corrupt_signature());
    let caller = caller
        .with_extra(old.cross_sign(&new))
        .with_extra(old.der().clone());
    refused(&world, &caller, "bad-signature", 46).await;
}
