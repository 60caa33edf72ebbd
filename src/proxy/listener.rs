//! Accepting connections and placing them on workers.
//!
//! Each worker is a thread with a runtime and an upstream pool of its own. All of
//! them accept from the one listening socket, so that a connection is usually
//! served where it was accepted, without waking another thread; where another
//! worker has less to do it gets the connection. A connection takes its slot before
//! it is accepted, so that what cannot be served waits in the kernel.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::connection::guard::ConnectionGuard;
use super::connection::worker::{Shared, Worker};
use super::handshake;
use crate::crypto;
use crate::telemetry::audit::AuditWriter;
use crate::telemetry::metrics::Metrics;

/// Shortest pause after an error of `accept`.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
/// Longest pause after an error of `accept`.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
const BACKLOG: i32 = 1024;
/// With at least so many connections on each worker, one more is even enough.
const MANY: usize = 4;
/// How often pooled connections are looked at, where none is to be closed earlier.
const SWEEP: Duration = Duration::from_secs(5);
/// … and at most.
const SHORTEST_SWEEP: Duration = Duration::from_millis(100);

/// What a worker is given.
enum WorkerMessage {
    /// A listening socket to accept from.
    Listen(Acceptor),
    /// A connection to serve.
    Connection(AcceptedConnection),
}

/// An accepted connection on its way to a worker.
struct AcceptedConnection {
    stream: Socket,
    peer: SocketAddr,
    connection_id: Arc<str>,
    guard: ConnectionGuard,
}

/// A socket of this worker's runtime, or of none.
enum Socket {
    Here(TcpStream),
    Anywhere(std::net::TcpStream),
}

impl Socket {
    fn here(self) -> io::Result<TcpStream> {
        match self {
            Self::Here(stream) => Ok(stream),
            Self::Anywhere(stream) => TcpStream::from_std(stream),
        }
    }
}

struct WorkerHandle {
    queue: mpsc::UnboundedSender<WorkerMessage>,
    load: Arc<AtomicUsize>,
}

/// All workers, and what connections are named.
struct Dispatcher {
    workers: Vec<WorkerHandle>,
    metrics: Arc<Metrics>,
    prefix: String,
    next_id: AtomicU64,
}

/// Accepts on one worker.
struct Acceptor {
    listener: std::net::TcpListener,
    slots: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
    intake: Arc<Dispatcher>,
    /// Which worker it is.
    here: usize,
    /// Dropped when nothing more is accepted.
    _open: mpsc::Sender<()>,
}

/// The running workers.
pub struct Workers {
    intake: Arc<Dispatcher>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Workers")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

/// Binds the listening socket. A second gateway on the same address fails here.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // Lets a restarted gateway bind while old connections linger in TIME_WAIT;
    // two listeners on one address still exclude each other.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Workers {
    /// Starts `count` worker threads.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be started.
    pub fn start(shared: &Arc<Shared>, audit: &AuditWriter, count: usize) -> io::Result<Self> {
        Self::serving(shared, audit, count, handshake::serve)
    }

    /// As [`Self::start`]; `serve` is what becomes of a connection.
    fn serving<S, F>(
        shared: &Arc<Shared>,
        audit: &AuditWriter,
        count: usize,
        serve: S,
    ) -> io::Result<Self>
    where
        S: Fn(Arc<Worker>, TcpStream, SocketAddr, Arc<str>, ConnectionGuard) -> F
            + Copy
            + Send
            + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let prefix = crypto::random::<6>()
            .map(|bytes| Base64UrlUnpadded::encode_string(&bytes))
            .map_err(io::Error::other)?;
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let (queue, given) = mpsc::unbounded_channel();
            let worker = Arc::new(Worker::new(Arc::clone(shared), audit.sink()));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || runtime.block_on(run(worker, given, serve)))?;
            workers.push(WorkerHandle {
                queue,
                load: Arc::default(),
            });
            threads.push(thread);
        }
        let intake = Arc::new(Dispatcher {
            workers,
            metrics: Arc::clone(&shared.metrics),
            prefix,
            next_id: AtomicU64::new(1),
        });
        Ok(Self { intake, threads })
    }

    /// Has all workers accept until `stopping` becomes true; then nobody listens.
    pub async fn accept(
        &self,
        listener: std::net::TcpListener,
        slots: Arc<Semaphore>,
        stopping: watch::Receiver<bool>,
    ) {
        let (open, mut closed) = mpsc::channel(1);
        for (here, worker) in self.intake.workers.iter().enumerate() {
            // All of them are one socket.
            let listener = match listener.try_clone() {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(%error, worker = here, "a worker cannot listen");
                    continue;
                }
            };
            let _ = worker.queue.send(WorkerMessage::Listen(Acceptor {
                listener,
                slots: Arc::clone(&slots),
                stopping: stopping.clone(),
                intake: Arc::clone(&self.intake),
                here,
                _open: open.clone(),
            }));
        }
        drop((listener, open));
        // Nobody sends anything: it ends with the last acceptor.
        let _ = closed.recv().await;
    }

    /// Waits until all workers have ended: they do when nobody accepts any more and
    /// their connections are gone.
    pub fn join(self) {
        drop(self.intake);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl Acceptor {
    async fn run(self) {
        let Self {
            listener,
            slots,
            mut stopping,
            intake,
            here,
            _open,
        } = self;
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, worker = here, "a worker cannot listen");
                return;
            }
        };
        let mut backoff = MIN_BACKOFF;
        loop {
            let accepting = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                accepted = accepting => accepted,
            };
            match (slot, accepted) {
                (Ok(slot), Ok((stream, peer))) => {
                    backoff = MIN_BACKOFF;
                    if let Err(error) = intake.place(stream, peer, slot, here) {
                        tracing::debug!(%error, %peer, "the connection was gone at once");
                    }
                }
                (Err(_), _) => return,
                // Out of file descriptors, most likely: let some go first.
                (Ok(_), Err(error)) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }
}

impl Dispatcher {
    /// Gives a connection that was accepted by worker `here` to a worker.
    fn place(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: OwnedSemaphorePermit,
        here: usize,
    ) -> io::Result<()> {
        let Some((chosen, worker)) = self.choose(here) else {
            return Ok(());
        };
        let stream = match chosen == here {
            true => Socket::Here(stream),
            false => Socket::Anywhere(stream.into_std()?),
        };
        let guard = ConnectionGuard::new(slot, Arc::clone(&worker.load), Arc::clone(&self.metrics));
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let _ = worker
            .queue
            .send(WorkerMessage::Connection(AcceptedConnection {
                stream,
                peer,
                connection_id: format!("{}-{number}", self.prefix).into(),
                guard,
            }));
        Ok(())
    }

    /// The worker with the least to do. Where all of them have enough, this one is as
    /// good if it has but one more: another would have to be woken.
    fn choose(&self, here: usize) -> Option<(usize, &WorkerHandle)> {
        let load = |worker: &WorkerHandle| worker.load.load(Ordering::Relaxed);
        let (index, idlest) = self
            .workers
            .iter()
            .enumerate()
            .min_by_key(|(_, worker)| load(worker))?;
        let own = self.workers.get(here)?;
        let least = load(idlest);
        if least >= MANY && load(own) <= least + 1 {
            return Some((here, own));
        }
        Some((index, idlest))
    }
}

async fn run<S, F>(worker: Arc<Worker>, mut given: mpsc::UnboundedReceiver<WorkerMessage>, serve: S)
where
    S: Fn(Arc<Worker>, TcpStream, SocketAddr, Arc<str>, ConnectionGuard) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(sweep(Arc::clone(&worker)));
    tokio::spawn(herald(Arc::clone(&worker)));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            given = given.recv() => {
                let accepted = match given {
                    None => break,
                    Some(WorkerMessage::Listen(acceptor)) => {
                        tokio::spawn(acceptor.run());
                        continue;
                    }
                    Some(WorkerMessage::Connection(accepted)) => accepted,
                };
                let stream = match accepted.stream.here() {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be taken over");
                        continue;
                    }
                };
                connections.spawn(serve(
                    Arc::clone(&worker),
                    stream,
                    accepted.peer,
                    accepted.connection_id,
                    accepted.guard,
                ));
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                worker.record_panic(ended);
            }
        }
    }
    // No more connections come: those that are open may end their work.
    let mut stopping = worker.shared().stopping.clone();
    let _ = stopping.wait_for(|stopping| *stopping).await;
    let patience = worker.shared().snapshot.load().limits.drain_timeout;
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            worker.record_panic(ended);
        }
    };
    let mut aborting = worker.shared().aborting.clone();
    tokio::select! {
        drained = tokio::time::timeout(patience, drain) => if drained.is_err() {
            tracing::warn!("connections were cut because they outlasted drain_timeout");
        },
        _ = aborting.wait_for(|aborting| *aborting) => {}
    }
}

/// Lets go of pooled connections that services have closed, and of those that nobody
/// has asked for during `idle_timeout` or a little longer, also while no request comes,
/// for as long as the worker's runtime lasts.
async fn sweep(worker: Arc<Worker>) {
    loop {
        let snapshot = worker.shared().snapshot.load_full();
        let configured = snapshot.upstreams.iter().map(|upstream| upstream.config());
        let shortest = configured.map(|config| config.idle_timeout).min();
        // A snapshot must not be kept while this waits.
        drop(snapshot);
        tokio::time::sleep(shortest.unwrap_or(SWEEP).clamp(SHORTEST_SWEEP, SWEEP)).await;
        worker.pool().sweep();
    }
}

/// Tells the worker's connections of changes, for as long as its runtime lasts.
async fn herald(worker: Arc<Worker>) {
    worker.herald().await;
}

#[cfg(test)]
mod tests;
