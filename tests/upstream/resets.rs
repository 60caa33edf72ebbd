//! Requests that one caller abandons, and other callers' requests on the same connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::service::pieces;
use countersign_testkit::{Client, Protocol, Settings, TestCa, http2 as frames, in_time};
use http::Request;
use http_body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::http;
use crate::support::{Front, HOST};

/// ENHANCE_YOUR_CALM (RFC 9113 section 7).
const CALM: u32 = 11;

/// An h2 service that responds only to requests with a body, after the end of the body. After
/// more than 500 resets on a connection, it closes the connection.
struct Touchy {
    address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    open: AtomicUsize,
    heads: AtomicUsize,
    resets: AtomicUsize,
    /// The maximum number of resets on one connection.
    most_resets: AtomicUsize,
    data: AtomicUsize,
    changed: Notify,
}

impl Touchy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let state = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    state.open.fetch_add(1, Ordering::SeqCst);
                    let _ = serve(stream, &state).await;
                    state.open.fetch_sub(1, Ordering::SeqCst);
                    state.changed.notify_one();
                });
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    /// Waits until `is_so` is true for what the service has seen.
    async fn sees(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        in_time(what, async {
            while !is_so(&self.seen) {
                self.seen.changed.notified().await;
            }
        })
        .await;
    }
}

impl Drop for Touchy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, seen: &Seen) -> io::Result<()> {
    stream.write_all(&frames::frame(4, 0, 0, &[])).await?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    let (mut octets, mut resets) = (Vec::new(), 0);
    loop {
        if stream.read_buf(&mut octets).await? == 0 {
            return Ok(());
        }
        let said = frames::frames(&octets);
        let whole: usize = said.iter().map(|frame| 9 + frame.payload.len()).sum();
        octets.drain(..whole);
        for frame in said {
            match frame.kind {
                0 => {
                    seen.data.fetch_add(1, Ordering::SeqCst);
                    if frame.flags & 1 == 1 {
                        let answer = frames::headers(frame.stream, true, &[(":status", "200")]);
                        stream.write_all(&answer).await?;
                    }
                }
                1 => {
                    seen.heads.fetch_add(1, Ordering::SeqCst);
                }
                3 => {
                    resets += 1;
                    seen.resets.fetch_add(1, Ordering::SeqCst);
                    seen.most_resets.fetch_max(resets, Ordering::SeqCst);
                    if resets > 500 {
                        let code = u64::from(CALM).to_be_bytes();
                        stream.write_all(&frames::frame(7, 0, 0, &code)).await?;
                        return stream.shutdown().await;
                    }
                }
                4 | 6 if frame.flags & 1 == 0 => {
                    let answer = frames::frame(frame.kind, 1, 0, &frame.payload);
                    let answer = match frame.kind {
                        4 => frames::frame(4, 1, 0, &[]),
                        _ => answer,
                    };
                    stream.write_all(&answer).await?;
                }
                _ => {}
            }
        }
        seen.changed.notify_one();
    }
}

/// Begins and abandons `count` requests of a caller, each after the service has seen it.
async fn abandon(caller: &Client, service: &Touchy, count: u32) {
    const AT_ONCE: u32 = 50;
    let client = caller.clone().protocol(Protocol::Http2);
    let mut connection = client.connect().await.unwrap();
    connection.write(&frames::preface()).await.unwrap();
    let mut next = 1;
    for _ in 0..count / AT_ONCE {
        let heads = service.seen.heads.load(Ordering::SeqCst) + AT_ONCE as usize;
        let resets = service.seen.resets.load(Ordering::SeqCst) + AT_ONCE as usize;
        let streams: Vec<u32> = (0..AT_ONCE).map(|number| next + 2 * number).collect();
        next += 2 * AT_ONCE;
        let begun: Vec<u8> = streams
            .iter()
            .flat_map(|stream| {
                let head = [
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":authority", HOST),
                    (":path", "/hang"),
                ];
                frames::headers(*stream, true, &head)
            })
            .collect();
        connection.write(&begun).await.unwrap();
        service
            .sees("requests", |seen| {
                seen.heads.load(Ordering::SeqCst) >= heads
            })
            .await;
        let ended: Vec<u8> = streams
            .iter()
            .flat_map(|stream| frames::frame(3, 0, *stream, &8_u32.to_be_bytes()))
            .collect();
        connection.write(&ended).await.unwrap();
        service
            .sees("resets", |seen| {
                seen.resets.load(Ordering::SeqCst) >= resets
            })
            .await;
    }
    assert!(!connection.read_until_silent(Duration::ZERO).await.closed);
}

#[tokio::test]
async fn abandoned_requests_do_not_end_those_of_others() {
    for more in [
        "",
        "share = \"always\"\n",
        "share = \"always\"\nmax_connections = 1\n",
    ] {
        let ca = TestCa::new("example.org");
        let service = Touchy::start().await;
        let more = format!("protocol = \"h2\"\n{more}");
        let settings = Settings::new(&ca)
            .set("runtime", "workers", "1")
            .upstream_at("orders", &[http(service.address)], &more)
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
        let world = Front::with(&ca, &settings).await;
        let client = world.client().protocol(Protocol::Http2);
        let mut sender = client.streams().await.unwrap();
        let (pieces, body) = pieces();
        let request = Request::post(format!("https://{HOST}/upload"));
        let request = request.body(body).unwrap();
        let piece = || Ok(Frame::data(Bytes::from_static(b"piece")));
        pieces.send(piece()).await.unwrap();
        let answer = tokio::spawn(sender.send_request(request));
        service
            .sees("a piece", |seen| seen.data.load(Ordering::SeqCst) == 1)
            .await;

        // These 1,600 resets are three times the number that the service allows on one
        // connection. Each connection of the caller stays within the gateway's limit.
        let hostile = world.gateway.client(HOST).with(&ca.client("/hostile"));
        for _ in 0..4 {
            abandon(&hostile, &service, 400).await;
        }
        assert_eq!(service.seen.resets.load(Ordering::SeqCst), 1600);
        // After a hundred resets the gateway stops using the connection. Requests that are already
        // in progress add some more.
        let most = service.seen.most_resets.load(Ordering::SeqCst);
        assert!((100..150).contains(&most), "{most}");

        pieces.send(piece()).await.unwrap();
        drop(pieces);
        let answer = in_time("the answer", answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        // Only the connection that accepts further requests stays open.
        let request = Request::post("/a")
            .body(Bytes::from_static(b"body"))
            .unwrap();
        assert_eq!(client.send(request).await.unwrap().status, 200);
        service
            .sees("the end of the others", |seen| {
                seen.open.load(Ordering::SeqCst) == 1
            })
            .await;
    }
}
