//! Back-pressure, constant memory use, and the closing of idle connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_testkit::client::get;
use countersign_testkit::{Protocol, TestCa, in_time, read_head};
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{http, https};
use crate::support::{Front, HOST, resident_kib};

/// The size of one block of content in bytes.
const BLOCK: usize = 64 * 1024;
/// Many times more bytes than the kernel can buffer for two connections.
const MUCH: usize = 256 * 1024 * 1024;
/// A side counts as blocked if it makes no progress for this time.
const STUCK: Duration = Duration::from_millis(500);
/// The maximum growth of the gateway's memory for one connection, including the buffers of both
/// directions. It is large, because the allocator may take memory in pages of 2 MiB.
const ALLOWED_KIB: u64 = 16 * 1024;

/// Starts an HTTP/1.1 service that reads the request heads. The test plays the rest of the
/// service on the connections that this function sends.
async fn stage() -> (SocketAddr, mpsc::UnboundedReceiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (give, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if read_head(&mut stream).await.is_ok() {
                let _ = give.send(stream);
            }
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_caller_is_read_only_as_fast_as_its_service_reads_and_memory_stays_flat() {
    let ca = TestCa::new("example.org");
    let (address, mut connections) = stage().await;
    let world = Front::open(&ca, &[http(address)], "").await;
    // The first request over each protocol allocates memory once, which must not be counted.
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let answering = tokio::spawn(async move { client.get("/first").await });
        let mut service = in_time("a connection", connections.recv()).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        service.write_all(answer).await.unwrap();
        assert_eq!(answering.await.unwrap().unwrap().status, 200);
    }
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let before = resident_kib(&world.gateway);
        let mut session = client.connect().await.unwrap();
        let mut sent = 0;
        let block = Bytes::from(vec![b'x'; BLOCK]);
        let mut service;
        if protocol == Protocol::Http1 {
            let head =
                format!("POST /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {MUCH}\r\n\r\n");
            session.write(head.as_bytes()).await.unwrap();
            service = in_time("a connection", connections.recv()).await.unwrap();
            while let Ok(written) = tokio::time::timeout(STUCK, session.write(&block)).await {
                written.unwrap();
                sent += BLOCK;
            }
        } else {
            let mut sender = session.streams().await.unwrap();
            let (pieces, body) = countersign_testkit::service::pieces();
            let request = Request::post(format!("https://{HOST}/up"))
                .body(body)
                .unwrap();
            let answer = tokio::spawn(sender.send_request(request));
            service = in_time("a connection", connections.recv()).await.unwrap();
            let piece = || Ok(Frame::data(block.clone()));
            while let Ok(taken) = tokio::time::timeout(STUCK, pieces.send(piece())).await {
                taken.unwrap();
                sent += BLOCK;
            }
            answer.abort();
        }
        assert!(sent < MUCH / 2, "{protocol:?}: {sent} octets were taken");
        let grown = resident_kib(&world.gateway).saturating_sub(before);
        assert!(
            grown < ALLOWED_KIB,
            "{protocol:?}: {grown} KiB for {sent} octets"
        );
        // The service causes the delay: after the service reads, the caller can send more.
        let mut buffer = vec![0; BLOCK];
        in_time("octets", service.read_exact(&mut buffer))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_service_is_read_only_as_fast_as_its_caller_reads_and_memory_stays_flat() {
    let ca = TestCa::new("example.org");
    let (address, mut connections) = stage().await;
    let world = Front::open(&ca, &[http(address)], "").await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        let serving = async {
            let mut service = in_time("a connection", connections.recv()).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
            service.write_all(head.as_bytes()).await.unwrap();
            service
        };
        let (answer, mut service) = tokio::join!(session.start(get("/down")), serving);
        let mut body = answer.unwrap().into_body();
        let before = resident_kib(&world.gateway);
        let block = vec![b'x'; BLOCK];
        let mut sent = 0;
        while let Ok(written) = tokio::time::timeout(STUCK, service.write_all(&block)).await {
            written.unwrap();
            sent += BLOCK;
        }
        assert!(sent < MUCH / 2, "{protocol:?}: {sent} octets were taken");
        let grown = resident_kib(&world.gateway).saturating_sub(before);
        assert!(
            grown < ALLOWED_KIB,
            "{protocol:?}: {grown} KiB for {sent} octets"
        );
        // When the caller reads, it gets everything that the service has sent.
        let mut read = 0;
        while read < sent {
            let frame = in_time("a piece", body.frame()).await.unwrap().unwrap();
            read += frame.into_data().unwrap().len();
        }
    }
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_its_idle_timeout() {
    let ca = TestCa::new("example.org");
    let (address, mut connections) = stage().await;
    let world = Front::open(&ca, &[http(address)], "idle_timeout = \"300ms\"\n").await;
    let client = world.client();
    let answering = tokio::spawn(async move { client.get("/a").await });
    let mut service = in_time("a connection", connections.recv()).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    service.write_all(answer).await.unwrap();
    assert_eq!(answering.await.unwrap().unwrap().status, 200);
    let mut rest = Vec::new();
    in_time("the end of the connection", service.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_service_that_does_not_shake_hands_is_not_waited_for() {
    let ca = TestCa::new("example.org");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let more = format!(
        "roots = [\"{}\"]\nconnect_timeout = \"300ms\"\n",
        ca.root_file().display()
    );
    let endpoint = https(listener.local_addr().unwrap());
    let world = Front::open(&ca, &[endpoint], &more).await;
    let answer = world.client().get("/a").await.unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (504, Some("upstream-timeout"))
    );
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(
        (&line["decision"], &line["reason"]),
        (&"allowed".into(), &"upstream-timeout".into())
    );
}

#[tokio::test]
async fn an_unused_connection_is_closed_when_its_time_has_come() {
    /// The maximum time until the close. Without its own timer, the gateway would notice later.
    const SOON: Duration = Duration::from_secs(3);
    let ca = TestCa::new("example.org");
    let (address, mut connections) = stage().await;
    let world = Front::open(&ca, &[http(address)], "idle_timeout = \"300ms\"\n").await;
    let mut session = world.client().session().await.unwrap();
    let (answer, mut connection) = tokio::join!(session.get("/a"), async {
        let mut connection = connections.recv().await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        connection
    });
    assert_eq!(answer.unwrap().status, 200);
    let answered = Instant::now();
    let count = in_time("the end", connection.read(&mut [0])).await.unwrap();
    assert_eq!(count, 0);
    assert!(answered.elapsed() < SOON, "{:?}", answered.elapsed());
}
