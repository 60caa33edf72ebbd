//! `countersign explain --token` says what the gateway does.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{BINARY, HOST, World, ask};

/// What the command says about a token, given as a file or on standard input.
async fn explain(world: &World, token: Option<&str>, from_file: bool) -> (Option<i32>, Value) {
    let chain = world.ca.write("chain.pem", world.caller.chain_pem());
    let file = world.ca.write("token.jwt", token.unwrap_or_default());
    let mut command = Command::new(BINARY);
    command
        .args(["--json", "explain", "--config"])
        .arg(world.gateway.config_file())
        .arg("--cert")
        .arg(chain)
        .args(["--url", &format!("https://{HOST}/a")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    match (token, from_file) {
        (None, _) => {}
        (Some(_), true) => {
            command.arg("--token").arg(&file);
        }
        (Some(_), false) => {
            command.args(["--token", "-"]);
        }
    }
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(token.unwrap_or_default().as_bytes()).await;
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), said)
}

#[tokio::test]
async fn its_verdicts_about_tokens_are_those_of_the_gateway() {
    let world = World::with(
        "",
        "callers = [\"*\"]\ntoken = { issuer = \"corporate\", scopes = [\"orders:read\"] }",
    )
    .await;
    for token in [
        Some(world.token()),
        Some(world.token_with(json!({"exp": 1}))),
        Some(world.token_with(json!({"scope": "other"}))),
        Some(world.token_with(json!({"cnf": {"x5t#S256": "A".repeat(43)}}))),
        Some("nonsense".to_owned()),
        None,
    ] {
        let answer = match &token {
            Some(token) => ask(&world.client(), "/a", token).await,
            None => world.client().get("/a").await.unwrap(),
        };
        for from_file in [true, false] {
            let (code, said) = explain(&world, token.as_deref(), from_file).await;
            if answer.status == 200 {
                assert_eq!((code, &said["allowed"]), (Some(0), &json!(true)), "{said}");
                assert_eq!(said["claims"]["token"]["sub"], "alice");
                assert_eq!(
                    said["claims"]["authn"]["methods"],
                    json!(["certificate", "token"])
                );
            } else {
                assert_eq!(code, Some(3), "{said}");
                assert_eq!(said["answer"]["reason"].as_str(), answer.reason(), "{said}");
                assert_eq!(said["answer"]["status"], answer.status, "{said}");
            }
        }
    }
    assert_eq!(world.echo.requests(), 1, "explaining sends nothing");
}
