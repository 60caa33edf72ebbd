//! Bodies of requests and responses arrive complete, with every method and framing.

use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::client::get;
use countersign_testkit::{Protocol, http2};
use http_body_util::BodyExt as _;

use crate::support::{BINARY, CALLER, HOST, World};

#[tokio::test]
async fn bodies_stream_both_ways() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let answer = client.get("/megabyte").await.unwrap();
        assert_eq!(answer.body.len(), 1 << 20);
        let body = vec![b'y'; 1 << 20];
        let post = http::Request::post("/a").body(body.into()).unwrap();
        let answer = client.send(post).await.unwrap();
        assert_eq!(answer.json()["body_len"], 1 << 20);

        let mut session = client.session().await.unwrap();
        let mut response = session.start(get("/slow")).await.unwrap();
        let first = std::time::Instant::now();
        let mut frames = 0;
        while let Some(frame) = response.body_mut().frame().await {
            frame.unwrap();
            frames += 1;
        }
        assert!(frames >= 3, "the gateway gathered the answer");
        assert!(first.elapsed().as_millis() >= 200);
    }
}

#[tokio::test]
async fn every_method_keeps_its_body() {
    let world = World::open().await;
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND",
    ] {
        for protocol in Protocol::BOTH {
            let request = http::Request::builder()
                .method(method)
                .uri("/a")
                .body(Bytes::from_static(b"body"))
                .unwrap();
            let client = world.client().protocol(protocol);
            let answer = client.send(request).await.unwrap();
            assert_eq!(answer.status, 200, "{method} {protocol:?}");
            assert_eq!(answer.json()["method"], method);
            assert_eq!(answer.json()["body"], "body", "{method} {protocol:?}");
        }
        let chunked = format!(
            "{method} /chunked HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"
        );
        let answer = world
            .client()
            .raw(chunked.as_bytes(), Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(answer.statuses(), [200], "{method}: {}", answer.text());
        let seen = world.echo.seen();
        assert_eq!(seen.last().unwrap()["body"], "body", "{method} in chunks");
    }
}

#[tokio::test]
async fn a_body_of_http2_without_a_length_arrives() {
    let world = World::open().await;
    for method in ["GET", "POST"] {
        let mut octets = http2::preface();
        octets.extend(http2::headers(
            1,
            false,
            &[
                (":method", method),
                (":scheme", "https"),
                (":authority", HOST),
                (":path", "/a"),
            ],
        ));
        octets.extend(http2::data(1, false, b"bo"));
        octets.extend(http2::data(1, true, b"dy"));
        let client = world.client().protocol(Protocol::Http2);
        let mut connection = client.connect().await.unwrap();
        connection.write(&octets).await.unwrap();
        let answer = connection
            .read_until(|octets| http2::frames(octets).iter().any(|frame| frame.kind == 1))
            .await;
        let frames = http2::frames(&answer.octets);
        assert!(frames.iter().any(http2::Frame::is_success), "{method}");
        assert_eq!(
            world.echo.seen().last().unwrap()["body"],
            "body",
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_caller_that_waits_for_100_continue_gets_it() {
    let world = World::open().await;
    let mut connection = world.client().connect().await.unwrap();
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    );
    connection.write(head.as_bytes()).await.unwrap();
    let interim = connection.read_head().await;
    assert_eq!(interim.statuses(), [100], "{}", interim.text());
    connection.write(b"body").await.unwrap();
    let answer = connection.read_until(|octets| octets.ends_with(b"}")).await;
    assert_eq!(answer.statuses(), [200]);
    assert_eq!(world.echo.seen()[0]["body"], "body");
}

#[tokio::test]
async fn a_refused_caller_gets_no_100_continue() {
    let world = World::open().await;
    let request = format!(
        "POST /a//b HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    let answer = world
        .client()
        .raw(request.as_bytes(), Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [400], "{}", answer.text());
}

/// A service may respond before it has read the request. The gateway must not send the rest of the
/// request on a connection that another caller uses.
#[tokio::test]
async fn an_early_answer_does_not_leave_its_request_to_the_next_caller() {
    use countersign_testkit::{Afterwards, Scripted};

    let early = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly";
    let service = Scripted::start(early.to_vec(), Afterwards::Hang).await;
    let ca = countersign_testkit::TestCa::new("example.org");
    let settings = countersign_testkit::Settings::new(&ca).everything_to(service.address());
    let gateway = countersign_testkit::Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&ca.client(CALLER));
    let mut first = client.connect().await.unwrap();
    let head = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\n");
    first.write(head.as_bytes()).await.unwrap();
    let answer = first.read_until(|octets| octets.ends_with(b"early")).await;
    assert_eq!(answer.statuses(), [200]);
    // The second request must not wait for the first connection, and must not use it.
    let answer = client.get("/second").await.unwrap();
    assert_eq!(answer.status, 200);
    drop(first);
}
