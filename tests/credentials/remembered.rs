//! What is remembered of tokens, what makes the gateway forget it, and how long
//! keys of an issuer that is gone are good.

use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::{
    Answer, Credentials, Echo, Fault, Gateway, Idp, Settings, TestCa, TokenKey, in_time,
};
use serde_json::json;
use tokio::process::Command;

use super::{BINARY, CALLER, HOST, ask, claims, refused};

/// An issuer that is asked about each token once an hour, and a gateway with a
/// socket for its operators.
struct World {
    ca: TestCa,
    idp: Idp,
    key: TokenKey,
    _echo: Echo,
    gateway: Gateway,
    caller: Credentials,
    token: String,
}

impl World {
    async fn new() -> Self {
        let ca = TestCa::new("example.org");
        let idp = Idp::start_tls(&ca.server(&["localhost"])).await;
        let key = TokenKey::new("one");
        idp.publish(&[&key]);
        let echo = Echo::start().await;
        let secret = ca.write("secret", "not-a-very-good-secret\n");
        let settings = Settings::new(&ca)
            .set("admin", "socket", "\"admin.sock\"")
            .set("deny_list", "file", "\"deny.json\"")
            .section(&format!(
                "[[token_issuer]]\nname = \"corporate\"\nissuer = \"{}\"\n\
                 audience = [\"orders-api\"]\nroots = [\"{}\"]\nremember_accepted = \"1h\"\n\
                 last_good = \"1m\"\n[token_issuer.introspection]\nendpoint = \"{}\"\n\
                 client_id = \"gateway\"\nauthentication = \"basic\"\nsecret_file = \"{}\"",
                idp.issuer(),
                ca.root_file().display(),
                idp.url(Idp::INTROSPECTION),
                secret.display()
            ))
            .upstream("orders", echo.address())
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
            );
        let caller = ca.client(CALLER);
        let said = claims(&caller, &idp.issuer(), json!({}));
        let mut active = said.clone();
        active["active"] = json!(true);
        idp.introspect_as(active);
        Self {
            gateway: Gateway::start(BINARY, &settings).await,
            token: key.sign(&said),
            ca,
            idp,
            key,
            _echo: echo,
            caller,
        }
    }

    async fn ask(&self, path: &str, token: &str) -> Answer {
        ask(&self.gateway.client(HOST).with(&self.caller), path, token).await
    }

    /// Lets the token in, and says whether its issuer was asked for that.
    async fn asks(&self) -> bool {
        let before = self.idp.count(Idp::INTROSPECTION);
        let answer = self.ask("/a", &self.token).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.idp.count(Idp::INTROSPECTION) > before
    }

    /// Waits until it is forgotten what is known, and then known again.
    async fn forgets(&self, why: &str) {
        in_time(why, async {
            while !self.asks().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(!self.asks().await, "{why}: it is remembered again");
    }

    /// Runs one of the operators' commands, and returns what it printed.
    async fn operate(&self, words: &[&str]) -> serde_json::Value {
        let output = Command::new(BINARY)
            .arg("--json")
            .args(words)
            .arg("--config")
            .arg(self.gateway.config_file())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[tokio::test]
async fn whatever_could_matter_makes_the_gateway_ask_again() {
    let world = World::new().await;
    assert!(world.asks().await);
    assert!(!world.asks().await, "it is remembered");

    let other = world.ca.spiffe("/ns/shop/sa/other");
    let added = world.operate(&["deny", "add", "--identity", &other]).await;
    world.forgets("an entry more on the deny list").await;
    let id = added["id"].as_str().unwrap();
    world.operate(&["deny", "remove", id]).await;
    world.forgets("an entry less on the deny list").await;

    // The caller itself: no token helps it meanwhile, and none is known afterwards.
    let added = world
        .operate(&["deny", "add", "--identity", &world.ca.spiffe(CALLER)])
        .await;
    let client = world.gateway.client(HOST).with(&world.caller);
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
    let issuer = world.idp.issuer();
    let fresh = next.sign(&claims(&world.caller, &issuer, json!({"jti": "next"})));
    in_time("the new key", async {
        while world.ask("/keys", &fresh).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    world.forgets("a key more").await;
}

/// The issuer is gone for longer than its keys are good: that is said, and it is
/// not the token's fault. It takes the shortest `last_good` there is, a minute.
#[tokio::test]
async fn keys_of_an_issuer_that_stays_away_end() {
    let begun = Instant::now();
    let world = World::new().await;
    assert_eq!(world.ask("/keys", &world.token).await.status, 200);
    for path in [Idp::KEYS, Idp::METADATA, Idp::OPENID] {
        world.idp.fault(path, Fault::Hangup);
    }
    let gone = Instant::now();
    let mut good = 0;
    let answer = loop {
        // Each token is a new one: what is remembered is another matter.
        let claims = claims(
            &world.caller,
            &world.idp.issuer(),
            json!({"jti": format!("number {good}")}),
        );
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
    // They were confirmed after the beginning; times are in whole seconds.
    assert!(
        begun.elapsed() > Duration::from_secs(58),
        "{good} were good"
    );
    // Nor does it help to have been let in before.
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

/// Keys are asked for again, and new ones found, although nobody brings a token.
#[tokio::test]
async fn keys_are_kept_fresh_while_nobody_asks() {
    let world = World::new().await;
    assert_eq!(world.ask("/keys", &world.token).await.status, 200);
    assert_eq!(world.idp.count(Idp::KEYS), 1);
    let next = TokenKey::new("two");
    world.idp.publish(&[&world.key, &next]);
    // Before half of the minute is over for which they may be used.
    let begun = Instant::now();
    while world.idp.count(Idp::KEYS) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(45), "they turn stale");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let claims = claims(&world.caller, &world.idp.issuer(), json!({"jti": "next"}));
    let answer = world.ask("/keys", &next.sign(&claims)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.idp.count(Idp::KEYS), 2, "nothing was fetched for it");
}
