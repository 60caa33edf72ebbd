//! CRLs that the gateway fetches by URL, CRLs that become stale, and files that are not CRLs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_testkit::gateway::plain;
use countersign_testkit::{
    Credentials, Crl, Echo, Gateway, Item, Settings, Shelf, TestCa, in_time, until,
};

use crate::support::{BINARY, CALLER, HOST, readyz, replace, streaming};

/// An authority, a caller, a service, and an https server that serves the intermediate's CRL.
struct Fetching {
    ca: TestCa,
    caller: Credentials,
    shelf: Shelf,
    echo: Echo,
}

impl Fetching {
    async fn new() -> Self {
        let ca = TestCa::new("example.org");
        let item = Item::Document(Crl::new().signed_by(ca.intermediate()));
        Self {
            caller: ca.client(CALLER),
            shelf: Shelf::start(&ca.server(&["localhost"]), item).await,
            echo: Echo::start().await,
            ca,
        }
    }

    fn settings(&self, more: &[(&'static str, &str)]) -> Settings {
        let root = self
            .ca
            .write("root.crl", Crl::new().signed_by(self.ca.root()));
        let crls = format!("[\"{}\", \"{}\"]", root.display(), self.shelf.url());
        self.settings_for(&crls, more)
    }

    fn settings_for(&self, crls: &str, more: &[(&'static str, &str)]) -> Settings {
        let roots = format!("[\"{}\"]", self.ca.root_file().display());
        let settings = Settings::new(&self.ca)
            .trust(&self.ca, &format!("crls = {crls}"))
            .set("public", "serve", "[\"keys\", \"metrics\"]")
            .set("crl_fetch", "roots", &roots)
            .set("crl_fetch", "interval", "\"1s\"")
            .everything_to(self.echo.address());
        more.iter().fold(settings, |settings, (key, value)| {
            settings.set("crl_fetch", key, value)
        })
    }

    async fn start(&self) -> Gateway {
        Gateway::start(BINARY, &self.settings(&[])).await
    }

    fn revoking(&self, number: u8) -> Vec<u8> {
        let list = Crl::new().number(number).revoke(self.caller.serial());
        list.signed_by(self.ca.intermediate())
    }
}

/// Waits until the log contains this text.
async fn logged(gateway: &Gateway, wanted: &str) {
    until(wanted, async || gateway.stderr().contains(wanted)).await;
}

/// Waits until a copy of a CRL was renamed to its final name.
async fn copy_is_kept(directory: &Path) {
    until("the copy on disk", async || {
        let mut files = std::fs::read_dir(directory).unwrap();
        files.any(|file| {
            file.unwrap()
                .path()
                .extension()
                .is_some_and(|end| end == "crl")
        })
    })
    .await;
}

async fn metric(gateway: &Gateway, wanted: &str) {
    in_time(wanted, async {
        loop {
            let answer = plain(gateway.public(), "GET", "/metrics", &[]).await;
            if answer.body.lines().any(|line| line == wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_list_by_url_is_fetched_anew_and_ends_connections() {
    let world = Fetching::new().await;
    let gateway = world.start().await;
    let client = gateway.client(HOST).with(&world.caller);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let mut stream = streaming(&client).await;
    world.shelf.put(Item::Document(world.revoking(2)));
    assert!(stream.read_until(|_| false).await.closed);
    assert_eq!(client.refusal().await.alert(), Some(44));
    let line = gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["reason"], "certificate-revoked", "{line}");
}

#[tokio::test]
async fn what_is_no_better_than_the_last_good_list_changes_nothing_but_alarms() {
    let world = Fetching::new().await;
    let stranger = TestCa::new("example.org");
    world.shelf.put(Item::Document(world.revoking(5)));
    let gateway = Gateway::start(
        BINARY,
        &world.settings(&[("timeout", "\"500ms\""), ("size", "\"100KiB\"")]),
    )
    .await;
    let client = gateway.client(HOST).with(&world.caller);
    let other = gateway.client(HOST).with(&world.ca.client("/other"));
    let current = world.revoking(5);
    for (item, complaint) in [
        (Item::Status(503), "status 503"),
        (Item::Silence(Duration::from_secs(60)), "in time"),
        (Item::Endless(10 << 20), "more octets"),
        (Item::Document(b"<html>".to_vec()), "no revocation list"),
        (Item::Document(Vec::new()), "no revocation list"),
        (
            Item::Document(current[..current.len() - 9].to_vec()),
            "list stays",
        ),
        (
            Item::Document(Crl::new().number(9).signed_by(stranger.intermediate())),
            "signed by none",
        ),
        (
            Item::Document(Crl::new().number(4).signed_by(world.ca.intermediate())),
            "lower than",
        ),
    ] {
        world.shelf.put(item);
        match complaint {
            "list stays" => logged(&gateway, complaint).await,
            _ => drop(readyz(&gateway, complaint, true).await),
        }
        assert_eq!(client.refusal().await.alert(), Some(44), "{complaint}");
        assert_eq!(other.get("/a").await.unwrap().status, 200, "{complaint}");
        world.shelf.put(Item::Document(current.clone()));
        readyz(&gateway, "localhost", false).await;
    }
}

#[tokio::test]
async fn a_start_needs_a_list_or_the_copy_of_before() {
    let world = Fetching::new().await;
    let directory = tempfile::tempdir().unwrap();
    let kept = format!("\"{}\"", directory.path().display());
    let settings = world.settings(&[("directory", &kept)]);
    world.shelf.put(Item::Document(world.revoking(2)));
    let gateway = Gateway::start(BINARY, &settings).await;
    copy_is_kept(directory.path()).await;
    drop(gateway);

    world.shelf.put(Item::Status(500));
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&world.caller);
    assert_eq!(client.refusal().await.alert(), Some(44));
    readyz(&gateway, "status 500", true).await;

    let failure = Gateway::try_start(BINARY, &world.settings(&[])).await;
    let failure = failure.unwrap_err();
    assert_eq!(failure.status.code(), Some(2), "{failure}");
    assert!(failure.stderr.contains("cannot be fetched"), "{failure}");
}

#[tokio::test]
async fn a_restart_does_not_take_back_what_was_revoked() {
    let world = Fetching::new().await;
    let directory = tempfile::tempdir().unwrap();
    let kept = format!("\"{}\"", directory.path().display());
    let settings = world.settings(&[("directory", &kept)]);
    world.shelf.put(Item::Document(world.revoking(5)));
    let gateway = Gateway::start(BINARY, &settings).await;
    copy_is_kept(directory.path()).await;
    drop(gateway);

    let clean = |number| Crl::new().number(number);
    for (came, complaint) in [
        (clean(4).signed_by(world.ca.intermediate()), "lower than"),
        (clean(9).signed_by(world.ca.root()), "leaves out"),
        (b"<html>".to_vec(), "no revocation list"),
    ] {
        world.shelf.put(Item::Document(came));
        // A second start does not lose the CRL that the first start has kept.
        for _ in 0..2 {
            let gateway = Gateway::start(BINARY, &settings).await;
            logged(&gateway, complaint).await;
            readyz(&gateway, complaint, true).await;
            let client = gateway.client(HOST).with(&world.caller);
            assert_eq!(client.refusal().await.alert(), Some(44), "{complaint}");
        }
    }
    let list = clean(6).signed_by(world.ca.intermediate());
    world.shelf.put(Item::Document(list));
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&world.caller);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_damaged_copy_does_not_take_the_others_protection_away() {
    let world = Fetching::new().await;
    let of_root = Crl::new().signed_by(world.ca.root());
    let item = Item::Document(of_root.clone());
    let second = Shelf::start(&world.ca.server(&["localhost"]), item).await;
    let directory = tempfile::tempdir().unwrap();
    let crls = format!("[\"{}\", \"{}\"]", second.url(), world.shelf.url());
    let kept = format!("\"{}\"", directory.path().display());
    let settings = world.settings_for(&crls, &[("directory", &kept)]);
    world.shelf.put(Item::Document(world.revoking(5)));
    let gateway = Gateway::start(BINARY, &settings).await;
    let copies = || {
        let files = std::fs::read_dir(directory.path()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "crl"))
    };
    until("both copies", async || copies().count() >= 2).await;
    drop(gateway);

    let damaged = copies()
        .find(|path| std::fs::read(path).unwrap() == of_root)
        .expect("the root's list as it came");
    std::fs::write(damaged, [&[0x30, 0x82, 0xff][..], &of_root[..40]].concat()).unwrap();
    let older = Crl::new().number(4).signed_by(world.ca.intermediate());
    world.shelf.put(Item::Document(older));
    let gateway = Gateway::start(BINARY, &settings).await;
    logged(&gateway, "is damaged").await;
    logged(&gateway, "lower than").await;
    let client = gateway.client(HOST).with(&world.caller);
    assert_eq!(client.refusal().await.alert(), Some(44));
}

#[tokio::test]
async fn what_names_other_issuers_does_not_drop_the_list_in_use() {
    let world = Fetching::new().await;
    let stranger = TestCa::new("example.com");
    world.shelf.put(Item::Document(world.revoking(5)));
    let gateway = world.start().await;
    let client = gateway.client(HOST).with(&world.caller);
    for list in [
        Crl::new().number(9).signed_by(stranger.root()),
        Crl::new().number(9).signed_by(world.ca.root()),
    ] {
        world.shelf.put(Item::Document(list));
        readyz(&gateway, "leaves out the list", true).await;
        assert_eq!(client.refusal().await.alert(), Some(44));
        world.shelf.put(Item::Document(world.revoking(5)));
        readyz(&gateway, "leaves out the list", false).await;
    }
}

#[tokio::test]
async fn a_fetched_list_is_in_service_although_the_configuration_on_disk_is_broken() {
    let world = Fetching::new().await;
    let gateway = world.start().await;
    let client = gateway.client(HOST).with(&world.caller);
    let mut stream = streaming(&client).await;
    replace(&gateway.config_file(), b"[nonsense");
    readyz(&gateway, "configuration-refused", true).await;
    world.shelf.put(Item::Document(world.revoking(2)));
    assert!(stream.read_until(|_| false).await.closed);
    assert_eq!(client.refusal().await.alert(), Some(44));
    readyz(&gateway, "configuration-refused", true).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_delays_no_other_list() {
    let world = Fetching::new().await;
    let item = Item::Document(Crl::new().signed_by(world.ca.root()));
    let silent = Shelf::start(&world.ca.server(&["localhost"]), item).await;
    let crls = format!("[\"{}\", \"{}\"]", silent.url(), world.shelf.url());
    let settings = world.settings_for(&crls, &[("timeout", "\"60s\"")]);
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&world.caller);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    silent.put(Item::Silence(Duration::from_secs(600)));
    let asked = silent.asked();
    until("a fetch that does not end", async || {
        silent.asked() != asked
    })
    .await;
    world.shelf.put(Item::Document(world.revoking(2)));
    // The revocation must take effect long before the fetch from the silent server times out.
    let revoked = tokio::time::timeout(Duration::from_secs(20), async {
        while client.get("/a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(revoked.await.is_ok(), "{}", gateway.stderr());
    assert_eq!(client.refusal().await.alert(), Some(44));
}

#[tokio::test]
async fn servers_that_no_configured_root_vouches_for_are_not_believed() {
    let world = Fetching::new().await;
    let stranger = TestCa::new("stranger.test");
    let roots = format!("[\"{}\"]", stranger.root_file().display());
    let failure = Gateway::try_start(BINARY, &world.settings(&[("roots", &roots)])).await;
    let failure = failure.unwrap_err();
    assert!(failure.stderr.contains("cannot be fetched"), "{failure}");
    assert_eq!(world.shelf.asked(), 0);
    let plain = Settings::new(&world.ca)
        .trust(&world.ca, "crls = [\"http://localhost/list.crl\"]")
        .everything_to(world.echo.address());
    let failure = Gateway::try_start(BINARY, &plain).await.unwrap_err();
    assert!(failure.stderr.contains("by https only"), "{failure}");
}

/// Starts a gateway with the CRL of the issuing authority in a file.
async fn with_file(ca: &TestCa, list: &Path, posture: &str) -> (Gateway, Echo) {
    let echo = Echo::start().await;
    let root = ca.write("root.crl", Crl::new().signed_by(ca.root()));
    let more = format!(
        "crls = [\"{}\", \"{}\"]\nrevocation = \"{posture}\"",
        root.display(),
        list.display()
    );
    let settings = Settings::new(ca)
        .trust(ca, &more)
        .set("public", "serve", "[\"keys\", \"metrics\"]")
        .everything_to(echo.address());
    (Gateway::start(BINARY, &settings).await, echo)
}

#[tokio::test]
async fn a_list_that_should_have_been_replaced_is_alarmed_from_half_of_its_time() {
    let ca = TestCa::new("example.org");
    let list = Crl::new().valid(-2, 4).signed_by(ca.intermediate());
    let list = ca.write("issuing.crl", list);
    let (gateway, _echo) = with_file(&ca, &list, "hard").await;
    let ready = readyz(&gateway, "is to be replaced by", true).await;
    assert_eq!(ready["problems"][0]["code"], "crl-half-life", "{ready}");
    assert_eq!(ready["status"], "ready", "callers are served: {ready}");
    logged(&gateway, "is to be replaced by").await;
    metric(
        &gateway,
        "countersign_revocation_lists{trust_domain=\"example.org\",freshness=\"due\"} 1",
    )
    .await;
    let client = gateway.client(HOST).with(&ca.client(CALLER));
    assert_eq!(client.get("/a").await.unwrap().status, 200);

    readyz(&gateway, "is stale", true).await;
    logged(&gateway, "is stale").await;
    metric(
        &gateway,
        "countersign_revocation_lists{trust_domain=\"example.org\",freshness=\"stale\"} 1",
    )
    .await;
    assert_eq!(client.refusal().await.alert(), Some(48));

    let next = Crl::new().number(2).valid(-1, 3600);
    replace(&list, next.signed_by(ca.intermediate()));
    readyz(&gateway, "is stale", false).await;
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_bad_list_at_reload_leaves_the_last_good_one() {
    let ca = TestCa::new("example.org");
    let stranger = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let good = |number: u8| Crl::new().number(number).revoke(revoked.serial());
    let list = ca.write("issuing.crl", good(3).signed_by(ca.intermediate()));
    let (gateway, _echo) = with_file(&ca, &list, "hard").await;
    let client = gateway.client(HOST).with(&revoked);
    let other = gateway.client(HOST).with(&ca.client("/other"));
    let der = good(4).signed_by(ca.intermediate());
    let mut garbage = vec![0x30; 100 << 20];
    garbage[1] = 0x84;
    for (content, complaint) in [
        (Vec::new(), "is empty"),
        (
            der[..der.len() / 2].to_vec(),
            "a revocation list cannot be used",
        ),
        (garbage, "a revocation list cannot be used"),
        (
            b"-----BEGIN X509 CRL-----\nAAAA\n".to_vec(),
            "has no -----END X509 CRL-----",
        ),
        (
            Crl::new().number(9).signed_by(stranger.intermediate()),
            "no signature that can be verified",
        ),
        (
            Crl::new().number(2).signed_by(ca.intermediate()),
            "was refused",
        ),
        (
            Crl::new()
                .number(9)
                .valid(3600, 7200)
                .signed_by(ca.intermediate()),
            "is valid only from",
        ),
        (
            good(9).delta().signed_by(ca.intermediate()),
            "a revocation list cannot be used",
        ),
        (
            good(9).indirect().signed_by(ca.intermediate()),
            "a revocation list cannot be used",
        ),
    ] {
        replace(&list, &content);
        readyz(&gateway, complaint, true).await;
        assert_eq!(client.refusal().await.alert(), Some(44), "{complaint}");
        assert_eq!(other.get("/a").await.unwrap().status, 200, "{complaint}");
        replace(&list, good(3).signed_by(ca.intermediate()));
        readyz(&gateway, complaint, false).await;
    }
}

#[tokio::test]
async fn lists_that_vanish_leave_the_last_good_ones() {
    let ca = TestCa::new("example.org");
    let directory = tempfile::tempdir().unwrap();
    let lists: PathBuf = directory.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    let revoked = ca.client(CALLER);
    let list = Crl::new().revoke(revoked.serial());
    std::fs::write(lists.join("a.crl"), list.signed_by(ca.intermediate())).unwrap();
    std::fs::write(lists.join("b.crl"), Crl::new().signed_by(ca.root())).unwrap();
    let echo = Echo::start().await;
    let settings = Settings::new(&ca)
        .trust(&ca, &format!("crls = [\"{}/*.crl\"]", lists.display()))
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&revoked);
    let other = gateway.client(HOST).with(&ca.client("/other"));
    assert_eq!(client.refusal().await.alert(), Some(44));

    std::fs::rename(&lists, directory.path().join("away")).unwrap();
    readyz(&gateway, "cannot list", true).await;
    assert_eq!(client.refusal().await.alert(), Some(44));
    assert_eq!(other.get("/a").await.unwrap().status, 200);
    std::fs::rename(directory.path().join("away"), &lists).unwrap();
    readyz(&gateway, "cannot list", false).await;

    // At the start, the same error prevents the gateway from starting.
    std::fs::rename(&lists, directory.path().join("away")).unwrap();
    let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
    assert_eq!(failure.status.code(), Some(2), "{failure}");
}

/// The roots of the servers from which CRLs are fetched are read again after a change, like all
/// trust material.
#[tokio::test]
async fn changed_roots_of_the_fetch_take_effect_without_a_reload() {
    let world = Fetching::new().await;
    let stranger = TestCa::new("example.org");
    let file = world.ca.write("fetch-roots.pem", world.ca.root().pem());
    let roots = format!("[\"{}\"]", file.display());
    let gateway = Gateway::start(BINARY, &world.settings(&[("roots", &roots)])).await;
    let client = gateway.client(HOST).with(&world.caller);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    replace(&file, stranger.root().pem());
    logged(&gateway, "it cannot be reached").await;
    world.shelf.put(Item::Document(world.revoking(2)));
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    replace(&file, world.ca.root().pem());
    until("the revocation", async || {
        client.connect().await.is_err() || client.get("/a").await.is_err()
    })
    .await;
    assert_eq!(client.refusal().await.alert(), Some(44));
}
