//! Runs client programs in other languages (`tests/foreign`).

use std::path::Path;
use std::process::Stdio;

use countersign_testkit::skipped::tool;
use countersign_testkit::{Credentials, Gateway, TestCa};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{HOST, root};

/// The exit code of a script if the library that the script tests is not installed.
pub(crate) const ABSENT: i32 = 77;

/// Returns a command that runs a Python script.
pub(crate) fn python(script: &str) -> Command {
    let program = std::env::var("COUNTERSIGN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    command(&program, script)
}

/// Returns a command that runs a Node.js script.
pub(crate) fn node(script: &str) -> Command {
    let mut command = command("node", script);
    if std::env::var_os(NODE_MODULES).is_none() {
        command.env(NODE_MODULES, root().join("tests/foreign/node_modules"));
    }
    command
}

const NODE_MODULES: &str = "COUNTERSIGN_NODE_MODULES";

fn command(program: &str, script: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg(Path::new("tests/foreign").join(script))
        .current_dir(root())
        .stderr(Stdio::piped());
    command
}

/// Starts a script with pipes for standard input and output. If its language is not installed,
/// returns `None` and notes this. `what` is the name of the tested library.
pub(crate) fn start(mut command: Command, what: &str) -> Option<Child> {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    tool(what, child.is_ok()).then(|| child.ok()).flatten()
}

/// Returns the address and the certificates that a script needs to call the gateway.
pub(crate) fn told(ca: &TestCa, gateway: &Gateway) -> Value {
    let credentials = |credentials: Credentials| json!({ "chain": credentials.chain_pem(), "key": credentials.key_pem() });
    json!({
        "address": gateway.listener().to_string(),
        "host": HOST,
        "root": ca.root().pem(),
        "caller": credentials(ca.client("/ns/shop/sa/checkout")),
        "stranger": credentials(ca.client("/ns/other/sa/stranger")),
    })
}
