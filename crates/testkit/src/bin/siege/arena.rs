//! Services with several implementations, and gateways in front of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use countersign_testkit::{Client, Gateway, Paced, Program, Protocol, Settings, Target, TestCa};
use tokio::process::Command;

/// The service that is not attacked. The latency of its callers shows the effect on
/// the gateway.
pub(crate) const QUIET: &str = "quiet";

/// Services with several implementations.
pub(crate) struct Services {
    /// Name, address and protocol of each.
    all: Vec<(&'static str, SocketAddr, &'static str)>,
    _paced: [Paced; 3],
    _programs: Vec<Program>,
}

impl Services {
    /// Starts hyper services in both protocols, and nginx and Node if they are
    /// installed.
    pub(crate) async fn start() -> Self {
        let http1 = Paced::start(Protocol::Http1);
        let http2 = Paced::start(Protocol::Http2);
        let quiet = Paced::start(Protocol::Http2);
        let mut all = vec![
            (QUIET, quiet.address(), "h2"),
            ("hyper", http2.address(), "h2"),
            ("plain", http1.address(), "http1"),
        ];
        let mut programs = Vec::new();
        if let Some(nginx) = Program::nginx(http1.address()).await {
            all.push(("nginx", nginx.address(), "h2"));
            programs.push(nginx);
        }
        let mut node = Command::new("node");
        node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/foreign/paced.mjs"));
        if let Some(node) = Program::script(&mut node, "node").await {
            all.push(("node", node.address(), "h2"));
            programs.push(node);
        }
        Self {
            all,
            _paced: [quiet, http1, http2],
            _programs: programs,
        }
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.all.iter().map(|(name, ..)| *name).collect()
    }
}

/// A gateway in front of the services, and its callers.
pub(crate) struct Arena {
    pub(crate) gateway: Gateway,
    ca: Arc<TestCa>,
    names: Vec<&'static str>,
}

impl Arena {
    pub(crate) async fn open(ca: &Arc<TestCa>, services: &Services, binary: &str) -> Self {
        let mut settings = Settings::new(ca)
            .set("admin", "socket", "\"admin.sock\"")
            .set("deny_list", "file", "\"deny.json\"");
        for (name, address, protocol) in &services.all {
            let route = format!(
                "hosts = [{:?}]\npaths = [\"/**\"]\ncallers = [\"*\"]\n",
                host(name)
            );
            settings = settings
                .upstream_with(name, *address, &format!("protocol = {protocol:?}\n"))
                .route(name, name, &route);
        }
        Self {
            gateway: Gateway::start(binary, &settings).await,
            ca: Arc::clone(ca),
            names: services.names(),
        }
    }

    /// Returns one of the services in turn.
    pub(crate) fn target(&self, number: usize) -> Target {
        Target::http(&host(self.names[number % self.names.len()]))
    }

    /// Returns the services that are attacked.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let attacked = self.names.iter().filter(|name| **name != QUIET);
        attacked.map(|name| Target::http(&host(name))).collect()
    }

    /// Whether a service is not attacked.
    pub(crate) fn is_quiet(target: &Target) -> bool {
        target.host == host(QUIET)
    }

    /// Returns a caller with this name, for requests to a service.
    pub(crate) fn client(&self, name: &str, target: &Target) -> Client {
        let credentials = self.ca.client(&path(name));
        self.gateway.client(&target.host).with(&credentials)
    }

    /// Returns the identity of the caller with this name.
    pub(crate) fn identity(&self, name: &str) -> String {
        self.ca.spiffe(&path(name))
    }
}

fn host(name: &str) -> String {
    format!("{name}.example.org")
}

fn path(name: &str) -> String {
    format!("/ns/siege/sa/{name}")
}
