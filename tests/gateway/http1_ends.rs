//! The close of HTTP/1 connections. In HTTP/1.0 only the close ends a response, and an incomplete
//! response must not look complete.

use std::io::ErrorKind;
use std::net::SocketAddr;

use countersign_testkit::{Afterwards, Client, RawAnswer, Scripted, TlsVersion};

use crate::support::{HOST, World, revocable};

async fn world(service: SocketAddr) -> World {
    World::with(|settings, _| {
        settings
            .upstream_with("orders", service, "total_timeout = \"800ms\"\n")
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await
}

async fn ask(client: &Client, path: &str, version: &str) -> RawAnswer {
    let mut connection = client.connect().await.unwrap();
    let request = format!("GET {path} HTTP/{version}\r\nHost: {HOST}\r\n\r\n");
    connection.write(request.as_bytes()).await.unwrap();
    connection.read_until(|_| false).await
}

#[tokio::test]
async fn a_whole_answer_ends_with_close_notify() {
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        // Old services end their responses in this way.
        "Connection: close\r\n\r\nhello",
    ] {
        let octets = format!("HTTP/1.1 200 OK\r\n{body}");
        let service = Scripted::start(octets, Afterwards::Close).await;
        let world = world(service.address()).await;
        for version in TlsVersion::BOTH {
            let answer = ask(&world.client().tls(version), "/a", "1.0").await;
            assert_eq!(answer.failure, None, "{body:?} {version:?}");
            assert!(
                answer.octets.ends_with(b"\r\n\r\nhello"),
                "{}",
                answer.text()
            );
        }
        let line = world.gateway.audit().request("/a").await;
        assert_eq!(line["complete"], true, "{line}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not() {
    for (body, afterwards, reason) in [
        (
            "Content-Length: 100\r\n\r\nhello",
            Afterwards::Close,
            "upstream-protocol",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            Afterwards::Close,
            "upstream-protocol",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n",
            Afterwards::Hang,
            "upstream-protocol",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nbad trailer\r\n\r\n",
            Afterwards::Hang,
            "upstream-protocol",
        ),
        // The chunks never end, and the response times out.
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            Afterwards::Hang,
            "upstream-timeout",
        ),
    ] {
        let octets = format!("HTTP/1.1 200 OK\r\n{body}");
        let service = Scripted::start(octets, afterwards).await;
        let world = world(service.address()).await;
        for tls in TlsVersion::BOTH {
            let client = world.client().tls(tls);
            let answer = ask(&client, "/old", "1.0").await;
            // A reset, so that programs that ignore a missing close_notify notice it too.
            assert_eq!(
                answer.failure,
                Some(ErrorKind::ConnectionReset),
                "{body:?} {tls:?}"
            );
            // In HTTP/1.1, the framing shows that the response is incomplete. The data that has
            // arrived is readable.
            let answer = ask(&client, "/new", "1.1").await;
            assert_eq!(
                answer.failure,
                Some(ErrorKind::UnexpectedEof),
                "{body:?} {tls:?}"
            );
        }
        let line = world.gateway.audit().request("/old").await;
        assert_eq!(
            (&line["reason"], &line["complete"]),
            (&reason.into(), &false.into()),
            "{line}"
        );
    }
}

#[tokio::test]
async fn nor_does_one_that_is_cut_off() {
    let (world, lists) = revocable().await;
    let mut connection = world.client().connect().await.unwrap();
    let request = format!("GET /hang-mid-body HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    connection.write(request.as_bytes()).await.unwrap();
    let answer = connection
        .read_until(|octets| octets.ends_with(b"half"))
        .await;
    assert_eq!(answer.statuses(), [200], "{}", answer.text());
    assert!(
        !answer.text().contains("Transfer-Encoding"),
        "{}",
        answer.text()
    );
    lists.revoke(&world.ca, &world.caller);
    let rest = connection.read_until(|_| false).await;
    assert_eq!(rest.failure, Some(ErrorKind::ConnectionReset));
}
