//! Issuers that are asked over the network: well-behaved, down, slow, lying,
//! rotating their keys.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::{
    Credentials, Echo, Fault, Gateway, Idp, Settings, StartFailure, TestCa, TokenKey, in_time,
};
use serde_json::{Value, json};

use super::{BINARY, CALLER, HOST, ask, assertion, claims, now, refused};

/// An issuer behind TLS, and a gateway that knows it.
struct World {
    /// Its directory has the files that the gateway reads.
    _ca: TestCa,
    idp: Idp,
    key: TokenKey,
    echo: Echo,
    gateway: Gateway,
    caller: Credentials,
}

struct Parts {
    ca: TestCa,
    idp: Idp,
    key: TokenKey,
    echo: Echo,
}

impl Parts {
    async fn new() -> Self {
        let ca = TestCa::new("example.org");
        let idp = Idp::start_tls(&ca.server(&["localhost"])).await;
        let key = TokenKey::new("one");
        idp.publish(&[&key]);
        Self {
            echo: Echo::start().await,
            ca,
            idp,
            key,
        }
    }

    /// `more` are further keys of the issuer, `token` of the route's table.
    fn settings(&self, more: &str, token: &str) -> Settings {
        Settings::new(&self.ca)
            .optional_certificates()
            .section(&format!(
                "[[token_issuer]]\nname = \"corporate\"\nissuer = \"{}\"\n\
                 audience = [\"orders-api\"]\nroots = [\"{}\"]\n{more}\n",
                self.idp.issuer(),
                self.ca.root_file().display()
            ))
            .upstream("orders", self.echo.address())
            .route(
                "orders",
                "orders",
                &format!(
                    "paths = [\"/**\"]\ncallers = [\"*\"]\n\
                     token = {{ issuer = \"corporate\"{token} }}"
                ),
            )
    }

    async fn open(self, more: &str, token: &str) -> World {
        let settings = self.settings(more, token);
        let gateway = Gateway::start(BINARY, &settings).await;
        World {
            caller: self.ca.client(CALLER),
            gateway,
            _ca: self.ca,
            idp: self.idp,
            key: self.key,
            echo: self.echo,
        }
    }
}

impl World {
    async fn with(more: &str, token: &str) -> Self {
        Parts::new().await.open(more, token).await
    }

    fn token(&self) -> String {
        self.signed_by(&self.key)
    }

    /// A new token each time.
    fn signed_by(&self, key: &TokenKey) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        key.sign(&self.claims(json!({"jti": format!("number {number}")})))
    }

    fn claims(&self, changes: Value) -> Value {
        claims(&self.caller, &self.idp.issuer(), changes)
    }

    async fn ask(&self, token: &str) -> countersign_testkit::Answer {
        ask(&self.gateway.client(HOST).with(&self.caller), "/a", token).await
    }

    /// Waits until the issuer was asked for this path so often.
    async fn asked(&self, path: &str, times: usize) {
        in_time("the issuer is asked", async {
            while self.idp.count(path) < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// What an operator is told about the issuer.
    async fn problem(&self) -> Option<String> {
        let ready = plain(self.gateway.admin(), "GET", "/readyz", &[]).await;
        assert_eq!(ready.status, 200, "tokens are not everything");
        let problems = ready.json()["problems"].clone();
        let mut all = problems.as_array().into_iter().flatten();
        let found = all.find(|problem| problem["code"] == "token-issuer-unavailable")?;
        Some(found["detail"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn keys_come_from_where_the_metadata_say() {
    let world = World::with("", "").await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let (metadata, keys) = (world.idp.count(Idp::METADATA), world.idp.count(Idp::KEYS));
    assert_eq!((metadata, keys), (1, 1));
    for _ in 0..20 {
        assert_eq!(world.ask(&world.token()).await.status, 200);
    }
    assert_eq!(world.idp.count(Idp::KEYS), 1);
    assert_eq!(world.problem().await, None);
}

#[tokio::test]
async fn keys_come_from_the_address_that_is_written_down() {
    let parts = Parts::new().await;
    let address = format!("jwks_uri = \"{}\"", parts.idp.url(Idp::KEYS));
    let world = parts.open(&address, "").await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let paths = [Idp::KEYS, Idp::METADATA, Idp::OPENID];
    assert_eq!(paths.map(|path| world.idp.count(path)), [1, 0, 0]);
}

#[tokio::test]
async fn an_issuer_that_is_down_keeps_nobody_from_starting_and_lets_nobody_in() {
    let parts = Parts::new().await;
    parts.idp.fault(Idp::METADATA, Fault::Hangup);
    let world = parts.open("", "").await;
    let token = world.token();
    let answer = world.ask(&token).await;
    refused(&answer, 503, "keys-unavailable");
    assert_eq!(answer.header("www-authenticate"), None);
    let problem = world.problem().await.unwrap();
    assert!(
        problem.contains("corporate") && problem.contains("keys"),
        "{problem}"
    );
    assert_eq!(world.echo.requests(), 0);
    // It was not remembered that the token could not be checked.
    world.idp.mend();
    in_time("the keys", async {
        while world.ask(&token).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(world.problem().await, None);
}

#[tokio::test]
async fn a_required_issuer_has_to_be_there_at_start() {
    let parts = Parts::new().await;
    let settings = parts.settings("required_at_start = true", "");
    Gateway::start(BINARY, &settings).await;
    parts.idp.fault(Idp::KEYS, Fault::Status(500));
    let failure: StartFailure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
    assert_eq!(failure.status.code(), Some(1), "{failure}");
    assert!(
        failure.stderr.contains("token issuer corporate"),
        "{failure}"
    );
    assert!(failure.stderr.contains("status 500"), "{failure}");
}

/// ATTACKS.md 26: no keys is no reason to accept anything.
#[tokio::test]
async fn answers_that_are_none_leave_no_keys_behind() {
    for fault in [
        Fault::Html,
        Fault::ContentType("text/plain".to_owned()),
        Fault::Huge,
        Fault::Status(500),
        Fault::Status(204),
        Fault::Redirect("https://evil.example/keys".to_owned()),
        Fault::Hangup,
        Fault::ManyKeys,
    ] {
        let parts = Parts::new().await;
        parts.idp.fault(Idp::KEYS, fault.clone());
        let world = parts.open("timeout = \"2s\"", "").await;
        let answer = world.ask(&world.token()).await;
        let expected: &[&str] = if fault == Fault::ManyKeys {
            // They are keys, but too many to be a key set, and none is this token's.
            &["keys-unavailable", "token-signature"]
        } else {
            &["keys-unavailable"]
        };
        assert!(
            expected.contains(&answer.reason().unwrap()),
            "{fault:?} {answer:?}"
        );
        assert_eq!(world.echo.requests(), 0);
    }
}

#[tokio::test]
async fn metadata_of_another_issuer_or_pointing_elsewhere_are_not_believed() {
    let stranger = Idp::start().await;
    for document in [
        json!({"issuer": "https://evil.example", "jwks_uri": stranger.url(Idp::KEYS)}),
        json!({"issuer": "ISSUER", "jwks_uri": stranger.url(Idp::KEYS)}),
        json!({"issuer": "ISSUER"}),
        json!({"issuer": "ISSUER", "jwks_uri": 7}),
        json!([]),
    ] {
        let parts = Parts::new().await;
        let text = document.to_string().replace("ISSUER", &parts.idp.issuer());
        parts.idp.describe_as(serde_json::from_str(&text).unwrap());
        let world = parts.open("", "").await;
        refused(&world.ask(&world.token()).await, 503, "keys-unavailable");
        assert_eq!(stranger.count(Idp::KEYS), 0);
    }
}

#[tokio::test]
async fn a_slow_issuer_costs_its_own_tokens_a_bounded_time_and_nobody_else_anything() {
    let parts = Parts::new().await;
    parts
        .idp
        .fault(Idp::METADATA, Fault::Slow(Duration::from_secs(60)));
    let settings = parts.settings("timeout = \"1s\"", "").route(
        "free",
        "orders",
        "paths = [\"/free\"]\ncallers = [\"*\"]",
    );
    let gateway = Gateway::start(BINARY, &settings).await;
    let caller = parts.ca.client(CALLER);
    let client = gateway.client(HOST).with(&caller);
    let token = parts
        .key
        .sign(&claims(&caller, &parts.idp.issuer(), json!({})));
    let waiting = {
        let (client, token) = (client.clone(), token.clone());
        tokio::spawn(async move { ask(&client, "/a", &token).await })
    };
    parts.wait_for(Idp::METADATA, 1).await;
    let started = Instant::now();
    assert_eq!(client.get("/free").await.unwrap().status, 200);
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "{:?}",
        started.elapsed()
    );
    refused(&waiting.await.unwrap(), 503, "keys-unavailable");
}

impl Parts {
    async fn wait_for(&self, path: &str, times: usize) {
        in_time("the issuer is asked", async {
            while self.idp.count(path) < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// ATTACKS.md 25 and 26: what a token names is never fetched, and unknown keys
/// are looked for once in a while, not once a token.
#[tokio::test]
async fn nothing_in_a_token_makes_the_gateway_ask_around() {
    // So that the flood reaches the keys: what throttles it otherwise is tested elsewhere.
    let lenient = "[rate_limits]\nfailed_authentications = 1000";
    let world = World::with(lenient, "").await;
    let bait = Idp::start().await;
    let forged = TokenKey::new("forged");
    for header in [
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "one", "jku": bait.url(Idp::KEYS)}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "one", "x5u": bait.url("/x")}),
    ] {
        let token = forged.sign_with(&header, &world.claims(json!({})));
        refused(&world.ask(&token).await, 401, "token-signature");
    }
    let token = forged.sign(&world.claims(json!({"iss": bait.issuer()})));
    refused(&world.ask(&token).await, 401, "token-signature");
    let before = world.idp.count(Idp::KEYS);
    let client = world.gateway.client(HOST).with(&world.caller);
    let mut session = client.session().await.unwrap();
    for number in 0..100 {
        let key = TokenKey::new(&format!("random {number}"));
        let bearer = format!("Bearer {}", key.sign(&world.claims(json!({}))));
        let request = super::get_with("/a", &[("authorization", &bearer)]);
        refused(
            &session.send(request).await.unwrap(),
            401,
            "token-signature",
        );
    }
    let more = world.idp.count(Idp::KEYS) - before;
    assert!(more <= 2, "{more} fetches for a flood of unknown keys");
    // The flood pushed nothing out.
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let paths = [Idp::KEYS, "/x", Idp::METADATA, Idp::OPENID];
    assert_eq!(paths.map(|path| bait.count(path)), [0; 4]);
}

#[tokio::test]
async fn keys_may_rotate_in_the_middle_of_a_burst() {
    let world = World::with("", "").await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    // So that the next fetch may follow at once.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let next = TokenKey::new("two");
    world.idp.publish(&[&world.key, &next]);
    let before = world.idp.count(Idp::KEYS);
    let client = world.gateway.client(HOST).with(&world.caller);
    let burst: Vec<_> = (0..40)
        .map(|number| {
            let key = if number % 2 == 0 { &next } else { &world.key };
            let token = world.signed_by(key);
            let client = client.clone();
            tokio::spawn(async move { ask(&client, "/a", &token).await.status })
        })
        .collect();
    for asked in burst {
        assert_eq!(asked.await.unwrap(), 200);
    }
    assert_eq!(
        world.idp.count(Idp::KEYS) - before,
        1,
        "one fetch for all of them"
    );
}

#[tokio::test]
async fn a_reused_key_identifier_and_a_withdrawn_key_void_what_is_remembered() {
    let world = World::with("", "").await;
    let token = world.token();
    assert_eq!(world.ask(&token).await.status, 200);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The same name for another key: the old tokens must not live on.
    let imposter = TokenKey::new("one");
    world.idp.publish(&[&imposter, &TokenKey::new("trigger")]);
    let trigger = world.signed_by(&TokenKey::new("trigger"));
    refused(&world.ask(&trigger).await, 401, "token-signature");
    refused(&world.ask(&token).await, 401, "token-signature");
    assert_eq!(world.ask(&world.signed_by(&imposter)).await.status, 200);
}

#[tokio::test]
async fn known_keys_do_while_the_issuer_is_down_and_over_a_reload() {
    let world = World::with("", "").await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    world.idp.fault(Idp::KEYS, Fault::Hangup);
    world.idp.fault(Idp::METADATA, Fault::Hangup);
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let file = world.gateway.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    super::replace(&file, format!("{text}\n# changed\n"));
    in_time("a reload", async {
        while !world.gateway.stderr().contains("configuration reloaded") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    assert_eq!(world.problem().await, None);
}

const ASKED: &str = "[token_issuer.introspection]\nclient_id = \"gateway\"\n";

fn basic(parts: &Parts) -> String {
    let secret = parts
        .ca
        .write("secret", "not a very good secret\n".replace(' ', "-"));
    format!(
        "{ASKED}endpoint = \"{}\"\nauthentication = \"basic\"\nsecret_file = \"{}\"",
        parts.idp.url(Idp::INTROSPECTION),
        secret.display()
    )
}

#[tokio::test]
async fn opaque_tokens_are_asked_about_once_and_remembered() {
    let parts = Parts::new().await;
    let more = format!("format = \"opaque\"\n{}", basic(&parts));
    let world = parts.open(&more, "").await;
    let mut said = world.claims(json!({"active": true}));
    world.idp.introspect_as(said.clone());
    let client = world.gateway.client(HOST).with(&world.caller);
    let burst: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, "/a", "an-opaque-token").await })
        })
        .collect();
    for asked in burst {
        let claims = assertion(&asked.await.unwrap());
        assert_eq!(claims["token"]["sub"], "alice");
    }
    assert_eq!(
        world.idp.count(Idp::INTROSPECTION),
        1,
        "one question for all of them"
    );
    let asked = world.idp.asked();
    assert!(
        asked.body.contains("token=an-opaque-token"),
        "{}",
        asked.body
    );
    let basic = asked.headers["authorization"].to_str().unwrap();
    assert!(basic.starts_with("Basic "), "{basic}");

    // A bound token that an attacker brings, and one that is not active.
    said["cnf"] = json!({"x5t#S256": "A".repeat(43)});
    world.idp.introspect_as(said);
    refused(&world.ask("stolen").await, 401, "token-binding-mismatch");
    world.idp.introspect_as(json!({"active": false}));
    refused(&world.ask("old").await, 401, "token-inactive");
    for fault in [
        Fault::Status(500),
        Fault::Status(401),
        Fault::Html,
        Fault::Huge,
        Fault::Hangup,
    ] {
        world.idp.fault(Idp::INTROSPECTION, fault.clone());
        let answer = world.ask(&format!("{}-token", fault_name(&fault))).await;
        refused(&answer, 503, "keys-unavailable");
    }
    world.idp.mend();
    for lie in [
        json!({}),
        json!({"active": "true"}),
        json!({"active": 1}),
        json!([true]),
    ] {
        world.idp.introspect_as(lie);
        refused(&world.ask("lie").await, 503, "keys-unavailable");
    }
}

fn fault_name(fault: &Fault) -> String {
    format!("{fault:?}")
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect()
}

#[tokio::test]
async fn jwts_are_asked_about_as_often_as_the_route_says() {
    for (introspect, seconds, questions) in [("\"always\"", 0, 3), ("{ once_per = \"2s\" }", 3, 2)]
    {
        let parts = Parts::new().await;
        let more = basic(&parts);
        let world = parts
            .open(&more, &format!(", introspect = {introspect}"))
            .await;
        world
            .idp
            .introspect_as(world.claims(json!({"active": true})));
        let token = world.token();
        assert_eq!(world.ask(&token).await.status, 200);
        assert_eq!(world.ask(&token).await.status, 200);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(world.ask(&token).await.status, 200);
        assert_eq!(
            world.idp.count(Idp::INTROSPECTION),
            questions,
            "{introspect}"
        );
        // Only tokens that are good so far reach the issuer.
        let expired = world.key.sign(&world.claims(json!({"exp": now() - 100})));
        refused(&world.ask(&expired).await, 401, "token-expired");
        assert_eq!(
            world.idp.count(Idp::INTROSPECTION),
            questions,
            "{introspect}"
        );
        if introspect == "\"always\"" {
            world.idp.introspect_as(json!({"active": false}));
            refused(&world.ask(&token).await, 401, "token-inactive");
        }
    }
}

#[tokio::test]
async fn the_gateway_proves_who_it_is_by_a_signed_assertion() {
    let parts = Parts::new().await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = parts.ca.write("assertion.key", pair.serialize_pem());
    let more = format!(
        "format = \"opaque\"\n{ASKED}endpoint = \"{}\"\nauthentication = \"private-key-jwt\"\n\
         private_key = \"{}\"\nkey_id = \"mine\"",
        parts.idp.url(Idp::INTROSPECTION),
        key.display()
    );
    let world = parts.open(&more, "").await;
    world
        .idp
        .introspect_as(world.claims(json!({"active": true})));
    assert_eq!(world.ask("opaque").await.status, 200);
    let body = world.idp.asked().body;
    let assertion = body
        .split('&')
        .find_map(|pair| pair.strip_prefix("client_assertion="))
        .unwrap();
    let parts: Vec<Value> = assertion
        .split('.')
        .take(2)
        .map(|part| {
            use base64ct::Encoding as _;
            serde_json::from_slice(&base64ct::Base64UrlUnpadded::decode_vec(part).unwrap()).unwrap()
        })
        .collect();
    assert_eq!(parts[0]["kid"], "mine");
    assert_eq!(
        (&parts[1]["iss"], &parts[1]["sub"]),
        (&json!("gateway"), &json!("gateway"))
    );
    assert_eq!(parts[1]["aud"], world.idp.issuer());
    world.asked(Idp::INTROSPECTION, 1).await;
}
