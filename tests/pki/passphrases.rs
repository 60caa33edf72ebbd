//! Encrypted keys: the sources of passphrases, and commands without a passphrase.

use std::fs::File;
use std::process::Command;

use super::pki;
use crate::support::{BINARY, Run};

#[test]
fn without_a_terminal_and_without_a_passphrase_nothing_is_made() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    let mut init = pki(&["init", "--trust-domain", "example.org", "--dir"]);
    Run::of(init.arg(&dir)).refused(2, "--passphrase-file");
    assert!(!dir.exists());
}

#[test]
fn keys_are_encrypted_and_every_source_of_the_passphrase_works() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    let dir = dir.to_str().unwrap();
    let file = home.path().join("passphrase");
    std::fs::write(&file, "correct horse\n").unwrap();
    let file_argument = file.to_str().unwrap();
    Run::of(&mut pki(&[
        "init",
        "--dir",
        dir,
        "--trust-domain",
        "example.org",
        "--passphrase-file",
        file_argument,
    ]))
    .done();
    for key in ["root.key", "intermediate.key"] {
        let text = std::fs::read_to_string(format!("{dir}/{key}")).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    }
    let issue = |name: &str, more: &[&str]| {
        let name = format!("spiffe://example.org/{name}");
        pki(&[&["issue", &name, "--dir", dir], more].concat())
    };
    Run::of(&mut issue("file", &["--passphrase-file", file_argument])).done();
    let stdin = File::open(&file).unwrap();
    Run::of(issue("stdin", &["--passphrase-file", "-"]).stdin(stdin)).done();
    let mut environment = issue("env", &["--passphrase-env", "CA_PASSPHRASE"]);
    Run::of(environment.env("CA_PASSPHRASE", "correct horse")).done();
    let descriptor = Command::new("sh")
        .args([
            "-c",
            "exec \"$0\" pki issue spiffe://example.org/fd --dir \"$1\" --passphrase-fd 3 3<\"$2\"",
        ])
        .args([BINARY, dir, file_argument])
        .output()
        .unwrap();
    Run::from(descriptor).done();
    // The leaf's key is not encrypted, because the service must start without a person.
    let leaf = std::fs::read_to_string(format!("{dir}/issued/fd.key")).unwrap();
    assert!(leaf.starts_with("-----BEGIN PRIVATE KEY-----\n"));

    Run::of(&mut issue("none", &[])).refused(2, "intermediate.key is encrypted");
    let mut wrong = issue("wrong", &["--passphrase-env", "CA_PASSPHRASE"]);
    Run::of(wrong.env("CA_PASSPHRASE", "Correct horse")).refused(1, "intermediate.key");
    let mut empty = issue("empty", &["--passphrase-env", "CA_PASSPHRASE"]);
    Run::of(empty.env("CA_PASSPHRASE", "")).refused(2, "empty");
    let mut unset = issue("unset", &["--passphrase-env", "CA_PASSPHRASE"]);
    Run::of(unset.env_remove("CA_PASSPHRASE")).refused(2, "CA_PASSPHRASE");
    Run::of(&mut issue(
        "missing",
        &["--passphrase-file", "/nonexistent"],
    ))
    .refused(2, "/nonexistent");
    Run::of(&mut issue("closed", &["--passphrase-fd", "99"])).refused(2, "/dev/fd/99");
    Run::of(&mut issue(
        "two",
        &["--passphrase-fd", "0", "--passphrase-env", "X"],
    ))
    .refused(2, "cannot be used with");
    // A command that must be refused is refused before it asks for a passphrase.
    Run::of(&mut pki(&["issue", "spiffe://example.com/a", "--dir", dir]))
        .refused(2, "trust-domain-mismatch");
    Run::of(&mut issue("file", &[])).refused(1, "exists already");

    for revoke in [
        &["crl", "--dir", dir][..],
        &[
            "revoke",
            "--dir",
            dir,
            "--cert",
            &format!("{dir}/issued/fd.pem"),
        ][..],
    ] {
        Run::of(&mut pki(revoke)).refused(2, "encrypted");
        Run::of(pki(revoke).args(["--passphrase-file", file_argument])).done();
    }
}

#[test]
fn an_empty_passphrase_protects_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    let mut init = pki(&[
        "init",
        "--trust-domain",
        "example.org",
        "--passphrase-file",
        "-",
        "--dir",
    ]);
    Run::of(init.arg(&dir)).refused(2, "empty");
    let mut init = pki(&[
        "init",
        "--trust-domain",
        "example.org",
        "--passphrase-env",
        "P",
        "--no-passphrase",
        "--dir",
    ]);
    Run::of(init.arg(&dir)).refused(2, "cannot be used with");
    assert!(!dir.exists());
}
