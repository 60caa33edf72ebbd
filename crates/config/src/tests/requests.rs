//! Tests of keys that affect how requests are forwarded.

use super::*;

#[test]
fn a_rewrite_names_the_beginning_of_every_path() {
    let place = Place::new();
    let with = |paths: &str, rewrite: &str| {
        plus(ROUTE, &format!("rewrite = {rewrite}")).replace("[\"/**\"]", paths)
    };
    for (paths, from, to) in [
        ("[\"/api\", \"/api/**\"]", "/api", "/"),
        ("[\"/**\"]", "/", "/v1"),
        ("[\"/a/b/*/c\"]", "/a/b", "/x/y"),
    ] {
        let rewrite = format!("{{ from = \"{from}\", to = \"{to}\" }}");
        let loaded = place.good(&with(paths, &rewrite));
        assert!(loaded.snapshot.routes.routes()[0].rewrite.is_some());
    }
    let text = with(
        "[\"/api/**\", \"/apix\"]",
        "{ from = \"/api\", to = \"/\" }",
    );
    place.refuses(&text, "paths = ", &["does not begin with what `rewrite`"]);
    for (rewrite, part) in [
        (
            "{ from = \"/api\" }",
            "does not say how paths are rewritten",
        ),
        ("{ from = \"/api\", to = \"/\", x = 1 }", "does not say how"),
        ("{ from = \"api\", to = \"/\" }", "beginning of a path"),
        ("{ from = \"/**\", to = \"/\" }", "beginning of a path"),
        (
            "{ from = \"/api\", to = \"/a/../b\" }",
            "beginning of a path",
        ),
        ("{ from = \"/api\", to = \"//\" }", "beginning of a path"),
        ("{ from = \"/api\", to = 1 }", "must be"),
        ("\"/api\"", "must be"),
    ] {
        place.refuses(&with("[\"/api/**\"]", rewrite), "rewrite = ", &[part]);
    }
}

#[test]
fn what_is_about_one_request_needs_assertions_about_it() {
    let place = Place::new();
    for line in ["bind_body = \"1KiB\"", "continue_transaction = true"] {
        place.good(&plus(ROUTE, line));
        let text = plus(ROUTE, &format!("{line}\nbinding = \"caller\""));
        place.refuses(&text, line, &["about the caller alone", "remove"]);
        let text = plus(ROUTE, &format!("{line}\nauthenticate = \"none\""))
            .replace("callers = [\"spiffe://example.org/**\"]\n", "")
            .replace("audience = \"orders\"\n", "");
        place.refuses(&text, line, &["no assertion is sent", "remove"]);
    }
    for size in ["0B", "65MiB"] {
        let line = format!("bind_body = \"{size}\"");
        place.refuses(&plus(ROUTE, &line), &line, &["out of bounds"]);
    }
}

#[test]
fn health_checks_are_read_strictly() {
    let place = Place::new();
    let line = |table: &str| format!("health_check = {table}");
    let loaded = place.good(&plus(UPSTREAM, &line("{ path = \"/\" }")));
    let check = loaded.snapshot.upstreams[0]
        .config()
        .health_check
        .clone()
        .unwrap();
    assert_eq!((check.healthy, check.unhealthy), (2, 3));
    assert_eq!(check.interval, Duration::from_secs(5));
    for (table, part) in [
        ("{ interval = \"1s\" }", "has no `path`"),
        ("{ path = \"healthz\" }", "not a path"),
        ("{ path = \"/a b\" }", "not a path"),
        ("{ path = \"/\", interval = \"1ms\" }", "out of bounds"),
        ("{ path = \"/\", status = [100] }", "not the status"),
        ("{ path = \"/\", status = [] }", "empty"),
        ("{ path = \"/\", healthy = 0 }", "out of range"),
        (
            "{ path = \"/\", intervall = \"1s\" }",
            "did you mean `interval`",
        ),
        ("\"/healthz\"", "must be"),
    ] {
        place.refuses(&plus(UPSTREAM, &line(table)), "health_check = ", &[part]);
    }
}

#[test]
fn balancers_are_networks_or_addresses() {
    let place = Place::new();
    let line = "proxy_protocol = [\"10.0.0.0/8\", \"::1\", \"192.0.2.0/24\"]";
    let balancers = place.good(&plus(LISTENER, line)).snapshot.balancers;
    assert_eq!(balancers.len(), 3);
    for (line, part) in [
        ("proxy_protocol = [\"balancer\"]", "a network"),
        ("proxy_protocol = []", "empty"),
    ] {
        place.refuses(&plus(LISTENER, line), line, &[part]);
    }
}

#[test]
fn transactions_go_on_for_named_services_only() {
    let place = Place::new();
    let line = "continue_transaction = true";
    place.warns(&plus(ROUTE, line), line, "no transaction can go on");
    place.good(&plus(ROUTE, "continue_transaction = false"));
}

#[test]
fn a_chain_is_never_sent_without_its_leaf() {
    let place = Place::new();
    let line = "certificate_headers = [\"client-cert-chain\"]";
    place.refuses(&plus(UPSTREAM, line), line, &["add \"client-cert\""]);
    let line = "certificate_headers = [\"client-certificate\"]";
    place.refuses(&plus(UPSTREAM, line), line, &["did you mean"]);
}

#[test]
fn upgrades_in_http1_are_for_services_in_h2() {
    let place = Place::new();
    let line = "http1_upgrades = true";
    place.refuses(&plus(UPSTREAM, line), line, &["protocol = \"h2\""]);
    let both = format!("protocol = \"h2\"\n{line}");
    let loaded = place.good(&plus(UPSTREAM, &both));
    let upstreams = &loaded.snapshot.upstreams;
    assert!(upstreams.iter().any(|u| u.config().http1_upgrades));
}

#[test]
fn fields_of_the_gateway_and_of_one_hop_are_never_kept() {
    let place = Place::new();
    for (name, part) in [
        ("Countersign-Assertion", "the gateway's to write"),
        ("countersign_reason", "the gateway's to write"),
        ("C*", "belongs to the connection"),
        ("X-*", "the gateway's to write"),
        ("X-Forwarded-For", "the gateway's to write"),
        ("x_forwarded.proto", "the gateway's to write"),
        ("X-Forwarded-*", "the gateway's to write"),
        ("X-Forwarded-Client-Cert", "the gateway's to write"),
        ("Forwarded", "the gateway's to write"),
        ("Client-Cert*", "the gateway's to write"),
        ("X-Request-Id", "the gateway's to write"),
        ("X-API-Key", "the gateway's to write"),
        ("Authorization", "`forward_token` of [[route]]"),
        ("Connection", "belongs to the connection"),
        ("Proxy-*", "belongs to the connection"),
        ("TE", "belongs to the connection"),
        ("Keep_Alive", "belongs to the connection"),
        ("X-Custom", "not removed by default"),
        ("X-SSL*", "not removed by default"),
    ] {
        let line = format!("keep_headers = [\"{name}\"]");
        place.refuses(&plus(UPSTREAM, &line), &line, &[part]);
    }
    let own = with("[assertion]", "[assertion]\nheader = \"X-Remote-User\"");
    let line = "keep_headers = [\"X-Remote-User\"]";
    let text = own.replace(UPSTREAM, &format!("{UPSTREAM}{line}\n"));
    place.refuses(&text, line, &["x-remote-user is the gateway's to write"]);
    place.good(&plus(UPSTREAM, line));
}

#[test]
fn lists_of_fields_are_checked() {
    let place = Place::new();
    for (line, part) in [
        ("keep_headers = []", "empty"),
        ("remove_headers = [\"*\"]", "every field"),
        ("remove_headers = [\"X-*-Y\"]", "how names start"),
        ("remove_headers = [\"a b\"]", "a header field name"),
        ("remove_headers = [\"Content-*\"]", "content-length frames"),
        ("remove_headers = [\"Host\"]", "host frames or addresses"),
        ("remove_headers = [\"Authorization\"]", "`forward_token`"),
        ("pass_headers = [\"X-Forwarded-For\"]", "always passes"),
        ("pass_headers = [\"X-Remote-User\"]", "keep_headers"),
        ("pass_headers = [\"X-Envoy-*\"]", "keep_headers"),
        ("pass_headers = [\"Authorization\"]", "`forward_token`"),
        (
            "pass_headers = [\"Connection\"]",
            "belongs to the connection",
        ),
    ] {
        place.refuses(&plus(UPSTREAM, line), line, &[part]);
    }
    for line in [
        "pass_headers = []",
        "pass_headers = [\"Content-Type\", \"X-*\", \"Cookie\"]",
        "remove_headers = [\"X-*\", \"User-Agent\"]",
    ] {
        place.good(&plus(UPSTREAM, line));
    }
}
