//! What lies behind the gateway: TLS and h2 to services, upgrades, balancing.

mod balance;
mod flow;
mod foreign;
mod health;
mod http2;
mod retries;
mod tls;
mod tunnels;
mod upgrade;

use countersign_testkit::{Client, Credentials, Gateway, Settings, TestCa};

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

fn http(address: std::net::SocketAddr) -> String {
    format!("http://{address}")
}

fn https(address: std::net::SocketAddr) -> String {
    format!("https://{address}")
}
