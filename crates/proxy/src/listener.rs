//! Accepts connections and dispatches them to workers.
//!
//! Each worker is a thread with its own runtime and its own upstream pool. All workers accept from
//! one listening socket. The worker that accepts a connection usually serves it, so that no other
//! thread must be woken. A connection goes to another worker only if the other worker has less
//! load.
//!
//! A connection is accepted if there is a free slot, or if a connection with an incomplete
//! handshake can be evicted. Otherwise new connections wait in the kernel's accept queue.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64ct::{Base64UrlUnpadded, Encoding as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::connection::guard::ConnectionGuard;
use super::connection::worker::{Shared, Worker};
use super::handshake;
use crate::connection_slots::{ConnectionSlot, ConnectionSlots, Yielded};
use crate::crypto;
use crate::snapshot::Snapshot;
use crate::telemetry::audit::AuditWriter;
use crate::telemetry::metrics::Metrics;

/// Pause after the first error of `accept`. Each further error doubles the pause.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
/// Maximum pause after an error of `accept`.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Length of the kernel's accept queue.
const BACKLOG: i32 = 1024;
/// If each worker has at least this number of connections, the load counts as balanced even if one
/// worker has one connection more than another.
const BALANCED_FROM: usize = 4;
/// Maximum time between two sweeps of the upstream pool.
const MAX_SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum time between two sweeps of the upstream pool.
const MIN_SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// A message to a worker.
enum WorkerMessage {
    /// Start accepting connections.
    Accept(Acceptor),
    /// Serve this connection.
    Serve(AcceptedConnection),
}

/// An accepted connection that is passed to a worker.
struct AcceptedConnection {
    stream: Socket,
    peer: SocketAddr,
    connection_id: Arc<str>,
    guard: ConnectionGuard,
}

/// An accepted socket. `Unregistered` means that one worker has accepted the socket and another
/// worker will serve it. The serving worker registers the socket with its own runtime.
enum Socket {
    Registered(TcpStream),
    Unregistered(std::net::TcpStream),
}

impl Socket {
    fn register(self) -> io::Result<TcpStream> {
        match self {
            Self::Registered(stream) => Ok(stream),
            Self::Unregistered(stream) => TcpStream::from_std(stream),
        }
    }
}

struct WorkerHandle {
    queue: mpsc::UnboundedSender<WorkerMessage>,
    load: Arc<AtomicUsize>,
}

/// Dispatches accepted connections to workers.
struct Dispatcher {
    workers: Vec<WorkerHandle>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    /// The prefix of all connection identifiers of this process. Each start of the process makes a
    /// new random prefix, so that no identifier is used twice.
    id_prefix: String,
    next_id: AtomicU64,
}

/// Accepts connections on one worker.
struct Acceptor {
    listener: std::net::TcpListener,
    slots: Arc<ConnectionSlots>,
    stopping: watch::Receiver<bool>,
    dispatcher: Arc<Dispatcher>,
    /// Index of the worker in `Dispatcher::workers`.
    worker: usize,
    /// Dropped when this acceptor ends. [`Workers::accept`] waits until all acceptors have dropped
    /// their senders.
    _open: mpsc::Sender<()>,
}

/// The running worker threads.
pub struct Workers {
    dispatcher: Arc<Dispatcher>,
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

/// Binds the listening socket. SO_REUSEPORT is not set, so that a second gateway on the same
/// address fails here.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // With SO_REUSEADDR, a restarted gateway can bind while old connections are in TIME_WAIT. A
    // second listener on the same address is still refused.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit TCP_NODELAY.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Workers {
    /// Starts `count` worker threads.
    ///
    /// # Errors
    /// Returns an error if a thread or its runtime cannot be started.
    pub fn start(shared: &Arc<Shared>, audit: &AuditWriter, count: usize) -> io::Result<Self> {
        Self::start_with(shared, audit, count, handshake::serve)
    }

    /// Like [`Self::start`], but calls `serve` for each connection. Used by tests.
    fn start_with<S, F>(
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
        let id_prefix = crypto::random::<6>()
            .map(|bytes| Base64UrlUnpadded::encode_string(&bytes))
            .map_err(io::Error::other)?;
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let (queue, messages) = mpsc::unbounded_channel();
            let worker = Arc::new(Worker::new(Arc::clone(shared), audit.sink()));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || runtime.block_on(run(worker, messages, serve)))?;
            workers.push(WorkerHandle {
                queue,
                load: Arc::default(),
            });
            threads.push(thread);
        }
        let dispatcher = Arc::new(Dispatcher {
            workers,
            snapshot: Arc::clone(&shared.snapshot),
            metrics: Arc::clone(&shared.metrics),
            id_prefix,
            next_id: AtomicU64::new(1),
        });
        Ok(Self {
            dispatcher,
            threads,
        })
    }

    /// Makes all workers accept connections until `stopping` becomes true. Then closes the
    /// listening socket.
    pub async fn accept(
        &self,
        listener: std::net::TcpListener,
        slots: Arc<ConnectionSlots>,
        stopping: watch::Receiver<bool>,
    ) {
        let (open, mut closed) = mpsc::channel(1);
        for (index, worker) in self.dispatcher.workers.iter().enumerate() {
            // The clones share one listening socket and one accept queue.
            let listener = match listener.try_clone() {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(%error, worker = index, "a worker cannot listen");
                    continue;
                }
            };
            let _ = worker.queue.send(WorkerMessage::Accept(Acceptor {
                listener,
                slots: Arc::clone(&slots),
                stopping: stopping.clone(),
                dispatcher: Arc::clone(&self.dispatcher),
                worker: index,
                _open: open.clone(),
            }));
        }
        drop((listener, open));
        // No message is ever sent. `recv` returns when the last acceptor has dropped its sender.
        let _ = closed.recv().await;
    }

    /// Waits until all worker threads have ended. A worker ends when no acceptor runs any more and
    /// all connections of the worker have closed.
    pub fn join(self) {
        drop(self.dispatcher);
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
            dispatcher,
            worker,
            _open,
        } = self;
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, worker, "a worker cannot listen");
                return;
            }
        };
        let mut backoff = MIN_BACKOFF;
        loop {
            let accepting = async {
                slots.room().await;
                let (stream, peer) = listener.accept().await?;
                let slot = dispatcher.take_slot(&slots, peer).await;
                Ok::<_, io::Error>((stream, peer, slot))
            };
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                accepted = accepting => accepted,
            };
            match accepted {
                Ok((stream, peer, slot)) => {
                    backoff = MIN_BACKOFF;
                    if let Err(error) = dispatcher.dispatch(stream, peer, slot, worker) {
                        tracing::debug!(%error, %peer, "the connection was gone at once");
                    }
                }
                // The process has probably reached its limit of file descriptors. The pause lets
                // connections close.
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }
}

impl Dispatcher {
    /// Takes a slot for a connection. Evicts another connection if there is no free slot.
    async fn take_slot(&self, slots: &Arc<ConnectionSlots>, peer: SocketAddr) -> ConnectionSlot {
        let (from, share) = {
            let snapshot = self.snapshot.load();
            let addresses = &snapshot.limits.address;
            let from = snapshot.origin(peer.ip());
            (from, addresses.handshakes_in_progress)
        };
        let (slot, yielded) = slots.take(from, share).await;
        match yielded {
            None => {}
            Some(Yielded::AddressShare) => self
                .metrics
                .limit_reached("limits.address.handshakes_in_progress"),
            Some(Yielded::Full) => self.metrics.limit_reached("limits.connections"),
        }
        slot
    }

    /// Passes a connection that worker `own` accepted to the worker that should serve it.
    fn dispatch(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: ConnectionSlot,
        own: usize,
    ) -> io::Result<()> {
        let Some((chosen, worker)) = self.choose(own) else {
            return Ok(());
        };
        let stream = match chosen == own {
            true => Socket::Registered(stream),
            false => Socket::Unregistered(stream.into_std()?),
        };
        let guard = ConnectionGuard::new(slot, Arc::clone(&worker.load), Arc::clone(&self.metrics));
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let _ = worker.queue.send(WorkerMessage::Serve(AcceptedConnection {
            stream,
            peer,
            connection_id: format!("{}-{number}", self.id_prefix).into(),
            guard,
        }));
        Ok(())
    }

    /// Chooses the worker with the least load. If all workers have at least `BALANCED_FROM`
    /// connections, worker `own` may have one connection more than the worker with the least load.
    /// Then `own` is still chosen, because another worker would have to be woken first.
    fn choose(&self, own: usize) -> Option<(usize, &WorkerHandle)> {
        let load = |worker: &WorkerHandle| worker.load.load(Ordering::Relaxed);
        let (index, idlest) = self
            .workers
            .iter()
            .enumerate()
            .min_by_key(|(_, worker)| load(worker))?;
        let own_worker = self.workers.get(own)?;
        let least = load(idlest);
        if least >= BALANCED_FROM && load(own_worker) <= least + 1 {
            return Some((own, own_worker));
        }
        Some((index, idlest))
    }
}

async fn run<S, F>(
    worker: Arc<Worker>,
    mut messages: mpsc::UnboundedReceiver<WorkerMessage>,
    serve: S,
) where
    S: Fn(Arc<Worker>, TcpStream, SocketAddr, Arc<str>, ConnectionGuard) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(sweep(Arc::clone(&worker)));
    tokio::spawn(broadcast_trust_changes(Arc::clone(&worker)));
    tokio::spawn(give_handshakes_their_turns(Arc::clone(&worker)));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            message = messages.recv() => {
                let accepted = match message {
                    None => break,
                    Some(WorkerMessage::Accept(acceptor)) => {
                        tokio::spawn(acceptor.run());
                        continue;
                    }
                    Some(WorkerMessage::Serve(accepted)) => accepted,
                };
                let stream = match accepted.stream.register() {
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
    // No acceptor runs any more, so no connection can arrive. Open connections may continue until
    // `drain_timeout` has passed.
    let mut stopping = worker.shared().stopping.clone();
    let _ = stopping.wait_for(|stopping| *stopping).await;
    let timeout = worker.shared().snapshot.load().limits.drain_timeout;
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            worker.record_panic(ended);
        }
    };
    let mut aborting = worker.shared().aborting.clone();
    tokio::select! {
        drained = tokio::time::timeout(timeout, drain) => if drained.is_err() {
            tracing::warn!("connections were cut because they outlasted drain_timeout");
        },
        _ = aborting.wait_for(|aborting| *aborting) => {}
    }
}

/// Regularly closes pooled connections that services have closed. Also closes pooled connections
/// that were idle for `idle_timeout` or slightly longer. Runs until the worker's runtime ends, even
/// if no request arrives.
async fn sweep(worker: Arc<Worker>) {
    loop {
        let snapshot = worker.shared().snapshot.load_full();
        let configured = snapshot.upstreams.iter().map(|upstream| upstream.config());
        let shortest = configured.map(|config| config.idle_timeout).min();
        // `snapshot` is dropped, because this task must not keep a snapshot in memory while it
        // sleeps.
        drop(snapshot);
        tokio::time::sleep(
            shortest
                .unwrap_or(MAX_SWEEP_INTERVAL)
                .clamp(MIN_SWEEP_INTERVAL, MAX_SWEEP_INTERVAL),
        )
        .await;
        worker.pool().sweep();
    }
}

/// Notifies the worker's connections of changes of trust until the worker's runtime ends.
async fn broadcast_trust_changes(worker: Arc<Worker>) {
    worker.broadcast_trust_changes().await;
}

/// Schedules the worker's handshakes until the worker's runtime ends, so that they yield to
/// established connections.
async fn give_handshakes_their_turns(worker: Arc<Worker>) {
    worker.handshake_turns().give().await;
}

#[cfg(test)]
mod tests;
