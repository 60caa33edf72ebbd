//! Trust changes while callers connect, receive responses, hold tunnels, or disconnect.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_testkit::client::get;
use countersign_testkit::gateway::plain;
use countersign_testkit::{
    Connection, Crl, Echo, Gateway, Protocol, Settings, Switching, TestCa, TlsVersion, in_time,
    until,
};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{
    BINARY, CALLER, HOST, RevocationLists, World, change, generation, readyz, replace, revocable,
    streaming,
};

/// The maximum time from writing a file: the interval until the gateway notices the change, the
/// time to load the file, and the promised second.
const PROMISED: Duration = Duration::from_millis(2500);

#[tokio::test]
async fn no_request_is_allowed_once_a_revocation_is_in_service() {
    let (world, lists) = revocable().await;
    let over = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for number in 0..8 {
        let version = TlsVersion::BOTH[number % 2];
        let protocol = Protocol::BOTH[number / 2 % 2];
        let client = world.client().tls(version).protocol(protocol);
        // Half of the clients resume sessions, so that both kinds of handshakes are tested.
        let client = if number < 4 {
            client.resuming()
        } else {
            client
        };
        let (over, count) = (Arc::clone(&over), Arc::clone(&count));
        callers.push(tokio::spawn(async move {
            let mut allowed = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let Ok(mut session) = client.session().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                for _ in 0..3 {
                    let asked = Instant::now();
                    match session.get("/a").await {
                        Ok(answer) if answer.status == 200 => {
                            allowed.push(asked);
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                        _ => break,
                    }
                }
            }
            allowed
        }));
    }
    let racing = async || count.load(Ordering::SeqCst) > 40;
    until("requests of all callers", racing).await;
    lists.revoke(&world.ca, &world.caller);
    generation(&world.gateway, 2).await;
    let in_service = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    over.store(true, Ordering::SeqCst);
    let log = world.gateway.stderr();
    assert_eq!(log.matches("in service").count(), 1, "{log}");
    for caller in callers {
        let too_late = caller
            .await
            .unwrap()
            .into_iter()
            .find(|asked| *asked >= in_service);
        assert!(
            too_late.is_none(),
            "{:?} too late\n{}",
            too_late.map(|asked| asked - in_service),
            world.gateway.stderr()
        );
    }
}

#[tokio::test]
async fn the_last_of_many_changes_in_a_row_counts() {
    let (world, lists) = revocable().await;
    let mut stream = streaming(&world.client()).await;
    // Some changes arrive while the gateway loads an earlier one.
    for number in 2..60 {
        let next = Crl::new().number(number);
        lists.publish(&world.ca, next);
        tokio::time::sleep(Duration::from_millis(u64::from(number % 7) * 9)).await;
    }
    let last = Crl::new().number(60).revoke(world.caller.serial());
    lists.publish(&world.ca, last);
    assert!(stream.read_until(|_| false).await.closed);
    assert_eq!(world.client().refusal().await.alert(), Some(44));
}

#[tokio::test]
async fn an_h2_stream_is_cut_within_the_promised_time() {
    let (world, lists) = revocable().await;
    let client = world.client().protocol(Protocol::Http2);
    let mut session = client.session().await.unwrap();
    let mut answer = session.start(get("/hang-mid-body")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let written = Instant::now();
    lists.revoke(&world.ca, &world.caller);
    let ended = in_time("the stream's end", async {
        loop {
            match answer.body_mut().frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    })
    .await;
    assert!(
        ended.is_some(),
        "a stream that is cut does not end properly"
    );
    assert!(written.elapsed() < PROMISED, "{:?}", written.elapsed());
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(line["reason"], "certificate-revoked", "{line}");
    assert_eq!(line["complete"], false, "{line}");
}

#[tokio::test]
async fn a_websocket_is_cut_within_the_promised_time() {
    for (version, spoken) in [
        (TlsVersion::V12, "http1"),
        (TlsVersion::V13, "http1"),
        (TlsVersion::V13, "h2"),
    ] {
        let ca = TestCa::new("example.org");
        let service = Switching::http2(true, None).await;
        let lists = RevocationLists::of(&ca);
        let settings = Settings::new(&ca)
            .trust(&ca, &lists.setting())
            .upstream_with(
                "orders",
                service.address(),
                &format!("protocol = \"{spoken}\"\n"),
            )
            .route(
                "orders",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"websocket\"]\n",
            );
        let gateway = Gateway::start(BINARY, &settings).await;
        let caller = ca.client(CALLER);
        let client = gateway.client(HOST).with(&caller).tls(version);
        let mut tunnel = client.connect().await.unwrap();
        let head = format!(
            "GET /socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        tunnel.write(head.as_bytes()).await.unwrap();
        let answer = tunnel.read_head().await;
        assert!(answer.text().contains(" 101 "), "{}", answer.text());
        tunnel.write(b"hello").await.unwrap();
        assert_eq!(tunnel.read_until(|o| o.len() >= 5).await.text(), "HELLO");
        let written = Instant::now();
        lists.revoke(&ca, &caller);
        assert!(tunnel.read_until(|_| false).await.closed);
        assert!(written.elapsed() < PROMISED, "{:?}", written.elapsed());
        let line = gateway.audit().request("/socket").await;
        assert_eq!(line["reason"], "certificate-revoked", "{line}");
        let method = service.heads()[0].split(' ').next().unwrap().to_owned();
        assert_eq!(method, if spoken == "h2" { "CONNECT" } else { "GET" });
        service.all_closed().await;
    }
}

#[tokio::test]
async fn bad_material_at_reload_changes_nothing() {
    let world = World::open().await;
    let mut session = world.client().session().await.unwrap();
    assert_eq!(session.get("/a").await.unwrap().status, 200);
    let root: PathBuf = world.ca.root_file();
    let key = world.gateway.directory().join("gateway.key");
    let stranger = TestCa::new("example.org").server(&[HOST]);
    for (file, bad, complaint) in [
        (&root, String::new(), "is empty"),
        (&root, "nothing\n".to_owned(), "holds no PEM certificate"),
        (
            &root,
            world.ca.root().pem().replace("-----END", "----END"),
            "first or last line of a PEM block",
        ),
        (&key, stranger.key_pem(), "does not belong to"),
        (&key, String::new(), "is empty"),
    ] {
        let good = std::fs::read(file).unwrap();
        replace(file, &bad);
        readyz(&world.gateway, complaint, true).await;
        assert_eq!(session.get("/a").await.unwrap().status, 200, "{complaint}");
        assert_eq!(world.client().get("/b").await.unwrap().status, 200);
        replace(file, &good);
        readyz(&world.gateway, complaint, false).await;
    }
    // The session still uses the connection from the beginning of the test.
    assert_eq!(session.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_storm_of_reloads_becomes_few_and_drops_nothing() {
    let world = World::with(|settings, echo| {
        settings
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await;
    let mut session = world.client().session().await.unwrap();
    assert_eq!(session.get("/a").await.unwrap().status, 200);
    let mut stream = streaming(&world.client()).await;
    let socket = world.gateway.directory().join("admin.sock");
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut stream = UnixStream::connect(socket).await.unwrap();
                let head = "POST /reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    for asked in asking {
        let answer = in_time("an answer", asked).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(session.get("/a").await.unwrap().status, 200);
    let ready = plain(world.gateway.admin(), "GET", "/readyz", &[])
        .await
        .json();
    let generation = ready["generation"].as_u64().unwrap();
    assert!(
        (2..50).contains(&generation),
        "{generation} for 100 requests"
    );
    // The stream is still open.
    let silent = stream.read_until_silent(Duration::from_millis(200)).await;
    assert!(!silent.closed);
}

#[tokio::test]
async fn a_handshake_that_began_before_a_reload_ends_by_what_holds_after_it() {
    for version in TlsVersion::BOTH {
        let world = World::open().await;
        let other = TestCa::new("other.test");
        // The gateway has accepted this connection, which has sent nothing yet.
        let early = TcpStream::connect(world.gateway.listener()).await.unwrap();
        let (old, new) = (world.ca.root_file(), other.root_file());
        let (old, new) = (old.display().to_string(), new.display().to_string());
        change(&world.gateway, |text| text.replace(&old, &new)).await;
        let client = world.client().tls(version);
        match client.connect_over(early).await {
            Err(_) => {}
            Ok(connection) => assert_refused(connection).await,
        }
        assert!(
            world
                .gateway
                .audit()
                .matching(|line| line["event"] == "request" && line["decision"] == "allowed")
                .is_empty()
        );
    }
}

async fn assert_refused(mut connection: Connection) {
    let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let _ = connection.write(request.as_bytes()).await;
    let answer = connection.read_until(|_| false).await;
    assert!(answer.closed);
    assert!(!answer.statuses().contains(&200), "{}", answer.text());
}

#[tokio::test]
async fn a_revocation_counts_while_the_gateway_drains() {
    let (mut world, lists) = revocable().await;
    let other = world.client_as("/ns/shop/sa/other");
    let mut cut = streaming(&world.client()).await;
    let mut kept = streaming(&other).await;
    world.gateway.terminate().await;
    until("draining to be announced", async || {
        let ready = plain(world.gateway.admin(), "GET", "/readyz", &[]).await;
        ready.body.contains("draining")
    })
    .await;
    lists.revoke(&world.ca, &world.caller);
    assert!(cut.read_until(|_| false).await.closed);
    let line = world
        .gateway
        .audit()
        .line("the caller's request", |line| {
            line["event"] == "request" && line["serial"] == world.caller.serial_hex()
        })
        .await;
    assert_eq!(line["reason"], "certificate-revoked", "{line}");
    let silent = kept.read_until_silent(Duration::from_millis(200)).await;
    assert!(!silent.closed, "others may finish");
    drop(kept);
    assert_eq!(world.gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn bad_material_of_one_domain_at_reload_leaves_the_others_as_they_are() {
    let (ours, theirs) = (TestCa::new("example.org"), TestCa::new("other.test"));
    let echo = Echo::start().await;
    let lists = RevocationLists::of(&theirs);
    let settings = Settings::new(&ours)
        .trust(&ours, "revocation = \"off\"")
        .trust(&theirs, &lists.setting())
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let our_caller = ours.client(CALLER);
    let their_caller = theirs.client(CALLER);
    for content in [&b""[..], &b"\x30\x84\xff\xff\xff\xff"[..]] {
        replace(&lists.issuing, content);
        readyz(&gateway, "issuing.crl", true).await;
        for caller in [&our_caller, &their_caller] {
            let answer = gateway.client(HOST).with(caller).get("/a").await.unwrap();
            assert_eq!(answer.status, 200);
        }
        lists.publish(&theirs, Crl::new());
        readyz(&gateway, "issuing.crl", false).await;
    }
}

/// A mounted Kubernetes volume: the files are links through another link to a directory. An update
/// replaces only that link.
#[tokio::test]
async fn a_swapped_volume_of_kubernetes_is_seen() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let place = tempfile::tempdir().unwrap();
    let volume = place.path().join("volume");
    let version = |name: &str, list: Crl| {
        let directory = volume.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let root = Crl::new().signed_by(ca.root());
        std::fs::write(directory.join("root.crl"), root).unwrap();
        let list = list.signed_by(ca.intermediate());
        std::fs::write(directory.join("issuing.crl"), list).unwrap();
    };
    version("..2026_01", Crl::new());
    std::os::unix::fs::symlink("..2026_01", volume.join("..data")).unwrap();
    for name in ["root.crl", "issuing.crl"] {
        let target = PathBuf::from("..data").join(name);
        std::os::unix::fs::symlink(target, volume.join(name)).unwrap();
    }
    let settings = Settings::new(&ca)
        .trust(&ca, &format!("crls = [\"{}/*.crl\"]", volume.display()))
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let (caller, other) = (ca.client(CALLER), ca.client("/other"));
    let client = gateway.client(HOST).with(&caller);
    let mut stream = streaming(&client).await;

    let newer = Crl::new().number(2).revoke(caller.serial());
    version("..2026_02", newer);
    std::os::unix::fs::symlink("..2026_02", volume.join("..data_tmp")).unwrap();
    let swapped = Instant::now();
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    assert!(stream.read_until(|_| false).await.closed);
    assert!(swapped.elapsed() < PROMISED, "{:?}", swapped.elapsed());
    assert_eq!(client.refusal().await.alert(), Some(44));
    let others = gateway.client(HOST).with(&other);
    assert_eq!(others.get("/a").await.unwrap().status, 200);
}
