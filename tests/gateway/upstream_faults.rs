//! Services that refuse connections, hang, are killed, or send malformed responses. Callers get the
//! right status, and the gateway still works.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_testkit::client::get;
use countersign_testkit::{Afterwards, Client, Protocol, Scripted, read_head};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::{HOST, World};

/// Starts a gateway. `/good` leads to an echo service, and all other paths lead to `service`.
async fn world(service: SocketAddr) -> World {
    World::with(|settings, echo| {
        settings
            .upstream("good", echo)
            .upstream_with(
                "orders",
                service,
                "connect_timeout = \"500ms\"\nfirst_byte_timeout = \"500ms\"\n",
            )
            .route("good", "good", "paths = [\"/good\"]\ncallers = [\"*\"]\n")
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await
}

async fn assert_healthy(world: &World) {
    assert_eq!(world.client().get("/good").await.unwrap().status, 200);
}

async fn expect(client: &Client, path: &str, status: u16, reason: &str) {
    let answer = client.get(path).await.unwrap();
    assert_eq!((answer.status, answer.reason()), (status, Some(reason)));
    let problem = answer.json();
    assert_eq!(problem["code"], reason);
}

#[tokio::test]
async fn a_service_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let world = world(nobody).await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        expect(&client, "/a", 503, "upstream-unavailable").await;
    }
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(line["decision"], "allowed");
    assert_eq!(line["reason"], "upstream-unavailable");
    assert_eq!(line["status"], 503);
    assert_eq!(line["upstream"], "orders");
    assert_healthy(&world).await;
}

#[tokio::test]
async fn a_service_that_never_answers() {
    let echo = countersign_testkit::Echo::start().await;
    let world = world(echo.address()).await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        expect(&client, "/hang", 504, "upstream-timeout").await;
    }
    assert_healthy(&world).await;
}

#[tokio::test]
async fn a_service_that_dies_within_its_answer() {
    let echo = countersign_testkit::Echo::start().await;
    let world = world(echo.address()).await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        let answer = session.send(get("/die-mid-body")).await;
        assert!(answer.is_err(), "half an answer passed for a whole one");
    }
    let raw = format!("GET /die-mid-body HTTP/1.1\r\nHost: {}\r\n\r\n", HOST);
    let answer = world
        .client()
        .raw(raw.as_bytes(), std::time::Duration::from_secs(5))
        .await
        .unwrap();
    assert!(answer.text().contains("half"), "{}", answer.text());
    assert!(!answer.text().ends_with("0\r\n\r\n"), "{}", answer.text());
    assert!(answer.closed);
    assert_healthy(&world).await;
}

#[tokio::test]
async fn a_service_that_promises_more_than_it_sends() {
    let service = Scripted::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        Afterwards::Close,
    )
    .await;
    let world = world(service.address()).await;
    for protocol in Protocol::BOTH {
        let answer = world.client().protocol(protocol).get("/a").await;
        assert!(answer.is_err(), "{protocol:?}: {answer:?}");
    }
    assert_healthy(&world).await;
}

#[tokio::test]
async fn a_service_that_talks_nonsense() {
    for octets in [
        "garbage\r\n\r\n",
        "\0\0\0\0\0\0\0\0\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let service = Scripted::start(octets, Afterwards::Close).await;
        let world = world(service.address()).await;
        expect(&world.client(), "/a", 502, "upstream-protocol").await;
        assert_healthy(&world).await;
    }
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer() {
    let service = Scripted::start(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nCountersign-Reason: x\r\n\r\n\
         HTTP/1.1 102 Processing\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Afterwards::Again,
    )
    .await;
    let world = world(service.address()).await;
    for protocol in Protocol::BOTH {
        let answer = world.client().protocol(protocol).get("/a").await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
        assert_eq!(answer.reason(), None);
        assert_eq!(answer.header("link"), None);
    }
    // Nothing comes before the response.
    let mut connection = world.client().connect().await.unwrap();
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    connection.write(request.as_bytes()).await.unwrap();
    let answer = connection.read_until(|_| false).await;
    assert_eq!(answer.statuses(), [200], "{}", answer.text());
}

#[tokio::test]
async fn a_service_that_ends_the_connection_instead_of_answering() {
    let service = Scripted::start("", Afterwards::Close).await;
    let world = world(service.address()).await;
    let answer = world.client().get("/a").await.unwrap();
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    assert!(answer.reason().unwrap().starts_with("upstream-"));
    // The gateway never sends a request twice if the request is not idempotent.
    let before = service.requests();
    let post = http::Request::post("/a").body("once".into()).unwrap();
    let answer = world.client().send(post).await.unwrap();
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    assert_eq!(service.requests(), before + 1);
    assert_healthy(&world).await;
}

#[tokio::test]
async fn a_service_with_too_large_a_head() {
    let head = format!(
        "HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 0\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let service = Scripted::start(head, Afterwards::Close).await;
    let world = world(service.address()).await;
    expect(&world.client(), "/a", 502, "upstream-protocol").await;
    assert_healthy(&world).await;
}

#[tokio::test]
async fn bytes_after_a_response_do_not_reach_another_caller() {
    let service = Scripted::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\
         HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Afterwards::Again,
    )
    .await;
    let world = world(service.address()).await;
    for number in 0..6 {
        let client = world.client_as(&format!("/{number}"));
        match client.get("/a").await {
            Ok(answer) if answer.status == 200 => assert_eq!(answer.body, "ok"),
            Ok(answer) => assert!(answer.status >= 500, "{answer:?}"),
            Err(_) => {}
        }
    }
    assert_healthy(&world).await;
}

#[tokio::test]
async fn a_pooled_connection_that_the_service_has_closed_is_not_used() {
    let service = Scripted::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Afterwards::Close,
    )
    .await;
    let world = world(service.address()).await;
    let mut session = world.client().session().await.unwrap();
    for number in 0..10 {
        let answer = session.get("/a").await.unwrap();
        assert_eq!(answer.status, 200, "request {number}: {answer:?}");
    }
}

/// Starts a service that sends `first`, and then sends `again` until the connection is closed.
async fn endless(first: &'static str, again: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(first.as_bytes()).await;
                let again = again.repeat(1 + 16_384 / again.len());
                while stream.write_all(again.as_bytes()).await.is_ok() {}
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_service_that_never_comes_to_its_answer() {
    for again in [
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
    ] {
        let (address, task) = endless("", again).await;
        let world = world(address).await;
        for protocol in Protocol::BOTH {
            let client = world.client().protocol(protocol);
            expect(&client, "/a", 502, "upstream-protocol").await;
        }
        assert_healthy(&world).await;
        task.abort();
    }
}

#[tokio::test]
async fn a_service_whose_head_never_ends() {
    for (first, again) in [
        ("HTTP/1.1 200 OK\r\nX-Big: ", "x"),
        ("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"),
        ("HTTP/1.1 200 ", "O"),
    ] {
        let (address, task) = endless(first, again).await;
        let world = world(address).await;
        expect(&world.client(), "/a", 502, "upstream-protocol").await;
        assert_healthy(&world).await;
        task.abort();
    }
}

#[tokio::test]
async fn a_service_with_bad_chunks_ends_its_answer_early() {
    for chunks in [
        "zz\r\nok\r\n0\r\n\r\n",
        "-2\r\nok\r\n0\r\n\r\n",
        "2\r\nokay\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nok",
        "2\r\nok",
        "2\r\nok\r\n0\r\nbad trailer\r\n\r\n",
    ] {
        let octets = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let service = Scripted::start(octets, Afterwards::Close).await;
        let world = world(service.address()).await;
        for protocol in Protocol::BOTH {
            let answer = world.client().protocol(protocol).get("/a").await;
            // If the gateway has not forwarded a part of the response, an HTTP/1.1 caller gets a
            // refusal.
            let at_once = protocol == Protocol::Http1 && !chunks.starts_with("2\r\n");
            let (status, answer) = match (at_once, answer) {
                (true, Ok(answer)) => (502, answer.status),
                (false, Err(_)) => (200, 200),
                (_, answer) => panic!("{protocol:?} {chunks:?}: {answer:?}"),
            };
            assert_eq!(answer, status, "{protocol:?} {chunks:?}");
        }
        let audit = world.gateway.audit();
        let lines = audit.at_least(2, "both", |line| line["path"] == "/a");
        for line in lines.await {
            assert_eq!(line["reason"], "upstream-protocol", "{chunks:?} {line}");
        }
        assert_healthy(&world).await;
    }
}

/// An endless response does not use more and more memory. The upstream connection is closed when
/// the caller disconnects.
#[tokio::test]
async fn a_service_that_never_stops_is_read_only_as_fast_as_its_caller_reads() {
    let (address, task) = endless("HTTP/1.1 200 OK\r\n\r\n", "x").await;
    let world = world(address).await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        let mut answer = session.start(get("/endless")).await.unwrap();
        for _ in 0..100 {
            answer.body_mut().frame().await.unwrap().unwrap();
        }
        drop(answer);
        drop(session);
    }
    let lines = world
        .gateway
        .audit()
        .at_least(2, "both requests", |line| line["path"] == "/endless")
        .await;
    assert!(lines.iter().all(|line| line["complete"] == false));
    assert_healthy(&world).await;
    task.abort();
}

#[tokio::test]
async fn total_timeout_ends_an_answer_that_does_not() {
    let (address, task) = endless("HTTP/1.1 200 OK\r\n\r\n", "x").await;
    let world = World::with(|settings, echo| {
        settings
            .upstream("good", echo)
            .upstream_with("orders", address, "total_timeout = \"500ms\"\n")
            .route("good", "good", "paths = [\"/good\"]\ncallers = [\"*\"]\n")
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await;
    for protocol in Protocol::BOTH {
        let answer = world.client().protocol(protocol).get("/endless").await;
        assert!(answer.is_err(), "{protocol:?}");
    }
    let lines = world
        .gateway
        .audit()
        .at_least(2, "both requests", |line| line["path"] == "/endless")
        .await;
    for line in lines {
        assert_eq!(line["reason"], "upstream-timeout", "{line}");
        assert_eq!(
            (&line["status"], &line["complete"]),
            (&200.into(), &false.into())
        );
    }
    assert_healthy(&world).await;
    task.abort();
}

/// If bytes arrive on an idle connection, the gateway does not use them as a response.
#[tokio::test]
async fn bytes_without_a_request_do_not_reach_a_caller() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (spoil, said) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (told, tells) = (Arc::clone(&spoil), Arc::clone(&said));
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (told, tells) = (Arc::clone(&told), Arc::clone(&tells));
            tokio::spawn(async move {
                if read_head(&mut stream).await.is_err() {
                    return;
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                told.acquire().await.unwrap().forget();
                let other = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
                stream.write_all(other).await.unwrap();
                tells.add_permits(1);
                let _ = stream.read(&mut [0; 64]).await;
            });
        }
    });
    let world = world(address).await;
    for number in 0..6 {
        let client = world.client_as(&format!("/{number}"));
        let answer = client.get("/a").await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
        spoil.add_permits(1);
        said.acquire().await.unwrap().forget();
    }
    assert_healthy(&world).await;
    task.abort();
}
