//! Tests of `route.rs`.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::Authentication;
use crate::upstream::UpstreamConfig;

fn route(name: &str, hosts: &[&str], paths: &[&str], methods: &[&str]) -> Route {
    let second = Duration::from_secs(1);
    Route {
        name: name.to_owned(),
        hosts: hosts
            .iter()
            .map(|h| HostPattern::parse(h).unwrap())
            .collect(),
        paths: paths
            .iter()
            .map(|p| PathPattern::parse(p).unwrap())
            .collect(),
        methods: methods.iter().map(|m| m.parse().unwrap()).collect(),
        rule: Rule {
            authentication: Authentication::None,
            callers: Vec::new(),
            except: Vec::new(),
        },
        authenticators: Authenticators::none(),
        resource: None,
        limits: Vec::new(),
        forward_token: false,
        upstream: Arc::new(Upstream::new(UpstreamConfig {
            name: name.to_owned(),
            endpoints: Vec::new(),
            host: None,
            connect_timeout: second,
            first_byte_timeout: second,
            idle_timeout: second,
            ..UpstreamConfig::default()
        })),
        audience: name.to_owned(),
        binding: Binding::Request,
        detail: AssertionDetail::Full,
        path_encoding: PathEncodings::STRICT,
        rewrite: None,
        bind_body: None,
        continue_transaction: false,
        upgrade: Vec::new(),
        meter: RouteMeter::default(),
    }
}

fn chosen(table: &RouteTable, host: &str, path: &str, method: &str) -> String {
    match table.select(host, path, &method.parse().unwrap()) {
        Selected::Route(route) => route.name.clone(),
        Selected::MethodNotAllowed(allowed) => format!("not allowed, but {allowed:?}"),
        Selected::Nothing => "nothing".to_owned(),
    }
}

#[test]
fn the_most_specific_route_wins_whatever_the_order() {
    let table = RouteTable::build(vec![
        route("any", &[], &["/**"], &[]),
        route("host", &["a.example.org"], &["/**"], &[]),
        route("wildcard", &["*.example.org"], &["/x/y"], &[]),
        route("below", &["a.example.org"], &["/x/**"], &[]),
        route("star", &["a.example.org"], &["/x/*"], &[]),
        route("exact", &["a.example.org"], &["/x/y"], &[]),
        route("get", &["a.example.org"], &["/m"], &["GET"]),
        route("others", &["a.example.org"], &["/m"], &[]),
    ])
    .unwrap();
    for (host, path, method, expected) in [
        ("other.org", "/x/y", "GET", "any"),
        ("b.example.org", "/x/y", "GET", "wildcard"),
        ("b.example.org", "/z", "GET", "any"),
        ("a.b.example.org", "/x/y", "GET", "any"),
        ("a.example.org", "/", "GET", "host"),
        ("a.example.org", "/x/y", "GET", "exact"),
        ("a.example.org", "/x/z", "GET", "star"),
        ("a.example.org", "/x/", "GET", "below"),
        ("a.example.org", "/x/y/z", "GET", "below"),
        ("a.example.org", "/x", "GET", "host"),
        ("a.example.org", "/m", "GET", "get"),
        ("a.example.org", "/m", "PUT", "others"),
        ("a.example.org", "/m", "QUERY", "others"),
        ("a.example.org", "/m", "ANNOUNCE", "not allowed, but [GET]"),
    ] {
        assert_eq!(
            chosen(&table, host, path, method),
            expected,
            "{method} {host}{path}"
        );
    }
}

#[test]
fn trace_and_unknown_methods_have_to_be_named() {
    let table = RouteTable::build(vec![
        route("any", &[], &["/x"], &[]),
        route("named", &[], &["/y"], &["TRACE", "BREW"]),
    ])
    .unwrap();
    assert_eq!(chosen(&table, "h", "/x", "OPTIONS"), "any");
    for method in ["TRACE", "BREW"] {
        assert!(
            !chosen(&table, "h", "/x", method).contains("any"),
            "{method}"
        );
        assert_eq!(chosen(&table, "h", "/y", method), "named");
    }
}

#[test]
fn a_method_refusal_does_not_fall_through() {
    let table = RouteTable::build(vec![
        route("lenient", &[], &["/**"], &[]),
        route("strict", &[], &["/admin"], &["GET", "PUT"]),
    ])
    .unwrap();
    assert_eq!(
        chosen(&table, "a", "/admin", "DELETE"),
        "not allowed, but [GET, PUT]"
    );
    assert_eq!(chosen(&table, "a", "/admin/", "DELETE"), "lenient");
}

#[test]
fn nothing_matches_by_default() {
    let table = RouteTable::build(vec![route("a", &["a.org"], &["/a"], &[])]).unwrap();
    assert_eq!(chosen(&table, "a.org", "/b", "GET"), "nothing");
    assert_eq!(chosen(&table, "b.org", "/a", "GET"), "nothing");
    assert_eq!(chosen(&table, "a.org", "a", "GET"), "nothing");
}

#[test]
fn ties_are_named_and_only_ties() {
    let tied = |a, b| RouteTable::build(vec![a, b]).is_err();
    assert!(tied(
        route("a", &[], &["/x"], &[]),
        route("b", &[], &["/x"], &[])
    ));
    assert!(tied(
        route("a", &[], &["/*/b"], &[]),
        route("b", &[], &["/a/*"], &[])
    ));
    assert!(tied(
        route("a", &[], &["/*/b"], &["GET"]),
        route("b", &[], &["/a/*"], &["PUT"])
    ));
    assert!(tied(
        route("a", &["h"], &["/x"], &["GET"]),
        route("b", &["h", "g"], &["/x"], &["GET", "PUT"])
    ));
    assert!(!tied(
        route("a", &["h"], &["/x"], &[]),
        route("b", &[], &["/x"], &[])
    ));
    assert!(!tied(
        route("a", &[], &["/x"], &["GET"]),
        route("b", &[], &["/x"], &["PUT"])
    ));
    assert!(!tied(
        route("a", &[], &["/x"], &["GET"]),
        route("b", &[], &["/x"], &[])
    ));
    assert!(!tied(
        route("a", &[], &["/x/*"], &[]),
        route("b", &[], &["/*/*"], &[])
    ));
    let ties = RouteTable::build(vec![
        route("a", &["h"], &["/x"], &[]),
        route("b", &["h"], &["/x"], &[]),
    ]);
    let text = ties.unwrap_err()[0].to_string();
    assert!(text.contains("a and b") && text.contains("h, /x"), "{text}");
}

proptest! {
    /// The path tree must find the same route as a linear search over all patterns.
    #[test]
    fn the_tree_agrees_with_the_patterns(
        patterns in proptest::collection::vec("(/(a|b|\\*)){1,3}(/\\*\\*)?", 1..8),
        path in "(/(a|b|c)){1,4}/?",
    ) {
        let mut unique = patterns;
        unique.sort();
        unique.dedup();
        let routes = unique.iter().map(|p| route(p, &[], &[p], &[])).collect();
        if let Ok(table) = RouteTable::build(routes) {
            let best = unique
                .iter()
                .map(|text| (PathPattern::parse(text).unwrap(), text))
                .filter(|(pattern, _)| pattern.matches(&path))
                .max_by_key(|(pattern, _)| Rank::of(pattern));
            let expected = best.map_or("nothing".to_owned(), |(_, text)| text.clone());
            prop_assert_eq!(chosen(&table, "h", &path, "GET"), expected);
        }
    }
}
