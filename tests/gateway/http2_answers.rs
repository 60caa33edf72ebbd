//! Responses over h2 to callers with small windows. The gateway tracks each response until the
//! caller has received it, and only then counts it as complete.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_testkit::{Afterwards, Connection, Protocol, Scripted, http2, in_time};
use serde_json::Value;
use tokio::net::TcpSocket;

use crate::support::{HOST, World};

/// Frame types (RFC 9113 section 6), and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// A length in bytes that is more than an h2 caller gets in one frame.
const LARGE: usize = 100 * 1024;

/// Responses of several kinds: the path, and the length in bytes.
const ANSWERS: [(&str, usize); 5] = [
    ("/single", 300),
    ("/large", LARGE),
    ("/chunked", 300),
    ("/trailers", 300),
    // There is no route for this path, so that the gateway itself responds.
    ("/nowhere", 0),
];

fn of_length(length: usize) -> Vec<u8> {
    let mut octets = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    octets.extend(vec![b'x'; length]);
    octets
}

fn chunked(trailers: &str) -> String {
    let content = "x".repeat(300);
    format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n12c\r\n{content}\r\n0\r\n{trailers}\r\n"
    )
}

/// Starts a gateway in front of services with these responses, and of an echo service.
async fn world(limits: &[(&str, &str)]) -> (World, Vec<Scripted>) {
    let mut services = Vec::new();
    for (name, answer) in [
        ("single", of_length(300)),
        ("large", of_length(LARGE)),
        ("huge", of_length(4 << 20)),
        ("chunked", chunked("").into_bytes()),
        ("trailers", chunked("X-End: yes\r\n").into_bytes()),
    ] {
        services.push((name, Scripted::start(answer, Afterwards::Again).await));
    }
    let world = World::with(|mut settings, echo| {
        for (key, value) in limits {
            settings = settings.set("limits", key, value);
        }
        settings = settings.upstream("echo", echo).route(
            "echo",
            "echo",
            "paths = [\"/echo/**\"]\ncallers = [\"*\"]\n",
        );
        for (name, service) in &services {
            settings = settings.upstream(name, service.address()).route(
                name,
                name,
                &format!("paths = [\"/{name}\"]\ncallers = [\"*\"]\n"),
            );
        }
        settings
    })
    .await;
    let services = services.into_iter().map(|(_, service)| service).collect();
    (world, services)
}

/// A caller that writes single frames.
struct Caller {
    connection: Connection,
    received: Vec<u8>,
    next: u32,
}

impl Caller {
    async fn new(world: &World, window: u32) -> Self {
        let client = world.client().protocol(Protocol::Http2);
        Self::over(client.connect().await.unwrap(), window).await
    }

    async fn over(connection: Connection, window: u32) -> Self {
        let mut caller = Self {
            connection,
            received: Vec::new(),
            next: 1,
        };
        let mut initial = vec![0, 4];
        initial.extend(window.to_be_bytes());
        caller.write(&http2::preface()).await;
        caller.write(&http2::frame(SETTINGS, 0, 0, &initial)).await;
        caller
    }

    async fn write(&mut self, octets: &[u8]) {
        self.connection.write(octets).await.unwrap();
    }

    /// Sends a request. Returns its stream identifier.
    async fn ask(&mut self, path: &str) -> u32 {
        let stream = self.next;
        self.next += 2;
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", HOST),
            (":path", path),
        ];
        self.write(&http2::headers(stream, true, &fields)).await;
        stream
    }

    async fn grant(&mut self, stream: u32, octets: u32) {
        let octets = octets.to_be_bytes();
        self.write(&http2::frame(WINDOW_UPDATE, 0, stream, &octets))
            .await;
    }

    fn frames(&self) -> Vec<http2::Frame> {
        http2::frames(&self.received)
    }

    /// Reads frames until `enough` returns true for all frames so far.
    async fn until(&mut self, enough: impl Fn(&[http2::Frame]) -> bool) {
        let earlier = self.received.clone();
        let answer = self
            .connection
            .read_until(|octets| enough(&http2::frames(&[&earlier, octets].concat())))
            .await;
        self.received.extend(answer.octets);
        assert!(enough(&self.frames()), "closed: {}", answer.closed);
    }

    /// Sends a request whose response has no content, and waits for the response.
    async fn ask_cheaply(&mut self) {
        let stream = self.ask("/echo/status/204").await;
        self.until(|frames| has(frames, HEADERS, stream)).await;
    }
}

fn has(frames: &[http2::Frame], kind: u8, stream: u32) -> bool {
    frames
        .iter()
        .any(|frame| frame.kind == kind && frame.stream == stream)
}

fn has_ended(frames: &[http2::Frame], stream: u32) -> bool {
    frames.iter().any(|frame| {
        frame.stream == stream
            && matches!(frame.kind, DATA | HEADERS)
            && frame.flags & END_STREAM != 0
    })
}

fn content(frames: &[http2::Frame], stream: u32) -> usize {
    frames
        .iter()
        .filter(|frame| frame.kind == DATA && frame.stream == stream)
        .map(|frame| frame.payload.len())
        .sum()
}

fn is_reset(frames: &[http2::Frame], streams: &[u32]) -> bool {
    streams
        .iter()
        .all(|stream| has(frames, RST_STREAM, *stream))
}

/// Returns the number of content bytes on all streams.
fn content_of_all(frames: &[http2::Frame]) -> usize {
    let data = frames.iter().filter(|frame| frame.kind == DATA);
    data.map(|frame| frame.payload.len()).sum()
}

/// Returns the audit lines for a path. The round with window 0 has written one line for each path,
/// and the round with window 1 another one.
async fn lines_of(world: &World, path: &str, window: u32) -> Vec<Value> {
    let audit = world.gateway.audit();
    audit
        .at_least(1 + window as usize, path, |line| line["path"] == path)
        .await
}

#[tokio::test]
async fn untaken_responses_end_although_their_caller_sends_more_requests() {
    let (world, _services) = world(&[("body_timeout", "\"1s\"")]).await;
    for window in [0, 1] {
        let mut caller = Caller::new(&world, window).await;
        let mut streams = BTreeMap::new();
        for (path, _) in ANSWERS {
            let path = format!("{path}?no-window");
            streams.insert(caller.ask(&path).await, path);
        }
        in_time("the end of all of them", async {
            while !streams
                .keys()
                .all(|stream| has(&caller.frames(), RST_STREAM, *stream))
            {
                caller.ask_cheaply().await;
            }
        })
        .await;
        assert!(!has(&caller.frames(), GOAWAY, 0));
        for (path, _) in ANSWERS {
            for line in lines_of(&world, path, window).await {
                assert_eq!(line["complete"], false, "{line}");
                let reason = match path {
                    "/nowhere" => "no-route",
                    _ => "timeout",
                };
                assert_eq!(line["reason"], reason, "{line}");
            }
        }
        // A stream with a window is not affected.
        let stream = caller.ask("/echo/again").await;
        caller.grant(stream, 1 << 20).await;
        caller.until(|frames| has_ended(frames, stream)).await;
    }
}

/// The number of bytes that the caller adds to the connection's window each time.
const SHARE: u32 = 64 * 1024;

#[tokio::test]
async fn answers_wait_for_their_turn_on_a_slow_connection() {
    let (world, _services) = world(&[("body_timeout", "\"1s\"")]).await;
    let mut caller = Caller::new(&world, 1 << 20).await;
    let mut streams = Vec::new();
    for _ in 0..24 {
        streams.push(caller.ask("/large").await);
    }
    // The initial window of every connection.
    let mut granted = 65_535;
    let whole = streams.len() * LARGE;
    while granted < whole {
        let now = granted;
        caller.until(|frames| content_of_all(frames) == now).await;
        let silent = Duration::from_millis(100);
        let more = caller.connection.read_until_silent(silent).await;
        caller.received.extend(more.octets);
        let reset: Vec<_> = (caller.frames().into_iter())
            .filter(|frame| matches!(frame.kind, RST_STREAM | GOAWAY))
            .collect();
        assert!(reset.is_empty(), "after {granted} octets: {reset:?}");
        caller.grant(0, SHARE).await;
        granted += SHARE as usize;
    }
    caller
        .until(|frames| streams.iter().all(|stream| has_ended(frames, *stream)))
        .await;
    let lines = world
        .gateway
        .audit()
        .at_least(streams.len(), "all", |line| line["path"] == "/large")
        .await;
    assert!(
        lines.iter().all(|line| line["complete"] == true),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_slow_socket_is_shared_as_well() {
    // The header timeout is long, because this caller does not acknowledge the PING frames. The
    // body timeout is long, because a busy machine may stop the caller for seconds.
    let limits = [("body_timeout", "\"4s\""), ("header_timeout", "\"10m\"")];
    let (world, _services) = world(&limits).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let client = world.client().protocol(Protocol::Http2);
    let stream = socket.connect(world.gateway.listener()).await.unwrap();
    let mut caller = Caller::over(client.connect_over(stream).await.unwrap(), 1 << 30).await;
    caller.grant(0, 1 << 30).await;
    for _ in 0..120 {
        caller.ask("/huge").await;
    }
    // Sending a part of every stream takes longer than the timeout of one stream.
    for _ in 0..150 {
        let more = caller
            .connection
            .read_until(|octets| octets.len() >= 64 * 1024)
            .await;
        assert!(!more.closed);
        // The caller reads slowly.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    // The test reads the audit log, because a reset would arrive after all data in the socket.
    let ended = world
        .gateway
        .audit()
        .matching(|line| line["path"] == "/huge");
    assert!(ended.is_empty(), "{} have ended", ended.len());
}

#[tokio::test]
async fn a_stream_without_window_is_given_up_on_although_others_go_on() {
    let (world, _services) = world(&[("body_timeout", "\"1s\"")]).await;
    let mut caller = Caller::new(&world, 0).await;
    caller.grant(0, 1 << 30).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(caller.ask("/huge").await);
    }
    in_time("the end of those without window", async {
        while !is_reset(&caller.frames(), &held) {
            let stream = caller.ask("/single").await;
            caller.grant(stream, 1 << 20).await;
            caller.until(|frames| has_ended(frames, stream)).await;
        }
    })
    .await;
    assert!(!has(&caller.frames(), GOAWAY, 0));
}

#[tokio::test]
async fn single_bytes_do_not_hold_a_connection() {
    let (world, _services) = world(&[("body_timeout", "\"1s\"")]).await;
    let mut caller = Caller::new(&world, 1 << 20).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(caller.ask("/huge").await);
    }
    in_time("the end of all of them", async {
        while !is_reset(&caller.frames(), &streams) {
            let before = content_of_all(&caller.frames());
            caller.grant(0, 1).await;
            let all = streams.clone();
            caller
                .until(|frames| content_of_all(frames) > before || is_reset(frames, &all))
                .await;
        }
    })
    .await;
    assert!(!has(&caller.frames(), GOAWAY, 0));
}

#[tokio::test]
async fn an_answer_is_complete_when_its_caller_has_taken_it() {
    let (world, _services) = world(&[]).await;
    for window in [0, 1] {
        let mut caller = Caller::new(&world, window).await;
        for (path, length) in ANSWERS {
            let stream = caller.ask(path).await;
            caller.until(|frames| has(frames, HEADERS, stream)).await;
            caller
                .until(|frames| content(frames, stream) == window as usize)
                .await;
            // If this response had a line, the line would come before the line of a later request.
            let count = |path: &str| {
                let lines = world.gateway.audit().lines();
                lines.iter().filter(|line| line["path"] == path).count()
            };
            let later = count("/echo/status/204") + 1;
            caller.ask_cheaply().await;
            world
                .gateway
                .audit()
                .at_least(later, "a later request", |line| {
                    line["path"] == "/echo/status/204"
                })
                .await;
            assert_eq!(count(path), window as usize, "{path}");
            caller.grant(stream, 1 << 20).await;
            caller.grant(0, 1 << 20).await;
            caller.until(|frames| has_ended(frames, stream)).await;
            let taken = content(&caller.frames(), stream);
            assert!(taken == length || path == "/nowhere", "{path}: {taken}");
            for line in lines_of(&world, path, window).await {
                assert_eq!(line["complete"], true, "{line}");
            }
            let trailers = caller.frames().iter().any(|frame| {
                frame.kind == HEADERS && frame.stream == stream && frame.flags & END_STREAM != 0
            });
            assert_eq!(trailers, path == "/trailers", "{path}");
        }
    }
}

#[tokio::test]
async fn a_response_that_fits_the_window_ends_with_its_last_bytes() {
    let (world, _services) = world(&[]).await;
    let mut caller = Caller::new(&world, 1 << 20).await;
    caller.grant(0, 1 << 20).await;
    for path in ["/single", "/large", "/nowhere"] {
        let stream = caller.ask(path).await;
        caller.until(|frames| has_ended(frames, stream)).await;
        let frames = caller.frames();
        let last = frames.iter().rfind(|frame| frame.stream == stream).unwrap();
        // The last DATA frame has END_STREAM. A separate frame would need another TLS record
        // and another system call.
        assert!(last.kind == DATA && !last.payload.is_empty(), "{path}");
    }
    // The response is larger than the first window of the stream.
    let mut caller = Caller::new(&world, 65_535).await;
    let stream = caller.ask("/large").await;
    caller
        .until(|frames| content(frames, stream) == 65_535)
        .await;
    caller.grant(0, 1 << 20).await;
    caller.grant(stream, 1 << 20).await;
    caller.until(|frames| has_ended(frames, stream)).await;
    assert_eq!(content(&caller.frames(), stream), LARGE);
    let lines = world
        .gateway
        .audit()
        .at_least(2, "both", |line| line["path"] == "/large")
        .await;
    assert!(
        lines.iter().all(|line| line["complete"] == true),
        "{lines:?}"
    );
}

#[tokio::test]
async fn an_answer_that_its_caller_cancels_is_not_complete() {
    let (world, _services) = world(&[]).await;
    let mut caller = Caller::new(&world, 1).await;
    for (path, _) in ANSWERS {
        let stream = caller.ask(path).await;
        caller.until(|frames| content(frames, stream) == 1).await;
        let cancel = http2::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        caller.write(&cancel).await;
        let line = world.gateway.audit().request(path).await;
        assert_eq!(line["complete"], false, "{line}");
        let reason = &line["reason"];
        assert!(reason.is_null() || path == "/nowhere", "{line}");
    }
    // The connection still works after all these streams.
    caller.ask_cheaply().await;
}

#[tokio::test]
async fn a_connection_is_not_idle_while_an_answer_waits_to_be_taken() {
    let (world, _services) = world(&[("header_timeout", "\"300ms\"")]).await;
    for path in ["/single", "/nowhere"] {
        let mut caller = Caller::new(&world, 1).await;
        let stream = caller.ask(path).await;
        // The gateway sends a PING instead of closing the connection as idle.
        for count in 1..=5 {
            let pings =
                |frames: &[http2::Frame]| frames.iter().filter(|frame| frame.kind == PING).count();
            caller
                .until(|frames| pings(frames) >= count || has(frames, GOAWAY, 0))
                .await;
            assert!(!has(&caller.frames(), GOAWAY, 0), "{path}");
            let ping = caller
                .frames()
                .into_iter()
                .rfind(|frame| frame.kind == PING);
            let pong = http2::frame(PING, ACK, 0, &ping.unwrap().payload);
            caller.write(&pong).await;
        }
        caller.grant(stream, 1 << 16).await;
        caller.until(|frames| has_ended(frames, stream)).await;
        // After the response, the connection is idle and is closed.
        caller.until(|frames| has(frames, GOAWAY, 0)).await;
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_whole_answer_although_the_gateway_stops() {
    let (mut world, _services) = world(&[]).await;
    // The receive buffer is small, so that the gateway still buffers most of the response when it
    // shuts down.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let client = world.client().protocol(Protocol::Http2);
    let stream = socket.connect(world.gateway.listener()).await.unwrap();
    let mut caller = Caller::over(client.connect_over(stream).await.unwrap(), 0).await;
    let stream = caller.ask("/huge").await;
    caller.until(|frames| has(frames, HEADERS, stream)).await;
    world.gateway.terminate().await;
    caller
        .until(|frames| has(frames, GOAWAY, 0) && has(frames, PING, 0))
        .await;
    let ping = caller.frames().into_iter().find(|frame| frame.kind == PING);
    let pong = http2::frame(PING, ACK, 0, &ping.unwrap().payload);
    caller.write(&pong).await;
    caller.grant(stream, 1 << 30).await;
    caller.grant(0, 1 << 30).await;
    let mut octets = std::mem::take(&mut caller.received);
    while !has_ended(&http2::frames(&octets), stream) {
        caller.write(&http2::frame(PING, 0, 0, b"still on")).await;
        let before = octets.len();
        let more = caller
            .connection
            .read_until(|octets| octets.len() >= 64 * 1024)
            .await;
        octets.extend(more.octets);
        assert!(octets.len() > before, "cut off after {before} octets");
    }
    assert_eq!(content(&http2::frames(&octets), stream), 4 << 20);
    let line = world.gateway.audit().request("/huge").await;
    assert_eq!(line["complete"], true, "{line}");
    drop(caller);
    assert!(world.gateway.ended().await.success());
}
