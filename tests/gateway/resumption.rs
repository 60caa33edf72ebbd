//! Resumed TLS sessions cost less work, but all checks are repeated.

use std::time::Duration;

use countersign_testkit::{
    Answer, Client, Crl, Echo, Gateway, Leaf, Settings, TestCa, TlsVersion, in_time, until,
};

use tokio::io::AsyncWriteExt as _;

use super::expectations::Stage;
use crate::support::{
    BINARY, CALLER, HOST, World, change, decode, generation, revocable, streaming,
};

/// Sends one request over a new connection. Returns whether the session was resumed, and the
/// response.
async fn visit(client: &Client) -> (bool, Answer) {
    let connection = client.connect().await.unwrap();
    let resumed = connection.is_resumed();
    let mut session = connection
        .session(countersign_testkit::Protocol::Http1)
        .await
        .unwrap();
    (resumed, session.get("/a").await.unwrap())
}

async fn is_resumed(client: &Client) -> bool {
    let (resumed, answer) = visit(client).await;
    assert_eq!(answer.status, 200);
    resumed
}

#[tokio::test]
async fn a_ticket_comes_without_a_request_and_with_a_late_answer() {
    let (stage, address) = Stage::open().await;
    let world = World::with(|settings, _| {
        settings.upstream("late", address).route(
            "late",
            "late",
            "paths = [\"/**\"]\ncallers = [\"*\"]\n",
        )
    })
    .await;
    for version in TlsVersion::BOTH {
        let client = world.client().tls(version).resuming();
        let mut connection = client.connect().await.unwrap();
        in_time("a ticket", async {
            while client.tickets() == 0 {
                connection
                    .read_until_silent(Duration::from_millis(10))
                    .await;
            }
        })
        .await;
        assert!(client.connect().await.unwrap().is_resumed());
        // The request arrives with the last handshake message or directly after it.
        let client = world.client().tls(version).resuming();
        let asked = tokio::spawn({
            let client = client.clone();
            async move { client.get("/a").await }
        });
        let (mut service, _) = stage.request().await;
        service
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(asked.await.unwrap().unwrap().status, 204);
        assert!(client.connect().await.unwrap().is_resumed());
    }
}

/// Performs full handshakes. The client gets a new ticket from each.
async fn gather(client: &Client, tickets: usize) {
    client.gather(true);
    for _ in 0..tickets {
        assert!(!is_resumed(client).await);
    }
    client.gather(false);
}

fn authn(answer: &Answer) -> serde_json::Value {
    let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
    claims["authn"].clone()
}

/// Returns the audit line of a refused handshake of this caller.
async fn refused_line(world: &World, reason: &str) -> serde_json::Value {
    let line = world.gateway.audit().handshake(reason).await;
    assert_eq!(line["serial"], world.caller.serial_hex(), "{line}");
    line
}

#[tokio::test]
async fn a_caller_comes_back_by_its_ticket_and_services_are_told() {
    for version in TlsVersion::BOTH {
        let world = World::open().await;
        let client = world.client().tls(version).resuming();
        let (resumed, first) = visit(&client).await;
        assert!(!resumed);
        assert_eq!(authn(&first)["resumed"], false);
        assert_eq!(client.tickets(), 1, "one ticket for each handshake");
        let (resumed, second) = visit(&client).await;
        assert!(resumed, "{version:?}");
        assert_eq!(client.tickets(), 2);
        assert_eq!(authn(&second)["resumed"], true);
        // Only the first handshake proves that the caller has the key.
        assert_eq!(authn(&second)["at"], authn(&first)["at"]);
        let (resumed, third) = visit(&client).await;
        assert!(resumed);
        assert_eq!(authn(&third)["at"], authn(&first)["at"]);
        let lines = world
            .gateway
            .audit()
            .at_least(3, "requests", |line| line["event"] == "request")
            .await;
        assert_eq!(lines[0]["resumed"], serde_json::Value::Null);
        assert_eq!(lines[1]["resumed"], true, "{}", lines[1]);
        assert_eq!(lines[1]["serial"], world.caller.serial_hex());
    }
}

#[tokio::test]
async fn a_revoked_caller_cannot_come_back() {
    for version in TlsVersion::BOTH {
        let (world, lists) = revocable().await;
        let client = world.client().tls(version).resuming();
        let other = world.client_as("/ns/shop/sa/other").tls(version).resuming();
        for client in [&client, &other] {
            gather(client, 3).await;
            assert!(is_resumed(client).await);
        }
        lists.revoke(&world.ca, &world.caller);
        generation(&world.gateway, 2).await;
        // The client has a ticket for each of these attempts.
        for _ in 0..3 {
            assert_eq!(client.refusal().await.alert(), Some(44), "{version:?}");
        }
        refused_line(&world, "certificate-revoked").await;
        assert!(is_resumed(&other).await, "others are not concerned");
    }
}

#[tokio::test]
async fn a_replica_that_knows_nothing_of_a_chain_looks_at_it_before_any_request() {
    let ca = TestCa::new("example.org");
    let caller = ca.client(CALLER);
    let secret = ca.write("tickets.secret", [0x5a; 48]);
    let settings = |echo: &Echo, list: &std::path::Path| {
        let root = ca.write("root.crl", Crl::new().signed_by(ca.root()));
        let crls = format!("crls = [\"{}\", \"{}\"]", root.display(), list.display());
        let secret = format!("\"{}\"", secret.display());
        Settings::new(&ca)
            .trust(&ca, &crls)
            .set("tls.tickets", "secret_file", &secret)
            .everything_to(echo.address())
    };
    let clean = ca.write("clean.crl", Crl::new().signed_by(ca.intermediate()));
    let revoking = Crl::new().revoke(caller.serial());
    let revoking = ca.write("revoking.crl", revoking.signed_by(ca.intermediate()));
    let echo = Echo::start().await;
    let one = Gateway::start(BINARY, &settings(&echo, &clean)).await;
    let two = Gateway::start(BINARY, &settings(&echo, &revoking)).await;
    let client = one.client(HOST).with(&caller).resuming();
    gather(&client, 4).await;

    let elsewhere = client.clone().at(two.listener());
    let mut connection = elsewhere.connect().await.unwrap();
    assert!(connection.is_resumed());
    let request = format!("GET /forbidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let _ = connection.write(request.as_bytes()).await;
    let answer = connection.read_until(|_| false).await;
    assert!(answer.closed && answer.octets.is_empty(), "{answer:?}");
    let line = two.audit().handshake("certificate-revoked").await;
    assert_eq!(line["resumed"], true, "{line}");
    assert_eq!(line["possession_proven"], true, "{line}");
    assert_eq!(line["serial"], caller.serial_hex(), "{line}");
    assert!(line["alert"].is_null(), "{line}");
    // The next attempt is a full handshake and gets the right alert.
    assert_eq!(elsewhere.refusal().await.alert(), Some(44));
    assert!(two.audit().matching(|l| l["event"] == "request").is_empty());
    // At the first gateway the certificate is not revoked, so that the ticket is still valid.
    assert!(is_resumed(&client).await);
}

#[tokio::test]
async fn an_expired_caller_cannot_come_back() {
    for version in TlsVersion::BOTH {
        let world = World::open().await;
        let leaf = Leaf::with_uri(&world.ca.spiffe(CALLER)).valid(-60, 3);
        let caller = world.ca.issue(leaf);
        let client = world.anonymous().with(&caller).tls(version).resuming();
        assert!(!is_resumed(&client).await);
        assert!(is_resumed(&client).await);
        // The gateway closes the connection when the certificate expires.
        assert!(streaming(&client).await.read_until(|_| false).await.closed);
        assert_eq!(client.refusal().await.alert(), Some(45), "{version:?}");
    }
}

#[tokio::test]
async fn a_caller_of_a_removed_root_cannot_come_back() {
    for version in TlsVersion::BOTH {
        let world = World::open().await;
        let client = world.client().tls(version).resuming();
        assert!(!is_resumed(&client).await);
        assert!(is_resumed(&client).await);
        let other = TestCa::new("other.test");
        let (old, new) = (world.ca.root_file(), other.root_file());
        let (old, new) = (old.display().to_string(), new.display().to_string());
        change(&world.gateway, |text| text.replace(&old, &new)).await;
        assert_eq!(client.refusal().await.alert(), Some(48), "{version:?}");
        refused_line(&world, "unknown-issuer").await;
    }
}

#[tokio::test]
async fn a_ticket_is_of_no_use_under_another_name() {
    for version in TlsVersion::BOTH {
        let ca = TestCa::new("example.org");
        let strict = TestCa::new("strict.test");
        let echo = Echo::start().await;
        let directory = tempfile::tempdir().unwrap();
        let other = "payments.example.org";
        let own = "a.strict.test";
        let settings = Settings::new(&ca)
            .trust(&ca, "revocation = \"off\"")
            .trust(&strict, "revocation = \"off\"")
            .set("listener", "trust_domains", "[\"example.org\"]")
            .server_name(
                directory.path(),
                &[other],
                &ca.server(&[other]),
                "trust_domains = [\"example.org\"]",
            )
            .server_name(
                directory.path(),
                &[own],
                &ca.server(&[own]),
                "trust_domains = [\"strict.test\"]",
            )
            .everything_to(echo.address());
        let gateway = Gateway::start(BINARY, &settings).await;
        let caller = ca.client(CALLER);
        let client = gateway.client(HOST).with(&caller).tls(version).resuming();
        assert!(!is_resumed(&client).await);
        assert!(is_resumed(&client).await);
        // Another server name with the same trust needs a full handshake.
        let theirs = client.clone().server_name(Some(other)).host(other);
        assert!(!is_resumed(&theirs).await, "{version:?}");
        assert!(is_resumed(&theirs).await);
        assert!(!is_resumed(&client).await);
        // For a server name with other trust domains, these trust domains apply.
        let theirs = client.clone().server_name(Some(own)).host(own);
        assert_eq!(theirs.refusal().await.alert(), Some(48), "{version:?}");
        // Without a server name, the default entry applies. It counts as another name.
        let unnamed = client.clone().server_name(None).host("127.0.0.1");
        assert_eq!(unnamed.get("/a").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_ticket_does_not_outlive_a_change_of_the_requirement() {
    for version in TlsVersion::BOTH {
        let world =
            World::with(|settings, echo| settings.optional_certificates().everything_to(echo))
                .await;
        let client = world.client().tls(version).resuming();
        assert!(!is_resumed(&client).await);
        assert!(is_resumed(&client).await);
        change(&world.gateway, |text| {
            text.replace("\"optional\"", "\"required\"")
        })
        .await;
        assert!(!is_resumed(&client).await, "{version:?}");
        assert!(is_resumed(&client).await);
    }
}

#[tokio::test]
async fn a_session_without_certificate_is_not_resumed() {
    for version in TlsVersion::BOTH {
        let world = World::open_to_all().await;
        let client = world.anonymous().tls(version).resuming();
        assert!(!is_resumed(&client).await);
        assert_eq!(client.tickets(), 0, "{version:?}");
        assert!(!is_resumed(&client).await);
    }
}

#[tokio::test]
async fn tickets_survive_reloads_and_can_be_turned_off() {
    let world = World::open().await;
    let client = world.client().resuming();
    assert!(!is_resumed(&client).await);
    change(&world.gateway, |text| format!("{text}\n# a comment\n")).await;
    assert!(is_resumed(&client).await);
    change(&world.gateway, |text| {
        format!("{text}\n[tls.tickets]\nenabled = false\n")
    })
    .await;
    let before = client.tickets();
    assert!(!is_resumed(&client).await);
    assert_eq!(client.tickets(), before);
}

#[tokio::test]
async fn replicas_accept_each_others_tls_1_3_tickets_by_a_shared_secret_alone() {
    let ca = TestCa::new("example.org");
    let caller = ca.client(CALLER);
    let secret = |octet: u8| {
        let file = ca.write(&format!("{octet}.secret"), [octet; 32]);
        format!("\"{}\"", file.display())
    };
    let echo = Echo::start().await;
    let start = async |secret: Option<String>| {
        let mut settings = Settings::new(&ca).everything_to(echo.address());
        if let Some(secret) = secret {
            settings = settings.set("tls.tickets", "secret_file", &secret);
        }
        Gateway::start(BINARY, &settings).await
    };
    let ours = start(Some(secret(1))).await;
    let replica = start(Some(secret(1))).await;
    let stranger = start(Some(secret(2))).await;
    let alone = start(None).await;
    for (version, elsewhere, accepted) in [
        (TlsVersion::V13, &replica, true),
        (TlsVersion::V13, &stranger, false),
        (TlsVersion::V13, &alone, false),
        (TlsVersion::V12, &replica, false),
    ] {
        let client = ours.client(HOST).with(&caller).tls(version).resuming();
        assert!(!is_resumed(&client).await);
        assert!(is_resumed(&client).await);
        let client = client.at(elsewhere.listener());
        assert_eq!(is_resumed(&client).await, accepted, "{version:?}");
    }
}

#[tokio::test]
async fn a_bad_secret_refuses_at_start() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    for (file, complaint) in [
        (ca.write("short.secret", [1; 31]), "fewer than 32 octets"),
        (ca.write("empty.secret", []), "is empty"),
        (ca.directory().join("missing.secret"), "cannot read"),
    ] {
        let settings = Settings::new(&ca)
            .set(
                "tls.tickets",
                "secret_file",
                &format!("\"{}\"", file.display()),
            )
            .everything_to(echo.address());
        let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
        assert_eq!(failure.status.code(), Some(2), "{failure}");
        assert!(failure.stderr.contains(complaint), "{failure}");
        assert!(failure.stderr.contains("secret_file"), "{failure}");
    }
}

/// As with private keys: Kubernetes mounts them with mode 0440 for a group.
#[tokio::test]
async fn a_secret_that_its_group_may_read_is_used_with_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let ca = TestCa::new("example.org");
    let caller = ca.client(CALLER);
    let echo = Echo::start().await;
    let secret = ca.write("group.secret", [1; 48]);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o440)).unwrap();
    let file = format!("\"{}\"", secret.display());
    let settings = Settings::new(&ca)
        .set("tls.tickets", "secret_file", &file)
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&caller).resuming();
    assert!(!is_resumed(&client).await);
    assert!(is_resumed(&client).await);
    until("the warning", async || {
        let said = gateway.stderr();
        said.contains("group.secret") && said.contains(" WARN ")
    })
    .await;
}

#[tokio::test]
async fn ticket_keys_rotate_and_lineages_end() {
    for key in ["rotation", "max_age"] {
        for version in TlsVersion::BOTH {
            let world = World::with(|settings, echo| {
                settings
                    .set("tls.tickets", key, "\"2s\"")
                    .everything_to(echo)
            })
            .await;
            // A ticket ends with its key. A chain of resumed sessions also ends, although each
            // connection gets a new ticket.
            let client = world.client().tls(version).resuming();
            assert!(!is_resumed(&client).await);
            assert!(is_resumed(&client).await);
            if key == "rotation" {
                // Each connection brings a new ticket. The test uses the old one.
                gather(&client, 1).await;
                tokio::time::sleep(Duration::from_secs(4)).await;
                assert!(!is_resumed(&client).await, "{version:?}");
                continue;
            }
            in_time("the end of the lineage", async {
                while is_resumed(&client).await {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
        }
    }
}
