//! Output that only a terminal shows: the prompt for a passphrase, and the progress of a long
//! list.

use std::io::Write as _;
use std::process::{Command, Stdio};

use countersign_testkit::skipped::has_tool;

use super::Authority;
use crate::support::{BINARY, Run};

/// Runs `countersign pki …` on a terminal, with `typed` as its input. Returns `None` if the
/// tool `script` is missing.
fn on_a_terminal(directory: &std::path::Path, arguments: &[&str], typed: &str) -> Option<Run> {
    if !has_tool("script", "--version") {
        return None;
    }
    let command = std::iter::once(BINARY)
        .chain(std::iter::once("pki"))
        .chain(arguments.iter().copied())
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(" ");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Standard input is closed at once. The typed input waits in the terminal.
    let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
    Some(Run::from(child.wait_with_output().unwrap()))
}

#[test]
fn keys_are_encrypted_with_what_is_typed_twice() {
    let home = tempfile::tempdir().unwrap();
    let init = |dir: &str, typed: &str| {
        let words = ["init", "--dir", dir, "--trust-domain", "example.org"];
        on_a_terminal(home.path(), &words, typed)
    };
    let Some(made) = init("certs", "correct horse\ncorrect horse\n") else {
        return;
    };
    let made = made.done();
    assert!(made.stdout.contains("The same again"), "{}", made.stdout);
    for key in ["root.key", "intermediate.key"] {
        let text = std::fs::read_to_string(home.path().join("certs").join(key)).unwrap();
        assert!(text.contains("BEGIN ENCRYPTED PRIVATE KEY"), "{key}");
    }
    let words = ["issue", "a.example.org", "--dir", "certs"];
    on_a_terminal(home.path(), &words, "correct horse\n")
        .unwrap()
        .done();
    let words = ["issue", "b.example.org", "--dir", "certs"];
    let wrong = on_a_terminal(home.path(), &words, "wrong horse\n").unwrap();
    assert_eq!(wrong.code, 1, "{}", wrong.stdout);
    assert!(
        wrong.stdout.contains("intermediate.key"),
        "{}",
        wrong.stdout
    );
    assert!(!home.path().join("certs/issued/b.example.org.pem").exists());

    for typed in ["correct horse\nanother horse\n", "\n\n"] {
        let said = init("none", typed).unwrap();
        assert_eq!(said.code, 2, "{}", said.stdout);
        assert!(!home.path().join("none").exists());
    }
}

#[test]
fn a_long_list_says_how_far_it_is() {
    let authority = Authority::new();
    let list: String = (0..2_500)
        .map(|number| format!("n{number}.example.org\n"))
        .collect();
    std::fs::write(authority.home.path().join("list"), list).unwrap();
    let words = ["issue", "--from", "list", "--dir", "certs"];
    let Some(shown) = on_a_terminal(authority.home.path(), &words, "") else {
        return;
    };
    let shown = shown.done().stdout;
    for words in ["40 %", "80 %", "100 %", "Issued 2500 certificates"] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
}
