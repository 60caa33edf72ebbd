//! Idle connections release their buffers. Callers must not notice it.

use countersign_testkit::gateway::plain;
use countersign_testkit::{Gateway, TlsVersion};

use crate::support::{HOST, World, revocable};

/// Waits until this number of connections have released their buffers.
async fn resting(gateway: &Gateway, wanted: u32) {
    let admin = gateway.admin();
    let line = format!("countersign_connections_resting {wanted}");
    loop {
        let metrics = plain(admin, "GET", "/metrics", &[]).await;
        if metrics.body.lines().any(|l| l == line) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_resting_connection_takes_further_requests_with_both_tls_versions() {
    let world = World::open().await;
    for version in TlsVersion::BOTH {
        let mut connection = world.client().tls(version).connect().await.unwrap();
        for round in 0..3 {
            resting(&world.gateway, 1).await;
            let request = format!("GET /{round} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
            // The request arrives in two pieces, and the first piece ends the idle state.
            let (first, second) = request.as_bytes().split_at(9);
            connection.write(first).await.unwrap();
            connection.write(second).await.unwrap();
            let answer = connection
                .read_until(|octets| octets.ends_with(b"}") || octets.ends_with(b"}\n"))
                .await;
            assert_eq!(answer.statuses(), [200], "{}", answer.text());
        }
        // A malformed request on an idle connection is still refused.
        resting(&world.gateway, 1).await;
        connection
            .write(b"GET / HTTP/1.1\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let answer = connection.read_until(|_| false).await;
        assert_eq!(answer.statuses(), [400]);
        resting(&world.gateway, 0).await;
    }
}

#[tokio::test]
async fn a_resting_connection_ends_with_its_certificate() {
    let (world, lists) = revocable().await;
    let mut connection = world.client().connect().await.unwrap();
    resting(&world.gateway, 1).await;
    lists.revoke(&world.ca, &world.caller);
    assert!(connection.read_until(|_| false).await.closed);
    let cut = world
        .gateway
        .audit()
        .line("a cut", |line| line["event"] == "connection")
        .await;
    assert_eq!(cut["reason"], "certificate-revoked", "{cut}");
    resting(&world.gateway, 0).await;
}
