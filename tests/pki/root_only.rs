//! Authorities without an intermediate, and RSA roots.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_testkit::skipped::has_tool;

use super::{Authority, certificates, pki, revocation_list};
use crate::support::Run;

fn init(dir: &Path, more: &[&str]) -> Run {
    let mut command = pki(&["init", "--trust-domain", "example.org", "--no-passphrase"]);
    Run::of(command.arg("--dir").arg(dir).args(more))
}

fn authority(more: &[&str]) -> Authority {
    let authority = Authority {
        home: tempfile::tempdir().unwrap(),
    };
    init(&authority.dir(), more).done();
    authority
}

fn verify(authority: &Authority, leaf: &str) -> Run {
    let mut command = pki(&["verify", "--purpose", "client", "--roots"]);
    command.arg(authority.path("trust.pem")).arg("--crl");
    command.arg(authority.path("crl/root.crl"));
    Run::of(command.arg(authority.path(leaf)))
}

fn openssl(authority: &Authority, leaf: &str) -> Run {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-crl_check", "-CAfile"]);
    command.arg(authority.path("trust.pem")).arg("-CRLfile");
    command.arg(authority.path("crl/root.crl"));
    Run::of(command.arg(authority.path(leaf)))
}

#[test]
fn a_root_that_issues_by_itself_does_everything() {
    let authority = authority(&["--root-only", "--timer"]);
    for absent in [
        "intermediate.pem",
        "intermediate.key",
        "crl/intermediate.crl",
    ] {
        assert!(!authority.path(absent).exists(), "{absent}");
    }
    let unit = String::from_utf8(authority.read("countersign-crl.service")).unwrap();
    assert!(unit.contains("--issuer root"), "{unit}");
    let issued = authority
        .run(&["issue", "spiffe://example.org/a", "--json"])
        .done()
        .json();
    authority.run(&["issue", "spiffe://example.org/b"]).done();
    assert_eq!(certificates(&authority.path("issued/a.pem")).len(), 1);
    verify(&authority, "issued/a.pem").done();

    let list = authority.home.path().join("list");
    std::fs::write(&list, "one.example.org\ntwo.example.org\n").unwrap();
    authority
        .run(&["issue", "--from", list.to_str().unwrap()])
        .done();
    verify(&authority, "issued/two.example.org.pem").done();
    let renewed = authority.path("issued/b.pem");
    authority.run(&["renew", renewed.to_str().unwrap()]).done();

    // The only CRL of this authority lists revoked leaves, and is valid for a week.
    let serial = issued["serial"].as_str().unwrap();
    let revoked = authority
        .run(&["revoke", "--serial", serial, "--json"])
        .done()
        .json();
    assert_eq!(revoked["issuer"], "root");
    let (number, serials) = revocation_list(&authority.path("crl/root.crl"));
    assert_eq!((number, serials), (2, vec![serial.to_owned()]));
    let refused = verify(&authority, "issued/a.pem");
    assert!(
        refused.stderr.starts_with("certificate-revoked"),
        "{}",
        refused.stderr
    );
    authority
        .run(&["crl", "--issuer", "intermediate"])
        .refused(2, "no intermediate");
    let lists = authority.run(&["crl", "--json"]).done().json();
    assert_eq!(lists["crls"].as_array().unwrap().len(), 1);
    let root = authority.path("root.pem");
    authority
        .run(&["revoke", "--cert", root.to_str().unwrap()])
        .refused(1, "cannot be revoked");
    let listed = authority.run(&["list", "--json"]).done().json();
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 5);

    if has_tool("openssl", "version") {
        openssl(&authority, "issued/b.pem").done();
        let refused = openssl(&authority, "issued/a.pem");
        assert!(refused.stderr.contains("revoked"), "{}", refused.stderr);
    }
}

#[test]
fn it_is_rotated_like_any_other() {
    let authority = authority(&["--root-only"]);
    authority.run(&["issue", "spiffe://example.org/old"]).done();
    let rotate = |step: &str, more: &[&str]| {
        let mut command = pki(&["rotate", step, "--dir"]);
        Run::of(command.arg(authority.dir()).args(more))
    };
    let prepared = rotate("prepare", &["--json"]).done().json();
    assert_eq!(prepared["dependents"], 1);
    assert_eq!(certificates(&authority.path("trust.pem")).len(), 2);
    authority.run(&["issue", "spiffe://example.org/new"]).done();
    for leaf in ["issued/old.pem", "issued/new.pem"] {
        verify(&authority, leaf).done();
    }
    rotate("retire", &[]).refused(1, "1 live certificates");
    let old = authority.path("issued/old.pem");
    authority.run(&["renew", old.to_str().unwrap()]).done();
    authority
        .run(&["revoke", "--identity", "/old", "--all"])
        .done();
    rotate("retire", &[]).done();
    assert_eq!(certificates(&authority.path("trust.pem")).len(), 1);
    verify(&authority, "issued/new.pem").done();
    assert!(!authority.path("intermediate.pem").exists());
}

#[test]
fn a_root_there_is_can_issue_by_itself() {
    let home = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Old root");
    // The path length is 0, so that the root cannot have an intermediate.
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    let key = rcgen::KeyPair::generate().unwrap();
    let [certificate, key_file] = [home.path().join("old.pem"), home.path().join("old.key")];
    std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let import = [
        "--ca-cert",
        certificate.to_str().unwrap(),
        "--ca-key",
        key_file.to_str().unwrap(),
    ];
    init(&home.path().join("certs"), &import).refused(1, "path length");
    let authority = authority(&[&import[..], &["--root-only"]].concat());
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    verify(&authority, "issued/a.pem").done();
}

/// Creates an RSA root with OpenSSL.
fn rsa_root(home: &Path) -> [PathBuf; 2] {
    let files = [home.join("rsa.pem"), home.join("rsa.key")];
    let mut command = Command::new("openssl");
    command
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90",
        ])
        .args(["-subj", "/O=Example/CN=RSA root"])
        .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
        .arg("-out")
        .arg(&files[0])
        .arg("-keyout")
        .arg(&files[1]);
    Run::of(&mut command).done();
    files
}

#[test]
fn rsa_roots_are_taken_by_every_build() {
    if !has_tool("openssl", "version") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let [certificate, key] = rsa_root(home.path());
    let import = [
        "--ca-cert",
        certificate.to_str().unwrap(),
        "--ca-key",
        key.to_str().unwrap(),
    ];
    for more in [&[][..], &["--root-only"]] {
        let authority = authority(&[&import[..], more].concat());
        authority.run(&["issue", "spiffe://example.org/a"]).done();
        let leaf = authority.path("issued/a.pem");
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-CAfile"]);
        command.arg(authority.path("trust.pem")).arg("-untrusted");
        Run::of(command.arg(&leaf).arg(&leaf)).done();
        authority.run(&["crl", "--issuer", "root"]).done();
        let mut command = pki(&["verify", "--purpose", "server", "--roots"]);
        Run::of(command.arg(authority.path("trust.pem")).arg(&leaf)).done();
    }
}

#[test]
fn rsa_keys_are_made_or_the_build_says_why_not() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    let made = init(&dir, &["--key-type", "rsa3072"]);
    if made.code != 0 {
        made.refused(1, "aws-lc-rs");
        assert!(!dir.join("root.pem").exists());
        return;
    }
    let mut issue = pki(&["issue", "spiffe://example.org/a", "--dir"]);
    Run::of(issue.arg(&dir)).done();
    let leaf = dir.join("issued/a.pem");
    let mut verify = pki(&["verify", "--purpose", "client", "--roots"]);
    Run::of(verify.arg(dir.join("trust.pem")).arg(&leaf)).done();
    if has_tool("openssl", "version") {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-CAfile"]);
        command.arg(dir.join("trust.pem")).arg("-untrusted");
        Run::of(command.arg(&leaf).arg(&leaf)).done();
    }
}
