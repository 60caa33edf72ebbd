//! `countersign probe` with a token.

use serde_json::{Value, json};
use tokio::process::Command;

use super::worlds::TokenWorld;
use crate::support::{BINARY, Run};

#[tokio::test]
async fn a_probe_sends_a_token_as_callers_do() {
    let world = TokenWorld::with(
        "certificate_binding = \"if-present\"",
        "callers = [\"client:corporate/app\"]\n\
         authenticate = { any = [\"certificate\", \"token\"] }\n\
         token = { issuer = \"corporate\" }",
    )
    .await;
    let url = format!("https://localhost:{}/a", world.gateway.listener().port());
    let probe = async |token: &str| -> (i32, Value) {
        let file = world.ca.write("token", format!("{token}\n"));
        let mut command = Command::new(BINARY);
        command.args(["--json", "probe", &url, "--token"]).arg(file);
        let run = Run::of_async(&mut command).await;
        (run.code, run.json())
    };
    let good = world.token_with(json!({"cnf": null}));
    let (code, said) = probe(&good).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["answer"]["status"], 200);
    assert_eq!(world.echo.requests(), 1);
    let (code, said) = probe("abc.def.ghi").await;
    assert_eq!(code, 3, "{said}");
    assert_eq!(said["answer"]["status"], 401);
    assert!(
        said["candidates"][0]["code"]
            .as_str()
            .unwrap()
            .starts_with("token-")
    );
}
