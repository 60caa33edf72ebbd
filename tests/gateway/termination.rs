//! Connections are closed when their identity or permission is no longer valid. A reload does not
//! affect other connections.

use std::time::{Duration, Instant};

use countersign_testkit::gateway::plain;
use countersign_testkit::{Crl, Leaf, Protocol, TestCa, TlsVersion};

use crate::support::{CALLER, World, readyz, replace, revocable, streaming};

/// The maximum time from writing a change to its effect on a caller: the interval between two
/// checks of the files, and one second that the gateway may take to apply the change.
const PATIENCE: Duration = Duration::from_millis(2500);

#[tokio::test]
async fn revocation_cuts_an_answer_in_the_middle_with_both_tls_versions() {
    for version in TlsVersion::BOTH {
        let (world, lists) = revocable().await;
        let mut connection = streaming(&world.client().tls(version)).await;
        let written = Instant::now();
        lists.revoke(&world.ca, &world.caller);
        let rest = connection.read_until(|_| false).await;
        assert!(rest.closed);
        assert!(written.elapsed() < PATIENCE, "{:?}", written.elapsed());
        assert!(!rest.octets.ends_with(b"0\r\n\r\n"), "it looks complete");
        let line = world.gateway.audit().request("/hang-mid-body").await;
        assert_eq!(line["complete"], false, "{line}");
        assert_eq!(line["reason"], "certificate-revoked", "{line}");
        let cut = world
            .gateway
            .audit()
            .line("a cut connection", |line| line["event"] == "connection")
            .await;
        assert_eq!(cut["reason"], "certificate-revoked", "{cut}");
        assert_eq!(cut["serial"], world.caller.serial_hex(), "{cut}");
        let refused = world.client().tls(version).refusal().await;
        assert_eq!(refused.alert(), Some(44), "{refused:?}");
    }
}

#[tokio::test]
async fn revocation_closes_idle_connections_of_that_caller_alone() {
    for protocol in Protocol::BOTH {
        let (world, lists) = revocable().await;
        let mut theirs = world.client().protocol(protocol).session().await.unwrap();
        let other = world.client_as("/ns/shop/sa/other").protocol(protocol);
        let mut others = other.session().await.unwrap();
        assert_eq!(theirs.get("/a").await.unwrap().status, 200);
        assert_eq!(others.get("/b").await.unwrap().status, 200);
        lists.revoke(&world.ca, &world.caller);
        world
            .gateway
            .audit()
            .line("a cut connection", |line| line["event"] == "connection")
            .await;
        assert!(theirs.get("/a").await.is_err(), "{protocol:?}");
        let answer = others.get("/b").await.unwrap();
        assert_eq!(answer.status, 200, "{protocol:?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_ends_its_connection() {
    let world = World::open().await;
    let leaf = Leaf::with_uri(&world.ca.spiffe(CALLER)).valid(-60, 3);
    let client = world.anonymous().with(&world.ca.issue(leaf));
    let mut connection = streaming(&client).await;
    assert!(connection.read_until(|_| false).await.closed);
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["reason"], "certificate-expired", "{line}");
}

#[tokio::test]
async fn a_request_that_is_cut_before_its_answer_says_why() {
    for protocol in Protocol::BOTH {
        let world = World::open().await;
        let leaf = Leaf::with_uri("spiffe://example.org/brief").valid(-60, 3);
        let brief = world.ca.issue(leaf);
        let client = world.anonymous().with(&brief).protocol(protocol);
        let task = tokio::spawn(async move { client.get("/hang").await });
        world.echo.arrived("/hang").await;
        assert!(task.await.unwrap().is_err());
        let line = world.gateway.audit().request("/hang").await;
        assert_eq!(line["reason"], "certificate-expired", "{line}");
        assert_eq!(line["decision"], "allowed");
        assert_eq!(line["complete"], false);
    }
}

#[tokio::test]
async fn a_removed_root_ends_its_connections() {
    let (world, _) = revocable().await;
    let mut connection = streaming(&world.client()).await;
    let other = TestCa::new("other.test");
    let config = world.gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    let changed = text
        .replace(
            &world.ca.root_file().display().to_string(),
            &other.root_file().display().to_string(),
        )
        .replace("revocation = \"hard\"", "revocation = \"off\"");
    replace(&config, changed);
    assert!(connection.read_until(|_| false).await.closed);
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["complete"], false, "{line}");
    assert_eq!(world.client().refusal().await.alert(), Some(48));
}

#[tokio::test]
async fn a_withdrawn_permission_cuts_what_it_permitted() {
    let world = World::open().await;
    let mut connection = streaming(&world.client()).await;
    let mut idle = world.client().session().await.unwrap();
    assert_eq!(idle.get("/a").await.unwrap().status, 200);
    let config = world.gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    replace(
        &config,
        text.replace(
            "callers = [\"*\"]",
            "callers = [\"spiffe://example.org/ops\"]",
        ),
    );
    assert!(connection.read_until(|_| false).await.closed);
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["reason"], "caller-not-allowed", "{line}");
    // The certificate is still valid, so that the idle connection gets a response with the reason.
    let answer = idle.get("/a").await.unwrap();
    assert_eq!(answer.reason(), Some("caller-not-allowed"));
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing_and_says_so_until_it_is_mended() {
    let world = World::open().await;
    let mut session = world.client().session().await.unwrap();
    assert_eq!(session.get("/a").await.unwrap().status, 200);
    let config = world.gateway.config_file();
    let good = std::fs::read_to_string(&config).unwrap();
    let ready = |wanted: &'static str| {
        let admin = world.gateway.admin();
        async move {
            let wait = async {
                loop {
                    let answer = plain(admin, "GET", "/readyz", &[]).await.json();
                    if answer.to_string().contains(wanted) {
                        return answer;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), wait)
                .await
                .unwrap_or_else(|_| panic!("/readyz never said {wanted}"))
        }
    };
    for (broken, complaint) in [
        (
            good.replace("roots = [\"", "roots = [\"/nowhere"),
            "/nowhere",
        ),
        (format!("{good}\n[surprise]\n"), "surprise"),
        (
            good.replacen("address = \"127.0.0.1:0\"", "address = \"127.0.0.2:0\"", 1),
            "cannot change while the gateway runs",
        ),
    ] {
        replace(&config, broken);
        let answer = ready(complaint).await;
        assert_eq!(answer["generation"], 1, "{answer}");
        assert_eq!(session.get("/a").await.unwrap().status, 200);
        assert_eq!(world.client().get("/b").await.unwrap().status, 200);
    }
    replace(&config, &good);
    let answer = ready("\"generation\":2").await;
    assert_eq!(answer["problems"].as_array().unwrap().len(), 0, "{answer}");
    // The session still uses the connection from the beginning of the test.
    assert_eq!(session.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_requirement_that_comes_later_holds_for_connections_that_are_open() {
    let world = World::open_to_all().await;
    let mut connection = streaming(&world.anonymous()).await;
    let config = world.gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    replace(&config, text.replace("\"optional\"", "\"required\""));
    assert!(connection.read_until(|_| false).await.closed);
    let cut = world
        .gateway
        .audit()
        .line("a cut connection", |line| line["event"] == "connection")
        .await;
    assert_eq!(cut["reason"], "no-certificate", "{cut}");
}

#[tokio::test]
async fn a_list_that_ends_earlier_than_the_one_before_ends_connections_in_time() {
    let (world, lists) = revocable().await;
    let mut connection = streaming(&world.client()).await;
    let short = Crl::new().number(2).valid(-3600, 3);
    lists.publish(&world.ca, short);
    assert!(connection.read_until(|_| false).await.closed);
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["reason"], "revocation-stale", "{line}");
}

#[tokio::test]
async fn the_public_listener_does_not_say_what_is_wrong_with_the_configuration() {
    let world = World::open().await;
    let config = world.gateway.config_file();
    let good = std::fs::read_to_string(&config).unwrap();
    replace(&config, format!("{good}\n[surprise]\n"));
    readyz(&world.gateway, "surprise", true).await;
    let public = plain(world.gateway.public(), "GET", "/readyz", &[]).await;
    assert_eq!(public.status, 200);
    assert!(!public.body.contains("surprise"), "{}", public.body);
    assert!(!public.body.contains("toml"), "{}", public.body);
}
