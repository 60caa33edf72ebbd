//! PEM files as people and other programs write them. The gateway uses every block. If it cannot
//! read a block, it does not start.

use std::path::Path;
use std::process::Stdio;

use countersign_testkit::gateway::plain;
use countersign_testkit::{Crl, Echo, Gateway, Item, Settings, Shelf, TestCa, in_time};
use serde_json::Value;
use tokio::process::Command;

use super::identity::refused;
use crate::support::{BINARY, CALLER, HOST, World, replace};

/// Joins blocks as `cat` does if files do not end with a line end: the END of one block and the
/// BEGIN of the next block are on the same line.
fn glued(blocks: &[String]) -> String {
    let text = blocks.concat().replace("-----\n-----B", "----------B");
    assert!(text.contains("----------BEGIN "), "{text}");
    text.trim_end().to_owned()
}

/// Replaces the BEGIN of the first block with other text.
fn begins(block: &str, with: &str) -> String {
    block.replacen("-----BEGIN", with, 1)
}

/// Returns the CRLs of both authorities, and a newer CRL that revokes the caller.
fn lists(ca: &TestCa, revoked: &[u8]) -> [String; 3] {
    [
        Crl::new().pem_signed_by(ca.root()),
        Crl::new().pem_signed_by(ca.intermediate()),
        Crl::new()
            .number(2)
            .revoke(revoked)
            .pem_signed_by(ca.intermediate()),
    ]
}

fn with_lists(ca: &TestCa, content: &str) -> Settings {
    let file = ca.write("lists.pem", content);
    let more = format!("crls = [\"{}\"]\nrevocation = \"hard\"", file.display());
    Settings::new(ca).trust(ca, &more)
}

#[tokio::test]
async fn a_caller_is_revoked_by_whichever_list_of_a_file() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let [root, older, newer] = lists(&ca, revoked.serial());
    for (form, content) in [
        (
            "glued",
            glued(&[root.clone(), older.clone(), newer.clone()]),
        ),
        ("a byte order mark", format!("\u{feff}{newer}{root}{older}")),
        (
            "a byte order mark in the middle",
            format!("{root}{older}\u{feff}{newer}"),
        ),
        (
            "CR alone",
            format!("{root}{older}{newer}").replace('\n', "\r"),
        ),
        (
            "indented",
            format!(
                "{root}{older}{}",
                newer.replace("-----BEGIN", "  -----BEGIN")
            ),
        ),
    ] {
        let ca = &ca;
        let echo = Echo::start().await;
        let settings = with_lists(ca, &content).everything_to(echo.address());
        let gateway = Gateway::start(BINARY, &settings).await;
        let client = gateway.client(HOST);
        let error = client.clone().with(&revoked).refusal().await;
        assert_eq!(error.alert(), Some(44), "{form}: {error}");
        let line = gateway
            .audit()
            .line("the refusal", |line| {
                line["event"] == "handshake" && line["result"] != "ok"
            })
            .await;
        assert_eq!(line["reason"], "certificate-revoked", "{form}: {line}");
        let other = client.with(&ca.client(CALLER));
        assert_eq!(other.get("/a").await.unwrap().status, 200, "{form}");
    }
}

/// Checks the error output of `serve` or `check`, which must be the same.
#[track_caller]
fn says(stderr: &str, words: &[&str], form: &str) {
    for word in words {
        assert!(stderr.contains(word), "{form}: no {word:?} in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{form}: {stderr}");
}

async fn refuses_to_start(settings: Settings, words: &[&str], form: &str) {
    let settings = settings.everything_to(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
    match Gateway::try_start(BINARY, &settings).await {
        Ok(_) => panic!("{form}: it started"),
        Err(failure) => {
            assert_eq!(failure.status.code(), Some(2), "{form}: {failure}");
            says(&failure.stderr, words, form);
        }
    }
}

/// Damaged beginnings of a block, each with the expected error and the expected advice. The error
/// is on the first line of the block.
const DAMAGES: [(&str, &str, &str); 4] = [
    (
        "> -----BEGIN",
        "there is text before -----BEGIN",
        "let the line begin with -----BEGIN",
    ),
    (
        "----BEGIN",
        "first or last line of a PEM block",
        "with five dashes on both sides",
    ),
    (
        "------BEGIN",
        "first or last line of a PEM block",
        "with five dashes on both sides",
    ),
    (
        "-----BEGIN X509 CRL-----\n-----BEGIN",
        "-----BEGIN X509 CRL----- has no -----END",
        "copy the file again, whole",
    ),
];

#[tokio::test]
async fn a_list_that_cannot_be_read_is_never_left_out() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let [root, older, newer] = lists(&ca, revoked.serial());
    let before = format!("{root}{older}");
    let line = format!("lists.pem, line {}: ", before.lines().count() + 1);
    for (with, what, remedy) in DAMAGES {
        let settings = with_lists(&ca, &format!("{before}{}", begins(&newer, with)));
        refuses_to_start(settings, &[&line, what, remedy, "crls = "], with).await;
    }
}

#[tokio::test]
async fn check_names_file_line_and_remedy() {
    let ca = TestCa::new("example.org");
    let [root, older, newer] = lists(&ca, &[1]);
    let echo = Echo::start().await;
    let settings = with_lists(&ca, &format!("{root}{older}{newer}")).everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let file = ca.write(
        "lists.pem",
        format!("{root}{}{newer}", begins(&older, "> -----BEGIN")),
    );
    let output = Command::new(BINARY)
        .args(["check", "--config"])
        .arg(gateway.config_file())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let line = root.lines().count() + 1;
    says(
        &String::from_utf8(output.stderr).unwrap(),
        &[
            &format!(
                "{}, line {line}: there is text before -----BEGIN",
                file.display()
            ),
            "remove what stands before it",
        ],
        "check",
    );
}

#[tokio::test]
async fn a_damaged_list_does_not_replace_the_one_in_use() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let [root, older, newer] = lists(&ca, revoked.serial());
    let echo = Echo::start().await;
    let settings = with_lists(&ca, &format!("{root}{newer}")).everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let world = World {
        gateway,
        caller: ca.client(CALLER),
        echo,
        ca,
    };
    refused(&world, &revoked, "certificate-revoked", 44).await;
    // If the damaged block is ignored, no CRL in this file revokes a certificate.
    let damaged = format!("{root}{older}{}", begins(&newer, "> -----BEGIN"));
    replace(&world.ca.directory().join("lists.pem"), damaged);
    in_time("the alarm", async {
        while !world
            .gateway
            .stderr()
            .contains("there is text before -----BEGIN")
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let error = world.anonymous().with(&revoked).refusal().await;
    assert_eq!(error.alert(), Some(44), "{error}");
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn every_root_of_a_file_counts() {
    let (first, second) = (TestCa::new("example.org"), TestCa::new("example.org"));
    let roots = [first.root().pem(), second.root().pem()];
    let settings = |content: &str| {
        let file = first.write("roots.pem", content);
        Settings::new(&first).trust_domain(&format!(
            "name = \"example.org\"\nroots = [\"{}\"]\nrevocation = \"off\"",
            file.display()
        ))
    };
    for content in [glued(&roots), format!("{}\u{feff}{}", roots[0], roots[1])] {
        let echo = Echo::start().await;
        let settings = settings(&content).everything_to(echo.address());
        let gateway = Gateway::start(BINARY, &settings).await;
        for ca in [&first, &second] {
            let client = gateway.client(HOST).with(&ca.client(CALLER));
            assert_eq!(client.get("/a").await.unwrap().status, 200);
        }
    }
    let line = format!("roots.pem, line {}: ", roots[0].lines().count() + 1);
    for (with, what, remedy) in &DAMAGES[..3] {
        let content = format!("{}{}", roots[0], begins(&roots[1], with));
        refuses_to_start(settings(&content), &[&line, what, remedy, "roots = "], with).await;
    }
    // A "TRUSTED CERTIFICATE" of OpenSSL contains more than a certificate.
    let trusted = roots[1].replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    let content = format!("{}{trusted}", roots[0]);
    let words = [&*line, "TRUSTED CERTIFICATE", "openssl x509 -in"];
    refuses_to_start(settings(&content), &words, "trusted").await;
}

/// Runs `countersign probe`. Returns its result, or the error about its arguments.
async fn probe(ca: &TestCa, gateway: &Gateway, roots: &Path) -> Result<Value, String> {
    let caller = ca.client(CALLER);
    let port = gateway.listener().port();
    let output = Command::new(BINARY)
        .args(["--json", "probe", &format!("https://localhost:{port}/a")])
        .arg("--cert")
        .arg(ca.write("probe.pem", caller.chain_pem()))
        .arg("--key")
        .arg(ca.write("probe.key", caller.key_pem()))
        .arg("--cacert")
        .arg(roots)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(2) => Err(said),
        _ => Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))),
    }
}

#[tokio::test]
async fn probe_trusts_every_root_of_its_file() {
    let (other, ca) = (TestCa::new("other.org"), TestCa::new("example.org"));
    let echo = Echo::start().await;
    let server = ca.server(&["localhost"]);
    let settings = Settings::new(&ca)
        .server(&server)
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let roots = [other.root().pem(), ca.root().pem()];
    for content in [glued(&roots), format!("{}\u{feff}{}", roots[0], roots[1])] {
        let file = ca.write("cacert.pem", &content);
        let seen = probe(&ca, &gateway, &file).await.unwrap();
        assert_eq!(seen["server"]["verified"], true, "{content}: {seen}");
    }
    let line = format!("cacert.pem, line {}: ", roots[0].lines().count() + 1);
    for (with, what, remedy) in &DAMAGES[..3] {
        let file = ca.write(
            "cacert.pem",
            format!("{}{}", roots[0], begins(&roots[1], with)),
        );
        let said = probe(&ca, &gateway, &file).await.unwrap_err();
        says(&said, &[&line, what, remedy], with);
    }
}

#[tokio::test]
async fn the_server_shows_every_certificate_of_its_file() {
    let ca = TestCa::new("example.org");
    let server = ca.server(&["orders.example.org", "localhost"]);
    let key = ca.write(
        "server.key",
        format!("\u{feff}{}", server.key_pem()).replace('\n', "\r\n"),
    );
    let settings = |content: &str| {
        let chain = ca.write("server.pem", content);
        Settings::new(&ca)
            .set(
                "listener",
                "certificate",
                &format!("\"{}\"", chain.display()),
            )
            .set("listener", "private_key", &format!("\"{}\"", key.display()))
    };
    let blocks: Vec<String> = server
        .chain
        .iter()
        .map(|der| countersign_testkit::pem("CERTIFICATE", der))
        .collect();
    let both_and_key = format!("{}{}", server.key_pem(), server.chain_pem());
    for content in [
        glued(&blocks),
        format!("\u{feff}{}{}", blocks[0], blocks[1]),
        both_and_key,
    ] {
        let echo = Echo::start().await;
        let settings = settings(&content).everything_to(echo.address());
        let gateway = Gateway::start(BINARY, &settings).await;
        let seen = probe(&ca, &gateway, &ca.root_file()).await.unwrap();
        assert_eq!(seen["server"]["verified"], true, "{content}: {seen}");
        assert_eq!(seen["server"]["chain"].as_array().unwrap().len(), 2);
    }
    let line = format!("server.pem, line {}: ", blocks[0].lines().count() + 1);
    for (with, what, remedy) in &DAMAGES[..3] {
        let content = format!("{}{}", blocks[0], begins(&blocks[1], with));
        let words = [&*line, what, remedy, "certificate = "];
        refuses_to_start(settings(&content), &words, with).await;
    }
}

#[tokio::test]
async fn every_list_that_is_fetched_counts() {
    let ca = TestCa::new("example.org");
    let revoked = ca.client(CALLER);
    let [root, older, newer] = lists(&ca, revoked.serial());
    let echo = Echo::start().await;
    let document = |content: String| Item::Document(content.into_bytes());
    let shelf = Shelf::start(
        &ca.server(&["localhost"]),
        document(glued(&[root.clone(), older.clone(), newer.clone()])),
    )
    .await;
    let settings = Settings::new(&ca)
        .trust(
            &ca,
            &format!("crls = [\"{}\"]\nrevocation = \"hard\"", shelf.url()),
        )
        .set(
            "crl_fetch",
            "roots",
            &format!("[\"{}\"]", ca.root_file().display()),
        )
        .set("crl_fetch", "interval", "\"1s\"")
        .everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&revoked);
    assert_eq!(client.refusal().await.alert(), Some(44));
    // The gateway refuses the next document as a whole and keeps the current CRLs.
    let damaged = format!("{root}{older}{}", begins(&newer, "----BEGIN"));
    shelf.put(document(damaged.clone()));
    in_time("the alarm", async {
        loop {
            let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await.body;
            if ready.contains("first or last line of a PEM block") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(client.refusal().await.alert(), Some(44));
    drop(gateway);
    match Gateway::try_start(BINARY, &settings).await {
        Ok(_) => panic!("it started"),
        Err(failure) => says(
            &failure.stderr,
            &["cannot be fetched", "first or last line of a PEM block"],
            "fetched",
        ),
    }
}

#[tokio::test]
async fn explain_decides_by_every_block() {
    let ca = TestCa::new("example.org");
    let caller = ca.client(CALLER);
    let [root, older, newer] = lists(&ca, caller.serial());
    let echo = Echo::start().await;
    let settings = with_lists(&ca, &format!("{root}{older}")).everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let explain = async |chain: &str| {
        Command::new(BINARY)
            .args(["explain", "--json", "--config"])
            .arg(gateway.config_file())
            .arg("--cert")
            .arg(ca.write("chain.pem", chain))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap()
    };
    let blocks: Vec<String> = caller
        .chain
        .iter()
        .map(|der| countersign_testkit::pem("CERTIFICATE", der))
        .collect();
    let with_key = format!("{}{}", caller.chain_pem(), caller.key_pem());
    for content in [
        glued(&blocks),
        format!("\u{feff}{}", caller.chain_pem()),
        with_key,
    ] {
        let output = explain(&content).await;
        assert_eq!(output.status.code(), Some(0), "{content} {output:?}");
    }
    let line = format!("chain.pem, line {}: ", blocks[0].lines().count() + 1);
    for (with, what, remedy) in &DAMAGES[..3] {
        let content = format!("{}{}", blocks[0], begins(&blocks[1], with));
        let output = explain(&content).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        says(
            &String::from_utf8(output.stderr).unwrap(),
            &[&line, what, remedy],
            with,
        );
    }
    let _ = ca.write("lists.pem", glued(&[root, older, newer]));
    let output = explain(&caller.chain_pem()).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["answer"]["reason"], "certificate-revoked", "{said}");
}
