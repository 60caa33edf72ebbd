//! Files change, become invalid and are removed while callers are connected. If the current
//! configuration names a file, changes of the file take effect without a command.

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_testkit::{Client, Connection, Crl, Echo, Gateway, Settings, TestCa, until};
use serde_json::Value;

use crate::support::{
    BINARY, CALLER, HOST, RevocationLists, World, named_pipe, readyz, reloaded, replace, revocable,
    streaming,
};

/// The maximum time from the replacement of a file to the end of a stream that the new file
/// forbids.
pub(super) const PROMISED: Duration = Duration::from_secs(1);

/// The number of attempts. A busy machine may be slow in two attempts, but a real delay is in all
/// attempts.
const ATTEMPTS: usize = 3;

/// Revokes one caller after another. Passes when the stream of one caller ends in the promised
/// time.
pub(super) async fn assert_prompt(
    gateway: &Gateway,
    (ca, lists): (&TestCa, &RevocationLists),
    number: &mut u8,
    what: &str,
) {
    let mut slowest = Vec::new();
    for attempt in 0..ATTEMPTS {
        let path = format!("/ns/shop/sa/{what}{number}{attempt}");
        let caller = ca.client(&path.replace(' ', "-"));
        let client = gateway.client(HOST).with(&caller);
        let stream = streaming(&client).await;
        *number += 1;
        let newer = Crl::new().number(*number).revoke(caller.serial());
        let replaced = Instant::now();
        lists.publish(ca, newer);
        let cut = ended(stream).await.duration_since(replaced);
        assert_eq!(client.refusal().await.alert(), Some(44), "{what}");
        if cut < PROMISED {
            return;
        }
        slowest.push(cut);
    }
    panic!("{what}: cut after {slowest:?}\n{}", gateway.stderr());
}

/// Waits for the end of a stream. Returns the time at which it ended.
pub(super) async fn ended(mut stream: Connection) -> Instant {
    let answer = stream.read_until(|_| false).await;
    assert!(answer.closed);
    Instant::now()
}

pub(super) fn problem<'v>(ready: &'v Value, code: &str) -> &'v Value {
    let problems = ready["problems"].as_array().unwrap();
    let found = problems.iter().find(|problem| problem["code"] == code);
    found.unwrap_or_else(|| panic!("{code}: {ready}"))
}

#[tokio::test]
async fn a_revocation_counts_whatever_is_wrong_with_the_configuration_on_disk() {
    let (world, lists) = revocable().await;
    let config = world.gateway.config_file();
    let good = std::fs::read_to_string(&config).unwrap();
    let certificate = world.gateway.directory().join("gateway.pem");
    let certificate = certificate.display().to_string();
    let mut number = 1;
    for (name, broken, complaint) in [
        ("typo", format!("{good}\n[nonsense"), "countersign.toml:"),
        ("unknown key", format!("{good}\n[surprise]\n"), "surprise"),
        (
            "missing file",
            good.replace(&certificate, "/nowhere/a.pem"),
            "/nowhere/a.pem",
        ),
        (
            "needs a restart",
            format!("{good}\n[deny_list]\nfile = \"/nowhere/deny.json\"\n").replacen(
                "address = \"127.0.0.1:0\"",
                "address = \"127.0.0.2:0\"",
                1,
            ),
            "cannot change while the gateway runs",
        ),
        ("no text", "\0\u{1}".to_owned(), "countersign.toml"),
        ("empty", String::new(), "there is no [listener] section"),
    ] {
        replace(&config, broken);
        let ready = readyz(&world.gateway, complaint, true).await;
        let problem = problem(&ready, "configuration-refused");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("revocations take effect"), "{detail}");
        assert_eq!(
            problem["command"],
            format!("countersign check --config {}", config.display())
        );
        assert!(problem["since"].is_string(), "{problem}");
        assert_prompt(&world.gateway, (&world.ca, &lists), &mut number, name).await;
    }
    // The configuration file does not exist any more.
    std::fs::remove_file(&config).unwrap();
    readyz(&world.gateway, "cannot read the configuration file", true).await;
    assert_prompt(&world.gateway, (&world.ca, &lists), &mut number, "gone").await;
    replace(&config, good);
    readyz(&world.gateway, "configuration-refused", false).await;
}

/// The name of an unusable file, a function that creates it, and the expected error text.
type Obstacle = (&'static str, fn(&Path), &'static str);

fn obstacles() -> Vec<Obstacle> {
    fn link(path: &Path, target: &str) {
        std::os::unix::fs::symlink(target, path).unwrap();
    }
    vec![
        (
            "garbage",
            |path| std::fs::write(path, "garbage").unwrap(),
            "",
        ),
        (
            "an empty file",
            |path| std::fs::write(path, "").unwrap(),
            "is empty",
        ),
        (
            "a directory",
            |path| std::fs::create_dir(path).unwrap(),
            "directory",
        ),
        (
            "a pipe",
            |path| {
                named_pipe(path);
            },
            "pipe",
        ),
        ("endless zeros", |path| link(path, "/dev/zero"), "device"),
        (
            "nothing behind a link",
            |path| link(path, "/nowhere/a"),
            "No such file",
        ),
        // Reading the memory of the own process at address 0 is an I/O error.
        (
            "an I/O error",
            |path| link(path, "/proc/self/mem"),
            "Input/output error",
        ),
        ("nothing", |_| (), "No such file"),
    ]
}

fn remove(path: &Path) {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(path).unwrap(),
        Ok(_) => std::fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// A new CRL takes effect, although another file is unusable.
#[tokio::test]
async fn a_file_that_cannot_be_used_keeps_no_revocation_out() {
    let (world, lists) = revocable().await;
    let root_list = world.ca.directory().join("root.crl");
    let root = world.ca.directory().join("root.pem");
    let key = world.gateway.directory().join("gateway.key");
    let ring = world.gateway.directory().join("signing").join("ring.json");
    let mut number = 1;
    for file in [&root_list, &root, &key, &ring] {
        let good = std::fs::read(file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for (what, put, complaint) in obstacles() {
            remove(file);
            put(file);
            let ready = readyz(&world.gateway, "material-unreadable", true).await;
            let detail = problem(&ready, "material-unreadable")["detail"].to_string();
            assert!(
                detail.contains("is in service as it was before"),
                "{detail}"
            );
            assert!(
                detail.contains(&name) || name == "ring.json",
                "{name}: {detail}"
            );
            if name != "ring.json" {
                assert!(detail.contains(complaint), "{what} for {name}: {detail}");
            }
            assert_prompt(
                &world.gateway,
                (&world.ca, &lists),
                &mut number,
                &format!("{what} for {name}"),
            )
            .await;
            assert_eq!(world.client().get("/a").await.unwrap().status, 200);
            remove(file);
            world.rewrite(file, &good);
            readyz(&world.gateway, "material-unreadable", false).await;
        }
    }
}

impl World {
    /// Writes a file again with its private mode.
    fn rewrite(&self, file: &Path, content: &[u8]) {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(file);
        std::io::Write::write_all(&mut opened.unwrap(), content).unwrap();
    }
}

#[tokio::test]
async fn roots_that_contradict_another_domain_keep_no_revocation_out() {
    let (ca, other) = (TestCa::new("example.org"), TestCa::new("other.test"));
    let lists = RevocationLists::of(&ca);
    let world = World::of(ca, |settings, ca, echo| {
        settings
            .trust(ca, &lists.setting())
            .trust(&other, "revocation = \"off\"")
            .everything_to(echo)
    })
    .await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    let roots = [world.ca.root().pem(), other.root().pem()].concat();
    replace(&world.ca.directory().join("root.pem"), roots);
    let ready = readyz(&world.gateway, "material-unreadable", true).await;
    let detail = problem(&ready, "material-unreadable")["detail"].to_string();
    assert!(detail.contains("other.test"), "{detail}");
    assert_prompt(&world.gateway, (&world.ca, &lists), &mut 1, "a shared root").await;
}

/// A CRL stays in use if its file is removed or replaced with an older CRL.
#[tokio::test]
async fn a_list_stays_in_force_when_its_file_is_gone_or_set_back() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let folder = ca.directory().join("crl");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, content: Vec<u8>| replace(&folder.join(name), content);
    write("root.crl", Crl::new().signed_by(ca.root()));
    let first = Crl::new().signed_by(ca.intermediate());
    write("issuing.crl", first.clone());
    let settings = Settings::new(&ca)
        .trust(&ca, &format!("crls = [\"{}/*.crl\"]", folder.display()))
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let (caller, other) = (ca.client(CALLER), ca.client("/ns/shop/sa/other"));
    let client = gateway.client(HOST).with(&caller);
    let bystander = gateway.client(HOST).with(&other);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let newer = Crl::new().number(2).revoke(caller.serial());
    write("issuing.crl", newer.signed_by(ca.intermediate()));
    refused(&client).await;

    let still = async |complaint: &str| {
        readyz(&gateway, complaint, true).await;
        assert_eq!(client.refusal().await.alert(), Some(44), "{complaint}");
        assert_eq!(
            bystander.get("/a").await.unwrap().status,
            200,
            "{complaint}"
        );
    };
    write("issuing.crl", first.clone());
    still("was refused: number").await;
    std::fs::remove_file(folder.join("issuing.crl")).unwrap();
    still("although no file holds it").await;
    std::fs::remove_file(folder.join("root.crl")).unwrap();
    still("no file matches").await;
    std::fs::remove_dir(&folder).unwrap();
    still("cannot list").await;
    // The CRL also stays in use after another change and after a reload of the configuration.
    std::fs::create_dir(&folder).unwrap();
    write("root.crl", Crl::new().number(3).signed_by(ca.root()));
    readyz(&gateway, "cannot list", false).await;
    readyz(&gateway, "no file matches", false).await;
    still("although no file holds it").await;
    let config = gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    replace(&config, format!("{text}\n# an edit\n"));
    reloaded(&gateway).await;
    still("although no file holds it").await;
    // A newer CRL replaces it as usual.
    let next = Crl::new().number(3).signed_by(ca.intermediate());
    write("issuing.crl", next);
    readyz(&gateway, "although no file holds it", false).await;
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

pub(super) async fn refused(client: &Client) {
    until("a refusal", async || client.get("/a").await.is_err()).await;
    assert_eq!(client.refusal().await.alert(), Some(44));
}

/// If the file of a CRL was removed, the CRL still becomes stale after its nextUpdate.
#[tokio::test]
async fn a_list_whose_file_is_gone_ends_with_its_next_update() {
    let ca = TestCa::new("example.org");
    let lists = RevocationLists::of(&ca);
    lists.publish(&ca, Crl::new().valid(-60, 4));
    let world = World::of(ca, |settings, ca, echo| {
        settings.trust(ca, &lists.setting()).everything_to(echo)
    })
    .await;
    let (gateway, client) = (&world.gateway, world.client());
    std::fs::remove_file(&lists.issuing).unwrap();
    readyz(gateway, "although no file holds it", true).await;
    until("the end of the list", async || {
        client.get("/a").await.is_err()
    })
    .await;
    gateway.audit().handshake("revocation-stale").await;
}

/// A certificate and its key take effect only together: a new certificate waits for its key.
#[tokio::test]
async fn a_certificate_and_its_key_take_effect_together() {
    let world = World::open().await;
    let fresh = TestCa::new("example.org").server(&[HOST, "localhost"]);
    let (certificate, key) = (
        world.gateway.directory().join("gateway.pem"),
        world.gateway.directory().join("gateway.key"),
    );
    let before = world.client().connect().await.unwrap().server_certificate();
    replace(&certificate, fresh.chain_pem());
    readyz(&world.gateway, "does not belong to", true).await;
    assert_eq!(
        world.client().connect().await.unwrap().server_certificate(),
        before
    );
    replace(&key, fresh.key_pem());
    readyz(&world.gateway, "material-unreadable", false).await;
    until("the new certificate", async || {
        world.client().connect().await.unwrap().server_certificate() != before
    })
    .await;
}
