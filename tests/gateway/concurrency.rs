//! Many callers at once: every answer belongs to its request and its caller.

use std::sync::Arc;

use countersign_testkit::{Client, Protocol};
use http::Request;
use tokio::task::JoinSet;

use super::{World, decode};

/// Sends requests with a body of its own each and checks that what comes back
/// is about exactly that request of that caller.
async fn converse(client: Client, caller: String, number: usize) {
    let mut session = client.session().await.unwrap();
    for round in 0..10 {
        let path = format!("/{number}/{round}?q={number}-{round}");
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
    let world = Arc::new(World::open().await);
    let callers = ["/ns/shop/sa/one", "/ns/shop/sa/two"];
    let credentials = callers.map(|path| world.ca.client(path));
    let mut tasks = JoinSet::new();
    for number in 0..50 {
        let index = number % 2;
        let protocol = Protocol::BOTH[number / 2 % 2];
        let client = world
            .anonymous()
            .with(&credentials[index])
            .protocol(protocol);
        tasks.spawn(converse(client, world.ca.spiffe(callers[index]), number));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(world.echo.requests(), 500);
    assert!(
        world.echo.connections() <= 60,
        "{} upstream connections for 50 callers",
        world.echo.connections()
    );
    let lines = world
        .gateway
        .audit()
        .at_least(500, "requests", |line| line["decision"] == "allowed")
        .await;
    assert_eq!(lines.len(), 500);
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
    // One for each of the two workers.
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
