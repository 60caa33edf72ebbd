//! Connections that end by a fault of ours.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as Caller;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::snapshot::fixture::snapshot;

const PATIENCE: Duration = Duration::from_secs(15);

/// Sends an octet, and gives the one that comes back; none when the connection ends
/// without.
fn exchange(address: SocketAddr, octet: u8) -> Option<u8> {
    let mut caller = Caller::connect(address).unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    caller.write_all(&[octet]).unwrap();
    let mut answer = [0];
    match caller.read(&mut answer) {
        Ok(0) => None,
        Ok(_) => Some(answer[0]),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{octet:?} was neither answered nor refused: {error}"),
    }
}

/// Ends by a panic on `!`, as a fault in whatever serves a connection would; answers
/// anything else.
async fn fragile(
    _: Arc<Worker>,
    mut stream: TcpStream,
    _: SocketAddr,
    _: Arc<str>,
    guard: ConnectionGuard,
) {
    let _guard = guard;
    let mut octet = [0];
    stream.read_exact(&mut octet).await.unwrap();
    if octet == *b"!" {
        std::panic::panic_any("a fault");
    }
    stream.write_all(&octet).await.unwrap();
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
        held: Arc::default(),
        chains: None,
        changes,
        stopping: stopping.clone(),
        aborting,
    });
    let audit = AuditWriter::to_file(&directory.path().join("audit.jsonl")).unwrap();
    // One worker and one slot: whoever keeps either leaves nothing for the others.
    let workers = Workers::serving(&shared, &audit, 1, fragile).unwrap();
    let slots = Arc::new(Semaphore::new(1));
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let free = Arc::clone(&slots);
    let accepting = tokio::spawn(async move {
        workers.accept(listener, free, stopping).await;
        workers
    });
    let talk = |octet| async move {
        let exchanged = tokio::task::spawn_blocking(move || exchange(address, octet));
        exchanged.await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(talk(b'a').await, Some(b'a'));
        assert_eq!(talk(b'!').await, None);
    }
    assert_eq!(talk(b'z').await, Some(b'z'));
    stop.send(true).unwrap();
    let workers = tokio::time::timeout(PATIENCE, accepting).await.unwrap();
    let workers = workers.unwrap();
    let load = Arc::clone(&workers.intake.workers[0].load);
    let joined = tokio::task::spawn_blocking(move || workers.join());
    tokio::time::timeout(PATIENCE, joined)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(slots.available_permits(), 1);
    assert_eq!(load.load(Ordering::Relaxed), 0);
    let metrics = shared.metrics.encode();
    for line in [
        "countersign_panics_total 3",
        "countersign_connections_open 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
}
