//! `countersign pki verify` as scripts use it: exit codes, the reason code on standard error, `-`
//! for standard input, times, and some cases of the suite.

use std::process::Command;

use countersign_testkit::{Crl, Leaf, TestCa};

use super::{Case, corpus};
use crate::support::{BINARY, Files, Run};

fn verify(purpose: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["pki", "verify", "--purpose", purpose]);
    command
}

#[track_caller]
fn ends(run: &Run, code: i32, words: &str) {
    assert_eq!(run.code, code, "{run:?}");
    assert!(run.stderr.starts_with(words), "{run:?}");
}

fn run(case: &Case) -> Run {
    let files = Files::new();
    let mut command = verify("client");
    command
        .arg("--roots")
        .arg(files.write("roots.pem", case.trusted_certs.join("\n")));
    if !case.untrusted_intermediates.is_empty() {
        let pem = case.untrusted_intermediates.join("\n");
        command
            .arg("--intermediates")
            .arg(files.write("intermediates.pem", pem));
    }
    for (index, list) in case.crls.iter().enumerate() {
        command
            .arg("--crl")
            .arg(files.write(&format!("{index}.crl"), list));
    }
    if let Some(time) = &case.validation_time {
        command.args(["--time", time]);
    }
    Run::of(command.arg(files.write("leaf.pem", &case.peer_certificate)))
}

#[test]
fn the_program_says_what_the_function_says() {
    let Some((cases, _)) = corpus() else { return };
    for (id, reason) in [
        ("rfc5280::nc::permitted-dns-match", None),
        ("rfc5280::no-keyusage", None),
        ("rfc5280::validity::notafter-fractional", None),
        ("crl::certificate-not-on-crl", None),
        (
            "crl::revoked-certificate-with-crl",
            Some("certificate-revoked: "),
        ),
        ("crl::crlnumber-missing", Some("revocation-unknown: ")),
        (
            "rfc5280::validity::expired-root",
            Some("certificate-expired: "),
        ),
        (
            "rfc5280::validity::not-yet-valid-1-second",
            Some("certificate-not-yet-valid: "),
        ),
        ("rfc5280::chain-untrusted-root", Some("unknown-issuer: ")),
        ("rfc5280::eku::ee-wrong-eku", Some("wrong-usage: ")),
        ("rfc5280::nc::excluded-dns-match", Some("name-constraint: ")),
    ] {
        let case = cases.iter().find(|case| case.id == id).unwrap();
        ends(
            &run(case),
            if reason.is_some() { 3 } else { 0 },
            reason.unwrap_or_default(),
        );
    }
}

#[test]
fn a_chain_file_standard_input_and_revocation_lists() {
    let ca = TestCa::new("example.org");
    let files = Files::new();
    let caller = ca.client("/a");
    let root = ca.root_file();
    let leaf = files.write("leaf.pem", caller.chain_pem());
    let check = |more: &[&str]| {
        let mut command = verify("client");
        Run::of(command.arg("--roots").arg(&root).args(more).arg(&leaf))
    };
    ends(&check(&[]), 0, "");
    ends(
        &check(&["--time", "1000000000"]),
        3,
        "certificate-not-yet-valid: ",
    );
    ends(
        &check(&["--time", "2999-01-01T00:00:00Z"]),
        3,
        "certificate-expired: ",
    );
    ends(&check(&["--time", "tomorrow"]), 2, "error: ");

    let of_root = files.write("root.crl", Crl::new().pem_signed_by(ca.root()));
    let of_root = of_root.to_str().unwrap();
    let clear = files.write("clear.crl", Crl::new().signed_by(ca.intermediate()));
    let clear = clear.to_str().unwrap();
    let revoking = Crl::new().number(2).revoke(caller.serial());
    let revoking = files.write("revoking.crl", revoking.pem_signed_by(ca.intermediate()));
    let revoking = revoking.to_str().unwrap();
    ends(&check(&["--crl", of_root, "--crl", clear]), 0, "");
    ends(&check(&["--crl", of_root]), 3, "revocation-unknown: ");
    ends(&check(&["--crl", clear]), 3, "revocation-unknown: ");
    ends(
        &check(&["--crl", of_root, "--crl", revoking]),
        3,
        "certificate-revoked: ",
    );
    // A CRL for one distribution point does not apply to a leaf without that distribution point.
    let elsewhere = Crl::new().distribution_point("http://crl.example.org/other.crl");
    let elsewhere = files.write("elsewhere.crl", elsewhere.signed_by(ca.intermediate()));
    let elsewhere = elsewhere.to_str().unwrap();
    ends(
        &check(&["--crl", of_root, "--crl", elsewhere]),
        3,
        "revocation-unknown: ",
    );
    for order in [[clear, revoking], [revoking, clear]] {
        let lists = ["--crl", of_root, "--crl", order[0], "--crl", order[1]];
        ends(&check(&lists), 3, "certificate-revoked: ");
    }
    let json = check(&["--json", "--crl", of_root, "--crl", revoking]);
    let json = json.json();
    assert_eq!(json["valid"], false);
    assert_eq!(json["reason"], "certificate-revoked");

    let mut command = verify("client");
    command.args(["--json", "--roots"]).arg(&root).arg("-");
    let json = Run::with_input(&mut command, caller.chain_pem()).json();
    assert_eq!(
        (json["valid"].as_bool(), json["certificates"].as_u64()),
        (Some(true), Some(3))
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let ca = TestCa::new("example.org");
    let files = Files::new();
    let empty = files.write("empty.pem", "");
    let leaf = files.write("leaf.pem", ca.client("/a").chain_pem());
    let missing = files.path("missing.pem");
    for (roots, leaf, named) in [
        (&missing, &leaf, "missing.pem"),
        (&empty, &leaf, "empty.pem"),
        (&ca.root_file(), &empty, "empty.pem"),
        (&ca.root_file(), &missing, "missing.pem"),
    ] {
        let run = Run::of(verify("client").arg("--roots").arg(roots).arg(leaf));
        ends(&run, 2, "countersign: ");
        assert!(run.stderr.contains(named));
    }
}

#[test]
fn files_as_other_programs_write_them() {
    let ca = TestCa::new("example.org");
    let files = Files::new();
    let caller = ca.client("/a");
    let pem = caller.chain_pem();
    let root = std::fs::read_to_string(ca.root_file()).unwrap();
    let der = files.write("root.der", ca.root().der());
    let two = files.write(
        "two.pem",
        format!("{}{root}", TestCa::new("b").root().pem()),
    );
    let half = &pem[..pem.len() / 4];
    for (name, content, code, words) in [
        ("crlf.pem", pem.replace('\n', "\r\n"), 0, ""),
        ("text.pem", format!("subject=CN = a\n\n{pem}"), 0, ""),
        ("mark.pem", format!("\u{feff}{pem}"), 0, ""),
        ("key.pem", format!("{}{pem}", caller.key_pem()), 0, ""),
        (
            "cut.pem",
            half.to_owned(),
            2,
            "cut.pem, line 1: -----BEGIN CERTIFICATE----- has no",
        ),
        (
            "key.only",
            caller.key_pem(),
            2,
            "key.only: it holds a private key and no certificate",
        ),
        ("root.first", format!("{root}{pem}"), 3, "wrong-usage: "),
    ] {
        let leaf = files.write(name, content);
        for roots in [&ca.root_file(), &der, &two] {
            let run = Run::of(verify("client").arg("--roots").arg(roots).arg(&leaf));
            ends(&run, code, if code == 2 { "countersign: " } else { words });
            assert!(run.stderr.contains(words), "{name}");
        }
    }
    for junk in [&b"\x30\x82"[..], &b"\x30\x83\xff\xff\xff\x00"[..]] {
        let leaf = files.write("junk.der", junk);
        let mut command = verify("client");
        command.arg("--roots").arg(ca.root_file()).arg(&leaf);
        ends(&Run::of(&mut command), 3, "malformed-identity: ");
    }
}

/// RFC 5280 section 6.1.5 (b). The extension applies whether it is critical or not.
#[test]
fn a_leaf_that_demands_a_policy_is_refused() {
    let ca = TestCa::new("example.org");
    let leaf = Leaf::with_uri("spiffe://example.org/a");
    let leaf = leaf.extension(&[2, 5, 29, 36], false, &[0x30, 0x03, 0x80, 0x01, 0x00]);
    let files = Files::new();
    let leaf = files.write("leaf.pem", ca.intermediate().issue(leaf).chain_pem());
    let mut command = verify("client");
    command.arg("--roots").arg(ca.root_file()).arg(&leaf);
    ends(
        &Run::of(&mut command),
        3,
        "wrong-usage: the leaf demands policy processing",
    );
}

#[test]
fn purposes_are_kept_apart() {
    let ca = TestCa::new("example.org");
    let files = Files::new();
    let server = files.write("server.pem", ca.server(&["a.example.org"]).chain_pem());
    for (purpose, code) in [("server", 0), ("client", 3)] {
        let run = Run::of(
            verify(purpose)
                .arg("--roots")
                .arg(ca.root_file())
                .arg(&server),
        );
        ends(&run, code, if code == 0 { "" } else { "wrong-usage: " });
    }
}
