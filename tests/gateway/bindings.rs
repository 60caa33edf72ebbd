//! `binding = "caller"`: an assertion is bound only to the caller, and can be used again.

use std::collections::HashSet;

use countersign_testkit::Protocol;
use countersign_verify::{RequestParts, Verifier, VerifyError};

use crate::support::{CALLER, HOST, ISSUER, World, decode};

async fn world() -> World {
    World::with(|settings, echo| {
        settings.upstream("cached", echo).route(
            "cached",
            "cached",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nbinding = \"caller\"\n",
        )
    })
    .await
}

#[tokio::test]
async fn it_names_the_caller_and_no_request() {
    let world = world().await;
    let answer = world.client().get("/a?b=c").await.unwrap();
    let received = answer.received("countersign-assertion");
    assert_eq!(received.len(), 1);
    let (_, claims) = decode(&received[0]);
    assert_eq!(claims["sub"], world.ca.spiffe(CALLER));
    assert_eq!(claims["aud"], "cached");
    for member in ["htm", "htu", "htq", "htb", "jti", "txn"] {
        assert_eq!(claims.get(member), None, "{member}");
    }
}

#[tokio::test]
async fn it_is_used_again_for_the_same_caller_only() {
    let world = world().await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let mut session = client.session().await.unwrap();
        let mut tokens = HashSet::new();
        for number in 0..3 {
            let answer = session.get(&format!("/{number}")).await.unwrap();
            tokens.extend(answer.received("countersign-assertion"));
        }
        assert_eq!(tokens.len(), 1, "{protocol:?}");
        let other = world
            .client_as("/ns/shop/sa/other")
            .protocol(protocol)
            .get("/0")
            .await
            .unwrap();
        let other = other.received("countersign-assertion");
        assert!(!tokens.contains(&other[0]));
        assert_eq!(
            decode(&other[0]).1["sub"],
            world.ca.spiffe("/ns/shop/sa/other")
        );
    }
}

#[tokio::test]
async fn a_verifier_must_explicitly_allow_caller_binding() {
    let world = world().await;
    let jwks = world.gateway.jwks().await;
    let answer = world.client().get("/a").await.unwrap();
    let token = answer.received("countersign-assertion").remove(0);
    let request = RequestParts::new("GET", HOST, "/a").unwrap();
    let builder = || {
        Verifier::builder()
            .issuer(ISSUER)
            .audience("cached")
            .jwks_json(jwks.clone())
    };
    let strict = builder().build().unwrap();
    assert_eq!(
        strict.verify(&token, &request),
        Err(VerifyError::NotRequestBound)
    );
    let lenient = builder().allow_caller_binding().build().unwrap();
    assert!(lenient.verify(&token, &request).is_ok());
}
