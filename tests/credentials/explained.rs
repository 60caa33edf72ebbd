//! `countersign explain --token` must give the same result as the gateway.

use std::process::Command;

use serde_json::{Value, json};

use super::ask;
use super::worlds::TokenWorld;
use crate::support::{BINARY, HOST, Run};

/// Runs `explain` for a token, in a file or on standard input. Returns exit code and JSON.
fn explain(world: &TokenWorld, token: Option<&str>, from_file: bool) -> (i32, Value) {
    let chain = world.ca.write("chain.pem", world.caller.chain_pem());
    let file = world.ca.write("token.jwt", token.unwrap_or_default());
    let mut command = Command::new(BINARY);
    command
        .args(["--json", "explain", "--config"])
        .arg(world.gateway.config_file())
        .arg("--cert")
        .arg(chain)
        .args(["--url", &format!("https://{HOST}/a")]);
    match (token, from_file) {
        (None, _) => {}
        (Some(_), true) => {
            command.arg("--token").arg(&file);
        }
        (Some(_), false) => {
            command.args(["--token", "-"]);
        }
    }
    let run = Run::with_input(&mut command, token.unwrap_or_default());
    (run.code, run.json())
}

#[tokio::test]
async fn its_verdicts_about_tokens_are_those_of_the_gateway() {
    let world = TokenWorld::with(
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
            let (code, said) = explain(&world, token.as_deref(), from_file);
            if answer.status == 200 {
                assert_eq!((code, &said["allowed"]), (0, &json!(true)), "{said}");
                assert_eq!(said["claims"]["token"]["sub"], "alice");
                assert_eq!(
                    said["claims"]["authn"]["methods"],
                    json!(["certificate", "token"])
                );
            } else {
                assert_eq!(code, 3, "{said}");
                assert_eq!(said["answer"]["reason"].as_str(), answer.reason(), "{said}");
                assert_eq!(said["answer"]["status"], answer.status, "{said}");
            }
        }
    }
    assert_eq!(world.echo.requests(), 1, "explaining sends nothing");
}
