//! An h2 service that violates the rules of h2. The caller must get one refusal, and the request
//! must not be sent again. Other requests on the connection should not fail, if possible.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use countersign_testkit::{Protocol, Settings, TestCa, http2, in_time};
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::Front;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Makes the response to a request from the number of the request and its stream.
type Script = dyn Fn(usize, u32) -> Vec<u8> + Send + Sync;

/// Makes a malformed response on a stream.
type Nonsense = fn(u32) -> Vec<u8>;

/// An h2 service that writes the frames of its responses itself.
struct Frames {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Frames {
    async fn start(script: impl Fn(usize, u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::default(), Arc::default());
        let script: Arc<Script> = Arc::new(script);
        let (count, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let opened: Arc<AtomicUsize> = opened;
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(speak(stream, Arc::clone(&count), Arc::clone(&script)));
            }
        });
        Self {
            address,
            requests,
            connections,
            task,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn speak(
    mut stream: TcpStream,
    count: Arc<AtomicUsize>,
    script: Arc<Script>,
) -> std::io::Result<()> {
    stream.write_all(&http2::frame(SETTINGS, 0, 0, &[])).await?;
    let (mut octets, mut answered) = (Vec::new(), 0);
    loop {
        if stream.read_buf(&mut octets).await? == 0 {
            return Ok(());
        }
        // The first 24 bytes are the connection preface.
        let said = http2::frames(octets.get(24..).unwrap_or_default());
        let asked = said.iter().filter(|frame| frame.kind == HEADERS);
        for head in asked.skip(answered) {
            answered += 1;
            let number = count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(&script(number, head.stream)).await?;
        }
    }
}

fn head(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    http2::headers(stream, false, fields)
}

fn answer(stream: u32, fields: &[(&str, &str)], content: &str) -> Vec<u8> {
    let content = http2::data(stream, true, content.as_bytes());
    [head(stream, fields), content].concat()
}

fn good(stream: u32) -> Vec<u8> {
    answer(stream, &[(":status", "200")], "good")
}

async fn world(services: &[&Frames]) -> Front {
    let ca = TestCa::new("example.org");
    let mut settings = Settings::new(&ca).set("runtime", "workers", "1");
    for (number, service) in services.iter().enumerate() {
        let name = format!("s{number}");
        let route = format!("paths = [\"/{number}\", \"/{number}/*\"]\ncallers = [\"*\"]\n");
        settings = settings
            .upstream_with(&name, service.address, "protocol = \"h2\"\n")
            .route(&name, &name, &route);
    }
    Front::with(&ca, &settings).await
}

/// Makes a head of more than 64 KiB, in frames of the allowed size.
fn large(stream: u32) -> Vec<u8> {
    let value = "v".repeat(15_000);
    let mut fields = vec![(":status", "200")];
    fields.extend(["x-a", "x-b", "x-c", "x-d", "x-e"].map(|name| (name, value.as_str())));
    let whole = head(stream, &fields);
    let parts: Vec<_> = whole[9..].chunks(16_000).collect();
    let mut octets = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let kind = if number == 0 { HEADERS } else { CONTINUATION };
        let flags = if number + 1 == parts.len() {
            END_HEADERS
        } else {
            0
        };
        octets.extend(http2::frame(kind, flags, stream, part));
    }
    octets
}

/// Returns malformed response heads, with a description of each.
fn no_heads() -> Vec<(&'static str, Nonsense)> {
    vec![
        ("two lengths", |s| {
            let fields = [
                (":status", "200"),
                ("content-length", "2"),
                ("content-length", "4"),
            ];
            answer(s, &fields, "hi")
        }),
        ("a list of lengths", |s| {
            answer(s, &[(":status", "200"), ("content-length", "2, 2")], "hi")
        }),
        ("a length without content", |s| {
            http2::headers(s, true, &[(":status", "200"), ("content-length", "2")])
        }),
        ("a transfer coding", |s| {
            let fields = [(":status", "200"), ("transfer-encoding", "chunked")];
            answer(s, &fields, "2\r\nhi\r\n0\r\n\r\n")
        }),
        ("a connection field", |s| {
            answer(s, &[(":status", "200"), ("connection", "close")], "hi")
        }),
        ("a line end in a value", |s| {
            let fields = [(":status", "200"), ("x-a", "1\r\nset-cookie: evil")];
            answer(s, &fields, "hi")
        }),
        ("a line end in a name", |s| {
            let fields = [(":status", "200"), ("x-a: 1\r\nset-cookie", "evil")];
            answer(s, &fields, "hi")
        }),
        ("an upper-case name", |s| {
            answer(s, &[(":status", "200"), ("X-A", "1")], "hi")
        }),
        ("a switch of protocols", |s| {
            answer(s, &[(":status", "101")], "evil")
        }),
        ("a status of two digits", |s| {
            answer(s, &[(":status", "99")], "hi")
        }),
        ("no status", |s| answer(s, &[("x-a", "1")], "hi")),
        ("two statuses", |s| {
            answer(s, &[(":status", "200"), (":status", "500")], "hi")
        }),
        ("a status after a field", |s| {
            answer(s, &[("x-a", "1"), (":status", "200")], "hi")
        }),
        ("an interim answer that ends", |s| {
            http2::headers(s, true, &[(":status", "100")])
        }),
        ("content first", |s| http2::data(s, true, b"evil")),
        ("content after an interim answer", |s| {
            answer(s, &[(":status", "103")], "evil")
        }),
        ("a head too large", large),
        ("a promise", |s| {
            let fields = [
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", "/"),
            ];
            let block = http2::headers(s, false, &fields)[9..].to_vec();
            let promise = [&[0, 0, 0, 2][..], &block].concat();
            [
                http2::frame(PUSH_PROMISE, END_HEADERS, s, &promise),
                good(s),
            ]
            .concat()
        }),
        ("an answer to what was not asked", |s| {
            answer(s + 2, &[(":status", "200")], "evil")
        }),
        ("interim answers without end", |s| {
            head(s, &[(":status", "103"), ("link", "</a>")]).repeat(1000)
        }),
    ]
}

#[tokio::test]
async fn nonsense_is_refused_and_not_asked_for_again() {
    let cases = no_heads();
    let mut services = Vec::new();
    for (_, nonsense) in cases.clone() {
        services.push(Frames::start(move |_, stream| nonsense(stream)).await);
    }
    let world = world(&services.iter().collect::<Vec<_>>()).await;
    for (number, (name, _)) in cases.iter().enumerate() {
        let path = format!("/{number}");
        let mut asked = 0;
        for protocol in Protocol::BOTH {
            let client = world.client().protocol(protocol);
            for method in ["GET", "POST"] {
                let request = Request::builder().method(method).uri(&path);
                let answer = client.send(request.body(Bytes::new()).unwrap()).await;
                let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(
                    (answer.status, answer.reason()),
                    (502, Some("upstream-protocol")),
                    "{name}: {protocol:?} {method}"
                );
                asked += 1;
                assert_eq!(services[number].requests(), asked, "{name}: {method}");
            }
        }
        let lines = world
            .gateway
            .audit()
            .at_least(asked, name, |line| line["path"] == *path)
            .await;
        for line in lines {
            assert_eq!(line["reason"], "upstream-protocol", "{name} {line}");
            assert_eq!(line["status"], 502, "{name} {line}");
        }
    }
}

/// Makes a response with `count` fields.
fn many(stream: u32, count: usize) -> Vec<u8> {
    let mut fields = vec![(":status", "200")];
    fields.extend(std::iter::repeat_n(("x-a", "v"), count));
    answer(stream, &fields, "hi")
}

#[tokio::test]
async fn the_detail_names_the_limit_that_a_head_exceeds() {
    let cases: [(Nonsense, Option<&str>); 3] = [
        (large, Some("65536 bytes (response_header_size)")),
        (
            |s| many(s, 101),
            Some("100 fields (response_header_fields)"),
        ),
        (|s| many(s, 100), None),
    ];
    for (nonsense, limit) in cases {
        let service = Frames::start(move |_, stream| nonsense(stream)).await;
        let world = world(&[&service]).await;
        // A client without a limit of its own.
        let client = world.client().protocol(Protocol::Http2);
        let answer = client.get("/0").await.unwrap();
        let reason = limit.map(|_| "upstream-protocol");
        assert_eq!(answer.reason(), reason, "{limit:?}");
        let line = world.gateway.audit().request("/0").await;
        let detail = line["detail"].as_str();
        let wanted = limit.map(|limit| format!("gave a head of more than {limit}"));
        let is_named = match (detail, wanted) {
            (Some(detail), Some(wanted)) => detail.contains(&wanted),
            (detail, wanted) => detail.is_none() && wanted.is_none(),
        };
        assert!(is_named, "{line}");
    }
}

#[tokio::test]
async fn content_of_responses_without_content_is_not_forwarded() {
    let statuses = [("204", None), ("304", None), ("304", Some("4"))];
    let mut services = Vec::new();
    for (status, length) in statuses {
        let service = Frames::start(move |_, stream| {
            let mut fields = vec![(":status", status)];
            fields.extend(length.map(|length| ("content-length", length)));
            answer(stream, &fields, "evil")
        });
        services.push(service.await);
    }
    let world = world(&services.iter().collect::<Vec<_>>()).await;
    for (number, (status, length)) in statuses.into_iter().enumerate() {
        for protocol in Protocol::BOTH {
            let client = world.client().protocol(protocol);
            let answer = client.get(&format!("/{number}")).await.unwrap();
            assert_eq!(answer.status.to_string(), status, "{protocol:?}");
            assert_eq!(answer.body, "", "{protocol:?} {status}");
            // The gateway may leave `Content-Length` out.
            let said = answer.header("content-length");
            assert!(said == length || said.is_none(), "{protocol:?} {said:?}");
        }
    }
    for service in &services {
        assert_eq!(service.connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn an_answer_of_another_length_than_it_says_is_not_whole() {
    let service = Frames::start(|number, stream| {
        let length = [("2", "evil"), ("4", "hi")][number / 2];
        answer(
            stream,
            &[(":status", "200"), ("content-length", length.0)],
            length.1,
        )
    });
    let service = service.await;
    let world = world(&[&service]).await;
    for _ in 0..2 {
        for protocol in Protocol::BOTH {
            let answer = world.client().protocol(protocol).get("/0").await;
            if let Ok(answer) = answer {
                assert_eq!(answer.status, 502, "{answer:?}");
            }
        }
    }
    assert_eq!(service.requests(), 4);
    let lines = world
        .gateway
        .audit()
        .at_least(4, "all", |line| line["path"] == "/0")
        .await;
    for line in lines {
        assert_eq!(line["reason"], "upstream-protocol", "{line}");
        // A response with status 502 is made by the gateway, and is complete.
        assert_eq!(line["complete"], line["status"] == 502, "{line}");
    }
}

#[tokio::test]
async fn a_length_in_another_spelling_and_some_interim_answers_are_no_nonsense() {
    let service = Frames::start(|_, stream| {
        let fields = [
            (":status", "200"),
            ("content-length", "04"),
            ("content-length", "4"),
        ];
        let interim = head(stream, &[(":status", "103"), ("link", "</a>")]).repeat(50);
        [interim, answer(stream, &fields, "good")].concat()
    });
    let service = service.await;
    let world = world(&[&service]).await;
    for protocol in Protocol::BOTH {
        let answer = world.client().protocol(protocol).get("/0").await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"good"[..]));
        assert_eq!(answer.header("content-length"), Some("4"));
    }
}

/// Sends a malformed response, and tests how this affects another caller's request on the same
/// connection and later requests.
async fn beside(nonsense: Nonsense) -> (Front, Frames, u16) {
    // The first request gets its response when the third request arrives. The second request
    // gets the malformed response.
    let service = Frames::start(move |number, stream| match number {
        0 => Vec::new(),
        1 => nonsense(stream),
        2 => [good(1), good(stream)].concat(),
        _ => good(stream),
    });
    let service = service.await;
    let world = world(&[&service]).await;
    let victim = world.client().protocol(Protocol::Http2);
    let waiting = tokio::spawn(async move {
        let request = Request::post("/0/victim").body(Bytes::new()).unwrap();
        victim.send(request).await
    });
    in_time("the victim's request", async {
        while service.requests() < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let culprit = world.client().get("/0/culprit").await.unwrap();
    assert_eq!(culprit.status, 502);
    assert_eq!(culprit.reason(), Some("upstream-protocol"));
    assert_eq!(service.requests(), 2);
    for _ in 0..3 {
        let later = world.client().get("/0/later").await.unwrap();
        assert_eq!((later.status, &later.body[..]), (200, &b"good"[..]));
    }
    let victim = in_time("the victim's answer", waiting)
        .await
        .unwrap()
        .unwrap();
    (world, service, victim.status)
}

#[tokio::test]
async fn a_malformed_answer_costs_its_neighbours_nothing() {
    // After these five, the h2 library can continue to use the connection.
    for (name, nonsense) in no_heads().into_iter().take(5) {
        let (_world, service, victim) = beside(nonsense).await;
        assert_eq!(victim, 200, "{name}");
        assert_eq!(service.connections.load(Ordering::SeqCst), 1, "{name}");
    }
}

#[tokio::test]
async fn a_broken_connection_ends_one_request_of_each_caller_on_it() {
    let flood = |stream| head(stream, &[(":status", "103")]).repeat(1000);
    let first: Nonsense = |stream| http2::data(stream, true, b"evil");
    for nonsense in [first, flood] {
        let (world, service, victim) = beside(nonsense).await;
        assert_eq!(victim, 502);
        let line = world.gateway.audit().request("/0/victim").await;
        assert_eq!(line["reason"], "upstream-protocol", "{line}");
        assert_eq!(service.connections.load(Ordering::SeqCst), 2);
    }
}
