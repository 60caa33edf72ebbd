//! Token issuers that the gateway asks over the network. Issuers work, are down, are slow, send
//! wrong responses, or rotate their keys.

use std::time::{Duration, Instant};

use countersign_testkit::{Answer, Echo, Fault, Gateway, Idp, StartFailure, TokenKey, in_time};
use serde_json::json;

use super::worlds::{Issuer, IssuerWorld};
use super::{ask, claims, refused};
use crate::support::{BINARY, Front, assertion_claims, decode, get_with, now, reloaded, replace};

#[tokio::test]
async fn keys_come_from_where_the_metadata_say() {
    let world = IssuerWorld::with("", "").await;
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
    let issuer = Issuer::new().await;
    let address = format!("jwks_uri = \"{}\"", issuer.idp.url(Idp::KEYS));
    let world = issuer.open(&address, "").await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let paths = [Idp::KEYS, Idp::METADATA, Idp::OPENID];
    assert_eq!(paths.map(|path| world.idp.count(path)), [1, 0, 0]);
}

#[tokio::test]
async fn an_issuer_that_is_down_does_not_prevent_the_start_and_its_tokens_are_refused() {
    let issuer = Issuer::new().await;
    issuer.idp.fault(Idp::METADATA, Fault::Hangup);
    let world = issuer.open("", "").await;
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
    // The failure to check the token was not cached.
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
    let issuer = Issuer::new().await;
    // No request is sent to this address, because the gateway only has to start.
    let settings = issuer.settings(([127, 0, 0, 1], 9).into(), "required_at_start = true", "");
    Gateway::start(BINARY, &settings).await;
    issuer.idp.fault(Idp::KEYS, Fault::Status(500));
    let failure: StartFailure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
    assert_eq!(failure.status.code(), Some(1), "{failure}");
    assert!(
        failure.stderr.contains("token issuer corporate"),
        "{failure}"
    );
    assert!(failure.stderr.contains("status 500"), "{failure}");
}

/// After such a response, the gateway has no keys and accepts no token.
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
        let issuer = Issuer::new().await;
        issuer.idp.fault(Idp::KEYS, fault.clone());
        let world = issuer.open("timeout = \"2s\"", "").await;
        let answer = world.ask(&world.token()).await;
        let expected: &[&str] = if fault == Fault::ManyKeys {
            // The gateway may accept these keys, but none of them has signed this token.
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
        let issuer = Issuer::new().await;
        let text = document.to_string().replace("ISSUER", &issuer.idp.issuer());
        issuer.idp.describe_as(serde_json::from_str(&text).unwrap());
        let world = issuer.open("", "").await;
        refused(&world.ask(&world.token()).await, 503, "keys-unavailable");
        assert_eq!(stranger.count(Idp::KEYS), 0);
    }
}

#[tokio::test]
async fn a_slow_issuer_delays_only_its_own_tokens_for_a_limited_time() {
    let issuer = Issuer::new().await;
    issuer
        .idp
        .fault(Idp::METADATA, Fault::Slow(Duration::from_secs(60)));
    let echo = Echo::start().await;
    let settings = issuer
        .settings(echo.address(), "timeout = \"1s\"", "")
        .route("free", "orders", "paths = [\"/free\"]\ncallers = [\"*\"]");
    let front = Front::with(&issuer.ca, &settings).await;
    let client = front.client();
    let token = issuer
        .key
        .sign(&claims(&front.caller, &issuer.idp.issuer(), json!({})));
    let waiting = {
        let (client, token) = (client.clone(), token.clone());
        tokio::spawn(async move { ask(&client, "/a", &token).await })
    };
    issuer.idp.reached(Idp::METADATA, 1).await;
    let started = Instant::now();
    assert_eq!(client.get("/free").await.unwrap().status, 200);
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "{:?}",
        started.elapsed()
    );
    refused(&waiting.await.unwrap(), 503, "keys-unavailable");
}

/// The gateway never fetches URLs from a token. Unknown key identifiers cause at most one fetch
/// per minimum interval.
#[tokio::test]
async fn nothing_in_a_token_makes_the_gateway_ask_around() {
    // A high limit, so that the flood reaches the keys. Other tests cover the limit itself.
    let lenient = "[rate_limits]\nfailed_authentications = 1000";
    let world = IssuerWorld::with(lenient, "").await;
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
    let client = world.client();
    let mut session = client.session().await.unwrap();
    for number in 0..100 {
        let key = TokenKey::new(&format!("random {number}"));
        let bearer = format!("Bearer {}", key.sign(&world.claims(json!({}))));
        let request = get_with("/a", &[("authorization", &bearer)]);
        refused(
            &session.send(request).await.unwrap(),
            401,
            "token-signature",
        );
    }
    let more = world.idp.count(Idp::KEYS) - before;
    assert!(more <= 2, "{more} fetches for a flood of unknown keys");
    // The flood of unknown key identifiers has not evicted the valid keys.
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let paths = [Idp::KEYS, "/x", Idp::METADATA, Idp::OPENID];
    assert_eq!(paths.map(|path| bait.count(path)), [0; 4]);
}

/// Repeats a request with this token until the gateway has fetched the issuer's keys again. An
/// unknown key identifier causes a fetch after the minimum interval. Returns the last response.
async fn ask_until_keys_are_fetched(world: &IssuerWorld, token: &str) -> Answer {
    let before = world.idp.count(Idp::KEYS);
    in_time("another fetch of the keys", async {
        loop {
            let answer = world.ask(token).await;
            if world.idp.count(Idp::KEYS) > before {
                return answer;
            }
            refused(&answer, 401, "token-signature");
            // The pause is long enough for the limit on failed authentications.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
}

#[tokio::test]
async fn keys_may_rotate_in_the_middle_of_a_burst() {
    let world = IssuerWorld::with("", "").await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let next = TokenKey::new("two");
    world.idp.publish(&[&world.key, &next]);
    // The burst of requests arrives while the gateway fetches the new key.
    let slow = Fault::Slow(Duration::from_secs(1));
    world.idp.fault(Idp::KEYS, slow);
    let before = world.idp.count(Idp::KEYS);
    let first = world.signed_by(&next);
    let burst = async {
        world.idp.reached(Idp::KEYS, before + 1).await;
        let client = world.client();
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
    };
    let (answer, ()) = tokio::join!(ask_until_keys_are_fetched(&world, &first), burst);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        world.idp.count(Idp::KEYS) - before,
        1,
        "one fetch for all of them"
    );
}

#[tokio::test]
async fn a_reused_key_identifier_and_a_withdrawn_key_void_what_is_remembered() {
    let world = IssuerWorld::with("", "").await;
    let token = world.token();
    assert_eq!(world.ask(&token).await.status, 200);
    // Another key has the same `kid`. Tokens of the old key must not stay valid.
    let imposter = TokenKey::new("one");
    world.idp.publish(&[&imposter, &TokenKey::new("trigger")]);
    let trigger = world.signed_by(&TokenKey::new("trigger"));
    let answer = ask_until_keys_are_fetched(&world, &trigger).await;
    refused(&answer, 401, "token-signature");
    refused(&world.ask(&token).await, 401, "token-signature");
    assert_eq!(world.ask(&world.signed_by(&imposter)).await.status, 200);
}

#[tokio::test]
async fn known_keys_do_while_the_issuer_is_down_and_over_a_reload() {
    let world = IssuerWorld::with("", "").await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    world.idp.fault(Idp::KEYS, Fault::Hangup);
    world.idp.fault(Idp::METADATA, Fault::Hangup);
    assert_eq!(world.ask(&world.token()).await.status, 200);
    let file = world.gateway.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    replace(&file, format!("{text}\n# changed\n"));
    reloaded(&world.gateway).await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    assert_eq!(world.problem().await, None);
}

const ASKED: &str = "[token_issuer.introspection]\nclient_id = \"gateway\"\n";

fn basic(issuer: &Issuer) -> String {
    let secret = issuer
        .ca
        .write("secret", "not a very good secret\n".replace(' ', "-"));
    format!(
        "{ASKED}endpoint = \"{}\"\nauthentication = \"basic\"\nsecret_file = \"{}\"",
        issuer.idp.url(Idp::INTROSPECTION),
        secret.display()
    )
}

#[tokio::test]
async fn opaque_tokens_are_asked_about_once_and_remembered() {
    let issuer = Issuer::new().await;
    let more = format!("format = \"opaque\"\n{}", basic(&issuer));
    let world = issuer.open(&more, "").await;
    let mut said = world.claims(json!({"active": true}));
    world.idp.introspect_as(said.clone());
    let client = world.client();
    let burst: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, "/a", "an-opaque-token").await })
        })
        .collect();
    for asked in burst {
        let claims = assertion_claims(&asked.await.unwrap());
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

    // First a token that is bound to another certificate, then an inactive token.
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
        let issuer = Issuer::new().await;
        let more = basic(&issuer);
        let world = issuer
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
        // Only tokens that pass all local checks are sent to the issuer.
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
    let issuer = Issuer::new().await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = issuer.ca.write("assertion.key", pair.serialize_pem());
    let more = format!(
        "format = \"opaque\"\n{ASKED}endpoint = \"{}\"\nauthentication = \"private-key-jwt\"\n\
         private_key = \"{}\"\nkey_id = \"mine\"",
        issuer.idp.url(Idp::INTROSPECTION),
        key.display()
    );
    let world = issuer.open(&more, "").await;
    world
        .idp
        .introspect_as(world.claims(json!({"active": true})));
    assert_eq!(world.ask("opaque").await.status, 200);
    let body = world.idp.asked().body;
    let assertion = body
        .split('&')
        .find_map(|pair| pair.strip_prefix("client_assertion="))
        .unwrap();
    let (header, claims) = decode(assertion);
    assert_eq!(header["kid"], "mine");
    assert_eq!(
        (&claims["iss"], &claims["sub"]),
        (&json!("gateway"), &json!("gateway"))
    );
    assert_eq!(claims["aud"], world.idp.issuer());
    world.idp.reached(Idp::INTROSPECTION, 1).await;
}

#[tokio::test]
async fn tokens_without_number_of_one_caller_do_not_take_the_issuer_from_others() {
    let issuer = Issuer::new().await;
    let more = format!("format = \"opaque\"\n{}", basic(&issuer));
    let world = issuer.open(&more, "").await;
    world
        .idp
        .introspect_as(world.claims(json!({"active": true})));
    world
        .idp
        .fault(Idp::INTROSPECTION, Fault::Slow(Duration::from_secs(1)));
    let mallory = world.client_as("/ns/shop/sa/mallory");
    let attack: Vec<_> = (0..100)
        .map(|number| {
            let mallory = mallory.clone();
            tokio::spawn(async move { ask(&mallory, "/orders", &format!("guess-{number}")).await })
        })
        .collect();
    // Other callers need only one free introspection slot for their requests.
    world.idp.reached(Idp::INTROSPECTION, 50).await;
    for number in 0..3 {
        let answer = world.ask(&format!("good-{number}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut refused = 0;
    for answer in attack {
        let answer = answer.await.unwrap();
        if answer.reason() == Some("caller-limit") {
            assert_eq!(answer.status, 429);
            assert_eq!(answer.json()["limit"], "token_issuer.introspection");
            refused += 1;
        }
    }
    assert!(refused > 0);
}
