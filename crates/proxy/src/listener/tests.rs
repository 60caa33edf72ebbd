//! Tests that a panic in a connection's task ends only this connection.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as Caller;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::connection_slots::SlotLimits;
use crate::snapshot::fixture::snapshot;
use crate::telemetry::eviction_log::EvictionLog;

const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends a byte and returns the byte that comes back. Returns `None` if the connection ends before
/// a byte comes back.
fn exchange(address: SocketAddr, byte: u8) -> Option<u8> {
    let mut caller = Caller::connect(address).unwrap();
    caller.set_read_timeout(Some(TIMEOUT)).unwrap();
    caller.write_all(&[byte]).unwrap();
    let mut response = [0];
    match caller.read(&mut response) {
        Ok(0) => None,
        Ok(_) => Some(response[0]),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{byte:?} was neither answered nor refused: {error}"),
    }
}

/// Serves a connection: panics if it reads `!`, and echoes any other byte.
async fn fragile(
    _: Arc<Worker>,
    mut stream: TcpStream,
    _: SocketAddr,
    _: Arc<str>,
    guard: ConnectionGuard,
) {
    let _guard = guard;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    if byte == *b"!" {
        std::panic::panic_any("a fault");
    }
    stream.write_all(&byte).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_connection_and_gives_its_slot_back() {
    let directory = tempfile::tempdir().unwrap();
    let (_changed, changes) = watch::channel(0);
    let (stop, stopping) = watch::channel(false);
    let (_abort, aborting) = watch::channel(false);
    let shared = Arc::new(Shared {
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot(
            &directory.path().join("keys"),
        ))),
        metrics: Arc::default(),
        buffer_budget: Arc::default(),
        tunnels: Arc::default(),
        caller_connections: Arc::default(),
        max_connections: 1,
        chains: None,
        evictions: EvictionLog::default(),
        handshake_sources: Arc::default(),
        changes,
        stopping: stopping.clone(),
        aborting,
    });
    let audit = AuditWriter::to_file(&directory.path().join("audit.jsonl")).unwrap();
    // There is one worker and one slot. If a panicked connection kept its worker or its slot, the
    // next connection could not be served.
    let workers = Workers::start_with(&shared, &audit, 1, fragile).unwrap();
    let slots = ConnectionSlots::new(SlotLimits {
        total: 1,
        pending: 1,
    });
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let free = Arc::clone(&slots);
    let accepting = tokio::spawn(async move {
        workers.accept(listener, free, stopping).await;
        workers
    });
    let talk = |byte| async move {
        let exchanged = tokio::task::spawn_blocking(move || exchange(address, byte));
        exchanged.await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(talk(b'a').await, Some(b'a'));
        assert_eq!(talk(b'!').await, None);
    }
    assert_eq!(talk(b'z').await, Some(b'z'));
    stop.send(true).unwrap();
    let workers = tokio::time::timeout(TIMEOUT, accepting).await.unwrap();
    let workers = workers.unwrap();
    let load = Arc::clone(&workers.dispatcher.workers[0].load);
    let joined = tokio::task::spawn_blocking(move || workers.join());
    tokio::time::timeout(TIMEOUT, joined)
        .await
        .unwrap()
        .unwrap();
    let emptied = tokio::time::timeout(TIMEOUT, slots.emptied());
    emptied.await.unwrap();
    assert_eq!(load.load(Ordering::Relaxed), 0);
    let metrics = shared.metrics.encode();
    for line in [
        "countersign_panics_total 3",
        "countersign_connections_open 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
}
