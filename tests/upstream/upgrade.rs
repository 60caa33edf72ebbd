//! WebSocket and other protocols that begin with an HTTP/1.1 upgrade.

use std::time::Duration;

use countersign_testkit::service::{PieceBody, pieces};
use countersign_testkit::{
    Afterwards, Connection, Echo, Leaf, Scripted, Switching, TestCa, in_time, read_head,
};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol as Extended;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::http;
use crate::support::{Front, HOST};

async fn world(more: &str) -> (Front, Switching) {
    let ca = TestCa::new("example.org");
    let service = Switching::start().await;
    let world = Front::open(&ca, &[http(service.address())], more).await;
    (world, service)
}

fn head(protocol: &str) -> String {
    head_for("/socket", protocol)
}

pub(super) fn head_for(path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: {protocol}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\nCountersign-Assertion: forged\r\n\r\n"
    )
}

/// Opens a tunnel.
pub(super) async fn tunnel(world: &Front, protocol: &str) -> Connection {
    let mut connection = world.client().connect().await.unwrap();
    connection.write(head(protocol).as_bytes()).await.unwrap();
    let answer = connection.read_head().await;
    let text = answer.text().to_ascii_lowercase();
    assert!(
        text.starts_with("http/1.1 101 "),
        "{text} {}",
        world.gateway.stderr()
    );
    assert!(text.contains(&format!("upgrade: {protocol}\r\n")), "{text}");
    assert!(text.contains("connection: upgrade\r\n"), "{text}");
    assert!(!text.contains("forged"), "{text}");
    connection
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_audit_line_comes_at_the_end() {
    for protocol in ["websocket", "foo"] {
        let (world, service) = world("").await;
        let mut connection = tunnel(&world, protocol).await;
        // The messages are neither valid HTTP nor plain text.
        for text in ["\u{1}hello\r\n", "GET / HTTP/1.1\n\n", "bare\nlf"] {
            connection.write(text.as_bytes()).await.unwrap();
            let upper = text.to_ascii_uppercase();
            let answer = connection
                .read_until(|octets| octets.len() >= upper.len())
                .await;
            assert_eq!(answer.text(), upper);
        }
        let heads = service.heads();
        assert_eq!(heads.len(), 1);
        let names: Vec<_> = heads[0]
            .to_ascii_lowercase()
            .lines()
            .map(str::to_owned)
            .collect();
        let assertions = names
            .iter()
            .filter(|line| line.starts_with("countersign-assertion: ey"));
        assert_eq!(assertions.count(), 1, "{names:?}");
        assert!(!heads[0].contains("forged"));
        let text = std::fs::read_to_string(world.gateway.directory().join("audit.jsonl")).unwrap();
        assert!(
            !text.contains("/socket"),
            "the line was written before the end: {text}"
        );
        drop(connection);
        let line = world.gateway.audit().request("/socket").await;
        assert_eq!(line["status"], 101);
        assert_eq!(line["decision"], "allowed");
    }
}

async fn over_h2(world: &Front) -> (SendRequest<PieceBody>, Response<Incoming>) {
    over_h2_for(world, "/socket").await
}

/// Opens a tunnel over h2.
pub(super) async fn over_h2_for(
    world: &Front,
    path: &str,
) -> (SendRequest<PieceBody>, Response<Incoming>) {
    let mut sender = world.client().streams().await.unwrap();
    // The pause is for the gateway's SETTINGS, which allow extended CONNECT.
    sender.ready().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (nothing, body) = pieces();
    drop(nothing);
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{HOST}{path}"))
        .header("sec-websocket-version", "13")
        .body(body)
        .unwrap();
    request
        .extensions_mut()
        .insert(Extended::from_static("websocket"));
    let response = in_time("an answer", sender.send_request(request))
        .await
        .unwrap();
    (sender, response)
}

#[tokio::test]
async fn websocket_over_h2_by_extended_connect() {
    let (world, service) = world("").await;
    let (sender, response) = over_h2(&world).await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let stream = hyper::upgrade::on(response).await.unwrap();
    let mut stream = TokioIo::new(stream);
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0_u8; 5];
    in_time("an echo", stream.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HELLO");
    let head = service.heads()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /socket http/1.1\r\n"), "{head}");
    assert!(
        head.contains("upgrade: websocket") && head.contains("sec-websocket-key: "),
        "{head}"
    );
    drop((stream, sender));
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(line["status"], 200);
    service.all_closed().await;
}

#[tokio::test]
async fn a_request_behind_an_upgrade_that_is_refused_is_a_request_of_its_own() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let settings = countersign_testkit::Settings::new(&ca)
        .upstream("orders", echo.address())
        .route(
            "orders",
            "orders",
            "paths = [\"/socket\"]\ncallers = [\"*\"]\nupgrade = [\"foo\"]\n",
        );
    let world = Front::with(&ca, &settings).await;
    let smuggled = format!("GET /admin HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let octets = head("foo") + &smuggled;
    let answer = world
        .client()
        .raw(octets.as_bytes(), Duration::from_secs(2))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [200, 404], "{}", answer.text());
    assert_eq!(echo.requests(), 1);
}

#[tokio::test]
async fn data_before_the_switch_is_not_passed_on() {
    let (world, service) = world("").await;
    for early in [
        "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /adm",
        "\u{1}\u{2}",
    ] {
        let octets = head("foo") + early;
        let answer = world
            .client()
            .raw(octets.as_bytes(), Duration::from_secs(2))
            .await
            .unwrap();
        assert!(!answer.text().contains("ADM"), "{}", answer.text());
        assert!(answer.closed, "{early:?}: {}", answer.text());
    }
    assert!(
        service
            .heads()
            .iter()
            .all(|head| head.starts_with("GET /socket"))
    );
}

#[tokio::test]
async fn no_switch_without_a_wish_and_none_to_another_protocol() {
    let ca = TestCa::new("example.org");
    let service = Scripted::start(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: bar\r\n\r\n",
        Afterwards::Hang,
    )
    .await;
    let world = Front::open(&ca, &[http(service.address())], "").await;
    for octets in [
        head("foo"),
        format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        // `Upgrade` without `Connection`, and `Upgrade` in a request with a body.
        format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: bar\r\n\r\n"),
        format!(
            "POST /a HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: bar\r\nContent-Length: 1\r\n\r\nx"
        ),
    ] {
        let answer = world
            .client()
            .raw(octets.as_bytes(), Duration::from_millis(500))
            .await
            .unwrap();
        assert_eq!(answer.statuses(), [502], "{}", answer.text());
        assert!(answer.text().contains("upstream-protocol"));
    }
}

#[tokio::test]
async fn the_gateway_itself_carries_no_tunnels() {
    let (world, _service) = world("").await;
    let (_sender, response) = over_h2_for(&world, "/.well-known/countersign/whoami").await;
    assert_eq!(response.status(), 400);
    let reason = &response.headers()["countersign-reason"];
    assert_eq!(reason, "malformed-request");
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
async fn a_tunnel_ends_with_the_certificate() {
    let ca = TestCa::new("example.org");
    let service = Switching::start().await;
    let world = Front::open(&ca, &[http(service.address())], "").await;
    let short = ca.issue(Leaf::with_uri(&ca.spiffe("/short")).valid(-60, 3));
    let world = Front {
        caller: short,
        ..world
    };
    let mut connection = tunnel(&world, "websocket").await;
    let answer = connection.read_until(|_| false).await;
    assert!(answer.closed);
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(line["reason"], "certificate-expired");
}

#[tokio::test]
async fn tunnels_go_on_while_draining_until_its_timeout() {
    let ca = TestCa::new("example.org");
    let service = Switching::start().await;
    let settings = countersign_testkit::Settings::new(&ca)
        .set("limits", "drain_timeout", "\"700ms\"")
        .upstream("orders", service.address())
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"websocket\"]\n",
        );
    let mut world = Front::with(&ca, &settings).await;
    let mut connection = tunnel(&world, "websocket").await;
    world.gateway.terminate().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    connection.write(b"still here").await.unwrap();
    let answer = connection.read_until(|octets| octets.len() >= 10).await;
    assert_eq!(answer.text(), "STILL HERE");
    assert!(connection.read_until(|_| false).await.closed);
    assert!(world.gateway.ended().await.success());
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(line["status"], 101);
}

#[tokio::test]
async fn plain_connect_stays_refused_over_h2() {
    let (world, service) = world("").await;
    let mut sender = world.client().streams().await.unwrap();
    let (_open, body) = pieces();
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(HOST.to_owned() + ":443")
        .body(body)
        .unwrap();
    let response = in_time("an answer", sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert!(service.heads().is_empty());
}

#[tokio::test]
async fn a_tunnel_over_h2_ends_with_the_certificate_even_if_the_caller_does_not_read() {
    let ca = TestCa::new("example.org");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = Front::open(&ca, &[http(listener.local_addr().unwrap())], "").await;
    // This service switches protocols, and then reads nothing from the tunnel.
    let service = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                      Upgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    });
    let world = Front {
        caller: ca.issue(Leaf::with_uri(&ca.spiffe("/short")).valid(-60, 3)),
        ..world
    };
    let (sender, response) = over_h2(&world).await;
    assert_eq!(response.status(), 200, "{response:?}");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let service = service.await.unwrap();
    let octets = vec![0; 256 * 1024];
    let pause = Duration::from_millis(300);
    while let Ok(Ok(())) = tokio::time::timeout(pause, stream.write_all(&octets)).await {}
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(line["reason"], "certificate-expired", "{line}");
    drop((service, sender));
}

#[tokio::test]
async fn an_answer_without_a_switch_opens_no_tunnel() {
    let ca = TestCa::new("example.org");
    for status in ["200 OK", "204 No Content"] {
        let octets = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        let service = Scripted::start(octets, Afterwards::Again).await;
        let world = Front::open(&ca, &[http(service.address())], "").await;
        let (_sender, response) = over_h2(&world).await;
        assert_eq!(response.status(), 502, "{status}");
        let reason = &response.headers()["countersign-reason"];
        assert_eq!(reason, "upstream-protocol");
        let line = world.gateway.audit().request("/socket").await;
        assert_eq!(line["reason"], "upstream-protocol", "{line}");
        // Over HTTP/1.1 the caller gets the status of the service, which shows that there is no
        // tunnel.
        let mut caller = world.client().connect().await.unwrap();
        caller.write(head("websocket").as_bytes()).await.unwrap();
        let answer = caller.read_head().await;
        let status: u16 = status.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(answer.statuses(), [status], "{}", answer.text());
    }
}

#[tokio::test]
async fn tunnels_count_among_the_connections_of_their_endpoint() {
    let (world, service) = world("max_connections = 1\nconnect_timeout = \"300ms\"\n").await;
    let connection = tunnel(&world, "websocket").await;
    let answer = world.client().get("/a").await.unwrap();
    assert_eq!((answer.status, answer.reason()), (503, Some("overloaded")));
    assert_eq!(service.heads().len(), 1);
    drop(connection);
    in_time("the slot", async {
        while world.client().get("/a").await.unwrap().status != 426 {}
    })
    .await;
}

#[tokio::test]
async fn tunnels_count_among_the_requests_of_their_endpoint() {
    let ca = TestCa::new("example.org");
    let services = [Switching::start().await, Switching::start().await];
    let endpoints = [http(services[0].address()), http(services[1].address())];
    let world = Front::open(&ca, &endpoints, "balance = \"least-requests\"\n").await;
    let first = tunnel(&world, "websocket").await;
    let busy = services
        .iter()
        .position(|service| service.open() == 1)
        .unwrap();
    for _ in 0..4 {
        assert_eq!(world.client().get("/a").await.unwrap().status, 426);
    }
    assert_eq!(services[busy].heads().len(), 1);
    assert_eq!(services[1 - busy].heads().len(), 4);
    drop(first);
}

#[tokio::test]
async fn a_route_has_to_name_the_protocols() {
    let ca = TestCa::new("example.org");
    let service = Switching::start().await;
    let settings = countersign_testkit::Settings::new(&ca)
        .upstream("orders", service.address())
        .route(
            "orders",
            "orders",
            "paths = [\"/socket\"]\ncallers = [\"*\"]\nupgrade = [\"foo\"]\n",
        )
        .route("none", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
    let world = Front::with(&ca, &settings).await;
    for (path, protocol) in [("/socket", "websocket"), ("/a", "foo"), ("/a", "websocket")] {
        let mut connection = world.client().connect().await.unwrap();
        let octets = head_for(path, protocol);
        connection.write(octets.as_bytes()).await.unwrap();
        let answer = connection.read_head().await;
        assert_eq!(answer.statuses(), [403], "{path} {protocol}");
        assert!(answer.text().contains("upgrade-not-allowed"));
    }
    let (_sender, response) = over_h2_for(&world, "/socket").await;
    assert_eq!(response.status(), 403);
    assert_eq!(service.heads(), [""; 0]);
    // Only the protocols that the route allows reach the service.
    let mut connection = world.client().connect().await.unwrap();
    let octets = head("websocket, Foo");
    connection.write(octets.as_bytes()).await.unwrap();
    assert_eq!(connection.read_head().await.statuses(), [101]);
    let forwarded = service.heads().remove(0).to_ascii_lowercase();
    assert!(forwarded.contains("upgrade: foo\r\n"), "{forwarded}");
}
