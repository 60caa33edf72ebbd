//! API keys of callers, with and without a certificate.

use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use countersign_testkit::TestCa;
use serde_json::{Value, json};

use super::refused;
use crate::support::{BINARY, Run, World, assertion_claims, get_with, replace, streaming_with};

/// A gateway with one API key, the key, and the entry of the key in the configuration.
struct ApiKeyWorld {
    world: World,
    key: String,
    entry: String,
}

impl Deref for ApiKeyWorld {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// Makes a key with the command of operators. Returns the key and its entry.
pub(super) fn new_key(directory: &Path, arguments: &[&str]) -> (String, String) {
    let hmac = directory.join("api-keys.hmac");
    let mut command = Command::new(BINARY);
    command.args(["api-key", "new", "batch", "--hmac-key"]);
    let run = Run::of(command.arg(hmac).args(arguments)).done();
    let (key, entry) = run.stdout.split_once('\n').unwrap();
    (key.to_owned(), entry.to_owned())
}

impl ApiKeyWorld {
    /// Starts a gateway with an API key. `arguments` are for `api-key new`, `more` are further
    /// settings of the entry, `section` those of `[api_keys]`, and `route` those of the route.
    async fn with(arguments: &[&str], more: &str, section: &str, route: &str) -> Self {
        let ca = TestCa::new("example.org");
        let (key, entry) = new_key(ca.directory(), arguments);
        let world = World::of(ca, |settings, ca, echo| {
            let hmac = ca.directory().join("api-keys.hmac");
            settings
                .optional_certificates()
                .section(&format!(
                    "[api_keys]\nhmac_key = {hmac:?}\n{section}\n{entry}\n{more}"
                ))
                .upstream("orders", echo)
                .route("orders", "orders", &format!("paths = [\"/**\"]\n{route}"))
        })
        .await;
        Self { world, key, entry }
    }

    async fn ask(&self, certified: bool, fields: &[(&str, &str)]) -> countersign_testkit::Answer {
        let client = if certified {
            self.client()
        } else {
            self.anonymous()
        };
        client.send(get_with("/a", fields)).await.unwrap()
    }
}

const ROUTE: &str = "callers = [\"api-key:batch\"]\nauthenticate = { all = [\"api-key\"] }";

#[tokio::test]
async fn a_key_lets_its_caller_in_and_goes_no_further() {
    let world = ApiKeyWorld::with(&[], "", "", ROUTE).await;
    let answer = world.ask(false, &[("x-api-key", &world.key)]).await;
    let claims = assertion_claims(&answer);
    assert_eq!(claims["sub"], "api-key:batch");
    assert_eq!(claims["authn"]["methods"], json!(["api-key"]));
    assert!(claims.get("client_cert").is_none() && claims.get("token").is_none());
    let names = answer.received_names();
    assert!(!names.iter().any(|name| name.contains("api")), "{names:?}");
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(
        (&line["caller"], &line["methods"]),
        (&json!("api-key:batch"), &json!("api-key"))
    );
    assert_eq!(line["api_key"].as_str().unwrap().len(), 16, "{line}");
    let everything = format!("{}{}", world.gateway.audit().text(), world.gateway.stderr());
    assert!(!everything.contains(&world.key[20..]));
}

#[tokio::test]
async fn other_keys_are_refused_with_a_challenge() {
    let world = ApiKeyWorld::with(&[], "", "", ROUTE).await;
    let (stranger, _) = new_key(world.ca.directory(), &[]);
    let mut wrong = world.key.clone();
    let last = if wrong.pop() == Some('A') { 'E' } else { 'A' };
    wrong.push(last);
    for (fields, status, reason) in [
        (vec![], 401, "token-missing"),
        (vec![("x-api-key", "nonsense")], 401, "token-malformed"),
        (vec![("x-api-key", &*stranger)], 401, "token-signature"),
        (vec![("x-api-key", &*wrong)], 401, "token-signature"),
        (
            vec![("x-api-key", &*world.key), ("x-api-key", &*world.key)],
            400,
            "malformed-request",
        ),
        // The valid key is in a header field with a similar name.
        (vec![("x_api_key", &*world.key)], 401, "token-missing"),
    ] {
        let answer = world.ask(false, &fields).await;
        refused(&answer, status, reason);
        let challenge = answer.header("www-authenticate").unwrap();
        assert_eq!(challenge, "ApiKey header=\"x-api-key\"");
    }
    // A certificate does not replace an API key, and an API key does not replace a certificate.
    refused(&world.ask(true, &[]).await, 401, "token-missing");
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn a_key_is_good_for_its_routes_networks_and_time() {
    for (arguments, more, status) in [
        (
            &["--route", "orders", "--network", "127.0.0.0/8"][..],
            "",
            200,
        ),
        (&["--network", "10.0.0.0/8"], "", 403),
        (&[], "expires = 2020-01-01T00:00:00Z", 401),
        (&["--expires", "1h"], "", 200),
    ] {
        let world = ApiKeyWorld::with(arguments, more, "", ROUTE).await;
        let answer = world.ask(false, &[("x-api-key", &world.key)]).await;
        assert_eq!(answer.status, status, "{arguments:?} {more} {answer:?}");
    }
}

#[tokio::test]
async fn keys_beside_certificates_name_one_caller() {
    let all = "callers = [\"*\"]\nauthenticate = { all = [\"certificate\", \"api-key\"] }";
    let any = "callers = [\"*\"]\nauthenticate = { any = [\"certificate\", \"api-key\"] }";
    let mine = "callers = [\"spiffe://example.org/ns/shop/sa/checkout\"]";
    let theirs = "callers = [\"spiffe://example.org/ns/shop/sa/other\"]";
    let spiffe = json!("spiffe://example.org/ns/shop/sa/checkout");
    for (route, more, both) in [
        (all, "", Some(&spiffe)),
        (all, mine, Some(&spiffe)),
        (all, theirs, None),
        (any, "", None),
        (any, mine, Some(&spiffe)),
        (any, theirs, None),
    ] {
        let world = ApiKeyWorld::with(&[], more, "", route).await;
        let key = [("x-api-key", &*world.key)];
        let answer = world.ask(true, &key).await;
        match both {
            Some(name) => {
                let claims = assertion_claims(&answer);
                assert_eq!(claims["sub"], *name);
                assert_eq!(
                    claims["authn"]["methods"],
                    json!(["certificate", "api-key"])
                );
            }
            None => refused(&answer, 403, "caller-not-allowed"),
        }
        let alone: Vec<Value> = [world.ask(true, &[]).await, world.ask(false, &key).await]
            .iter()
            .map(|answer| match answer.status {
                200 => assertion_claims(answer)["sub"].clone(),
                _ => json!(answer.reason()),
            })
            .collect();
        let expected = if route == all {
            [json!("token-missing"), json!("no-certificate")]
        } else {
            [spiffe.clone(), json!("api-key:batch")]
        };
        assert_eq!(alone, expected, "{route} {more}");
    }
}

#[tokio::test]
async fn the_field_can_have_another_name_and_is_never_forwarded() {
    let route = "callers = [\"*\"]\nauthenticate = { any = [\"certificate\", \"api-key\"] }";
    let world = ApiKeyWorld::with(&[], "", "header = \"X-Service-Key\"", route).await;
    let answer = world.ask(false, &[("x-service-key", &world.key)]).await;
    assert_eq!(assertion_claims(&answer)["sub"], "api-key:batch");
    for name in ["x_service_key", "x-service.key"] {
        let answer = world.ask(true, &[(name, "anything")]).await;
        assert_eq!(answer.status, 200);
        let names = answer.received_names();
        assert!(
            !names.iter().any(|name| name.contains("service")),
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn a_removed_key_ends_the_requests_that_used_it() {
    let world = ApiKeyWorld::with(&[], "", "", ROUTE).await;
    let field = format!("X-API-Key: {}\r\n", world.key);
    let mut connection = streaming_with(&world.anonymous(), &field).await;
    let file = world.gateway.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(&world.entry));
    let (_, other) = new_key(world.ca.directory(), &[]);
    replace(&file, text.replace(&world.entry, &other));
    let rest = connection.read_until(|_| false).await;
    assert!(rest.closed);
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["reason"], "token-signature", "{line}");
    assert_eq!(line["complete"], false, "{line}");
}

/// A client that knows only the public part of a key must not use up the allowance of the key.
#[tokio::test]
async fn each_key_has_an_allowance_that_only_it_uses_up() {
    let limit = "rate_limit = { per = \"api-key\", requests = 1, window = \"1h\" }";
    let world = ApiKeyWorld::with(&[], "", "", &format!("{ROUTE}\n{limit}")).await;
    let mut forged = world.key.clone();
    let last = if forged.pop() == Some('A') { 'E' } else { 'A' };
    forged.push(last);
    for _ in 0..3 {
        let answer = world.ask(false, &[("x-api-key", &forged)]).await;
        refused(&answer, 401, "token-signature");
    }
    let own = [("x-api-key", &*world.key)];
    assert_eq!(world.ask(false, &own).await.status, 200);
    let answer = world.ask(false, &own).await;
    refused(&answer, 429, "rate-limited");
    let policy = answer.header("ratelimit-policy");
    assert_eq!(policy, Some("\"api-key\";q=1;w=3600"));
}

/// Returns a PROXY header of version 2 with this IPv4 source address.
fn proxy_header(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(source);
    header.extend([127, 0, 0, 1, 0x15, 0xb3, 0x01, 0xbb]);
    header
}

/// `networks` is compared with the address that a load balancer names, `connection_networks` with
/// the load balancer's own.
#[tokio::test]
async fn behind_a_balancer_a_key_can_demand_both_addresses() {
    let named = proxy_header([192, 0, 2, 7]);
    // LOCAL, and PROXY with the family UNSPEC: the balancer names no address.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0".to_vec();
    let balancer = "127.0.0.0/8";
    let both = |connection| {
        [
            "--network",
            "192.0.2.0/24",
            "--connection-network",
            connection,
        ]
    };
    for (arguments, with_address, without) in [
        (&["--network", "192.0.2.0/24"][..], 200, 403),
        (&["--network", balancer], 403, 403),
        (&["--network", "0.0.0.0/0", "--network", "::/0"], 200, 403),
        (&["--connection-network", balancer], 200, 200),
        (&["--connection-network", "192.0.2.0/24"], 403, 403),
        (&both("127.0.0.1/32"), 200, 403),
        (&both("127.0.0.2/32"), 403, 403),
    ] {
        let ca = TestCa::new("example.org");
        let (key, entry) = new_key(ca.directory(), arguments);
        let world = World::of(ca, |settings, ca, echo| {
            let hmac = ca.directory().join("api-keys.hmac");
            settings
                .optional_certificates()
                .set("listener", "proxy_protocol", "[\"127.0.0.0/8\"]")
                .section(&format!("[api_keys]\nhmac_key = {hmac:?}\n{entry}"))
                .upstream("orders", echo)
                .route("orders", "orders", &format!("paths = [\"/**\"]\n{ROUTE}"))
        })
        .await;
        for (header, status) in [
            (&named, with_address),
            (&local, without),
            (&unspecified, without),
        ] {
            let client = world.anonymous().preface(header);
            let answer = client.send(get_with("/a", &[("x-api-key", &key)])).await;
            let answer = answer.unwrap();
            assert_eq!(answer.status, status, "{arguments:?} {answer:?}");
            if status == 403 {
                assert_eq!(answer.reason(), Some("caller-not-allowed"));
            }
        }
    }
}
