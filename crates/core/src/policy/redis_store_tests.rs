//! Tests of `redis_store.rs` with a real server. If no server is installed, the tests print a note
//! and pass. If `COUNTERSIGN_REQUIRE_TOOLS=1` is set, they fail instead.

use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::policy::rate_limit::conforms;

struct Server {
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(directory.path().join("redis.sock"))
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            let required = std::env::var("COUNTERSIGN_REQUIRE_TOOLS").is_ok_and(|v| v == "1");
            assert!(!required, "required, but missing: redis-server");
            eprintln!("skipped: redis-server");
            return None;
        };
        Some(Self { child, directory })
    }

    fn store(&self) -> RedisStore {
        let path = self.directory.path().join("redis.sock");
        RedisStore::new(RedisSettings {
            url: format!("redis+unix://{}", path.display()),
            username: None,
            password: None,
            roots: None,
            timeout: Duration::from_secs(2),
            prefix: "countersign:".to_owned(),
        })
        .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ready(store: &RedisStore) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while store.0.ask(&[0; 32], 1, 1, None).await.is_err() {
        assert!(Instant::now() < deadline, "redis-server does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The Lua version and the Rust version of the algorithm must give the same results for the same
/// requests at the same times.
#[test]
fn both_forms_of_the_algorithm_agree() {
    let Some(server) = Server::start() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let store = server.store();
    runtime.block_on(ready(&store));
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    // The intervals are so long that no key expires during the test.
    let strategy = (
        60_000_000_u64..600_000_000,
        1_u64..20,
        proptest::collection::vec(0_u64..900_000_000, 1..40),
    );
    let number = AtomicU64::new(0);
    TestRunner::new(config)
        .run(&strategy, |(interval, burst, pauses)| {
            let mut key = [7; 32];
            let id = number.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            key[..8].copy_from_slice(&id);
            let tolerance = interval * burst;
            let mut now = 1_790_000_000_000_000;
            let mut arrival = 0;
            for pause in pauses {
                let asked = store.0.ask(&key, interval, tolerance, Some(now));
                let (allowed, theirs, said) = runtime.block_on(asked).unwrap();
                let (expected, next) = conforms(arrival, now, interval, tolerance);
                if expected {
                    arrival = next;
                }
                prop_assert_eq!((allowed, said), (expected, now));
                prop_assert_eq!(theirs, arrival.max(now));
                // Half of the pauses between requests are shorter than the interval, so that some
                // requests come too early.
                now += if pause % 2 == 0 {
                    pause
                } else {
                    pause % interval
                };
            }
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn gateways_share_one_allowance() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, other) = (server.store(), server.store());
    ready(&one).await;
    ready(&other).await;
    let limit = RateLimit::new(10, Duration::from_secs(3600), 10).unwrap();
    let key = [1; 32];
    for left in (0..10).rev() {
        let store = if left % 2 == 0 { &one } else { &other };
        let verdict = store.take(&key, &limit).await.unwrap();
        assert!(verdict.allowed);
        assert_eq!(verdict.remaining, left);
    }
    let refused = other.take(&key, &limit).await.unwrap();
    assert!(!refused.allowed);
    assert!(
        (1..=360).contains(&refused.retry_after_seconds()),
        "{refused:?}"
    );
    assert!(one.take(&[2; 32], &limit).await.unwrap().allowed);
}
