//! Cases about the request: method, `htu`, host, path and query must be equal byte by byte.

use super::case::{Case, Draft, HOST, case};
use super::key::{hash, sha256};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = methods();
    cases.extend(urls());
    cases.extend(equal_hosts());
    cases.extend(other_hosts());
    cases.extend(unclear_hosts());
    cases.extend(configured_authorities());
    cases.extend(targets());
    cases.extend(equal_paths());
    cases.extend(other_paths());
    cases.extend(prefixes());
    cases.extend(queries());
    cases.extend(other_queries());
    cases
}

fn methods() -> Vec<Case> {
    let rule = "method";
    let methods = |name: &str, signed: &str, received: &str| {
        case(rule, name).claim("htm", signed).method(received)
    };
    vec![
        methods("POST", "POST", "POST").accepted(),
        methods("HEAD", "HEAD", "HEAD").accepted(),
        methods("OPTIONS of a path", "OPTIONS", "OPTIONS").accepted(),
        methods("a method with a hyphen", "M-SEARCH", "M-SEARCH").accepted(),
        methods("POST instead of GET", "GET", "POST").refused("method"),
        methods("GET instead of POST", "POST", "GET").refused("method"),
        methods("HEAD instead of GET", "GET", "HEAD").refused("method"),
        methods("a method in lower case", "GET", "get").refused("method"),
        methods("`htm` in lower case", "get", "GET").refused("method"),
        methods("an empty `htm`", "", "GET").refused("method"),
        methods("`htm` with a space", "GET ", "GET").refused("method"),
        methods("`*` as `htm`", "*", "GET").refused("method"),
    ]
}

fn url(rule: &str, name: &str, url: &str) -> Draft {
    case(rule, name).claim("htu", url)
}

/// Returns cases about the rule that `htu` is a URL with a host and a path, and without a query and
/// a fragment.
fn urls() -> Vec<Case> {
    let rule = "htu";
    let mut cases: Vec<Case> = [
        (
            "`htu` with a query",
            "https://orders.example.org/orders/7?x=1",
        ),
        (
            "`htu` with an empty query",
            "https://orders.example.org/orders/7?",
        ),
        (
            "`htu` with a fragment",
            "https://orders.example.org/orders/7#x",
        ),
        (
            "`htu` with an empty fragment",
            "https://orders.example.org/orders/7#",
        ),
        ("`htu` without a path", "https://orders.example.org"),
        ("`htu` without a host", "https:///orders/7"),
        ("`htu` without a scheme", "orders.example.org/orders/7"),
        (
            "`htu` with slashes and without a scheme",
            "//orders.example.org/orders/7",
        ),
        ("`htu` with one slash", "https:/orders.example.org/orders/7"),
        (
            "`htu` with backslashes",
            r"https:\\orders.example.org\orders\7",
        ),
        ("a path only", "/orders/7"),
        ("an empty `htu`", ""),
    ]
    .into_iter()
    .map(|(name, value)| url(rule, name, value).refused("claims"))
    .collect();
    // The scheme has no meaning, so both `https` and `http` are accepted.
    cases.extend([
        url(
            "scheme",
            "https in `htu`",
            "https://orders.example.org/orders/7",
        )
        .accepted(),
        url(
            "scheme",
            "http in `htu`",
            "http://orders.example.org/orders/7",
        )
        .accepted(),
    ]);
    cases
}

fn hosts(name: &str, signed: &str, received: &str) -> Draft {
    url("host", name, &format!("https://{signed}/orders/7")).hosts(&[received])
}

fn equal_hosts() -> Vec<Case> {
    [
        ("a host with a port", "orders.example.org:8443"),
        ("a host with the port of https", "orders.example.org:443"),
        ("a host with a dot at the end", "orders.example.org."),
        ("a host in upper case in both", "ORDERS.example.org"),
        ("a name without dots", "orders"),
        (
            "an internationalized name",
            "xn--bestellungen-caf-qtb.example",
        ),
        ("an IPv4 address", "192.0.2.7"),
        ("an IPv4 address with a port", "192.0.2.7:8443"),
        ("an IPv6 address", "[2001:db8::7]"),
        ("an IPv6 address with a port", "[2001:db8::7]:8443"),
    ]
    .into_iter()
    .map(|(name, host)| hosts(name, host, host).accepted())
    .collect()
}

fn other_hosts() -> Vec<Case> {
    [
        ("another host", HOST, "payments.example.org"),
        (
            "a port in the request only",
            HOST,
            "orders.example.org:8443",
        ),
        (
            "the port of https in the request only",
            HOST,
            "orders.example.org:443",
        ),
        ("a port in `htu` only", "orders.example.org:8443", HOST),
        (
            "the port of https in `htu` only",
            "orders.example.org:443",
            HOST,
        ),
        (
            "another port",
            "orders.example.org:8443",
            "orders.example.org:8444",
        ),
        (
            "an upper-case letter in the request",
            HOST,
            "Orders.example.org",
        ),
        ("upper case in `htu`", "ORDERS.EXAMPLE.ORG", HOST),
        (
            "a dot at the end in the request",
            HOST,
            "orders.example.org.",
        ),
        ("a dot at the end in `htu`", "orders.example.org.", HOST),
        ("a longer host", HOST, "orders.example.org.evil.example"),
        ("a subdomain", HOST, "x.orders.example.org"),
        ("a parent domain", HOST, "example.org"),
        (
            "an IPv6 address in another spelling",
            "[2001:db8::7]",
            "[2001:db8:0::7]",
        ),
        (
            "an IPv6 address in upper case",
            "[2001:db8::7]",
            "[2001:DB8::7]",
        ),
        (
            "an IPv6 address without brackets",
            "[2001:db8::7]",
            "2001:db8::7",
        ),
        ("a user in `htu`", "user@orders.example.org", HOST),
        (
            "a user and a password in `htu`",
            "user:x@orders.example.org",
            HOST,
        ),
        (
            "the host as user of another one",
            "orders.example.org@evil.example",
            HOST,
        ),
        ("an address instead of the name", HOST, "192.0.2.7"),
        (
            "a percent-encoded letter in `htu`",
            "%6Frders.example.org",
            HOST,
        ),
        ("a space at the end in `htu`", "orders.example.org ", HOST),
        (
            "a backslash before another host in `htu`",
            r"orders.example.org\@evil.example",
            HOST,
        ),
    ]
    .into_iter()
    .map(|(name, signed, received)| hosts(name, signed, received).refused("authority"))
    .collect()
}

fn unclear_hosts() -> Vec<Case> {
    let hosts =
        |name: &str, hosts: &[&str]| case("host", name).hosts(hosts).refused("request-unclear");
    vec![
        hosts("no host", &[]),
        hosts("the same host twice", &[HOST, HOST]),
        hosts("the host and another one", &[HOST, "evil.example"]),
        hosts("another host and the host", &["evil.example", HOST]),
    ]
}

fn configured_authorities() -> Vec<Case> {
    let rule = "authority-option";
    vec![
        case(rule, "another host in the request")
            .authority(HOST)
            .hosts(&["10.0.0.7:8080"])
            .accepted(),
        case(rule, "no host in the request")
            .authority(HOST)
            .hosts(&[])
            .accepted(),
        case(rule, "two hosts in the request")
            .authority(HOST)
            .hosts(&["evil.example", "10.0.0.7:8080"])
            .accepted(),
        url(
            rule,
            "an authority with a port",
            "https://[2001:db8::7]:8443/orders/7",
        )
        .authority("[2001:db8::7]:8443")
        .accepted(),
        case(rule, "the host of the request does not count")
            .authority("payments.example.org")
            .refused("authority"),
        case(rule, "another spelling of the configured authority")
            .authority("Orders.example.org")
            .refused("authority"),
        case(rule, "a port that is only configured")
            .authority("orders.example.org:443")
            .refused("authority"),
    ]
}

/// Returns cases about the rule that the target must be in origin form (RFC 9112 section 3.2.1).
fn targets() -> Vec<Case> {
    [
        ("the target `*`", "*"),
        ("a target without a slash", "orders/7"),
        ("a target in authority form", "orders.example.org:443"),
        ("a target with a fragment", "/orders/7#x"),
        ("a target with a fragment after the query", "/orders/7?#x"),
        ("a target that is only a query", "?x=1"),
        (
            "a target with another host than the request",
            "https://evil.example/orders/7",
        ),
    ]
    .into_iter()
    .map(|(name, target)| {
        case("target", name)
            .target(target)
            .refused("request-unclear")
    })
    .collect()
}

fn paths(rule: &str, name: &str, signed: &str, target: &str) -> Draft {
    url(rule, name, &format!("https://{HOST}{signed}")).target(target)
}

fn equal_paths() -> Vec<Case> {
    [
        ("a slash only", "/"),
        ("an encoded slash", "/orders%2F7"),
        ("an encoded slash in lower case", "/orders%2f7"),
        ("an encoded digit", "/orders/%37"),
        ("an encoded percent sign", "/orders/%2537"),
        ("parameters", "/orders;v=1/7;x"),
        ("two slashes", "//orders//7"),
        ("a slash at the end", "/orders/7/"),
        ("dot segments", "/orders/./x/../7"),
        ("encoded dot segments", "/orders/%2e%2E/7"),
        ("letters outside ASCII", "/orders/caf%C3%A9"),
        ("letters outside ASCII in lower case", "/orders/caf%c3%a9"),
        ("encoded bytes that are not UTF-8", "/orders/%FF%fe"),
        ("an encoded NUL", "/orders/%00"),
        ("a percent sign without digits", "/orders/100%"),
        ("a percent sign before letters", "/orders/%zz"),
        ("a plus sign", "/orders/a+b"),
        ("an encoded space", "/orders/a%20b"),
        ("an encoded question mark", "/orders/7%3Fx"),
        ("an encoded number sign", "/orders/7%23x"),
        ("all characters of a path", "/:@!$&'()*,=~-._AZaz09"),
        ("a colon and two slashes", "/https://evil.example/7"),
        ("a backslash, encoded", "/orders%5C7"),
    ]
    .into_iter()
    .map(|(name, path)| paths("path", name, path, path).accepted())
    .collect()
}

fn other_paths() -> Vec<Case> {
    [
        ("another path", "/orders/7", "/orders/8"),
        ("the beginning of the path", "/orders/7", "/orders"),
        ("a longer path", "/orders/7", "/orders/70"),
        (
            "a slash at the end of the target",
            "/orders/7",
            "/orders/7/",
        ),
        ("a slash at the end of `htu`", "/orders/7/", "/orders/7"),
        ("two slashes in the target", "/orders/7", "//orders/7"),
        ("two slashes in `htu`", "/orders//7", "/orders/7"),
        ("a dot segment in the target", "/orders/7", "/orders/./7"),
        (
            "a parent segment in the target",
            "/orders/7",
            "/orders/8/../7",
        ),
        ("a parent segment in `htu`", "/orders/8/../7", "/orders/7"),
        ("an encoded digit in the target", "/orders/7", "/orders/%37"),
        ("an encoded digit in `htu`", "/orders/%37", "/orders/7"),
        (
            "an encoded letter in the target",
            "/orders/7",
            "/%6Frders/7",
        ),
        ("an encoded slash in the target", "/orders/7", "/orders%2F7"),
        ("an encoded slash in `htu`", "/orders%2F7", "/orders/7"),
        (
            "an encoded slash in the other case",
            "/orders%2F7",
            "/orders%2f7",
        ),
        (
            "an escape that is encoded twice",
            "/orders/%37",
            "/orders/%2537",
        ),
        (
            "letters outside ASCII in the other case",
            "/caf%C3%A9",
            "/caf%c3%a9",
        ),
        ("another encoding of a letter", "/caf%C3%A9", "/caf%E9"),
        ("a letter and its accent apart", "/caf%C3%A9", "/cafe%CC%81"),
        ("a parameter in the target", "/orders/7", "/orders/7;v=1"),
        ("a parameter in `htu`", "/orders/7;v=1", "/orders/7"),
        (
            "a plus sign instead of a space",
            "/orders/a%20b",
            "/orders/a+b",
        ),
        ("an upper-case letter", "/orders/7", "/Orders/7"),
        ("a slash instead of the path", "/orders/7", "/"),
        (
            "an encoded question mark in the target",
            "/orders/7",
            "/orders/7%3F",
        ),
        ("an encoded NUL at the end", "/orders/7", "/orders/7%00"),
        ("a space at the end, encoded", "/orders/7", "/orders/7%20"),
        (
            "another host as the first segment",
            "/orders/7",
            "/orders.example.org/orders/7",
        ),
        ("a letter outside ASCII in `htu`", "/café", "/caf%C3%A9"),
    ]
    .into_iter()
    .map(|(name, signed, target)| paths("path", name, signed, target).refused("path"))
    .collect()
}

fn prefixes() -> Vec<Case> {
    let rule = "path-prefix-option";
    let prefixed = |name: &str, prefix: &str, signed: &str, target: &str| {
        paths(rule, name, signed, target).prefix(prefix)
    };
    vec![
        prefixed(
            "a prefix that was removed",
            "/api",
            "/api/orders/7",
            "/orders/7",
        )
        .accepted(),
        prefixed("two segments", "/api/v1", "/api/v1/orders/7", "/orders/7").accepted(),
        prefixed("the prefix and a slash", "/api", "/api/", "/").accepted(),
        prefixed("the prefix twice in `htu`", "/api", "/api/api/7", "/api/7").accepted(),
        prefixed("two slashes after the prefix", "/api", "/api//7", "//7").accepted(),
        prefixed("an encoded prefix", "/%61pi", "/%61pi/7", "/7").accepted(),
        prefixed("a prefix that was not removed", "/api", "/api/7", "/api/7").refused("path"),
        prefixed("no prefix in `htu`", "/api", "/orders/7", "/orders/7").refused("path"),
        prefixed(
            "a longer segment in `htu`",
            "/api",
            "/apiorders/7",
            "/orders/7",
        )
        .refused("path"),
        prefixed("the prefix alone in `htu`", "/api", "/api", "/").refused("path"),
        prefixed("the prefix in upper case", "/api", "/API/7", "/7").refused("path"),
        prefixed("the prefix with an escape", "/api", "/%61pi/7", "/7").refused("path"),
        prefixed("the prefix at the end", "/api", "/7/api", "/7").refused("path"),
        prefixed("another path after the prefix", "/api", "/api/8", "/7").refused("path"),
        paths(rule, "a prefix without the option", "/api/7", "/7").refused("path"),
    ]
}

/// Creates a draft whose assertion is for the query `signed`, and whose request has the query
/// `received`.
fn query(name: &str, signed: Option<&str>, received: Option<&str>) -> Draft {
    let mut draft = case("query", name);
    if let Some(signed) = signed {
        draft = draft.claim("htq", hash(signed.as_bytes()));
    }
    match received {
        Some(received) => draft.target(&format!("/orders/7?{received}")),
        None => draft,
    }
}

fn queries() -> Vec<Case> {
    [
        ("a query", "x=1"),
        ("an empty query", ""),
        ("several parameters", "a=1&b=2&a=3"),
        ("a question mark in the query", "a?b"),
        ("a question mark only", "?"),
        ("an ampersand at the end", "x=1&"),
        ("an encoded space", "x=a%20b"),
        ("a plus sign", "x=a+b"),
        ("a semicolon", "a=1;b=2"),
        ("a slash", "next=/orders/8"),
        ("letters outside ASCII", "x=caf%C3%A9"),
        ("a percent sign without digits", "x=100%"),
        ("an encoded number sign", "x=%23"),
        ("no equals sign", "x"),
    ]
    .into_iter()
    .map(|(name, text)| query(name, Some(text), Some(text)).accepted())
    .collect()
}

fn other_queries() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        ("no query in the request", Some("x=1"), None),
        ("no query in the assertion", None, Some("x=1")),
        ("a question mark in the request only", None, Some("")),
        ("a question mark in the assertion only", Some(""), None),
        ("an empty query instead of another", Some("x=1"), Some("")),
        ("another instead of an empty query", Some(""), Some("x=1")),
        ("another value", Some("x=1"), Some("x=2")),
        ("another order", Some("a=1&b=2"), Some("b=2&a=1")),
        ("another parameter", Some("x=1"), Some("x=1&admin=1")),
        (
            "an ampersand at the end of the query",
            Some("x=1"),
            Some("x=1&"),
        ),
        (
            "a plus sign instead of an encoded space",
            Some("x=a%20b"),
            Some("x=a+b"),
        ),
        ("an encoded letter", Some("x=a"), Some("x=%61")),
        ("an escape in lower case", Some("x=%2F"), Some("x=%2f")),
        (
            "an upper-case letter in the query",
            Some("x=a"),
            Some("X=a"),
        ),
        ("an equals sign at the end", Some("x"), Some("x=")),
        ("the hash with the question mark", Some("?x=1"), Some("x=1")),
        ("a second question mark", Some("x=1"), Some("?x=1")),
    ]
    .into_iter()
    .map(|(name, signed, received)| query(name, signed, received).refused("query"))
    .collect();
    let with_hash = |name: &str, hash: &str, target: &str| {
        case("query", name)
            .claim("htq", hash)
            .target(target)
            .refused("query")
    };
    let right = hash(b"x=4");
    assert!(right.contains(['-', '_']), "{right}");
    let hexadecimal: String = sha256(b"x=4")
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    cases.extend([
        with_hash("an empty `htq` without a query", "", "/orders/7"),
        with_hash("an empty `htq` with an empty query", "", "/orders/7?"),
        with_hash("an empty `htq` with a query", "", "/orders/7?x=4"),
        with_hash("`htq` with padding", &format!("{right}="), "/orders/7?x=4"),
        with_hash(
            "`htq` in the other base64 alphabet",
            &right.replace('-', "+").replace('_', "/"),
            "/orders/7?x=4",
        ),
        with_hash("`htq` in hexadecimal", &hexadecimal, "/orders/7?x=4"),
        with_hash("the beginning of `htq`", &right[..42], "/orders/7?x=4"),
        with_hash("the query itself as `htq`", "x=4", "/orders/7?x=4"),
    ]);
    cases
}
