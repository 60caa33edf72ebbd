//! How large the head of a request or of a response may be, and what a larger one gets.

use std::fmt::Write as _;

use bytes::Bytes;
use countersign_testkit::{Afterwards, Client, Protocol, Scripted};
use http::Request;

use crate::support::{HOST, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";

/// So many fields.
fn fields(count: usize) -> String {
    (0..count).fold(String::new(), |mut fields, number| {
        write!(fields, "X-{number}: a\r\n").unwrap();
        fields
    })
}

/// A service that ignores what it gets. Many services accept only a hundred fields, among them
/// those that the gateway adds.
async fn service() -> Scripted {
    Scripted::start(format!("{OK}\r\nok"), Afterwards::Again).await
}

/// Sends a request with so many fields and returns the status and the reason.
async fn ask(client: &Client, protocol: Protocol, count: usize) -> (u16, Option<String>) {
    let mut request = Request::get("/a");
    // Host is a field of HTTP/1.1.
    let more = count - usize::from(protocol == Protocol::Http1);
    for number in 0..more {
        request = request.header(format!("x-{number}"), "a");
    }
    let request = request.body(Bytes::new()).unwrap();
    let answer = client.clone().protocol(protocol).send(request).await;
    let answer = answer.unwrap();
    (answer.status, answer.reason().map(str::to_owned))
}

#[tokio::test]
async fn requests_with_too_many_fields_are_refused_alike_over_both_protocols() {
    let service = service().await;
    let refused = (431, Some("too-large".to_owned()));
    for (setting, max) in [(None, 100), (Some("16"), 16), (Some("300"), 300)] {
        let world = World::with(|mut settings, _| {
            if let Some(setting) = setting {
                settings = settings.set("limits", "header_fields", setting);
            }
            settings.everything_to(service.address())
        })
        .await;
        for protocol in Protocol::BOTH {
            for fits in [max - 2, max - 1, max] {
                let answer = ask(&world.client(), protocol, fits).await;
                assert_eq!(answer, (200, None), "{protocol:?} {fits} of {max}");
            }
            for more in [max + 1, max + 2, 2 * max] {
                let answer = ask(&world.client(), protocol, more).await;
                assert_eq!(answer, refused, "{protocol:?} {more} of {max}");
            }
        }
        let lines = world
            .gateway
            .audit()
            .at_least(6, "refusals", |line| line["reason"] == "too-large")
            .await;
        for line in lines {
            assert_eq!(line["status"], 431, "{line}");
            let detail = line["detail"].as_str().unwrap();
            assert!(detail.contains("more header fields"), "{line}");
        }
        // HTTP/2 may split a Cookie field.
        let mut request = Request::get("/a");
        for number in 0..2 * max {
            request = request.header("cookie", format!("c{number}=1"));
        }
        let request = request.body(Bytes::new()).unwrap();
        let client = world.client().protocol(Protocol::Http2);
        assert_eq!(client.send(request).await.unwrap().status, 200);
    }
}

/// Returns the status, and the detail of the audit line. The client has no limits.
async fn answered(service: &str, settings: &str) -> (u16, String) {
    let service = Scripted::start(service, Afterwards::Again).await;
    let world = World::with(|all, _| {
        all.upstream_with("orders", service.address(), settings)
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await;
    let mut connection = world.client().connect().await.unwrap();
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    connection.write(request.as_bytes()).await.unwrap();
    let answer = connection.read_until(|_| false).await;
    let status = answer.statuses()[0];
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(line["status"], status, "{line}");
    if status != 200 {
        let reason = "countersign-reason: upstream-protocol";
        assert!(answer.text().contains(reason), "{}", answer.text());
        // It would be the same again.
        assert_eq!(service.requests(), 1);
    }
    let detail = line["detail"].as_str().unwrap_or_default();
    (status, detail.to_owned())
}

#[tokio::test]
async fn a_response_with_too_many_fields_is_refused_for_that() {
    for (settings, max) in [("", 100), ("response_header_fields = 300\n", 300)] {
        for fits in [max - 2, max - 1, max] {
            let service = format!("{OK}{}\r\nok", fields(fits - 1));
            let (status, detail) = answered(&service, settings).await;
            assert_eq!(status, 200, "{fits} of {max}: {detail}");
        }
        for more in [max + 1, 2 * max] {
            let service = format!("{OK}{}\r\nok", fields(more - 1));
            let (status, detail) = answered(&service, settings).await;
            let wanted = format!("more than {max} fields (response_header_fields)");
            assert_eq!(status, 502, "{more} of {max}");
            assert!(detail.contains(&wanted), "{detail}");
        }
    }
}

#[tokio::test]
async fn so_is_one_with_too_large_a_head() {
    for (settings, max) in [
        ("", 64 * 1024),
        ("response_header_size = \"8KiB\"\n", 8 * 1024),
        ("response_header_size = \"1MiB\"\n", 1024 * 1024),
    ] {
        let large = |size: usize| format!("{OK}X-Big: {}\r\n\r\nok", "x".repeat(size));
        let (status, detail) = answered(&large(max - 1024), settings).await;
        assert_eq!(status, 200, "{max}: {detail}");
        let (status, detail) = answered(&large(max + 1024), settings).await;
        assert_eq!(status, 502, "{max}");
        assert!(detail.contains(&format!("{max} bytes")), "{detail}");
        assert!(detail.contains("response_header_size"), "{detail}");
    }
}

/// The other refusals of heads are still said to be what they are.
#[tokio::test]
async fn what_is_not_http_is_still_said_to_be_that() {
    let (status, detail) = answered("220 mail.example.org ESMTP\r\n\r\n", "").await;
    assert_eq!(status, 502);
    assert!(detail.contains("not HTTP"), "{detail}");
}

/// A head with exactly as many bytes as allowed over HTTP/1.1, and one more.
#[tokio::test]
async fn the_size_of_a_request_head_is_exact() {
    let service = service().await;
    let world = World::with(|settings, _| {
        settings
            .set("limits", "header_size", "\"8KiB\"")
            .everything_to(service.address())
    })
    .await;
    let start = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nX-Big: ");
    for (size, status) in [(8192, 200), (8193, 431)] {
        let value = "x".repeat(size - start.len() - 4);
        let mut connection = world.client().connect().await.unwrap();
        let request = format!("{start}{value}\r\n\r\n");
        connection.write(request.as_bytes()).await.unwrap();
        let answer = connection.read_until(|_| false).await;
        assert_eq!(answer.statuses(), [status], "{size}");
        let has_reason = answer.text().contains("countersign-reason: too-large");
        assert_eq!(has_reason, status == 431, "{}", answer.text());
    }
}
