//! Libraries in other languages verify real assertions. They must refuse assertions that are
//! altered, expired, or for another audience.

use countersign_testkit::skipped::tool;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::{CALLER, HOST, ISSUER, World, altered, decode, script};

/// Returns assertions with their expected results, and the keys to verify them.
async fn cases(algorithm: &'static str) -> Value {
    let world = World::with(|s, echo| s.algorithm(algorithm).everything_to(echo)).await;
    let brief = World::with(|s, echo| {
        s.algorithm(algorithm)
            .set("assertion", "lifetime", "\"1s\"")
            .everything_to(echo)
    })
    .await;
    let token = async |world: &World| {
        let answer = world.client().get("/orders/7?full=1").await.unwrap();
        answer.received("countersign-assertion").remove(0)
    };
    let expired = token(&brief).await;
    let exp = decode(&expired).1["exp"].as_u64().unwrap();
    while jsonwebtoken::get_current_timestamp() <= exp {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let good = token(&world).await;
    let keys: Value = serde_json::from_str(&world.gateway.jwks().await).unwrap();
    let brief_keys: Value = serde_json::from_str(&brief.gateway.jwks().await).unwrap();
    let case = |name: &str, token: &str, keys: &Value, audience: &str, accepted: bool| {
        json!({
            "name": name, "token": token, "jwks": keys, "algorithm": algorithm,
            "issuer": ISSUER, "audience": audience, "accepted": accepted,
            "subject": world.ca.spiffe(CALLER),
            "htu": format!("https://{HOST}/orders/7"),
        })
    };
    json!([
        case("good", &good, &keys, "orders", true),
        case("altered", &altered(&good), &keys, "orders", false),
        case("expired", &expired, &brief_keys, "orders", false),
        case("another audience", &good, &keys, "payments", false),
        case(
            "another gateway's keys",
            &good,
            &brief_keys,
            "orders",
            false
        ),
    ])
}

/// Runs a script with the cases as standard input.
async fn run(script: impl Fn() -> Command, what: &str) {
    for algorithm in ["ES256", "EdDSA"] {
        let input = cases(algorithm).await.to_string();
        let Some(mut child) = script::start(script(), what) else {
            return;
        };
        let mut stdin = child.stdin.take().unwrap();
        // The error is ignored, because a script that cannot start does not read its input.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = countersign_testkit::in_time(what, child.wait_with_output())
            .await
            .unwrap();
        if !tool(what, output.status.code() != Some(script::ABSENT)) {
            return;
        }
        assert!(
            output.status.success(),
            "{what} {algorithm}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test]
async fn pyjwt_agrees() {
    run(|| script::python("verify.py"), "PyJWT with cryptography").await;
}

#[tokio::test]
async fn the_python_of_the_readme_agrees() {
    run(|| script::python("readme.py"), "PyJWT with cryptography").await;
}

#[tokio::test]
async fn jose_for_node_agrees() {
    run(|| script::node("verify.mjs"), "jose for Node").await;
}
