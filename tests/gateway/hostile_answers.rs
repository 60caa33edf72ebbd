//! HTTP/1.x services with ambiguous responses, or with an older HTTP version than the caller.
//! Callers must get one unambiguous response, and no request may be lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use countersign_testkit::service::pieces;
use countersign_testkit::{Afterwards, Protocol, Scripted, read_head};
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{HOST, World};

/// Starts a gateway in front of these services. The path of each service is its number.
async fn world(services: &[SocketAddr]) -> World {
    World::with(|mut settings, _| {
        for (number, service) in services.iter().enumerate() {
            let name = format!("s{number}");
            let route = format!("paths = [\"/{number}\", \"/{number}/*\"]\ncallers = [\"*\"]\n");
            settings = settings
                .upstream(&name, *service)
                .route(&name, &name, &route);
        }
        settings
    })
    .await
}

/// An HTTP/1.0 service that keeps connections open. It responds with the received request.
struct Old {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Old {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve_old(stream));
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_old(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let head = read_head(&mut stream).await?;
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let mut body = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(stream.read_u8().await?);
            }
        } else if let Some((_, rest)) = head.split_once("content-length: ") {
            let length = rest.split("\r\n").next().unwrap().parse().unwrap();
            body.resize(length, 0);
            stream.read_exact(&mut body).await?;
        }
        let length = body.len();
        let answer = format!(
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(&body).await?;
    }
}

#[tokio::test]
async fn bodies_of_unknown_length_arrive_whole_at_a_service_of_http_1_0() {
    let service = Old::start().await;
    let world = world(&[service.address]).await;
    for (number, name) in ["/one", "/other", "/one"].into_iter().enumerate() {
        let client = world.client_as(name);
        let mut connection = client.connect().await.unwrap();
        for turn in 0..3 {
            let sent = format!("chunks {number}.{turn}.");
            let request = format!(
                "POST /0 HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {:x}\r\n{sent}\r\n0\r\n\r\n",
                sent.len()
            );
            connection.write(request.as_bytes()).await.unwrap();
            let answer = connection
                .read_until(|octets| octets.ends_with(b"0\r\n\r\n"))
                .await;
            assert_eq!(answer.statuses(), [200], "{}", answer.text());
            assert!(answer.text().contains(&sent), "{}", answer.text());
        }
        let connection = client.protocol(Protocol::Http2).connect().await.unwrap();
        let mut sender = connection.streams().await.unwrap();
        for turn in 0..3 {
            let sent = format!("frames {number}.{turn}.");
            let (pieces, body) = pieces();
            let request = Request::post(format!("https://{HOST}/0"))
                .body(body)
                .unwrap();
            let piece = Frame::data(Bytes::from(sent.clone()));
            pieces.send(Ok(piece)).await.unwrap();
            drop(pieces);
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(body.contains(&sent), "{body}");
        }
    }
    // The gateway used a new connection for each request.
    assert_eq!(service.connections.load(Ordering::SeqCst), 18);
    let lines = world.gateway.audit().matching(|line| line["path"] == "/0");
    assert!(lines.iter().all(|line| line["complete"] == true));
}

#[tokio::test]
async fn an_answer_with_two_readings_is_not_shown() {
    let chunks = "2\r\nok\r\n0\r\n\r\n";
    let answers = [
        format!("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n{chunks}"),
        format!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        "Content-Length: 2\r\nTransfer-Encoding: gzip\r\n\r\nok".to_owned(),
        "Content-Length: 2, 3\r\n\r\noke".to_owned(),
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\noke".to_owned(),
        "Content-Length: 2,\r\n\r\nok".to_owned(),
        "Content-Length: +2\r\n\r\nok".to_owned(),
        "Content-Length:\r\n\r\nok".to_owned(),
        format!("Transfer-Encoding: gzip, chunked\r\n\r\n{chunks}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n{chunks}"),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n{chunks}"),
        "Transfer-Encoding: identity\r\n\r\nok".to_owned(),
    ];
    let mut heads: Vec<String> = answers
        .iter()
        .map(|answer| format!("HTTP/1.1 200 OK\r\n{answer}"))
        .collect();
    heads.push(format!(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
    ));
    for status in ["204 No Content", "304 Not Modified"] {
        heads.push(format!("HTTP/1.1 {status}\r\nContent-Length: 2, 3\r\n\r\n"));
        heads.push(format!(
            "HTTP/1.1 {status}\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
    }
    let mut services = Vec::new();
    for head in &heads {
        services.push(Scripted::start(head.clone(), Afterwards::Hang).await);
    }
    let addresses: Vec<_> = services.iter().map(Scripted::address).collect();
    let world = world(&addresses).await;
    for (number, service) in services.iter().enumerate() {
        let head = &heads[number];
        let path = format!("/{number}");
        for protocol in Protocol::BOTH {
            let answer = world.client().protocol(protocol).get(&path).await;
            let answer = answer.unwrap_or_else(|error| panic!("{head}: {error}"));
            assert_eq!(
                (answer.status, answer.reason()),
                (502, Some("upstream-protocol")),
                "{protocol:?} {head}"
            );
            assert_eq!(answer.json()["code"], "upstream-protocol");
        }
        // The gateway does not send the request again.
        assert_eq!(service.requests(), 2, "{head}");
        for line in world
            .gateway
            .audit()
            .at_least(2, "both", |line| line["path"] == *path)
            .await
        {
            assert_eq!(line["reason"], "upstream-protocol", "{head} {line}");
            assert_eq!(line["status"], 502, "{head} {line}");
        }
    }
}

#[tokio::test]
async fn an_answer_with_one_reading_has_one_length() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let cases = [
        (
            "200 OK\r\nContent-Length: 2, 2\r\n\r\nok".to_owned(),
            200,
            Some("2"),
        ),
        (
            "200 OK\r\nContent-Length: 2,2\r\n\r\nok".to_owned(),
            200,
            Some("2"),
        ),
        (
            "200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok".to_owned(),
            200,
            Some("2"),
        ),
        (
            "200 OK\r\nContent-Length: 002\r\n\r\nok".to_owned(),
            200,
            Some("2"),
        ),
        (
            "200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
            200,
            None,
        ),
        (
            "204 No Content\r\nContent-Length: 0\r\n\r\n".to_owned(),
            204,
            None,
        ),
        (
            format!("204 No Content\r\nContent-Length: 44\r\n\r\n{evil}"),
            204,
            None,
        ),
        (
            "204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n".to_owned(),
            204,
            None,
        ),
        (format!("204 No Content\r\n\r\n{evil}"), 204, None),
        (
            format!("304 Not Modified\r\nContent-Length: 44\r\n\r\n{evil}"),
            304,
            Some("44"),
        ),
        (
            "304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"
                .to_owned(),
            304,
            None,
        ),
    ];
    let mut services = Vec::new();
    for (answer, ..) in &cases {
        let answer = format!("HTTP/1.1 {answer}");
        services.push(Scripted::start(answer, Afterwards::Again).await);
    }
    let addresses: Vec<_> = services.iter().map(Scripted::address).collect();
    let world = world(&addresses).await;
    for (number, (answer, status, length)) in cases.iter().enumerate() {
        for turn in 0..4 {
            for protocol in Protocol::BOTH {
                let client = world.client_as(&format!("/{turn}")).protocol(protocol);
                let said = client.get(&format!("/{number}")).await;
                let said = said.unwrap_or_else(|error| panic!("{answer}: {error}"));
                assert_eq!(said.status, *status, "{protocol:?} {answer}");
                let body = if *status == 200 { "ok" } else { "" };
                assert_eq!(said.body, body, "{protocol:?} {answer}");
                let said = said.header("content-length");
                // RFC 9110 section 15.4.5: a 304 response need not have `Content-Length`.
                let left_out = *status == 304 && said.is_none();
                assert!(said == *length || left_out, "{protocol:?} {answer}");
            }
        }
    }
}

#[tokio::test]
async fn services_get_a_length_in_its_only_spelling() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        for (length, body) in [("0000000003", "abc"), ("03", "abc"), ("00", ""), ("0", "")] {
            let request = Request::post("/a")
                .header("content-length", length)
                .body(Bytes::from(body))
                .unwrap();
            let answer = world
                .client()
                .protocol(protocol)
                .send(request)
                .await
                .unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {length}");
            let received = answer.received("content-length");
            assert_eq!(received, [body.len().to_string()], "{protocol:?} {length}");
            assert_eq!(answer.json()["body"], body, "{protocol:?} {length}");
        }
    }
}

#[tokio::test]
async fn what_is_looked_at_first_still_arrives() {
    let framed = "HTTP/1.1 200 OK\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\n\r\n";
    let end = "0\r\nx-end: yes\r\n\r\n";
    let mut services = Vec::new();
    for chunks in ["", "4\r\nwhat\r\n"] {
        let answer = format!("{framed}{chunks}{end}");
        services.push(Scripted::start(answer, Afterwards::Again).await);
    }
    let addresses: Vec<_> = services.iter().map(Scripted::address).collect();
    let world = world(&addresses).await;
    for (number, content) in ["", "4\r\nwhat\r\n"].into_iter().enumerate() {
        let mut connection = world.client().connect().await.unwrap();
        for _ in 0..2 {
            let request = format!(
                "GET /{number} HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
            );
            connection.write(request.as_bytes()).await.unwrap();
            let answer = connection
                .read_until(|octets| octets.ends_with(end.as_bytes()))
                .await;
            let text = answer.text();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, format!("{content}{end}"), "{text}");
        }
    }
    let lines = world
        .gateway
        .audit()
        .at_least(4, "all", |line| line["status"] == 200)
        .await;
    assert!(lines.iter().all(|line| line["complete"] == true));
}
