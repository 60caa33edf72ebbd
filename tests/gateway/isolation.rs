//! One caller uses as much as possible of a resource. Another caller must still get responses.

use countersign_testkit::gateway::plain;
use countersign_testkit::{
    Attack, Client, Connection, Gateway, Protocol, RawAnswer, Session, Settings, Switching, Target,
    TestCa, in_time, until,
};
use tokio::task::JoinSet;

use crate::support::{BINARY, HOST, World, request, resident_kib};

/// The SPIFFE paths of an attacker (Mallory) and of a well-behaved caller (Bob).
const MALLORY: &str = "/ns/shop/sa/mallory";
const BOB: &str = "/ns/shop/sa/bob";

/// Checks that a response is a refusal with `caller-limit`, and that it names this limit.
fn expect_caller_limit(answer: &RawAnswer, limit: &str) {
    let text = answer.text();
    assert_eq!(answer.statuses(), [429], "{text}");
    assert!(
        text.to_ascii_lowercase().contains("retry-after: 1\r\n"),
        "{text}"
    );
    assert!(text.contains("\"code\":\"caller-limit\""), "{text}");
    assert!(text.contains(&format!("\"limit\":\"{limit}\"")), "{text}");
}

/// Returns whether the gateway's metrics say that this limit was reached.
async fn limit_was_reached(gateway: &Gateway, limit: &str) -> bool {
    let answer = plain(gateway.admin(), "GET", "/metrics", &[]).await;
    let counter = format!("countersign_limit_reached_total{{limit=\"{limit}\"}}");
    answer.body.contains(&counter)
}

/// Connects and sends only the head of a request.
async fn begin(client: &Client, head: &str) -> Connection {
    let mut connection = client.connect().await.unwrap();
    let head = format!("{head}Host: {HOST}\r\n\r\n");
    // The gateway may have closed a refused connection already.
    let _ = connection.write(head.as_bytes()).await;
    connection
}

const WEBSOCKET: &str = "GET /socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

#[tokio::test]
async fn tunnels_of_one_caller_leave_connections_for_others() {
    let ca = TestCa::new("example.org");
    let service = Switching::start().await;
    let settings = Settings::new(&ca)
        .upstream_with("orders", service.address(), "max_connections = 140\n")
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"WebSocket\"]\n",
        );
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = |path: &str| gateway.client(HOST).with(&ca.client(path));
    let (mallory, bob) = (client(MALLORY), client(BOB));
    // Bob's tunnel stays open for the whole test.
    let mut running = begin(&bob, WEBSOCKET).await;
    assert_eq!(running.read_head().await.statuses(), [101]);
    let mut tunnels = Vec::new();
    for _ in 0..64 {
        let mut tunnel = begin(&mallory, WEBSOCKET).await;
        let head = tunnel.read_head().await;
        assert_eq!(head.statuses(), [101], "{} {}", head.text(), tunnels.len());
        tunnels.push(tunnel);
    }
    for _ in 0..70 {
        let mut refused = begin(&mallory, WEBSOCKET).await;
        let answer = refused.read_until(|bytes| bytes.ends_with(b"}")).await;
        expect_caller_limit(&answer, "limits.caller.tunnels");
    }
    assert!(limit_was_reached(&gateway, "limits.caller.tunnels").await);
    let mut another = begin(&bob, WEBSOCKET).await;
    assert_eq!(another.read_head().await.statuses(), [101]);
    running.write(b"still here").await.unwrap();
    let answer = running.read_until(|bytes| bytes.len() >= 10).await;
    assert_eq!(answer.text(), "STILL HERE");
    // When one of Mallory's tunnels ends, she can open another one.
    drop(tunnels.pop());
    in_time("room", async {
        loop {
            let mut tunnel = begin(&mallory, WEBSOCKET).await;
            if tunnel.read_head().await.statuses() == [101] {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn tunnels_on_many_connections_in_h2_leave_room_for_others() {
    let ca = TestCa::new("example.org");
    let service = Switching::start().await;
    let settings = Settings::new(&ca)
        .upstream_with("orders", service.address(), "max_connections = 200\n")
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"websocket\"]\n",
        );
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = |path: &str| gateway.client(HOST).with(&ca.client(path));
    let (mallory, bob) = (client(MALLORY), client(BOB));
    let mut running = begin(&bob, WEBSOCKET).await;
    assert_eq!(running.read_head().await.statuses(), [101]);
    let target = Target::http(HOST);
    let attack = tokio::spawn(async move { Attack::Tunnels.run(&mallory, &target).await });
    until("the limit", async || {
        limit_was_reached(&gateway, "limits.caller.tunnels").await
    })
    .await;
    let mut opened = 0;
    while !attack.is_finished() {
        let mut another = begin(&bob, WEBSOCKET).await;
        assert_eq!(another.read_head().await.statuses(), [101]);
        opened += 1;
    }
    assert!(opened > 1, "{opened}");
    running.write(b"still here").await.unwrap();
    let answer = running.read_until(|bytes| bytes.len() >= 10).await;
    assert_eq!(answer.text(), "STILL HERE");
}

/// Starts a gateway with further keys of its upstream, and with these limits.
async fn world(more: &'static str, limits: &'static [(&'static str, &'static str)]) -> World {
    World::with(|settings, echo| {
        let settings = limits.iter().fold(settings, |settings, (key, value)| {
            settings.set("limits", key, value)
        });
        settings.upstream_with("orders", echo, more).route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nbind_body = \"1MiB\"\n",
        )
    })
    .await
}

#[tokio::test]
async fn requests_that_last_leave_connections_for_others() {
    let world = world("max_connections = 16\nconnect_timeout = \"500ms\"\n", &[]).await;
    let (mallory, bob) = (world.client_as(MALLORY), world.client_as(BOB));
    let mut asked = JoinSet::new();
    for _ in 0..40 {
        let mallory = mallory.clone();
        asked.spawn(async move { mallory.get("/hang").await });
    }
    let mut refused = 0;
    while refused < 40 - 14 {
        let answer = in_time("a refusal", asked.join_next()).await.unwrap();
        let answer = answer.unwrap().expect("an answer");
        assert_eq!(
            (answer.status, answer.reason()),
            (429, Some("caller-limit"))
        );
        assert_eq!(answer.json()["limit"], "limits.caller.requests_in_flight");
        refused += 1;
        assert_eq!(bob.get("/orders").await.unwrap().status, 200);
    }
    assert_eq!(asked.len(), 14, "mallory's requests in progress");
    for protocol in Protocol::BOTH {
        let answer = bob.clone().protocol(protocol).get("/orders").await;
        assert_eq!(answer.unwrap().status, 200, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_caller_that_is_alone_waits_for_its_own_requests() {
    let world = world("max_connections = 8\n", &[]).await;
    let mallory = world.client_as(MALLORY);
    let mut asked = JoinSet::new();
    for _ in 0..40 {
        let mallory = mallory.clone();
        // Each request takes half a second, and seven are in progress at the same time.
        asked.spawn(async move { mallory.get("/slow").await });
    }
    while let Some(answer) = in_time("an answer", asked.join_next()).await {
        assert_eq!(answer.unwrap().unwrap().status, 200);
    }
}

#[tokio::test]
async fn bodies_that_trickle_leave_memory_for_others() {
    let world = world("", &[("held_bodies", "\"1MiB\"")]).await;
    let (mallory, bob) = (world.client_as(MALLORY), world.client_as(BOB));
    let head = "POST /orders HTTP/1.1\r\nContent-Length: 131072\r\n";
    let mut trickling = JoinSet::new();
    for _ in 0..12 {
        let mut body = begin(&mallory, head).await;
        trickling.spawn(async move {
            // Sends all but the last byte. Some of the bodies are refused earlier.
            let _ = body.write(&[b'x'; 131_071]).await;
            let answer = body.read_until(|bytes| bytes.ends_with(b"}")).await;
            expect_caller_limit(&answer, "limits.caller.buffered_bodies");
        });
    }
    // The share of a caller is seven eighths of 1 MiB, which is seven of these bodies. The other
    // five bodies are refused.
    for _ in 0..5 {
        in_time("a refusal", trickling.join_next())
            .await
            .unwrap()
            .unwrap();
    }
    let whole = || request("POST", "/orders", vec![b'x'; 200_000]);
    for _ in 0..4 {
        let answer = bob.send(whole()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // Bob needed more memory than was free, and one of Mallory's bodies was refused for it.
    in_time("a refusal", trickling.join_next())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn bodies_take_no_more_memory_than_is_documented() {
    let world = world("", &[]).await;
    let (mallory, bob) = (world.client_as(MALLORY), world.client_as(BOB));
    let head = "POST /orders HTTP/1.1\r\nContent-Length: 1048576\r\n";
    let whole = || request("POST", "/orders", vec![b'x'; 1 << 20]);
    assert_eq!(bob.send(whole()).await.unwrap().status, 200);
    let before = resident_kib(&world.gateway);
    let mut trickling = JoinSet::new();
    for _ in 0..70 {
        let mut body = begin(&mallory, head).await;
        trickling.spawn(async move {
            let _ = body.write(&[b'x'; (1 << 20) - 1]).await;
            body.read_until(|bytes| bytes.ends_with(b"}")).await
        });
    }
    // The share of a caller is seven eighths of 64 MiB, which is 56 of these bodies.
    for _ in 0..14 {
        let refused = in_time("a refusal", trickling.join_next()).await.unwrap();
        expect_caller_limit(&refused.unwrap(), "limits.caller.buffered_bodies");
    }
    let most = resident_kib(&world.gateway) - before;
    assert!(most < 96 * 1024, "{most} KiB");
    for _ in 0..3 {
        assert_eq!(bob.send(whole()).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_body_without_pauses_may_still_be_too_slow() {
    let world = world("", &[]).await;
    let mut body = begin(
        &world.client_as(MALLORY),
        "POST /orders HTTP/1.1\r\nContent-Length: 100000\r\n",
    )
    .await;
    body.write(&[b'x'; 10_000]).await.unwrap();
    let answer = in_time("a refusal", body.read_until(|bytes| bytes.ends_with(b"}"))).await;
    assert_eq!(answer.statuses(), [408], "{}", answer.text());
    assert!(answer.text().contains("\"code\":\"body-too-slow\""));
}

#[tokio::test]
async fn connections_of_one_caller_leave_some_for_others() {
    let world = world("", &[("connections", "16")]).await;
    let (mallory, bob) = (world.client_as(MALLORY), world.client_as(BOB));
    let mut running = bob.session().await.unwrap();
    assert_eq!(running.get("/orders").await.unwrap().status, 200);
    // While Bob has a connection, Mallory's share is at most half of the connections.
    let mut idle: Vec<Session> = Vec::new();
    for _ in 0..8 {
        let mut session = mallory.session().await.unwrap();
        assert_eq!(session.get("/orders").await.unwrap().status, 200);
        idle.push(session);
    }
    in_time("an idle connection is closed for the next one", async {
        while !idle.iter().any(Session::is_closed) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(idle);
    let mut busy = Vec::new();
    let line = loop {
        busy.push(begin(&mallory, "GET /hang HTTP/1.1\r\n").await);
        let is_limit = |line: &serde_json::Value| line["reason"] == "caller-limit";
        if let Some(line) = world.gateway.audit().matching(is_limit).pop() {
            break line;
        }
        assert!(busy.len() < 100, "no connection is refused");
    };
    assert_eq!(
        (&line["event"], &line["decision"]),
        (&"connection".into(), &"refused".into())
    );
    assert!(line["caller"].as_str().unwrap().ends_with(MALLORY));
    for _ in 0..4 {
        assert_eq!(bob.get("/orders").await.unwrap().status, 200);
        assert_eq!(running.get("/orders").await.unwrap().status, 200);
    }
}
