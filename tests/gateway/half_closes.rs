//! Callers over HTTP/1.1 that end their side of the connection before they have all
//! responses.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_testkit::{Client, Connection, RawAnswer, TlsVersion, read_head, until};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::{HOST, World, revocable};

const GONE: &str = "the caller went away before there was an answer";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// The maximum time from writing a change to its effect on a caller: the interval between two
/// checks of the files, and one second that the gateway may take to apply the change.
const PROMISED: Duration = Duration::from_millis(2500);

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// Sends octets, ends the client's side, and reads to the end.
async fn ask_and_end(client: &Client, octets: &str) -> RawAnswer {
    let mut connection = client.connect().await.unwrap();
    connection.write(octets.as_bytes()).await.unwrap();
    connection.half_close().await.unwrap();
    connection.read_until(|_| false).await
}

/// The statuses of all responses that are not interim responses. On a slow machine there may
/// be an interim response before each of them.
fn final_statuses(answer: &RawAnswer) -> Vec<u16> {
    let statuses = answer.statuses().into_iter();
    statuses.filter(|status| *status != 100).collect()
}

/// A service that responds to each request when the semaphore permits it.
struct Waiting {
    address: SocketAddr,
    permits: Arc<Semaphore>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Waiting {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let permits = Arc::new(Semaphore::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let (awaited, counter) = (Arc::clone(&permits), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (awaited, counter) = (Arc::clone(&awaited), Arc::clone(&counter));
                tokio::spawn(async move {
                    while read_head(&mut stream).await.is_ok() {
                        counter.fetch_add(1, Ordering::SeqCst);
                        awaited.acquire().await.unwrap().forget();
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        Self {
            address,
            permits,
            requests,
            task,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn world_of(service: &Waiting) -> World {
    World::with(|settings, _| settings.everything_to(service.address)).await
}

#[tokio::test]
async fn requests_before_the_end_are_answered() {
    let world = World::open().await;
    let post = |fields: &str, body: &str| {
        format!("POST /post HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{body}")
    };
    let requests = [
        (get("/a"), "\"path\":\"/a\""),
        (get("/slow"), "\r\n0\r\n\r\n"),
        (get("/megabyte"), "xxxx"),
        (post("Content-Length: 5\r\n", "hello"), "\"body\":\"hello\""),
        (
            post(
                "Transfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\nX-Trailer: a\r\n\r\n",
            ),
            "\"body\":\"hello\"",
        ),
        (
            format!("GET /last HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
            "\"path\":\"/last\"",
        ),
        (
            format!("GET /old HTTP/1.0\r\nHost: {HOST}\r\n\r\n"),
            "\"path\":\"/old\"",
        ),
    ];
    for tls in TlsVersion::BOTH {
        for (request, wanted) in &requests {
            let answer = ask_and_end(&world.client().tls(tls), request).await;
            let text = answer.text();
            assert_eq!(final_statuses(&answer), [200], "{tls:?} {request} {text}");
            assert!(text.contains(wanted), "{tls:?} {request} {text}");
            // A whole response ends with close_notify.
            assert_eq!((answer.closed, answer.failure), (true, None), "{request}");
            if request.contains("/megabyte") {
                assert!(answer.octets.len() > 1 << 20);
            }
        }
    }
    for path in ["/a", "/slow", "/megabyte", "/post", "/last", "/old"] {
        let line = world.gateway.audit().request(path).await;
        assert_eq!(
            (&line["status"], &line["complete"]),
            (&200.into(), &true.into())
        );
    }
}

#[tokio::test]
async fn so_are_several_of_them() {
    let world = World::open().await;
    for tls in TlsVersion::BOTH {
        let client = world.client().tls(tls);
        let both = get("/slow") + &get("/b");
        // Of the third only the beginning arrives.
        for requests in [both.clone(), both + "GET /third HTTP/1.1\r\nHos"] {
            let answer = ask_and_end(&client, &requests).await;
            let text = answer.text();
            assert_eq!(final_statuses(&answer), [200, 200], "{tls:?} {text}");
            assert!(text.contains("\"path\":\"/b\""), "{tls:?} {text}");
            assert_eq!((answer.closed, answer.failure), (true, None), "{tls:?}");
        }
        // The last of them is refused.
        let answer = ask_and_end(&client, &(get("/a") + "GET / HTTP/1.1\nHost: x\r\n\r\n")).await;
        assert_eq!(final_statuses(&answer), [200, 400], "{}", answer.text());
    }
}

#[tokio::test]
async fn the_end_of_an_incomplete_request_ends_the_connection() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "connections", "1")
            .everything_to(echo)
    })
    .await;
    for tls in TlsVersion::BOTH {
        let client = world.client().tls(tls);
        for octets in ["", "GET /a HTTP/1.1\r\nHost"] {
            let answer = ask_and_end(&client, octets).await;
            assert_eq!((answer.closed, answer.failure), (true, None), "{octets:?}");
            assert!(answer.octets.is_empty(), "{}", answer.text());
        }
        for body in [
            "Content-Length: 10\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ] {
            let request = format!("POST /part HTTP/1.1\r\nHost: {HOST}\r\n{body}");
            let answer = ask_and_end(&client, &request).await;
            assert!(answer.closed, "{body:?}");
            let statuses = answer.statuses();
            assert!(statuses.iter().all(|status| *status == 400), "{statuses:?}");
        }
        // There is one slot.
        assert_eq!(client.get("/next").await.unwrap().status, 200);
    }
    for seen in world.echo.seen() {
        assert!(
            seen["path"] == "/next" || seen.get("body").is_none(),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn a_caller_that_waits_gets_an_interim_response_and_its_response() {
    let service = Waiting::start().await;
    let world = world_of(&service).await;
    for tls in TlsVersion::BOTH {
        let mut connection = world.client().tls(tls).connect().await.unwrap();
        connection.write(get("/a").as_bytes()).await.unwrap();
        connection.half_close().await.unwrap();
        let interim = connection.read_head().await;
        assert_eq!(interim.text(), CONTINUE, "{tls:?}");
        service.permits.add_permits(1);
        let answer = connection.read_until(|_| false).await;
        assert_eq!(final_statuses(&answer), [200], "{}", answer.text());
        assert_eq!((answer.closed, answer.failure), (true, None), "{tls:?}");
    }
    // HTTP/1.0 has no interim responses.
    let mut connection = world.client().connect().await.unwrap();
    let request = format!("GET /old HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    connection.write(request.as_bytes()).await.unwrap();
    connection.half_close().await.unwrap();
    let nothing = connection
        .read_until_silent(Duration::from_millis(1200))
        .await;
    assert_eq!((nothing.text(), nothing.closed), (String::new(), false));
    service.permits.add_permits(1);
    let answer = connection.read_until(|_| false).await;
    assert_eq!(answer.statuses(), [200], "{}", answer.text());
    assert_eq!((answer.closed, answer.failure), (true, None));
}

#[tokio::test]
async fn a_caller_that_has_gone_is_noticed_before_there_is_a_response() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "connections", "1")
            .everything_to(echo)
    })
    .await;
    for tls in TlsVersion::BOTH {
        for (number, way) in ["close", "reset", "no close_notify"]
            .into_iter()
            .enumerate()
        {
            let path = format!("/{tls:?}/{number}/hang");
            let mut connection = world.client().tls(tls).connect().await.unwrap();
            connection.write(get(&path).as_bytes()).await.unwrap();
            world.echo.arrived(&path).await;
            let mut kept = None;
            match way {
                "close" => {
                    connection.half_close().await.unwrap();
                    drop(connection);
                }
                "reset" => {
                    connection.half_close().await.unwrap();
                    connection.reset().unwrap();
                }
                _ => {
                    connection.end_without_alert().await.unwrap();
                    kept = Some(connection);
                }
            }
            let line = world.gateway.audit().request(&path).await;
            assert_eq!(line["detail"], GONE, "{way}: {line}");
            drop(kept);
        }
    }
}

#[tokio::test]
async fn a_response_that_pauses_does_not_keep_such_a_connection() {
    let world = World::with(|settings, echo| {
        settings
            .set("limits", "body_timeout", "\"300ms\"")
            .set("limits", "connections", "1")
            .everything_to(echo)
    })
    .await;
    for tls in TlsVersion::BOTH {
        let path = format!("/{tls:?}/hang-mid-body");
        let mut connection = world.client().tls(tls).connect().await.unwrap();
        connection.write(get(&path).as_bytes()).await.unwrap();
        let answer = connection.read_head().await;
        assert_eq!(answer.statuses(), [200]);
        connection.half_close().await.unwrap();
        let rest = connection.read_until(|_| false).await;
        assert_eq!(rest.failure, Some(ErrorKind::UnexpectedEof), "{tls:?}");
        let line = world.gateway.audit().request(&path).await;
        assert_eq!(line["complete"], false, "{line}");
    }
    assert_eq!(world.client().get("/next").await.unwrap().status, 200);
}

/// Sends a request, ends the client's side, and waits until the gateway has noticed that.
async fn waiting(client: &Client, path: &str) -> Connection {
    let mut connection = client.connect().await.unwrap();
    connection.write(get(path).as_bytes()).await.unwrap();
    connection.half_close().await.unwrap();
    let interim = connection.read_head().await;
    assert_eq!(interim.text(), CONTINUE);
    connection
}

/// The time is that of the fastest of some requests, because the machine may be busy.
#[tokio::test]
async fn a_caller_that_has_gone_is_noticed_soon() {
    let world = World::open().await;
    let mut fastest = Duration::MAX;
    for number in 0..5 {
        let path = format!("/{number}/hang");
        let mut connection = world.client().connect().await.unwrap();
        connection.write(get(&path).as_bytes()).await.unwrap();
        world.echo.arrived(&path).await;
        connection.half_close().await.unwrap();
        drop(connection);
        let closed = Instant::now();
        let line = world.gateway.audit().request(&path).await;
        assert_eq!(line["detail"], GONE, "{line}");
        fastest = fastest.min(closed.elapsed());
    }
    assert!(fastest < Duration::from_millis(400), "{fastest:?}");
}

#[tokio::test]
async fn so_is_one_that_goes_later() {
    let world = World::open().await;
    let connection = waiting(&world.client(), "/hang").await;
    drop(connection);
    let line = world.gateway.audit().request("/hang").await;
    assert_eq!(line["detail"], GONE, "{line}");
}

#[tokio::test]
async fn revocation_cuts_a_caller_that_waits() {
    for tls in TlsVersion::BOTH {
        let (world, lists) = revocable().await;
        let mut connection = waiting(&world.client().tls(tls), "/hang").await;
        let written = Instant::now();
        lists.revoke(&world.ca, &world.caller);
        let rest = connection.read_until(|_| false).await;
        assert!(rest.closed);
        assert!(written.elapsed() < PROMISED, "{:?}", written.elapsed());
        assert!(final_statuses(&rest).is_empty(), "{}", rest.text());
        let line = world.gateway.audit().request("/hang").await;
        assert_eq!(line["reason"], "certificate-revoked", "{line}");
        assert_eq!(world.echo.requests(), 1);
    }
}

#[tokio::test]
async fn a_caller_that_waits_gets_its_response_while_the_gateway_drains() {
    for tls in TlsVersion::BOTH {
        let service = Waiting::start().await;
        let mut world = world_of(&service).await;
        let mut connection = waiting(&world.client().tls(tls), "/a").await;
        let mut gone = world.client().tls(tls).connect().await.unwrap();
        gone.write(get("/gone").as_bytes()).await.unwrap();
        until("the second request", async || service.requests() == 2).await;
        world.gateway.terminate().await;
        // A caller that goes away now does not delay the end.
        gone.half_close().await.unwrap();
        drop(gone);
        let line = world.gateway.audit().request("/gone").await;
        assert!(line["status"].is_null(), "{line}");
        service.permits.add_permits(2);
        let answer = connection.read_until(|_| false).await;
        assert_eq!(final_statuses(&answer), [200], "{}", answer.text());
        assert_eq!((answer.closed, answer.failure), (true, None), "{tls:?}");
        assert!(world.gateway.ended().await.success());
        assert_eq!(service.requests(), 2);
    }
}
