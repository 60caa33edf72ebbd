//! Revocation lists without number, without nextUpdate, of version 1, and of one kind of
//! certificates: they revoke as all others do, if the trust domain accepts them, and an older
//! one is never used in place of a newer one.

use std::path::PathBuf;
use std::process::Command;

use countersign_testkit::gateway::plain;
use countersign_testkit::skipped::tool;
use countersign_testkit::{
    Authority, Credentials, Crl, Echo, Gateway, Item, Settings, Shelf, TestCa, until,
};

use crate::support::{BINARY, CALLER, HOST, readyz, replace, streaming};

const NO_NUMBER: &str = "crl_number = \"optional\"";
const WITH_AGE: &str = "max_age = \"12h\"";

/// A gateway with the issuing authority's list in a file.
struct Place {
    ca: TestCa,
    list: PathBuf,
    revoked: Credentials,
    gateway: Gateway,
    echo: Echo,
}

/// The settings of a gateway with the list of the root, and that of the intermediate in a
/// file of its own. `keys` are those of the trust domain.
fn settings(ca: &TestCa, root_list: Crl, list: &[u8], keys: &str, echo: &Echo) -> Settings {
    let root = ca.write("root.crl", root_list.signed_by(ca.root()));
    let list = ca.write("issuing.crl", list);
    let crls = format!("crls = [{root:?}, {list:?}]\n{keys}");
    Settings::new(ca)
        .trust(ca, &crls)
        .everything_to(echo.address())
}

impl Place {
    async fn new(keys: &str, list: impl FnOnce(&Authority, &[u8]) -> Vec<u8>) -> Self {
        let ca = TestCa::new("example.org");
        let revoked = ca.client(CALLER);
        let list = list(ca.intermediate(), revoked.serial());
        let echo = Echo::start().await;
        let settings = settings(&ca, Crl::new(), &list, keys, &echo);
        Self {
            list: ca.directory().join("issuing.crl"),
            revoked,
            gateway: Gateway::start(BINARY, &settings).await,
            echo,
            ca,
        }
    }

    async fn expect_revoked(&self, context: &str) {
        let client = self.gateway.client(HOST).with(&self.revoked);
        let refusal = client.refusal().await;
        assert_eq!(refusal.alert(), Some(44), "{context}: {refusal}");
        let other = self.gateway.client(HOST).with(&self.ca.client("/other"));
        assert_eq!(other.get("/a").await.unwrap().status, 200, "{context}");
    }

    fn publish(&self, list: Crl) {
        replace(&self.list, list.signed_by(self.ca.intermediate()));
    }
}

/// Lists as other programs make them, the keys that accept them, and what is said of them
/// without these keys.
fn kinds() -> Vec<(Crl, &'static [&'static str], &'static str)> {
    let both: &[&str] = &[NO_NUMBER, WITH_AGE];
    vec![
        (Crl::new().version_1(), &both[..1], "of version 1"),
        (Crl::new().without_number(), &both[..1], "no number"),
        (Crl::new().without_extensions(), &both[..1], "no number"),
        (Crl::new().without_next_update(), &both[1..], "(nextUpdate)"),
        (
            Crl::new().version_1().without_next_update(),
            both,
            "of version 1",
        ),
        (
            Crl::new().without_extensions().without_next_update(),
            both,
            "no number",
        ),
    ]
}

#[tokio::test]
async fn lists_that_lack_something_revoke_if_the_trust_domain_accepts_them() {
    for (list, keys, complaint) in kinds() {
        let place = Place::new(&keys.join("\n"), |issuer, serial| {
            list.clone().revoke(&[1]).revoke(serial).signed_by(issuer)
        })
        .await;
        place.expect_revoked(complaint).await;
        let ready = plain(place.gateway.admin(), "GET", "/readyz", &[]).await;
        assert!(!ready.body.contains("revocation list"), "{}", ready.body);

        // Without one of the keys the list is refused, with the key as the remedy.
        let der = list.signed_by(place.ca.intermediate());
        for missing in keys {
            let others: Vec<&str> = keys.iter().filter(|key| *key != missing).copied().collect();
            let settings = settings(&place.ca, Crl::new(), &der, &others.join("\n"), &place.echo);
            let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
            assert_eq!(failure.status.code(), Some(2), "{failure}");
            let key = missing.split(' ').next().unwrap();
            assert!(failure.stderr.contains(key), "{missing}: {failure}");
            assert!(failure.stderr.contains("issuing.crl"), "{failure}");
        }
    }
}

#[tokio::test]
async fn a_list_of_callers_alone_covers_callers_and_no_authorities() {
    let place = Place::new("", |issuer, serial| {
        let list = Crl::new().revoke(serial).for_callers_only();
        list.signed_by(issuer)
    })
    .await;
    place.expect_revoked("about callers alone").await;

    // The intermediate's status is in the root's list.
    let issuing = Crl::new().signed_by(place.ca.intermediate());
    for (of_root, expected) in [
        (Crl::new().for_authorities_only(), None),
        (Crl::new().for_callers_only(), Some(48)),
        (
            Crl::new()
                .for_authorities_only()
                .revoke(&place.ca.intermediate().serial()),
            Some(44),
        ),
    ] {
        let settings = settings(&place.ca, of_root, &issuing, "", &place.echo);
        let gateway = Gateway::start(BINARY, &settings).await;
        let client = gateway.client(HOST).with(&place.ca.client("/other"));
        match expected {
            None => assert_eq!(client.get("/a").await.unwrap().status, 200),
            Some(alert) => assert_eq!(client.refusal().await.alert(), Some(alert)),
        }
    }
}

#[tokio::test]
async fn a_list_that_is_not_accepted_leaves_the_one_in_use() {
    let place = Place::new("", |issuer, serial| {
        let list = Crl::new().number(3).revoke(serial);
        list.signed_by(issuer)
    })
    .await;
    for (list, complaint) in [
        (Crl::new().version_1(), "of version 1"),
        (Crl::new().without_number(), "no number"),
        (Crl::new().number(9).without_next_update(), "(nextUpdate)"),
    ] {
        place.publish(list);
        let ready = readyz(&place.gateway, complaint, true).await;
        assert!(ready.to_string().contains("material-unreadable"), "{ready}");
        place.expect_revoked(complaint).await;
        place.publish(Crl::new().number(4).revoke(place.revoked.serial()));
        readyz(&place.gateway, complaint, false).await;
        place.expect_revoked(complaint).await;
    }
}

/// A distribution point with a URI that is not ASCII.
#[tokio::test]
async fn a_list_for_a_point_whose_name_cannot_be_read_shows_nothing_of_others() {
    let point = [0x30, 7, 0xa0, 5, 0xa0, 3, 0x86, 1, 0xff];
    let place = Place::new("", |issuer, _| {
        let list = Crl::new().issuing_distribution_point(&point);
        list.signed_by(issuer)
    })
    .await;
    let client = place.gateway.client(HOST).with(&place.revoked);
    assert_eq!(client.refusal().await.alert(), Some(48));
}

/// Lists as OpenSSL makes them unless its configuration says `crl_extensions`.
#[tokio::test]
async fn a_list_that_openssl_makes_by_default_revokes() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let list = list_by_openssl(&ca, &revoked);
    if !tool("openssl", list.is_some()) {
        return;
    }
    let list = list.unwrap();
    let echo = Echo::start().await;
    let strict = settings(&ca, Crl::new(), &list, "", &echo);
    let failure = Gateway::try_start(BINARY, &strict).await.unwrap_err();
    assert!(failure.stderr.contains("of version 1"), "{failure}");
    let settings = settings(&ca, Crl::new(), &list, NO_NUMBER, &echo);
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&revoked);
    assert_eq!(client.refusal().await.alert(), Some(44));
    let other = gateway.client(HOST).with(&ca.client("/other"));
    assert_eq!(other.get("/a").await.unwrap().status, 200);
}

fn list_by_openssl(ca: &TestCa, revoked: &Credentials) -> Option<Vec<u8>> {
    let serial = revoked.serial_hex().to_uppercase();
    let index = format!("R\t301231235959Z\t260101000000Z\t{serial}\tunknown\t/CN=leaf\n");
    let index = ca.write("index.txt", index);
    let configuration = format!(
        "[ca]\ndefault_ca = one\n[one]\ndatabase = {}\ndefault_md = sha256\ndefault_crl_days = 7\n",
        index.display()
    );
    let list = ca.directory().join("openssl.crl");
    let made = Command::new("openssl")
        .args(["ca", "-gencrl", "-config"])
        .arg(ca.write("openssl.cnf", configuration))
        .arg("-cert")
        .arg(ca.write("issuer.pem", ca.intermediate().pem()))
        .arg("-keyfile")
        .arg(ca.write("issuer.key", ca.intermediate().key_pem()))
        .arg("-out")
        .arg(&list)
        .output()
        .ok()?;
    assert!(made.status.success(), "{made:?}");
    Some(std::fs::read(list).unwrap())
}

/// What replaces a list without number has a later thisUpdate, with or without a number.
#[tokio::test]
async fn a_list_without_number_gives_way_to_a_later_one_only() {
    let current = Crl::new().valid(-3_600, 90_000).without_number();
    let place = Place::new(NO_NUMBER, |issuer, serial| {
        current.clone().revoke(serial).signed_by(issuer)
    })
    .await;
    place.expect_revoked("at first").await;
    let genuine = std::fs::read(&place.list).unwrap();
    let refused = [
        // The same second, and other bytes.
        current.clone(),
        current.clone().version_1(),
        Crl::new().valid(-3_700, 90_000).without_number(),
        Crl::new().valid(-7_200, 90_000).version_1(),
        // A number does not make an older list newer.
        Crl::new().valid(-7_200, 90_000).number(9),
    ];
    for list in refused {
        let shown = format!("{list:?}");
        place.publish(list);
        let ready = readyz(&place.gateway, "was refused", true).await;
        assert!(ready.to_string().contains("is not later than"), "{ready}");
        place.expect_revoked(&shown).await;
        replace(&place.list, &genuine);
        readyz(&place.gateway, "was refused", false).await;
        place.expect_revoked("the same bytes again").await;
    }

    // The next one takes the revocation back, and one with a number brings it again.
    let client = place.gateway.client(HOST).with(&place.revoked);
    place.publish(Crl::new().valid(-1_800, 90_000).without_number());
    until("the next list", async || client.get("/a").await.is_ok()).await;
    let mut stream = streaming(&client).await;
    let numbered = Crl::new().valid(-900, 90_000).number(1);
    place.publish(numbered.revoke(place.revoked.serial()));
    assert!(stream.read_until(|_| false).await.closed);
    place.expect_revoked("by a list with a number").await;
    // Back to the one before it is a roll-back.
    place.publish(Crl::new().valid(-1_800, 90_000).without_number());
    readyz(&place.gateway, "was refused", true).await;
    place.expect_revoked("after the roll-back").await;
}

#[tokio::test]
async fn numbers_count_where_both_lists_have_one_although_they_are_optional() {
    let place = Place::new(NO_NUMBER, |issuer, serial| {
        let list = Crl::new().number(5).valid(-3_600, 90_000);
        list.revoke(serial).signed_by(issuer)
    })
    .await;
    // This path contains the key that verifies both lists.
    place.expect_revoked("at first").await;
    place.publish(Crl::new().number(4).valid(-60, 90_000));
    let ready = readyz(&place.gateway, "was refused", true).await;
    assert!(ready.to_string().contains("lower than"), "{ready}");
    place.expect_revoked("a lower number").await;
}

#[tokio::test]
async fn an_older_list_without_number_by_url_is_not_used_also_after_a_restart() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let echo = Echo::start().await;
    let current = Crl::new().valid(-3_600, 90_000).without_number();
    let genuine = current.clone().revoke(revoked.serial());
    let genuine = genuine.signed_by(ca.intermediate());
    let shelf = Shelf::start(&ca.server(&["localhost"]), Item::Document(genuine.clone())).await;
    let directory = tempfile::tempdir().unwrap();
    let root = ca.write("root.crl", Crl::new().signed_by(ca.root()));
    let crls = format!("crls = [{root:?}, \"{}\"]\n{NO_NUMBER}", shelf.url());
    let settings = Settings::new(&ca)
        .trust(&ca, &crls)
        .set("crl_fetch", "roots", &format!("[{:?}]", ca.root_file()))
        .set("crl_fetch", "interval", "\"1s\"")
        .set("crl_fetch", "directory", &format!("{:?}", directory.path()))
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let copies = || {
        let files = std::fs::read_dir(directory.path()).unwrap();
        let mut files = files.map(|file| file.unwrap().path());
        files.any(|file| file.extension().is_some_and(|end| end == "crl"))
    };
    until("the copy on disk", async || copies()).await;
    let expect_revoked = async |gateway: &Gateway, context: &str| {
        let client = gateway.client(HOST).with(&revoked);
        assert_eq!(client.refusal().await.alert(), Some(44), "{context}");
        let other = gateway.client(HOST).with(&ca.client("/other"));
        assert_eq!(other.get("/a").await.unwrap().status, 200, "{context}");
    };
    let older = Crl::new().valid(-7_200, 90_000).without_number();
    for list in [current, older] {
        shelf.put(Item::Document(list.signed_by(ca.intermediate())));
        readyz(&gateway, "is not later than", true).await;
        expect_revoked(&gateway, "while it runs").await;
    }
    drop(gateway);
    let gateway = Gateway::start(BINARY, &settings).await;
    readyz(&gateway, "is not later than", true).await;
    expect_revoked(&gateway, "after a restart").await;
    shelf.put(Item::Document(genuine));
    readyz(&gateway, "is not later than", false).await;
    expect_revoked(&gateway, "by the genuine one").await;
}

#[tokio::test]
async fn a_list_without_next_update_is_stale_after_max_age() {
    for (posture, refused) in [("hard", Some(48)), ("soft", None)] {
        let keys = format!("max_age = \"8s\"\nrevocation = \"{posture}\"");
        let place = Place::new(&keys, |issuer, serial| {
            let list = Crl::new().valid(-1, 90_000).without_next_update();
            list.revoke(serial).signed_by(issuer)
        })
        .await;
        let client = place.gateway.client(HOST).with(&place.ca.client("/other"));
        assert_eq!(client.get("/a").await.unwrap().status, 200);
        readyz(&place.gateway, "is to be replaced by", true).await;
        let ready = readyz(&place.gateway, "is stale", true).await;
        assert!(ready.to_string().contains("crl-stale"), "{ready}");
        match refused {
            Some(alert) => assert_eq!(client.refusal().await.alert(), Some(alert)),
            None => assert_eq!(client.get("/a").await.unwrap().status, 200),
        }
        // Who is on it stays revoked.
        let revoked = place.gateway.client(HOST).with(&place.revoked);
        assert_eq!(revoked.refusal().await.alert(), Some(44), "{posture}");
        place.publish(
            Crl::new()
                .number(2)
                .valid(0, 90_000)
                .revoke(place.revoked.serial()),
        );
        readyz(&place.gateway, "is stale", false).await;
        place.expect_revoked("by the next one").await;
    }
}

#[tokio::test]
async fn keys_about_lists_need_lists_and_values_within_bounds() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let list = Crl::new().signed_by(ca.intermediate());
    for (keys, complaint) in [
        ("max_age = \"0s\"", "max_age"),
        ("max_age = \"9000h\"", "out of bounds"),
        ("crl_number = \"none\"", "expected one of"),
    ] {
        let settings = settings(&ca, Crl::new(), &list, keys, &echo);
        let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
        assert!(failure.stderr.contains(complaint), "{keys}: {failure}");
    }
    for key in [NO_NUMBER, WITH_AGE] {
        let settings = Settings::new(&ca)
            .trust(&ca, &format!("revocation = \"off\"\n{key}"))
            .everything_to(echo.address());
        let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
        assert!(failure.stderr.contains("is about crls"), "{key}: {failure}");
    }
}
