//! Trailers of requests and responses: the gateway removes forbidden fields.

use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::service::pieces;
use countersign_testkit::{
    Afterwards, Client, Protocol, Scripted, Service, ServiceSpec, TestCa, in_time,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::Frame;
use http_body_util::BodyExt as _;

use super::http;
use crate::support::{Front, HOST};

const FORGED: &str = "forged";

/// Trailers that the gateway removes: fields of a head, and fields that only the gateway may set.
const FORBIDDEN: [&str; 24] = [
    "authorization",
    "client_cert",
    "content-length",
    "content_length",
    "content.length",
    "content-type",
    "content_encoding",
    "content-range",
    "cookie",
    "countersign-assertion",
    "countersign_assertion",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "max_forwards",
    "proxy-authorization",
    "proxy_authorization",
    "set_cookie",
    "transfer_encoding",
    "transfer.encoding",
    "x-api-key",
    "x_api.key",
    "x-forwarded-for",
];
/// Trailers that the gateway forwards.
const KEPT: [&str; 4] = [
    "x-checksum",
    "grpc-status",
    "grpc-message",
    "x-metadata-bin",
];

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let kept = KEPT.iter().map(|name| (*name, "1"));
    FORBIDDEN.iter().map(|name| (*name, FORGED)).chain(kept)
}

/// Returns the names of the trailers that the service has received.
fn received(seen: &serde_json::Value) -> Vec<&str> {
    let fields = seen["trailers"].as_array().unwrap();
    let mut names: Vec<_> = fields.iter().map(|f| f[0].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

fn kept() -> Vec<&'static str> {
    let mut kept = KEPT.to_vec();
    kept.sort_unstable();
    kept
}

/// Returns the `wanted` trailers in two forms: as the value of a `Trailer` field, and as the
/// lines after the last chunk.
fn in_chunks(wanted: impl Fn(&str) -> bool) -> (String, String) {
    let wanted: Vec<_> = all().filter(|(name, _)| wanted(name)).collect();
    let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
    let lines = wanted
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    (names.join(", "), lines.collect())
}

#[tokio::test]
async fn of_a_requests_trailers_only_those_that_may_be_some_arrive() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
    let world = Front::open(&ca, &[http(service.address())], "protocol = \"h2\"\n").await;
    let client = world.client().protocol(Protocol::Http2);
    let mut sender = client.streams().await.unwrap();
    let (pieces, body) = pieces();
    let request = Request::post(format!("https://{HOST}/a"));
    let sent = sender.send_request(request.body(body).unwrap());
    let data = Frame::data(Bytes::from_static(b"body"));
    pieces.send(Ok(data)).await.unwrap();
    let mut trailers = HeaderMap::new();
    for (name, value) in all() {
        let name = HeaderName::from_static(name);
        trailers.append(name, HeaderValue::from_static(value));
    }
    pieces.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(pieces);
    let answer = in_time("an answer", sent).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let seen = serde_json::from_slice(&body).unwrap();
    assert_eq!(received(&seen), kept());
    assert_eq!(seen["body"], "body");
}

#[tokio::test]
async fn nor_do_others_of_http1() {
    let ca = TestCa::new("example.org");
    for protocol in Protocol::BOTH {
        let service = Service::start(ServiceSpec::plain(protocol)).await;
        let name = if protocol == Protocol::Http2 {
            "h2"
        } else {
            "http1"
        };
        let more = format!("protocol = \"{name}\"\n");
        let world = Front::open(&ca, &[http(service.address())], &more).await;
        // The gateway refuses a whole request if its trailers contain one of these fields.
        let refused = ["content", "transfer", "host"];
        let (declared, lines) =
            in_chunks(|name| !refused.iter().any(|start| name.starts_with(start)));
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\
             Trailer: {declared}\r\n\r\n4\r\nbody\r\n0\r\n{lines}\r\n"
        );
        let mut connection = world.client().connect().await.unwrap();
        connection.write(request.as_bytes()).await.unwrap();
        let answer = connection.read_until(|octets| octets.ends_with(b"}")).await;
        let text = answer.text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        let seen = serde_json::from_str(body).unwrap();
        assert_eq!(received(&seen), kept(), "{protocol:?}");
        assert!(!seen.to_string().contains(FORGED), "{seen}");
    }
}

/// Returns the trailers that a caller receives over h2.
async fn trailers_of(client: &Client) -> HeaderMap {
    let client = client.clone().protocol(Protocol::Http2);
    let mut sender = client.streams().await.unwrap();
    let (pieces, body) = pieces();
    drop(pieces);
    let request = Request::get(format!("https://{HOST}/a"));
    let answer = sender.send_request(request.body(body).unwrap());
    let answer = in_time("an answer", answer).await.unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    collected.trailers().cloned().unwrap_or_default()
}

#[tokio::test]
async fn of_an_answers_trailers_only_those_that_may_be_some_arrive() {
    let ca = TestCa::new("example.org");
    let (declared, lines) = in_chunks(|_| true);
    let octets = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: {declared}\r\n\r\n\
         2\r\nok\r\n0\r\n{lines}\r\n"
    );
    let service = Scripted::start(octets, Afterwards::Again).await;
    let world = Front::open(&ca, &[http(service.address())], "").await;
    // These fields are removed only from requests, because they are only for services.
    let one_way = |name: &str| {
        matches!(
            name,
            "x-api-key" | "x_api.key" | "x-forwarded-for" | "client_cert" | "forwarded"
        )
    };
    let trailers = trailers_of(&world.client()).await;
    let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    names.retain(|name| !one_way(name));
    names.sort_unstable();
    assert_eq!(names, kept());
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\n\r\n");
    let mut connection = world.client().connect().await.unwrap();
    connection.write(request.as_bytes()).await.unwrap();
    let answer = connection
        .read_until_silent(Duration::from_millis(300))
        .await;
    let text = answer.text();
    let (_, trailers) = text.split_once("\r\n0\r\n").unwrap();
    for (name, value) in all().filter(|(name, _)| !one_way(name)) {
        let line = format!("{name}: {value}\r\n");
        assert_eq!(trailers.contains(&line), KEPT.contains(&name), "{text}");
    }
}
