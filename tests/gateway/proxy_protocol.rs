//! The PROXY protocol version 2 on the listener.

use std::net::SocketAddr;

use countersign_testkit::{Client, Protocol, in_time};

use crate::support::World;

/// Returns a PROXY header of version 2 with this source address.
fn header(source: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap();
    let (family, mut body) = match source {
        SocketAddr::V4(source) => (0x11, [source.ip().octets(), [127, 0, 0, 1]].concat()),
        SocketAddr::V6(source) => (0x21, [source.ip().octets(), [0; 16]].concat()),
    };
    body.extend(source.port().to_be_bytes());
    body.extend(443_u16.to_be_bytes());
    raw(0x21, family, &body)
}

fn raw(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

/// Starts a gateway that accepts PROXY headers from these peers.
async fn world(peers: &str) -> World {
    World::with(|settings, echo| {
        settings
            .set("listener", "proxy_protocol", peers)
            .upstream_with("orders", echo, "forwarded = \"both\"\n")
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await
}

async fn expect_refused(world: &World, client: &Client, part: &str) {
    let before = world
        .gateway
        .audit()
        .matching(|line| line["event"] == "handshake")
        .len();
    assert!(client.get("/never").await.is_err());
    let lines = world
        .gateway
        .audit()
        .at_least(before + 1, "a refused handshake", |line| {
            line["event"] == "handshake"
        })
        .await;
    let line = lines.last().unwrap();
    assert_eq!(line["reason"], "malformed-request", "{line}");
    assert!(line["detail"].as_str().unwrap().contains(part), "{line}");
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn the_address_that_a_listed_balancer_names_goes_everywhere() {
    let world = world("[\"127.0.0.0/8\", \"::1/128\"]").await;
    for protocol in Protocol::BOTH {
        for (source, forwarded) in [
            ("192.0.2.7:5555", "for=192.0.2.7"),
            ("[2001:db8::7]:5555", "for=\"[2001:db8::7]\""),
        ] {
            let client = world.client().protocol(protocol).preface(&header(source));
            let path = format!("/{protocol:?}{}", source.len());
            let answer = client.get(&path).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            let ip = source.parse::<SocketAddr>().unwrap().ip().to_string();
            assert_eq!(answer.received("x-forwarded-for"), [ip]);
            assert!(answer.received("forwarded")[0].starts_with(forwarded));
            let line = world.gateway.audit().request(&path).await;
            assert_eq!(line["peer"], source);
            assert!(line["proxy"].as_str().unwrap().starts_with("127.0.0.1:"));
        }
    }
    // The audit line of a refused handshake contains the address too.
    let refused = world.anonymous().preface(&header("192.0.2.8:1"));
    let _ = refused.refusal().await;
    let line = world.gateway.audit().handshake("no-certificate").await;
    assert_eq!(line["peer"], "192.0.2.8:1");
}

#[tokio::test]
async fn a_balancer_that_speaks_for_itself_is_itself() {
    let world = world("[\"127.0.0.1\"]").await;
    for header in [
        raw(0x20, 0, b""),
        raw(0x20, 0x11, &[1; 12]),
        raw(0x21, 0, b""),
    ] {
        let answer = world.client().preface(&header).get("/a").await.unwrap();
        assert_eq!(answer.received("x-forwarded-for"), ["127.0.0.1"]);
    }
    // Many load balancers check a server by connecting without sending anything.
    let address = world.gateway.listener();
    drop(tokio::net::TcpStream::connect(address).await.unwrap());
    assert_eq!(
        world
            .client()
            .preface(&raw(0x20, 0, b""))
            .get("/b")
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn a_peer_that_is_not_listed_cannot_name_an_address() {
    for peers in ["[\"10.0.0.0/8\"]", "[\"127.0.0.2\"]"] {
        let world = world(peers).await;
        let client = world.client().preface(&header("192.0.2.7:5555"));
        expect_refused(&world, &client, "not listed in [listener] proxy_protocol").await;
        let answer = world.client().get("/a").await.unwrap();
        assert_eq!(answer.received("x-forwarded-for"), ["127.0.0.1"]);
    }
    let world = World::open().await;
    let client = world.client().preface(&header("192.0.2.7:5555"));
    expect_refused(&world, &client, "not listed").await;
}

#[tokio::test]
async fn a_listed_peer_has_to_send_a_good_header() {
    let world = world("[\"127.0.0.0/8\"]").await;
    expect_refused(&world, &world.client(), "not one of version 2").await;
    let good = header("192.0.2.7:5555");
    let twice = [&good[..], &good].concat();
    for (preface, part) in [
        (
            b"PROXY TCP4 192.0.2.7 127.0.0.1 5555 443\r\n".to_vec(),
            "not one of version 2",
        ),
        (raw(0x21, 0x12, &[1; 12]), "not about a TCP connection"),
        (raw(0x21, 0x11, &[1; 11]), "cut off"),
        (raw(0x31, 0x11, &[1; 12]), "version is not 2"),
        (raw(0x21, 0x11, &[1; 5000]), "longer than 4 KiB"),
        (twice, "second PROXY header"),
    ] {
        expect_refused(&world, &world.client().preface(&preface), part).await;
    }
}

#[tokio::test]
async fn a_header_that_comes_slowly_ends_with_the_handshake_timeout() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "handshake_timeout", "\"300ms\"")
            .set("listener", "proxy_protocol", "[\"127.0.0.0/8\"]")
            .everything_to(echo)
    })
    .await;
    let good = header("192.0.2.7:5555");
    let mut stream = tokio::net::TcpStream::connect(world.gateway.listener())
        .await
        .unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(&good[..20]).await.unwrap();
    let mut rest = Vec::new();
    let _ = in_time("the end", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    let line = world.gateway.audit().handshake("timeout").await;
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
}
