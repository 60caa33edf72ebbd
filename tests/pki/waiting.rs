//! Commands that wait: `revoke --wait` waits for gateways, and `crl --every` and `renew --every`
//! wait for the next run.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use countersign_testkit::{Credentials, Echo, Gateway, Protocol, Settings, TestCa};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;

use super::{Authority, certificates, revocation_list};
use crate::support::{BINARY, Run};

/// The maximum time of each operation in these tests.
const LONGEST: Duration = Duration::from_secs(30);

/// Starts a gateway that trusts an authority and has a socket for operators.
pub(super) async fn gateway(authority: &Authority, echo: &Echo, revocation: &str) -> Gateway {
    let domain = format!(
        "name = \"example.org\"\nroots = [{:?}]\n{revocation}",
        authority.path("trust.pem"),
    );
    let settings = Settings::new(&TestCa::new("example.org"))
        .trust_domain(&domain)
        .set("admin", "socket", "\"admin.sock\"")
        .everything_to(echo.address());
    Gateway::start(BINARY, &settings).await
}

fn with_lists(authority: &Authority) -> String {
    format!(
        "crls = [{:?}]\nrevocation = \"hard\"",
        authority.path("crl/*.crl")
    )
}

pub(super) fn issue(authority: &Authority, name: &str) -> Credentials {
    authority
        .run(&["issue", &format!("spiffe://example.org/{name}")])
        .done();
    let prefix = authority.path(&format!("issued/{name}"));
    let key = PrivatePkcs8KeyDer::from_pem_file(prefix.with_extension("key")).unwrap();
    Credentials::from_parts(
        certificates(&prefix.with_extension("pem"))
            .into_iter()
            .map(CertificateDer::from)
            .collect(),
        key.secret_pkcs8_der().to_vec(),
    )
}

/// Runs a command, while the async tasks of the test continue.
async fn run(authority: &Authority, arguments: &[&str]) -> Run {
    let mut command = tokio::process::Command::from(authority.pki(arguments));
    Run::of_async(&mut command).await
}

#[tokio::test]
async fn revoking_waits_until_every_gateway_obeys() {
    let authority = Authority::new();
    let (thief, other) = (issue(&authority, "thief"), issue(&authority, "other"));
    let echo = Echo::start().await;
    let one = gateway(&authority, &echo, &with_lists(&authority)).await;
    let two = gateway(&authority, &echo, &with_lists(&authority)).await;
    let session = |gateway: &Gateway, who: &Credentials, protocol| {
        let client = gateway
            .client("orders.example.org")
            .with(who)
            .protocol(protocol);
        async move {
            let mut session = client.session().await.unwrap();
            assert_eq!(session.get("/a").await.unwrap().status, 200);
            session
        }
    };
    let mut theirs = session(&one, &thief, Protocol::Http1).await;
    let mut more = session(&one, &thief, Protocol::Http2).await;
    let mut others = session(&one, &other, Protocol::Http1).await;

    let socket = one.directory().join("admin.sock");
    let url = format!("http://{}", two.admin());
    let leaf = authority.path("issued/thief.pem");
    let revoke = |more: &'static [&'static str]| {
        let fixed = ["revoke", "--cert", leaf.to_str().unwrap(), "--wait"];
        let places = [socket.to_str().unwrap(), &url];
        [&fixed[..], &places[..], more].concat()
    };
    let said = run(&authority, &revoke(&["--json"])).await.done().json();
    let gateways = said["gateways"].as_array().unwrap();
    assert_eq!(gateways.len(), 2, "{said}");
    let (first, second) = (&gateways[0], &gateways[1]);
    assert_eq!(first["gateway"], socket.to_str().unwrap());
    assert_eq!(first["in_service"], true, "{said}");
    assert_eq!(first["connections_closed"], 2, "{said}");
    assert!(
        first["closed_within_ms"].as_u64().unwrap() < 1_000,
        "{said}"
    );
    assert!(first["in_service_after_ms"].is_u64(), "{said}");
    assert_eq!(second["gateway"], *url);
    assert_eq!(second["connections_closed"], 0, "{said}");
    assert!(second["closed_within_ms"].is_null(), "{said}");

    // When the command says that the connections are closed, they are closed.
    assert!(theirs.get("/a").await.is_err());
    assert!(more.get("/a").await.is_err());
    assert_eq!(others.get("/a").await.unwrap().status, 200);
    let client = one.client("orders.example.org").with(&thief);
    assert_eq!(client.refusal().await.alert(), Some(44));

    // Runs the command again without `--json`, to check the text.
    let said = run(&authority, &revoke(&[])).await.done();
    assert!(said.stdout.contains("obeys after"), "{}", said.stdout);
    assert!(
        said.stdout.contains("no connection to close"),
        "{}",
        said.stdout
    );
}

#[tokio::test]
async fn an_operator_waits_from_afar() {
    let authority = Authority::new();
    let (thief, _) = (issue(&authority, "thief"), issue(&authority, "ops"));
    let echo = Echo::start().await;
    let ours = TestCa::new("example.org");
    let domain = format!(
        "name = \"example.org\"\nroots = [{:?}]\n{}",
        authority.path("trust.pem"),
        with_lists(&authority)
    );
    let settings = Settings::new(&ours)
        .trust_domain(&domain)
        .set("admin", "operators", "[\"spiffe://example.org/ops\"]")
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client("orders.example.org").with(&thief);
    let mut theirs = client.session().await.unwrap();
    assert_eq!(theirs.get("/a").await.unwrap().status, 200);

    let url = format!("https://localhost:{}", gateway.admin().port());
    let file = |name: &str| authority.path(name).display().to_string();
    let roots = ours.root_file().display().to_string();
    let (leaf, cert, key) = (
        file("issued/thief.pem"),
        file("issued/ops.pem"),
        file("issued/ops.key"),
    );
    let arguments = ["revoke", "--json", "--cert", &leaf, "--wait", &url];
    let said = run(
        &authority,
        &[
            &arguments[..],
            &["--admin-cert", &cert, "--admin-key", &key],
            &["--admin-cacert", &roots],
        ]
        .concat(),
    )
    .await
    .done()
    .json();
    let answer = &said["gateways"][0];
    assert_eq!(answer["gateway"], *url, "{said}");
    assert_eq!(answer["in_service"], true, "{said}");
    assert_eq!(answer["connections_closed"], 1, "{said}");
    assert!(theirs.get("/a").await.is_err());
}

#[tokio::test]
async fn a_gateway_that_does_not_obey_is_named_and_the_revocation_stands() {
    let authority = Authority::new();
    issue(&authority, "thief");
    let echo = Echo::start().await;
    let deaf = gateway(&authority, &echo, "revocation = \"off\"").await;
    let socket = deaf.directory().join("admin.sock");
    let absent = deaf.directory().join("absent.sock");
    let leaf = authority.path("issued/thief.pem");
    let said = run(
        &authority,
        &[
            "revoke",
            "--cert",
            leaf.to_str().unwrap(),
            "--wait-for",
            "1s",
            "--wait",
            socket.to_str().unwrap(),
            absent.to_str().unwrap(),
        ],
    )
    .await;
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(
        said.stderr.contains("it does not have list 2 of"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("absent.sock: there is no such socket"),
        "{}",
        said.stderr
    );
    let (_, revoked) = revocation_list(&authority.path("crl/intermediate.crl"));
    assert_eq!(revoked.len(), 1);
    authority
        .run(&[
            "revoke",
            "--cert",
            "x",
            "--wait",
            "https://gateway.example.org",
        ])
        .refused(1, "x");
    let leaf = leaf.to_str().unwrap();
    authority
        .run(&[
            "revoke",
            "--cert",
            leaf,
            "--wait",
            "https://gateway.example.org",
        ])
        .refused(2, "HOST:PORT");
    authority
        .run(&["revoke", "--cert", leaf, "--wait", "https://gateway:9901"])
        .refused(2, "let in by certificate");
    authority
        .run(&["revoke", "--cert", leaf, "--wait-for", "1s"])
        .refused(2, "--wait");
}

/// A command that keeps running. Dropping it kills the process.
struct Running(Child);

impl Running {
    fn start(authority: &Authority, arguments: &[&str]) -> Self {
        let mut command = authority.pki(arguments);
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONGEST;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .count()
}

#[test]
fn lists_are_signed_again_and_again() {
    let authority = Authority::new();
    let log = authority.home.path().join("log");
    // The hook fails the first time, so that the command runs it again.
    let hook = format!(
        "echo $COUNTERSIGN_LISTS >> {0}; test $(wc -l < {0}) -gt 1",
        log.display()
    );
    let _running = Running::start(
        &authority,
        &[
            "crl",
            "--issuer",
            "intermediate",
            "--every",
            "1s",
            "--exec",
            &hook,
        ],
    );
    let list = authority.path("crl/intermediate.crl");
    eventually("three more lists", || revocation_list(&list).0 >= 4);
    eventually("three calls", || lines(&log) >= 3);
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        said.lines().next().unwrap(),
        authority.path("crl").to_str().unwrap()
    );
    assert_eq!(revocation_list(&authority.path("crl/root.crl")).0, 1);
}

#[test]
fn lists_that_would_run_out_in_between_are_bad_usage() {
    let authority = Authority::new();
    authority
        .run(&["crl", "--issuer", "intermediate", "--every", "4d"])
        .refused(2, "half");
    authority
        .run(&["crl", "--every", "2h", "--lifetime", "3h"])
        .refused(2, "half");
    assert_eq!(
        revocation_list(&authority.path("crl/intermediate.crl")).0,
        1
    );
}

#[test]
fn a_renewal_hook_that_failed_is_called_again() {
    let authority = Authority::new();
    authority
        .run(&["issue", "spiffe://example.org/a", "--lifetime", "1h"])
        .done();
    let leaf = authority.path("issued/a.pem");
    let log = authority.home.path().join("log");
    let hook = format!("echo x >> {0}; test $(wc -l < {0}) -gt 2", log.display());
    // The renewal is due at once, and only once.
    let _running = Running::start(
        &authority,
        &[
            "renew",
            leaf.to_str().unwrap(),
            "--every",
            "1s",
            "--if-expiring",
            "62m",
            "--lifetime",
            "2h",
            "--exec",
            &hook,
        ],
    );
    eventually("three calls", || lines(&log) >= 3);
    let listed: Value = authority.run(&["list", "--json"]).done().json();
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn waiting_commands_show_why_files_do_not_take_effect() {
    let authority = Authority::new();
    let thief = issue(&authority, "thief");
    let echo = Echo::start().await;
    let gateway = gateway(&authority, &echo, &with_lists(&authority)).await;
    let client = gateway.client("orders.example.org").with(&thief);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let config = gateway.config_file();
    std::fs::write(&config, "[nonsense").unwrap();
    std::fs::write(authority.path("crl/other.crl"), "no list").unwrap();
    let ready = async || {
        let asked = countersign_testkit::gateway::plain(gateway.admin(), "GET", "/readyz", &[]);
        asked.await.body
    };
    countersign_testkit::in_time("both problems", async {
        loop {
            let said = ready().await;
            if said.contains("configuration-refused") && said.contains("material-unreadable") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let socket = gateway.directory().join("admin.sock");
    let certificate = authority.path("issued/thief.pem");
    let run = run(
        &authority,
        &[
            "revoke",
            "--cert",
            certificate.to_str().unwrap(),
            "--wait",
            socket.to_str().unwrap(),
        ],
    )
    .await;
    let said = run.done().stdout;
    for part in [
        "obeys after",
        "configuration-refused: ",
        "countersign.toml:1",
        "try: countersign check --config",
        "material-unreadable: ",
        "other.crl",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(client.refusal().await.alert(), Some(44));
}
