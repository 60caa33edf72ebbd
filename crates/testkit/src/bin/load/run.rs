//! The kinds of load, such as `h1`, `h2` and `handshake`.

use std::io::Read as _;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::HandshakeKind;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::measure::{Counted, Watched, report};
use crate::options::Options;
use crate::tls::Dialer;
use crate::wire::{Answer, Exchange, request};
use crate::{HOST, Outcome};

/// The maximum number of failures of one worker.
const MAX_FAILURES: u32 = 20;
/// The maximum number of handshakes of a whole run, because each closed connection blocks a
/// local port for a minute.
const MAX_HANDSHAKES: u64 = 24_000;

/// The values of [`Run::phase`] during and after the measurement. During the warm-up it is 0.
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// The state of one run. All workers share it.
#[derive(Debug, Default)]
struct Run {
    phase: AtomicU8,
    handshakes: AtomicU64,
    answered: AtomicU64,
    octets: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    resumed: AtomicU64,
    complaint: Mutex<Option<String>>,
}

impl Run {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn fail(&self, why: &dyn std::fmt::Display) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut complaint = self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        complaint.get_or_insert_with(|| why.to_string());
    }

    /// Counts a response, and its latency if the measurement is running.
    fn count(&self, answer: Answer, began: Instant, latencies: &mut Vec<u32>) {
        if answer.status != 200 {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        if self.phase() == MEASURING {
            self.answered.fetch_add(1, Ordering::Relaxed);
            self.octets.fetch_add(answer.octets, Ordering::Relaxed);
            latencies.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
    }
}

/// The schedule of the requests on one connection: the time of the next request, and the time
/// between two requests.
#[derive(Debug, Clone, Copy)]
struct Pace {
    next: Instant,
    step: Option<Duration>,
}

impl Pace {
    /// Creates the schedule of the connection `index`. `rate` is the number of requests per second
    /// over all `connections`. If `rate` is 0, each request is sent as soon as the response to the
    /// previous request has arrived.
    fn new(rate: u32, connections: u32, index: u32) -> Self {
        let step = (rate > 0).then(|| Duration::from_secs(1) * connections / rate);
        let offset = step.map_or(Duration::ZERO, |step| step * index / connections);
        Self {
            next: Instant::now() + offset,
            step,
        }
    }

    /// Waits until the next request is due. Returns the time from which the latency of this request
    /// is measured. If the connection was busy at the scheduled time, returns the scheduled time,
    /// so that the latency includes the delay.
    async fn next(&mut self) -> Instant {
        let Some(step) = self.step else {
            return Instant::now();
        };
        let due = self.next;
        self.next += step;
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
            Instant::now()
        } else {
            due
        }
    }
}

/// One connection that sends requests, or one loop that opens connections.
#[derive(Debug, Clone)]
struct Worker {
    run: Arc<Run>,
    dialer: Dialer,
    path: String,
    pace: Pace,
}

impl Worker {
    /// Sends requests over one connection until the run is over. After a failure, opens a new
    /// connection, up to [`MAX_FAILURES`] times.
    async fn keep_alive(mut self) -> Vec<u32> {
        let mut latencies = Vec::new();
        for _ in 0..MAX_FAILURES {
            match self.requests(&mut latencies).await {
                Ok(()) => break,
                Err(error) => self.run.fail(&error),
            }
        }
        latencies
    }

    async fn requests(&mut self, latencies: &mut Vec<u32>) -> Outcome<()> {
        let request = request(&self.path);
        let mut exchange = Exchange::new(self.dialer.connect().await?);
        while self.run.phase() < OVER {
            let began = self.pace.next().await;
            let answer = exchange.send(&request).await?;
            self.run.count(answer, began, latencies);
        }
        Ok(())
    }

    /// Opens a new connection for each request until the run is over.
    async fn handshakes(self) -> Vec<u32> {
        let mut latencies = Vec::new();
        let mut failures = 0;
        while self.run.phase() < OVER && failures < MAX_FAILURES {
            if self.run.handshakes.fetch_add(1, Ordering::Relaxed) >= MAX_HANDSHAKES {
                break;
            }
            if let Err(error) = self.handshake(&mut latencies).await {
                self.run.fail(&error);
                failures += 1;
            }
        }
        latencies
    }

    async fn handshake(&self, latencies: &mut Vec<u32>) -> Outcome<()> {
        let began = Instant::now();
        let stream = self.dialer.connect().await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let mut exchange = Exchange::new(stream);
        let answer = exchange.send(&request(&self.path)).await?;
        if resumed && self.run.phase() == MEASURING {
            self.run.resumed.fetch_add(1, Ordering::Relaxed);
        }
        self.run.count(answer, began, latencies);
        // The error is ignored, because the peer may already have closed the connection.
        let _ = exchange.into_inner().shutdown().await;
        Ok(())
    }

    /// Sends requests over several concurrent streams of one h2 connection.
    async fn multiplexed(self, streams: u32) -> Vec<u32> {
        let connected = async {
            let stream = self.dialer.connect().await?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err("the peer does not speak h2".into());
            }
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Outcome::Ok(sender)
        };
        let sender = match connected.await {
            Ok(sender) => sender,
            Err(error) => {
                self.run.fail(&error);
                return Vec::new();
            }
        };
        let mut tasks = JoinSet::new();
        for _ in 0..streams {
            tasks.spawn(self.clone().stream(sender.clone()));
        }
        tasks.join_all().await.concat()
    }

    async fn stream(self, mut sender: http2::SendRequest<Empty<Bytes>>) -> Vec<u32> {
        let mut latencies = Vec::new();
        while self.run.phase() < OVER {
            let began = Instant::now();
            match ask(&mut sender, &self.path).await {
                Ok(answer) => self.run.count(answer, began, &mut latencies),
                Err(error) => {
                    self.run.fail(&error);
                    break;
                }
            }
        }
        latencies
    }
}

async fn ask(sender: &mut http2::SendRequest<Empty<Bytes>>, path: &str) -> Outcome<Answer> {
    let request = http::Request::get(format!("https://{HOST}{path}"))
        .header("user-agent", "load/1")
        .header("accept", "*/*")
        .header("x-request-id", "2f0c8a1e-55d1-4f7b-9b1a-0e6f3f6d9a42")
        .body(Empty::new())?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut octets = 0;
    while let Some(frame) = body.frame().await {
        octets += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(Answer { status, octets })
}

/// Runs one kind of load and prints the results.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let kind = options.kind()?;
    let connections: u32 = options.value("connections", 32)?;
    let streams: u32 = options.value("streams", 8)?;
    let rate: u32 = options.value("rate", 0)?;
    let warm = Duration::from_millis(options.value("warm", 700)?);
    let window = Duration::from_millis(options.value("milliseconds", 3000)?);
    let watched = Watched::new(options.value("watch", 0)?, options.value("upstream", 0)?);
    let (target, pki) = (options.target()?, options.pki()?);
    let protocol: &[u8] = if kind == "h2" { b"h2" } else { b"http/1.1" };
    let run = Arc::new(Run::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut tasks = JoinSet::new();
    for index in 0..connections {
        let worker = Worker {
            run: Arc::clone(&run),
            // Each worker has its own dialer, because a dialer stores session tickets.
            dialer: Dialer::new(target, &pki, protocol, kind == "resumed")?,
            path: options.value("path", "/".to_owned())?,
            pace: Pace::new(rate, connections, index),
        };
        let _entered = runtime.enter();
        match kind {
            "h1" => tasks.spawn(worker.keep_alive()),
            "h2" => tasks.spawn(worker.multiplexed(streams)),
            "handshake" | "resumed" => tasks.spawn(worker.handshakes()),
            _ => return Err(format!("--kind {kind}: h1, h2, handshake or resumed").into()),
        };
    }
    std::thread::sleep(warm);
    let (before, began) = (watched.usage(), Instant::now());
    run.phase.store(MEASURING, Ordering::Relaxed);
    std::thread::sleep(window);
    run.phase.store(OVER, Ordering::Relaxed);
    let (seconds, after) = (began.elapsed().as_secs_f64(), watched.usage());
    let finish = async { tokio::time::timeout(Duration::from_secs(10), tasks.join_all()).await };
    let nanoseconds = runtime.block_on(finish)?.concat();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let complaint = run.complaint.lock().unwrap_or_else(PoisonError::into_inner);
    let counted = Counted {
        seconds,
        answered: of(&run.answered),
        octets: of(&run.octets),
        failed: of(&run.failed),
        refused: of(&run.refused),
        resumed: of(&run.resumed),
        nanoseconds,
        complaint: complaint.clone(),
    };
    println!("{}", report(counted, before, after));
    Ok(())
}

/// Opens connections and sends one request on each. Prints a line, and keeps the connections open
/// until standard input ends. After that, prints how many connections the peer has not closed.
pub(crate) fn idle(options: &Options) -> Outcome<()> {
    let connections: usize = options.value("connections", 2000)?;
    let dialer = Dialer::new(options.target()?, &options.pki()?, b"http/1.1", false)?;
    let path: String = options.value("path", "/".to_owned())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut held = Vec::with_capacity(connections);
    runtime.block_on(async {
        while held.len() < connections {
            let mut exchange = Exchange::new(dialer.connect().await?);
            let answer = exchange.send(&request(&path)).await?;
            if answer.status != 200 {
                return Err(format!("refused with status {}", answer.status).into());
            }
            held.push(exchange.into_inner());
        }
        Outcome::Ok(())
    })?;
    println!("{}", json!({ "ready": held.len() }));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let open = runtime.block_on(async {
        let mut open = 0;
        for stream in &mut held {
            let mut octet = [0];
            let read = tokio::io::AsyncReadExt::read(stream, &mut octet);
            // If the read does not return within 1 ms, the connection is still open.
            if tokio::time::timeout(Duration::from_millis(1), read)
                .await
                .is_err()
            {
                open += 1;
            }
        }
        open
    });
    println!("{}", json!({ "open": open }));
    Ok(())
}
