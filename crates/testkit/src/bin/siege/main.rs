//! A siege test: for some minutes, several callers attack services while well-behaved callers
//! use the same services.
//!
//! The test requires that no request of a well-behaved caller fails, and that no response to such a
//! caller is cut off. The test begins with a control run, in which the attackers use a second
//! gateway to the same services. After that, the attackers use the same gateway as the well-behaved
//! callers. The callers' 99th percentile latency may then be at most three times as high as in the
//! control run. A denied attacker must be disconnected within a second, and the gateway's memory
//! must stay below a limit.
//!
//! ```text
//! siege --binary target/release/countersign --minutes 10
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

mod arena;
mod figures;
mod strangers;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_testkit::{Attack, Bystander, TestCa};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::arena::{Arena, Services};
use crate::figures::{Figures, peak_kib};
use crate::strangers::Strangers;

/// The number of well-behaved callers.
const CALLERS: usize = 20;
/// The number of attackers with a certificate.
const ATTACKERS: usize = 8;
/// The number of attackers that only open connections (see [`strangers`]).
const STRANGERS: usize = 2;
/// The pause between two requests of a well-behaved caller.
const PAUSE: Duration = Duration::from_millis(100);
/// The maximum ratio of the well-behaved callers' 99th percentile latency to that of the control
/// run.
const MAX_RATIO: f64 = 3.0;
/// The maximum time that an attacker may stay connected after the operator denied it.
const MAX_CUT: Duration = Duration::from_secs(1);

struct Options {
    binary: String,
    length: Duration,
    max_mib: u64,
}

impl Options {
    fn parse() -> Option<Self> {
        let mut options = Self {
            binary: "target/debug/countersign".to_owned(),
            length: Duration::from_secs(60),
            // The peak memory of the gateway. It is enough for the buffered bodies, and for 128 KiB
            // for each request that may be in progress at the services.
            max_mib: 512,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let value = arguments.next()?;
            match &*argument {
                "--binary" => options.binary = value,
                "--minutes" => {
                    let minutes: f64 = value.parse().ok()?;
                    let known = (0.1..=600.0).contains(&minutes).then_some(minutes)?;
                    options.length = Duration::from_secs_f64(known * 60.0);
                }
                "--max-mib" => options.max_mib = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(options)
    }
}

fn main() -> ExitCode {
    let Some(options) = Options::parse() else {
        eprintln!("usage: siege [--binary PATH] [--minutes 0.1..600] [--max-mib MIB]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let held = runtime.block_on(siege(&options));
    runtime.shutdown_background();
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the control run for half of the time, and the siege for the other half.
async fn siege(options: &Options) -> bool {
    let binary = std::fs::canonicalize(&options.binary)
        .unwrap_or_else(|error| panic!("{}: {error}", options.binary));
    let binary = binary.to_str().unwrap();
    let ca = Arc::new(TestCa::new("example.org"));
    let services = Services::start(&ca).await;
    let strangers = Strangers::new(&ca);
    let besieged = Arc::new(Arena::open(&ca, &services, binary).await);
    let other = Arc::new(Arena::open(&ca, &services, binary).await);
    let half = options.length / 2;
    eprintln!("control: the attackers at another gateway, {half:?}");
    let control = phase(&besieged, &other, &strangers, half).await;
    eprintln!("siege: the attackers at the same gateway, {half:?}");
    let (figures, cut) = tokio::join!(
        phase(&besieged, &besieged, &strangers, half),
        deny_in_the_middle(&besieged, binary, half)
    );
    let peak = peak_kib(besieged.gateway.pid());
    let faults = faults(options, &control, &figures, cut, peak);
    println!(
        "{}",
        json!({
            "seconds": options.length.as_secs(),
            "services": services.names(),
            "callers": CALLERS,
            "attackers": ATTACKERS,
            "strangers": STRANGERS,
            "control": control.to_json(),
            "siege": figures.to_json(),
            "denied_after_ms": cut.map(|cut| cut.as_millis()),
            "peak_kib": peak,
            "faults": faults,
        })
    );
    faults.is_empty()
}

/// Returns a description of each requirement that is not met.
fn faults(
    options: &Options,
    control: &Outcome,
    figures: &Outcome,
    cut: Option<Duration>,
    peak: u64,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, figures) in [("control", &control.all), ("siege", &figures.all)] {
        // Reports each description of harm once, because equal lines give no more information.
        let mut harm = figures.harm.clone();
        harm.sort_unstable();
        let total = harm.len();
        harm.dedup();
        harm.truncate(10);
        faults.extend(
            harm.into_iter()
                .map(|what| format!("{name}, {total} times harm: {what}")),
        );
        if figures.latencies.is_empty() {
            faults.push(format!("{name}: no request was served"));
        }
    }
    if control.attacks == 0 || figures.attacks == 0 {
        faults.push("no attack came to its end".to_owned());
    }
    let pairs = [
        ("all requests", &control.all, &figures.all),
        (
            "requests to the quiet service",
            &control.quiet,
            &figures.quiet,
        ),
    ];
    for (what, control, figures) in pairs {
        let (without, with) = (control.percentile(99), figures.percentile(99));
        // A latency below 1 ms in the control run counts as 1 ms, because a ratio to shorter times
        // means little.
        if with > without.max(Duration::from_millis(1)).mul_f64(MAX_RATIO) {
            faults.push(format!(
                "99 % of {what} within {with:?}, {without:?} without attackers at this gateway"
            ));
        }
    }
    match cut {
        Some(cut) if cut <= MAX_CUT => {}
        Some(cut) => faults.push(format!("the denied attacker was cut off after {cut:?}")),
        None => faults.push("the denied attacker was not cut off".to_owned()),
    }
    if peak > options.max_mib * 1024 {
        faults.push(format!("{peak} KiB of memory, of {} MiB", options.max_mib));
    }
    faults
}

/// The results of the well-behaved callers in one phase of the test: the control run or the
/// siege.
struct Outcome {
    /// The number of completed attacks.
    attacks: usize,
    all: Figures,
    /// The results of the callers of the service that is not attacked.
    quiet: Figures,
}

impl Outcome {
    fn to_json(&self) -> Value {
        json!({ "attacks": self.attacks, "all": self.all.to_json(), "quiet": self.quiet.to_json() })
    }
}

/// Runs all well-behaved callers at the gateway `used`, and all attackers at the gateway
/// `attacked`, for the time `length`.
async fn phase(
    used: &Arena,
    attacked: &Arc<Arena>,
    strangers: &Strangers,
    length: Duration,
) -> Outcome {
    let (mut callers, mut quiet) = (Vec::new(), Vec::new());
    for number in 0..CALLERS {
        let target = used.target(number);
        let client = used.client(&format!("caller-{number}"), &target);
        let caller = Bystander::start(&client, &target, PAUSE).await;
        if Arena::is_quiet(&target) {
            quiet.push(caller);
        } else {
            callers.push(caller);
        }
    }
    let made = Arc::new(AtomicUsize::new(0));
    let mut attackers = JoinSet::new();
    for number in 0..ATTACKERS {
        let work: Vec<_> = attacked
            .targets()
            .into_iter()
            .map(|target| (attacked.client(&attacker(number), &target), target))
            .collect();
        let made = Arc::clone(&made);
        attackers.spawn(async move {
            for round in number.. {
                let attack = Attack::ALL[round % Attack::ALL.len()];
                for (client, target) in &work {
                    attack.run(client, target).await;
                    made.fetch_add(1, Ordering::Relaxed);
                    // If the gateway refuses the attacker, `run` returns immediately. The pause
                    // prevents a busy loop.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    for number in 0..STRANGERS {
        let (strangers, attacked) = (strangers.clone(), Arc::clone(attacked));
        attackers.spawn(async move { strangers.attack(&attacked, 2 * number).await });
    }
    tokio::time::sleep(length).await;
    attackers.shutdown().await;
    // The well-behaved callers continue for a second, to see late effects of the last attacks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let experience =
        |callers: &[Bystander]| -> Vec<_> { callers.iter().map(Bystander::experience).collect() };
    let (callers, quiet) = (experience(&callers), experience(&quiet));
    Outcome {
        attacks: made.load(Ordering::Relaxed),
        quiet: Figures::of(quiet.iter().cloned()),
        all: Figures::of(callers.into_iter().chain(quiet)),
    }
}

fn attacker(number: usize) -> String {
    format!("attacker-{number}")
}

/// Denies an attacker after half of the time `length`. Returns how long the attacker's connection
/// stayed open after that. Returns `None` if it was not closed.
async fn deny_in_the_middle(arena: &Arena, binary: &str, length: Duration) -> Option<Duration> {
    tokio::time::sleep(length / 2).await;
    let target = arena.target(0);
    let client = arena.client(&attacker(0), &target);
    let mut connection = client.connect().await.ok()?;
    let request = format!("GET /hello HTTP/1.1\r\nHost: {}\r\n\r\n", target.host);
    connection.write(request.as_bytes()).await.ok()?;
    connection.read_head().await;
    let begun = Instant::now();
    let denied = Command::new(binary)
        .args(["deny", "add", "--identity"])
        .arg(arena.identity(&attacker(0)))
        .arg("--config")
        .arg(arena.gateway.config_file())
        .output();
    let (denied, answer) = tokio::join!(denied, connection.read_until_silent(MAX_CUT * 5));
    let elapsed = begun.elapsed();
    if let Ok(output) = &denied
        && !output.status.success()
    {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    answer.closed.then_some(elapsed)
}
