//! Rate limits that a real Redis counts. The Redis server stops and starts again.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::skipped::tool;
use countersign_testkit::{Client, Credentials, Echo, Gateway, Settings, TestCa, in_time, until};
use tokio::process::{Child, Command};

use super::refused;
use crate::support::{BINARY, CALLER, HOST};

/// A Redis server on a Unix socket. It can be restarted on the same socket.
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
        if !tool("redis-server", child.is_ok()) {
            return false;
        }
        self.child = child.ok();
        until("redis-server", async || {
            tokio::net::UnixStream::connect(&self.socket).await.is_ok()
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

/// The user and the password of [`SecureServer`].
const USER: &str = "gateway";
const PASSWORD: &str = "a-Secret-0f-the-store";

/// A Redis server that accepts only TLS, and only one user.
struct SecureServer {
    port: u16,
    _child: Child,
}

impl SecureServer {
    /// Starts the server. Returns `None` if Redis is not installed or was built without TLS.
    async fn start(ca: &TestCa) -> Option<Self> {
        let own = ca.server(&["localhost"]);
        let certificate = ca.write("redis.pem", own.chain_pem());
        let key = ca.write("redis.key", own.key_pem());
        let log = ca.directory().join("redis.log");
        for _ in 0..5 {
            // Another process may take the port before Redis does. Then the next port is tried.
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let configuration = ca.write(
                "redis.conf",
                format!(
                    "bind 127.0.0.1\nport 0\nsave \"\"\ntls-port {port}\ntls-auth-clients no\n\
                     tls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n\
                     user default off\nuser {USER} on >{PASSWORD} ~countersign:* +@all\n",
                    certificate.display(),
                    key.display(),
                    ca.root_file().display()
                ),
            );
            let child = Command::new("redis-server")
                .arg(configuration)
                .current_dir(ca.directory())
                .stdout(std::fs::File::create(&log).unwrap())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn();
            if !tool("redis-server", child.is_ok()) {
                return None;
            }
            let mut child = child.unwrap();
            let ended = in_time("redis-server", async {
                loop {
                    if let Some(status) = child.try_wait().unwrap() {
                        return Some(status);
                    }
                    let said = std::fs::read_to_string(&log).unwrap();
                    if said.contains("Ready to accept connections") {
                        return None;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            match ended {
                None => {
                    tool("redis-server with TLS", true);
                    return Some(Self {
                        port,
                        _child: child,
                    });
                }
                Some(status) => {
                    let said = std::fs::read_to_string(&log).unwrap();
                    if said.contains("in use") {
                        continue;
                    }
                    eprintln!("redis-server ended with {status}: {said}");
                    tool("redis-server with TLS", false);
                    return None;
                }
            }
        }
        panic!("no port was free for redis-server")
    }
}

/// The parts that several gateways with the same Redis share.
struct Shared {
    ca: TestCa,
    echo: Echo,
    caller: Credentials,
}

impl Shared {
    async fn new() -> Self {
        let ca = TestCa::new("example.org");
        Self {
            caller: ca.client(CALLER),
            echo: Echo::start().await,
            ca,
        }
    }

    /// Starts a gateway that allows one request per hour and caller. The server counts them.
    async fn gateway(&self, server: &Server, on_failure: &str) -> Gateway {
        let url = format!("url = \"redis+unix://{}\"", server.socket.display());
        self.gateway_with(&url, on_failure).await
    }

    /// Same as [`Shared::gateway`], with other settings of the store.
    async fn gateway_with(&self, store: &str, on_failure: &str) -> Gateway {
        let settings = Settings::new(&self.ca)
            .log("trace")
            .section(&format!(
                "[rate_limits.redis]\n{store}\n\
                 on_store_failure = \"{on_failure}\"\ntimeout = \"1s\""
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
    let world = Shared::new().await;
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
        let world = Shared::new().await;
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
        // Later requests do not wait for the failed store again.
        let started = Instant::now();
        caller.get("/a").await.unwrap();
        assert!(
            started.elapsed() < Duration::from_millis(900),
            "{:?}",
            started.elapsed()
        );
        let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await;
        assert!(ready.body.contains("store-unreachable"), "{ready:?}");
        server.run().await;
        in_time("the store is asked again", async {
            loop {
                let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await;
                if !ready.body.contains("store-unreachable") {
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

#[tokio::test]
async fn a_store_with_tls_and_password_counts_and_the_password_stays_secret() {
    let world = Shared::new().await;
    let Some(server) = SecureServer::start(&world.ca).await else {
        return;
    };
    let stranger = TestCa::new("example.org");
    let write = |name: &str, password: &str| {
        let path = world.ca.directory().join(name);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        file.unwrap().write_all(password.as_bytes()).unwrap();
        path.display().to_string()
    };
    let good = write("redis.password", &format!("{PASSWORD}\n"));
    let bad = write("bad.password", "another-secret-of-nobody\n");
    let store = |roots: &TestCa, password: &str| {
        format!(
            "url = \"rediss://localhost:{}/0\"\nroots = \"{}\"\nusername = \"{USER}\"\n\
             password_file = \"{password}\"",
            server.port,
            roots.root_file().display()
        )
    };
    let one = world.gateway_with(&store(&world.ca, &good), "deny").await;
    let two = world.gateway_with(&store(&world.ca, &good), "deny").await;
    assert_eq!(world.client(&one).get("/a").await.unwrap().status, 200);
    let answer = world.client(&two).get("/a").await.unwrap();
    refused(&answer, 429, "rate-limited");

    // The gateway does not use a server that cannot prove its identity, and the server refuses a
    // wrong password. Passwords must not appear in any output.
    let forged = world.gateway_with(&store(&stranger, &good), "deny").await;
    let unknown = world.gateway_with(&store(&world.ca, &bad), "deny").await;
    for gateway in [&forged, &unknown] {
        let answer = world.client(gateway).get("/a").await.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    for gateway in [&one, &two, &forged, &unknown] {
        let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await;
        let said = format!(
            "{}{}{}",
            gateway.stderr(),
            gateway.audit().text(),
            ready.body
        );
        assert!(said.contains("listening"), "{said}");
        for secret in [PASSWORD, "another-secret-of-nobody"] {
            assert!(!said.contains(secret), "{said}");
        }
    }
}
