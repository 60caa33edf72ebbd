//! Tests of `pattern.rs`.

use proptest::prelude::*;

use super::*;
use crate::identity::SpiffeId;

fn path(text: &str) -> PathPattern {
    PathPattern::parse(text).unwrap()
}

fn spiffe(text: &str) -> CallerName {
    CallerName::Spiffe(SpiffeId::parse(text).unwrap())
}

#[test]
fn star_is_one_segment_and_double_star_what_is_below() {
    assert!(path("/orders").matches("/orders"));
    assert!(!path("/orders").matches("/orders/"));
    assert!(!path("/orders").matches("/ordersx"));
    assert!(path("/orders/**").matches("/orders/"));
    assert!(path("/orders/**").matches("/orders/7/items"));
    assert!(!path("/orders/**").matches("/orders"));
    assert!(path("/orders/*").matches("/orders/7"));
    assert!(!path("/orders/*").matches("/orders/"));
    assert!(!path("/orders/*").matches("/orders/7/8"));
    assert!(path("/**").matches("/"));
    assert!(path("/**").matches("/a/b"));
    assert!(path("/").matches("/"));
    assert!(!path("/").matches("/a"));
    assert!(path("/a/").matches("/a/"));
}

#[test]
fn anything_else_is_not_a_wildcard() {
    for bad in [
        "orders", "/or*", "/**/x", "/a//b", "/./a", "/a/..", "/a?b", "/a%2fb", "/***", "/a b", "",
    ] {
        assert!(PathPattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn hosts_match_one_label() {
    let wildcard = HostPattern::parse("*.Example.org.").unwrap();
    assert!(wildcard.matches("a.example.org"));
    assert!(!wildcard.matches("a.b.example.org"));
    assert!(!wildcard.matches("example.org"));
    assert!(HostPattern::parse("a.*.org").is_err());
    assert!(HostPattern::parse("*").is_err());
    assert!(HostPattern::parse("[::1]").unwrap().matches("::1"));
}

#[test]
fn identity_patterns_match_their_own_type_only() {
    let pattern = IdentityPattern::parse("dns:alice.example.org").unwrap();
    assert!(pattern.matches(&CallerName::from_dns("alice.example.org").unwrap()));
    assert!(!pattern.matches(&CallerName::from_uri("urn:alice.example.org").unwrap()));
    let network = IdentityPattern::parse("ip:10.0.0.0/8").unwrap();
    assert!(network.matches(&CallerName::Ip("10.1.2.3".parse().unwrap())));
    assert!(!network.matches(&CallerName::Ip("11.1.2.3".parse().unwrap())));
    let mail = IdentityPattern::parse("mailto:*@example.org").unwrap();
    assert!(mail.matches(&CallerName::from_email("a@example.org").unwrap()));
    assert!(!mail.matches(&CallerName::from_email("a@b.example.org").unwrap()));
    let uri = IdentityPattern::parse("uri:https://example.org/app/*").unwrap();
    assert!(uri.matches(&CallerName::from_uri("https://example.org/app/a").unwrap()));
    assert!(!uri.matches(&CallerName::from_uri("https://example.org/app/a?x").unwrap()));
    assert!(!uri.matches(&CallerName::from_uri("https://example.org.evil/app/a").unwrap()));
}

#[test]
fn spiffe_patterns_stay_in_their_trust_domain() {
    let pattern = IdentityPattern::parse("spiffe://example.org/ns/*/sa/checkout").unwrap();
    assert!(pattern.matches(&spiffe("spiffe://example.org/ns/shop/sa/checkout")));
    assert!(!pattern.matches(&spiffe("spiffe://example.org/ns/a/b/sa/checkout")));
    assert!(!pattern.matches(&spiffe("spiffe://example.net/ns/shop/sa/checkout")));
    let all = IdentityPattern::parse("spiffe://example.org/**").unwrap();
    assert!(all.matches(&spiffe("spiffe://example.org/a")));
    assert!(!all.matches(&spiffe("spiffe://example.org")));
    for bad in [
        "spiffe://*/a",
        "spiffe://*.org/a",
        "spiffe://example.org/",
        "alice",
        "dns:10.0.0.1",
        "ip:10.0.0.1/8",
        "uri:spiffe://a/b",
        "uri:dns:a",
        "mailto:a",
    ] {
        assert!(IdentityPattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_uri_overlaps_the_patterns_it_matches() {
    let pattern = |text| IdentityPattern::parse(text).unwrap();
    let exact = pattern("uri:https://a.b/apps/one");
    for (other, overlap) in [
        ("uri:https://a.b/apps/*", true),
        ("uri:https://a.b/**", true),
        ("uri:https://a.b/apps/one", true),
        ("uri:https://a.b/apps/*/x", false),
        ("uri:https://a.c/apps/*", false),
    ] {
        assert_eq!(exact.overlaps(&pattern(other)), overlap, "{other}");
        assert_eq!(pattern(other).overlaps(&exact), overlap, "{other}");
    }
}

proptest! {
    #[test]
    fn overlap_agrees_with_matching(
        a in "(/(a|b|\\*)){0,3}(/\\*\\*|/|/a)",
        b in "(/(a|b|\\*)){0,3}(/\\*\\*|/|/b)",
        given in "(/(a|b|c)){0,4}/?",
    ) {
        let (first, second) = (path(&a), path(&b));
        prop_assert_eq!(first.overlaps(&second), second.overlaps(&first));
        if first.matches(&given) && second.matches(&given) {
            prop_assert!(first.overlaps(&second));
        }
    }

    #[test]
    fn printing_and_parsing_agree(text in "(spiffe://a\\.b(/[a-z*]){0,3}(/\\*\\*)?|dns:(\\*\\.)?[a-z]{1,5}\\.org|mailto:(\\*|[a-z]{1,4})@[a-z]{1,4}\\.org|uri:https://a\\.b/[a-z]{1,4})") {
        if let Ok(pattern) = IdentityPattern::parse(&text) {
            prop_assert_eq!(IdentityPattern::parse(&pattern.to_string()).unwrap(), pattern);
        }
    }

    #[test]
    fn never_panics(text in ".{0,60}") {
        let _ = IdentityPattern::parse(&text);
        let _ = PathPattern::parse(&text);
        let _ = HostPattern::parse(&text);
    }
}
