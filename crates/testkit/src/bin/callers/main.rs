//! Measures the cost of separate upstream connections for each caller: the memory and descriptors
//! of an idle connection, and the latency of the first request on a new connection. Also measures a
//! gateway with very many callers that seldom send a request.
//!
//! ```text
//! callers --binary target/release/countersign --callers 10000
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program: it stops when its own preparations fail, and tells what it sees"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use countersign_testkit::{
    CallError, Client, Gateway, Protocol, Service, ServiceSpec, Session, Settings, TestCa, until,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The number of callers that are active at the same time in [`Field::idle_connections`].
const ACTIVE: usize = 400;
/// The number of measured requests on new upstream connections. The same number of requests is
/// measured on existing upstream connections.
const PAIRS: usize = 300;
/// The time within which the callers of [`Field::many_callers`] send their requests. Each caller
/// sends one request.
const PERIOD: Duration = Duration::from_secs(60);
/// The number of concurrent handshakes while the callers of [`Field::many_callers`] connect.
const CONNECTING: usize = 32;
const HOST: &str = "orders.example.org";

struct Options {
    binary: String,
    callers: usize,
}

impl Options {
    fn parse() -> Option<Self> {
        let mut options = Self {
            binary: "target/debug/countersign".to_owned(),
            callers: 10_000,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let value = arguments.next()?;
            match &*argument {
                "--binary" => options.binary = value,
                "--callers" => {
                    let callers = value.parse().ok()?;
                    options.callers = (1..=100_000).contains(&callers).then_some(callers)?;
                }
                _ => return None,
            }
        }
        Some(options)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let Some(options) = Options::parse() else {
        eprintln!("usage: callers [--binary PATH] [--callers 1..100000]");
        return ExitCode::from(2);
    };
    let binary = std::fs::canonicalize(&options.binary)
        .unwrap_or_else(|error| panic!("{}: {error}", options.binary));
    let field = Field {
        ca: TestCa::new("example.org"),
        binary: binary.to_str().unwrap().to_owned(),
    };
    eprintln!("{ACTIVE} callers active at once, and the connections that they leave behind");
    let idle = field.idle_connections().await;
    eprintln!("{idle}");
    eprintln!("{PAIRS} requests on new connections to the service, as many on old ones");
    let first = json!({
        "http": field.first_request(false).await,
        "https": field.first_request(true).await,
    });
    eprintln!(
        "{} callers, each with one request in {PERIOD:?}",
        options.callers
    );
    let many = field.many_callers(options.callers).await;
    println!(
        "{}",
        json!({ "idle_connection": idle, "first_request_ms": first, "many_callers": many })
    );
    ExitCode::SUCCESS
}

/// The authority for all certificates, and the path of the gateway binary.
struct Field {
    ca: TestCa,
    binary: String,
}

impl Field {
    async fn gateway(&self, endpoint: String, upstream: &str) -> Gateway {
        let settings = Settings::new(&self.ca)
            .set("limits", "connections", "20000")
            // The timeout is long, so that callers stay connected while they send no requests.
            .set("limits", "header_timeout", "\"10m\"")
            .upstream_at(
                "orders",
                &[endpoint],
                &format!("protocol = \"h2\"\n{upstream}"),
            )
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
        Gateway::start(&self.binary, &settings).await
    }

    fn caller(&self, gateway: &Gateway, number: usize) -> Client {
        let credentials = self.ca.client(&format!("/ns/shop/sa/caller-{number}"));
        gateway
            .client(HOST)
            .with(&credentials)
            .protocol(Protocol::Http2)
    }

    /// Measures the memory and descriptors of an idle upstream connection. Compares a gateway
    /// that has one upstream connection per caller with a gateway that shares upstream
    /// connections.
    async fn idle_connections(&self) -> Value {
        let mut taken = Vec::new();
        for share in ["never", "always"] {
            let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
            let endpoint = format!("http://{}", service.address());
            let upstream = format!("share = \"{share}\"\nidle_timeout = \"1h\"\n");
            let gateway = self.gateway(endpoint, &upstream).await;
            let mut sessions = JoinSet::new();
            for number in 0..ACTIVE {
                let client = self.caller(&gateway, number);
                sessions.spawn(async move { client.session().await.unwrap() });
            }
            let mut asked = JoinSet::new();
            for mut session in sessions.join_all().await {
                asked.spawn(async move { session.get("/wait").await.unwrap().status });
            }
            until("requests in progress", async || {
                service.requests() == ACTIVE
            })
            .await;
            let mut other = self.caller(&gateway, ACTIVE).session().await.unwrap();
            assert_eq!(other.get("/go").await.unwrap().status, 200);
            assert!(asked.join_all().await.iter().all(|status| *status == 200));
            // Waits until the gateway has closed the callers' connections. After that, each
            // upstream connection uses one descriptor, and fewer than 60 other descriptors are
            // open.
            let connections = service.connections();
            until("only connections to the service", async || {
                descriptors(&gateway) < connections + 60
            })
            .await;
            taken.push((connections, descriptors(&gateway), resident_kib(&gateway)));
        }
        let connections = (taken[0].0 - taken[1].0) as f64;
        json!({
            "connections": taken[0].0,
            "connections_if_shared": taken[1].0,
            "descriptors": (taken[0].1 as f64 - taken[1].1 as f64) / connections,
            "kib": (taken[0].2 as f64 - taken[1].2 as f64) / connections,
        })
    }

    /// Returns two median latencies: of requests for which the gateway opens a new upstream
    /// connection, and of requests on an existing upstream connection. Uses TLS to the service if
    /// `tls` is true.
    async fn first_request(&self, tls: bool) -> Value {
        let (scheme, more, spec) = if tls {
            let root = self.ca.root_file();
            let more = format!("roots = [{root:?}]\nserver_name = \"localhost\"\n");
            let server = self.ca.server(&["localhost"]);
            ("https", more, ServiceSpec::tls(Protocol::Http2, &server))
        } else {
            ("http", String::new(), ServiceSpec::plain(Protocol::Http2))
        };
        let service = Service::start(spec).await;
        let endpoint = format!("{scheme}://{}", service.address());
        let kept = self.gateway(endpoint.clone(), &more).await;
        let closed = self
            .gateway(endpoint, &format!("idle_timeout = \"10ms\"\n{more}"))
            .await;
        let mut old = self.caller(&kept, 0).session().await.unwrap();
        let mut new = self.caller(&closed, 0).session().await.unwrap();
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            without.push(timed(&mut old).await);
            let before = service.connections();
            with.push(timed(&mut new).await);
            assert_eq!(service.connections(), before + 1, "a new connection");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        json!({ "old_connection": percentile(&mut without, 50), "new_connection": percentile(&mut with, 50) })
    }

    /// Measures `count` callers that connect and stay connected. After all have connected, each
    /// caller sends one request. These requests are spread evenly over [`PERIOD`].
    async fn many_callers(&self, count: usize) -> Value {
        let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
        let endpoint = format!("http://{}", service.address());
        let gateway = self.gateway(endpoint, "").await;
        let mut connecting = JoinSet::new();
        let mut sessions: Vec<Session> = Vec::new();
        let connected = |outcome: Option<Result<Result<Session, _>, _>>| {
            outcome
                .unwrap()
                .unwrap()
                .unwrap_or_else(|error: CallError| {
                    let lines = gateway
                        .audit()
                        .matching(|line| line["event"] == "connection");
                    panic!("{error}\n{}\n{:?}", gateway.stderr(), lines.last())
                })
        };
        for number in 0..count {
            if connecting.len() == CONNECTING {
                sessions.push(connected(connecting.join_next().await));
            }
            let client = self.caller(&gateway, number);
            connecting.spawn(async move { client.session().await });
        }
        while !connecting.is_empty() {
            sessions.push(connected(connecting.join_next().await));
        }
        let before = resident_kib(&gateway);
        let between = PERIOD / u32::try_from(count).unwrap();
        let begun = Instant::now();
        let mut asked = JoinSet::new();
        for (number, mut session) in sessions.into_iter().enumerate() {
            let at = begun + between * u32::try_from(number).unwrap();
            tokio::time::sleep_until(at.into()).await;
            asked.spawn(async move { (timed(&mut session).await, session) });
        }
        let all = asked.join_all().await;
        let (mut latencies, sessions): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let held = service.connections();
        let after = resident_kib(&gateway);
        drop(sessions);
        json!({
            "callers": count,
            "seconds": begun.elapsed().as_secs(),
            "connections_opened_to_the_service": held,
            "most_connections_to_the_service": service.most_connections(),
            "p50_ms": percentile(&mut latencies, 50),
            "p99_ms": percentile(&mut latencies, 99),
            "kib_before": before,
            "kib_after": after,
        })
    }
}

/// Returns the latency of one successful request.
async fn timed(session: &mut Session) -> Duration {
    let begun = Instant::now();
    let answer = session.get("/a").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    begun.elapsed()
}

/// Returns the percentile `percent` of the latencies, in milliseconds.
fn percentile(latencies: &mut [Duration], percent: usize) -> f64 {
    latencies.sort_unstable();
    let place = (latencies.len() * percent / 100).min(latencies.len() - 1);
    latencies[place].as_micros() as f64 / 1e3
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid()))
        .unwrap()
        .count()
}

fn resident_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}
