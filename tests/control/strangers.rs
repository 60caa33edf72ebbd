//! The admin listener and clients that are not operators. Such clients are refused and recorded,
//! and cannot block operators.

use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::{Client, TestCa, TlsVersion, in_time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::operators::{OPERATOR, Operated};
use crate::support::HOST;

#[tokio::test]
async fn strangers_and_those_without_certificate_are_refused_with_an_alert() {
    let world = Operated::start().await;
    let stranger = TestCa::new("example.org").client(OPERATOR);
    for version in TlsVersion::BOTH {
        let refusal = world.client(&stranger).tls(version).refusal().await;
        assert_eq!(refusal.alert(), Some(48), "{refusal}");
        let nobody = Client::new(world.gateway.admin(), HOST).tls(version);
        assert!(nobody.refusal().await.alert().is_some());
    }
    let line = world.refused_line("unknown-issuer").await;
    assert!(line.get("operator").is_none(), "nothing was proven: {line}");
    assert!(line["sans"].as_str().unwrap().contains(OPERATOR), "{line}");
    world.refused_line("no-certificate").await;
    let output = world.as_(&stranger, &["status"]).await;
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("UnknownCA"), "{output:?}");
}

#[tokio::test]
async fn plain_text_is_refused() {
    let world = Operated::start().await;
    for path in ["/healthz", "/metrics", "/status"] {
        let answer = plain(world.gateway.admin(), "GET", path, &[]).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let line = world.refused_line("malformed-request").await;
    assert!(
        line["detail"].as_str().unwrap().contains("plain HTTP"),
        "{line}"
    );
    // If a client sends neither HTTP nor TLS, the gateway closes the connection without a
    // response.
    let mut stream = TcpStream::connect(world.gateway.admin()).await.unwrap();
    stream
        .write_all(b"\x01\x02\x03 what is this")
        .await
        .unwrap();
    let mut octets = Vec::new();
    let read = in_time("the end", stream.read_to_end(&mut octets)).await;
    assert!(read.is_ok() || octets.len() < 16, "{octets:?}");
}

/// Connections without an authenticated operator are evicted, even if an operator connects from
/// the same address.
#[tokio::test]
async fn a_flood_of_connections_keeps_no_operator_out() {
    /// The maximum wait of an operator. It is shorter than the timeout for the first byte.
    const PATIENCE: Duration = Duration::from_secs(3);
    let world = Operated::start().await;
    let mut early = world.client(&world.alice).session().await.unwrap();
    assert_eq!(early.get("/status").await.unwrap().status, 200);
    // These connections send nothing, or begin a handshake and do not continue it.
    for said in [&b""[..], &[0x16, 3, 1, 0]] {
        let mut flood = Vec::new();
        for _ in 0..300 {
            let mut stream = TcpStream::connect(world.gateway.admin()).await.unwrap();
            stream.write_all(said).await.unwrap();
            flood.push(stream);
        }
        let begin = Instant::now();
        let answer = world.client(&world.alice).get("/status").await.unwrap();
        assert_eq!(answer.status, 200, "{}", world.gateway.stderr());
        let took = begin.elapsed();
        assert!(took < PATIENCE, "{took:?} after {said:?}");
        // An operator that connected before the flood stays connected.
        assert_eq!(early.get("/status").await.unwrap().status, 200);
    }
    // The evictions are recorded, but with fewer lines than evictions.
    world.refused_line("overloaded").await;
    let text = world.gateway.audit().text();
    let lines = text.lines().filter(|line| line.contains("overloaded"));
    assert!(lines.count() < 100, "{text}");
}

#[tokio::test]
async fn a_refusal_is_written_down_before_the_peer_is_given_time_to_read_it() {
    let world = Operated::start().await;
    // The test takes the best of three attempts, because a busy machine may be slow.
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(world.gateway.admin()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let begin = Instant::now();
        let peer = stream.local_addr().unwrap().to_string();
        let line = world
            .line("the refusal", |line| line["peer"] == peer.as_str())
            .await;
        assert_eq!(line["reason"], "malformed-request", "{line}");
        fastest = fastest.min(begin.elapsed());
    }
    assert!(fastest < Duration::from_millis(900), "{fastest:?}");
}
