//! A soak test: runs several kinds of load at the same time for some minutes. The load uses
//! HTTP/1.1, h2 and tunnels. Some callers are slow, disconnect early or must be refused. The
//! services use HTTP/1.1 and h2, with and without TLS. Some services are killed or send wrong
//! responses. The configuration is reloaded, with valid and invalid files.
//!
//! The test requires that every response belongs to its request, and that every refusal has a
//! reason. Every request must leave exactly one audit line, and no connection slot may stay
//! occupied. The second half of the test repeats the first half. During the second half, the
//! gateway's memory may grow only a little.
//!
//! ```text
//! soak --binary target/debug/countersign --seconds 300
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

mod callers;
mod disturbances;
mod faults;
mod ledger;
mod service;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use countersign_testkit::service::acceptor;
use countersign_testkit::{Gateway, Protocol, Settings, TestCa};
use serde_json::json;
use tokio::task::JoinSet;

use crate::callers::{Callers, MISLEADING, MORTAL, STEADY};
use crate::ledger::Ledger;
use crate::service::{Manner, Service};

/// The maximum time that the workers of a phase may need to stop.
const END_TIMEOUT: Duration = Duration::from_secs(40);
/// The maximum ratio of the gateway's memory after the second half to its memory after the first
/// half. The ratio is more than 1, because allocators do not return all memory.
const MAX_GROWTH: f64 = 1.10;

/// The state that all parts of the test share.
pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) callers: Callers,
    pub(crate) gateway: Gateway,
    /// Services that are never disturbed, so that every request to them gets a response.
    pub(crate) _steady: Vec<Service>,
    /// Services that are killed and restarted, one at a time. There are two instances of each
    /// service in [`MORTAL`].
    pub(crate) mortal: Vec<Service>,
    pub(crate) _misleading: Service,
}

/// Returns the behaviour of the service with this name.
fn manner(name: &str, ca: &TestCa) -> Manner {
    if name == MISLEADING {
        return Manner::Misleading;
    }
    let protocol = match name.ends_with("-h2") {
        true => Protocol::Http2,
        false => Protocol::Http1,
    };
    let server = (ca.server(&["service.internal"]), None);
    let tls = name
        .contains("-tls")
        .then(|| acceptor(&server, &[protocol]));
    Manner::Sound(protocol, tls)
}

/// Adds an upstream with this name and the URLs of `services`, and a route to it.
fn with_upstream(settings: Settings, ca: &TestCa, name: &str, services: &[Service]) -> Settings {
    let urls: Vec<String> = services.iter().map(Service::url).collect();
    let mut more = "connect_timeout = \"2s\"\n".to_owned();
    if name.ends_with("-h2") {
        more += "protocol = \"h2\"\n";
    }
    if name.contains("-tls") {
        let roots = ca.root_file();
        more += &format!(
            "roots = [\"{}\"]\nserver_name = \"service.internal\"\n",
            roots.display()
        );
    }
    let callers = "callers = [\"spiffe://example.org/ns/soak/**\"]\nupgrade = [\"soak\"]\n";
    settings.upstream_at(name, &urls, &more).route(
        name,
        name,
        &format!("paths = [\"/{name}/**\"]\n{callers}"),
    )
}

fn main() -> ExitCode {
    let mut binary = "target/debug/countersign".to_owned();
    let mut seconds = 300;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        match (argument.as_str(), value) {
            ("--binary", Some(path)) => binary = path,
            ("--seconds", Some(text))
                if text.parse::<u64>().is_ok_and(|s| (5..=86_400).contains(&s)) =>
            {
                seconds = text.parse().unwrap();
            }
            _ => {
                eprintln!("usage: soak [--binary PATH] [--seconds 5..86400]");
                return ExitCode::from(2);
            }
        }
    }
    let binary = std::fs::canonicalize(&binary).unwrap_or_else(|error| panic!("{binary}: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let sound = runtime.block_on(soak(binary.to_str().unwrap(), Duration::from_secs(seconds)));
    runtime.shutdown_background();
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn soak(binary: &str, length: Duration) -> bool {
    let ca = TestCa::new("example.org");
    let mut settings = Settings::new(&ca).set("assertion", "lifetime", "\"30s\"");
    let mut steady = Vec::new();
    for name in STEADY {
        let service = Service::start(manner(name, &ca)).await;
        settings = with_upstream(settings, &ca, name, std::slice::from_ref(&service));
        steady.push(service);
    }
    let mut mortal = Vec::new();
    for name in MORTAL {
        let two = [
            Service::start(manner(name, &ca)).await,
            Service::start(manner(name, &ca)).await,
        ];
        settings = with_upstream(settings, &ca, name, &two);
        mortal.extend(two);
    }
    let misleading = Service::start(manner(MISLEADING, &ca)).await;
    settings = with_upstream(settings, &ca, MISLEADING, std::slice::from_ref(&misleading));
    let gateway = Gateway::start(binary, &settings).await;
    let callers = Callers::new(&ca, gateway.listener());
    let world = Arc::new(World {
        ledger: Ledger::default(),
        callers,
        gateway,
        _steady: steady,
        mortal,
        _misleading: misleading,
    });
    // A warm-up phase comes first, because memory that is allocated once at the start is not a
    // leak.
    let warm = (length / 6).clamp(Duration::from_secs(2), Duration::from_secs(45));
    phase(&world, "warm-up", warm).await;
    let start = watch::at_rest(&world).await;
    phase(&world, "first half", length / 2).await;
    let middle = watch::at_rest(&world).await;
    phase(&world, "second half", length / 2).await;
    let end = watch::at_rest(&world).await;
    if end as f64 > middle as f64 * MAX_GROWTH {
        world.ledger.fault(format!(
            "memory grew: {start} KiB after the warm-up, {middle} after one half, {end} after the other"
        ));
    }
    for name in STEADY.iter().chain(&MORTAL).chain([&MISLEADING]) {
        if !world.ledger.counts().contains_key(name) {
            world.ledger.fault(format!("{name} has not answered once"));
        }
    }
    watch::audited(&world);
    let metrics = watch::metrics(&world).await;
    let panics = watch::metric(&metrics, "countersign_panics_total");
    let world = Arc::into_inner(world).expect("all workers have ended");
    let faults = finish(world.gateway, &world.ledger, panics).await;
    println!(
        "{}",
        json!({
            "seconds": length.as_secs(),
            "done": world.ledger.counts(),
            "start_kib": start,
            "middle_kib": middle,
            "end_kib": end,
            "faults": faults,
        })
    );
    faults.is_empty()
}

/// Stops the gateway and returns all faults.
async fn finish(mut gateway: Gateway, ledger: &Ledger, panics: u64) -> Vec<String> {
    gateway.terminate().await;
    let status = gateway.ended().await;
    if !status.success() {
        ledger.fault(format!("the gateway ended with {status}"));
    }
    if panics > 0 || gateway.stderr().contains("panicked") {
        ledger.fault(format!("{panics} panics:\n{}", gateway.stderr()));
    }
    ledger.faults()
}

/// Runs all workers (callers and disturbances) for the time `length`, and then waits for their
/// end.
async fn phase(world: &Arc<World>, name: &str, length: Duration) {
    eprintln!("{name}: {} s", length.as_secs());
    world.ledger.stop.store(false, Ordering::Relaxed);
    let mut workers = JoinSet::new();
    callers::start(world, &mut workers);
    faults::start(world, &mut workers);
    disturbances::start(world, &mut workers);
    let until = Instant::now() + length;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(5).min(until - Instant::now())).await;
        watch::report(world).await;
    }
    world.ledger.stop.store(true, Ordering::Relaxed);
    let ending = async {
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended {
                world.ledger.fault(format!("a worker broke off: {error}"));
            }
        }
    };
    if tokio::time::timeout(END_TIMEOUT, ending).await.is_err() {
        world
            .ledger
            .fault("workers hang: requests without an end".to_owned());
        workers.shutdown().await;
    }
}
