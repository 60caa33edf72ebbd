//! h2 connections to services, and gRPC calls through the gateway.

use std::convert::Infallible;

use bytes::Bytes;
use countersign_testkit::service::pieces;
use countersign_testkit::{
    Protocol, Service, ServiceSpec, TestCa, http2 as frames, in_time, until,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::http;
use crate::support::{Front, HOST};

async fn world(more: &str) -> (Front, Service) {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
    let more = format!("protocol = \"h2\"\n{more}");
    (
        Front::open(&ca, &[http(service.address())], &more).await,
        service,
    )
}

#[tokio::test]
async fn either_protocol_reaches_a_service_that_speaks_h2() {
    let (world, _service) = world("").await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let request = Request::post("/a?b=c").body(Bytes::from("hello")).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = answer.json();
        assert_eq!(seen["method"], "POST");
        assert_eq!(seen["path"], "/a?b=c");
        assert_eq!(seen["authority"], HOST);
        assert_eq!(seen["body"], "hello");
        assert!(answer.received("host").is_empty());
        assert_eq!(answer.received("countersign-assertion").len(), 1);
    }
}

#[tokio::test]
async fn requests_of_many_callers_share_one_connection_per_worker() {
    let (world, service) = world("").await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let client = world.client().protocol(Protocol::Http2);
        waiting.push(tokio::spawn(async move { client.get("/wait").await }));
    }
    until("requests to arrive", async || service.requests() >= 20).await;
    assert!(service.connections() <= 2, "{}", service.connections());
    assert_eq!(world.client().get("/go").await.unwrap().status, 200);
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap().status, 200);
    }
}

#[tokio::test]
async fn grpc_streams_both_ways_and_ends_with_filtered_trailers() {
    // The pauses are longer than both timeouts, which do not apply to gRPC calls to h2 services.
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
    let settings = countersign_testkit::Settings::new(&ca)
        .set("limits", "body_timeout", "\"200ms\"")
        .upstream_at(
            "orders",
            &[http(service.address())],
            "protocol = \"h2\"\nfirst_byte_timeout = \"200ms\"\n",
        )
        .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
    let world = Front::with(&ca, &settings).await;
    let mut sender = world.client().streams().await.unwrap();
    let (pieces, body) = pieces();
    let request = Request::post(format!("https://{HOST}/shop.Orders/stream"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let response = in_time("a head", sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let mut answer = response.into_body();
    for text in ["one", "two", "three"] {
        pieces
            .send(Ok(Frame::data(Bytes::from(text))))
            .await
            .unwrap();
        let frame = in_time("a piece", answer.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("abc"));
    trailers.insert("x-forwarded-for", HeaderValue::from_static("1.2.3.4"));
    pieces.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(pieces);
    let frame = in_time("trailers", answer.frame()).await.unwrap().unwrap();
    let trailers = frame.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-checksum"], "abc");
    assert!(!trailers.contains_key("x-forwarded-for"));
    assert!(!trailers.contains_key("countersign-reason"));
}

#[tokio::test]
async fn te_trailers_reaches_h2_services_only_when_the_caller_takes_them() {
    let (world, _service) = world("").await;
    let client = world.client().protocol(Protocol::Http2);
    let with = Request::get("/a")
        .header("te", "trailers")
        .body(Bytes::new())
        .unwrap();
    assert_eq!(
        client.send(with).await.unwrap().received("te"),
        ["trailers"]
    );
    assert!(client.get("/a").await.unwrap().received("te").is_empty());
}

#[tokio::test]
async fn a_service_that_speaks_no_h2() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http1)).await;
    let world = Front::open(&ca, &[http(service.address())], "protocol = \"h2\"\n").await;
    let answer = world.client().get("/a").await.unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (502, Some("upstream-protocol"))
    );
}

#[tokio::test]
async fn a_service_that_comes_back_is_found_again() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
    let address = service.address();
    let world = Front::open(&ca, &[http(address)], "protocol = \"h2\"\n").await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    drop(service);
    let refused = world.client().get("/a").await.unwrap();
    assert!(matches!(refused.status, 200 | 502 | 503), "{refused:?}");
}

#[tokio::test]
async fn a_grpc_call_ends_at_its_deadline_even_if_neither_side_ends_it() {
    let (world, service) = world("").await;
    let client = world.client().protocol(Protocol::Http2);
    let request = Request::post("/shop.Orders/wait")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "100m")
        .body(Bytes::new())
        .unwrap();
    // The service hangs, and the caller waits. The gateway must end the call at the deadline.
    let answer = in_time("the deadline", client.send(request)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status"), Some("4"), "{answer:?}");
    assert_eq!(answer.reason(), Some("upstream-timeout"));
    assert_eq!(service.requests(), 1);
}

/// A service that responds at once and continues to read. It reports whether each body was
/// complete.
async fn hasty() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, ended) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let tell = tell.clone();
                tokio::spawn(async move {
                    let complete = request.into_body().collect().await.is_ok();
                    let _ = tell.send(complete);
                });
                async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    (address, ended)
}

#[tokio::test]
async fn an_upload_ends_with_the_answer() {
    let ca = TestCa::new("example.org");
    let (service, mut ended) = hasty().await;
    let world = Front::open(&ca, &[http(service)], "protocol = \"h2\"\n").await;
    let client = world.client().protocol(Protocol::Http2);
    let mut sender = client.streams().await.unwrap();
    let (pieces, body) = pieces();
    let request = Request::post(format!("https://{HOST}/upload"))
        .body(body)
        .unwrap();
    pieces
        .send(Ok(Frame::data(Bytes::from_static(b"one"))))
        .await
        .unwrap();
    let response = in_time("a head", sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    in_time("its end", response.into_body().collect())
        .await
        .unwrap();
    // The caller sends nothing more, and keeps the connection open.
    let complete = in_time("the end of the upload", ended.recv())
        .await
        .unwrap();
    assert!(!complete);
    assert!(!sender.is_closed());
    let line = world.gateway.audit().request("/upload").await;
    assert_eq!(
        (&line["status"], &line["complete"]),
        (&200.into(), &true.into())
    );
    // A request body that is sent completely arrives completely.
    let request = Request::post("/a")
        .body(Bytes::from_static(b"body"))
        .unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 200);
    assert!(in_time("a body", ended.recv()).await.unwrap());
}

#[tokio::test]
async fn faults_of_a_callers_body_are_not_the_services() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
    let settings = countersign_testkit::Settings::new(&ca)
        .set("runtime", "workers", "1")
        .set("limits", "body_timeout", "\"300ms\"")
        .set("limits", "body_size", "\"1KiB\"")
        .upstream_at("orders", &[http(service.address())], "protocol = \"h2\"\n")
        .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
    let world = Front::with(&ca, &settings).await;
    let large = format!("500\r\n{}\r\n", "x".repeat(0x500));
    for (path, body, status, reason) in [
        ("/pauses", "2\r\nbo\r\n", 408, "timeout"),
        ("/malformed", "2\r\nbody\r\n", 400, "malformed-request"),
        ("/large", large.as_str(), 413, "too-large"),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        );
        let mut connection = world.client().connect().await.unwrap();
        connection.write(request.as_bytes()).await.unwrap();
        let answer = connection.read_until(|octets| octets.ends_with(b"}")).await;
        assert_eq!(answer.statuses(), [status], "{path}: {}", answer.text());
        let line = world.gateway.audit().request(path).await;
        assert_eq!(line["reason"], reason, "{line}");
    }
    let metrics =
        countersign_testkit::gateway::plain(world.gateway.admin(), "GET", "/metrics", &[]).await;
    let blamed = metrics.body.lines().find(|line| {
        line.starts_with("countersign_upstream_errors_total{") && !line.ends_with(" 0")
    });
    assert_eq!(blamed, None);
    assert_eq!(service.connections(), 1, "the connection is everybody's");
}

#[tokio::test]
async fn every_worker_gets_a_connection() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
    let more =
        "protocol = \"h2\"\nshare = \"always\"\nmax_connections = 1\nconnect_timeout = \"300ms\"\n";
    let settings = countersign_testkit::Settings::new(&ca)
        .set("runtime", "workers", "2")
        .upstream_at("orders", &[http(service.address())], more)
        .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
    let world = Front::with(&ca, &settings).await;
    // The workers get the callers' connections in turn.
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(world.client().session().await.unwrap());
    }
    for _ in 0..3 {
        for session in &mut sessions {
            assert_eq!(session.get("/a").await.unwrap().status, 200);
        }
    }
    assert_eq!(service.connections(), 2);
}

/// An h2 service that never gives the window to send a body. It reports the code with which the
/// gateway resets each stream.
async fn shut() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<h2::Reason>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, ended) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut settings = h2::server::Builder::new();
                settings.initial_window_size(0);
                let mut connection = settings.handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.body().is_end_stream() {
                        let _ = respond.send_response(Response::new(()), true);
                        continue;
                    }
                    let tell = tell.clone();
                    tokio::spawn(async move {
                        let _body = request.into_body();
                        let reason = std::future::poll_fn(|context| respond.poll_reset(context));
                        if let Ok(reason) = reason.await {
                            let _ = tell.send(reason);
                        }
                    });
                }
            });
        }
    });
    (address, ended)
}

#[tokio::test]
async fn an_upload_that_a_service_never_takes_is_given_up_and_it_is_the_services_fault() {
    let ca = TestCa::new("example.org");
    let (service, mut ended) = shut().await;
    let more = "protocol = \"h2\"\nfirst_byte_timeout = \"400ms\"\nmax_requests = 1\n";
    let world = Front::open(&ca, &[http(service)], more).await;
    for protocol in Protocol::BOTH {
        let path = format!("/upload/{protocol:?}");
        let client = world.client().protocol(protocol);
        let request = Request::post(&path)
            .body(Bytes::from(vec![b'x'; 512 * 1024]))
            .unwrap();
        let answer = in_time("an answer", client.send(request)).await.unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (504, Some("upstream-timeout"))
        );
        let line = world.gateway.audit().request(&path).await;
        assert_eq!(
            (&line["decision"], &line["reason"]),
            (&"allowed".into(), &"upstream-timeout".into())
        );
        // The stream is reset, and a new request is allowed although `max_requests` is 1.
        let reason = in_time("a reset", ended.recv()).await.unwrap();
        assert_eq!(reason, h2::Reason::CANCEL);
        assert_eq!(client.get("/a").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_connection_is_unused_from_the_end_of_its_last_request_on() {
    let (world, service) = world("idle_timeout = \"2s\"\n").await;
    let client = world.client().protocol(Protocol::Http2);
    let mut sender = client.streams().await.unwrap();
    let (pieces, body) = pieces();
    let request = |path: &str, body| {
        let request = Request::post(format!("https://{HOST}{path}"));
        request.body(body).unwrap()
    };
    let answer = sender.send_request(request("/stream", body)).await.unwrap();
    // The request takes longer than the idle timeout.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    drop(pieces);
    in_time("the end", answer.into_body().collect())
        .await
        .unwrap();
    let (pieces, body) = countersign_testkit::service::pieces();
    drop(pieces);
    let answer = sender.send_request(request("/stream", body)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn a_service_in_h2_that_never_comes_to_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let settings = frames::frame(4, 0, 0, &[]);
                stream.write_all(&settings).await?;
                let mut octets = Vec::new();
                let asked = loop {
                    if stream.read_buf(&mut octets).await? == 0 {
                        return Ok(());
                    }
                    // The first 24 bytes are the connection preface.
                    let said = frames::frames(octets.get(24..).unwrap_or_default());
                    if let Some(head) = said.iter().find(|frame| frame.kind == 1) {
                        break head.stream;
                    }
                };
                let interim = [(":status", "103"), ("link", "</a>")];
                let interim = frames::headers(asked, false, &interim).repeat(100);
                // Writes interim responses until the gateway closes the connection.
                while stream.write_all(&interim).await.is_ok() {}
                std::io::Result::Ok(())
            });
        }
    });
    let ca = TestCa::new("example.org");
    let more = "protocol = \"h2\"\nfirst_byte_timeout = \"500ms\"\n";
    let world = Front::open(&ca, &[http(address)], more).await;
    for protocol in Protocol::BOTH {
        let answer = world.client().protocol(protocol).get("/a").await.unwrap();
        let said = (answer.status, answer.reason());
        assert_eq!(said, (502, Some("upstream-protocol")));
    }
    task.abort();
}
