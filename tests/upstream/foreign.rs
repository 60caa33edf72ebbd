//! gRPC and WebSocket implementations of other projects, on both sides of the gateway. A test is
//! skipped if its library is missing, unless tools are required.

use std::time::Duration;

use countersign_testkit::skipped::tool;
use countersign_testkit::{Gateway, Settings, TestCa};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::{BINARY, script};

/// Runs a script. The script prints the port on which it serves, and then reads the address of
/// the gateway. It ends with exit code 77 if its library is not installed.
async fn run(script: &str, what: &str, protocol: &str) {
    let Some(mut child) = script::start(script::python(script), what) else {
        return;
    };
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let conversation = async {
        let Some(line) = lines.next_line().await.unwrap() else {
            let output = child.wait_with_output().await.unwrap();
            let complaint = String::from_utf8_lossy(&output.stderr);
            let status = output.status.code();
            assert_eq!(status, Some(script::ABSENT), "{what}: {complaint}");
            tool(what, false);
            return;
        };
        tool(what, true);
        let line: Value = serde_json::from_str(&line).unwrap();
        let ca = TestCa::new("example.org");
        let endpoint = format!("http://127.0.0.1:{}", line["port"]);
        let settings = Settings::new(&ca)
            .upstream_at("orders", &[endpoint], &format!("protocol = {protocol:?}\n"))
            .route(
                "orders",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"spiffe://example.org/ns/shop/**\"]\n\
                 upgrade = [\"websocket\"]\n",
            );
        let gateway = Gateway::start(BINARY, &settings).await;
        let told = script::told(&ca, &gateway);
        stdin.write_all(told.to_string().as_bytes()).await.unwrap();
        stdin.write_all(b"\n").await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert!(
            output.status.success(),
            "{what}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            gateway.stderr()
        );
    };
    // The script makes about twelve calls, and has a deadline for each.
    tokio::time::timeout(Duration::from_secs(90), conversation)
        .await
        .unwrap_or_else(|_| panic!("{what}: {script} does not end"));
}

#[tokio::test]
async fn grpcio_calls_and_serves_through_the_gateway() {
    run("grpc_calls.py", "grpcio for Python", "h2").await;
}

#[tokio::test]
async fn websockets_for_python_converse_through_the_gateway() {
    run("websocket_calls.py", "websockets for Python", "http1").await;
}
