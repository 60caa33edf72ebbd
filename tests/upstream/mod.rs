//! What lies behind the gateway: TLS and h2 to services, upgrades, balancing.

mod balance;
mod fairness;
mod flow;
mod foreign;
mod health;
mod http2;
mod names;
mod nonsense;
mod resets;
mod retries;
mod tls;
mod trailers;
mod tunnels;
mod unsent;
mod upgrade;

use std::net::SocketAddr;

use countersign_testkit::{Client, Credentials, Gateway, Settings, TestCa, read_head};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_countersign");
/// The host that requests are for.
const HOST: &str = "orders.example.org";

/// A gateway in front of one upstream.
struct World {
    gateway: Gateway,
    caller: Credentials,
}

impl World {
    /// An upstream with these endpoints and keys, and a route that takes
    /// everything.
    async fn open(ca: &TestCa, endpoints: &[String], more: &str) -> Self {
        let settings = Settings::new(ca)
            .upstream_at("orders", endpoints, more)
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
        Self::with(ca, &settings).await
    }

    async fn with(ca: &TestCa, settings: &Settings) -> Self {
        Self {
            gateway: Gateway::start(BINARY, settings).await,
            caller: ca.client("/ns/shop/sa/checkout"),
        }
    }

    fn client(&self) -> Client {
        self.gateway.client(HOST).with(&self.caller)
    }
}

/// A service that answers every request with its name. Dropping it ends it and all its
/// connections, as if its process had been killed.
struct Named {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Named {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, name)
    }

    fn on(listener: TcpListener, name: &'static str) -> Self {
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(say(stream, name));
            }
        });
        Self { address, task }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn say(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    loop {
        read_head(&mut stream).await?;
        let length = name.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn https(address: SocketAddr) -> String {
    format!("https://{address}")
}
