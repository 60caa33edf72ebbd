//! Callers that send too much, too slowly, or nothing at all.

use std::time::Duration;

use countersign_testkit::{Protocol, http2, in_time};
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{HOST, World};

/// Reads until the gateway closes the connection.
async fn ended(stream: &mut TcpStream) {
    in_time("the connection's end", async {
        let mut buffer = [0_u8; 1024];
        while matches!(stream.read(&mut buffer).await, Ok(count) if count > 0) {}
    })
    .await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let world = World::open().await;
    let big = "x".repeat(64 * 1024);
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nX-Big: {big}\r\n\r\n");
    let answer = world
        .client()
        .raw(request.as_bytes(), Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [431], "{}", answer.text());
    assert!(answer.text().contains("too-large"));
    assert!(answer.closed);
    let many: String = (0..300)
        .map(|number| format!("X-{number}: a\r\n"))
        .collect();
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n{many}\r\n");
    let answer = world
        .client()
        .raw(request.as_bytes(), Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [431], "{}", answer.text());
    let line = world
        .gateway
        .audit()
        .line("too large", |line| line["reason"] == "too-large")
        .await;
    assert_eq!(line["status"], 431);

    let request = Request::get("/a")
        .header("x-big", &big)
        .body("".into())
        .unwrap();
    let client = world.client().protocol(Protocol::Http2);
    let answer = client.send(request).await.unwrap();
    assert_eq!((answer.status, answer.reason()), (431, Some("too-large")));
    let line = world
        .gateway
        .audit()
        .line("the h2 head", |line| {
            line["reason"] == "too-large" && line["path"] == "/a"
        })
        .await;
    assert_eq!(
        (&line["status"], &line["method"]),
        (&431.into(), &"GET".into())
    );
    // The h2 library itself refuses a head that is much larger.
    let request = Request::get("/a")
        .header("x-big", big.repeat(2))
        .body("".into())
        .unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 431);
    let line = world
        .gateway
        .audit()
        .line("the h2 head", |line| line["event"] == "connection")
        .await;
    assert_eq!(line["decision"], "refused");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("heads that are too large"), "{line}");
    assert_eq!(world.echo.requests(), 0);
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let world = World::with(|s, echo| {
        s.set("limits", "body_size", "\"1000B\"")
            .everything_to(echo)
    })
    .await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let post = |length: usize| Request::post("/a").body(vec![b'x'; length].into()).unwrap();
        assert_eq!(client.send(post(1000)).await.unwrap().status, 200);
        // The gateway may close the connection before it has read the whole body.
        if let Ok(answer) = client.send(post(1001)).await {
            assert_eq!((answer.status, answer.reason()), (413, Some("too-large")));
        }
    }
    let chunks = format!(
        "POST /chunks HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n\
         3e8\r\n{}\r\n1\r\nx\r\n0\r\n\r\n",
        "x".repeat(1000)
    );
    let answer = world
        .client()
        .raw(chunks.as_bytes(), Duration::from_secs(5))
        .await
        .unwrap();
    assert!(
        answer.statuses().iter().all(|status| *status == 413),
        "{}",
        answer.text()
    );
    world
        .gateway
        .audit()
        .line("too large", |line| {
            line["path"] == "/chunks" && line["reason"] == "too-large"
        })
        .await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_ended_and_recorded() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "handshake_timeout", "\"300ms\"")
            .everything_to(echo)
    })
    .await;
    let mut silent = TcpStream::connect(world.gateway.listener()).await.unwrap();
    // This connection sends the beginning of a ClientHello and nothing more.
    let mut half = TcpStream::connect(world.gateway.listener()).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    ended(&mut silent).await;
    ended(&mut half).await;
    world
        .gateway
        .audit()
        .at_least(2, "handshake timeouts", |line| {
            line["event"] == "handshake" && line["reason"] == "timeout"
        })
        .await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_not_tls_is_ended_and_recorded() {
    let world = World::open().await;
    for octets in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        &[0; 64],
        &[22, 3, 1, 0, 4, 1, 0, 0, 0],
        b"SSH-2.0-x\r\n",
    ] {
        let mut stream = TcpStream::connect(world.gateway.listener()).await.unwrap();
        stream.write_all(octets).await.unwrap();
        ended(&mut stream).await;
    }
    let lines = world
        .gateway
        .audit()
        .at_least(4, "failed handshakes", |line| line["event"] == "handshake")
        .await;
    for line in lines {
        assert!(line["reason"].is_string(), "{line}");
        assert!(line["detail"].is_string(), "{line}");
    }
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

/// RFC 8446 section 6.2 requires the alert unexpected_message.
#[tokio::test]
async fn a_first_message_that_is_no_client_hello_gets_an_alert() {
    const UNEXPECTED_MESSAGE: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];
    let world = World::open().await;
    let messages = [
        // The messages are HelloRequest, Finished, and application data.
        &[22, 3, 3, 0, 4, 0, 0, 0, 0][..],
        &[
            22, 3, 3, 0, 16, 20, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
        &[23, 3, 3, 0, 2, 1, 1],
    ];
    for (number, message) in messages.into_iter().enumerate() {
        let mut stream = TcpStream::connect(world.gateway.listener()).await.unwrap();
        stream.write_all(message).await.unwrap();
        let mut alert = Vec::new();
        in_time("the end", stream.read_to_end(&mut alert))
            .await
            .unwrap();
        assert_eq!(alert, UNEXPECTED_MESSAGE, "{message:?}");
        let audit = world.gateway.audit();
        let lines = audit
            .at_least(number + 1, "the handshake", |line| {
                line["event"] == "handshake"
            })
            .await;
        let line = lines.last().unwrap();
        let seen = (&line["reason"], &line["alert"]);
        let expected = (&"malformed-request".into(), &"unexpected_message".into());
        assert_eq!(seen, expected, "{line}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_arrive_ends_the_connection() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "header_timeout", "\"300ms\"")
            .everything_to(echo)
    })
    .await;
    for begun in ["", "G", "GET /a HTTP/1.1\r\nHost: orders.example.org\r\nX-"] {
        let mut connection = world.client().connect().await.unwrap();
        connection.write(begun.as_bytes()).await.unwrap();
        let answer = connection.read_until(|_| false).await;
        assert!(answer.closed);
        assert!(
            answer.statuses().iter().all(|status| *status == 408),
            "{}",
            answer.text()
        );
    }
    // Single bytes that arrive from time to time do not extend the timeout.
    let mut connection = world.client().connect().await.unwrap();
    let started = std::time::Instant::now();
    for octet in b"GET /a HTTP/1.1\r\nHost: orders.example.org\r\n" {
        if connection.write(&[*octet]).await.is_err() || started.elapsed().as_secs() > 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed().as_secs() <= 3, "the head took its time");
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn a_silent_http2_connection_is_ended() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "header_timeout", "\"300ms\"")
            .set("limits", "handshake_timeout", "\"500ms\"")
            .everything_to(echo)
    })
    .await;
    let half_a_head = {
        let mut octets = http2::headers(1, true, &[(":method", "GET")]);
        octets.truncate(octets.len() - 2);
        [http2::preface(), octets].concat()
    };
    for begun in [Vec::new(), http2::preface(), half_a_head] {
        let client = world.client().protocol(Protocol::Http2);
        let mut connection = client.connect().await.unwrap();
        connection.write(&begun).await.unwrap();
        let ended = connection.read_until(|_| false);
        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
        assert!(ended.is_ok(), "still open after {} octets", begun.len());
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_ends_the_request() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "body_timeout", "\"300ms\"")
            .everything_to(echo)
    })
    .await;
    let mut connection = world.client().connect().await.unwrap();
    let head = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\nabc");
    connection.write(head.as_bytes()).await.unwrap();
    let answer = connection.read_until(|_| false).await;
    assert!(answer.closed);
    assert_eq!(answer.statuses(), [408], "{}", answer.text());
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(line["reason"], "timeout", "{line}");
}

#[tokio::test]
async fn connections_are_bounded() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "connections", "2")
            .everything_to(echo)
    })
    .await;
    let mut first = world.client().session().await.unwrap();
    let mut second = world.client().session().await.unwrap();
    assert_eq!(first.get("/1").await.unwrap().status, 200);
    assert_eq!(second.get("/2").await.unwrap().status, 200);
    let client = world.client();
    let third = tokio::spawn(async move { client.get("/3").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.echo.requests(), 2, "a third connection was served");
    drop(first);
    let answer = in_time("the third connection", third).await.unwrap();
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn a_caller_that_disconnects_early_does_not_affect_others() {
    let world = World::open().await;
    for path in ["/hang", "/slow", "/megabyte", "/hang-mid-body"] {
        for protocol in Protocol::BOTH {
            let mut session = world.client().protocol(protocol).session().await.unwrap();
            let request = countersign_testkit::client::get(path);
            let started = session.start(request);
            let _ = tokio::time::timeout(Duration::from_millis(50), started).await;
        }
    }
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_not_continued_by_another_request() {
    let world = World::open().await;
    for round in 0..6 {
        let mut connection = world.client_as("/first").connect().await.unwrap();
        let head = match round % 2 {
            0 => format!("POST /broken HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 50\r\n\r\nabc"),
            _ => format!(
                "POST /broken HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n32\r\nabc"
            ),
        };
        connection.write(head.as_bytes()).await.unwrap();
        world.echo.arrived("/broken").await;
        drop(connection);
        for _ in 0..3 {
            let answer = world.client_as("/second").get("/whole").await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json()["path"], "/whole");
            assert_eq!(answer.json()["body"], "");
        }
    }
    for seen in world.echo.seen() {
        if seen["path"] == "/broken" {
            assert!(seen.get("body").is_none(), "it was completed: {seen}");
        }
    }
    world
        .gateway
        .audit()
        .at_least(6, "broken uploads", |line| line["path"] == "/broken")
        .await;
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_given_up_on() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "body_timeout", "\"300ms\"")
            .set("limits", "connections", "1")
            .everything_to(echo)
    })
    .await;
    let mut connection = world.client().connect().await.unwrap();
    // The responses are much larger than the buffers of both sockets.
    let requests = format!("GET /megabyte HTTP/1.1\r\nHost: {HOST}\r\n\r\n").repeat(40);
    connection.write(requests.as_bytes()).await.unwrap();
    world.gateway.audit().request("/megabyte").await;
    // There is only one connection slot. The silent caller must not keep it.
    let answer = world.client().get("/a").await.unwrap();
    assert_eq!(answer.status, 200);
    drop(connection);
}

/// The timeouts for an HTTP/1.1 service apply even if the caller sends a gRPC content type.
#[tokio::test]
async fn naming_grpc_does_not_switch_limits_off() {
    let world = World::with(|settings, echo| {
        settings
            .upstream_with("orders", echo, "first_byte_timeout = \"300ms\"\n")
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await;
    let request = Request::post("/hang")
        .header("content-type", "application/grpc")
        .body(bytes::Bytes::new())
        .unwrap();
    let client = world.client().protocol(Protocol::Http2);
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.reason(), Some("upstream-timeout"));
}
