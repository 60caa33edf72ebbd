//! Upstreams with several endpoints: load balancing, and endpoints that are down.

use countersign_testkit::{Credentials, Echo, TestCa};
use tokio::net::TcpListener;

use super::{Named, http};
use crate::support::{Front, HOST};

async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    http(listener.local_addr().unwrap())
}

#[tokio::test]
async fn requests_go_past_an_endpoint_that_is_not_there() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    for balance in ["round-robin", "least-requests", "caller"] {
        let endpoints = [nobody().await, http(echo.address()), nobody().await];
        let more = format!("balance = \"{balance}\"\n");
        let world = Front::open(&ca, &endpoints, &more).await;
        let mut session = world.client().session().await.unwrap();
        for _ in 0..12 {
            let answer = session.get("/a").await.unwrap();
            assert_eq!(answer.status, 200, "{balance} {}", world.gateway.stderr());
        }
    }
}

#[tokio::test]
async fn all_endpoints_are_used_in_turn_and_one_by_each_caller() {
    let ca = TestCa::new("example.org");
    let echoes = [
        Echo::start().await,
        Echo::start().await,
        Echo::start().await,
    ];
    let endpoints: Vec<_> = echoes.iter().map(|echo| http(echo.address())).collect();
    let world = Front::open(&ca, &endpoints, "").await;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..9 {
        session.get("/a").await.unwrap();
    }
    let counts: Vec<_> = echoes.iter().map(Echo::requests).collect();
    assert_eq!(counts, [3, 3, 3]);

    let world = Front::open(&ca, &endpoints, "balance = \"caller\"\n").await;
    for _ in 0..6 {
        world.client().get("/b").await.unwrap();
    }
    let used = echoes
        .iter()
        .filter(|echo| echo.seen().iter().any(|seen| seen["path"] == "/b"))
        .count();
    assert_eq!(used, 1);
}

/// Sends one request for each caller. Returns the name of the service that responded to each.
async fn served_by(world: &Front, callers: &[Credentials]) -> Vec<String> {
    let mut names = Vec::new();
    for caller in callers {
        let client = world.gateway.client(HOST).with(caller);
        let answer = client.get("/a").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?} {}", world.gateway.stderr());
        names.push(String::from_utf8(answer.body.to_vec()).unwrap());
    }
    names
}

#[tokio::test]
async fn only_the_callers_of_an_endpoint_that_dies_go_elsewhere() {
    let ca = TestCa::new("example.org");
    let mut services = vec![
        Named::start("one").await,
        Named::start("two").await,
        Named::start("three").await,
    ];
    let endpoints: Vec<_> = services.iter().map(|one| http(one.address)).collect();
    let world = Front::open(&ca, &endpoints, "balance = \"caller\"\n").await;
    let callers: Vec<_> = (0..16)
        .map(|number| ca.client(&format!("/ns/shop/sa/caller-{number}")))
        .collect();
    let before = served_by(&world, &callers).await;
    assert_eq!(served_by(&world, &callers).await, before, "callers stay");
    let gone = before[0].clone();
    let place = ["one", "two", "three"]
        .iter()
        .position(|name| *name == gone);
    services.remove(place.unwrap());
    for _ in 0..2 {
        let after = served_by(&world, &callers).await;
        for (was, is) in before.iter().zip(&after) {
            assert_ne!(*is, gone);
            assert!(was == is || *was == gone, "{was} to {is}, not from {gone}");
        }
    }
    assert!(before.iter().any(|name| *name != gone), "{before:?}");
}

#[tokio::test]
async fn requests_go_where_the_fewest_are_in_progress() {
    let ca = TestCa::new("example.org");
    let echoes = [Echo::start().await, Echo::start().await];
    let endpoints: Vec<_> = echoes.iter().map(|echo| http(echo.address())).collect();
    let world = Front::open(&ca, &endpoints, "balance = \"least-requests\"\n").await;
    let client = world.client();
    let hanging = tokio::spawn(async move { client.get("/hang").await });
    let busy = tokio::select! {
        () = echoes[0].arrived("/hang") => 0,
        () = echoes[1].arrived("/hang") => 1,
    };
    let free = 1 - busy;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..12 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    assert_eq!(echoes[busy].requests(), 1, "requests wait behind another");
    assert_eq!(echoes[free].requests(), 12);
    // When the hanging request is cancelled, its endpoint has no request in progress any more.
    hanging.abort();
    world.gateway.audit().request("/hang").await;
    for _ in 0..12 {
        assert_eq!(session.get("/b").await.unwrap().status, 200);
    }
    let served = echoes.each_ref().map(Echo::requests);
    assert!(served[busy] > 1, "it does not return: {served:?}");
}
