//! `bind_body`: the gateway buffers the body, and the assertion contains its hash.

use std::time::Duration;

use countersign_testkit::client::get;
use countersign_testkit::{Protocol, in_time, sha256};
use countersign_verify::jose::JwkSet;
use countersign_verify::{AssertionVerifier, RequestParts};

use crate::support::{HOST, ISSUER, World, base64url, decode, request};

async fn world() -> World {
    World::with(|settings, echo| {
        settings
            .set("limits", "held_bodies", "\"160KiB\"")
            .set("limits", "body_timeout", "\"2s\"")
            .upstream("orders", echo)
            .route(
                "bound",
                "orders",
                "paths = [\"/bound/**\"]\ncallers = [\"*\"]\nbind_body = \"64KiB\"\n",
            )
            .route("free", "orders", "paths = [\"/free\"]\ncallers = [\"*\"]\n")
            .route(
                "large",
                "orders",
                "paths = [\"/large\"]\ncallers = [\"*\"]\nbind_body = \"1MiB\"\n",
            )
    })
    .await
}

#[tokio::test]
async fn the_assertion_binds_the_body() {
    let world = world().await;
    let keys = JwkSet::from_json(world.gateway.jwks().await.as_bytes()).unwrap();
    let verifier = AssertionVerifier::builder()
        .issuer(ISSUER)
        .audience("orders")
        .jwks(keys)
        .require_body_binding()
        .build()
        .unwrap();
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        for body in [&b""[..], b"x", &[b'y'; 65536]] {
            let answer = client
                .send(request("POST", "/bound/a", body.to_vec()))
                .await
                .unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.json()["body_len"], body.len());
            let assertion = &answer.received("countersign-assertion")[0];
            assert_eq!(decode(assertion).1["htb"], base64url(&sha256(body)));
            let request = RequestParts::new("POST", HOST, "/bound/a").unwrap();
            let with = |body: &[u8]| verifier.verify(assertion, &request.clone().with_body(body));
            assert!(with(body).is_ok());
            assert!(with(b"another").is_err());
        }
        let answer = client.send(request("POST", "/free", "x")).await.unwrap();
        let assertion = &answer.received("countersign-assertion")[0];
        assert!(decode(assertion).1.get("htb").is_none());
    }
    let answer = world.client().send(get("/bound/a")).await.unwrap();
    let claims = decode(&answer.received("countersign-assertion")[0]).1;
    assert_eq!(claims["htb"], base64url(&sha256(b"")));
}

#[tokio::test]
async fn a_chunked_body_with_trailers_is_bound_too() {
    let world = world().await;
    let request = format!(
        "POST /bound/t HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Checksum\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\nX-Checksum: 1\r\n\
         Countersign-Assertion: forged\r\n\r\n"
    );
    let answer = world
        .client()
        .raw(request.as_bytes(), Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [200], "{}", answer.text());
    let seen = world.echo.seen().remove(0);
    assert_eq!(seen["body"], "body");
    assert!(!seen.to_string().contains("forged"));
}

#[tokio::test]
async fn a_larger_body_is_refused_whether_or_not_it_says_so() {
    let world = world().await;
    let large = vec![b'x'; 65537];
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let answer = client
            .send(request("POST", "/bound/a", large.clone()))
            .await
            .unwrap();
        assert_eq!((answer.status, answer.reason()), (413, Some("too-large")));
    }
    let mut chunked = format!(
        "POST /bound/a HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n"
    )
    .into_bytes();
    chunked.extend(&large);
    chunked.extend(b"\r\n0\r\n\r\n");
    let answer = world
        .client()
        .raw(&chunked, Duration::from_secs(2))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [413]);
    assert_eq!(world.echo.requests(), 0);
    // The buffer limit does not apply to bodies on routes without `bind_body`.
    let answer = world
        .client()
        .send(request("POST", "/free", large))
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn who_writes_all_before_reading_can_still_read_the_refusal() {
    let world = world().await;
    let mut whole =
        format!("POST /bound/a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 8388608\r\n\r\n")
            .into_bytes();
    whole.resize(whole.len() + (8 << 20), b'x');
    let mut connection = world.client().connect().await.unwrap();
    connection.write(&whole).await.expect("not reset");
    let answer = connection.read_until_silent(Duration::from_secs(8)).await;
    assert_eq!(answer.statuses(), [413], "{}", answer.text());
}

#[tokio::test]
async fn all_held_bodies_together_are_bounded_and_let_go_of() {
    let world = world().await;
    let begin = format!("POST /large HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n");
    let mut first = world.client().connect().await.unwrap();
    first.write(begin.as_bytes()).await.unwrap();
    first.write(&[b'x'; 99_999]).await.unwrap();
    // After this pause, the first body is slower than the second one.
    let pause = Duration::from_millis(300);
    assert!(first.read_until_silent(pause).await.statuses().is_empty());
    // Both bodies together exceed the limit. The first body makes no progress and is refused.
    let second = || request("POST", "/large", vec![b'x'; 100_000]);
    let answer = in_time("an answer", async {
        loop {
            assert_eq!(world.client().send(second()).await.unwrap().status, 200);
            let answer = first.read_until_silent(Duration::from_millis(50)).await;
            if !answer.statuses().is_empty() {
                return answer;
            }
        }
    })
    .await;
    assert_eq!(answer.statuses(), [429], "{}", answer.text());
    // A body that alone exceeds the limit is refused because of the limit, not because of its
    // caller's share.
    let answer = world
        .client()
        .send(request("POST", "/large", vec![b'x'; 200_000]))
        .await
        .unwrap();
    assert_eq!((answer.status, answer.reason()), (503, Some("overloaded")));
}
