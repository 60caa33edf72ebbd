//! What commands print comes partly from files and peers. None of it may control the terminal.

use std::path::Path;
use std::process::Command;

use countersign_testkit::{Leaf, TestCa};

use crate::support::{BINARY, CALLER, Run, World};

/// Control characters (C0, DEL and C1), a change of the direction of text, and an invisible one.
const HAZARDS: &str = "\u{1b}[2J\u{7}\u{7f}\u{9b}31m\u{85}\u{202e}\u{2066}\u{200b}\u{feff}";

/// Checks that the output of a run has no hazardous character besides line ends.
#[track_caller]
fn assert_harmless(run: &Run) {
    for output in [&run.stdout, &run.stderr] {
        let bad = output.chars().find(|character| {
            let hazard = !character.is_ascii() && HAZARDS.contains(*character);
            hazard || character.is_control() && !matches!(character, '\n' | '\t')
        });
        assert_eq!(bad, None, "{output:?}");
    }
}

fn countersign(directory: &Path, arguments: &[&str]) -> Run {
    Run::of(
        Command::new(BINARY)
            .current_dir(directory)
            .args(arguments)
            .env_remove("COUNTERSIGN_CONFIG"),
    )
}

#[test]
fn inspect_prints_no_control_character_of_a_key_set() {
    let directory = tempfile::tempdir().unwrap();
    let evil = serde_json::to_string(&format!("x{HAZARDS}\nsubject  CN=good")).unwrap();
    let text = format!(
        "{{\"spiffe_sequence\":{evil},\"spiffe_refresh_hint\":[{evil},{{{evil}:{evil}}}],\"keys\":[\
         {{\"kid\":{evil},\"kty\":{evil},\"crv\":{evil},\"alg\":{evil},\"use\":{evil}}}]}}"
    );
    std::fs::write(directory.path().join("evil.json"), text).unwrap();
    let run = countersign(directory.path(), &["pki", "inspect", "evil.json"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_harmless(&run);
    assert!(run.stdout.contains("\\u{1b}[2J"), "{}", run.stdout);
    let forged = run.stdout.lines().any(|line| line.starts_with("subject"));
    assert!(!forged, "{}", run.stdout);
    let run = countersign(directory.path(), &["--json", "pki", "inspect", "evil.json"]);
    assert_harmless(&run);
    let read = &run.json()["items"][0]["content"]["sequence"];
    assert!(read.as_str().unwrap().contains(HAZARDS), "{read}");
}

#[test]
fn names_of_certificates_are_printed_without_control_characters() {
    let ca = TestCa::new("example.org");
    let spiffe = ca.spiffe(CALLER);
    let hazards = "\u{1b}[2J\u{7}\u{7f}";
    let leaf = Leaf::with_uri(&spiffe)
        .common_name(&format!("cn{HAZARDS}"))
        .dns(&format!("dns{hazards}"))
        .email(&format!("mail{hazards}@example.org"));
    let chain = ca.write("evil.pem", ca.issue(leaf).chain_pem());
    let chain = chain.to_str().unwrap();
    let roots = ca.root_file();
    let roots = roots.to_str().unwrap();
    for arguments in [
        &["pki", "inspect", chain][..],
        &["--json", "pki", "inspect", chain],
        &[
            "pki",
            "verify",
            "--purpose",
            "client",
            "--roots",
            roots,
            chain,
        ],
        &[
            "pki",
            "verify",
            "--purpose",
            "server",
            "--roots",
            roots,
            chain,
        ],
    ] {
        assert_harmless(&countersign(ca.directory(), arguments));
    }
}

#[test]
fn errors_about_a_configuration_print_none_of_its_control_characters() {
    let directory = tempfile::tempdir().unwrap();
    let evil = "\u{7f}\u{9b}31m\u{85}\u{202e}\u{2066}\u{200b}";
    let text = format!(
        "[listener] # {evil}\naddress = \"{evil}\"\n\"k{evil}\" = 1\ntrust_domains = [\"{evil}\"]\n\
         [[route]]\nname = \"r{evil}\"\npaths = [\"a{evil}\"]\nupstream = \"u{evil}\"\n"
    );
    std::fs::write(directory.path().join("countersign.toml"), text).unwrap();
    for arguments in [&["check"][..], &["--json", "check"], &["serve"]] {
        let run = countersign(directory.path(), arguments);
        assert_eq!(run.code, 2, "{run:?}");
        assert_harmless(&run);
    }
}

#[tokio::test]
async fn explain_prints_no_control_character_of_its_arguments() {
    let world = World::open().await;
    let leaf = Leaf::with_uri(&world.ca.spiffe(CALLER)).common_name(&format!("cn{HAZARDS}"));
    let chain = world.ca.write("evil.pem", world.ca.issue(leaf).chain_pem());
    let config = world.gateway.config_file();
    for json in [false, true] {
        let mut command = tokio::process::Command::new(BINARY);
        command.args(json.then_some("--json"));
        command.args([
            "explain",
            "--url",
            "https://orders.example.org/%C2%9b31m/%E2%80%AE",
        ]);
        command
            .arg("--config")
            .arg(&config)
            .arg("--cert")
            .arg(&chain);
        let run = Run::of_async(&mut command).await;
        assert_eq!(run.code, 0, "{run:?}");
        assert_harmless(&run);
    }
}
