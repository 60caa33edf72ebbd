//! Clients without a certificate. Their open connections and expensive handshakes must not block
//! other callers.

use std::net::SocketAddr;
use std::time::Duration;

use countersign_testkit::gateway::plain;
use countersign_testkit::{Authority, AuthoritySpec, Client, Leaf, Protocol, in_time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{CALLER, World};

/// The maximum wait of a new caller, shorter than the timeouts of other connections.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Opens connections that send nothing.
async fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    streams
}

/// Connects from another address of this machine.
async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Sends a request over a new connection. The response must arrive within [`AT_ONCE`].
async fn assert_served_at_once(client: &Client, stream: TcpStream) {
    let served = async {
        let connection = client.connect_over(stream).await.unwrap();
        let mut session = connection.session(Protocol::Http1).await.unwrap();
        session.get("/a").await.unwrap().status
    };
    let status = tokio::time::timeout(AT_ONCE, served).await;
    assert_eq!(status.expect("it had to wait"), 200);
}

async fn limit_reached(world: &World, limit: &str) -> u64 {
    let metrics = plain(world.gateway.admin(), "GET", "/metrics", &[]).await;
    let name = format!("countersign_limit_reached_total{{limit=\"{limit}\"}} ");
    let found = metrics
        .body
        .lines()
        .find_map(|line| line.strip_prefix(&name));
    found.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn silent_connections_yield_to_new_callers() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "connections", "300")
            .set("limits", "handshake_timeout", "\"10m\"")
            .everything_to(echo)
    })
    .await;
    let address = world.gateway.listener();
    let mut stays = world.client().session().await.unwrap();
    assert_eq!(stays.get("/a").await.unwrap().status, 200);
    let flood = silent(address, 400).await;
    // The callers connect from another address, and from the address of the flood.
    for source in ["127.0.0.2", "127.0.0.1"] {
        for _ in 0..3 {
            let stream = connect_from(source, address).await;
            assert_served_at_once(&world.client(), stream).await;
        }
    }
    assert_eq!(stays.get("/a").await.unwrap().status, 200);
    let yielded = limit_reached(&world, "limits.address.handshakes_in_progress").await;
    assert!(yielded >= 100, "{yielded}");
    // The evictions are recorded in the audit log.
    let audit = world.gateway.audit();
    let lines = audit
        .at_least(1, "evictions", |line| line["reason"] == "overloaded")
        .await;
    assert!(lines.len() < 20, "one line a second: {}", lines.len());
    drop(flood);
}

#[tokio::test]
async fn with_proxy_headers_the_caller_counts_and_not_the_balancer() {
    let world = World::with(|settings, echo| {
        settings
            .set("listener", "proxy_protocol", "[\"127.0.0.0/8\"]")
            .set("limits", "connections", "40")
            .set("limits", "handshake_timeout", "\"10m\"")
            .set("runtime", "workers", "1")
            .section("[limits.address]\nhandshakes_in_progress = 4")
            .everything_to(echo)
    })
    .await;
    let address = world.gateway.listener();
    let header = |last: u8| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend([192, 0, 2, last, 10, 0, 0, 1, 0x12, 0x34, 1, 0xbb]);
        header
    };
    let begun = async |last: u8| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&header(last)).await.unwrap();
        stream
    };
    let slow = begun(1).await;
    let mut flood = Vec::new();
    for _ in 0..8 {
        // The only worker has read all PROXY headers when it has served a later connection.
        assert_served_at_once(&world.client(), begun(3).await).await;
        for _ in 0..10 {
            flood.push(begun(2).await);
        }
    }
    // This connection is the oldest, and has sent only its PROXY header. It is still open.
    assert_served_at_once(&world.client(), slow).await;
    drop(flood);
}

/// Opens a connection to the public listener, sends one request, and keeps the connection idle.
async fn idle(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 64];
    let count = in_time("a response", stream.read(&mut head)).await.unwrap();
    assert!(head[..count].starts_with(b"HTTP/1.1 200"), "{head:?}");
    stream
}

#[tokio::test]
async fn idle_connections_to_the_public_listener_yield_to_new_ones() {
    let world = World::open().await;
    let public = world.gateway.public();
    let mut kept = Vec::new();
    for _ in 0..600 {
        kept.push(idle(public, "/healthz").await);
    }
    // There are also connections that have sent only a part of a request.
    for stream in &mut silent(public, 200).await {
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    }
    for path in ["/healthz", "/.well-known/jwks.json"] {
        let asked = plain(public, "GET", path, &[]);
        let response = tokio::time::timeout(AT_ONCE, asked).await;
        assert_eq!(response.expect("it had to wait").status, 200, "{path}");
    }
    drop(kept);
}

#[tokio::test]
async fn forged_namesakes_do_not_make_a_handshake_expensive() {
    let world = World::open().await;
    let named = |name: &str| Authority::root(&AuthoritySpec::new(name));
    let root = named("example.org root");
    let forged: Vec<_> = (0..7).map(|_| named("example.org intermediate")).collect();
    let leaf = || Leaf::with_uri(&world.ca.spiffe(CALLER));
    let mut hostile = forged[0].issue(leaf()).without_intermediates();
    hostile
        .chain
        .extend(forged.iter().map(|one| root.cross_sign(one)));
    assert_eq!(hostile.chain.len(), 8);
    world.anonymous().with(&hostile).refusal().await;
    let refused = |line: &serde_json::Value| {
        line["reason"] == "chain-too-long" && line["serial"] == hostile.serial_hex()
    };
    let audit = world.gateway.audit();
    audit.at_least(1, "the hostile chain", refused).await;
    // A genuine chain is accepted, although it contains the forged certificates too.
    let mut genuine = world.ca.issue(leaf());
    let own = genuine.chain.pop().unwrap();
    genuine
        .chain
        .extend(forged.iter().take(6).map(|one| root.cross_sign(one)));
    genuine.chain.push(own);
    let client = world.anonymous().with(&genuine);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_status_names_a_balancer_that_hides_callers() {
    for (networks, is_named) in [("[\"10.0.0.0/8\"]", true), ("[\"127.0.0.0/8\"]", false)] {
        let world = World::with(|settings, echo| {
            settings
                .set("admin", "socket", "\"admin.sock\"")
                .section(&format!("[limits.address]\ntrusted_networks = {networks}"))
                .everything_to(echo)
        })
        .await;
        for _ in 0..20 {
            for caller in [world.client(), world.client_as("/ns/shop/sa/other")] {
                assert_eq!(caller.get("/a").await.unwrap().status, 200);
            }
        }
        let status = world.by_socket(&["--json", "status"]).await.json();
        let busiest = &status["busiest_address"];
        let text = world.by_socket(&["status"]).await.stdout;
        assert_eq!(text.contains("came from 127.0.0.1"), is_named, "{text}");
        if is_named {
            assert_eq!(busiest["address"], "127.0.0.1");
            assert_eq!(busiest["handshakes"], 40);
            assert!(text.contains("trusted_networks"), "{text}");
        } else {
            assert!(busiest.is_null(), "{busiest}");
        }
    }
}
