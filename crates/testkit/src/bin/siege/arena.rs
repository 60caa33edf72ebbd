//! The services of the siege test, and gateways in front of these services.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::{
    Client, Fault, Gateway, Idp, Paced, Program, Protocol, Settings, Switching, Target, TestCa,
};
use serde_json::json;
use tokio::process::Command;

/// The name of the service that is not attacked. The latency of its callers shows how attacks on
/// other services affect the gateway itself.
pub(crate) const QUIET: &str = "quiet";
/// The name of the service whose callers need a token. The gateway asks the issuer about each
/// token.
const TOKENS: &str = "tokens";
/// The name of the service that accepts tunnels.
const TUNNELS: &str = "tunnels";
/// The maximum number of requests in progress at each service. The limit bounds the memory for
/// responses that callers do not read.
const MAX_REQUESTS: usize = 500;
/// The time that the issuer needs to respond about a token.
const ISSUER_DELAY: Duration = Duration::from_millis(20);

/// All services of the test, and the token issuer.
pub(crate) struct Services {
    /// The name, address and protocol of each service.
    all: Vec<(&'static str, SocketAddr, &'static str)>,
    issuer: Idp,
    switching: Switching,
    _paced: [Paced; 4],
    _programs: Vec<Program>,
}

impl Services {
    /// Starts hyper services with HTTP/1.1 and with h2. Also starts nginx, Node and Jetty, if
    /// they are installed.
    pub(crate) async fn start(ca: &TestCa) -> Self {
        let http1 = Paced::start(Protocol::Http1);
        let http2 = Paced::start(Protocol::Http2);
        let quiet = Paced::start(Protocol::Http2);
        let with_tokens = Paced::start(Protocol::Http2);
        let issuer = Idp::start_tls(&ca.server(&["localhost"])).await;
        issuer.introspect_as(
            json!({ "active": true, "iss": issuer.issuer(), "aud": "siege",
            "sub": "caller", "client_id": "caller", "exp": 4_102_444_800_u64 }),
        );
        issuer.fault(Idp::INTROSPECTION, Fault::Slow(ISSUER_DELAY));
        let mut all = vec![
            (QUIET, quiet.address(), "h2"),
            (TOKENS, with_tokens.address(), "h2"),
            ("hyper", http2.address(), "h2"),
            ("plain", http1.address(), "http1"),
        ];
        let mut programs = Vec::new();
        if let Some(nginx) = Program::nginx(http1.address()).await {
            all.push(("nginx", nginx.address(), "h2"));
            programs.push(nginx);
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/foreign");
        let mut node = Command::new("node");
        node.arg(scripts.join("paced.mjs"));
        if let Some(node) = Program::script(&mut node, "node").await {
            all.push(("node", node.address(), "h2"));
            programs.push(node);
        }
        if let Some(jetty) = Program::jetty(&scripts.join("Paced.java")).await {
            all.push(("jetty", jetty.address(), "h2"));
            programs.push(jetty);
        }
        Self {
            all,
            issuer,
            switching: Switching::start().await,
            _paced: [quiet, with_tokens, http1, http2],
            _programs: programs,
        }
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.all.iter().map(|(name, ..)| *name).collect()
    }
}

/// A gateway in front of all services.
pub(crate) struct Arena {
    pub(crate) gateway: Gateway,
    ca: Arc<TestCa>,
    names: Vec<&'static str>,
}

impl Arena {
    pub(crate) async fn open(ca: &Arc<TestCa>, services: &Services, binary: &str) -> Self {
        let mut settings = Settings::new(ca)
            .set("admin", "socket", "\"admin.sock\"")
            // This timeout is shorter than some attacks, so that the gateway ends their requests.
            .set("limits", "body_timeout", "\"4s\"")
            .set("deny_list", "file", "\"deny.json\"");
        let open_to_all = |name: &str, paths: &str| {
            let host = host(name);
            format!("hosts = [{host:?}]\npaths = [{paths:?}]\ncallers = [\"*\"]\n")
        };
        for (name, address, protocol) in &services.all {
            let mut route = open_to_all(name, "/**");
            if *name == TOKENS {
                route += "token = { issuer = \"siege\", introspect = \"always\" }\n";
            }
            let bound = open_to_all(name, "/bound") + "bind_body = \"1MiB\"\n";
            settings = settings
                .upstream_with(name, *address, &upstream(protocol))
                .route(&format!("{name}-bound"), name, &bound)
                .route(name, name, &route);
        }
        let tunnels = open_to_all(TUNNELS, "/**") + "upgrade = [\"websocket\"]\n";
        settings = settings
            .upstream(TUNNELS, services.switching.address())
            .route(TUNNELS, TUNNELS, &tunnels)
            .section(&issuer(ca, &services.issuer));
        Self {
            gateway: Gateway::start(binary, &settings).await,
            ca: Arc::clone(ca),
            names: services.names(),
        }
    }

    /// Returns the service for the well-behaved caller `number`. Consecutive numbers select all
    /// services in turn.
    pub(crate) fn target(&self, number: usize) -> Target {
        target(self.names[number % self.names.len()])
    }

    /// Returns the services that are attacked.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let attacked = self.names.iter().filter(|name| **name != QUIET);
        attacked
            .chain([&TUNNELS])
            .map(|name| target(name))
            .collect()
    }

    /// Returns whether `target` is the service that is not attacked.
    pub(crate) fn is_quiet(target: &Target) -> bool {
        target.host == host(QUIET)
    }

    /// Returns the client of the caller `name`, for requests to the service `target`.
    pub(crate) fn client(&self, name: &str, target: &Target) -> Client {
        let credentials = self.ca.client(&path(name));
        self.gateway.client(&target.host).with(&credentials)
    }

    /// Returns a client without a certificate.
    pub(crate) fn stranger(&self) -> Client {
        self.gateway.client(&host(QUIET))
    }

    /// Returns the SPIFFE ID of the caller `name`.
    pub(crate) fn identity(&self, name: &str) -> String {
        self.ca.spiffe(&path(name))
    }
}

fn target(name: &str) -> Target {
    Target {
        token: (name == TOKENS).then(|| "issued".to_owned()),
        ..Target::http(&host(name))
    }
}

/// Returns the configuration of the token issuer. The gateway asks this issuer about every
/// token.
fn issuer(ca: &TestCa, issuer: &Idp) -> String {
    let secret = ca.write("secret", "a-secret-of-the-gateway\n");
    format!(
        "[[token_issuer]]\nname = \"siege\"\nissuer = \"{}\"\naudience = [\"siege\"]\n\
         format = \"opaque\"\nroots = [{:?}]\ncertificate_binding = \"off\"\nallow_unbound = true\n\
         [token_issuer.introspection]\nclient_id = \"gateway\"\nendpoint = \"{}\"\n\
         authentication = \"basic\"\nsecret_file = {secret:?}\n",
        issuer.issuer(),
        ca.root_file(),
        issuer.url(Idp::INTROSPECTION),
    )
}

/// Returns the settings of an upstream: the protocol, and a limit on the requests in progress.
fn upstream(protocol: &str) -> String {
    format!("protocol = {protocol:?}\nmax_requests = {MAX_REQUESTS}\n")
}

fn host(name: &str) -> String {
    format!("{name}.example.org")
}

fn path(name: &str) -> String {
    format!("/ns/siege/sa/{name}")
}
