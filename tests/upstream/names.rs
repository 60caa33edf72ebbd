//! Endpoints with host names: the gateway resolves names again with the resolver of the system.
//!
//! The gateway runs in its own mount namespace, in which the test controls `/etc/hosts`. If
//! users of this machine may not create such a namespace, the test is skipped.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_testkit::{Gateway, Settings, TestCa, in_time, skipped};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::Named;
use crate::support::{BINARY, CALLER, Front};

const NAME: &str = "orders.service.test";

/// The file that the gateway sees as `/etc/hosts`.
struct Hosts {
    home: TempDir,
}

impl Hosts {
    /// Returns `None` if this machine does not allow mount namespaces.
    fn leading_to(address: &str) -> Option<Self> {
        let hosts = Self {
            home: tempfile::tempdir().unwrap(),
        };
        hosts.lead_to(address);
        let works = |command: &[&str]| {
            let mut within = hosts.within(command);
            let output = within.stdin(Stdio::null()).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !skipped::machine("mount namespaces for users", works(&["true"])) {
            return None;
        }
        assert!(works(&["getent", "hosts", NAME]), "getent is required");
        Some(hosts)
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("hosts")
    }

    fn lead_to(&self, address: &str) {
        // The file is changed in place, because a bind mount refers to the file and not to its
        // name.
        std::fs::write(self.file(), format!("{address} {NAME}\n")).unwrap();
    }

    fn lead_nowhere(&self) {
        std::fs::write(self.file(), "").unwrap();
    }

    /// Returns a command that runs in the namespace with this file.
    fn within(&self, command: &[&str]) -> Command {
        let mut within = Command::new("unshare");
        within
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
            .arg(self.file())
            .args(command);
        within
    }

    /// Returns a script that runs the gateway in the namespace with this file.
    fn program(&self) -> PathBuf {
        let path = self.home.path().join("gateway");
        let quoted = |path: &Path| format!("'{}'", path.display());
        let script = format!(
            "#!/bin/sh\nexec unshare --user --map-root-user --mount sh -c \
             'mount --bind \"$0\" /etc/hosts && exec \"$@\"' {} {} \"$@\"\n",
            quoted(&self.file()),
            quoted(Path::new(BINARY)),
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// Starts two services with the same port at two addresses.
async fn two_with_one_port() -> [Named; 2] {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)).await {
            return [Named::on(first, "first"), Named::on(second, "second")];
        }
    }
}

#[tokio::test]
async fn a_name_is_looked_up_again_and_its_last_address_outlives_a_failure() {
    let Some(hosts) = Hosts::leading_to("127.0.0.1") else {
        return;
    };
    let services = two_with_one_port().await;
    let ca = TestCa::new("example.org");
    let endpoint = format!("http://{NAME}:{}", services[0].address.port());
    let more = "dns_refresh = \"200ms\"\nallow_plaintext = true\n";
    let settings = Settings::new(&ca)
        .upstream_at("orders", &[endpoint], more)
        .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
    let program = hosts.program();
    let world = Front {
        gateway: Gateway::start(program.to_str().unwrap(), &settings).await,
        caller: ca.client(CALLER),
    };
    let mut session = world.client().session().await.unwrap();
    for _ in 0..3 {
        let answer = session.get("/a").await.unwrap();
        assert_eq!(&answer.body[..], b"first", "{}", world.gateway.stderr());
    }
    // The name now resolves to the second service. The connection to the first service is not
    // used any more.
    hosts.lead_to("127.0.0.2");
    in_time("the other address", async {
        loop {
            let answer = session.get("/a").await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            match &answer.body[..] {
                b"second" => break,
                _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    let [first, _second] = services;
    drop(first);
    // The name does not resolve any more, so that the last address stays in use.
    hosts.lead_nowhere();
    in_time("a look-up that fails", async {
        while !world.gateway.stderr().contains("was not found again") {
            let answer = session.get("/a").await.unwrap();
            assert_eq!(&answer.body[..], b"second", "{answer:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let answer = session.get("/a").await.unwrap();
    assert_eq!(&answer.body[..], b"second", "{answer:?}");
}
