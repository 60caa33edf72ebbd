//! Requests that are sent again, requests that must not be sent again, and upstream limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_testkit::client::get;
use countersign_testkit::{
    Afterwards, Echo, Protocol, Scripted, Settings, TestCa, http2, in_time, read_head, until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::http;
use crate::support::{Front, HOST, request};

/// A service that closes the connection for the first `failures` requests. To all others, it
/// responds with their assertion.
struct Flaky {
    address: std::net::SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Flaky {
    async fn start(failures: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let Ok(head) = read_head(&mut stream).await else {
                        return;
                    };
                    if seen.fetch_add(1, Ordering::SeqCst) < failures {
                        return;
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let assertion = head
                        .lines()
                        .find_map(|line| line.strip_prefix("countersign-assertion: "))
                        .unwrap_or_default();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{assertion}",
                        assertion.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Flaky {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn an_idempotent_request_is_sent_again_with_an_assertion_of_its_own() {
    let ca = TestCa::new("example.org");
    for protocol in Protocol::BOTH {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let service = Flaky::start(1).await;
            let world = Front::open(&ca, &[http(service.address)], "").await;
            let client = world.client().protocol(protocol);
            let answer = client.send(request(method, "/a", "")).await.unwrap();
            assert_eq!(answer.status, 200, "{method}: {answer:?}");
            assert_eq!(service.requests(), 2, "{method}");
            let line = world.gateway.audit().request("/a").await;
            assert_eq!(line["attempts"], 2);
            // The audit log records the assertion that the service accepted.
            let payload = String::from_utf8(answer.body.to_vec()).unwrap();
            let payload = payload.split('.').nth(1).unwrap().to_owned();
            use base64ct::Encoding as _;
            let claims = base64ct::Base64UrlUnpadded::decode_vec(&payload).unwrap();
            let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
            assert_eq!(claims["jti"], line["jti"]);
            // The audit log also records the assertion of the attempt that failed.
            let earlier = line["earlier_jtis"].as_array().unwrap();
            assert_eq!(earlier.len(), 1, "{line}");
            assert!(earlier[0].is_string() && earlier[0] != line["jti"]);
        }
    }
}

#[tokio::test]
async fn what_may_have_had_an_effect_is_not_sent_again() {
    let ca = TestCa::new("example.org");
    let bound = "paths = [\"/**\"]\ncallers = [\"*\"]\nbind_body = \"1KiB\"\n";
    for (method, body, keys, route, sent) in [
        ("POST", "", "", "", 1),
        ("PATCH", "", "", "", 1),
        ("PUT", "streamed", "", "", 1),
        ("GET", "", "retries = 0\n", "", 1),
        // On this route the gateway buffers the body, and can send it again.
        ("PUT", "held", "", bound, 2),
        ("POST", "held", "", bound, 1),
    ] {
        let service = Flaky::start(1).await;
        let route = if route.is_empty() {
            "paths = [\"/**\"]\ncallers = [\"*\"]\n"
        } else {
            route
        };
        let settings = Settings::new(&ca)
            .upstream_at("orders", &[http(service.address)], keys)
            .route("orders", "orders", route);
        let world = Front::with(&ca, &settings).await;
        let answer = world
            .client()
            .send(request(method, "/a", body))
            .await
            .unwrap();
        let expected = if sent == 1 { 502 } else { 200 };
        assert_eq!(answer.status, expected, "{method} {body}: {answer:?}");
        assert_eq!(service.requests(), sent, "{method} {body}");
    }
}

#[tokio::test]
async fn a_service_in_trouble_is_not_asked_twice_as_often() {
    let ca = TestCa::new("example.org");
    let service = Flaky::start(usize::MAX).await;
    let world = Front::open(&ca, &[http(service.address)], "retry_budget = 10\n").await;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..100 {
        let answer = session.get("/a").await.unwrap();
        assert_eq!(answer.reason(), Some("upstream-protocol"));
    }
    // The retry budget begins with ten, and 100 requests add ten.
    let sent = service.requests();
    assert!((110..=121).contains(&sent), "{sent}");
    let metrics =
        countersign_testkit::gateway::plain(world.gateway.admin(), "GET", "/metrics", &[]).await;
    let retries = format!(
        "countersign_upstream_retries_total{{upstream=\"orders\"}} {}",
        sent - 100
    );
    assert!(metrics.body.contains(&retries), "{}", metrics.body);
    assert!(metrics.body.contains(
        "countersign_upstream_errors_total{upstream=\"orders\",reason=\"upstream-protocol\"} 100"
    ));
}

#[tokio::test]
async fn another_endpoint_gets_what_one_broke_off() {
    let ca = TestCa::new("example.org");
    let bad = Flaky::start(usize::MAX).await;
    let echo = Echo::start().await;
    let endpoints = [http(bad.address), http(echo.address())];
    let world = Front::open(&ca, &endpoints, "").await;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..10 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    assert_eq!(echo.requests(), 10);
}

/// With "least-requests", a failing endpoint must not attract all requests, although it has the
/// fewest requests in progress.
#[tokio::test]
async fn an_endpoint_that_breaks_every_request_off_is_ejected() {
    let ca = TestCa::new("example.org");
    for balance in ["round-robin", "least-requests"] {
        let bad = Flaky::start(usize::MAX).await;
        let echo = Echo::start().await;
        let endpoints = [http(bad.address), http(echo.address())];
        let more = format!("balance = \"{balance}\"\n");
        let world = Front::open(&ca, &endpoints, &more).await;
        let mut session = world.client().session().await.unwrap();
        let mut broken = 0;
        for _ in 0..40 {
            // The gateway never sends POST requests again.
            let answer = session.send(request("POST", "/a", "")).await.unwrap();
            broken += usize::from(answer.status != 200);
        }
        // Three failures eject the endpoint. Each later trial of the endpoint is one more failure.
        assert!((3..10).contains(&broken), "{broken} of 40, {balance}");
        assert_eq!(bad.requests(), broken);
    }
}

#[tokio::test]
async fn nonsense_and_lateness_are_not_asked_for_again() {
    let ca = TestCa::new("example.org");
    let service = Scripted::start("garbage\r\n\r\n", Afterwards::Close).await;
    let world = Front::open(&ca, &[http(service.address())], "").await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 502);
    assert_eq!(service.requests(), 1);
    let service = Scripted::start("", Afterwards::Hang).await;
    let more = "first_byte_timeout = \"300ms\"\n";
    let world = Front::open(&ca, &[http(service.address())], more).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 504);
    assert_eq!(service.requests(), 1);
}

#[tokio::test]
async fn an_upstream_with_enough_to_do_sheds_what_is_more() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let world = Front::open(&ca, &[http(echo.address())], "max_requests = 2\n").await;
    let mut hanging = Vec::new();
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        hanging.push(tokio::spawn(async move { client.get("/hang").await }));
    }
    until("two requests", async || echo.requests() >= 2).await;
    for protocol in Protocol::BOTH {
        let answer = world.client().protocol(protocol).get("/a").await.unwrap();
        assert_eq!((answer.status, answer.reason()), (503, Some("overloaded")));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    for task in hanging {
        task.abort();
    }
    // New requests are allowed as soon as the gateway notices that the old ones were cancelled.
    in_time("a place", async {
        while world.client().get("/b").await.unwrap().status != 200 {}
    })
    .await;
}

#[tokio::test]
async fn total_timeout_bounds_the_answers_head() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let world = Front::open(&ca, &[http(echo.address())], "total_timeout = \"300ms\"\n").await;
    for protocol in Protocol::BOTH {
        let answer = world
            .client()
            .protocol(protocol)
            .get("/hang")
            .await
            .unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (504, Some("upstream-timeout"))
        );
    }
    assert_eq!(world.client().send(get("/a")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_slow_caller_is_not_the_services_fault() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let other = Echo::start().await;
    let endpoints = [http(echo.address()), http(other.address())];
    let world = Front::open(&ca, &endpoints, "first_byte_timeout = \"300ms\"\n").await;
    // Each upload takes three times the timeout of the service. Each endpoint gets three uploads.
    for _ in 0..6 {
        let mut connection = world.client().connect().await.unwrap();
        let head = format!(
            "POST /a HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nConnection: close\r\n\r\n",
            HOST
        );
        connection.write(head.as_bytes()).await.unwrap();
        for piece in [&b"b"[..], b"o", b"dy"] {
            tokio::time::sleep(Duration::from_millis(350)).await;
            connection.write(piece).await.unwrap();
        }
        let answer = connection.read_until_silent(Duration::from_secs(5)).await;
        assert_eq!(answer.statuses(), [200], "{}", answer.text());
    }
    assert_eq!((echo.requests(), other.requests()), (3, 3));
    for _ in 0..4 {
        assert_eq!(world.client().get("/b").await.unwrap().status, 200);
    }
    assert_eq!((echo.requests(), other.requests()), (5, 5));
}

#[tokio::test]
async fn a_request_without_an_answer_says_why() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let world = Front::open(&ca, &[http(echo.address())], "").await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let path = format!("/{protocol:?}/hang");
        let asked = path.clone();
        let task = tokio::spawn(async move { client.get(&asked).await });
        echo.arrived(&path).await;
        task.abort();
        let line = world.gateway.audit().request(&path).await;
        assert_eq!(line["decision"], "allowed");
        assert_eq!(
            (&line["complete"], &line["status"]),
            (&false.into(), &serde_json::Value::Null)
        );
        assert_eq!(
            line["detail"],
            "the caller went away before there was an answer"
        );
    }
}

/// A service that resets the first stream of each connection with this code. It responds on all
/// other streams.
async fn refusing(code: h2::Reason) -> (std::net::SocketAddr, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                        respond.send_reset(code);
                    } else {
                        let _ = respond.send_response(http::Response::new(()), true);
                    }
                }
            });
        }
    });
    (address, requests, task)
}

#[tokio::test]
async fn what_a_service_has_not_looked_at_is_sent_again_whatever_it_is() {
    let ca = TestCa::new("example.org");
    for (code, method, status, sent) in [
        (h2::Reason::REFUSED_STREAM, "POST", 200, 2),
        (h2::Reason::REFUSED_STREAM, "GET", 200, 2),
        (h2::Reason::INTERNAL_ERROR, "POST", 502, 1),
        (h2::Reason::INTERNAL_ERROR, "GET", 200, 2),
    ] {
        let (address, requests, task) = refusing(code).await;
        let world = Front::open(&ca, &[http(address)], "protocol = \"h2\"\n").await;
        let answer = world
            .client()
            .send(request(method, "/a", ""))
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{code:?} {method}: {answer:?}");
        assert_eq!(requests.load(Ordering::SeqCst), sent, "{code:?} {method}");
        task.abort();
    }
}

/// A service that sends GOAWAY after its first request and closes the connection. `looks`: the
/// GOAWAY says that the request was processed. On later connections, the service responds.
async fn leaving(looks: bool) -> (std::net::SocketAddr, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&http2::frame(4, 0, 0, &[])).await;
            let mut octets = Vec::new();
            let asked = loop {
                if stream.read_buf(&mut octets).await.unwrap_or(0) == 0 {
                    break None;
                }
                // The first 24 bytes are the connection preface.
                let frames = http2::frames(octets.get(24..).unwrap_or_default());
                if let Some(head) = frames.iter().find(|frame| frame.kind == 1) {
                    break Some(head.stream);
                }
            };
            let Some(asked) = asked else { continue };
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                let last = if looks { asked } else { 0 };
                let said = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                let _ = stream.write_all(&http2::frame(7, 0, 0, &said)).await;
                let _ = stream.shutdown().await;
                // Closing a socket with unread input could discard the GOAWAY.
                let _ = stream.read_to_end(&mut octets).await;
                continue;
            }
            let head = http2::headers(asked, true, &[(":status", "200")]);
            let _ = stream.write_all(&head).await;
            tokio::spawn(async move { stream.read_to_end(&mut octets).await });
        }
    });
    (address, requests, task)
}

#[tokio::test]
async fn what_a_service_goes_away_from_is_sent_again_unless_it_was_looked_at() {
    let ca = TestCa::new("example.org");
    for (looks, method, status, sent) in [
        (false, "POST", 200, 2),
        (false, "GET", 200, 2),
        (true, "POST", 502, 1),
        (true, "GET", 200, 2),
    ] {
        let (address, requests, task) = leaving(looks).await;
        let world = Front::open(&ca, &[http(address)], "protocol = \"h2\"\n").await;
        let answer = world
            .client()
            .send(request(method, "/a", ""))
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{looks} {method}: {answer:?}");
        assert_eq!(requests.load(Ordering::SeqCst), sent, "{looks} {method}");
        task.abort();
    }
}

/// The service sends GOAWAY on every connection, before or after a request.
#[tokio::test]
async fn a_service_that_always_goes_away_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let said = [http2::frame(4, 0, 0, &[]), http2::frame(7, 0, 0, &[0; 8])].concat();
                let _ = stream.write_all(&said).await;
                stream.read_to_end(&mut Vec::new()).await
            });
        }
    });
    let ca = TestCa::new("example.org");
    let world = Front::open(&ca, &[http(address)], "protocol = \"h2\"\n").await;
    for method in ["GET", "POST"] {
        let before = connections.load(Ordering::SeqCst);
        let answer = world
            .client()
            .send(request(method, "/a", ""))
            .await
            .unwrap();
        assert!(matches!(answer.status, 502 | 503), "{answer:?}");
        assert!(answer.reason().unwrap().starts_with("upstream-"));
        let made = connections.load(Ordering::SeqCst) - before;
        assert!((1..=3).contains(&made), "{made} connections for {method}");
    }
    task.abort();
}

#[tokio::test]
async fn a_body_that_is_read_whole_takes_no_place_before_it_is_there() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let settings = Settings::new(&ca)
        .upstream_at("orders", &[http(echo.address())], "max_requests = 1\n")
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nbind_body = \"1KiB\"\n",
        );
    let world = Front::with(&ca, &settings).await;
    let mut slow = world.client().connect().await.unwrap();
    let head = format!(
        "POST /slow HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        HOST
    );
    slow.write(head.as_bytes()).await.unwrap();
    // The gateway sends 100 Continue when it begins to read the body.
    let asked = slow.read_head().await;
    assert_eq!(asked.statuses(), [100], "{}", asked.text());
    slow.write(b"bo").await.unwrap();
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    slow.write(b"dy").await.unwrap();
    let answer = slow
        .read_until(|octets| octets.starts_with(b"HTTP/1.1 200"))
        .await;
    assert!(!answer.closed, "{}", answer.text());
}
