//! The deny list: the commands of operators, and their effect on callers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use countersign_testkit::{Gateway, Settings, TlsVersion, in_time};
use tokio::process::Command;

use crate::support::{BINARY, CALLER, HOST, Run, World, readyz, streaming};

async fn world() -> World {
    World::with(|settings, echo| {
        settings
            .set("admin", "socket", "\"admin.sock\"")
            .set("deny_list", "file", "\"deny.json\"")
            .everything_to(echo)
    })
    .await
}

impl World {
    fn file(&self) -> PathBuf {
        self.gateway.directory().join("deny.json")
    }

    async fn deny(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(BINARY);
        command.args(["--json", "deny"]).args(arguments);
        command.arg("--config").arg(self.gateway.config_file());
        Run::of_async(&mut command).await
    }

    /// Adds an entry to the deny list. Returns its id.
    async fn denied(&self, arguments: &[&str]) -> String {
        let run = self.deny(&[&["add"], arguments].concat()).await;
        assert_eq!(run.code, 0, "{run:?}");
        let entry = run.json();
        // The entry must be on disk before the command ends.
        let id = entry["id"].as_str().unwrap().to_owned();
        let on_disk = std::fs::read_to_string(self.file()).unwrap();
        assert!(on_disk.contains(&id), "{on_disk}");
        id
    }

    fn spiffe(&self) -> String {
        self.ca.spiffe(CALLER)
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[tokio::test]
async fn every_kind_of_entry_refuses_at_once_and_is_taken_back() {
    let world = world().await;
    let identity = world.spiffe();
    let serial = world.caller.serial_hex();
    let thumbprint = hex(&countersign_testkit::sha256(world.caller.leaf()));
    let intermediate = hex(&countersign_testkit::sha256(world.ca.intermediate().der()));
    let file = world.ca.write("caller.pem", world.caller.chain_pem());
    let file = file.display().to_string();
    let other = world.ca.client("/ns/shop/sa/other");
    for (arguments, others_too) in [
        (vec!["--identity", &identity], false),
        (
            vec![
                "--serial",
                &serial,
                "--issuer",
                "CN=example.org intermediate",
            ],
            false,
        ),
        (vec!["--thumbprint", &thumbprint], false),
        (vec!["--cert", &file, "--for", "24h"], false),
        (vec!["--thumbprint", &intermediate], true),
    ] {
        let client = world.client();
        assert_eq!(client.get("/a").await.unwrap().status, 200);
        let id = world.denied(&arguments).await;
        assert_eq!(client.refusal().await.alert(), Some(46), "{arguments:?}");
        let others = world.gateway.client(HOST).with(&other).get("/a").await;
        assert_eq!(others.is_err(), others_too, "{arguments:?}");
        let run = world.deny(&["remove", &id]).await;
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(client.get("/a").await.unwrap().status, 200);
        let run = world.deny(&["remove", &id]).await;
        assert_eq!(run.code, 3, "{run:?}");
    }
    world.gateway.audit().handshake("identity-denied").await;
}

#[tokio::test]
async fn open_connections_are_cut_within_a_second_and_tickets_are_of_no_use() {
    for version in TlsVersion::BOTH {
        let world = world().await;
        let client = world.client().tls(version).resuming();
        assert_eq!(client.get("/a").await.unwrap().status, 200);
        assert_eq!(client.get("/a").await.unwrap().status, 200);
        let mut stream = streaming(&client).await;
        let mut idle = client.session().await.unwrap();
        assert_eq!(idle.get("/idle").await.unwrap().status, 200);
        world.denied(&["--identity", &world.spiffe()]).await;
        let added = Instant::now();
        let rest = stream.read_until(|_| false).await;
        assert!(rest.closed && !rest.octets.ends_with(b"0\r\n\r\n"));
        assert!(
            added.elapsed() < Duration::from_secs(1),
            "{:?}",
            added.elapsed()
        );
        // Either the connection is closed before the request, or the request is refused.
        let answer = idle.get("/idle").await;
        assert!(!answer.is_ok_and(|answer| answer.status == 200));
        let line = world.gateway.audit().request("/hang-mid-body").await;
        assert_eq!(line["reason"], "identity-denied", "{line}");
        assert_eq!(client.refusal().await.alert(), Some(46), "{version:?}");
    }
}

#[tokio::test]
async fn entries_survive_reload_and_restart_and_run_out() {
    let world = world().await;
    world
        .denied(&[
            "--identity",
            &world.spiffe(),
            "--reason",
            "stolen \u{202e}laptop",
        ])
        .await;
    world
        .denied(&["--identity", "dns:a.example.org", "--for", "1s"])
        .await;
    let reload = Run::of_async(
        Command::new(BINARY)
            .args(["reload", "--config"])
            .arg(world.gateway.config_file()),
    )
    .await;
    assert!(reload.code == 0, "{reload:?}");
    assert_eq!(world.client().refusal().await.alert(), Some(46));

    in_time("the entry's end", async {
        loop {
            let run = world.deny(&["list"]).await;
            let listed = run.json();
            let entries = listed["deny_list"].as_array().unwrap();
            assert_eq!(entries[0]["target"]["identity"], world.spiffe());
            if entries.len() == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let text = Run::of_async(
        Command::new(BINARY)
            .args(["deny", "list", "--config"])
            .arg(world.gateway.config_file()),
    )
    .await;
    let text = text.stdout;
    assert!(
        text.contains("laptop") && !text.contains('\u{202e}'),
        "{text}"
    );

    let file = format!("\"{}\"", world.file().display());
    let settings = Settings::new(&world.ca)
        .set("deny_list", "file", &file)
        .everything_to(world.echo.address());
    let next = Gateway::start(BINARY, &settings).await;
    let client = next.client(HOST).with(&world.caller);
    assert_eq!(client.refusal().await.alert(), Some(46));
}

#[tokio::test]
async fn a_damaged_file_refuses_at_start_and_is_kept_out_later() {
    let world = world().await;
    world.denied(&["--identity", &world.spiffe()]).await;
    std::fs::write(world.file(), "{\"version\": 1").unwrap();
    readyz(&world.gateway, "the deny list stays", true).await;
    assert_eq!(world.client().refusal().await.alert(), Some(46));
    let reload = Run::of_async(
        Command::new(BINARY)
            .args(["reload", "--config"])
            .arg(world.gateway.config_file()),
    )
    .await;
    assert!(reload.code == 0, "the rest of it reloads: {reload:?}");
    assert_eq!(world.client().refusal().await.alert(), Some(46));

    let file = format!("\"{}\"", world.file().display());
    let settings = Settings::new(&world.ca)
        .set("deny_list", "file", &file)
        .everything_to(world.echo.address());
    let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
    assert_eq!(failure.status.code(), Some(2), "{failure}");
    assert!(failure.stderr.contains("deny.json"), "{failure}");
}

#[tokio::test]
async fn what_means_nothing_is_refused_with_a_remedy() {
    let world = world().await;
    for (arguments, complaint) in [
        (&["add"][..], "required"),
        (&["add", "--serial", "4c"], "--issuer"),
        (&["add", "--identity", "alice"], "scheme"),
        (&["add", "--thumbprint", "abcd"], "SHA-256"),
        // One hash in 64 begins with `-` in base64url. The command must not read it as an
        // option.
        (&["add", "--thumbprint", "-bcd"], "SHA-256"),
        (&["add", "--identity", "dns:a", "--for", "0s"], "zero"),
        (&["remove", "../status"], "letters and digits"),
    ] {
        let run = world.deny(arguments).await;
        assert_eq!(run.code, 2, "{run:?}");
        let said = run.stderr;
        assert!(said.contains(complaint), "{arguments:?}: {said}");
    }
    let without = World::with(|settings, echo| {
        settings
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await;
    let run = without
        .deny(&["add", "--identity", "dns:a.example.org"])
        .await;
    assert_eq!(run.code, 2, "{run:?}");
    let said = run.stderr;
    assert!(said.contains("[deny_list]"), "{said}");
}
