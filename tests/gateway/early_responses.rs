//! Responses over HTTP/2 that are complete before the request is complete. Clients must be able to
//! read such a response, and a reset must not discard it.

use std::process::Stdio;
use std::time::Duration;

use countersign_testkit::skipped::tool;
use countersign_testkit::{Afterwards, Connection, Protocol, Scripted, http2, in_time};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::{Curl, HOST, World, script};

/// Frame types (RFC 9113 section 6), and a flag.
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// Starts a gateway with one route, for `/early`. The service responds with 403 to the request head
/// and does not use the body. It responds only once on each connection, and says so: the gateway may
/// use a connection again if the whole body was sent before the response was read.
async fn world() -> (World, Scripted) {
    let response = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    let service = Scripted::start(response, Afterwards::Hang).await;
    let world = World::with(|settings, _| {
        settings.upstream("early", service.address()).route(
            "early",
            "early",
            "paths = [\"/early\"]\ncallers = [\"*\"]\n",
        )
    })
    .await;
    (world, service)
}

/// Sends the head of an upload to a path without a route.
async fn refused_upload(world: &World) -> Connection {
    let client = world.client().protocol(Protocol::Http2);
    let mut connection = client.connect().await.unwrap();
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", HOST),
        (":path", "/nowhere"),
    ];
    let mut bytes = http2::preface();
    bytes.extend(http2::headers(1, false, &fields));
    connection.write(&bytes).await.unwrap();
    connection
}

fn has_ended(bytes: &[u8]) -> bool {
    http2::frames(bytes)
        .iter()
        .any(|frame| frame.kind == DATA && frame.flags & END_STREAM != 0)
}

fn reset(bytes: &[u8]) -> Option<Vec<u8>> {
    let frames = http2::frames(bytes);
    let found = frames.iter().find(|frame| frame.kind == RST_STREAM);
    found.map(|frame| frame.payload.clone())
}

#[tokio::test]
async fn a_request_that_ends_after_its_refusal_is_not_reset() {
    let (world, _service) = world().await;
    let mut connection = refused_upload(&world).await;
    let answer = in_time("a response", connection.read_until(has_ended)).await;
    assert_eq!(reset(&answer.octets), None);
    for (piece, end) in [(&[b'x'; 1000][..], false), (&[], true)] {
        let data = http2::data(1, end, piece);
        connection.write(&data).await.unwrap();
    }
    // The gateway keeps the connection open and sends nothing else on this stream.
    let silence = Duration::from_millis(2500);
    let answer = connection.read_until_silent(silence).await;
    assert!(!answer.closed);
    assert_eq!(reset(&answer.octets), None);
    // New uploads are still possible.
    let mut other = refused_upload(&world).await;
    let answer = in_time("a response", other.read_until(has_ended)).await;
    assert!(!answer.closed);
}

#[tokio::test]
async fn a_request_that_goes_on_after_its_refusal_is_reset_later() {
    const NO_ERROR: [u8; 4] = [0; 4];
    let (world, _service) = world().await;
    // The first request sends nothing more. The second one sends more, but never ends.
    for more in [0, 3 * 16_000] {
        let mut connection = refused_upload(&world).await;
        let answer = in_time("a response", connection.read_until(has_ended)).await;
        assert_eq!(reset(&answer.octets), None, "{more}");
        for _ in 0..more / 16_000 {
            let data = http2::data(1, false, &[b'x'; 16_000]);
            connection.write(&data).await.unwrap();
        }
        let is_reset = |bytes: &[u8]| reset(bytes).is_some();
        let answer = in_time("a reset", connection.read_until(is_reset)).await;
        assert_eq!(reset(&answer.octets).unwrap(), NO_ERROR, "{more}");
        assert!(!answer.closed);
    }
}

/// Returns a SETTINGS frame that allows only one byte of each response.
fn one_byte_windows() -> Vec<u8> {
    const SETTINGS: u8 = 4;
    http2::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1])
}

/// The gateway ends a response that its caller does not read, while the request is still open. What
/// the caller does afterwards must not block the worker.
#[tokio::test]
async fn an_untaken_response_to_an_open_request_blocks_nothing() {
    for afterwards in ["reset", "window update", "close"] {
        let world = World::with(|settings, echo| {
            settings
                .set("runtime", "workers", "1")
                .set("limits", "body_timeout", "\"1s\"")
                .upstream("orders", echo)
                .route("orders", "orders", "paths = [\"/a\"]\ncallers = [\"*\"]\n")
        })
        .await;
        let client = world.client().protocol(Protocol::Http2);
        let mut connection = client.connect().await.unwrap();
        let fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", HOST),
            (":path", "/nowhere"),
        ];
        let bytes = [
            http2::preface(),
            one_byte_windows(),
            http2::headers(1, false, &fields),
        ];
        connection.write(&bytes.concat()).await.unwrap();
        let is_reset = |bytes: &[u8]| reset(bytes).is_some();
        let answer = in_time("a reset", connection.read_until(is_reset)).await;
        assert!(!answer.closed, "{afterwards}");
        let frame = match afterwards {
            "reset" => http2::frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            _ => http2::frame(8, 0, 1, &[0, 0, 1, 0]),
        };
        if afterwards == "close" {
            drop(connection);
        } else {
            let _ = connection.write(&frame).await;
        }
        let served = in_time("another caller's request", world.client().get("/a")).await;
        assert_eq!(served.unwrap().status, 200, "{afterwards}");
        world.gateway.terminate().await;
    }
}

#[tokio::test]
async fn a_refused_connect_is_reset_after_its_response() {
    let (world, _service) = world().await;
    let client = world.client().protocol(Protocol::Http2);
    let mut connection = client.connect().await.unwrap();
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", HOST),
        (":path", "/nowhere"),
        ("sec-websocket-version", "13"),
    ];
    let bytes = [http2::preface(), http2::headers(1, false, &fields)].concat();
    connection.write(&bytes).await.unwrap();
    let answer = in_time("a response", connection.read_until(has_ended)).await;
    assert_eq!(reset(&answer.octets), None);
    let is_reset = |bytes: &[u8]| reset(bytes).is_some();
    in_time("a reset", connection.read_until(is_reset)).await;
}

#[tokio::test]
async fn curl_reads_every_refusal_of_an_upload() {
    let (world, _service) = world().await;
    let Some(curl) = Curl::to(&world).await else {
        return;
    };
    for (path, status, size) in [
        ("/nowhere", "404", 100),
        ("/nowhere", "404", 3 << 20),
        ("/early", "403", 3 << 20),
    ] {
        let body = world.ca.write("body", vec![b'x'; size]);
        let body = format!("@{}", body.display());
        let arguments = [
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--data-binary",
            &body,
        ];
        for number in 0..40 {
            let (seen, complaint) = curl.run(path, &arguments).await;
            let expected = (status, "");
            assert_eq!(
                (&*seen, &*complaint),
                expected,
                "{path} {number}, {size} bytes"
            );
        }
    }
}

/// Runs a script that uploads to a path without a route, and checks that it succeeds.
async fn uploads_are_refused(command: Command, what: &str) {
    let Some(mut child) = script::start(command, what) else {
        return;
    };
    let (world, _service) = world().await;
    let told = script::told(&world.ca, &world.gateway).to_string() + "\n";
    let mut stdin = child.stdin.take().unwrap();
    // The error is ignored, because a script that ends early does not read its input.
    let _ = stdin.write_all(told.as_bytes()).await;
    drop(stdin);
    // A long timeout, because the script uploads some hundred megabytes.
    let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await;
    let output = output.expect("the script does not end").unwrap();
    let is_absent = output.status.code() == Some(script::ABSENT);
    if tool(what, !is_absent) {
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {complaint}");
    }
}

#[tokio::test]
async fn node_reads_every_refusal_of_an_upload() {
    uploads_are_refused(script::node("refused_uploads.mjs"), "node").await;
}

#[tokio::test]
async fn httpx_reads_every_refusal_of_an_upload() {
    let mut command = script::python("refused_uploads.py");
    command.stdout(Stdio::null());
    uploads_are_refused(command, "httpx for Python").await;
}
