//! Compares the gateway's framing guard (`FramingMachine`) with hyper. In all bytes that the
//! guard passes on, both must find the same messages.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use countersign_proxy::wire::framing::FramingMachine;
use countersign_proxy::wire::head::MAX_FIELDS;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The maximum length of a request head in bytes. This is the gateway's default.
const MAX_HEAD: usize = 32 * 1024;

/// The position of one message in the bytes that the guard passed on.
#[derive(Debug)]
struct Message {
    head: Range<usize>,
    /// The end of the message. `None` while the message is incomplete.
    end: Option<usize>,
}

#[derive(Debug)]
struct Followed {
    passed: Vec<u8>,
    messages: Vec<Message>,
    heads: u64,
    refused: bool,
}

/// Returns what the guard finds in `input` if the bytes arrive in pieces of `piece` bytes.
fn follow(input: &[u8], piece: usize) -> Followed {
    let mut machine = FramingMachine::new(MAX_HEAD);
    let mut followed = Followed {
        passed: Vec::new(),
        messages: Vec::new(),
        heads: 0,
        refused: false,
    };
    for octets in input.chunks(piece) {
        let step = machine.advance(octets);
        let before = followed.passed.len();
        followed.passed.extend(step.released.unwrap_or_default());
        followed.passed.extend_from_slice(&octets[step.pass]);
        let length = followed.passed.len();
        // The boundaries of messages in `Followed` are exact only if each piece has one byte.
        if machine.heads() > followed.heads {
            followed.heads = machine.heads();
            followed.messages.push(Message {
                head: before..length,
                end: None,
            });
        }
        if let Some(last) = followed.messages.last_mut()
            && last.end.is_none()
            && machine.is_at_head()
        {
            last.end = Some(length);
        }
        if step.error.is_some() {
            followed.refused = true;
            break;
        }
    }
    followed
}

/// A request that hyper found.
#[derive(Debug)]
struct Seen {
    method: String,
    target: String,
    body: Option<Vec<u8>>,
    last: bool,
}

/// A connection whose bytes have all arrived already. It discards what hyper writes.
struct Wire<'a>(&'a [u8]);

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns whether hyper closes the connection after this request.
fn is_last(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_10
        || request.headers().get_all("connection").iter().any(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .to_ascii_lowercase()
                .contains("close")
        })
}

/// Returns the requests that hyper finds in the bytes, and the error with which the connection
/// ended. hyper has the same settings as in the gateway's listener.
fn hyper(octets: &[u8]) -> (Vec<Seen>, Option<hyper::Error>) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().unwrap();
    }
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            let last = is_last(&request);
            let body = request.into_body().collect().await;
            let body = body.ok().map(|body| body.to_bytes().to_vec());
            seen.borrow_mut().push(Seen {
                method,
                target,
                body,
                last,
            });
            Ok::<_, io::Error>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let wire = Wire(octets);
    let ended = RUNTIME.with(|runtime| {
        let mut builder = http1::Builder::new();
        builder
            .half_close(true)
            .max_headers(MAX_FIELDS + 1)
            .max_buf_size(64 * 1024 + 1024);
        runtime.block_on(builder.serve_connection(TokioIo::new(wire), service))
    });
    (Rc::into_inner(seen).unwrap().into_inner(), ended.err())
}

/// Returns the content of a chunked body. This decoder shares no code with the guard and with
/// hyper. It may panic for bytes that the guard does not accept.
fn dechunked(mut octets: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = octets.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = String::from_utf8_lossy(&octets[..line]).into_owned();
        let size = size.split(';').next().unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        octets = &octets[line + 2..];
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&octets[..size]);
        octets = &octets[size + 2..];
    }
}

fn check(message: &Message, passed: &[u8], seen: &Seen) {
    let head = String::from_utf8_lossy(&passed[message.head.clone()]).into_owned();
    let line = head.trim_start_matches("\r\n").lines().next().unwrap();
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some(&*seen.method), "another method: {head}");
    let target = words.next().unwrap();
    // Targets in absolute form are not compared, because hyper normalizes their host and path.
    if target.starts_with('/') || target == "*" {
        assert_eq!(target, seen.target, "another target: {head}");
    }
    let Some(end) = message.end else {
        assert_eq!(seen.body, None, "hyper ends the message earlier: {head}");
        return;
    };
    let raw = &passed[message.head.end..end];
    let chunked = head
        .lines()
        .any(|line| line.to_ascii_lowercase().starts_with("transfer-encoding:"));
    let content = if chunked {
        dechunked(raw)
    } else {
        raw.to_vec()
    };
    assert_eq!(
        seen.body.as_deref(),
        Some(&*content),
        "another body: {head}"
    );
}

/// The first byte of the input is the size of the pieces. The other bytes are what a client
/// sends.
pub fn framing(data: &[u8]) {
    let Some((piece, input)) = data.split_first() else {
        return;
    };
    // The guard must find the same messages for all sizes of pieces.
    let followed = follow(input, 1);
    for piece in [1 + usize::from(*piece), input.len().max(1)] {
        let other = follow(input, piece);
        assert_eq!(other.heads, followed.heads, "pieces of {piece}");
        assert_eq!(other.refused, followed.refused, "pieces of {piece}");
        // With larger pieces, the guard may pass on fewer bytes of a line before it refuses the
        // line.
        assert!(followed.passed.starts_with(&other.passed));
        assert!(followed.refused || followed.passed.len() == other.passed.len());
    }
    let (seen, error) = hyper(&followed.passed);
    assert!(
        seen.len() <= followed.messages.len(),
        "hyper sees more requests: {seen:?}"
    );
    for (message, seen) in followed.messages.iter().zip(&seen) {
        check(message, &followed.passed, seen);
    }
    let complete = seen
        .iter()
        .zip(&followed.messages)
        .take_while(|(_, message)| message.end.is_some())
        .count();
    // hyper may find fewer requests only if it closes the connection after a request, or if a
    // message is incomplete.
    let stopped = seen.iter().any(|seen| seen.last) || complete < seen.len();
    assert!(
        stopped || seen.len() == followed.messages.len(),
        "hyper sees fewer requests: {error:?}, {followed:?}"
    );
}
