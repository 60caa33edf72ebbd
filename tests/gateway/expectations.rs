//! `Expect: 100-continue` from end to end, responses without a body, and trailers.

use std::net::SocketAddr;
use std::time::Duration;

use countersign_testkit::client::get;
use countersign_testkit::{Afterwards, Connection, Protocol, Scripted, in_time, read_head};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{HOST, World};

/// A service whose responses the test writes by hand.
pub(super) struct Stage(TcpListener);

impl Stage {
    pub(super) async fn open() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self(listener), address)
    }

    /// Waits for the next connection. Returns it with the head of its request.
    pub(super) async fn request(&self) -> (TcpStream, String) {
        in_time("a request", async {
            let (mut stream, _) = self.0.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            (stream, String::from_utf8(head).unwrap())
        })
        .await
    }
}

async fn world(service: SocketAddr) -> World {
    World::with(|settings, echo| {
        settings
            .upstream("good", echo)
            .upstream("orders", service)
            .route("good", "good", "paths = [\"/good\"]\ncallers = [\"*\"]\n")
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await
}

/// Sends the head of a request. The caller waits for 100 Continue before it sends its body.
async fn ask(world: &World) -> Connection {
    let mut connection = world.client().connect().await.unwrap();
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    );
    connection.write(head.as_bytes()).await.unwrap();
    connection
}

/// The service sends 100 Continue, and receives the body.
async fn go_on(caller: &mut Connection, service: &mut TcpStream) {
    service
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        .await
        .unwrap();
    let interim = caller.read_head().await;
    assert_eq!(interim.statuses(), [100]);
    caller.write(b"body").await.unwrap();
    let mut body = [0; 4];
    in_time("the body", service.read_exact(&mut body))
        .await
        .unwrap();
    assert_eq!(&body, b"body");
}

#[tokio::test]
async fn the_service_decides_whether_the_body_is_sent() {
    let (stage, address) = Stage::open().await;
    let world = world(address).await;
    let mut caller = ask(&world).await;
    let (mut service, head) = stage.request().await;
    assert!(
        head.to_ascii_lowercase()
            .contains("\r\nexpect: 100-continue\r\n"),
        "{head}"
    );
    // The gateway does not send 100 Continue before the service sends it.
    let quiet = caller.read_until_silent(Duration::from_millis(300)).await;
    assert_eq!(quiet.text(), "");
    go_on(&mut caller, &mut service).await;
    service
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    let answer = caller.read_until(|octets| octets.ends_with(b"ok")).await;
    assert_eq!(answer.statuses(), [200]);
    // Both connections stay usable.
    let next = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    caller.write(next.as_bytes()).await.unwrap();
    let head = in_time("the next request", read_head(&mut service)).await;
    let head = head.unwrap();
    assert!(head.starts_with(b"GET /a "));
}

#[tokio::test]
async fn a_final_answer_ends_the_connection_and_the_body_is_never_read() {
    for status in ["401 Unauthorized", "417 Expectation Failed", "200 OK"] {
        let (stage, address) = Stage::open().await;
        let world = world(address).await;
        let mut caller = ask(&world).await;
        let (mut service, _) = stage.request().await;
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
        service.write_all(answer.as_bytes()).await.unwrap();
        let answer = caller.read_until(|octets| octets.ends_with(b"no")).await;
        let code: u16 = status.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(answer.statuses(), [code], "{}", answer.text());
        assert!(
            answer
                .text()
                .to_ascii_lowercase()
                .contains("connection: close")
        );
        // The gateway cannot know whether these bytes are the body or a request. It must not use
        // them at all.
        let _ = caller
            .write(format!("GET /good HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
            .await;
        let rest = caller.read_until(|_| false).await;
        assert!(rest.closed && rest.octets.is_empty(), "{}", rest.text());
        // The connection to the service is closed, and not used for other requests.
        let mut octet = [0];
        assert!(matches!(
            in_time("the end", service.read(&mut octet)).await,
            Ok(0) | Err(_)
        ));
        assert_eq!(world.echo.requests(), 0);
    }
}

#[tokio::test]
async fn a_service_that_does_not_know_the_expectation_gets_the_body_after_a_while() {
    let (stage, address) = Stage::open().await;
    let world = world(address).await;
    let mut caller = ask(&world).await;
    let (mut service, _) = stage.request().await;
    let interim = caller.read_head().await;
    assert_eq!(interim.statuses(), [100]);
    caller.write(b"body").await.unwrap();
    let mut body = [0; 4];
    in_time("the body", service.read_exact(&mut body))
        .await
        .unwrap();
}

#[tokio::test]
async fn answers_without_a_body_are_exact() {
    for (octets, method, status, length) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            "HEAD",
            200,
            Some("1000"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HEAD",
            200,
            None,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, None),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"a\"\r\n\r\n",
            "GET",
            304,
            Some("1000"),
        ),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", "GET", 304, None),
    ] {
        let service = Scripted::start(octets, Afterwards::Again).await;
        let world = world(service.address()).await;
        for protocol in Protocol::BOTH {
            let mut session = world.client().protocol(protocol).session().await.unwrap();
            // There are two requests on one connection, so that a wrong end of the first response
            // would be noticed.
            for _ in 0..2 {
                let mut request = get("/a");
                *request.method_mut() = method.parse().unwrap();
                let answer = session.send(request).await.unwrap();
                assert_eq!((answer.status, answer.body.len()), (status, 0), "{octets}");
                let said = answer.header("content-length");
                // A 304 response may leave the field out (RFC 9110 section 8.6), but not change it.
                assert!(
                    said == length || (status == 304 && said.is_none()),
                    "{said:?} {octets}"
                );
            }
            assert_eq!(session.get("/good").await.unwrap().status, 200);
        }
    }
}

#[tokio::test]
async fn declared_trailers_pass_both_ways_and_forged_ones_do_not() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                  Trailer: X-Checksum, Countersign-Reason, Content-Length\r\n\r\n\
                  2\r\nok\r\n0\r\nX-Checksum: abc\r\nCountersign-Reason: forged\r\n\
                  Content-Length: 5\r\nX-Undeclared: x\r\n\r\n";
    let (stage, address) = Stage::open().await;
    let world = world(address).await;
    let playing = tokio::spawn(async move {
        let mut heads = Vec::new();
        for _ in 0..2 {
            let (mut service, head) = stage.request().await;
            let mut body = Vec::new();
            while !body.ends_with(b"\r\n\r\n") {
                body.push(service.read_u8().await.unwrap());
            }
            service.write_all(answer.as_bytes()).await.unwrap();
            service.shutdown().await.unwrap();
            heads.push((head, String::from_utf8(body).unwrap()));
        }
        heads
    });
    let request = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Sum, Countersign-Assertion\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 7\r\n\
         Countersign-Assertion: forged\r\n\r\n"
    );
    let mut caller = world.client().connect().await.unwrap();
    caller.write(request.as_bytes()).await.unwrap();
    let answer = caller
        .read_until(|octets| {
            octets.windows(5).any(|end| end == b"\r\n0\r\n") && octets.ends_with(b"\r\n\r\n")
        })
        .await;
    let text = answer.text().to_ascii_lowercase();
    assert!(text.contains("x-checksum: abc"), "{text}");
    assert!(
        !text.contains("forged") && !text.contains("x-undeclared"),
        "{text}"
    );

    // A caller without `TE: trailers` gets no trailers.
    let without = request.replace("TE: trailers\r\n", "");
    let mut caller = world.client().connect().await.unwrap();
    caller.write(without.as_bytes()).await.unwrap();
    let answer = caller
        .read_until(|octets| octets.ends_with(b"0\r\n\r\n"))
        .await;
    assert!(!answer.text().contains("abc"), "{}", answer.text());

    for (head, body) in playing.await.unwrap() {
        let head = head.to_ascii_lowercase();
        assert!(head.contains("trailer: x-sum\r\n"), "{head}");
        assert!(body.to_ascii_lowercase().contains("x-sum: 7"), "{body}");
        assert!(!body.contains("forged"), "{body}");
    }
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    let (stage, address) = Stage::open().await;
    let world = world(address).await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        let asking = session.start(get("/events"));
        let serving = async {
            let (mut service, _) = stage.request().await;
            service
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await
                .unwrap();
            service
        };
        let (answer, mut service) = tokio::join!(asking, serving);
        let mut events = answer.unwrap();
        for number in 0..3 {
            let event = format!("data: {number}\n\n");
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            service.write_all(chunk.as_bytes()).await.unwrap();
            let frame = in_time("an event", events.body_mut().frame())
                .await
                .unwrap();
            assert_eq!(frame.unwrap().into_data().unwrap(), event);
        }
    }
}

#[tokio::test]
async fn a_callers_last_answer_arrives_piece_by_piece_and_is_followed_by_a_farewell() {
    let (stage, address) = Stage::open().await;
    let world = world(address).await;
    let mut caller = world.client().connect().await.unwrap();
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
    );
    caller.write(head.as_bytes()).await.unwrap();
    let (mut service, _) = stage.request().await;
    go_on(&mut caller, &mut service).await;
    let long = "x".repeat(10_000);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10010\r\n\r\n";
    // Each piece arrives at the caller before the service sends the next piece.
    for (number, piece) in [head, "first", "next.", &long].into_iter().enumerate() {
        service.write_all(piece.as_bytes()).await.unwrap();
        let answer = caller
            .read_until(|octets| match number {
                0 => octets.ends_with(b"\r\n\r\n"),
                _ => octets.len() == piece.len(),
            })
            .await;
        assert!(!answer.closed || number == 3, "{number}");
        if number > 0 {
            assert_eq!(answer.text(), piece);
        }
    }
    let end = caller.read_until(|_| false).await;
    assert!(end.closed && end.octets.is_empty(), "{end:?}");
}
