//! Remote operators: the `[admin]` listener with mutual TLS.

use std::io;
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use countersign_testkit::client::get;
use countersign_testkit::{
    Client, Connection, Credentials, Crl, Gateway, Settings, TestCa, TlsVersion, in_time, until,
};
use serde_json::Value;
use tokio::process::Command;

use crate::support::{BINARY, CALLER, HOST, RevocationLists, Run, World};

/// The SPIFFE path of an operator.
pub(super) const OPERATOR: &str = "/ns/ops/alice";
/// The maximum time from writing a file to its effect: the interval between two checks of the
/// file, and one second that the gateway may take to apply it.
const PROMISED: Duration = Duration::from_millis(2500);

/// A gateway whose operators authenticate with certificates.
pub(super) struct Operated {
    world: World,
    lists: RevocationLists,
    pub(super) alice: Credentials,
}

impl Deref for Operated {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Operated {
    pub(super) async fn start() -> Self {
        let ca = TestCa::new("example.org");
        let lists = RevocationLists::of(&ca);
        let alice = ca.client(OPERATOR);
        let trust = format!("revocation = \"hard\"\n{}", lists.setting());
        let world = World::of(ca, |settings, ca, echo| {
            settings
                .trust(ca, &trust)
                .set("admin", "operators", "[\"spiffe://example.org/ns/ops/**\"]")
                .set("admin", "socket", "\"admin.sock\"")
                .set("deny_list", "file", "\"deny.json\"")
                .everything_to(echo)
        })
        .await;
        Self {
            world,
            lists,
            alice,
        }
    }

    pub(super) fn client(&self, who: &Credentials) -> Client {
        Client::new(self.gateway.admin(), HOST).with(who)
    }

    /// Replaces the CRL of the issuing authority.
    fn publish(&self, number: u8, revoked: &[&Credentials]) {
        let list = revoked.iter().fold(Crl::new().number(number), |list, one| {
            list.revoke(one.serial())
        });
        self.lists.publish(&self.ca, list);
    }

    fn written(&self, name: &str, who: &Credentials) -> [String; 2] {
        let cert = self.ca.write(&format!("{name}.pem"), who.chain_pem());
        let key = self.ca.write(&format!("{name}.key"), who.key_pem());
        [cert, key].map(|file| file.display().to_string())
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.gateway.admin().port())
    }

    /// Runs a command with the certificate and key `who`.
    pub(super) async fn as_(&self, who: &Credentials, arguments: &[&str]) -> Run {
        let [cert, key] = self.written("operator", who);
        let prefix = match arguments {
            ["deny", "add", ..] | ["pki", ..] => "--admin-",
            _ => "--",
        };
        let named = |what: &str| format!("{prefix}{what}");
        let mut command = Command::new(BINARY);
        command.arg("--json").args(arguments);
        if !arguments.contains(&"pki") {
            command.args(["--admin", &self.url()]);
        }
        command
            .args([&named("cert"), &cert, &named("key"), &key])
            .args([&named("cacert"), &self.ca.root_file().display().to_string()]);
        Run::of_async(&mut command).await
    }

    /// Returns the audit line of an operator's action or of a refused operator.
    pub(super) async fn line(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let audit = self.gateway.audit();
        audit
            .line(what, |line| line["event"] == "operator" && matches(line))
            .await
    }

    pub(super) async fn refused_line(&self, reason: &str) -> Value {
        self.line(reason, |line| {
            line["decision"] == "refused" && line["reason"] == reason
        })
        .await
    }
}

/// Sends a request and reads until the gateway closes the connection.
async fn whole(connection: &mut Connection, head: &str) -> String {
    let head = format!("{head}\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    connection.write(head.as_bytes()).await.unwrap();
    connection.read_until(|_| false).await.text()
}

#[tokio::test]
async fn an_operator_reads_and_acts_and_each_act_says_who() {
    let world = Operated::start().await;
    let me = world.ca.spiffe(OPERATOR);
    for version in TlsVersion::BOTH {
        let client = world.client(&world.alice).tls(version);
        // This listener has the functions of the plain admin listener and of the socket.
        let mut session = client.session().await.unwrap();
        for path in ["/healthz", "/readyz", "/metrics", "/revocation", "/status"] {
            assert_eq!(session.get(path).await.unwrap().status, 200, "{path}");
        }
        assert_eq!(session.get("/nothing").await.unwrap().status, 404);
    }

    let run = world.as_(&world.alice, &["status"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["readiness"], "ready");

    let run = world.as_(&world.alice, &["reload"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let line = world
        .line("the reload", |line| line["action"] == "POST /reload")
        .await;
    assert_eq!(line["operator"], me.as_str(), "{line}");
    assert_eq!(line["decision"], "allowed", "{line}");
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["serial"], world.alice.serial_hex(), "{line}");
    assert!(line["detail"].as_str().unwrap().contains("generation"));

    let run = world
        .as_(
            &world.alice,
            &[
                "deny",
                "add",
                "--identity",
                "dns:a.example.org",
                "--reason",
                "gone",
            ],
        )
        .await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let id = run.json()["id"].as_str().unwrap().to_owned();
    let line = world
        .line("the denial", |line| line["action"] == "POST /deny")
        .await;
    assert_eq!(line["operator"], me.as_str(), "{line}");
    let detail = line["detail"].as_str().unwrap();
    assert!(
        detail.contains(&id) && detail.contains("dns:a.example.org"),
        "{line}"
    );
    let run = world.as_(&world.alice, &["deny", "list"]).await;
    assert_eq!(run.json()["deny_list"][0]["id"], id.as_str());
    let run = world.as_(&world.alice, &["deny", "remove", &id]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let run = world.as_(&world.alice, &["token", "purge"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    until("the log says who too", async || {
        world.gateway.stderr().contains(&me)
    })
    .await;

    // On the socket, the operator is the local user.
    let socket = world.gateway.directory().join("admin.sock");
    let run = Run::of_async(
        Command::new(BINARY)
            .args(["reload", "--socket"])
            .arg(&socket),
    )
    .await;
    assert!(run.code == 0, "{}", run.stderr);
    world
        .line("the socket's reload", |line| {
            let who = line["operator"].as_str().unwrap_or_default();
            line["action"] == "POST /reload" && who.starts_with("uid ")
        })
        .await;
}

#[tokio::test]
async fn an_operator_drains() {
    let mut world = Operated::start().await;
    let run = world.as_(&world.alice, &["drain"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["draining"], true);
    assert!(world.world.gateway.ended().await.success());
}

#[tokio::test]
async fn an_ordinary_caller_is_refused_and_seen() {
    let world = Operated::start().await;
    for request in [
        "GET /metrics",
        "GET /status",
        "POST /drain",
        "DELETE /deny/a",
    ] {
        for version in TlsVersion::BOTH {
            let client = world.client(&world.caller).tls(version);
            let mut connection = client.connect().await.unwrap();
            let answer = whole(&mut connection, &format!("{request} HTTP/1.1")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            assert!(answer.contains("countersign-reason: caller-not-allowed"));
            assert!(!answer.contains("countersign_"), "no metrics: {answer}");
        }
    }
    let line = world.refused_line("caller-not-allowed").await;
    assert_eq!(line["operator"], world.ca.spiffe(CALLER).as_str(), "{line}");
    let run = world.as_(&world.caller, &["reload"]).await;
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("caller-not-allowed"), "{run:?}");
    // A caller with this identity can still use the gateway. An operator cannot, because no
    // route allows the operator's identity.
    let client = world.gateway.client(HOST);
    assert_eq!(
        client
            .clone()
            .with(&world.caller)
            .get("/a")
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn a_revoked_operator_is_cut_off_and_not_let_in_again() {
    let world = Operated::start().await;
    for (number, version) in (2..).zip(TlsVersion::BOTH) {
        let alice = world.ca.client(OPERATOR);
        let client = world.client(&alice).tls(version);
        let mut session = client.session().await.unwrap();
        assert_eq!(session.get("/status").await.unwrap().status, 200);
        let mut idle = client.connect().await.unwrap();
        let written = Instant::now();
        world.publish(number, &[&alice]);
        assert!(idle.read_until(|_| false).await.closed);
        assert!(written.elapsed() < PROMISED, "{:?}", written.elapsed());
        // The client may not have noticed yet that the connection was closed.
        if let Ok(answer) = session.get("/status").await {
            assert_eq!(answer.reason(), Some("certificate-revoked"), "{answer:?}");
        }
        assert_eq!(client.refusal().await.alert(), Some(44));
        let cut = world
            .line("the cut", |line| {
                line["decision"] == "cut" && line["serial"] == alice.serial_hex()
            })
            .await;
        assert_eq!(cut["reason"], "certificate-revoked", "{cut}");
        world.refused_line("certificate-revoked").await;
        let run = world.as_(&alice, &["status"]).await;
        assert_eq!(run.code, 3, "{run:?}");
    }
    // The other operator can still connect.
    let client = world.client(&world.alice);
    assert_eq!(client.get("/status").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_deny_list_and_a_new_configuration_end_an_operator() {
    let world = Operated::start().await;
    let bob = world.ca.client("/ns/ops/bob");
    let mut session = world.client(&bob).session().await.unwrap();
    assert_eq!(session.get("/status").await.unwrap().status, 200);
    let denied = world.ca.spiffe("/ns/ops/bob");
    let reason = "secret-remark";
    let arguments = ["deny", "add", "--identity", &denied, "--reason", reason];
    let run = world.as_(&world.alice, &arguments).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    until("the end", async || session.is_closed()).await;
    let cut = world
        .line("the cut", |line| line["decision"] == "cut")
        .await;
    assert_eq!(cut["reason"], "identity-denied", "{cut}");
    assert_eq!(world.client(&bob).refusal().await.alert(), Some(46));

    // Alice removes her own identity from the configuration. She must still get the response.
    let file = world.gateway.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("/ns/ops/**", "/ns/ops/carol")).unwrap();
    let run = world.as_(&world.alice, &["reload"]).await;
    // The gateway may have loaded the file before Alice's request. It then refuses the request.
    let is_cut = run.code == 1 && run.stderr.contains("closed");
    assert!(matches!(run.code, 0 | 3) || is_cut, "{run:?}");
    in_time("the configuration", async {
        while world
            .client(&world.alice)
            .get("/status")
            .await
            .map(|answer| answer.status)
            .ok()
            != Some(403)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let carol = world.ca.client("/ns/ops/carol");
    assert_eq!(
        world.client(&carol).get("/status").await.unwrap().status,
        200
    );

    // Without operators, the listener would have to use plain text.
    let text = std::fs::read_to_string(&file).unwrap();
    let line = "operators = [\"spiffe://example.org/ns/ops/carol\"]";
    assert!(text.contains(line), "{text}");
    std::fs::write(&file, text.replace(line, "")).unwrap();
    let run = world.as_(&carol, &["reload"]).await;
    assert_eq!(run.code, 2, "{run:?}");
    assert!(
        run.stderr.contains("whether [admin] has operators"),
        "{run:?}"
    );
}

#[tokio::test]
async fn web_pages_and_foreign_hosts_are_refused() {
    let world = Operated::start().await;
    let client = world.client(&world.alice);
    for (field, status, reason) in [
        ("Origin: https://evil.example", 403, "caller-not-allowed"),
        ("Sec-Fetch-Site: same-origin", 403, "caller-not-allowed"),
        ("Host: evil.example", 421, "host-mismatch"),
    ] {
        let host = match field.starts_with("Host") {
            true => String::new(),
            false => format!("Host: {HOST}\r\n"),
        };
        let mut connection = client.connect().await.unwrap();
        let head = format!("POST /drain HTTP/1.1\r\n{host}{field}\r\nContent-Length: 0\r\n\r\n");
        connection.write(head.as_bytes()).await.unwrap();
        let answer = connection.read_until(|_| false).await;
        assert_eq!(answer.statuses(), [status], "{}", answer.text());
        world.refused_line(reason).await;
    }
    let mut session = client.session().await.unwrap();
    assert_eq!(
        session.get("/status").await.unwrap().status,
        200,
        "not drained"
    );
    // A CORS preflight request is never allowed.
    let mut request = get("/drain");
    *request.method_mut() = http::Method::OPTIONS;
    let answer = session.send(request).await.unwrap();
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn what_was_sent_before_a_revocation_and_completed_after_it_does_nothing() {
    let world = Operated::start().await;
    let alice = world.ca.client(OPERATOR);
    let mut connection = world.client(&alice).connect().await.unwrap();
    let body = r#"{"target":{"identity":"dns:a.example.org"}}"#;
    let head = format!(
        "POST /deny HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write(head.as_bytes()).await.unwrap();
    world.publish(2, &[&alice]);
    world
        .line("the cut", |line| line["decision"] == "cut")
        .await;
    let answer: io::Result<()> = connection.write(body.as_bytes()).await;
    let text = match answer {
        Ok(()) => connection.read_until(|_| false).await.text(),
        Err(_) => String::new(),
    };
    assert!(!text.contains("201"), "{text}");
    let run = world.as_(&world.alice, &["deny", "list"]).await;
    assert_eq!(run.json()["deny_list"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn commands_say_what_is_missing() {
    let url = "https://localhost:1";
    for (arguments, complaint) in [
        (&["status", "--admin", url][..], "--cert"),
        (&["status", "--cert", "a.pem"], "--admin"),
        (
            &["deny", "add", "--cert", "a.pem", "--admin", url],
            "--admin-cert",
        ),
        (
            &[
                "deny",
                "add",
                "--identity",
                "dns:a",
                "--socket",
                "here.sock",
                "--admin-cert",
                "a.pem",
                "--admin-key",
                "a.key",
                "--admin-cacert",
                "r.pem",
            ],
            "--admin https://",
        ),
    ] {
        let run = Run::of_async(Command::new(BINARY).args(arguments)).await;
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(complaint), "{run:?}");
    }
    let ca = TestCa::new("example.org");
    let alice = ca.client(OPERATOR);
    let cert = ca.write("alice.pem", alice.chain_pem());
    let key = ca.write("alice.key", alice.key_pem());
    let run = |url: &'static str, root: &Path| {
        let mut command = Command::new(BINARY);
        command
            .args(["status", "--admin", url, "--cert"])
            .arg(&cert)
            .arg("--key")
            .arg(&key)
            .arg("--cacert")
            .arg(root);
        async move { Run::of_async(&mut command).await }
    };
    let run = run("http://127.0.0.1:1", &ca.root_file()).await;
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("https://HOST:PORT"), "{run:?}");
    // The gateway must authenticate to the operator too.
    let world = Operated::start().await;
    let other = TestCa::new("example.org");
    let [cert, key] = world.written("alice", &world.alice);
    let run = Run::of_async(
        Command::new(BINARY)
            .args([
                "status",
                "--admin",
                &world.url(),
                "--cert",
                &cert,
                "--key",
                &key,
                "--cacert",
            ])
            .arg(other.root_file()),
    )
    .await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("certificate"), "{run:?}");
}

#[tokio::test]
async fn with_operators_the_listener_need_not_be_on_loopback() {
    let ca = TestCa::new("example.org");
    let settings = |operators: Option<&str>| {
        let settings = Settings::new(&ca)
            .set("admin", "address", "\"0.0.0.0:0\"")
            .everything_to("127.0.0.1:9".parse().unwrap());
        match operators {
            Some(operators) => settings.set("admin", "operators", operators),
            None => settings,
        }
    };
    let pattern = "[\"spiffe://example.org/ns/ops/*\"]";
    let gateway = Gateway::start(BINARY, &settings(Some(pattern))).await;
    assert!(gateway.admin().ip().is_unspecified());
    for (operators, complaint) in [
        (None, "operators"),
        (Some("[\"*\"]"), "every caller would be an operator"),
        (Some("[\"api-key:robot\"]"), "known by their certificates"),
        (Some("[]"), "list"),
    ] {
        let failure = Gateway::try_start(BINARY, &settings(operators))
            .await
            .unwrap_err();
        assert_eq!(failure.status.code(), Some(2), "{failure}");
        assert!(
            failure.stderr.contains(complaint),
            "{operators:?}: {failure}"
        );
    }
}
