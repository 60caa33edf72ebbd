//! Requests over HTTP/2 with malformed heads: callers get the reason.

use countersign_testkit::{Connection, Protocol, http2};
use serde_json::Value;

use crate::support::{Curl, HOST, World};

const RESET: u8 = 3;
const GOAWAY: u8 = 7;
const PROTOCOL_ERROR: Option<[u8; 4]> = Some([0, 0, 0, 1]);
const NO_ERROR: Option<[u8; 4]> = Some([0; 4]);
/// A text that must not get into the audit log.
const MARKER: &str = "secret-marker";

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "https");
const AUTHORITY: (&str, &str) = (":authority", HOST);

fn fields(path: &str) -> [(&'static str, &str); 4] {
    [METHOD, SCHEME, AUTHORITY, (":path", path)]
}

async fn connect(world: &World) -> Connection {
    let client = world.client().protocol(Protocol::Http2);
    client.connect().await.unwrap()
}

/// Sends frames, and reads until `is_enough`, or until the gateway ends the connection.
async fn exchange(
    connection: &mut Connection,
    octets: &[u8],
    is_enough: impl Fn(&[http2::Frame]) -> bool,
) -> Vec<http2::Frame> {
    connection.write(octets).await.unwrap();
    let answer = connection
        .read_until(|octets| {
            let frames = http2::frames(octets);
            is_enough(&frames) || frames.iter().any(|frame| frame.kind == GOAWAY)
        })
        .await;
    http2::frames(&answer.octets)
}

fn of_stream(frames: &[http2::Frame], stream: u32) -> Vec<&http2::Frame> {
    let frames = frames.iter();
    frames.filter(|frame| frame.stream == stream).collect()
}

/// Returns whether a response has ended, or was reset.
fn is_over(frames: &[http2::Frame], stream: u32) -> bool {
    let frames = of_stream(frames, stream);
    frames
        .iter()
        .any(|frame| frame.kind == RESET || frame.flags & 1 != 0)
}

fn is_reset(frames: &[http2::Frame], stream: u32) -> bool {
    of_stream(frames, stream)
        .iter()
        .any(|frame| frame.kind == RESET)
}

/// Returns the value of a field that is a literal without compression.
fn literal(frame: &http2::Frame, name: &str) -> Option<String> {
    let length = u8::try_from(name.len()).unwrap();
    let field = [&[0, length], name.as_bytes()].concat();
    let mut windows = frame.payload.windows(field.len());
    let at = windows.position(|part| part == field)? + field.len();
    let length = usize::from(*frame.payload.get(at)?);
    let value = frame.payload.get(at + 1..at + 1 + length)?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// Checks the frames of a stream whose request was malformed: the response, and then a reset if
/// there is a `code`. Returns the request's identifier.
fn refused(frames: &[http2::Frame], stream: u32, code: Option<[u8; 4]>) -> String {
    let of_stream = of_stream(frames, stream);
    let Some((response, resets)) = of_stream.split_first() else {
        panic!("{stream}: {frames:?}");
    };
    // Entry 12 of the static table is status 400. The flags are END_STREAM and END_HEADERS.
    let status = response.payload.iter().find(|byte| **byte & 0xe0 != 0x20);
    let head = (response.kind, response.flags, status);
    assert_eq!(head, (1, 5, Some(&0x8c)), "{response:?}");
    let reason = literal(response, "countersign-reason");
    assert_eq!(reason.as_deref(), Some("malformed-request"));
    let resets: Vec<_> = resets
        .iter()
        .map(|reset| (reset.kind, &*reset.payload))
        .collect();
    let expected: Vec<_> = code.iter().map(|code| (RESET, &code[..])).collect();
    assert_eq!(resets, expected, "{stream}: {frames:?}");
    let id = literal(response, "x-request-id").unwrap();
    assert!(id.len() > 15, "{id}");
    id
}

#[tokio::test]
async fn malformed_heads_are_refused_with_the_reason() {
    let world = World::open().await;
    let path = |path: &'static str| (":path", path);
    let good = path("/a?secret-marker");
    let with = |field: (&'static str, &'static str)| vec![METHOD, SCHEME, AUTHORITY, good, field];
    let heads = [
        fields("/a?x=\"secret-marker\"").to_vec(),
        fields("/a?secret-marker<").to_vec(),
        fields("/a?secret-marker>").to_vec(),
        fields("/a?secret-marker b").to_vec(),
        fields("/secret-marker<").to_vec(),
        fields("/secret-marker>").to_vec(),
        fields("/secret-marker`").to_vec(),
        fields("/secret-marker b").to_vec(),
        fields("/secret-marker\x7f").to_vec(),
        fields("secret-marker").to_vec(),
        fields("").to_vec(),
        vec![SCHEME, AUTHORITY, good],
        vec![METHOD, AUTHORITY, good],
        vec![METHOD, SCHEME, (":authority", "secret-marker/x"), good],
        vec![METHOD, (":scheme", "a b"), AUTHORITY, good],
        vec![METHOD, METHOD, SCHEME, AUTHORITY, good],
        vec![("x-first", "a"), METHOD, SCHEME, AUTHORITY, good],
        with((":status", "200")),
        with(("connection", "close")),
        with(("transfer-encoding", "chunked")),
        with(("te", "gzip")),
        with(("content-length", "x")),
        with(("content-length", "4")),
    ];
    let mut connection = connect(&world).await;
    let mut octets = http2::preface();
    for (number, head) in heads.iter().enumerate() {
        let stream = 4 * u32::try_from(number).unwrap() + 1;
        // Another request on the same connection is served.
        octets.extend(http2::headers(stream, true, head));
        octets.extend(http2::headers(stream + 2, true, &fields("/good")));
        let frames = exchange(&mut connection, &octets, |frames| {
            is_reset(frames, stream) && is_over(frames, stream + 2)
        })
        .await;
        octets.clear();
        let id = refused(&frames, stream, PROTOCOL_ERROR);
        let good = of_stream(&frames, stream + 2);
        assert!(good[0].is_success(), "{head:?}: {frames:?}");
        let audit = world.gateway.audit();
        let line = audit.line(&id, |line| line["request_id"] == *id).await;
        let expected: [(&str, Value); 6] = [
            ("event", "request".into()),
            ("decision", "refused".into()),
            ("reason", "malformed-request".into()),
            ("status", 400.into()),
            ("path", "".into()),
            ("complete", true.into()),
        ];
        for (member, expected) in expected {
            assert_eq!(line[member], expected, "{head:?}: {line}");
        }
        assert!(line["caller"].is_string(), "{line}");
    }
    assert!(!world.gateway.audit().text().contains(MARKER));
    for seen in world.echo.seen() {
        assert_eq!(seen["path"], "/good");
    }
    // Nothing is reported a second time at the end of the connection.
    drop(connection);
    assert_eq!(world.client().get("/last").await.unwrap().status, 200);
    let audit = world.gateway.audit();
    let refusals = audit.matching(|line| line["event"] == "connection");
    assert!(refusals.is_empty(), "{refusals:?}");
}

/// h2 reports these as errors of the compression, of which every later head depends.
#[tokio::test]
async fn heads_that_cannot_be_decoded_end_the_connection() {
    let world = World::open().await;
    for field in [
        (":unknown", "a"),
        ("X-Upper", "a"),
        ("x a", "b"),
        ("x-a", "b\r\nc"),
    ] {
        let mut connection = connect(&world).await;
        let mut head = fields("/a").to_vec();
        head.push(field);
        let octets = [http2::preface(), http2::headers(1, true, &head)].concat();
        let frames = exchange(&mut connection, &octets, |_| false).await;
        let goaway = frames.iter().find(|frame| frame.kind == GOAWAY).unwrap();
        assert_eq!(
            goaway.payload.get(4..8),
            PROTOCOL_ERROR.as_ref().map(|code| &code[..])
        );
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn a_request_that_has_not_ended_gets_the_response_before_the_reset() {
    let world = World::open().await;
    let mut connection = connect(&world).await;
    let octets = [http2::preface(), http2::headers(1, false, &fields("/a?\""))].concat();
    let frames = exchange(&mut connection, &octets, |frames| is_reset(frames, 1)).await;
    // RFC 9113 section 8.1.
    refused(&frames, 1, NO_ERROR);
    let head = http2::headers(3, false, &fields("/a?\""));
    let frames = exchange(&mut connection, &head, |frames| is_over(frames, 3)).await;
    refused(&frames, 3, None);
    // The rest of the request is ignored.
    let octets = [
        http2::data(3, false, b"body"),
        http2::data(3, true, b"body"),
        http2::headers(5, false, &fields("/a?\"")),
        http2::data(5, true, b"body"),
        http2::headers(7, false, &fields("/a?\"")),
        http2::headers(9, true, &fields("/good")),
    ]
    .concat();
    let frames = exchange(&mut connection, &octets, |frames| {
        is_reset(frames, 3) && is_reset(frames, 5) && is_reset(frames, 7) && is_over(frames, 9)
    })
    .await;
    let [reset] = of_stream(&frames, 3)[..] else {
        panic!("{frames:?}");
    };
    assert_eq!(reset.payload, [0; 4]);
    refused(&frames, 5, PROTOCOL_ERROR);
    refused(&frames, 7, NO_ERROR);
    assert!(of_stream(&frames, 9)[0].is_success(), "{frames:?}");
    assert_eq!(world.echo.requests(), 1);
}

/// If the table of a caller's decoder becomes smaller, the next field block must begin with the
/// new size (RFC 7541 section 4.2).
#[tokio::test]
async fn a_caller_with_a_smaller_table_can_read_the_response() {
    let world = World::open().await;
    let mut connection = connect(&world).await;
    let octets = [
        http2::preface(),
        http2::frame(4, 0, 0, &[0, 1, 0, 0, 0, 0]),
        http2::headers(1, true, &fields("/a?\"")),
        http2::headers(3, true, &fields("/b?\"")),
        http2::headers(5, true, &fields("/good")),
    ]
    .concat();
    let frames = exchange(&mut connection, &octets, |frames| {
        is_reset(frames, 1) && is_reset(frames, 3) && is_over(frames, 5)
    })
    .await;
    refused(&frames, 1, PROTOCOL_ERROR);
    refused(&frames, 3, PROTOCOL_ERROR);
    // Each of these blocks may be the first. h2 writes the size into its own first block.
    let mut heads = frames.iter().filter(|frame| frame.kind == 1);
    assert_eq!(heads.next().unwrap().payload.first(), Some(&0x20));
}

#[tokio::test]
async fn a_fragment_is_cut_off_before_policy_decides() {
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "open",
            "orders",
            "paths = [\"/open/*\"]\ncallers = [\"*\"]\n",
        )
    })
    .await;
    let mut connection = connect(&world).await;
    let mut octets = http2::preface();
    for (number, (path, status, forwarded)) in [
        ("/open/a#secret-marker", 200, Some("/open/a")),
        ("/open/b?x=y#secret-marker", 200, Some("/open/b?x=y")),
        ("/closed#/../open/a", 404, None),
        ("/open/c#?secret-marker", 200, Some("/open/c")),
        ("#secret-marker", 404, None),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = 2 * u32::try_from(number).unwrap() + 1;
        octets.extend(http2::headers(stream, true, &fields(path)));
        let frames = exchange(&mut connection, &octets, |frames| is_over(frames, stream)).await;
        octets.clear();
        let is_success = of_stream(&frames, stream)[0].is_success();
        assert_eq!(is_success, status == 200, "{path}: {frames:?}");
        let audit = world.gateway.audit();
        let is_request = |line: &Value| line["event"] == "request";
        let lines = audit.at_least(number + 1, path, is_request).await;
        let line = lines.last().unwrap();
        assert_eq!(line["status"], status, "{line}");
        if let Some(forwarded) = forwarded {
            let seen = world.echo.seen().pop().unwrap();
            assert_eq!(seen["path"], forwarded);
            let recorded = forwarded.split('?').next().unwrap();
            assert_eq!(line["path"], recorded, "{line}");
        }
    }
    assert_eq!(world.echo.requests(), 3);
    assert!(!world.gateway.audit().text().contains(MARKER));
}

#[tokio::test]
async fn some_characters_that_should_be_encoded_pass() {
    let world = World::open().await;
    let mut connection = connect(&world).await;
    let mut octets = http2::preface();
    for (number, path) in ["/a\"{|}^b", "/a?{|}`^[b]"].into_iter().enumerate() {
        let stream = 2 * u32::try_from(number).unwrap() + 1;
        octets.extend(http2::headers(stream, true, &fields(path)));
        let frames = exchange(&mut connection, &octets, |frames| is_over(frames, stream)).await;
        octets.clear();
        assert!(of_stream(&frames, stream)[0].is_success(), "{path}");
        assert_eq!(world.echo.seen().pop().unwrap()["path"], path);
    }
}

#[tokio::test]
async fn many_malformed_requests_end_the_connection() {
    let world = World::open().await;
    let mut connection = connect(&world).await;
    let mut octets = http2::preface();
    for number in 0..100 {
        octets.extend(http2::headers(2 * number + 1, true, &fields("/a?\"")));
    }
    connection.write(&octets).await.unwrap();
    let answer = connection.read_until(|_| false).await;
    assert!(answer.closed);
    let frames = http2::frames(&answer.octets);
    let responses = frames.iter().filter(|frame| frame.kind == 1).count();
    assert!(responses <= 64, "{responses}");
    let goaway = frames.iter().find(|frame| frame.kind == GOAWAY).unwrap();
    // ENHANCE_YOUR_CALM.
    assert_eq!(goaway.payload.get(4..8), Some(&[0, 0, 0, 11][..]));
    let line = world
        .gateway
        .audit()
        .line("the end", |line| line["event"] == "connection")
        .await;
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("ENHANCE_YOUR_CALM"), "{line}");
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn curl_reads_the_refusal() {
    let world = World::open().await;
    let Some(curl) = Curl::to(&world).await else {
        return;
    };
    let body = world.ca.write("body", vec![b'x'; 1 << 20]);
    let upload = format!("@{}", body.display());
    for arguments in [
        &[][..],
        &["--data-binary", "x"],
        &["--data-binary", &*upload],
    ] {
        for _ in 0..5 {
            let arguments = [&["-D", "-"], arguments].concat();
            let (seen, complaint) = curl.run("/a?x=\"y\"", &arguments).await;
            assert_eq!(complaint, "", "{arguments:?}: {seen}");
            assert!(seen.starts_with("HTTP/2 400"), "{seen}");
            assert!(seen.contains("countersign-reason: malformed-request"));
        }
    }
    assert_eq!(world.echo.requests(), 0);
}
