//! Requests that HTTP/2 forbids, and that would have another meaning in HTTP/1.1.

use std::time::Duration;

use countersign_testkit::{Gateway, Protocol, Service, ServiceSpec, Settings, TestCa, http2};
use serde_json::Value;

use crate::support::{BINARY, HOST, World, decode};

/// Sends one request with these fields. Returns whether it succeeded.
async fn succeeds(world: &World, fields: &[(&str, &str)], body: Option<&[u8]>) -> bool {
    let mut octets = http2::preface();
    octets.extend(http2::headers(1, body.is_none(), fields));
    if let Some(body) = body {
        octets.extend(http2::data(1, true, body));
    }
    let client = world.client().protocol(Protocol::Http2);
    let mut connection = client.connect().await.unwrap();
    connection.write(&octets).await.unwrap();
    let answered = |octets: &[u8]| {
        http2::frames(octets)
            .iter()
            .any(|frame| matches!(frame.kind, 1 | 3 | 7))
    };
    let answer = connection.read_until(answered).await;
    http2::frames(&answer.octets)
        .iter()
        .any(http2::Frame::is_success)
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "https");
const AUTHORITY: (&str, &str) = (":authority", HOST);
const PATH: (&str, &str) = (":path", "/a");
const GOOD: [(&str, &str); 4] = [METHOD, SCHEME, AUTHORITY, PATH];

#[tokio::test]
async fn fields_that_http2_forbids_are_refused() {
    let world = World::open().await;
    assert!(succeeds(&world, &GOOD, None).await);
    let before = world.echo.requests();
    for field in [
        ("connection", "close"),
        ("connection", "countersign-assertion"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("X-Upper", "a"),
        ("x a", "b"),
        ("x:a", "b"),
        ("", "b"),
        ("x-a", "b\r\ncountersign-assertion: forged"),
        ("x-a", "b\nc"),
        ("x-a", "b\0c"),
        (":unknown", "a"),
        (":path", "/again"),
        (":status", "200"),
    ] {
        let fields = [&GOOD[..], &[field]].concat();
        assert!(!succeeds(&world, &fields, None).await, "{field:?}");
    }
    assert_eq!(world.echo.requests(), before, "{:?}", world.echo.seen());
}

#[tokio::test]
async fn malformed_pseudo_fields_are_refused() {
    let world = World::open().await;
    for fields in [
        vec![SCHEME, AUTHORITY, PATH],
        vec![METHOD, AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY],
        vec![METHOD, SCHEME, PATH],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "a")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "*")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/a b")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/a?x\u{85}y")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/a HTTP/1.1\r\nX: y")],
        vec![METHOD, SCHEME, (":authority", ""), PATH],
        vec![METHOD, SCHEME, (":authority", "a@orders.example.org"), PATH],
        vec![METHOD, SCHEME, (":authority", "orders.example.org/x"), PATH],
        vec![METHOD, SCHEME, AUTHORITY, PATH, ("host", "other.test")],
        vec![
            METHOD,
            SCHEME,
            AUTHORITY,
            PATH,
            ("host", HOST),
            ("host", HOST),
        ],
        vec![METHOD, METHOD, SCHEME, AUTHORITY, PATH],
        vec![("x-first", "a"), METHOD, SCHEME, AUTHORITY, PATH],
        vec![(":method", "GET /x HTTP/1.1\r\n"), SCHEME, AUTHORITY, PATH],
        vec![(":method", "CONNECT"), AUTHORITY],
        vec![
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            SCHEME,
            AUTHORITY,
            PATH,
        ],
    ] {
        assert!(
            !succeeds(&world, &fields, None).await,
            "{fields:?} reached the service as {:?} {:?}",
            world.echo.seen()[0]["method"],
            world.echo.seen()[0]["path"]
        );
    }
    assert_eq!(world.echo.requests(), 0, "{:?}", world.echo.seen());
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_does_not_succeed() {
    let world = World::open().await;
    let post = |length: &'static str| {
        [
            (":method", "POST"),
            SCHEME,
            AUTHORITY,
            PATH,
            ("content-length", length),
        ]
    };
    assert!(succeeds(&world, &post("4"), Some(b"abcd")).await);
    for length in ["3", "5", "0", "x", "-4", "4, 5"] {
        assert!(
            !succeeds(&world, &post(length), Some(b"abcd")).await,
            "{length}"
        );
    }
    // The request announces content, but has no body at all.
    assert!(!succeeds(&world, &post("4"), None).await);
    let twice = [
        (":method", "POST"),
        SCHEME,
        AUTHORITY,
        PATH,
        ("content-length", "4"),
        ("content-length", "5"),
    ];
    assert!(!succeeds(&world, &twice, Some(b"abcd")).await);
    // Two equal `Content-Length` fields are refused too, because the service would get both.
    let twice = [&post("4")[..], &[("content-length", "4")]].concat();
    let before = world.echo.requests();
    assert!(!succeeds(&world, &twice, Some(b"abcd")).await);
    assert_eq!(world.echo.requests(), before);
}

#[tokio::test]
async fn nothing_that_passes_for_a_framing_field_arrives() {
    let world = World::open().await;
    for field in [
        ("content_length", "5"),
        ("content.length", "5"),
        ("transfer_encoding", "chunked"),
        ("transfer.encoding", "chunked"),
    ] {
        let fields = [&GOOD[..], &[field]].concat();
        if succeeds(&world, &fields, None).await {
            let seen = world.echo.seen().pop().unwrap();
            let arrived = seen["headers"]
                .as_array()
                .unwrap()
                .iter()
                .any(|received| received[0] == field.0);
            assert!(!arrived, "{field:?} reached the service");
        }
    }
}

#[tokio::test]
async fn http1_over_a_connection_that_agreed_on_h2_gets_nowhere() {
    let world = World::open().await;
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let client = world.client().protocol(Protocol::Http2);
    let answer = client
        .raw(request.as_bytes(), Duration::from_secs(5))
        .await
        .unwrap();
    assert!(answer.closed);
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn h2_without_its_negotiation_gets_nowhere() {
    let world = World::open().await;
    let mut octets = http2::preface();
    octets.extend(http2::headers(1, true, &GOOD));
    for client in [world.client(), world.client().without_alpn()] {
        let answer = client.raw(&octets, Duration::from_secs(5)).await.unwrap();
        assert!(answer.closed, "{}", answer.text());
        assert!(answer.statuses().iter().all(|status| *status >= 400));
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn heads_that_the_library_accepts_are_refused_with_a_reason() {
    const BLANK: &str = "a field's value begins or ends with a blank";
    let world = World::open().await;
    let with = |field: (&'static str, &'static str)| {
        let mut fields: Vec<_> = GOOD.iter().filter(|(name, _)| *name != field.0).collect();
        let place = if field.0.starts_with(':') {
            0
        } else {
            fields.len()
        };
        fields.insert(place, &field);
        fields.into_iter().copied().collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for (field, detail) in [
        (("x-a", " v"), BLANK),
        (("x-a", "v "), BLANK),
        (("x-a", "\tv"), BLANK),
        ((":path", "?x"), "the path does not begin with a slash"),
        ((":path", "*"), "the target '*' is not about any route"),
        ((":scheme", "ftp"), "the scheme is neither https nor http"),
        ((":scheme", ""), "the scheme is neither https nor http"),
        (
            (":authority", "orders.example.org:99999"),
            "the request's port is malformed",
        ),
    ] {
        assert!(!succeeds(&world, &with(field), None).await, "{field:?}");
        found.push(detail);
        let count = found.iter().filter(|other| **other == detail).count();
        let audit = world.gateway.audit();
        let lines = audit
            .at_least(count, detail, |line| {
                line["event"] == "request" && line["detail"] == detail
            })
            .await;
        let line = lines.last().unwrap();
        let expected = (&"malformed-request".into(), &400.into());
        assert_eq!((&line["reason"], &line["status"]), expected, "{field:?}");
    }
    assert_eq!(world.echo.requests(), 0, "{:?}", world.echo.seen());
}

#[tokio::test]
async fn trailers_with_blanks_at_the_edge_of_a_value_are_refused() {
    let world = World::open().await;
    let mut fields = GOOD.to_vec();
    fields[0] = (":method", "POST");
    let bytes = [
        http2::preface(),
        http2::headers(1, false, &fields),
        http2::data(1, false, b"x"),
        http2::headers(1, true, &[("x-checksum", " 1")]),
    ];
    let client = world.client().protocol(Protocol::Http2);
    let mut connection = client.connect().await.unwrap();
    connection.write(&bytes.concat()).await.unwrap();
    let line = world
        .gateway
        .audit()
        .line("the trailers", |line| line["reason"] == "malformed-request")
        .await;
    assert_eq!(
        line["detail"],
        "a field's value begins or ends with a blank"
    );
}

#[tokio::test]
async fn a_query_without_a_path_gets_the_path_of_a_slash() {
    for protocol in ["http1", "h2"] {
        let ca = TestCa::new("example.org");
        let spoken = if protocol == "h2" {
            Protocol::Http2
        } else {
            Protocol::Http1
        };
        let service = Service::start(ServiceSpec::plain(spoken)).await;
        let settings = Settings::new(&ca)
            .upstream_with(
                "orders",
                service.address(),
                &format!("protocol = {protocol:?}\n"),
            )
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
        let gateway = Gateway::start(BINARY, &settings).await;
        let client = gateway
            .client(HOST)
            .with(&ca.client("/ns/shop/sa/checkout"));
        let request =
            format!("GET https://{HOST}?x=1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let answer = client
            .raw(request.as_bytes(), Duration::from_secs(5))
            .await
            .unwrap();
        let text = answer.text();
        assert_eq!(answer.statuses(), [200], "{protocol}: {text}");
        assert!(text.contains("\"path\":\"/?x=1\""), "{protocol}: {text}");
        let document: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let fields = document["headers"].as_array().unwrap();
        let signed = fields
            .iter()
            .find(|field| field[0] == "countersign-assertion");
        let (_, claims) = decode(signed.unwrap()[1].as_str().unwrap());
        assert_eq!(claims["htu"], format!("https://{HOST}/"), "{protocol}");
    }
}

#[tokio::test]
async fn an_empty_body_may_end_in_a_frame_of_its_own() {
    let world = World::open().await;
    let mut fields = GOOD.to_vec();
    fields[0] = (":method", "POST");
    fields.push(("content-length", "0"));
    assert!(succeeds(&world, &fields, Some(&[])).await);
    assert!(!succeeds(&world, &fields, Some(b"x")).await);
    // h2 resets the stream too. The response in the place of this reset has a line of its own.
    let detail = "Content-Length is 0, but the body is not empty";
    let line = world
        .gateway
        .audit()
        .line("the body", |line| line["detail"] == detail)
        .await;
    assert_eq!(line["reason"], "malformed-request");
    assert_eq!(world.echo.requests(), 1);
}
