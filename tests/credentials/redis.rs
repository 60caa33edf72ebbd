//! Rate limits counted in a real Redis, which stops and comes back.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::{Client, Credentials, Echo, Gateway, Settings, TestCa, in_time};
use tokio::process::{Child, Command};

use super::{BINARY, CALLER, HOST, refused};

/// A server on a socket of its own, where it can come back.
struct Server {
    socket: PathBuf,
    child: Option<Child>,
}

impl Server {
    async fn start(directory: &Path) -> Option<Self> {
        let mut server = Self {
            socket: directory.join("redis.sock"),
            child: None,
        };
        server.run().await.then_some(server)
    }

    async fn run(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&self.socket)
            .current_dir(self.socket.parent().unwrap())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(child) = child else {
            let required = std::env::var("COUNTERSIGN_REQUIRE_TOOLS").is_ok_and(|v| v == "1");
            assert!(!required, "required, but missing: redis-server");
            eprintln!("skipped: redis-server");
            return false;
        };
        self.child = Some(child);
        in_time("redis-server", async {
            while tokio::net::UnixStream::connect(&self.socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        true
    }

    async fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().await.unwrap();
        let _ = std::fs::remove_file(&self.socket);
    }
}

struct World {
    ca: TestCa,
    echo: Echo,
    caller: Credentials,
}

impl World {
    async fn new() -> Self {
        let ca = TestCa::new("example.org");
        Self {
            caller: ca.client(CALLER),
            echo: Echo::start().await,
            ca,
        }
    }

    /// One request an hour and caller, counted in that server.
    async fn gateway(&self, server: &Server, on_failure: &str) -> Gateway {
        let settings = Settings::new(&self.ca)
            .section(&format!(
                "[rate_limits.redis]\nurl = \"redis+unix://{}\"\n\
                 on_store_failure = \"{on_failure}\"\ntimeout = \"1s\"",
                server.socket.display()
            ))
            .upstream("orders", self.echo.address())
            .route(
                "orders",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"*\"]\n\
                 rate_limit = { per = \"caller\", requests = 1, window = \"1h\" }",
            );
        Gateway::start(BINARY, &settings).await
    }

    fn client(&self, gateway: &Gateway) -> Client {
        gateway.client(HOST).with(&self.caller)
    }

    fn other(&self, gateway: &Gateway, path: &str) -> Client {
        gateway.client(HOST).with(&self.ca.client(path))
    }
}

#[tokio::test]
async fn two_gateways_count_one_caller_together() {
    let world = World::new().await;
    let Some(server) = Server::start(world.ca.directory()).await else {
        return;
    };
    let one = world.gateway(&server, "deny").await;
    let two = world.gateway(&server, "deny").await;
    assert_eq!(world.client(&one).get("/a").await.unwrap().status, 200);
    let answer = world.client(&two).get("/a").await.unwrap();
    refused(&answer, 429, "rate-limited");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(
        answer.header("ratelimit-policy"),
        Some("\"caller\";q=1;w=3600")
    );
    let other = world.other(&two, "/other");
    assert_eq!(other.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_store_that_stops_does_what_was_said_and_may_come_back() {
    for (on_failure, first, second) in
        [("local", 200, 429), ("allow", 200, 200), ("deny", 503, 503)]
    {
        let world = World::new().await;
        let Some(mut server) = Server::start(world.ca.directory()).await else {
            return;
        };
        let gateway = world.gateway(&server, on_failure).await;
        assert_eq!(world.client(&gateway).get("/a").await.unwrap().status, 200);
        let answer = world.client(&gateway).get("/a").await.unwrap();
        refused(&answer, 429, "rate-limited");
        server.stop().await;
        let caller = world.other(&gateway, "/ns/during");
        for expected in [first, second] {
            let answer = caller.get("/a").await.unwrap();
            assert_eq!(answer.status, expected, "{on_failure} {answer:?}");
        }
        // Nobody waits for it each time.
        let started = Instant::now();
        caller.get("/a").await.unwrap();
        assert!(
            started.elapsed() < Duration::from_millis(900),
            "{:?}",
            started.elapsed()
        );
        let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await;
        assert!(ready.body.contains("rate-limits"), "{ready:?}");
        server.run().await;
        in_time("the store is asked again", async {
            loop {
                let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await;
                if !ready.body.contains("rate-limits") {
                    return;
                }
                caller.get("/a").await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        let caller = world.other(&gateway, "/ns/after");
        assert_eq!(caller.get("/a").await.unwrap().status, 200, "{on_failure}");
        let answer = caller.get("/a").await.unwrap();
        refused(&answer, 429, "rate-limited");
    }
}
