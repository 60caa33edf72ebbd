//! Several endpoints: whose turn it is, and what happens when one is not there.

use countersign_testkit::{Echo, TestCa};
use tokio::net::TcpListener;

use super::{World, http};

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
        let world = World::open(&ca, &endpoints, &more).await;
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
    let world = World::open(&ca, &endpoints, "").await;
    let mut session = world.client().session().await.unwrap();
    for _ in 0..9 {
        session.get("/a").await.unwrap();
    }
    let counts: Vec<_> = echoes.iter().map(Echo::requests).collect();
    assert_eq!(counts, [3, 3, 3]);

    let world = World::open(&ca, &endpoints, "balance = \"caller\"\n").await;
    for _ in 0..6 {
        world.client().get("/b").await.unwrap();
    }
    let used = echoes
        .iter()
        .filter(|echo| echo.seen().iter().any(|seen| seen["path"] == "/b"))
        .count();
    assert_eq!(used, 1);
}
