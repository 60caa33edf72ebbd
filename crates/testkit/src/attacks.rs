//! Attacks by a caller with a valid certificate on other callers of the same service. All
//! requests of the attacks are valid HTTP.
//!
//! An attack ends by itself, at the latest after `MAX_DURATION`. The gateway may refuse the
//! attack or close its connections. Tests check only the effect on other callers.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::bystander::Target;
use crate::client::Client;
use crate::connection::Connection;
use crate::http2;
use crate::protocol::Protocol;

/// After an attacker has sent everything, it reads until the gateway has sent nothing for this
/// time.
const REACTION: Duration = Duration::from_millis(300);
/// The maximum duration of an attack. After this time, the attack is cancelled.
const MAX_DURATION: Duration = Duration::from_secs(12);
/// The maximum time that an attacker waits for a complete response.
const RESPONSE: Duration = Duration::from_secs(8);

/// The kinds of attacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// One HTTP/2 request with 4,000 small DATA frames, to a service that reads the body late.
    SmallFrames,
    /// One HTTP/1.1 request with 4,000 small chunks, to a service that reads the body late.
    SmallChunks,
    /// Requests with a header field or a query of 9 to 28 KiB. The gateway allows such sizes,
    /// but many services refuse them.
    LargeHeads,
    /// Requests with trailer fields: some that the gateway forwards, some that it removes, or
    /// both.
    Trailers,
    /// Requests on four HTTP/2 connections. The attacker resets their streams after at most 3
    /// ms.
    Resets,
    /// Three requests, one after the other, for a response of thousands of small frames.
    Bursts,
    /// One request for a response of thousands of small frames. The attacker reads nothing in
    /// the first second.
    PausedBurst,
    /// 300 requests, one after the other, for a response that contains an empty DATA frame.
    EmptyFrames,
    /// 1,000 HTTP/1.1 requests whose target has a query but no path: `https://HOST?x=1`.
    BareTargets,
    /// 1,152 requests on nine connections with a flow-control window of zero, so that the
    /// gateway cannot send the bodies of the responses.
    ZeroWindows,
    /// 24 requests with a body of 1 MiB whose last byte is missing. The gateway may buffer these
    /// bodies, because the route binds the assertion to the body.
    HeldBodies,
    /// 1,152 requests for a WebSocket (extended CONNECT) on nine connections.
    Tunnels,
    /// 256 requests with different invented tokens, to a route that requires a token.
    GuessedTokens,
    /// Six requests that do not end, each on a connection with a window of one byte for the
    /// response. The attacker waits until the gateway has reset the stream after a timeout. Then
    /// it sends RST_STREAM or WINDOW_UPDATE for this stream, or only closes the connection.
    OpenRequests,
}

impl Attack {
    /// All kinds of attacks.
    pub const ALL: [Self; 14] = [
        Self::SmallFrames,
        Self::SmallChunks,
        Self::LargeHeads,
        Self::Trailers,
        Self::Resets,
        Self::Bursts,
        Self::PausedBurst,
        Self::EmptyFrames,
        Self::BareTargets,
        Self::ZeroWindows,
        Self::HeldBodies,
        Self::Tunnels,
        Self::GuessedTokens,
        Self::OpenRequests,
    ];

    /// Attacks the service `target` with requests of `client`.
    pub async fn run(self, client: &Client, target: &Target) {
        // The result is ignored: an attack may time out, because only its effect on other
        // callers matters.
        let _ = tokio::time::timeout(MAX_DURATION, self.run_whole(client, target)).await;
    }

    async fn run_whole(self, client: &Client, target: &Target) {
        match self {
            Self::SmallFrames => small_frames(client, target).await,
            Self::SmallChunks => small_chunks(client, target).await,
            Self::LargeHeads => large_heads(client, target).await,
            Self::Trailers => trailers(client, target).await,
            Self::Resets => resets(client, target).await,
            Self::Bursts => bursts(client, target).await,
            Self::PausedBurst => paused_burst(client, target).await,
            Self::EmptyFrames => empty_frames(client, target).await,
            Self::BareTargets => bare_targets(client, target).await,
            Self::ZeroWindows => zero_windows(client, target).await,
            Self::HeldBodies => held_bodies(client, target).await,
            Self::Tunnels => tunnels(client, target).await,
            Self::GuessedTokens => guessed_tokens(client, target).await,
            Self::OpenRequests => open_requests(client, target).await,
        }
    }
}

/// Opens an h2 connection and sends the preface.
async fn h2(client: &Client) -> Option<Connection> {
    let client = client.clone().protocol(Protocol::Http2);
    let mut connection = client.connect().await.ok()?;
    connection.write(&http2::preface()).await.ok()?;
    Some(connection)
}

/// Makes the head of a request to the service. If the head is larger than one frame, it becomes
/// a HEADERS frame and CONTINUATION frames.
fn head(
    target: &Target,
    stream: u32,
    end_stream: bool,
    path: &str,
    more: &[(&str, &str)],
) -> Vec<u8> {
    const MAX_FRAME: usize = 16_384;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let method = if end_stream && !target.grpc {
        "GET"
    } else {
        "POST"
    };
    let mut fields = vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", &*target.host),
        (":path", path),
    ];
    if target.grpc {
        fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
    }
    let authorization = target.authorization();
    if let Some(value) = &authorization {
        fields.push(("authorization", value));
    }
    fields.extend(more);
    let whole = http2::headers(stream, end_stream, &fields);
    let block = &whole[9..];
    let count = block.chunks(MAX_FRAME).len();
    let mut bytes = Vec::new();
    for (number, piece) in block.chunks(MAX_FRAME).enumerate() {
        let (kind, mut flags) = match number {
            0 => (1, if end_stream { END_STREAM } else { 0 }),
            _ => (9, 0),
        };
        if number + 1 == count {
            flags |= END_HEADERS;
        }
        bytes.extend(http2::frame(kind, flags, stream, piece));
    }
    bytes
}

/// Returns the sizes of the pieces of an attacker's request body, in bytes. Together, the pieces
/// fit into an HTTP/2 window of 65,535 bytes.
fn sizes() -> impl Iterator<Item = usize> {
    (0..4_000).map(|number| 10 + number % 7)
}

/// Returns the whole request body, whose pieces have the sizes of [`sizes`]. For a gRPC service,
/// the body is one gRPC message.
fn content(target: &Target) -> Vec<u8> {
    let total: usize = sizes().sum();
    let mut content = vec![b'x'; total];
    if target.grpc {
        let length = u32::try_from(total - 5).unwrap_or_default().to_be_bytes();
        content[0] = 0;
        content[1..5].copy_from_slice(&length);
    }
    content
}

/// Sends the body of [`content`] in small pieces, 20 every 2 ms. `piece` makes an HTTP/2 frame
/// or an HTTP/1.1 chunk of each piece. The pauses ensure that the gateway does not receive all
/// pieces in one read.
async fn send_paced(
    connection: &mut Connection,
    target: &Target,
    piece: impl Fn(&[u8]) -> Vec<u8>,
) {
    let content = content(target);
    let mut rest = content.as_slice();
    let mut batch = Vec::new();
    for (number, size) in sizes().enumerate() {
        let (now, later) = rest.split_at(size);
        rest = later;
        batch.extend(piece(now));
        if number % 20 == 19 {
            if connection.write(&batch).await.is_err() {
                return;
            }
            batch.clear();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn small_frames(client: &Client, target: &Target) {
    let Some(mut connection) = h2(client).await else {
        return;
    };
    let head = head(target, 1, false, &target.path("slow"), &[]);
    if connection.write(&head).await.is_err() {
        return;
    }
    send_paced(&mut connection, target, |piece| {
        http2::data(1, false, piece)
    })
    .await;
    let _ = connection.write(&http2::data(1, true, &[])).await;
    connection.read_until_silent(REACTION).await;
}

async fn small_chunks(client: &Client, target: &Target) {
    let client = client.clone().protocol(Protocol::Http1);
    let Ok(mut connection) = client.connect().await else {
        return;
    };
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        target.path("slow"),
        target.host
    );
    if connection.write(head.as_bytes()).await.is_err() {
        return;
    }
    send_paced(&mut connection, target, |piece| {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        chunk
    })
    .await;
    let _ = connection.write(b"0\r\n\r\n").await;
    connection.read_until_silent(REACTION).await;
}

async fn large_heads(client: &Client, target: &Target) {
    for kib in [9, 12, 16, 20, 24, 28] {
        let Some(mut connection) = h2(client).await else {
            return;
        };
        let large = "a".repeat(kib * 1024);
        let path = target.path("hello");
        let field = head(target, 1, true, &path, &[("x-large", &large)]);
        let _ = connection.write(&field).await;
        connection.read_until_silent(REACTION).await;
        let Some(mut connection) = h2(client).await else {
            return;
        };
        let query = format!("{path}?{large}");
        let _ = connection.write(&head(target, 1, true, &query, &[])).await;
        connection.read_until_silent(REACTION).await;
    }
}

async fn trailers(client: &Client, target: &Target) {
    let kinds: [&[(&str, &str)]; 3] = [
        &[("x-checksum", "1")],
        &[("x-forwarded-for", "1.2.3.4"), ("content-type", "a/b")],
        &[("x-checksum", "1"), ("countersign-reason", "none")],
    ];
    for fields in kinds {
        for body in [&[0_u8; 5][..], &[]] {
            let Some(mut connection) = h2(client).await else {
                return;
            };
            let mut bytes = head(target, 1, false, &target.path("hello"), &[]);
            if !body.is_empty() {
                bytes.extend(http2::data(1, false, body));
            }
            bytes.extend(http2::headers(1, true, fields));
            let _ = connection.write(&bytes).await;
            connection.read_until_silent(REACTION).await;
        }
        let client = client.clone().protocol(Protocol::Http1);
        let Ok(mut connection) = client.connect().await else {
            return;
        };
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let lines = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nTrailer: {}\r\n\r\n\
             1\r\nx\r\n0\r\n{}\r\n",
            target.path("hello"),
            target.host,
            names.join(", "),
            lines.collect::<String>()
        );
        let _ = connection.write(request.as_bytes()).await;
        connection.read_until_silent(REACTION).await;
    }
}

async fn resets(client: &Client, target: &Target) {
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    const ROUNDS: u32 = 4;
    let mut attackers = JoinSet::new();
    for _ in 0..4 {
        let (client, target) = (client.clone(), target.clone());
        attackers.spawn(async move {
            let Some(mut connection) = h2(&client).await else {
                return;
            };
            for round in 0..ROUNDS {
                // While the service handles this request, it does not read the requests that
                // follow.
                let first = 2 * round * 21 + 1;
                let busy = head(&target, first, true, &target.path("busy"), &[]);
                if connection.write(&busy).await.is_err() {
                    return;
                }
                let streams = (1..=20).map(|number| first + 2 * number);
                let heads = streams
                    .clone()
                    .map(|stream| head(&target, stream, true, &target.path("slow"), &[]));
                let ends = streams.map(|stream| http2::frame(3, 0, stream, &CANCEL));
                let sent = connection.write(&heads.collect::<Vec<_>>().concat()).await;
                // The pause before the resets grows in each round. In at least one round, the
                // gateway has therefore probably forwarded the requests, while the service has not
                // accepted them yet.
                tokio::time::sleep(Duration::from_millis(u64::from(round))).await;
                let reset = connection.write(&ends.collect::<Vec<_>>().concat()).await;
                if sent.is_err() || reset.is_err() {
                    return;
                }
                connection
                    .read_until_silent(Duration::from_millis(50))
                    .await;
            }
        });
    }
    attackers.join_all().await;
}

/// Sends `times` requests for `target.path(name)`, one after the other, and reads the responses.
/// Stops after the first request without a complete response.
async fn ask(client: &Client, target: &Target, name: &str, times: usize) {
    let client = client.clone().protocol(Protocol::Http2);
    let Ok(mut session) = client.session().await else {
        return;
    };
    for _ in 0..times {
        let asked = session.send(target.request(name));
        if !matches!(tokio::time::timeout(RESPONSE, asked).await, Ok(Ok(_))) {
            return;
        }
    }
}

async fn bursts(client: &Client, target: &Target) {
    ask(client, target, "burst", 3).await;
}

async fn paused_burst(client: &Client, target: &Target) {
    let Some(mut connection) = h2(client).await else {
        return;
    };
    let mut bytes = head(target, 1, !target.grpc, &target.path("burst"), &[]);
    if target.grpc {
        bytes.extend(http2::data(1, true, &[0; 5]));
    }
    if connection.write(&bytes).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        connection.read_until_silent(REACTION).await;
    }
}

async fn empty_frames(client: &Client, target: &Target) {
    ask(client, target, "empty", 300).await;
}

async fn bare_targets(client: &Client, target: &Target) {
    const BATCH: usize = 20;
    let client = client.clone().protocol(Protocol::Http1);
    let request = format!(
        "GET https://{0}?x=1 HTTP/1.1\r\nHost: {0}\r\n\r\n",
        target.host
    );
    let batch = request.repeat(BATCH);
    let mut connection = None;
    for _ in 0..1_000 / BATCH {
        let current = match &mut connection {
            Some(connection) => connection,
            None => {
                let Ok(fresh) = client.connect().await else {
                    return;
                };
                connection.insert(fresh)
            }
        };
        let sent = current.write(batch.as_bytes()).await;
        let all = |bytes: &[u8]| {
            let starts = bytes.windows(9).filter(|bytes| *bytes == b"HTTP/1.1 ");
            starts.count() >= BATCH
        };
        let answer = tokio::time::timeout(RESPONSE, current.read_until(all)).await;
        if sent.is_err() || answer.is_err() || answer.is_ok_and(|answer| answer.closed) {
            connection = None;
        }
    }
}

/// The number of connections of the attacks that open as many streams as possible.
const MANY: usize = 9;
/// The number of streams on each connection of these attacks.
const STREAMS: u32 = 128;
/// How long an attacker keeps connections open after it has sent its requests.
const KEEP: Duration = Duration::from_millis(1500);

/// Returns a SETTINGS frame with an initial window of zero, so that no response content
/// may be sent.
fn no_window() -> Vec<u8> {
    const SETTINGS: u8 = 4;
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    let setting = [&INITIAL_WINDOW_SIZE[..], &[0; 4]].concat();
    http2::frame(SETTINGS, 0, 0, &setting)
}

/// Opens several connections. Sends `begin` and then one request head for each stream on
/// each connection, and keeps the connections open for [`KEEP`].
async fn many_streams(
    client: &Client,
    connections: usize,
    begin: &[u8],
    head: impl Fn(u32) -> Vec<u8>,
) {
    let mut open = Vec::new();
    for _ in 0..connections {
        let Some(mut connection) = h2(client).await else {
            break;
        };
        let heads = (0..STREAMS).map(|number| head(2 * number + 1));
        let bytes = [begin.to_vec()].into_iter().chain(heads);
        let bytes = bytes.collect::<Vec<_>>().concat();
        let _ = connection.write(&bytes).await;
        open.push(connection);
    }
    tokio::time::sleep(KEEP).await;
}

async fn zero_windows(client: &Client, target: &Target) {
    let path = target.path("burst");
    many_streams(client, MANY, &no_window(), |stream| {
        let mut bytes = head(target, stream, !target.grpc, &path, &[]);
        if target.grpc {
            bytes.extend(http2::data(stream, true, &[0; 5]));
        }
        bytes
    })
    .await;
}

async fn tunnels(client: &Client, target: &Target) {
    let path = target.path("socket");
    many_streams(client, MANY, &[], |stream| {
        let fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", &*target.host),
            (":path", &path),
            ("sec-websocket-version", "13"),
        ];
        http2::headers(stream, false, &fields)
    })
    .await;
}

async fn held_bodies(client: &Client, target: &Target) {
    const BODIES: usize = 24;
    const SIZE: usize = 1 << 20;
    let client = client.clone().protocol(Protocol::Http1);
    let mut attackers = JoinSet::new();
    for _ in 0..BODIES {
        let client = client.clone();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {SIZE}\r\n\r\n",
            target.path("bound"),
            target.host
        );
        attackers.spawn(async move {
            let Ok(mut connection) = client.connect().await else {
                return;
            };
            let _ = connection.write(head.as_bytes()).await;
            let sent = connection.write(&[b'x'; SIZE - 1]);
            let _ = tokio::time::timeout(KEEP, sent).await;
            tokio::time::sleep(KEEP).await;
        });
    }
    attackers.join_all().await;
}

async fn guessed_tokens(client: &Client, target: &Target) {
    if target.token.is_none() {
        return;
    }
    let guess = |stream| Target {
        token: Some(format!("guess-{stream}")),
        ..target.clone()
    };
    let path = target.path("hello");
    many_streams(client, 2, &[], |stream| {
        head(&guess(stream), stream, true, &path, &[])
    })
    .await;
}

async fn open_requests(client: &Client, target: &Target) {
    const SETTINGS: u8 = 4;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;
    /// The attacker sends `end` after the gateway has sent nothing for this time. It is longer than
    /// the `body_timeout` of 4 s in the siege test, so that the gateway resets the stream first.
    const UNTAKEN: Duration = Duration::from_secs(6);
    let ends = [
        Some(http2::frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        Some(http2::frame(WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0])),
        None,
    ];
    let mut attackers = JoinSet::new();
    for (number, end) in ends.into_iter().cycle().take(6).enumerate() {
        let (client, target) = (client.clone(), target.clone());
        attackers.spawn(async move {
            let Some(mut connection) = h2(&client).await else {
                return;
            };
            // Attackers with an even number request a long response. The others request a path
            // without a route, which the gateway refuses.
            let name = if number % 2 == 0 {
                "burst"
            } else {
                "no/such/path"
            };
            let one_byte = http2::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]);
            let head = head(&target, 1, false, &target.path(name), &[]);
            let _ = connection.write(&[one_byte, head].concat()).await;
            connection.read_until_silent(UNTAKEN).await;
            if let Some(end) = end {
                let _ = connection.write(&end).await;
                connection.read_until_silent(REACTION).await;
            }
        });
    }
    attackers.join_all().await;
}
