//! The deny list and callers that no certificate names.

use std::ops::Deref;
use std::time::{Duration, Instant};

use countersign_testkit::{Client, Settings, TestCa};
use serde_json::json;
use tokio::process::Command;

use super::api_keys::new_key;
use super::worlds::TokenWorld;
use super::{ask, issuer, refused};
use crate::support::{BINARY, Run, World, get_with, streaming_with};

/// Both kinds of callers without certificate may use the route.
const ROUTE: &str = "paths = [\"/**\"]\ncallers = [\"*\"]\n\
    authenticate = { any = [\"certificate\", \"api-key\"] }";

struct Denying {
    world: World,
    key: String,
}

impl Deref for Denying {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

fn with_a_list(settings: Settings) -> Settings {
    settings
        .optional_certificates()
        .set("admin", "socket", "\"admin.sock\"")
        .set("deny_list", "file", "\"deny.json\"")
}

impl Denying {
    /// `more` are further lines of the key's entry.
    async fn open(more: &str) -> Self {
        let ca = TestCa::new("example.org");
        let (key, entry) = new_key(ca.directory(), &[]);
        let world = World::of(ca, |settings, ca, echo| {
            let hmac = ca.directory().join("api-keys.hmac");
            with_a_list(settings)
                .section(&format!("[api_keys]\nhmac_key = {hmac:?}\n{entry}\n{more}"))
                .upstream("orders", echo)
                .route("orders", "orders", ROUTE)
        })
        .await;
        Self { world, key }
    }

    async fn with_key(&self, client: &Client) -> countersign_testkit::Answer {
        let request = get_with("/a", &[("x-api-key", &self.key)]);
        client.send(request).await.unwrap()
    }
}

impl World {
    /// Runs `countersign deny` for this gateway.
    async fn run_deny(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(BINARY);
        command.args(["--json", "deny"]).args(arguments);
        command.arg("--config").arg(self.gateway.config_file());
        Run::of_async(&mut command).await
    }
}

#[tokio::test]
async fn an_api_key_is_denied_at_once() {
    let world = Denying::open("").await;
    let client = world.anonymous();
    assert_eq!(world.with_key(&client).await.status, 200);
    let field = format!("X-API-Key: {}\r\n", world.key);
    let mut stream = streaming_with(&client, &field).await;
    let mut idle = client.session().await.unwrap();
    let request = || get_with("/idle", &[("x-api-key", &*world.key)]);
    assert_eq!(idle.send(request()).await.unwrap().status, 200);
    let added = Instant::now();
    let run = world
        .run_deny(&[
            "add",
            "--identity",
            "api-key:batch",
            "--reason",
            "it is public",
        ])
        .await
        .done();
    let rest = stream.read_until(|_| false).await;
    assert!(rest.closed && !rest.octets.ends_with(b"0\r\n\r\n"));
    assert!(
        added.elapsed() < Duration::from_secs(2),
        "{:?}",
        added.elapsed()
    );
    let answer = idle.send(request()).await;
    assert!(!answer.is_ok_and(|answer| answer.status == 200));
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["reason"], "identity-denied", "{line}");
    let answer = world.with_key(&client).await;
    refused(&answer, 403, "identity-denied");
    let said = String::from_utf8_lossy(&answer.body);
    assert!(!said.contains("it is public"), "{said}");
    // Other callers are as before.
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    let id = run.json()["id"].as_str().unwrap().to_owned();
    world.run_deny(&["remove", &id]).await.done();
    assert_eq!(world.with_key(&client).await.status, 200);
}

/// A denied key may be stolen, so that a valid certificate beside it does not help.
#[tokio::test]
async fn a_denied_api_key_is_of_no_use_beside_a_certificate() {
    let mine = "callers = [\"spiffe://example.org/ns/shop/sa/checkout\"]";
    let world = Denying::open(mine).await;
    let client = world.client();
    assert_eq!(world.with_key(&client).await.status, 200);
    world
        .run_deny(&["add", "--identity", "api-key:batch"])
        .await
        .done();
    refused(&world.with_key(&client).await, 403, "identity-denied");
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_client_of_a_token_is_denied() {
    let token = "paths = [\"/**\"]\ncallers = [\"*\"]\n\
        authenticate = { any = [\"certificate\", \"token\"] }\ntoken = { issuer = \"corporate\" }";
    let world = TokenWorld::open(|settings, keys, echo| {
        with_a_list(settings)
            .section(&issuer(keys, "certificate_binding = \"if-present\""))
            .upstream("orders", echo)
            .route("orders", "orders", token)
    })
    .await;
    let app = world.token_with(json!({"cnf": null}));
    let other = world.token_with(json!({"cnf": null, "client_id": "other"}));
    assert_eq!(ask(&world.anonymous(), "/a", &app).await.status, 200);
    let deny = ["add", "--identity", "client:corporate/app"];
    world.run_deny(&deny).await.done();
    let answer = ask(&world.anonymous(), "/a", &app).await;
    refused(&answer, 403, "identity-denied");
    assert_eq!(ask(&world.anonymous(), "/a", &other).await.status, 200);
}

/// A misspelt name denies no caller, and the command says so.
#[tokio::test]
async fn a_name_that_nobody_has_is_noticed() {
    let world = Denying::open("").await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    let known = world.ca.spiffe(crate::support::CALLER);
    for (identity, seen) in [
        (known.as_str(), Some(true)),
        ("spiffe://example.org/ns/shop/sa/chekout", Some(false)),
        ("dns:a.example.org", Some(false)),
        ("api-key:batch", Some(true)),
        ("api-key:bacth", Some(false)),
        ("client:corporate/app", None),
    ] {
        let run = world
            .run_deny(&["add", "--identity", identity])
            .await
            .done();
        assert_eq!(run.json()["seen"].as_bool(), seen, "{identity}");
        let is_noted = run
            .stderr
            .contains("no caller of that name was seen lately");
        assert_eq!(is_noted, seen == Some(false), "{identity}: {}", run.stderr);
    }
    for identity in [
        "api-key:",
        "api-key:a b",
        "client:corporate",
        "client:/app",
        "client:a/",
    ] {
        let run = world.run_deny(&["add", "--identity", identity]).await;
        assert_eq!(run.code, 2, "{identity}: {run:?}");
    }
}
