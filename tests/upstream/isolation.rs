//! One caller makes an HTTP/2 service close its connection. The requests of other callers must
//! not fail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_testkit::gateway::plain;
use countersign_testkit::service::pieces;
use countersign_testkit::{Client, Protocol, TestCa, in_time, until};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::http;
use crate::support::{Front, HOST};

/// An HTTP/2 service. For `/hold` it begins a response, and sends another piece each time the
/// test calls `go_on`. For `/calm` it closes the connection with ENHANCE_YOUR_CALM. To all other
/// requests it responds at once.
struct Service {
    address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// The numbers of all connections so far, and of connections that are open now.
    connections: AtomicUsize,
    open: AtomicUsize,
    held: AtomicUsize,
    more: tokio::sync::Notify,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let state = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    state.open.fetch_add(1, Ordering::SeqCst);
                    let _ = Self::serve(stream, &state).await;
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    async fn serve(stream: TcpStream, seen: &Arc<Seen>) -> Result<(), h2::Error> {
        let mut connection = h2::server::handshake(stream).await?;
        while let Some(asked) = connection.accept().await {
            let (request, mut respond) = asked?;
            match request.uri().path() {
                "/calm" => connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
                "/hold" => {
                    let mut body = respond.send_response(Response::new(()), false)?;
                    let seen = Arc::clone(seen);
                    tokio::spawn(async move {
                        seen.held.fetch_add(1, Ordering::SeqCst);
                        loop {
                            seen.more.notified().await;
                            if body.send_data("piece".into(), false).is_err() {
                                return;
                            }
                        }
                    });
                }
                _ => {
                    respond.send_response(Response::new(()), true)?;
                }
            }
        }
        Ok(())
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// Lets every held response send another piece.
    fn go_on(&self) {
        self.seen.more.notify_waiters();
    }

    async fn holds(&self, count: usize) {
        until("held answers", async || {
            self.seen.held.load(Ordering::SeqCst) >= count
        })
        .await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn world(ca: &TestCa, address: SocketAddr, more: &str) -> Front {
    let more = format!("protocol = \"h2\"\n{more}");
    let settings = countersign_testkit::Settings::new(ca)
        .set("runtime", "workers", "1")
        .upstream_at("orders", &[http(address)], &more)
        .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
    Front::with(ca, &settings).await
}

pub(super) fn caller(world: &Front, ca: &TestCa, name: &str) -> Client {
    let credentials = ca.client(&format!("/ns/shop/sa/{name}"));
    let client = world.gateway.client(HOST).with(&credentials);
    client.protocol(Protocol::Http2)
}

/// Sends a request whose response the service holds.
async fn hold(client: &Client) -> Response<hyper::body::Incoming> {
    let mut sender = client.streams().await.unwrap();
    let (body, empty) = pieces();
    drop(body);
    let request = Request::get(format!("https://{HOST}/hold"));
    let answer = sender.send_request(request.body(empty).unwrap());
    in_time("an answer", answer).await.unwrap()
}

/// Returns whether another piece of a held response arrives.
async fn goes_on(service: &Service, answer: &mut Response<hyper::body::Incoming>) -> bool {
    service.go_on();
    let frame = in_time("a piece", answer.body_mut().frame()).await;
    frame.is_some_and(|frame| frame.is_ok_and(|frame| frame.is_data()))
}

#[tokio::test]
async fn a_service_that_ends_a_connection_ends_requests_of_one_caller() {
    let ca = TestCa::new("example.org");
    let service = Service::start().await;
    let world = world(&ca, service.address, "retries = 0\n").await;
    let (bob, mallory) = (caller(&world, &ca, "bob"), caller(&world, &ca, "mallory"));
    let mut bobs = hold(&bob).await;
    let mut mallorys = hold(&mallory).await;
    service.holds(2).await;
    assert_eq!(service.connections(), 2);
    for _ in 0..5 {
        let answer = mallory.get("/calm").await.unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (502, Some("upstream-protocol"))
        );
        assert_eq!(bob.get("/a").await.unwrap().status, 200);
        assert!(goes_on(&service, &mut bobs).await);
    }
    // Mallory's other request failed with the connection, and the audit log gives the reason.
    let lost = in_time("the end", mallorys.body_mut().frame()).await;
    assert!(lost.is_some_and(|frame| frame.is_err()));
    let line = world
        .gateway
        .audit()
        .line("her answer's end", |line| {
            line["path"] == "/hold" && line["reason"] == "upstream-protocol"
        })
        .await;
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("GOAWAY ENHANCE_YOUR_CALM"), "{detail}");
    let ended = "countersign_upstream_connections_ended_total{upstream=\"orders\",code=\"ENHANCE_YOUR_CALM\"} 5";
    until("the metric", async || {
        let metrics = plain(world.gateway.admin(), "GET", "/metrics", &[]).await;
        metrics.body.lines().any(|line| line == ended)
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ended_cleanly_is_the_next_callers() {
    let ca = TestCa::new("example.org");
    let service = Service::start().await;
    let world = world(&ca, service.address, "").await;
    for number in 0..20 {
        let caller = caller(&world, &ca, &format!("caller-{number}"));
        assert_eq!(caller.get("/a").await.unwrap().status, 200);
    }
    assert_eq!(service.connections(), 1);
    // After a caller abandons a request, only this caller may use the connection.
    let mallory = caller(&world, &ca, "mallory");
    let held = hold(&mallory).await;
    assert_eq!(service.connections(), 1);
    drop(held);
    world
        .gateway
        .audit()
        .line("the end", |line| line["path"] == "/hold")
        .await;
    let bob = caller(&world, &ca, "bob");
    assert_eq!(bob.get("/a").await.unwrap().status, 200);
    assert_eq!(service.connections(), 2);
    assert_eq!(mallory.get("/a").await.unwrap().status, 200);
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_the_limit() {
    let ca = TestCa::new("example.org");
    let service = Service::start().await;
    let world = world(&ca, service.address, "max_connections = 1\n").await;
    let mallory = caller(&world, &ca, "mallory");
    drop(hold(&mallory).await);
    world
        .gateway
        .audit()
        .line("the end", |line| line["path"] == "/hold")
        .await;
    // The connection is closed, and not used for another caller.
    let bob = caller(&world, &ca, "bob");
    assert_eq!(bob.get("/a").await.unwrap().status, 200);
    until("one connection", async || service.open() == 1).await;
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn a_full_endpoint_is_shared_by_callers_that_ended_no_connection() {
    let ca = TestCa::new("example.org");
    let service = Service::start().await;
    let more = "share = \"when-full\"\nmax_connections = 1\nretries = 0\n\
                connect_timeout = \"500ms\"\n";
    let world = world(&ca, service.address, more).await;
    let [bob, carol, mallory] = ["bob", "carol", "mallory"].map(|name| caller(&world, &ca, name));
    let mut bobs = hold(&bob).await;
    service.holds(1).await;
    assert_eq!(mallory.get("/a").await.unwrap().status, 200);
    assert_eq!(service.connections(), 1);
    assert!(goes_on(&service, &mut bobs).await);
    // The gateway cannot know which of the two callers on the connection caused the close.
    assert_eq!(mallory.get("/calm").await.unwrap().status, 502);
    assert!(!goes_on(&service, &mut bobs).await);
    let mut carols = hold(&carol).await;
    let dave = caller(&world, &ca, "dave");
    assert_eq!(dave.get("/a").await.unwrap().status, 200);
    assert_eq!(service.connections(), 2);
    assert!(goes_on(&service, &mut carols).await);
    for other in [bob, mallory] {
        let before = service.connections();
        let answer = other.get("/a").await.unwrap();
        let is_shared = answer.status == 200 && service.connections() == before;
        assert!(!is_shared, "{answer:?}");
    }
}

#[tokio::test]
async fn the_caller_with_most_connections_yields_one() {
    let ca = TestCa::new("example.org");
    for protocol in ["h2", "http1"] {
        let service = Held::start(protocol).await;
        let settings = countersign_testkit::Settings::new(&ca)
            .set("runtime", "workers", "1")
            .upstream_at(
                "orders",
                &[http(service.address)],
                &format!("protocol = \"{protocol}\"\nmax_connections = 4\n"),
            )
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
        let world = Front::with(&ca, &settings).await;
        let mallory = caller(&world, &ca, "mallory");
        // An h2 connection can carry a hundred requests at the same time.
        let at_once = if protocol == "h2" { 100 } else { 1 };
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut sender = mallory.streams().await.unwrap();
            for _ in 0..at_once {
                let (body, empty) = pieces();
                drop(body);
                let request = Request::get(format!("https://{HOST}/hold"));
                sender.ready().await.unwrap();
                let answer = sender.send_request(request.body(empty).unwrap());
                held.push(tokio::spawn(answer));
            }
        }
        until("all connections", async || {
            service.open.load(Ordering::SeqCst) == 4
        })
        .await;
        let bob = caller(&world, &ca, "bob");
        let answer = in_time("an answer for bob", bob.get("/a")).await.unwrap();
        assert_eq!(answer.status, 200, "{protocol}");
        let line = world
            .gateway
            .audit()
            .line("who gave way", |line| {
                line["path"] == "/hold" && line["reason"] == "caller-limit"
            })
            .await;
        assert!(line["caller"].to_string().contains("mallory"), "{line}");
        drop(held);
    }
}

/// A service that never completes a response to `/hold`, over HTTP/1.1 and h2.
struct Held {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Held {
    async fn start(protocol: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    match protocol {
                        "h2" => drop(hold_h2(stream).await),
                        _ => drop(hold_http1(stream).await),
                    }
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            open,
            task,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn hold_h2(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut held = Vec::new();
    while let Some(asked) = connection.accept().await {
        let (request, mut respond) = asked?;
        let ends = request.uri().path() != "/hold";
        held.push(respond.send_response(Response::new(()), ends)?);
    }
    Ok(())
}

async fn hold_http1(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let head = countersign_testkit::read_head(&mut stream).await?;
        let holds = head.windows(5).any(|part| part == b"/hold");
        let length = if holds { 10 } else { 0 };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        if holds {
            stream.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
    }
}
