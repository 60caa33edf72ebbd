//! WebSocket tunnels to h2 services, with extended CONNECT (RFC 8441).

use std::time::Duration;

use countersign_testkit::{
    Leaf, Protocol, Service, ServiceSpec, Settings, Switching, TestCa, in_time, until,
};
use countersign_verify::jose::CompactJws;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::upgrade::{head_for, over_h2_for, tunnel};
use super::{http, https};
use crate::support::Front;

/// Starts a gateway in front of an h2 service that announces extended CONNECT.
async fn world(more: &str) -> (Front, Switching) {
    let service = Switching::http2(true, None).await;
    (before(&service, more).await, service)
}

async fn before(service: &Switching, more: &str) -> Front {
    let ca = TestCa::new("example.org");
    let more = format!("protocol = \"h2\"\n{more}");
    Front::open(&ca, &[http(service.address())], &more).await
}

/// Sends an HTTP/1.1 upgrade request. Returns the head of a response that does not switch
/// protocols.
async fn over_http1(world: &Front, path: &str, protocol: &str) -> countersign_testkit::RawAnswer {
    let mut connection = world.client().connect().await.unwrap();
    let octets = head_for(path, protocol);
    connection.write(octets.as_bytes()).await.unwrap();
    connection.read_head().await
}

/// Checks that the request to an h2 service contains no fields of the HTTP/1.1 handshake.
fn expect_connect(head: &str) {
    let head = head.to_ascii_lowercase();
    assert!(
        head.starts_with("connect http://orders.example.org/socket websocket\r\n"),
        "{head}"
    );
    for absent in ["sec-websocket-key", "upgrade", "connection", "host"] {
        let mut lines = head.lines();
        let found = lines.any(|line| line.starts_with(&format!("{absent}:")));
        assert!(!found, "{absent}: {head}");
    }
    assert!(!head.contains("forged"), "{head}");
    assert!(head.contains("sec-websocket-version: 13\r\n"), "{head}");
}

#[tokio::test]
async fn bytes_pass_both_ways_for_callers_in_h2() {
    let (world, service) = world("").await;
    let (sender, response) = over_h2_for(&world, "/socket").await;
    assert_eq!(response.status(), 200, "{}", world.gateway.stderr());
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    // The message is larger than any flow-control window.
    let message = vec![b'x'; 300 * 1024];
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let mut answer = vec![0; message.len()];
    let (written, read) = in_time("an echo", async {
        tokio::join!(writer.write_all(&message), reader.read_exact(&mut answer))
    })
    .await;
    written.unwrap();
    read.unwrap();
    assert!(answer.iter().all(|octet| *octet == b'X'));
    let heads = service.heads();
    assert_eq!(heads.len(), 1);
    expect_connect(&heads[0]);
    // The assertion is bound to the CONNECT request that the service gets.
    let wire = heads[0]
        .lines()
        .find_map(|line| line.strip_prefix("countersign-assertion: "))
        .unwrap();
    let jws = CompactJws::parse(wire, 8192).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(jws.unverified_payload()).unwrap();
    assert_eq!(claims["htm"], "CONNECT");
    assert_eq!(claims["htu"], "https://orders.example.org/socket");
    assert!(
        world
            .gateway
            .audit()
            .text()
            .lines()
            .all(|line| !line.contains("/socket"))
    );
    // The service sees the end of the tunnel, and ends its own direction.
    stream.shutdown().await.unwrap();
    assert_eq!(
        in_time("the end", stream.read(&mut answer)).await.unwrap(),
        0
    );
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(
        (&line["status"], &line["decision"]),
        (&200.into(), &"allowed".into())
    );
    assert_eq!(
        (&line["method"], &line["complete"]),
        (&"GET".into(), &true.into())
    );
    assert_eq!(line["jti"], claims["jti"]);
    drop((stream, sender));
    service.all_closed().await;
}

#[tokio::test]
async fn bytes_pass_both_ways_for_callers_in_http1() {
    let (world, service) = world("").await;
    let mut connection = tunnel(&world, "websocket").await;
    connection.write(b"hello").await.unwrap();
    let answer = connection.read_until(|octets| octets.len() >= 5).await;
    assert_eq!(answer.text(), "HELLO");
    expect_connect(&service.heads()[0]);
    drop(connection);
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(
        (&line["status"], &line["decision"]),
        (&101.into(), &"allowed".into())
    );
    service.all_closed().await;
    // The accept value proves that the server read the caller's key (RFC 6455 section 1.3).
    let answer = over_http1(&world, "/socket", "websocket").await;
    let text = answer.text().to_ascii_lowercase();
    assert!(
        text.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_handshake_without_a_key_is_refused() {
    let (world, service) = world("").await;
    let octets = head_for("/socket", "websocket").replace("dGhlIHNhbXBsZSBub25jZQ==", "short");
    let answer = world
        .client()
        .raw(octets.as_bytes(), Duration::from_secs(2))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [400], "{}", answer.text());
    assert!(
        answer.text().contains("Sec-WebSocket-Key"),
        "{}",
        answer.text()
    );
    assert!(service.heads().is_empty());
}

#[tokio::test]
async fn a_refusal_is_the_services_answer() {
    let (world, service) = world("").await;
    let (_sender, response) = over_h2_for(&world, "/refuse").await;
    assert_eq!(response.status(), 403);
    assert!(!response.headers().contains_key("countersign-reason"));
    let body = in_time("a body", response.into_body().collect())
        .await
        .unwrap();
    assert_eq!(body.to_bytes(), "not for you");
    let answer = world
        .client()
        .raw(
            head_for("/refuse", "websocket").as_bytes(),
            Duration::from_secs(1),
        )
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [403], "{}", answer.text());
    assert!(answer.text().ends_with("not for you"), "{}", answer.text());
    service.all_closed().await;
}

#[tokio::test]
async fn a_success_that_switches_nothing_is_no_tunnel() {
    let (world, service) = world("").await;
    let (_sender, response) = over_h2_for(&world, "/feign").await;
    assert_eq!(response.status(), 502);
    assert_eq!(
        response.headers()["countersign-reason"],
        "upstream-protocol"
    );
    let answer = over_http1(&world, "/feign", "websocket").await;
    assert_eq!(answer.statuses(), [502], "{}", answer.text());
    let line = world.gateway.audit().request("/feign").await;
    assert_eq!(line["reason"], "upstream-protocol");
    service.all_closed().await;
}

#[tokio::test]
async fn without_the_announcement_there_is_no_tunnel_and_the_reason_is_said() {
    let service = Switching::http2(false, None).await;
    let world = before(&service, "").await;
    for _ in 0..3 {
        let (_sender, response) = over_h2_for(&world, "/socket").await;
        assert_eq!(response.status(), 501);
        assert_eq!(
            response.headers()["countersign-reason"],
            "upstream-protocol"
        );
        let body = in_time("a body", response.into_body().collect())
            .await
            .unwrap();
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        assert!(text.contains("RFC 8441"), "{text}");
    }
    assert!(service.heads().is_empty());
    // RFC 9110 section 7.8: a server may ignore an Upgrade field.
    let answer = over_http1(&world, "/socket", "websocket").await;
    assert_eq!(answer.statuses(), [426], "{}", answer.text());
    let heads = service.heads();
    assert!(
        heads[0].starts_with("GET ") && heads.len() == 1,
        "{heads:?}"
    );
}

#[tokio::test]
async fn without_the_announcement_http1_serves_where_it_is_allowed() {
    let ca = TestCa::new("example.org");
    let server = ca.server(&["payments.internal"]);
    for tls in [None, Some(&server)] {
        let service = Switching::http2(false, tls).await;
        let mut more = "protocol = \"h2\"\nhttp1_upgrades = true\n".to_owned();
        let endpoint = match tls {
            None => http(service.address()),
            Some(_) => {
                let roots = ca.root_file();
                more += &format!(
                    "roots = [\"{}\"]\nserver_name = \"payments.internal\"\n",
                    roots.display()
                );
                https(service.address())
            }
        };
        let world = Front::open(&ca, &[endpoint], &more).await;
        let (sender, response) = over_h2_for(&world, "/socket").await;
        assert_eq!(response.status(), 200, "{}", world.gateway.stderr());
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0_u8; 5];
        in_time("an echo", stream.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(&answer, b"HELLO");
        drop((stream, sender));
        // Extended CONNECT has no name for the protocol `foo`. Its tunnels use HTTP/1.1 too.
        for protocol in ["websocket", "foo"] {
            let mut connection = tunnel(&world, protocol).await;
            connection.write(b"hello").await.unwrap();
            let answer = connection.read_until(|octets| octets.len() >= 5).await;
            assert_eq!(answer.text(), "HELLO");
        }
        let heads = service.heads();
        assert_eq!(heads.len(), 3, "{heads:?}");
        for head in &heads {
            assert!(head.starts_with("GET /socket HTTP/1.1\r\n"), "{head}");
        }
        // Other requests still use h2. They never use the connections of tunnels.
        let answer = world.client().get("/a").await.unwrap();
        assert_eq!(answer.status, 426);
        assert!(
            service.heads()[3].contains(" HTTP/2\r\n"),
            "{:?}",
            service.heads()
        );
    }
}

#[tokio::test]
async fn a_tunnel_ends_with_the_certificate_even_when_the_service_is_deaf() {
    let ca = TestCa::new("example.org");
    for protocol in Protocol::BOTH {
        let service = Switching::http2(true, None).await;
        let world = Front::open(&ca, &[http(service.address())], "protocol = \"h2\"\n").await;
        let world = Front {
            caller: ca.issue(Leaf::with_uri(&ca.spiffe("/short")).valid(-60, 4)),
            ..world
        };
        let pause = Duration::from_millis(300);
        let octets = vec![0; 256 * 1024];
        if protocol == Protocol::Http2 {
            let (_sender, response) = over_h2_for(&world, "/deaf").await;
            assert_eq!(response.status(), 200);
            let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
            while let Ok(Ok(())) = tokio::time::timeout(pause, stream.write_all(&octets)).await {}
            let line = world.gateway.audit().request("/deaf").await;
            assert_eq!(line["reason"], "certificate-expired", "{line}");
        } else {
            let mut connection = world.client().connect().await.unwrap();
            let head = head_for("/deaf", "websocket");
            connection.write(head.as_bytes()).await.unwrap();
            let _ = connection.read_head().await;
            while let Ok(Ok(())) = tokio::time::timeout(pause, connection.write(&octets)).await {}
            let line = world.gateway.audit().request("/deaf").await;
            assert_eq!(line["reason"], "certificate-expired", "{line}");
        }
        service.all_closed().await;
    }
}

#[tokio::test]
async fn a_tunnel_ends_when_nothing_is_said() {
    let (world, service) = world("tunnel_idle_timeout = \"300ms\"\n").await;
    let mut connection = tunnel(&world, "websocket").await;
    let answer = connection.read_until(|_| false).await;
    assert!(answer.closed && answer.octets.is_empty());
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(line["reason"], "timeout");
    service.all_closed().await;
}

#[tokio::test]
async fn tunnels_count_among_the_connections_of_their_endpoint() {
    let (world, service) = world("max_connections = 1\nconnect_timeout = \"2s\"\n").await;
    // The gateway closes an idle connection, so that the tunnel can have its slot.
    let mut session = world.client().session().await.unwrap();
    assert_eq!(session.get("/a").await.unwrap().status, 426);
    assert_eq!(service.open(), 1);
    let connection = tunnel(&world, "websocket").await;
    assert_eq!(service.open(), 1);
    let answer = over_http1(&world, "/socket", "websocket").await;
    assert_eq!(answer.statuses(), [503], "{}", answer.text());
    assert!(
        answer.text().contains("\"overloaded\""),
        "{}",
        answer.text()
    );
    drop(connection);
    service.all_closed().await;
    drop(tunnel(&world, "websocket").await);
}

#[tokio::test]
async fn a_tunnel_gets_the_connection_of_a_request_that_ends_while_it_waits() {
    for is_answered in [true, false] {
        let (world, service) = world("max_connections = 1\nconnect_timeout = \"5s\"\n").await;
        let client = world.client();
        let held = tokio::spawn(async move { client.get("/held").await });
        until("the request", async || !service.heads().is_empty()).await;
        let (connection, ()) = tokio::join!(tunnel(&world, "websocket"), async {
            // The tunnel probably waits for a connection after this time. The test cannot check it.
            tokio::time::sleep(Duration::from_millis(300)).await;
            match is_answered {
                true => service.release(),
                false => held.abort(),
            }
        });
        drop(connection);
    }
}

#[tokio::test]
async fn a_connection_without_a_slot_is_not_closed_in_place_of_one_that_has_it() {
    let ca = TestCa::new("example.org");
    let service = Switching::http2(true, None).await;
    let more =
        "protocol = \"h2\"\nshare = \"always\"\nmax_connections = 1\nconnect_timeout = \"3s\"\n";
    let settings = Settings::new(&ca)
        .set("runtime", "workers", "2")
        .upstream_at("orders", &[http(service.address())], more)
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"websocket\"]\n",
        );
    let world = Front::with(&ca, &settings).await;
    let mut first = world.client().session().await.unwrap();
    first.get("/a").await.unwrap();
    // The connections are at different workers. The tunnel gets the slot, and the next request
    // gets a connection without a slot.
    let carried = tunnel(&world, "websocket").await;
    first.get("/a").await.unwrap();
    assert_eq!(service.open(), 2);
    drop(carried);
    until("the tunnel's end", async || service.open() <= 1).await;
    // A request at the other worker takes the free slot.
    let mut others = Vec::new();
    while service.open() == 1 {
        assert!(others.len() < 8, "no connection at the other worker");
        let mut other = world.client().session().await.unwrap();
        other.get("/a").await.unwrap();
        others.push(other);
    }
    drop(tunnel(&world, "websocket").await);
}

#[tokio::test]
async fn endpoints_without_tunnels_do_not_hide_the_one_that_has_them() {
    let ca = TestCa::new("example.org");
    for balance in ["round-robin", "least-requests", "caller"] {
        let mut services = Vec::new();
        for announces in [false, false, false, false, true] {
            services.push(Switching::http2(announces, None).await);
        }
        let endpoints: Vec<_> = services.iter().map(|one| http(one.address())).collect();
        let more = format!("protocol = \"h2\"\nbalance = \"{balance}\"\n");
        let world = Front::open(&ca, &endpoints, &more).await;
        for number in 1..=6 {
            drop(tunnel(&world, "websocket").await);
            assert_eq!(services[4].heads().len(), number, "{balance}");
        }
        let answer = world.client().get("/a").await.unwrap();
        assert_eq!(answer.status, 426, "requests go anywhere");
    }
}

#[tokio::test]
async fn a_service_out_of_order_is_not_taken_for_one_without_tunnels() {
    let service = Switching::http2(true, None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let behind = service.address();
    let relay = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        // The first connection begins with a PING instead of SETTINGS, which is an error.
        let ping = countersign_testkit::http2::frame(6, 0, 0, &[0; 8]);
        first.write_all(&ping).await.unwrap();
        let _ = first.read_to_end(&mut Vec::new()).await;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut other = TcpStream::connect(behind).await.unwrap();
            tokio::spawn(
                async move { tokio::io::copy_bidirectional(&mut stream, &mut other).await },
            );
        }
    });
    let ca = TestCa::new("example.org");
    let world = Front::open(&ca, &[http(address)], "protocol = \"h2\"\n").await;
    let (_sender, response) = over_h2_for(&world, "/socket").await;
    assert_eq!(response.status(), 503, "{}", world.gateway.stderr());
    assert_eq!(
        response.headers()["countersign-reason"],
        "upstream-unavailable"
    );
    // The failed connection did not say that the service has no tunnels, so that this one opens.
    drop(tunnel(&world, "websocket").await);
    relay.abort();
}

#[tokio::test]
async fn a_service_that_announces_nothing_at_all_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ca = TestCa::new("example.org");
    let more = "protocol = \"h2\"\nconnect_timeout = \"300ms\"\n";
    let world = Front::open(&ca, &[http(listener.local_addr().unwrap())], more).await;
    let (_sender, response) = over_h2_for(&world, "/socket").await;
    assert_eq!(response.status(), 504);
    assert_eq!(response.headers()["countersign-reason"], "upstream-timeout");
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(
        (&line["decision"], &line["reason"]),
        (&"allowed".into(), &"upstream-timeout".into())
    );
}

#[tokio::test]
async fn a_service_in_h2_without_tls_that_is_none_at_all() {
    let service = Service::start(ServiceSpec::plain(Protocol::Http1)).await;
    let ca = TestCa::new("example.org");
    let world = Front::open(&ca, &[http(service.address())], "protocol = \"h2\"\n").await;
    let (_sender, response) = over_h2_for(&world, "/socket").await;
    assert_eq!(response.status(), 503);
    let reason = &response.headers()["countersign-reason"];
    assert_eq!(reason, "upstream-unavailable");
}
