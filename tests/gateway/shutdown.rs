//! SIGTERM: requests in progress finish, and no new requests begin.

use std::time::Duration;

use countersign_testkit::client::get;
use countersign_testkit::gateway::plain;
use countersign_testkit::{Echo, Gateway, Protocol, Settings, TestCa, in_time, until};
use http_body_util::BodyExt as _;

use crate::support::{BINARY, CALLER, HOST, World, named_pipe};

#[tokio::test]
async fn requests_in_flight_finish_and_the_process_ends_well() {
    for protocol in Protocol::BOTH {
        let mut world = World::open().await;
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        let response = session.start(get("/slow")).await.unwrap();
        world.gateway.terminate().await;
        let body = in_time("the rest of the answer", response.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert!(body.ends_with(b"chunk 4\n"), "{protocol:?}: {body:?}");
        assert!(world.gateway.ended().await.success());
        let line = world.gateway.audit().request("/slow").await;
        assert_eq!(line["status"], 200);
        assert_eq!(line["complete"], true, "{line}");
    }
}

#[tokio::test]
async fn new_connections_and_requests_are_not_taken_while_draining() {
    let mut world = World::open().await;
    let mut busy = world.client().session().await.unwrap();
    let mut idle = world.client().session().await.unwrap();
    assert_eq!(idle.get("/a").await.unwrap().status, 200);
    let response = busy.start(get("/slow")).await.unwrap();
    world.gateway.terminate().await;

    in_time("draining to be announced", async {
        loop {
            let ready = plain(world.gateway.public(), "GET", "/readyz", &[]).await;
            if ready.status == 503 {
                assert!(ready.body.contains("draining"), "{ready:?}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(world.client().get("/new").await.is_err());
    if let Ok(answer) = idle.get("/late").await {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.reason(), Some("shutting-down"));
    }
    response.into_body().collect().await.unwrap();
    assert!(world.gateway.ended().await.success());
    let paths: Vec<_> = world
        .echo
        .seen()
        .iter()
        .map(|seen| seen["path"].clone())
        .collect();
    assert_eq!(paths, ["/a", "/slow"]);
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once_and_notifies_open_connections() {
    for protocol in Protocol::BOTH {
        let mut world = World::open().await;
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        assert_eq!(session.get("/a").await.unwrap().status, 200);
        let started = std::time::Instant::now();
        world.gateway.terminate().await;
        assert!(world.gateway.ended().await.success());
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{protocol:?}: an idle connection held up the end"
        );
    }
}

#[tokio::test]
async fn draining_has_a_limit() {
    let mut world = World::with(|settings, echo| {
        settings
            .set("limits", "drain_timeout", "\"300ms\"")
            .everything_to(echo)
    })
    .await;
    let mut session = world.client().session().await.unwrap();
    let hanging = tokio::spawn(async move { session.get("/hang").await });
    world.echo.arrived("/hang").await;
    let started = std::time::Instant::now();
    world.gateway.terminate().await;
    world.gateway.ended().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    if let Ok(answer) = hanging.await.unwrap() {
        assert!(answer.status >= 500, "{answer:?}");
    }
    let line = world.gateway.audit().request("/hang").await;
    assert_eq!(line["caller"], world.ca.spiffe(CALLER));
}

/// Standard output is the audit log. It is a pipe that no program reads.
#[tokio::test]
async fn a_log_without_a_reader_does_not_prevent_the_end_of_the_process() {
    use std::os::unix::fs::PermissionsExt as _;
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    // A program holds the other end of the pipe. It reads nothing and ends with the test.
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("piped");
    let pipe = directory.path().join("pipe");
    named_pipe(&pipe);
    let text = format!("#!/bin/sh\nexec {BINARY} \"$@\" > {}\n", pipe.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    let settings = Settings::new(&ca)
        .set("audit", "file", "\"/dev/stdout\"")
        .set("limits", "drain_timeout", "\"1s\"")
        .everything_to(echo.address());
    let mut gateway = Gateway::start(script.to_str().unwrap(), &settings).await;
    let client = gateway.client(HOST).with(&ca.client(CALLER));
    let mut session = client.session().await.unwrap();
    // These lines are more than the pipe can buffer.
    for _ in 0..400 {
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
    drop(session);
    gateway.terminate().await;
    assert!(gateway.ended().await.success());
    until("a word about it", async || {
        gateway.stderr().contains("the last ones are lost")
    })
    .await;
    drop(reader);
}
