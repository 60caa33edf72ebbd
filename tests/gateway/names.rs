//! Which name in a certificate becomes the name of the caller, and which certificates are refused
//! because they have no such name.

use std::net::IpAddr;

use countersign_testkit::{Credentials, Leaf, TestCa};

use super::identity::refused;
use crate::support::{World, decode};

const SPIFFE: &str = "spiffe://example.org/ns/shop/sa/checkout";

/// Starts a gateway whose trust domain uses these types of names and may certify these names.
async fn reading(identity_from: &str, vouches_for: &str) -> World {
    let keys = format!(
        "revocation = \"off\"\nidentity_from = {identity_from}\nvouches_for = {vouches_for}"
    );
    World::of(TestCa::new("example.org"), |settings, ca, echo| {
        settings.trust(ca, &keys).everything_to(echo)
    })
    .await
}

async fn subject(world: &World, credentials: &Credentials) -> String {
    let answer = world.anonymous().with(credentials).get("/a").await.unwrap();
    let token = answer.received("countersign-assertion").remove(0);
    decode(&token).1["sub"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_certificate_without_a_name_of_the_right_type_names_no_caller() {
    let world = World::open().await;
    for (leaf, saw) in [
        (Leaf::new(), "no subject alternative name"),
        // The common name is never used as the name of a caller.
        (
            Leaf::new().common_name(SPIFFE),
            "no subject alternative name",
        ),
        (
            Leaf::new().dns("alice.example.org"),
            "dns:alice.example.org",
        ),
        (
            Leaf::new().email("alice@example.org"),
            "mailto:alice@example.org",
        ),
        (
            Leaf::new().uri("https://example.org/alice"),
            "https://example.org/alice",
        ),
    ] {
        let line = refused(&world, &world.ca.issue(leaf), "no-identity", 46).await;
        let detail = line["detail"].as_str().unwrap();
        assert!(detail.contains(saw), "{detail}");
        assert!(detail.contains("reads spiffe"), "{detail}");
    }
}

#[tokio::test]
async fn two_uri_names_are_ambiguous() {
    let world = World::open().await;
    for other in [
        "spiffe://example.org/ns/shop/sa/other",
        "https://example.org/x",
        SPIFFE,
    ] {
        let leaf = world.ca.issue(Leaf::with_uri(SPIFFE).uri(other));
        refused(&world, &leaf, "ambiguous-identity", 46).await;
        let leaf = world.ca.issue(Leaf::with_uri(other).uri(SPIFFE));
        refused(&world, &leaf, "ambiguous-identity", 46).await;
    }
}

#[tokio::test]
async fn malformed_spiffe_ids_are_refused_not_ignored() {
    let world = World::open().await;
    for uri in [
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/a/",
        "spiffe://example.org//a",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/./a",
        "spiffe://example.org/a%2fb",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org/a b",
        "spiffe://EXAMPLE.org/a",
        "spiffe://example.org:443/a",
        "spiffe://user@example.org/a",
        "SPIFFE://example.org/a",
        "spiffe:///a",
        "spiffe://example.org/a\0",
        "spiffe://example.org/é",
    ] {
        let leaf = world.ca.issue(Leaf::with_uri(uri));
        refused(&world, &leaf, "malformed-identity", 46).await;
    }
}

#[tokio::test]
async fn another_trust_domains_identity_is_a_mismatch() {
    let world = World::open().await;
    for uri in [
        "spiffe://other.org/a",
        "spiffe://sub.example.org/a",
        "spiffe://example.org.evil.test/a",
    ] {
        let leaf = world.ca.issue(Leaf::with_uri(uri));
        refused(&world, &leaf, "trust-domain-mismatch", 46).await;
    }
}

#[tokio::test]
async fn authorities_vouch_for_their_own_trust_domain_only() {
    let partner = TestCa::new("partner.org");
    let world = World::of(TestCa::new("example.org"), |settings, ours, echo| {
        settings
            .trust(ours, "revocation = \"off\"")
            .trust(&partner, "revocation = \"off\"")
            .everything_to(echo)
    })
    .await;
    assert_eq!(subject(&world, &world.caller).await, SPIFFE);
    assert_eq!(
        subject(&world, &partner.client("/a")).await,
        "spiffe://partner.org/a"
    );
    let forged = partner.issue(Leaf::with_uri(SPIFFE));
    refused(&world, &forged, "trust-domain-mismatch", 46).await;
    let forged = world.ca.issue(Leaf::with_uri("spiffe://partner.org/a"));
    refused(&world, &forged, "trust-domain-mismatch", 46).await;
}

#[tokio::test]
async fn vouches_for_narrows_a_trust_domain() {
    let world = reading("[\"spiffe\"]", "[\"spiffe://example.org/ns/shop/**\"]").await;
    assert_eq!(subject(&world, &world.caller).await, SPIFFE);
    let outside = world.ca.client("/ns/bank/sa/a");
    refused(&world, &outside, "trust-domain-mismatch", 46).await;
}

#[tokio::test]
async fn other_types_of_names_print_as_what_they_are() {
    let world = reading(
        "[\"spiffe\", \"uri\", \"dns\", \"email\", \"ip\"]",
        "[\"spiffe://example.org/**\", \"uri:https://example.org/**\", \"dns:*.svc.example.org\", \"mailto:*@example.org\", \"ip:10.0.0.0/8\"]",
    )
    .await;
    for (leaf, expected) in [
        (Leaf::with_uri(SPIFFE).dns("a.svc.example.org"), SPIFFE),
        (
            Leaf::with_uri("https://example.org/a").dns("a.svc.example.org"),
            "https://example.org/a",
        ),
        (
            Leaf::new()
                .dns("Orders.svc.Example.ORG")
                .email("a@example.org"),
            "dns:orders.svc.example.org",
        ),
        (
            Leaf::new().email("Al.Ice@Example.org"),
            "mailto:Al.Ice@example.org",
        ),
        (Leaf::new().ip(IpAddr::from([10, 1, 2, 3])), "ip:10.1.2.3"),
    ] {
        assert_eq!(subject(&world, &world.ca.issue(leaf)).await, expected);
    }
}

#[tokio::test]
async fn exactly_one_name_of_the_deciding_type_must_be_vouched_for() {
    let world = reading(
        "[\"dns\", \"email\"]",
        "[\"dns:*.svc.example.org\", \"mailto:*@example.org\"]",
    )
    .await;
    let one = Leaf::new().dns("a.svc.example.org").dns("a.example.net");
    assert_eq!(
        subject(&world, &world.ca.issue(one)).await,
        "dns:a.svc.example.org"
    );
    let two = Leaf::new()
        .dns("a.svc.example.org")
        .dns("b.svc.example.org");
    refused(&world, &world.ca.issue(two), "ambiguous-identity", 46).await;
    // The first type of name in the certificate decides, even if another type would be accepted.
    let none = Leaf::new().dns("a.example.net").email("a@example.org");
    refused(&world, &world.ca.issue(none), "trust-domain-mismatch", 46).await;
}

#[tokio::test]
async fn nothing_passes_for_another_type_of_name() {
    let world = reading(
        "[\"uri\", \"dns\", \"email\"]",
        "[\"uri:https://example.org/**\", \"dns:*.svc.example.org\", \"mailto:*@example.org\"]",
    )
    .await;
    let malformed = [
        Leaf::with_uri("dns:a.svc.example.org"),
        Leaf::with_uri("DNS:a.svc.example.org"),
        Leaf::with_uri("mailto:a@example.org"),
        Leaf::with_uri("ip:10.0.0.1"),
        Leaf::with_uri("api-key:a"),
        Leaf::with_uri("client:a/b"),
        Leaf::new().dns("*.svc.example.org"),
        Leaf::new().dns("a.svc.example.org\0.evil.test"),
        Leaf::new().dns("spiffe://example.org/a"),
        Leaf::new().email("a@example.org\0@evil.test"),
        Leaf::new().email("a@b@example.org"),
        // The name has Latin-1 characters, but must be ASCII.
        Leaf::new().raw_name(0x82, b"a\xe9.svc.example.org"),
        // This IP address has five bytes.
        Leaf::new().raw_name(0x87, &[10, 0, 0, 1, 1]),
    ];
    for leaf in malformed {
        let what = format!("{leaf:?}");
        let credentials = world.ca.issue(leaf);
        let error = world.anonymous().with(&credentials).refusal().await;
        assert_eq!(error.alert(), Some(46), "{what}: {error}");
        refused(&world, &credentials, "malformed-identity", 46).await;
    }
}

/// Returns the content of an otherName with a user principal name, in this string type.
fn upn(name: &[u8], tag: u8) -> Vec<u8> {
    let element = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        [&[tag, length], content].concat()
    };
    let oid = [0x06, 10, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 20, 2, 3];
    let value = element(0xa0, &element(tag, name));
    [&oid[..], &value].concat()
}

const UTF8_STRING: u8 = 0x0c;
const IA5_STRING: u8 = 0x16;

#[tokio::test]
async fn user_principal_names_of_windows_name_callers() {
    let world = reading(
        "[\"upn\", \"dns\"]",
        "[\"upn:*@corp.test\", \"dns:*.corp.test\"]",
    )
    .await;
    let leaf = |name: &[u8], tag| Leaf::new().raw_name(0xa0, &upn(name, tag));
    for (name, sub) in [
        (&b"alice@corp.test"[..], "upn:alice@corp.test"),
        (b"Al.Ice@CORP.test", "upn:al.ice@corp.test"),
        (b"host-1$@corp.test", "upn:host-1$@corp.test"),
    ] {
        let leaf = world.ca.issue(leaf(name, UTF8_STRING));
        assert_eq!(subject(&world, &leaf).await, sub);
    }
    // The first type that the leaf carries counts, and other names of it do not.
    let both = leaf(b"alice@corp.test", UTF8_STRING).dns("a.corp.test");
    assert_eq!(
        subject(&world, &world.ca.issue(both)).await,
        "upn:alice@corp.test"
    );
    let dns = Leaf::new().dns("a.corp.test");
    assert_eq!(
        subject(&world, &world.ca.issue(dns)).await,
        "dns:a.corp.test"
    );
    for (name, tag) in [
        (&b"alice"[..], UTF8_STRING),
        (b"a b@corp.test", UTF8_STRING),
        (b"al\xc3\xadce@corp.test", UTF8_STRING),
        (b"alice\0@corp.test", UTF8_STRING),
        (b"*@corp.test", UTF8_STRING),
        (b"", UTF8_STRING),
        (b"\xff@corp.test", UTF8_STRING),
        (b"alice@corp.test", IA5_STRING),
    ] {
        // A name of another type does not help.
        let leaf = world.ca.issue(leaf(name, tag).dns("a.corp.test"));
        refused(&world, &leaf, "malformed-identity", 46).await;
    }
    let other = world.ca.issue(leaf(b"alice@other.test", UTF8_STRING));
    refused(&world, &other, "trust-domain-mismatch", 46).await;
    let two =
        leaf(b"alice@corp.test", UTF8_STRING).raw_name(0xa0, &upn(b"b@corp.test", UTF8_STRING));
    refused(&world, &world.ca.issue(two), "ambiguous-identity", 46).await;
}

#[tokio::test]
async fn a_user_principal_name_is_no_name_where_none_is_read() {
    let world = World::open().await;
    let leaf = Leaf::new().raw_name(0xa0, &upn(b"alice@corp.test", UTF8_STRING));
    let line = refused(&world, &world.ca.issue(leaf), "no-identity", 46).await;
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("upn:alice@corp.test"), "{detail}");
    // A URI must not pass for one.
    let world = reading("[\"uri\", \"upn\"]", "[\"upn:*@corp.test\", \"uri:urn:x\"]").await;
    let leaf = Leaf::with_uri("upn:alice@corp.test");
    refused(&world, &world.ca.issue(leaf), "malformed-identity", 46).await;
}

#[tokio::test]
async fn rules_and_denials_know_user_principal_names() {
    let keys =
        "revocation = \"off\"\nidentity_from = [\"upn\"]\nvouches_for = [\"upn:*@corp.test\"]";
    let world = World::of(TestCa::new("example.org"), |settings, ca, echo| {
        settings
            .trust(ca, keys)
            .set("deny_list", "file", "\"deny.json\"")
            .set("admin", "socket", "\"admin.sock\"")
            .upstream("echo", echo)
            .route(
                "echo",
                "echo",
                "paths = [\"/**\"]\ncallers = [\"upn:Alice@Corp.Test\", \"upn:carol@corp.test\"]",
            )
    })
    .await;
    let credentials = |name: &[u8]| {
        let leaf = Leaf::new().raw_name(0xa0, &upn(name, UTF8_STRING));
        world.ca.issue(leaf)
    };
    let ask = async |name: &[u8]| {
        let client = world.anonymous().with(&credentials(name));
        client.get("/a").await.unwrap()
    };
    assert_eq!(ask(b"alice@corp.test").await.status, 200);
    assert_eq!(ask(b"ALICE@corp.test").await.status, 200);
    assert_eq!(
        ask(b"bob@corp.test").await.reason(),
        Some("caller-not-allowed")
    );
    world
        .by_socket(&["deny", "add", "--identity", "upn:ALICE@Corp.Test"])
        .await
        .done();
    // Windows does not distinguish upper and lower case, so neither may the entry.
    for name in [&b"alice@corp.test"[..], b"Alice@CORP.test"] {
        refused(&world, &credentials(name), "identity-denied", 46).await;
    }
    assert_eq!(ask(b"carol@corp.test").await.status, 200);
}
