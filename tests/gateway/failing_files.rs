//! File systems that fail or hang. A failure must affect only the file itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::skipped::tool;
use countersign_testkit::{Crl, Echo, Gateway, Settings, TestCa, in_time};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::material::{PROMISED, assert_prompt, ended, problem, refused};
use crate::support::{
    BINARY, CALLER, HOST, RevocationLists, Run, World, readyz, reloaded, replace, revocable,
    streaming,
};

/// The tool for these tests. A container may forbid it to trace processes.
const TRACING: &str = "strace that may trace processes";

/// System calls of the gateway on one path that fail or hang. strace injects the faults.
pub(super) struct Injected {
    strace: Child,
}

impl Injected {
    /// Makes system calls of the gateway on `path` fail or hang, for example with `error=EIO`.
    /// Returns `None` if this machine does not allow it.
    pub(super) async fn into(
        gateway: &Gateway,
        path: &Path,
        calls: &str,
        fault: &str,
    ) -> Option<Self> {
        let strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-P"])
            .arg(path)
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{fault}")])
            .args(["-p", &gateway.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        if !tool("strace", strace.is_ok()) {
            return None;
        }
        let mut strace = strace.unwrap();
        let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
        let attached = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains(" attached") {
                    return true;
                }
            }
            false
        };
        if !tool(TRACING, in_time("strace", attached).await) {
            return None;
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { strace })
    }

    /// Ends the fault injection. System calls that hang return.
    pub(super) async fn end(mut self) {
        let _ = self.strace.kill().await;
    }
}

/// The system cannot read a file for some time. The file does not change when it is readable again.
#[tokio::test]
async fn what_the_system_could_not_read_is_read_as_soon_as_it_can() {
    for error in ["EMFILE", "ENFILE", "ENOMEM", "EIO"] {
        let (world, lists) = revocable().await;
        let client = world.client();
        assert_eq!(client.get("/a").await.unwrap().status, 200);
        let fault = format!("error={error}");
        let Some(injected) =
            Injected::into(&world.gateway, &lists.issuing, "open,openat", &fault).await
        else {
            return;
        };
        lists.revoke(&world.ca, &world.caller);
        let ready = readyz(&world.gateway, "material-unreadable", true).await;
        let detail = problem(&ready, "material-unreadable")["detail"].to_string();
        assert!(detail.contains("issuing.crl"), "{detail}");
        // The last valid CRL stays in use, and the gateway keeps working.
        assert_eq!(client.get("/a").await.unwrap().status, 200);
        injected.end().await;
        refused(&client).await;
        readyz(&world.gateway, "material-unreadable", false).await;
    }
}

/// If reading a file hangs, only this file is delayed.
#[tokio::test]
async fn a_list_that_does_not_answer_delays_no_denial_and_no_other_list() {
    let (ca, second) = (TestCa::new("example.org"), TestCa::new("other.test"));
    let lists = RevocationLists::of(&ca);
    let others = RevocationLists::of(&second);
    let world = World::of(ca, |settings, ca, echo| {
        settings
            .trust(ca, &lists.setting())
            .trust(&second, &others.setting())
            .set("deny_list", "file", "\"deny.json\"")
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await;
    let calls = "open,openat,statx";
    let injected = Injected::into(&world.gateway, &lists.issuing, calls, "delay_enter=600s");
    let Some(injected) = injected.await else {
        return;
    };
    readyz(&world.gateway, "material-stalled", true).await;
    let second = (&second, &others);
    assert_prompt(&world.gateway, second, &mut 1, "a stalled list").await;
    let stream = streaming(&world.client()).await;
    let denied = Instant::now();
    let identity = format!("spiffe://example.org{CALLER}");
    world
        .by_socket(&["deny", "add", "--identity", &identity])
        .await
        .done();
    assert!(ended(stream).await - denied < PROMISED * 3);
    world.assert_answers().await;
    injected.end().await;
    readyz(&world.gateway, "material-stalled", false).await;
}

impl World {
    /// Runs a command of operators with the socket, because the configuration may be invalid.
    pub(super) async fn by_socket(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--socket");
        command.arg(self.gateway.directory().join("admin.sock"));
        in_time("a command", Run::of_async(&mut command)).await
    }

    /// Checks that all listeners and commands respond at once, except for what the fault affects.
    async fn assert_answers(&self) {
        for (address, path) in [
            (self.gateway.public(), "/healthz"),
            (self.gateway.public(), "/readyz"),
            (self.gateway.public(), "/.well-known/jwks.json"),
            (self.gateway.admin(), "/metrics"),
        ] {
            let asked = Instant::now();
            assert_eq!(plain(address, "GET", path, &[]).await.status, 200, "{path}");
            assert!(
                asked.elapsed() < PROMISED * 2,
                "{path}: {:?}",
                asked.elapsed()
            );
        }
        let status = self.by_socket(&["--json", "status"]).await;
        // Exit code 3: the status contains a problem.
        assert_eq!(status.code, 3, "{status:?}");
        let said = status.json();
        assert_eq!(said["readiness"], "ready", "{said}");
    }
}

/// Returns the path of a deny list in its own folder. strace would also match other paths that
/// begin with the same text.
pub(super) fn deny_list(ca: &TestCa) -> PathBuf {
    let folder = ca.directory().join("state");
    std::fs::create_dir(&folder).unwrap();
    folder.join("deny.json")
}

#[tokio::test]
async fn a_deny_list_that_does_not_answer_delays_nothing() {
    let ca = TestCa::new("example.org");
    let lists = RevocationLists::of(&ca);
    let deny = deny_list(&ca);
    let mut world = World::of(ca, |settings, ca, echo| {
        settings
            .trust(ca, &lists.setting())
            .set("deny_list", "file", &format!("{deny:?}"))
            .set("admin", "socket", "\"admin.sock\"")
            .set("limits", "drain_timeout", "\"1s\"")
            .everything_to(echo)
    })
    .await;
    let calls = "open,openat,statx";
    let injected = Injected::into(&world.gateway, &deny, calls, "delay_enter=600s");
    let Some(injected) = injected.await else {
        return;
    };
    readyz(&world.gateway, "material-stalled", true).await;
    let mut number = 1;
    assert_prompt(
        &world.gateway,
        (&world.ca, &lists),
        &mut number,
        "a stalled deny list",
    )
    .await;
    world.assert_answers().await;
    world.by_socket(&["reload"]).await.done();
    // The same check with an invalid configuration in addition.
    let config = world.gateway.config_file();
    let good = std::fs::read(&config).unwrap();
    replace(&config, "[nonsense");
    readyz(&world.gateway, "configuration-refused", true).await;
    assert_prompt(&world.gateway, (&world.ca, &lists), &mut number, "both").await;
    replace(&config, good);
    readyz(&world.gateway, "configuration-refused", false).await;

    // A new entry takes effect at once, and the command says that it is not on disk.
    let client = world.client();
    let stream = streaming(&client).await;
    let asked = Instant::now();
    let identity = format!("spiffe://example.org{CALLER}");
    let arguments = ["deny", "add", "--identity", &identity, "--reason", "leaked"];
    let (add, cut) = tokio::join!(world.by_socket(&arguments), ended(stream));
    assert!(cut - asked < PROMISED * 2, "{:?}", cut - asked);
    add.ended(1, "in force all the same");
    assert_eq!(client.refusal().await.alert(), Some(46));
    world.assert_answers().await;

    // The end of the process does not wait for the file. Only the thread that strace delays is
    // left.
    world.gateway.terminate().await;
    let process = format!("/proc/{}/stat", world.gateway.pid());
    in_time("the end of everything else", async {
        while !std::fs::read_to_string(&process).unwrap().contains(") Z ") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    injected.end().await;
    let status = world.gateway.ended().await;
    assert!(status.success(), "{status}");
}

/// When the file is usable again, the gateway writes the entries that were added in the meantime.
#[tokio::test]
async fn an_entry_is_written_as_soon_as_the_file_answers() {
    let ca = TestCa::new("example.org");
    let deny = deny_list(&ca);
    let world = World::of(ca, |settings, _, echo| {
        settings
            .set("deny_list", "file", &format!("{deny:?}"))
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await;
    let Some(injected) = Injected::into(
        &world.gateway,
        &deny,
        "open,openat,renameat,renameat2,rename",
        "error=EIO",
    )
    .await
    else {
        return;
    };
    let identity = format!("spiffe://example.org{CALLER}");
    let add = ["deny", "add", "--identity", &identity];
    let add = world.by_socket(&add).await;
    add.ended(1, "is in force now but not on disk");
    assert_eq!(world.client().refusal().await.alert(), Some(46));
    // The entry is in effect. Therefore the audit log names it, although the command failed.
    let audit = world.gateway.audit();
    let line = audit
        .line("the denial", |line| line["event"] == "operator")
        .await;
    assert!(line.to_string().contains("in force, not on disk"), "{line}");
    assert!(line.to_string().contains(&identity), "{line}");
    let ready = readyz(&world.gateway, "deny-list-unsaved", true).await;
    assert_eq!(problem(&ready, "deny-list-unsaved")["severity"], "error");
    injected.end().await;
    readyz(&world.gateway, "deny-list-unsaved", false).await;
    let written = std::fs::read_to_string(&deny).unwrap();
    assert!(written.contains(&identity), "{written}");
}

/// A trust domain does this only with `max_unread`, and only after failures of the system.
#[tokio::test]
async fn a_domain_can_refuse_after_its_files_could_not_be_read_for_long() {
    let ca = TestCa::new("example.org");
    let lists = RevocationLists::of(&ca);
    let more = format!(
        "{}\nrevocation = \"hard\"\nmax_unread = \"2s\"",
        lists.setting()
    );
    let world = World::of(ca, |settings, ca, echo| {
        settings.trust(ca, &more).everything_to(echo)
    })
    .await;
    let (gateway, client, list) = (&world.gateway, world.client(), &lists.issuing);
    let stream = streaming(&client).await;
    // A missing file is a change by a person, and not a failure of the system.
    std::fs::rename(list, list.with_extension("away")).unwrap();
    readyz(gateway, "No such file", true).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    std::fs::rename(list.with_extension("away"), list).unwrap();
    readyz(gateway, "material-unreadable", false).await;

    let Some(injected) = Injected::into(gateway, list, "open,openat", "error=EIO").await else {
        return;
    };
    let failing = Instant::now();
    lists.publish(&world.ca, Crl::new().number(2));
    let cut = ended(stream).await - failing;
    assert!(cut >= Duration::from_secs(2), "{cut:?}");
    assert_eq!(client.refusal().await.alert(), Some(48));
    let line = gateway.audit().handshake("revocation-unknown").await;
    assert!(line.to_string().contains("max_unread"), "{line}");
    injected.end().await;
    in_time("the domain's return", async {
        while client.get("/a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// `countersign check` names the file that hangs, and does not wait for it.
#[tokio::test]
async fn a_check_ends_where_a_file_does_not_answer() {
    let (world, lists) = revocable().await;
    let checking = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-P"])
        .arg(&lists.issuing)
        .args(["-e", "trace=open,openat,statx"])
        .args(["-e", "inject=open,openat,statx:delay_enter=600s"])
        .args([BINARY, "check", "--config"])
        .arg(world.gateway.config_file())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    if !tool("strace", checking.is_ok()) {
        return;
    }
    let mut checking = checking.unwrap();
    let mut lines = BufReader::new(checking.stderr.take().unwrap()).lines();
    let said = in_time("an answer", async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("does not answer") || line.contains("not permitted") {
                return line;
            }
        }
        String::new()
    })
    .await;
    if tool(TRACING, !said.contains("not permitted")) {
        assert!(said.contains("issuing.crl"), "{said}");
    }
}

/// In one trust domain, a CRL file that hangs does not delay changes of other CRL files.
#[tokio::test]
async fn a_list_that_does_not_answer_keeps_no_other_of_its_domain_out() {
    let (world, lists) = revocable().await;
    let hung = world.ca.directory().join("root.crl");
    let calls = "open,openat,statx";
    let Some(injected) = Injected::into(&world.gateway, &hung, calls, "delay_enter=600s").await
    else {
        return;
    };
    readyz(&world.gateway, "material-stalled", true).await;
    let neighbour = "a neighbour that hangs";
    assert_prompt(&world.gateway, (&world.ca, &lists), &mut 1, neighbour).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    // A configuration that names another file takes effect.
    let moved = world.ca.write("moved.crl", std::fs::read(&hung).unwrap());
    let config = world.gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    let (old, new) = (hung.display().to_string(), moved.display().to_string());
    replace(&config, text.replace(&old, &new));
    readyz(&world.gateway, "material-stalled", false).await;
    replace(&moved, Crl::new().number(2).signed_by(world.ca.root()));
    in_time("a change of the other file", async {
        while !world.gateway.stderr().contains("was read again") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    injected.end().await;
}

/// The gateway tries to read an unreadable file again and again. These attempts do not create new
/// generations of the configuration.
#[tokio::test]
async fn a_part_that_stays_unusable_changes_nothing_again_and_again() {
    let (world, lists) = revocable().await;
    let broken = world.ca.directory().join("root.crl");
    let Some(injected) = Injected::into(&world.gateway, &broken, "open,openat", "error=EIO").await
    else {
        return;
    };
    replace(&broken, Crl::new().number(2).signed_by(world.ca.root()));
    let first = readyz(&world.gateway, "material-unreadable", true).await;
    let generation = |ready: &Value| ready["generation"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = readyz(&world.gateway, "material-unreadable", true).await;
    assert!(
        generation(&later) <= generation(&first) + 1,
        "{first} {later}"
    );
    // The configuration can be reloaded afterwards.
    let config = world.gateway.config_file();
    injected.end().await;
    readyz(&world.gateway, "material-unreadable", false).await;
    let text = std::fs::read_to_string(&config).unwrap();
    replace(&config, format!("{text}\n# an edit\n"));
    reloaded(&world.gateway).await;
    assert_prompt(&world.gateway, (&world.ca, &lists), &mut 1, "afterwards").await;
}

/// Each new entry takes effect at once, even if many entries wait to be written.
#[tokio::test]
async fn every_denial_counts_while_the_file_does_not_answer() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let deny = ca.directory().join("state");
    std::fs::create_dir(&deny).unwrap();
    let deny = deny.join("deny.json");
    let settings = Settings::new(&ca)
        .set("deny_list", "file", &format!("\"{}\"", deny.display()))
        .set("admin", "socket", "\"admin.sock\"")
        .everything_to(echo.address());
    let world = World {
        gateway: Gateway::start(BINARY, &settings).await,
        caller: ca.client(CALLER),
        ca,
        echo,
    };
    let calls = "open,openat,statx";
    let Some(injected) = Injected::into(&world.gateway, &deny, calls, "delay_enter=600s").await
    else {
        return;
    };
    readyz(&world.gateway, "material-stalled", true).await;
    let identity = |number: usize| format!("spiffe://example.org/ns/shop/sa/leaked{number}");
    let adding = (0..12).map(|number| {
        let (world, identity) = (&world, identity(number));
        async move {
            world
                .by_socket(&["deny", "add", "--identity", &identity])
                .await
        }
    });
    let answers: Vec<_> = futures(adding).await;
    for answer in answers {
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        let said = answer.stderr;
        assert!(said.contains("in force all the same"), "{said}");
    }
    for number in 0..12 {
        let caller = world.ca.client(&format!("/ns/shop/sa/leaked{number}"));
        let client = world.gateway.client(HOST).with(&caller);
        assert_eq!(client.refusal().await.alert(), Some(46), "{number}");
    }
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    injected.end().await;
    in_time("all entries on disk", async {
        loop {
            let written = std::fs::read_to_string(&deny).unwrap();
            if (0..12).all(|number| written.contains(&identity(number))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Runs several futures concurrently.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, outcome) in pending.iter_mut().zip(&mut done) {
            if outcome.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *outcome = Some(value);
            }
        }
        match done.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// If a file hangs for longer than `max_unread`, its trust domain is suspended. When the file is
/// readable again, the suspension ends, although the file has not changed.
#[tokio::test]
async fn a_domain_whose_file_hung_for_too_long_returns_when_it_answers() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let root = ca.write("root.crl", Crl::new().signed_by(ca.root()));
    let list = ca.write("issuing.crl", Crl::new().signed_by(ca.intermediate()));
    let more = format!(
        "crls = [\"{}\", \"{}\"]\nmax_unread = \"1s\"",
        root.display(),
        list.display()
    );
    let settings = Settings::new(&ca)
        .trust(&ca, &more)
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&ca.client(CALLER));
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let calls = "open,openat,statx";
    let Some(injected) = Injected::into(&gateway, &list, calls, "delay_enter=600s").await else {
        return;
    };
    in_time("the suspension", async {
        while client.get("/a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // The first failure may have been a request on a connection that was closed.
    assert_eq!(client.refusal().await.alert(), Some(48));
    gateway.audit().handshake("revocation-unknown").await;
    injected.end().await;
    in_time("the domain's return", async {
        while client.get("/a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    readyz(&gateway, "material-", false).await;
}
