//! The cache of tokens: what empties the cache, and how long the gateway may use the keys of an
//! unreachable issuer.

use std::ops::Deref;
use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::{Answer, Fault, Idp, TokenKey, in_time, until};
use serde_json::json;
use tokio::process::Command;

use super::worlds::{Issuer, IssuerWorld, remote_issuer};
use super::{ask, refused};
use crate::support::{BINARY, CALLER, Run};

/// A gateway with a socket for operators. It caches the introspection result of a token for one
/// hour.
struct Remembering {
    world: IssuerWorld,
    token: String,
}

impl Deref for Remembering {
    type Target = IssuerWorld;

    fn deref(&self) -> &IssuerWorld {
        &self.world
    }
}

impl Remembering {
    async fn new() -> Self {
        let world = IssuerWorld::of(Issuer::new().await, |settings, ca, idp, echo| {
            let secret = ca.write("secret", "not-a-very-good-secret\n");
            let more = format!(
                "remember_accepted = \"1h\"\nlast_good = \"1m\"\n\
                 [token_issuer.introspection]\nendpoint = \"{}\"\nclient_id = \"gateway\"\n\
                 authentication = \"basic\"\nsecret_file = {secret:?}",
                idp.url(Idp::INTROSPECTION),
            );
            settings
                .set("admin", "socket", "\"admin.sock\"")
                .set("deny_list", "file", "\"deny.json\"")
                .section(&remote_issuer(ca, idp, &more))
                .upstream("orders", echo)
                .route(
                    "orders",
                    "orders",
                    "paths = [\"/a\"]\ncallers = [\"*\"]\n\
                     token = { issuer = \"corporate\", introspect = { once_per = \"1h\" } }",
                )
                .route(
                    "keys",
                    "orders",
                    "paths = [\"/keys\"]\ncallers = [\"*\"]\ntoken = { issuer = \"corporate\" }",
                )
        })
        .await;
        let said = world.claims(json!({}));
        let mut active = said.clone();
        active["active"] = json!(true);
        world.idp.introspect_as(active);
        Self {
            token: world.key.sign(&said),
            world,
        }
    }

    async fn ask(&self, path: &str, token: &str) -> Answer {
        ask(&self.client(), path, token).await
    }

    /// Sends a request with the token. Returns whether the gateway asked the issuer.
    async fn asks(&self) -> bool {
        let before = self.idp.count(Idp::INTROSPECTION);
        let answer = self.ask("/a", &self.token).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.idp.count(Idp::INTROSPECTION) > before
    }

    /// Waits until the cache was emptied, and the token is in the cache again.
    async fn forgets(&self, why: &str) {
        until(why, async || self.asks().await).await;
        assert!(!self.asks().await, "{why}: it is remembered again");
    }

    /// Runs a command of operators. Returns its JSON output.
    async fn operate(&self, words: &[&str]) -> serde_json::Value {
        let mut command = Command::new(BINARY);
        command.arg("--json").args(words).arg("--config");
        let run = Run::of_async(command.arg(self.gateway.config_file())).await;
        run.done().json()
    }
}

#[tokio::test]
async fn whatever_could_matter_makes_the_gateway_ask_again() {
    let world = Remembering::new().await;
    assert!(world.asks().await);
    assert!(!world.asks().await, "it is remembered");

    let other = world.ca.spiffe("/ns/shop/sa/other");
    let added = world.operate(&["deny", "add", "--identity", &other]).await;
    world.forgets("an entry more on the deny list").await;
    let id = added["id"].as_str().unwrap();
    world.operate(&["deny", "remove", id]).await;
    world.forgets("an entry less on the deny list").await;

    // The caller is denied: its token does not help. Afterwards, the cache is empty.
    let added = world
        .operate(&["deny", "add", "--identity", &world.ca.spiffe(CALLER)])
        .await;
    let client = world.client();
    assert_eq!(client.refusal().await.alert(), Some(46));
    let id = added["id"].as_str().unwrap();
    world.operate(&["deny", "remove", id]).await;
    world.forgets("the caller was denied for a while").await;

    world.operate(&["reload"]).await;
    world.forgets("a reload").await;

    let said = world.operate(&["token", "purge"]).await;
    assert_eq!(said["forgotten"], 1, "{said}");
    world.forgets("a purge").await;

    let next = TokenKey::new("two");
    world.idp.publish(&[&world.key, &next]);
    let _issuer = world.idp.issuer();
    let fresh = next.sign(&world.claims(json!({"jti": "next"})));
    in_time("the new key", async {
        while world.ask("/keys", &fresh).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    world.forgets("a key more").await;
}

/// The issuer is unreachable for longer than its keys may be used. The reason code must name
/// this cause and not blame the token. The test takes a minute, the minimum of `last_good`.
#[tokio::test]
async fn keys_of_an_issuer_that_stays_away_end() {
    let begun = Instant::now();
    let world = Remembering::new().await;
    assert_eq!(world.ask("/keys", &world.token).await.status, 200);
    for path in [Idp::KEYS, Idp::METADATA, Idp::OPENID] {
        world.idp.fault(path, Fault::Hangup);
    }
    let gone = Instant::now();
    let mut good = 0;
    let answer = loop {
        // Each token is new, so that the cache has no effect.
        let claims = world.claims(json!({"jti": format!("number {good}")}));
        let answer = world.ask("/keys", &world.key.sign(&claims)).await;
        if answer.status != 200 {
            break answer;
        }
        good += 1;
        assert!(gone.elapsed() < Duration::from_secs(90), "they never end");
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    refused(&answer, 503, "keys-unavailable");
    assert_eq!(answer.header("www-authenticate"), None);
    // The keys were confirmed after `begun`. The gateway counts in whole seconds.
    assert!(
        begun.elapsed() > Duration::from_secs(58),
        "{good} were good"
    );
    // A token that the gateway accepted before is refused too.
    let answer = world.ask("/keys", &world.token).await;
    refused(&answer, 503, "keys-unavailable");
    let ready = plain(world.gateway.admin(), "GET", "/readyz", &[]).await;
    assert!(ready.body.contains("token issuer corporate"), "{ready:?}");
    world.idp.mend();
    in_time("the issuer's return", async {
        while world.ask("/keys", &world.token).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// The gateway fetches keys again and finds new keys, without a request that needs them.
#[tokio::test]
async fn keys_are_refreshed_without_requests() {
    let world = Remembering::new().await;
    assert_eq!(world.ask("/keys", &world.token).await.status, 200);
    assert_eq!(world.idp.count(Idp::KEYS), 1);
    let next = TokenKey::new("two");
    world.idp.publish(&[&world.key, &next]);
    // The gateway must fetch the keys again before they are too old to be used.
    let begun = Instant::now();
    while world.idp.count(Idp::KEYS) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(45), "they turn stale");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let claims = world.claims(json!({"jti": "next"}));
    let answer = world.ask("/keys", &next.sign(&claims)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.idp.count(Idp::KEYS), 2, "nothing was fetched for it");
}
