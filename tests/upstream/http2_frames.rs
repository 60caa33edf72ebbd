//! The single frames on an HTTP/2 connection to a service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::service::pieces;
use countersign_testkit::{Protocol, TestCa, http2 as frames, in_time, until};
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::isolation::{caller, world};
use crate::support::{HOST, request};

/// Returns the head of a request, for tests that write frames directly.
const fn head(method: &str) -> [(&str, &str); 4] {
    [
        (":method", method),
        (":scheme", "https"),
        (":authority", HOST),
        (":path", "/a"),
    ]
}

/// An HTTP/2 service that records every frame. To every complete request, it responds with the
/// frames that `answer` makes for the stream. It acknowledges PINGs if `pongs` is true.
struct Raw {
    address: SocketAddr,
    frames: Arc<std::sync::Mutex<Vec<frames::Frame>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Script {
    settings: &'static [u8],
    answer: fn(u32) -> Vec<u8>,
    pongs: bool,
}

fn ok(stream: u32) -> Vec<u8> {
    frames::headers(stream, true, &[(":status", "200")])
}

impl Raw {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, script, Arc::clone(&all)));
            }
        });
        Self {
            address,
            frames: seen,
            task,
        }
    }

    async fn serve(
        mut stream: TcpStream,
        script: Script,
        all: Arc<std::sync::Mutex<Vec<frames::Frame>>>,
    ) -> io::Result<()> {
        stream
            .write_all(&frames::frame(4, 0, 0, script.settings))
            .await?;
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;
        let mut bytes = Vec::new();
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            let said = frames::frames(&bytes);
            let whole: usize = said.iter().map(|frame| 9 + frame.payload.len()).sum();
            bytes.drain(..whole);
            for frame in said {
                let answer = match frame.kind {
                    0 | 1 if frame.flags & 1 == 1 => (script.answer)(frame.stream),
                    4 if frame.flags & 1 == 0 => frames::frame(4, 1, 0, &[]),
                    6 if frame.flags & 1 == 0 && script.pongs => {
                        frames::frame(6, 1, 0, &frame.payload)
                    }
                    _ => Vec::new(),
                };
                all.lock().unwrap().push(frame);
                stream.write_all(&answer).await?;
            }
        }
    }

    fn count(&self, kind: u8) -> usize {
        let frames = self.frames.lock().unwrap();
        frames.iter().filter(|frame| frame.kind == kind).count()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn trailers_that_are_all_left_out_make_no_frame() {
    let ca = TestCa::new("example.org");
    let service = Raw::start(Script {
        settings: &[],
        answer: ok,
        pongs: true,
    })
    .await;
    let world = world(&ca, service.address, "").await;
    let mut sender = caller(&world, &ca, "bob").streams().await.unwrap();
    let (pieces, body) = pieces();
    let asked = Request::post(format!("https://{HOST}/a"));
    let answer = tokio::spawn(sender.send_request(asked.body(body).unwrap()));
    let data = Frame::data(Bytes::from_static(b"piece"));
    pieces.send(Ok(data)).await.unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("countersign-assertion", HeaderValue::from_static("forged"));
    pieces.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(pieces);
    let answer = in_time("an answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    // The service received the HEADERS frame of the request, and no HEADERS frame for trailers.
    assert_eq!(service.count(1), 1);
    let frames = service.frames.lock().unwrap();
    let last = frames.iter().rfind(|frame| frame.stream == 1).unwrap();
    assert_eq!((last.kind, last.flags & 1), (0, 1), "{last:?}");
}

#[tokio::test]
async fn a_head_that_the_service_does_not_take_is_not_sent() {
    let ca = TestCa::new("example.org");
    // The first service sends SETTINGS_MAX_HEADER_LIST_SIZE of 4 KiB, the second no such setting.
    for (settings, fits, too_long) in [
        (&[0, 6, 0, 0, 16, 0][..], 2_000, 5_000),
        (&[][..], 7_000, 9_000),
    ] {
        let service = Raw::start(Script {
            settings,
            answer: ok,
            pongs: true,
        })
        .await;
        let world = world(&ca, service.address, "").await;
        let bob = caller(&world, &ca, "bob");
        let mut session = bob.session().await.unwrap();
        let with = |length: usize| {
            let mut request = request("GET", "/a", "");
            let value = "x".repeat(length).parse().unwrap();
            request.headers_mut().insert("x-long", value);
            request
        };
        assert_eq!(session.send(with(fits)).await.unwrap().status, 200);
        let answer = session.send(with(too_long)).await.unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (431, Some("head-too-large"))
        );
        let path = format!("/a?{}", "x".repeat(too_long));
        let answer = session.send(request("GET", &path, "")).await.unwrap();
        assert_eq!(answer.status, 431);
        // The connection stays usable after the refusal.
        assert_eq!(session.send(with(fits)).await.unwrap().status, 200);
        assert_eq!(service.count(1), 2);
    }
}

#[tokio::test]
async fn empty_frames_of_a_service_or_a_caller_are_left_out() {
    let ca = TestCa::new("example.org");
    let service = Raw::start(Script {
        settings: &[],
        answer: |stream| {
            [
                frames::headers(stream, false, &[(":status", "200")]),
                frames::data(stream, false, b""),
                frames::data(stream, true, b"content"),
            ]
            .concat()
        },
        pongs: true,
    })
    .await;
    let world = world(&ca, service.address, "").await;
    let mut session = caller(&world, &ca, "bob").session().await.unwrap();
    for _ in 0..300 {
        let answer = session.get("/a").await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, &b"content"[..]));
    }
    // Empty frames of a caller are left out too.
    let client = caller(&world, &ca, "alice");
    let mut connection = client.connect().await.unwrap();
    connection.write(&frames::preface()).await.unwrap();
    for number in 0..300 {
        let stream = 2 * number + 1;
        let head = head("POST");
        let asked = [
            frames::headers(stream, false, &head),
            frames::data(stream, false, b""),
            frames::data(stream, true, b"content"),
        ];
        connection.write(&asked.concat()).await.unwrap();
        let answered = |bytes: &[u8]| {
            frames::frames(bytes)
                .iter()
                .any(|frame| frame.stream == stream && frame.kind == 0 && frame.flags & 1 == 1)
        };
        let read = connection.read_until(answered).await;
        assert!(!read.closed, "request {number}");
    }
}

#[tokio::test]
async fn resets_wait_until_the_service_has_seen_the_ones_before() {
    let ca = TestCa::new("example.org");
    for (pongs, expected) in [(false, 8), (true, 40)] {
        let service = Raw::start(Script {
            settings: &[],
            answer: |_| Vec::new(),
            pongs,
        })
        .await;
        let world = world(&ca, service.address, "").await;
        let mut connection = caller(&world, &ca, "mallory").connect().await.unwrap();
        connection.write(&frames::preface()).await.unwrap();
        let streams = || (0..40).map(|number| 2 * number + 1);
        let head = head("GET");
        let asked: Vec<u8> = streams()
            .flat_map(|stream| frames::headers(stream, true, &head))
            .collect();
        connection.write(&asked).await.unwrap();
        until("requests", async || service.count(1) == 40).await;
        let reset: Vec<u8> = streams()
            .flat_map(|stream| frames::frame(3, 0, stream, &8_u32.to_be_bytes()))
            .collect();
        connection.write(&reset).await.unwrap();
        until("resets", async || service.count(3) >= expected).await;
        let lines = world.gateway.audit();
        lines
            .at_least(40, "ends", |line| line["path"] == "/a")
            .await;
        assert_eq!((service.count(3), service.count(6) > 0), (expected, true));
    }
}

#[tokio::test]
async fn a_body_in_small_pieces_reaches_the_service_in_fewer() {
    let ca = TestCa::new("example.org");
    let service = Raw::start(Script {
        settings: &[],
        answer: ok,
        pongs: true,
    })
    .await;
    let world = world(&ca, service.address, "").await;
    let mut connection = caller(&world, &ca, "bob").connect().await.unwrap();
    connection.write(&frames::preface()).await.unwrap();
    let head = head("POST");
    connection
        .write(&frames::headers(1, false, &head))
        .await
        .unwrap();
    const PIECES: usize = 4_000;
    let mut sent = 0;
    while sent < PIECES {
        let some: Vec<u8> = (0..100)
            .flat_map(|_| frames::data(1, false, b"0123456789"))
            .collect();
        connection.write(&some).await.unwrap();
        sent += 100;
    }
    connection.write(&frames::data(1, true, b"")).await.unwrap();
    let answered = |bytes: &[u8]| frames::frames(bytes).iter().any(|frame| frame.kind == 1);
    assert!(!connection.read_until(answered).await.closed);
    let frames = service.frames.lock().unwrap();
    let data = || frames.iter().filter(|frame| frame.kind == 0);
    let content: usize = data().map(|frame| frame.payload.len()).sum();
    assert_eq!(content, PIECES * 10);
    assert!(data().count() < PIECES / 4, "{}", data().count());
}

/// The response has far more small frames than the `h2` library itself allows.
#[tokio::test]
async fn small_pieces_of_an_answer_wait_for_a_caller_that_pauses() {
    // All pieces fit into the gateway's window, because this service ignores windows.
    const PIECES: usize = 6_000;
    let ca = TestCa::new("example.org");
    let service = Raw::start(Script {
        settings: &[],
        answer: |stream| {
            let mut answer = frames::headers(stream, false, &[(":status", "200")]);
            for _ in 0..PIECES {
                answer.extend(frames::data(stream, false, b"0123456789"));
            }
            // The gateway buffers what does not fit into the caller's window.
            answer.extend(frames::data(stream, true, b""));
            answer
        },
        pongs: true,
    })
    .await;
    let world = world(&ca, service.address, "").await;
    let bob = caller(&world, &ca, "bob");
    let mut sender = bob.streams().await.unwrap();
    let (body, empty) = pieces();
    drop(body);
    let asked = Request::get(format!("https://{HOST}/a"));
    let answer = sender.send_request(asked.body(empty).unwrap());
    let answer = in_time("an answer", answer).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let whole = in_time("the content", answer.into_body().collect()).await;
    assert_eq!(whole.unwrap().to_bytes().len(), PIECES * 10);
}

/// A response that is reset is never complete, not even with the error code NO_ERROR.
#[tokio::test]
async fn an_answer_that_a_service_resets_is_not_taken_for_a_whole_one() {
    let ca = TestCa::new("example.org");
    for code in [0_u32, 8] {
        let answer = match code {
            0 => |stream| cut_short(stream, 0),
            _ => |stream| cut_short(stream, 8),
        };
        let service = Raw::start(Script {
            settings: &[],
            answer,
            pongs: true,
        })
        .await;
        let world = world(&ca, service.address, "retries = 0\n").await;
        let bob = caller(&world, &ca, "bob");
        assert!(bob.get("/a").await.is_err(), "{code}");
        let http1 = bob.protocol(Protocol::Http1);
        let answer = http1.get("/a").await;
        assert!(answer.as_ref().is_err() || answer.unwrap().status == 502);
        let lines = world.gateway.audit();
        for line in lines.at_least(2, "both", |line| line["path"] == "/a").await {
            assert_eq!(line["reason"], "upstream-protocol", "{line}");
        }
    }
}

fn cut_short(stream: u32, code: u32) -> Vec<u8> {
    [
        frames::headers(stream, false, &[(":status", "200")]),
        frames::data(stream, false, b"some of the content"),
        frames::frame(3, 0, stream, &code.to_be_bytes()),
    ]
    .concat()
}

/// A service may end a stream with a separate frame after the announced content.
#[tokio::test]
async fn a_late_end_of_a_whole_answer_costs_no_reset() {
    let ca = TestCa::new("example.org");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // The three counters are connections, resets, and ends of streams that were sent.
    let counts = Arc::<Late>::default();
    let seen = Arc::clone(&counts);
    let service = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            seen.0.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(end_late(stream, Arc::clone(&seen)));
        }
    });
    let world = world(&ca, address, "").await;
    for number in 0..8 {
        let caller = caller(&world, &ca, &format!("caller-{number}"));
        let http1 = caller.protocol(Protocol::Http1);
        let answer = http1.get("/a").await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, &b"content"[..]));
        until("the end", async || counts.2.load(Ordering::SeqCst) > number).await;
    }
    let (connections, resets) = (&counts.0, &counts.1);
    assert_eq!(resets.load(Ordering::SeqCst), 0);
    // The gateway may open another connection if the end of a stream has not arrived yet.
    assert!(connections.load(Ordering::SeqCst) <= 4);
    service.abort();
}

type Late = (AtomicUsize, AtomicUsize, AtomicUsize);

async fn end_late(mut stream: TcpStream, seen: Arc<Late>) -> io::Result<()> {
    stream.write_all(&frames::frame(4, 0, 0, &[])).await?;
    stream.read_exact(&mut [0; 24]).await?;
    let (mut bytes, mut asked) = (Vec::new(), 0);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let said = frames::frames(&bytes);
        let whole: usize = said.iter().map(|frame| 9 + frame.payload.len()).sum();
        bytes.drain(..whole);
        for frame in said {
            match frame.kind {
                1 => {
                    let head = [(":status", "200"), ("content-length", "7")];
                    let begun = [
                        frames::headers(frame.stream, false, &head),
                        frames::data(frame.stream, false, b"content"),
                    ];
                    stream.write_all(&begun.concat()).await?;
                    // A PING. The gateway acknowledges the PING only after it has read the content.
                    stream.write_all(&frames::frame(6, 0, 0, &[0; 8])).await?;
                    asked = frame.stream;
                }
                6 if frame.flags & 1 == 1 => {
                    let end = frames::data(asked, true, b"");
                    stream.write_all(&end).await?;
                    seen.2.fetch_add(1, Ordering::SeqCst);
                }
                3 => {
                    seen.1.fetch_add(1, Ordering::SeqCst);
                }
                4 if frame.flags & 1 == 0 => {
                    stream.write_all(&frames::frame(4, 1, 0, &[])).await?;
                }
                _ => {}
            }
        }
    }
}
