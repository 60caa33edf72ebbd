//! h2 callers that read nothing, that send useless frames, or whose frames the h2 library refuses.
//! Their effect is limited and recorded.

use std::time::{Duration, Instant};

use countersign_testkit::{Connection, Protocol, http2, in_time};

use crate::support::{HOST, World};

const GET: [(&str, &str); 3] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", HOST),
];

fn request(stream: u32, path: &str) -> Vec<u8> {
    http2::headers(stream, true, &[&GET[..], &[(":path", path)]].concat())
}

async fn connect(world: &World) -> Connection {
    let mut connection = world
        .client()
        .protocol(Protocol::Http2)
        .connect()
        .await
        .unwrap();
    connection.write(&http2::preface()).await.unwrap();
    connection
}

/// Sends these bytes repeatedly until the gateway closes the connection.
async fn flood(connection: &mut Connection, octets: &[u8]) {
    in_time("the end of a flood", async {
        // Some bytes are read each time, so that the gateway can keep writing.
        while connection.write(octets).await.is_ok() {
            let answer = connection.read_until_silent(Duration::from_millis(1)).await;
            if answer.closed {
                return;
            }
        }
    })
    .await;
}

/// Opens a connection that requests 1 MiB and gives no window for the response.
async fn without_window(world: &World) -> Connection {
    let mut connection = connect(world).await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    let settings = http2::frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    connection.write(&settings).await.unwrap();
    let megabyte = request(1, "/held/megabyte");
    connection.write(&megabyte).await.unwrap();
    connection
}

#[tokio::test]
async fn a_caller_that_gives_no_window_is_given_up_on() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "body_timeout", "\"1s\"")
            .everything_to(echo)
    })
    .await;
    let mut connection = without_window(&world).await;
    let answer = connection
        .read_until(|octets| {
            http2::frames(octets)
                .iter()
                .any(|frame| frame.kind == 3 && frame.stream == 1)
        })
        .await;
    assert!(!answer.closed);
    let line = world.gateway.audit().request("/held/megabyte").await;
    assert_eq!(line["reason"], "timeout", "{line}");
    assert_eq!(line["complete"], false);
    // The connection itself, and a stream with a window, stay usable.
    connection.write(&request(3, "/status/204")).await.unwrap();
    let answer = connection
        .read_until(|octets| {
            http2::frames(octets)
                .iter()
                .any(|frame| frame.kind == 1 && frame.stream == 3)
        })
        .await;
    assert!(!answer.closed);
}

#[tokio::test]
async fn a_consumer_may_pause_for_as_long_as_its_upstream_says() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "body_timeout", "\"400ms\"")
            .upstream_with("echo", echo, "stall_timeout = \"1m\"\n")
            .route("all", "echo", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await;
    let mut connection = without_window(&world).await;
    let head = |octets: &[u8]| {
        let frames = http2::frames(octets);
        frames.iter().any(|frame| frame.kind == 1)
    };
    connection.read_until(head).await;
    // This wait is several times the `body_timeout` of other callers.
    let answer = connection
        .read_until_silent(Duration::from_millis(1600))
        .await;
    assert!(!answer.closed);
    let reset = |frames: &[http2::Frame]| frames.iter().any(|frame| frame.kind == 3);
    assert!(!reset(&http2::frames(&answer.octets)));
    // The response continues where it stopped.
    let window = (1_u32 << 20).to_be_bytes();
    let windows = [
        http2::frame(8, 0, 0, &window),
        http2::frame(8, 0, 1, &window),
    ];
    connection.write(&windows.concat()).await.unwrap();
    let answer = connection
        .read_until(|octets| {
            let frames = http2::frames(octets);
            reset(&frames) || frames.iter().any(|frame| frame.kind == 0)
        })
        .await;
    assert!(!reset(&http2::frames(&answer.octets)), "{}", answer.text());
}

#[tokio::test]
async fn floods_of_frames_that_carry_nothing_end_the_connection() {
    let world = World::open().await;
    for (what, frame) in [
        ("pings", http2::frame(6, 0, 0, &[0; 8])),
        ("settings", http2::frame(4, 0, 0, &[])),
        ("windows", http2::frame(8, 0, 0, &[0, 0, 0, 1])),
        ("priorities", http2::frame(2, 0, 1, &[0; 5])),
        ("unknown frames", http2::frame(0x77, 0, 0, b"x")),
    ] {
        let mut connection = connect(&world).await;
        flood(&mut connection, &frame.repeat(200)).await;
        let cut = world
            .gateway
            .audit()
            .at_least(1, what, |line| line["event"] == "connection")
            .await;
        assert!(!cut.is_empty(), "{what}");
        assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    }
    let lines = world
        .gateway
        .audit()
        .at_least(5, "a line for each", |line| line["event"] == "connection")
        .await;
    for line in lines {
        assert!(
            matches!(line["decision"].as_str(), Some("cut" | "refused")),
            "{line}"
        );
        assert!(line["caller"].is_string(), "{line}");
    }
}

/// The frames are on an open stream, so that each frame is allowed there.
#[tokio::test]
async fn floods_of_tiny_frames_of_a_body_end_the_connection() {
    let world = World::open().await;
    let head = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", HOST),
        (":path", "/hang"),
    ];
    let trailers = |end| http2::headers(1, end, &[("x-a", "a")]);
    let floods = [
        ("empty", http2::data(1, false, b""), "ENHANCE"),
        ("padding alone", http2::frame(0, 8, 1, &[7; 8]), "ENHANCE"),
        ("heads within", trailers(false), "PROTOCOL_ERROR"),
        ("trailers again", trailers(true), "PROTOCOL_ERROR"),
    ];
    let mut victim = world
        .client()
        .protocol(Protocol::Http2)
        .session()
        .await
        .unwrap();
    for (number, (what, frame, code)) in floods.into_iter().enumerate() {
        let mut connection = connect(&world).await;
        connection
            .write(&http2::headers(1, false, &head))
            .await
            .unwrap();
        flood(&mut connection, &frame.repeat(500)).await;
        let lines = world
            .gateway
            .audit()
            .at_least(number + 1, what, |line| line["event"] == "connection")
            .await;
        let line = lines.last().unwrap();
        let detail = line["detail"].as_str().unwrap();
        // Either the h2 library or the gateway's own limit closes the connection first.
        assert!(
            detail.contains(code) || detail.contains("floods"),
            "{what}: {line}"
        );
        // Earlier callers on the same worker and new callers still get responses.
        assert_eq!(victim.get("/a").await.unwrap().status, 200, "{what}");
        assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_leave_nothing_behind() {
    let world = World::open().await;
    let begin = Instant::now();
    let mut connection = connect(&world).await;
    let mut stream = 1;
    in_time("the end of the resets", async {
        loop {
            let mut octets = Vec::new();
            for _ in 0..100 {
                octets.extend(request(stream, "/hang"));
                octets.extend(http2::frame(3, 0, stream, &8_u32.to_be_bytes()));
                stream += 2;
            }
            if connection.write(&octets).await.is_err() {
                return;
            }
            if connection
                .read_until_silent(Duration::from_millis(1))
                .await
                .closed
            {
                return;
            }
        }
    })
    .await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    let line = world
        .gateway
        .audit()
        .line("the connection", |line| line["event"] == "connection")
        .await;
    assert!(line["caller"].is_string(), "{line}");
    // The maximum is independent of the speed of both sides: the burst that is allowed, the
    // number that is allowed per second, and the requests of one read.
    let begun = world
        .gateway
        .audit()
        .matching(|line| line["path"] == "/hang");
    let most = 500 + 25 * (begin.elapsed().as_secs() + 1) + 1000;
    assert!(begun.len() as u64 <= most, "{}", begun.len());
}

#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let world = World::open().await;
    let mut connection = connect(&world).await;
    let mut octets = http2::frame(1, 1, 1, &[0x82]);
    octets.extend(http2::frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']).repeat(10_000));
    let _ = connection.write(&octets).await;
    assert!(connection.read_until(|_| false).await.closed);
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn what_http2_refuses_by_itself_is_in_the_audit_log() {
    let world = World::open().await;
    let upper = [&GET[..], &[(":path", "/a"), ("X-Upper", "a")]].concat();
    let pseudo = [&GET[..], &[(":path", "/a"), (":unknown", "a")]].concat();
    for (number, octets) in [
        http2::headers(1, true, &upper),
        http2::headers(1, true, &pseudo),
        // A window above 2^31-1 is an error of the connection.
        http2::frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        // This DATA frame is on a stream that was never opened.
        http2::data(5, true, b"x"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut connection = connect(&world).await;
        connection.write(&octets).await.unwrap();
        let _ = connection
            .read_until_silent(Duration::from_millis(200))
            .await;
        drop(connection);
        let lines = world
            .gateway
            .audit()
            .at_least(number + 1, "a refusal", |line| {
                line["event"] == "connection" && line["decision"] == "refused"
            })
            .await;
        let line = lines.last().unwrap();
        assert_eq!(line["reason"], "malformed-request", "{line}");
        assert!(
            line["detail"].as_str().unwrap().contains("HTTP/2"),
            "{line}"
        );
    }
    assert_eq!(world.echo.requests(), 0);
    // A normal connection adds no audit line of this kind.
    let mut session = world
        .client()
        .protocol(Protocol::Http2)
        .session()
        .await
        .unwrap();
    assert_eq!(session.get("/a").await.unwrap().status, 200);
    drop(session);
    let refused = world
        .gateway
        .audit()
        .matching(|line| line["decision"] == "refused");
    assert_eq!(refused.len(), 4);
}
