//! Tests of configurations in which each value is valid, but two values contradict each other.

use super::*;

#[test]
fn trust_domains_stand_apart() {
    let place = Place::new();
    place.authority("other", "other.example");
    let second = |name: &str, roots: &str, more: &str| {
        format!(
            "{}\n[[trust_domain]]\nname = \"{name}\"\nroots = [\"{roots}\"]\nrevocation = \"off\"\n{more}\n",
            whole()
        )
    };
    place.good(&second("other.example", "other/trust.pem", ""));
    let text = second("other.example", "certs/trust.pem", "");
    place.refuses(
        &text,
        "name = \"other.example\"",
        &["share a root", "and this one"],
    );
    let first = "vouches_for = [\"spiffe://example.org/**\", \"dns:*.example.org\"]";
    let text = second(
        "other.example",
        "other/trust.pem",
        "vouches_for = [\"dns:a.example.org\"]",
    )
    .replace(TRUST, &format!("{TRUST}{first}\n"));
    place.refuses(
        &text,
        "name = \"other.example\"",
        &["may both vouch for", "narrower"],
    );
    let text = second("example.org", "other/trust.pem", "");
    let shown = place.errors(&text);
    assert!(
        shown.contains("two trust domains are named \"example.org\""),
        "{shown}"
    );
    for (line, part) in [
        ("vouches_for = [\"*\"]", "not for everything"),
        (
            "vouches_for = [\"spiffe://a.example/**\"]",
            "only trust domain a.example can vouch",
        ),
        ("vouches_for = []", "this list is empty"),
    ] {
        place.refuses(&plus(TRUST, line), line, &[part]);
    }
    let line = "identity_from = [\"spiffe\", \"dns\"]";
    place.warns(&plus(TRUST, line), line, "callers named by dns are refused");
}

#[test]
fn names_and_references_are_checked() {
    let place = Place::new();
    for (from, to, marker, parts) in [
        (
            "upstream = \"orders\"",
            "upstream = \"order\"",
            "upstream = \"order\"",
            &["did you mean \"orders\"?"][..],
        ),
        (
            LISTENER,
            &format!("{LISTENER}trust_domains = [\"exmaple.org\"]\n"),
            "trust_domains",
            &["no trust domain named", "did you mean \"example.org\"?"],
        ),
    ] {
        let text = with(from, to);
        let shown = place.errors(&text);
        let line = line_of(&text, marker);
        for part in parts
            .iter()
            .copied()
            .chain([&*format!("countersign.toml:{line}:")])
        {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    let text = format!("{}\n{UPSTREAM}", whole());
    assert!(
        place
            .errors(&text)
            .contains("two upstreams are named \"orders\"")
    );
    let again = ROUTE.replace("/**", "/a");
    let text = format!("{}\n{again}", whole());
    assert!(
        place
            .errors(&text)
            .contains("two routes are named \"orders\"")
    );
    let unused = UPSTREAM.replace("\"orders\"", "\"spare\"");
    let text = format!("{}\n{unused}", whole());
    place.warns(
        &text,
        "name = \"spare\"",
        "no route leads to upstream \"spare\"",
    );
}

#[test]
fn server_names_are_distinct_names_with_their_certificates() {
    let place = Place::new();
    let entry = |names: &str, more: &str| {
        format!(
            "\n[[server_name]]\nnames = [{names}]\ncertificate = \"certs/issued/gateway.pem\"\nprivate_key = \"certs/issued/gateway.key\"\n{more}\n"
        )
    };
    let text = whole() + &entry("\"gateway.example.org\", \"Gateway.example.org.\"", "");
    place.refuses(
        &text,
        "\"gateway.example.org\", ",
        &["stands twice", "the first"],
    );
    let text = whole() + &entry("\"10.0.0.1\"", "");
    place.refuses(
        &text,
        "\"10.0.0.1\"",
        &["a server name is not an IP address"],
    );
    let text = whole() + &entry("\"other.example.org\"", "");
    place.warns(
        &text,
        "\"other.example.org\"",
        "the certificate is not for other.example.org",
    );
    let text = whole()
        + &entry(
            "\"gateway.example.org\"",
            "client_certificate = \"optional\"",
        );
    let loaded = place.good(&text);
    let named = loaded
        .snapshot
        .server_names
        .select(Some("gateway.example.org"))
        .unwrap();
    assert_eq!(named.client_certificate(), ClientCertificate::Optional);
    let default = loaded.snapshot.server_names.default_entry().unwrap();
    assert_eq!(default.client_certificate(), ClientCertificate::Required);
    let nameless = text
        .replacen("certificate = \"certs/issued/gateway.pem\"\n", "", 1)
        .replacen("private_key = \"certs/issued/gateway.key\"\n", "", 1);
    place.refuses(
        &nameless,
        "[public]",
        &["uses the certificate of [listener], which has none"],
    );
    let nameless = nameless.replace(
        PUBLIC,
        "[public]\naddress = \"0.0.0.0:9080\"\ntls = \"off\"\n",
    );
    let loaded = place.good(&nameless);
    assert!(loaded.snapshot.server_names.default_entry().is_none());
    let hosts = nameless.replace("paths =", "hosts = [\"a.example.org\"]\npaths =");
    place.warns(
        &hosts,
        "hosts = ",
        "no [[server_name]] serves a.example.org",
    );
}

#[test]
fn issuers_are_urls_that_lead_to_the_keys() {
    let place = Place::new();
    let issuer = "https://gateway.example.org:9080";
    for (bad, part) in [
        ("gateway", "it must begin with https://"),
        (
            "http://gateway.example.org",
            "http is for this machine alone",
        ),
        (
            "https://gateway.example.org/",
            "it must not end with a slash",
        ),
        ("https://gateway.example.org?a", "no query"),
        ("https://gateway.example.org#a", "no fragment"),
        ("https://me@gateway.example.org", "it must not name a user"),
    ] {
        place.refuses(&with(issuer, bad), "issuer = ", &[part]);
    }
    for (from, to, part) in [
        (issuer, "https://gateway.example.org", "it says port 443"),
        (
            issuer,
            "https://gateway.example.org:9080/a",
            "serves them at its root",
        ),
        (
            issuer,
            "http://127.0.0.1:9080",
            "it says http and [public] speaks https",
        ),
        (
            issuer,
            "https://other.example.org:9080",
            "is not for other.example.org",
        ),
        (PUBLIC, "", "there is no [public] listener"),
        (
            "0.0.0.0:9080\"",
            "0.0.0.0:9080\"\nserve = [\"health\"]",
            "does not serve keys",
        ),
        (
            "0.0.0.0:9080",
            "127.0.0.1:9080",
            "does not lead to 127.0.0.1",
        ),
    ] {
        place.warns(&with(from, to), "issuer = ", part);
    }
    let text = with(issuer, "http://127.0.0.1:9080")
        .replace("0.0.0.0:9080\"", "127.0.0.1:9080\"\ntls = \"off\"");
    assert_eq!(place.good(&text).warnings, [""; 0]);
    let text = with("certs/signing", "nowhere");
    let shown = place.errors(&text);
    assert!(
        shown.contains("nowhere") && shown.contains("countersign keys generate"),
        "{shown}"
    );
}

#[test]
fn listeners_do_not_share_an_address() {
    let place = Place::new();
    let text = format!(
        "{}\n[admin]\naddress = \"127.0.0.1:8443\" # admin\n",
        whole()
    );
    place.refuses(
        &text,
        "# admin",
        &["[listener] and [admin] cannot share an address"],
    );
    let text = with("0.0.0.0:9080", "0.0.0.0:8443");
    let shown = place.errors(&text);
    assert!(
        shown.contains("[listener] and [public] cannot share an address"),
        "{shown}"
    );
    let text = with("0.0.0.0:9080", "0.0.0.0:0").replace("127.0.0.1:8443", "127.0.0.1:0");
    place.good(&text);
}

#[test]
fn endpoints_are_plain_http_on_this_machine_unless_allowed() {
    let place = Place::new();
    let endpoint = "http://127.0.0.1:9001";
    for (bad, parts) in [
        ("https://127.0.0.1:9001", &["and no `roots`"][..]),
        (
            "http://10.0.0.1:9001",
            &["allow_plaintext = true", "in the clear"],
        ),
        ("http://orders.internal", &["allow_plaintext = true"]),
        ("http://127.0.0.1:9001/a", &["an endpoint has no path"]),
        ("127.0.0.1:9001", &["must begin with"]),
        ("http://127.0.0.1:x", &["no valid host name or port"]),
    ] {
        place.refuses(&with(endpoint, bad), "endpoints = ", parts);
    }
    place.good(&with(endpoint, "http://localhost:9001"));
    let text = with(endpoint, "http://orders.internal:9001");
    place.good(&text.replace("endpoints =", "allow_plaintext = true\nendpoints ="));
}

#[test]
fn routes_say_who_may_use_them() {
    let place = Place::new();
    for line in ["callers = []", "callers = [\"sa/checkout\"]"] {
        let text = with("callers = [\"spiffe://example.org/**\"]", line);
        place.refuses(&text, line, &[]);
    }
    let text = plus(ROUTE, "authenticate = \"none\"");
    place.refuses(
        &text,
        "callers = ",
        &["no meaning where nobody is authenticated"],
    );
    let text = text.replace("callers = [\"spiffe://example.org/**\"]\n", "");
    place.warns(&text, "audience = ", "never used");
    place.refuses(
        &format!("{text}binding = \"caller\"\n"),
        "binding = ",
        &["`binding` has no meaning"],
    );
    for (pattern, part) in [
        (
            "spiffe://other.example/**",
            "add a [[trust_domain]] named \"other.example\"",
        ),
        ("dns:a.example.org", "extend vouches_for and identity_from"),
    ] {
        let text = with(
            "\"spiffe://example.org/**\"",
            &format!("\"*\", \"{pattern}\""),
        );
        place.warns(&text, "callers = ", part);
    }
    for means in ["{ all = [\"certificate\"] }", "{ any = [\"certificate\"] }"] {
        place.good(&plus(ROUTE, &format!("authenticate = {means}")));
    }
}

#[test]
fn routes_that_tie_and_audiences_with_two_bindings_are_refused() {
    let place = Place::new();
    let second = ROUTE.replace("name = \"orders\"", "name = \"again\"");
    let text = format!("{}\n{second}", whole());
    place.refuses(
        &text,
        "name = \"again\"",
        &[
            "match any host, /** equally well",
            "ties with this one",
            "more specific",
        ],
    );
    let second = second.replace("/**", "/a") + "binding = \"caller\"\n";
    let text = format!("{}\n{second}", whole());
    place.refuses(
        &text,
        "binding = ",
        &["has two bindings", "the earlier route"],
    );
    let second = second.replace("binding = \"caller\"", "assertion = \"compact\"");
    let text = format!("{}\n{second}", whole());
    place.refuses(
        &text,
        "assertion = ",
        &[
            "has two kinds of assertions",
            "\"compact\" here, \"full\"",
            "the earlier route",
        ],
    );
}

#[test]
fn the_size_of_assertions_is_bounded_and_long_callers_are_shown() {
    let place = Place::new();
    for (size, kept) in [("2KiB", 2048), ("7KiB", 7168)] {
        let loaded = place.good(&plus(ASSERTION, &format!("max_size = \"{size}\"")));
        assert_eq!(loaded.snapshot.signer.settings().max_size, kept);
    }
    assert_eq!(
        place.good(&whole()).snapshot.signer.settings().max_size,
        4096
    );
    for size in ["1KiB", "8KiB"] {
        let text = plus(ASSERTION, &format!("max_size = \"{size}\""));
        place.refuses(&text, "max_size = ", &["between 2KiB and 7KiB"]);
    }
    let caller = |length: usize| {
        let id = format!("spiffe://example.org/{}", "a".repeat(length));
        with(
            "callers = [\"spiffe://example.org/**\"]",
            &format!("callers = [\"{id}\"]"),
        )
    };
    assert!(place.good(&caller(200)).warnings.is_empty());
    let long = caller(1500);
    place.warns(&long, "callers = ", "have room for a path of");
    let roomy = long.replace("[assertion]\n", "[assertion]\nmax_size = \"7KiB\"\n");
    assert!(place.good(&roomy).warnings.is_empty());
}

#[test]
fn unusual_paths_are_allowed_for_each_route_and_neighbours_are_shown() {
    let place = Place::new();
    let text = plus(ROUTE, "path_encoding = [\"strict\", \"allow-non-utf8\"]");
    place.refuses(&text, "path_encoding = ", &["cannot be strict and"]);
    let text = plus(ROUTE, "path_encoding = \"lenient\"");
    place.refuses(&text, "path_encoding = ", &["allow-encoded-slash"]);
    let relaxed = plus(ROUTE, "path_encoding = \"allow-encoded-slash\"");
    assert!(place.good(&relaxed).warnings.is_empty());
    let neighbour = |callers: &str| {
        let second = ROUTE
            .replace("name = \"orders\"", "name = \"admin\"")
            .replace("paths = [\"/**\"]", "paths = [\"/admin/**\"]")
            .replace("\"spiffe://example.org/**\"", callers);
        format!("{relaxed}\n{second}")
    };
    assert!(
        place
            .good(&neighbour("\"spiffe://example.org/**\""))
            .warnings
            .is_empty()
    );
    place.warns(
        &neighbour("\"spiffe://example.org/ns/ops/**\""),
        "path_encoding = ",
        "paths of this route that can be read as /admin/** of route \"admin\" are refused",
    );
    let methods = neighbour("\"spiffe://example.org/**\"").replace(
        "paths = [\"/admin/**\"]",
        "paths = [\"/admin/**\"]\nmethods = [\"GET\"]",
    );
    place.warns(
        &methods,
        "path_encoding = ",
        "of route \"admin\" are refused",
    );
    let many: String = (0..7)
        .map(|number| {
            let one = neighbour("\"spiffe://example.org/ns/ops/**\"");
            let second = one.split("[[route]]").last().unwrap();
            let second = second.replace("admin", &format!("admin{number}"));
            format!("\n[[route]]{second}")
        })
        .collect();
    place.warns(
        &format!("{relaxed}{many}"),
        "path_encoding = ",
        "/admin4/** of route \"admin4\" and 2 more are refused",
    );
}
