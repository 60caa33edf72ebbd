//! A gateway, services of several makes behind it, and its callers.

use std::path::Path;
use std::sync::Arc;

use countersign_testkit::{Client, Gateway, Paced, Program, Protocol, Settings, Target, TestCa};
use tokio::process::Command;

/// All of it.
pub(crate) struct Arena {
    pub(crate) gateway: Gateway,
    ca: Arc<TestCa>,
    names: Vec<&'static str>,
    _paced: Vec<Paced>,
    _programs: Vec<Program>,
}

impl Arena {
    /// Starts hyper's services in both protocols, and nginx and Node where they are
    /// installed.
    pub(crate) async fn open(ca: &Arc<TestCa>, binary: &str) -> Self {
        let http1 = Paced::start(Protocol::Http1);
        let http2 = Paced::start(Protocol::Http2);
        let mut services = vec![
            ("hyper", http2.address(), "h2"),
            ("plain", http1.address(), "http1"),
        ];
        let mut programs = Vec::new();
        if let Some(nginx) = Program::nginx(http1.address()).await {
            services.push(("nginx", nginx.address(), "h2"));
            programs.push(nginx);
        }
        let mut node = Command::new("node");
        node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/foreign/paced.mjs"));
        if let Some(node) = Program::script(&mut node, "node").await {
            services.push(("node", node.address(), "h2"));
            programs.push(node);
        }
        let mut settings = Settings::new(ca)
            .set("admin", "socket", "\"admin.sock\"")
            .set("deny_list", "file", "\"deny.json\"");
        for (name, address, protocol) in &services {
            settings = settings
                .upstream_with(name, *address, &format!("protocol = {protocol:?}\n"))
                .route(
                    name,
                    name,
                    &format!(
                        "hosts = [{:?}]\npaths = [\"/**\"]\ncallers = [\"*\"]\n",
                        host(name)
                    ),
                );
        }
        Self {
            gateway: Gateway::start(binary, &settings).await,
            ca: Arc::clone(ca),
            names: services.into_iter().map(|(name, ..)| name).collect(),
            _paced: vec![http1, http2],
            _programs: programs,
        }
    }

    pub(crate) fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// One of the services, by turns.
    pub(crate) fn target(&self, number: usize) -> Target {
        Target::http(&host(self.names[number % self.names.len()]))
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        (0..self.names.len())
            .map(|number| self.target(number))
            .collect()
    }

    /// A caller of this name, for requests to a service.
    pub(crate) fn client(&self, name: &str, target: &Target) -> Client {
        let credentials = self.ca.client(&path(name));
        self.gateway.client(&target.host).with(&credentials)
    }

    /// What the gateway calls the caller of this name.
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
