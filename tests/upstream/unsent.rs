//! Connections that a service closes before the gateway can send a request. Such a request may be
//! sent again with any method, but only a limited number of times.

use countersign_testkit::{Answer, Protocol, Service, ServiceSpec, Settings, TestCa, until};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{http, https};
use crate::support::{Front, HOST, request};

/// A number that is larger than the number of connections in any test.
const ALL: usize = usize::MAX;

async fn cutting(ca: &TestCa, protocol: Protocol, connections: usize) -> Service {
    let spec = ServiceSpec::tls(protocol, &ca.server(&[]));
    Service::start(spec.cutting(connections)).await
}

async fn world(ca: &TestCa, services: &[&Service], more: &str) -> Front {
    let endpoints: Vec<_> = services.iter().map(|one| https(one.address())).collect();
    let roots = format!("roots = [\"{}\"]\n", ca.root_file().display());
    Front::open(ca, &endpoints, &(roots + more)).await
}

fn assert_given_up(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("upstream-unavailable")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn what_was_never_sent_is_sent_again_with_its_body() {
    let ca = TestCa::new("example.org");
    for protocol in Protocol::BOTH {
        for (method, body) in [
            ("POST", ""),
            ("POST", "all of it"),
            ("PATCH", "all of it"),
            ("PUT", "all of it"),
            ("GET", ""),
        ] {
            let service = cutting(&ca, Protocol::Http1, 1).await;
            let world = world(&ca, &[&service], "").await;
            let client = world.client().protocol(protocol);
            let answer = client.send(request(method, "/a", body)).await.unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {method}: {answer:?}");
            assert_eq!(answer.json()["body"], body);
            assert_eq!(answer.received("countersign-assertion").len(), 1);
            assert_eq!((service.cut(), service.heard()), (1, 0));
            assert_eq!(service.requests(), 1);
            // The request was sent only once.
            let line = world.gateway.audit().request("/a").await;
            assert_eq!(line["attempts"], Value::Null, "{line}");
            assert_eq!(line["earlier_jtis"], Value::Null, "{line}");
        }
    }
}

/// A caller with `Expect` gets 100 Continue only when a service will receive the body. The
/// gateway does not read a chunked body before that.
#[tokio::test]
async fn a_body_that_is_still_to_come_is_whole_when_it_was_never_sent() {
    let ca = TestCa::new("example.org");
    for (fields, first, rest) in [
        (
            "Content-Length: 4\r\nExpect: 100-continue\r\n",
            "",
            &["bo", "dy"][..],
        ),
        (
            "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
            "",
            &["2\r\nbo\r\n", "2\r\ndy\r\n0\r\n\r\n"],
        ),
        ("Content-Length: 4\r\n", "bo", &["dy"]),
        (
            "Transfer-Encoding: chunked\r\n",
            "2\r\nbo\r\n",
            &["2\r\ndy\r\n0\r\n\r\n"],
        ),
    ] {
        let service = cutting(&ca, Protocol::Http1, 1).await;
        let world = world(&ca, &[&service], "").await;
        let mut caller = world.client().connect().await.unwrap();
        let head = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{first}");
        caller.write(head.as_bytes()).await.unwrap();
        let asks = fields.contains("Expect");
        if asks {
            let interim = caller.read_head().await;
            assert_eq!(interim.statuses(), [100], "{}", interim.text());
        } else {
            // The caller sends the rest when the gateway has opened a second connection.
            until("a second connection", async || service.connections() != 0).await;
        }
        for piece in rest {
            caller.write(piece.as_bytes()).await.unwrap();
        }
        let answer = caller.read_until(|octets| octets.ends_with(b"}")).await;
        assert_eq!(answer.statuses(), [200], "{}", answer.text());
        assert!(
            answer.text().contains("\"body\":\"body\""),
            "{}",
            answer.text()
        );
        assert_eq!(answer.text().contains("[\"expect\""), asks);
        assert_eq!((service.cut(), service.heard()), (1, 0));
        assert_eq!(service.requests(), 1);
    }
}

#[tokio::test]
async fn a_service_that_closes_every_connection_is_given_up_after_its_retries() {
    let ca = TestCa::new("example.org");
    for retries in [0, 1, 3] {
        let service = cutting(&ca, Protocol::Http1, ALL).await;
        let world = world(&ca, &[&service], &format!("retries = {retries}\n")).await;
        for (number, method) in ["GET", "POST"].into_iter().enumerate() {
            let answer = world
                .client()
                .send(request(method, "/a", ""))
                .await
                .unwrap();
            assert_given_up(&answer);
            assert_eq!(service.cut(), (number + 1) * (retries + 1), "{method}");
        }
        let line = world.gateway.audit().request("/a").await;
        assert_eq!(line["reason"], "upstream-unavailable");
        assert_eq!((service.heard(), service.requests()), (0, 0));
    }
}

#[tokio::test]
async fn what_is_never_sent_has_a_budget_too() {
    let ca = TestCa::new("example.org");
    let service = cutting(&ca, Protocol::Http1, ALL).await;
    let world = world(&ca, &[&service], "retries = 5\nretry_budget = 10\n").await;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..50 {
        assert_given_up(&session.send(request("POST", "/a", "")).await.unwrap());
    }
    // The retry budget begins with ten, and 50 requests add five.
    let made = service.cut();
    assert!((60..=66).contains(&made), "{made}");
}

/// The bytes of this service are not an HTTP response, whether they arrive before or after the
/// gateway writes the request.
#[tokio::test]
async fn a_service_that_speaks_first_does_not_speak_http() {
    let ca = TestCa::new("example.org");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
                stream.read_to_end(&mut Vec::new()).await
            });
        }
    });
    let world = Front::open(&ca, &[http(address)], "").await;
    for _ in 0..20 {
        let answer = world
            .client()
            .send(request("POST", "/a", ""))
            .await
            .unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (502, Some("upstream-protocol")),
            "{answer:?}"
        );
    }
    task.abort();
}

/// The bad endpoint accepts connections but no requests, and is ejected for some time.
#[tokio::test]
async fn another_endpoint_gets_what_one_did_not_take() {
    let ca = TestCa::new("example.org");
    for (protocol, balance) in [
        (Protocol::Http1, "round-robin"),
        (Protocol::Http1, "least-requests"),
        (Protocol::Http2, "round-robin"),
    ] {
        let bad = cutting(&ca, protocol, ALL).await;
        let good = cutting(&ca, protocol, 0).await;
        let word = match protocol {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "h2",
        };
        let more = format!("balance = \"{balance}\"\nprotocol = \"{word}\"\n");
        let world = world(&ca, &[&bad, &good], &more).await;
        let mut session = world.client().session().await.unwrap();
        for _ in 0..40 {
            let answer = session.send(request("POST", "/a", "once")).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?} {}", world.gateway.stderr());
        }
        assert_eq!(good.requests(), 40);
        // Over h2 the bad endpoint receives the connection preface, which `heard` counts.
        assert!(protocol == Protocol::Http2 || bad.heard() == 0);
        // The first failure ejects the endpoint. Each later trial is one more failure.
        assert!((1..8).contains(&bad.cut()), "{} {balance}", bad.cut());
    }
}

#[tokio::test]
async fn one_that_is_tried_in_vain_is_not_tried_again_before_the_others() {
    let ca = TestCa::new("example.org");
    let bad = [
        cutting(&ca, Protocol::Http1, ALL).await,
        cutting(&ca, Protocol::Http1, ALL).await,
    ];
    let good = cutting(&ca, Protocol::Http1, 0).await;
    let world = world(&ca, &[&bad[0], &bad[1], &good], "retries = 2\n").await;
    for _ in 0..6 {
        let answer = world
            .client()
            .send(request("POST", "/a", "once"))
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(good.requests(), 6);
}

#[tokio::test]
async fn a_bound_body_that_was_never_sent_is_sent_again() {
    let ca = TestCa::new("example.org");
    let service = cutting(&ca, Protocol::Http1, 1).await;
    let roots = format!("roots = [\"{}\"]\n", ca.root_file().display());
    let settings = Settings::new(&ca)
        .upstream_at("orders", &[https(service.address())], &roots)
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nbind_body = \"1KiB\"\n",
        );
    let world = Front::with(&ca, &settings).await;
    let answer = world
        .client()
        .send(request("POST", "/a", "held"))
        .await
        .unwrap();
    assert_eq!((answer.status, service.cut()), (200, 1), "{answer:?}");
    assert_eq!(answer.json()["body"], "held");
}
