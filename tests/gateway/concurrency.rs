//! Many concurrent callers. Every response must belong to its request and its caller.

use countersign_testkit::{Client, Gateway, Protocol, Service, ServiceSpec, Settings, TestCa};
use http::Request;
use tokio::task::JoinSet;

use crate::support::{BINARY, HOST, World, decode};

/// The protocols of the services: HTTP/1.1 and h2, without and with TLS.
const KINDS: [&str; 4] = ["plain", "h2", "tls", "tls-h2"];

/// Sends requests with different bodies to every service in turn. Checks that each response belongs
/// to its request and its caller.
async fn converse(client: Client, caller: String, number: usize) {
    let mut session = client.session().await.unwrap();
    for round in 0..12 {
        let kind = KINDS[(number + round) % KINDS.len()];
        let path = format!("/{kind}/{number}/{round}?q={number}-{round}");
        let body = format!("{caller} {number} {round}");
        let request = Request::post(&path).body(body.clone().into()).unwrap();
        let answer = session.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let echo = answer.json();
        assert_eq!(echo["path"], path);
        assert_eq!(echo["body"], body);
        let assertions = answer.received("countersign-assertion");
        assert_eq!(assertions.len(), 1);
        let (_, claims) = decode(&assertions[0]);
        assert_eq!(claims["sub"], caller);
        let bare = path.split('?').next().unwrap();
        assert!(claims["htu"].as_str().unwrap().ends_with(bare), "{claims}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_never_mixed_up() {
    let ca = TestCa::new("example.org");
    let server = ca.server(&["service.internal"]);
    let mut settings = Settings::new(&ca);
    let mut services = Vec::new();
    for kind in KINDS {
        let (protocol, word) = match kind.ends_with("h2") {
            true => (Protocol::Http2, "h2"),
            false => (Protocol::Http1, "http1"),
        };
        let mut more = format!("protocol = \"{word}\"\n");
        let (scheme, spec) = if kind.starts_with("tls") {
            more += &format!(
                "roots = [\"{}\"]\nserver_name = \"service.internal\"\n",
                ca.root_file().display()
            );
            ("https", ServiceSpec::tls(protocol, &server))
        } else {
            ("http", ServiceSpec::plain(protocol))
        };
        let service = Service::start(spec).await;
        let url = format!("{scheme}://{}", service.address());
        let route = format!("paths = [\"/{kind}/**\"]\ncallers = [\"*\"]\n");
        settings = settings
            .upstream_at(kind, &[url], &more)
            .route(kind, kind, &route);
        services.push((kind, protocol, service));
    }
    let gateway = Gateway::start(BINARY, &settings).await;
    let callers = ["/ns/shop/sa/one", "/ns/shop/sa/two"];
    let credentials = callers.map(|path| ca.client(path));
    let mut tasks = JoinSet::new();
    for number in 0..48 {
        let index = number % 2;
        let protocol = Protocol::BOTH[number / 2 % 2];
        let client = gateway.client(HOST).with(&credentials[index]);
        tasks.spawn(converse(
            client.protocol(protocol),
            ca.spiffe(callers[index]),
            number,
        ));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for (kind, protocol, service) in services {
        assert_eq!(service.requests(), 48 * 12 / 4, "{kind}");
        // Connections are shared. Over h2 there is one connection for each worker, and some more
        // that opened at the same time.
        let most = match protocol {
            Protocol::Http1 => 58,
            Protocol::Http2 => 8,
        };
        let connections = service.connections();
        assert!(connections <= most, "{kind}: {connections} connections");
    }
    let lines = gateway
        .audit()
        .at_least(48 * 12, "requests", |line| line["decision"] == "allowed")
        .await;
    assert_eq!(lines.len(), 48 * 12);
}

#[tokio::test]
async fn upstream_connections_are_used_again() {
    let world = World::open().await;
    for number in 0..4 {
        let mut session = world.client().session().await.unwrap();
        for round in 0..10 {
            session.get(&format!("/{number}/{round}")).await.unwrap();
        }
    }
    assert_eq!(world.echo.requests(), 40);
    // Each of the two workers has at most one connection.
    assert!(
        world.echo.connections() <= 2,
        "{} upstream connections",
        world.echo.connections()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_connection_do_not_wait_for_each_other() {
    let world = World::open().await;
    let client = world.client().protocol(Protocol::Http2);
    let mut session = client.session().await.unwrap();
    let started = std::time::Instant::now();
    let slow = session
        .start(countersign_testkit::client::get("/slow"))
        .await
        .unwrap();
    assert_eq!(session.get("/fast").await.unwrap().status, 200);
    assert!(
        started.elapsed().as_millis() < 400,
        "/fast waited for /slow"
    );
    drop(slow);
}
