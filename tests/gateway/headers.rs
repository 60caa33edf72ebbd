//! Nothing a caller sends can pass for the gateway's word, in either direction.

use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::http2;
use countersign_testkit::{Answer, Protocol};
use http::{HeaderName, HeaderValue, Request};
use serde_json::Value;

use crate::support::{HOST, World, decode};

/// The value in every field that must not arrive.
const FORGED: &str = "forged";

/// Fields only the gateway may set.
const FORGEABLE: [&str; 18] = [
    "Countersign-Assertion",
    "Countersign-Reason",
    "Countersign-Anything",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-Request-Id",
];

/// Every spelling that some server reads as `name`.
fn spellings(name: &str) -> Vec<String> {
    let mut all: Vec<String> = ["-", "_", ".", "!", "~"]
        .iter()
        .map(|separator| name.replace('-', separator))
        .collect();
    all.push(name.replacen('-', "_", 1));
    all.push(name.to_ascii_uppercase());
    all.push(name.to_ascii_lowercase());
    all
}

fn forged_request(names: &[String]) -> Request<Bytes> {
    let mut request = countersign_testkit::client::get("/a");
    for name in names {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        // Twice: removing one copy would not be enough.
        for _ in 0..2 {
            request
                .headers_mut()
                .append(name.clone(), HeaderValue::from_static(FORGED));
        }
    }
    request
}

/// No field of the request that the service saw has a forged value.
fn assert_nothing_forged(seen: &Value) {
    for field in seen["headers"].as_array().unwrap() {
        assert!(!field[1].as_str().unwrap().contains(FORGED), "{field}");
    }
}

fn assert_ours(answer: &Answer) {
    let assertions = answer.received("countersign-assertion");
    assert_eq!(assertions.len(), 1, "{answer:?}");
    assert_eq!(decode(&assertions[0]).1["aud"], "orders");
}

#[tokio::test]
async fn forged_fields_never_arrive_in_any_spelling() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for name in FORGEABLE {
            let answer = session
                .send(forged_request(&spellings(name)))
                .await
                .unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {name}");
            assert_nothing_forged(&answer.json());
            assert_ours(&answer);
        }
    }
}

#[tokio::test]
async fn forged_fields_never_arrive_without_a_certificate_either() {
    let world = World::open_to_everybody().await;
    for client in [world.anonymous(), world.client()] {
        for protocol in Protocol::BOTH {
            let mut session = client.clone().protocol(protocol).session().await.unwrap();
            for name in FORGEABLE {
                let answer = session
                    .send(forged_request(&spellings(name)))
                    .await
                    .unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_nothing_forged(&answer.json());
                assert_eq!(answer.received("countersign-assertion"), [""; 0]);
            }
        }
    }
}

#[tokio::test]
async fn connection_cannot_remove_what_the_gateway_adds() {
    let world = World::open().await;
    for named in [
        "countersign-assertion",
        "close, Countersign-Assertion",
        "keep-alive,COUNTERSIGN-ASSERTION,x-request-id",
        "countersign_assertion, host, content-length",
    ] {
        let request = Request::post("/a")
            .header("connection", named)
            .header("countersign-assertion", FORGED)
            .body(Bytes::from_static(b"body"))
            .unwrap();
        let answer = world.client().send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{named}");
        assert_ours(&answer);
        assert_nothing_forged(&answer.json());
        assert_eq!(answer.json()["body"], "body");
        assert_eq!(answer.received("host"), [HOST]);
    }
}

#[tokio::test]
async fn fields_for_one_hop_stop_here() {
    let world = World::open().await;
    let request = Request::get("/a")
        .header("connection", "x-hop, X-Other-Hop")
        .header("x-hop", FORGED)
        .header("x-other-hop", FORGED)
        .header("keep-alive", FORGED)
        .header("proxy-connection", FORGED)
        .header("proxy-authorization", FORGED)
        .header("te", "trailers")
        .body(Bytes::new())
        .unwrap();
    let answer = world.client().send(request).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_nothing_forged(&answer.json());
    for name in ["connection", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.received(name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn ordinary_fields_arrive_unchanged_and_credentials_do_not() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let request = Request::get("/a")
            .header("authorization", "Bearer forged")
            .header("cookie", "a=b; c=d")
            .header("accept", "text/plain")
            .header("accept", "*/*")
            .header("x-custom", "spaces  and \"quotes\"")
            .header("x_underscore", "kept")
            .header("x-forward", "kept")
            .body(Bytes::new())
            .unwrap();
        let answer = world
            .client()
            .protocol(protocol)
            .send(request)
            .await
            .unwrap();
        assert_eq!(answer.status, 200);
        assert_nothing_forged(&answer.json());
        assert_eq!(answer.received("authorization"), [""; 0]);
        assert_eq!(answer.received("cookie"), ["a=b; c=d"]);
        assert_eq!(answer.received("accept"), ["text/plain", "*/*"]);
        assert_eq!(answer.received("x-custom"), ["spaces  and \"quotes\""]);
        assert_eq!(answer.received("x_underscore"), ["kept"]);
        assert_eq!(answer.received("x-forward"), ["kept"]);
    }
}

#[tokio::test]
async fn many_cookie_fields_of_http2_arrive_as_one() {
    let world = World::open().await;
    let request = Request::get("/a")
        .header("cookie", "a=b")
        .header("cookie", "c=d")
        .body(Bytes::new())
        .unwrap();
    let client = world.client().protocol(Protocol::Http2);
    let answer = client.send(request).await.unwrap();
    // RFC 9113 section 8.2.3.
    assert_eq!(answer.received("cookie"), ["a=b; c=d"]);
}

#[tokio::test]
async fn the_services_fields_cannot_pass_for_the_gateways() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let answer = client.get("/forged").await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-service"), Some("kept"));
        for name in [
            "countersign-reason",
            "countersign_assertion",
            "x-hop",
            "keep-alive",
        ] {
            assert_eq!(answer.header(name), None, "{protocol:?} {name}");
        }
        let own = client.get("/status/401").await.unwrap();
        assert_eq!(own.status, 401);
        assert_eq!(own.reason(), None);
    }
}

#[tokio::test]
async fn forged_trailers_of_http1_are_left_out() {
    let world = World::open().await;
    let request = format!(
        "POST /trailers HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Checksum, Countersign-Assertion\r\n\r\n4\r\nbody\r\n0\r\n\
         Countersign-Assertion: forged\r\ncountersign_assertion: forged\r\n\
         X-Forwarded-For: forged\r\nClient-Cert: forged\r\nAuthorization: forged\r\n\
         X-Checksum: 1\r\n\r\n"
    );
    let answer = world
        .client()
        .raw(request.as_bytes(), Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [200], "{}", answer.text());
    let seen = world.echo.seen().remove(0);
    assert_eq!(seen["body"], "body");
    assert!(!seen["trailers"].to_string().contains(FORGED), "{seen}");
    assert!(
        seen["trailers"].to_string().contains("x-checksum"),
        "{seen}"
    );
    assert_nothing_forged(&seen);
}

#[tokio::test]
async fn forged_trailers_of_http2_are_left_out() {
    let world = World::open().await;
    let mut octets = http2::preface();
    octets.extend(http2::headers(
        1,
        false,
        &[
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", HOST),
            (":path", "/trailers"),
            (
                "trailer",
                "countersign-assertion, x-forwarded-for, x-checksum",
            ),
        ],
    ));
    octets.extend(http2::data(1, false, b"body"));
    octets.extend(http2::headers(
        1,
        true,
        &[
            ("countersign-assertion", FORGED),
            ("countersign_assertion", FORGED),
            ("x-forwarded-for", FORGED),
            ("x-checksum", "1"),
        ],
    ));
    let client = world.client().protocol(Protocol::Http2);
    let answer = client
        .raw(&octets, Duration::from_millis(300))
        .await
        .unwrap();
    let frames = http2::frames(&answer.octets);
    assert!(frames.iter().any(http2::Frame::is_success), "{frames:?}");
    let seen = world.echo.seen().remove(0);
    assert_eq!(seen["body"], "body");
    assert!(!seen["trailers"].to_string().contains(FORGED), "{seen}");
    assert!(
        seen["trailers"].to_string().contains("x-checksum"),
        "{seen}"
    );
}
