//! Claims of tokens that `forward_claims` adds to assertions.

use serde_json::json;

use super::worlds::TokenWorld;
use super::{ask, refused};
use crate::support::assertion_claims;

const ROUTE: &str = "callers = [\"spiffe://example.org/ns/shop/sa/*\"]\n\
    token = { issuer = \"corporate\", audience = \"orders-api\" }";

/// A service may take a missing claim for a missing restriction, so a long path must not make one
/// disappear.
#[tokio::test]
async fn forwarded_claims_are_in_every_assertion_or_the_request_is_refused() {
    let world = TokenWorld::with("forward_claims = [\"groups\"]", ROUTE).await;
    let groups = "g".repeat(1200);
    let token = world.token_with(json!({"groups": groups}));
    let mut statuses = Vec::new();
    for length in [1, 400, 900, 1400, 1900] {
        let answer = ask(&world.client(), &format!("/{}", "p".repeat(length)), &token).await;
        statuses.push(answer.status);
        if answer.status == 200 {
            let claims = assertion_claims(&answer);
            assert_eq!(claims["token"]["groups"], groups);
            assert_eq!(claims["token"]["sub"], "alice");
        } else {
            assert!(matches!(answer.status, 414 | 431), "{answer:?}");
            assert_eq!(answer.reason(), Some("too-large"));
        }
    }
    assert_eq!(statuses.first(), Some(&200));
    assert_eq!(statuses.last(), Some(&414));
    let token = world.token_with(json!({"groups": "g".repeat(2600)}));
    let answer = ask(&world.client(), "/a", &token).await;
    refused(&answer, 431, "too-large");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("`token` has 2"), "{detail}");
    assert!(detail.contains("`max_size` of [assertion]"), "{detail}");
}
