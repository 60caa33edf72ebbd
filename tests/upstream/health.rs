//! Active health checks, endpoints with host names, and connection limits of endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use countersign_testkit::gateway::plain;
use countersign_testkit::{
    Afterwards, Echo, Protocol, Scripted, Service, ServiceSpec, Settings, TestCa, in_time,
    read_head, until,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Named, http};
use crate::support::{Front, readyz, reloaded};

const CHECK: &str = "health_check = { path = \"/healthz\", interval = \"100ms\", timeout = \"1s\", healthy = 2, unhealthy = 2 }\n";

/// A service that is healthy or not, as the test sets. It counts health checks and requests.
struct Patient {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    well: AtomicBool,
    checks: AtomicUsize,
    requests: AtomicUsize,
}

impl Patient {
    async fn start(well: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        state.well.store(well, Ordering::SeqCst);
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    fn checks(&self) -> usize {
        self.state.checks.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Waits until `more` further health checks have arrived.
    async fn checked(&self, more: usize) {
        let enough = self.checks() + more;
        until("health checks", async || self.checks() >= enough).await;
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    while let Ok(head) = read_head(&mut stream).await {
        let check = head.starts_with(b"GET /healthz ");
        let well = state.well.load(Ordering::SeqCst);
        let answer = if check && !well {
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        };
        let counter = if check {
            &state.checks
        } else {
            &state.requests
        };
        counter.fetch_add(1, Ordering::SeqCst);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn health_of(world: &Front) -> Vec<String> {
    let metrics = plain(world.gateway.admin(), "GET", "/metrics", &[]).await;
    metrics
        .body
        .lines()
        .filter(|line| line.starts_with("countersign_upstream_endpoint_healthy{"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn an_endpoint_that_is_not_well_gets_nothing_until_it_is() {
    let ca = TestCa::new("example.org");
    let (good, bad) = (Patient::start(true).await, Patient::start(false).await);
    let endpoints = [http(bad.address), http(good.address)];
    let mut world = Front::open(&ca, &endpoints, CHECK).await;
    bad.checked(2).await;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..6 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    assert_eq!((good.requests(), bad.requests()), (6, 0));
    let health = health_of(&world).await;
    let line = |address, well| {
        format!(
            "countersign_upstream_endpoint_healthy{{upstream=\"orders\",endpoint=\"{address}\"}} {well}"
        )
    };
    assert!(health.contains(&line(good.address, 1)), "{health:?}");
    assert!(health.contains(&line(bad.address, 0)), "{health:?}");
    until("the log", async || {
        world.gateway.stderr().contains("the endpoint is not well")
    })
    .await;

    // The bad endpoint recovers, and the good endpoint becomes unhealthy.
    bad.state.well.store(true, Ordering::SeqCst);
    good.state.well.store(false, Ordering::SeqCst);
    bad.checked(3).await;
    good.checked(3).await;
    for _ in 0..6 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    assert_eq!((good.requests(), bad.requests()), (6, 6));

    // If no endpoint is healthy, requests are refused.
    bad.state.well.store(false, Ordering::SeqCst);
    bad.checked(3).await;
    let answer = session.get("/a").await.unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("upstream-unavailable"))
    );
    assert_eq!(answer.header("retry-after"), Some("5"));

    // Running health checks must not delay the end of the gateway.
    drop(session);
    world.gateway.terminate().await;
    assert!(world.gateway.ended().await.success());
}

#[tokio::test]
async fn a_reload_that_removes_an_upstream_ends_its_checks() {
    let ca = TestCa::new("example.org");
    let (kept, gone) = (Patient::start(true).await, Patient::start(true).await);
    let settings = Settings::new(&ca)
        .upstream_at("orders", &[http(kept.address)], CHECK)
        .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
        .upstream_at("gone", &[http(gone.address)], CHECK);
    let world = Front::with(&ca, &settings).await;
    kept.checked(2).await;
    gone.checked(2).await;
    let config = world.gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    let (before, after) = text.split_once("[[upstream]]\nname = \"gone\"").unwrap();
    let after = after.split_once("health_check").unwrap().1;
    let after = after.split_once('\n').unwrap().1;
    std::fs::write(&config, format!("{before}{after}")).unwrap();
    reloaded(&world.gateway).await;
    // A health check that was in progress may still arrive.
    kept.checked(3).await;
    let last = gone.checks();
    kept.checked(5).await;
    assert_eq!(gone.checks(), last);
    assert_eq!(health_of(&world).await.len(), 1);
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_service_that_does_not_even_connect_is_not_well() {
    let ca = TestCa::new("example.org");
    let good = Patient::start(true).await;
    let silent = Scripted::start("", Afterwards::Hang).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let endpoints = [http(nobody), http(silent.address()), http(good.address)];
    let world = Front::open(&ca, &endpoints, CHECK).await;
    in_time("two endpoints to be out", async {
        loop {
            let health = health_of(&world).await;
            if health.iter().filter(|line| line.ends_with(" 0")).count() == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let before = silent.requests();
    let mut session = world.client().session().await.unwrap();
    for _ in 0..6 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    assert_eq!(good.requests(), 6);
    assert!(silent.requests() - before < 6);
}

#[tokio::test]
async fn services_that_speak_h2_are_asked_in_h2() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http2)).await;
    let more = format!("protocol = \"h2\"\n{CHECK}");
    let world = Front::open(&ca, &[http(service.address())], &more).await;
    in_time("a check", async {
        while health_of(&world)
            .await
            .iter()
            .all(|line| !line.ends_with(" 1"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_endpoint_gets_no_more_connections_than_it_may_have() {
    let ca = TestCa::new("example.org");
    for workers in ["1", "2"] {
        let service = Service::start(ServiceSpec::plain(Protocol::Http1)).await;
        let settings = Settings::new(&ca)
            .set("runtime", "workers", workers)
            .upstream_at(
                "orders",
                &[http(service.address())],
                "max_connections = 3\n",
            )
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
        let world = Front::with(&ca, &settings).await;
        let mut tasks = Vec::new();
        for _ in 0..24 {
            let client = world.client();
            tasks.push(tokio::spawn(async move {
                let mut session = client.session().await.unwrap();
                for _ in 0..5 {
                    let answer = session.get("/a").await.unwrap();
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            }));
        }
        for task in tasks {
            in_time("requests that wait their turn", task)
                .await
                .unwrap();
        }
        assert!(
            service.most_connections() <= 3,
            "{}",
            service.most_connections()
        );
    }
}

#[tokio::test]
async fn who_waits_at_another_worker_has_its_turn() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::plain(Protocol::Http1)).await;
    let settings = Settings::new(&ca)
        .set("runtime", "workers", "2")
        .upstream_at(
            "orders",
            &[http(service.address())],
            "max_connections = 1\nconnect_timeout = \"2s\"\n",
        )
        .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
    let world = Front::with(&ca, &settings).await;
    // The two workers get connections in turn, so that each list belongs to one worker.
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        here.push(world.client().session().await.unwrap());
        there.push(world.client().session().await.unwrap());
    }
    // The worker of `here` always has a request that waits for the upstream connection.
    let busy: Vec<_> = here
        .into_iter()
        .map(|mut session| tokio::spawn(async move { while session.get("/a").await.is_ok() {} }))
        .collect();
    for session in &mut there[..1] {
        for _ in 0..5 {
            let answer = session.get("/b").await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    assert_eq!(service.most_connections(), 1);
    for task in busy {
        task.abort();
    }
}

#[tokio::test]
async fn who_would_wait_for_a_connection_in_vain_is_refused() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let more = "max_connections = 1\nmax_pending = 1\nconnect_timeout = \"300ms\"\n";
    let world = Front::open(&ca, &[http(echo.address())], more).await;
    let client = world.client();
    let hanging = tokio::spawn(async move { client.get("/hang").await });
    echo.arrived("/hang").await;
    // One request waits until its timeout. The other request is refused at once.
    let (one, other) = tokio::join!(async { world.client().get("/a").await.unwrap() }, async {
        world.client().get("/b").await.unwrap()
    });
    for answer in [one, other] {
        assert_eq!((answer.status, answer.reason()), (503, Some("overloaded")));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(echo.connections(), 1);
    hanging.abort();
    in_time("a connection", async {
        while world.client().get("/c").await.unwrap().status != 200 {}
    })
    .await;
}

#[tokio::test]
async fn endpoints_may_be_host_names() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    // The service listens on only one of the addresses that `localhost` usually has.
    let named = format!("http://localhost:{}", echo.address().port());
    let world = Front::open(&ca, &[named], "dns_refresh = \"1ms\"\n").await;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..20 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    let unknown = "http://no-such-host.invalid:9".to_owned();
    let more = "allow_plaintext = true\nconnect_timeout = \"2s\"\n";
    let world = Front::open(&ca, &[unknown], more).await;
    let answer = world.client().get("/a").await.unwrap();
    assert!(
        matches!(
            answer.reason(),
            Some("upstream-unavailable" | "upstream-timeout")
        ),
        "{answer:?}"
    );
}

/// Without health checks, the gateway learns from requests that an endpoint is down.
#[tokio::test]
async fn a_dead_endpoint_is_named_by_its_address_until_it_responds() {
    let ca = TestCa::new("example.org");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let world = Front::open(&ca, &[http(address)], "").await;
    let gateway = &world.gateway;
    let up = async |value: u8| {
        let metrics = plain(gateway.admin(), "GET", "/metrics", &[]).await.body;
        let line = format!(
            "countersign_upstream_endpoint_up{{upstream=\"orders\",endpoint=\"{address}\"}} {value}"
        );
        assert!(
            metrics.lines().any(|other| other == line),
            "{line}\n{metrics}"
        );
    };
    up(1).await;
    let mut session = world.client().session().await.unwrap();
    assert!(session.get("/a").await.unwrap().status >= 500);
    let ready = readyz(gateway, "endpoint-down", true).await;
    let problems = ready["problems"].as_array().unwrap();
    let found = problems
        .iter()
        .find(|one| one["code"] == "endpoint-down")
        .unwrap();
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.contains(&address.to_string()), "{detail}");
    assert!(
        detail.contains("0 of 1 endpoints of orders are up"),
        "{detail}"
    );
    assert_eq!(found["severity"], "error");
    assert_eq!(found["command"], format!("curl -v http://{address}/"));
    assert!(found["since"].as_str().unwrap().ends_with('Z'), "{found}");
    up(0).await;

    let listener = TcpListener::bind(address).await.unwrap();
    let service = Named::on(listener, "back");
    until("a response", async || {
        world.client().get("/a").await.unwrap().status == 200
    })
    .await;
    readyz(gateway, "endpoint-down", false).await;
    up(1).await;
    drop(service);
}
