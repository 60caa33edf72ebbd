//! Cases about the presence and the type of each claim, the issuer, the audience, and the name of
//! the caller.

use serde_json::{Value, json};

use super::case::{AUDIENCE, Case, Draft, ISSUER, SUBJECT, case, claims};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = required();
    cases.extend(types());
    cases.extend(times_that_are_no_whole_numbers());
    cases.extend(issuers());
    cases.extend(audiences());
    cases.extend(subjects());
    cases.extend(certificates());
    cases.extend(authentications());
    cases.extend(tokens());
    cases
}

fn required() -> Vec<Case> {
    let mut cases: Vec<Case> = ["iss", "aud", "sub", "iat", "exp", "authn"]
        .into_iter()
        .map(|claim| {
            case("claim-types", format!("no `{claim}`"))
                .without(&[claim])
                .refused("claims")
        })
        .collect();
    cases.push(
        case("claim-types", "an empty object as payload")
            .claims(|claims| *claims = json!({}))
            .refused("claims"),
    );
    cases
}

fn types() -> Vec<Case> {
    let values = [
        ("iss", json!(null)),
        ("iss", json!([ISSUER])),
        ("iss", json!({"url": ISSUER})),
        ("aud", json!(null)),
        ("aud", json!([AUDIENCE])),
        ("aud", json!([AUDIENCE, "payments"])),
        ("aud", json!([])),
        ("aud", json!(true)),
        ("sub", json!(null)),
        ("sub", json!(7)),
        ("sub", json!([SUBJECT])),
        ("sub", json!({"uri": SUBJECT})),
        ("jti", json!(7)),
        ("jti", json!(["dQ3mGx9eS1mJ7lB2h0Qy3A"])),
        ("txn", json!(7)),
        ("htm", json!(["GET"])),
        ("htm", json!(true)),
        ("htu", json!(["https://orders.example.org/orders/7"])),
        ("htu", json!({"path": "/orders/7"})),
        ("htq", json!(false)),
        ("htq", json!([])),
        ("htb", json!(0)),
        ("htb", json!({})),
        ("authn", json!(null)),
        ("authn", json!("certificate")),
        ("client_cert", json!("MIIB")),
        ("client_cert", json!(false)),
        ("token", json!("eyJhbGciOiJFUzI1NiJ9")),
        ("token", json!([])),
    ];
    values
        .into_iter()
        .map(|(claim, value)| {
            case("claim-types", format!("`{claim}` is {value}"))
                .claim(claim, value)
                .refused("claims")
        })
        .collect()
}

/// Returns cases in which `iat` or `exp` is not a non-negative integer.
fn times_that_are_no_whole_numbers() -> Vec<Case> {
    let forms = |claim: &'static str, good: &'static str, forms: &[&str]| {
        forms
            .iter()
            .map(|form| {
                case("claim-types", format!("`{claim}` is {form}"))
                    .replaced(
                        &format!(r#""{claim}":{good}"#),
                        &format!(r#""{claim}":{form}"#),
                    )
                    .refused("claims")
            })
            .collect::<Vec<_>>()
    };
    let mut cases = forms(
        "iat",
        "1770000000",
        &[
            "1770000000.0",
            "1769999999.5",
            "1.77e9",
            "177E7",
            "-1",
            "-1770000000",
            "\"1770000000\"",
            "null",
            "true",
            "[1770000000]",
            "{}",
        ],
    );
    cases.extend(forms(
        "exp",
        "1770000030",
        &[
            "1770000030.0",
            "1770000030.5",
            "1.77000003e9",
            "177000003E1",
            "-1770000030",
            "\"1770000030\"",
            "\"\"",
            "null",
            "false",
            "[]",
            "18446744073709551616",
            "99999999999999999999999999",
            "1e30",
        ],
    ));
    cases
}

fn issuers() -> Vec<Case> {
    let rule = "issuer";
    let mut cases: Vec<Case> = [
        (
            "a slash at the end of `iss`",
            "https://gateway.example.org:9080/",
        ),
        ("`iss` in upper case", "https://GATEWAY.example.org:9080"),
        (
            "`iss` with another scheme in upper case",
            "HTTPS://gateway.example.org:9080",
        ),
        ("`iss` over http", "http://gateway.example.org:9080"),
        ("`iss` without its port", "https://gateway.example.org"),
        (
            "`iss` with another port",
            "https://gateway.example.org:9081",
        ),
        ("`iss` with a path", "https://gateway.example.org:9080/a"),
        ("`iss` without a scheme", "gateway.example.org:9080"),
        (
            "`iss` with a space at the end",
            "https://gateway.example.org:9080 ",
        ),
        ("`iss` with a query", "https://gateway.example.org:9080?"),
        ("another gateway", "https://gateway.example.com:9080"),
        ("an empty `iss`", ""),
    ]
    .into_iter()
    .map(|(name, issuer)| case(rule, name).claim("iss", issuer).refused("issuer"))
    .collect();
    let configured = |name: &str, configured: &str, claim: &str| {
        let configured = configured.to_owned();
        case(rule, name)
            .options(|options| options.issuer = configured)
            .claim("iss", claim)
    };
    cases.extend([
        configured(
            "a slash at the end of the configured issuer",
            "https://gateway.example.org:9080/",
            ISSUER,
        )
        .refused("issuer"),
        configured(
            "a slash at the end of both",
            "https://g.example/",
            "https://g.example/",
        )
        .accepted(),
        configured(
            "an issuer with a path",
            "https://g.example/a/b",
            "https://g.example/a/b",
        )
        .accepted(),
        configured(
            "upper case in both",
            "https://G.example",
            "https://G.example",
        )
        .accepted(),
    ]);
    cases
}

fn audiences() -> Vec<Case> {
    let rule = "audience";
    let mut cases: Vec<Case> = [
        ("another audience", "payments"),
        ("`aud` with an upper-case letter", "Orders"),
        ("`aud` with a space at the end", "orders "),
        ("`aud` with a space at the beginning", " orders"),
        ("a longer `aud`", "orders-admin"),
        ("a shorter `aud`", "order"),
        ("two audiences in one text", "orders,payments"),
        ("two audiences with a space", "orders payments"),
        ("`*` as audience", "*"),
        ("an empty `aud`", ""),
        ("the issuer as audience", ISSUER),
    ]
    .into_iter()
    .map(|(name, audience)| case(rule, name).claim("aud", audience).refused("audience"))
    .collect();
    let configured = |name: &str, configured: &str, claim: &str| {
        let configured = configured.to_owned();
        case(rule, name)
            .options(|options| options.audience = configured)
            .claim("aud", claim)
    };
    cases.extend([
        configured(
            "a URI as audience",
            "https://orders.example.org/",
            "https://orders.example.org/",
        )
        .accepted(),
        configured(
            "a URI without its last slash",
            "https://orders.example.org/",
            "https://orders.example.org",
        )
        .refused("audience"),
        configured("an audience with spaces", "order service", "order service").accepted(),
    ]);
    cases
}

/// Returns a draft for a caller without a certificate.
fn without_certificate(rule: &str, name: &str, subject: &str, method: &str) -> Draft {
    let authn = json!({"methods": [method], "at": 1_770_000_000_u64, "resumed": false});
    case(rule, name)
        .without(&["client_cert"])
        .claim("sub", subject)
        .claim("authn", authn)
}

fn subjects() -> Vec<Case> {
    let rule = "sub";
    let named = |name: &str, subject: &str| case(rule, name).claim("sub", subject).accepted();
    let mut cases = vec![
        named("a SPIFFE ID", "spiffe://example.org/a"),
        named("another URI", "https://example.org/id?a=1#b"),
        named(
            "a URI in upper case, verbatim",
            "SPIFFE://Example.org/A%2fB",
        ),
        named("a DNS name", "dns:worker-7.example.org"),
        named("an e-mail address", "mailto:ops@example.org"),
        named("an IPv4 address", "ip:192.0.2.7"),
        named("an IPv6 address", "ip:2001:db8::7"),
        without_certificate(rule, "an API key", "api-key:nightly", "api-key").accepted(),
        without_certificate(
            rule,
            "an OAuth client",
            "client:corp/nightly export",
            "token",
        )
        .claim(
            "token",
            json!({"iss": "https://idp.example.org", "client_id": "nightly export"}),
        )
        .accepted(),
    ];
    // The subject of the token is never the name of the caller.
    cases.push(
        case(rule, "a token with another subject")
            .claim(
                "token",
                json!({"iss": "https://idp.example.org", "sub": "alice"}),
            )
            .accepted(),
    );
    cases
}

/// Returns a refused case in which the member at `pointer` has the value `value`. If `value` is
/// `None`, the member is removed.
fn nested(rule: &str, pointer: &str, value: Option<Value>) -> Case {
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    let dotted = pointer.trim_start_matches('/').replace('/', ".");
    let name = match &value {
        Some(value) => format!("`{dotted}` is {value}"),
        None => format!("no `{dotted}`"),
    };
    case(rule, name)
        .claims(|claims| {
            let members = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            match value {
                Some(value) => members.insert(member.to_owned(), value),
                None => members.remove(member),
            };
        })
        .refused("claims")
}

fn certificates() -> Vec<Case> {
    let rule = "client-cert";
    let certificate = claims()["client_cert"].clone();
    let positions = json!([
        certificate["x5t#S256"],
        certificate["serial"],
        certificate["issuer"],
        certificate["not_before"],
        certificate["not_after"],
        certificate["sans"],
        certificate["anchor"],
        false
    ]);
    let name = |index: u32| json!(format!("n{index}.example.org"));
    vec![
        case(rule, "names of all types")
            .claims(|claims| {
                claims["client_cert"]["sans"] = json!({
                    "uri": [SUBJECT, "https://example.org/a"],
                    "dns": ["worker-7.example.org", "*.example.org"],
                    "email": ["ops@example.org"],
                    "ip": ["192.0.2.7", "2001:db8::7"]
                });
            })
            .accepted(),
        case(rule, "more than 16 names")
            .claims(|claims| {
                claims["client_cert"]["sans"]["dns"] = (0..16).map(name).collect();
                claims["client_cert"]["sans_truncated"] = json!(true);
            })
            .accepted(),
        case(rule, "names and issuer that were left out")
            .claims(|claims| {
                claims["client_cert"]["sans"]["uri"] = json!([]);
                claims["client_cert"]["sans_truncated"] = json!(true);
                claims["client_cert"]["issuer"] = json!("");
                claims["client_cert"]["issuer_truncated"] = json!(true);
            })
            .accepted(),
        case(rule, "an issuer name with escapes")
            .claims(|claims| {
                claims["client_cert"]["issuer"] = json!(r#"CN=Müller \"A\"\, Ltd\\,O=例"#);
            })
            .accepted(),
        nested(rule, "/client_cert/x5t#S256", None),
        nested(rule, "/client_cert/x5t#S256", Some(json!(7))),
        nested(rule, "/client_cert/serial", Some(json!(660_268))),
        nested(rule, "/client_cert/issuer", Some(json!({"CN": "x"}))),
        nested(rule, "/client_cert/not_before", Some(json!("2026-02-02"))),
        nested(rule, "/client_cert/not_after", Some(json!(1_770_086_100.5))),
        nested(rule, "/client_cert/sans", Some(json!("dns:a.example.org"))),
        nested(rule, "/client_cert/sans/uri", Some(json!(SUBJECT))),
        nested(rule, "/client_cert/sans/dns", Some(json!([7]))),
        nested(rule, "/client_cert/anchor", None),
        nested(rule, "/client_cert/sans_truncated", Some(json!("true"))),
        case(rule, "an array of the certificate's values")
            .claim("client_cert", positions)
            .refused("claims"),
        nested(
            rule,
            "/client_cert/sans",
            Some(json!([[SUBJECT], [], [], []])),
        ),
    ]
}

fn authentications() -> Vec<Case> {
    let rule = "authn";
    let with = |name: &str, change: fn(&mut Value)| {
        case(rule, name)
            .claims(|claims| change(&mut claims["authn"]))
            .accepted()
    };
    let positions = json!([
        ["certificate"],
        "example.org",
        "checked",
        null,
        1_770_000_000_u64,
        false
    ]);
    vec![
        with("a resumed session", |authn| {
            authn["resumed"] = json!(true);
            authn["at"] = json!(1_769_990_000_u64);
        }),
        with("several methods", |authn| {
            authn["methods"] = json!(["certificate", "token", "api-key"]);
        }),
        with("revocation lists that were tolerated", |authn| {
            authn["revocation"] = json!("soft");
        }),
        with("no revocation check", |authn| {
            authn["revocation"] = json!("off")
        }),
        with("the time of the revocation list", |authn| {
            authn["crl_this_update"] = json!(1_769_996_400_u64);
        }),
        with("another trust domain", |authn| {
            authn["trust_domain"] = json!("partner.example");
        }),
        case(rule, "the certificate's thumbprint alone")
            .without(&["client_cert"])
            .claims(|claims| {
                claims["authn"]["x5t#S256"] = json!("A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0");
            })
            .accepted(),
        without_certificate(
            rule,
            "no trust domain without a certificate",
            "api-key:a",
            "api-key",
        )
        .accepted(),
        nested(rule, "/authn/methods", None),
        nested(rule, "/authn/methods", Some(json!("certificate"))),
        nested(rule, "/authn/methods", Some(json!([1]))),
        nested(rule, "/authn/trust_domain", Some(json!(["example.org"]))),
        nested(rule, "/authn/revocation", Some(json!(true))),
        nested(rule, "/authn/revocation", Some(json!({"checked": null}))),
        nested(rule, "/authn/crl_this_update", Some(json!("1769996400"))),
        nested(rule, "/authn/at", None),
        nested(rule, "/authn/at", Some(json!("now"))),
        nested(rule, "/authn/at", Some(json!(-1))),
        nested(rule, "/authn/resumed", None),
        nested(rule, "/authn/resumed", Some(json!(0))),
        case(rule, "an array of the values of `authn`")
            .claim("authn", positions)
            .refused("claims"),
    ]
}

fn tokens() -> Vec<Case> {
    let rule = "token";
    let token = json!({
        "iss": "https://idp.example.org",
        "sub": "alice",
        "client_id": "web",
        "scope": "orders:read orders:write",
        "jti": "7",
        "ath": "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
    });
    let mut forwarded = token.clone();
    forwarded["groups"] = json!(["buyers", {"id": 7}]);
    forwarded["tenant"] = json!(null);
    let given = |name: &str, token: Value| case(rule, name).claim("token", token);
    vec![
        given("a token with all claims", token).accepted(),
        given("a token with forwarded claims", forwarded).accepted(),
        given(
            "a token with its issuer only",
            json!({"iss": "https://idp.example.org"}),
        )
        .accepted(),
        given("a token without its issuer", json!({"sub": "alice"})).refused("claims"),
        given("a token whose issuer is a number", json!({"iss": 1})).refused("claims"),
        given(
            "a token whose scope is an array",
            json!({"iss": "https://idp.example.org", "scope": ["a"]}),
        )
        .refused("claims"),
        given(
            "a token whose subject is a number",
            json!({"iss": "https://idp.example.org", "sub": 7}),
        )
        .refused("claims"),
    ]
}
