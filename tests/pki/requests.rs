//! `pki sign` and `pki renew`: which requests are signed, and how certificates are renewed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

use super::{Authority, certificates};
use crate::support::Run;

fn request(
    authority: &Authority,
    name: &str,
    alter: impl FnOnce(&mut CertificateParams),
) -> PathBuf {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://example.org/ns/shop/sa/checkout")];
    alter(&mut params);
    let key = KeyPair::generate().unwrap();
    let path = authority.home.path().join(name);
    std::fs::write(
        &path,
        params.serialize_request(&key).unwrap().pem().unwrap(),
    )
    .unwrap();
    path
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn spki(der: &[u8]) -> Vec<u8> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    certificate.public_key().raw.to_vec()
}

fn serial(path: &Path) -> String {
    let leaf = certificates(path).swap_remove(0);
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    leaf.raw_serial_as_string()
}

#[test]
fn a_request_gives_key_and_names_only() {
    let authority = Authority::new();
    let path = request(&authority, "checkout.csr", |params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
    });
    let run = authority
        .run(&[
            "sign",
            path.to_str().unwrap(),
            "--profile",
            "client",
            "--json",
        ])
        .done();
    let document = run.json();
    assert_eq!(
        document["identity"],
        "spiffe://example.org/ns/shop/sa/checkout"
    );
    assert_eq!(document["ignored"][0], "key usage");
    let issued = certificates(&authority.path("issued/checkout.pem"));
    assert_eq!(issued.len(), 2);
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued[0]).unwrap();
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_encipherment());
    assert!(!leaf.is_ca());
    assert!(!authority.path("issued/checkout.key").exists());
    authority
        .run(&["sign", path.to_str().unwrap(), "--profile", "client"])
        .refused(1, "--force");
}

#[test]
fn a_request_comes_from_standard_input_too() {
    let authority = Authority::new();
    let path = request(&authority, "a.csr", |_| {});
    let mut child = authority
        .pki(&["sign", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&std::fs::read(path).unwrap())
        .unwrap();
    Run::from(child.wait_with_output().unwrap()).done();
    assert!(authority.path("issued/checkout.pem").exists());
}

#[test]
fn what_a_requester_must_not_have_is_refused() {
    let authority = Authority::new();
    let ca = request(&authority, "ca.csr", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let foreign = request(&authority, "foreign.csr", |params| {
        params.subject_alt_names = vec![uri("spiffe://example.com/a")];
    });
    let two = request(&authority, "two.csr", |params| {
        params.subject_alt_names.push(uri("https://example.org/"));
    });
    let nameless = request(&authority, "nameless.csr", |params| {
        params.subject_alt_names.clear();
    });
    let forged = request(&authority, "forged.csr", |_| {});
    let text = std::fs::read_to_string(&forged).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    let mut der = block.contents;
    let place = der
        .windows(8)
        .position(|window| window == b"checkout")
        .unwrap();
    der[place] = b'x';
    std::fs::write(&forged, der).unwrap();
    for (path, reason) in [
        (&ca, "wrong-usage"),
        (&foreign, "trust-domain-mismatch"),
        (&two, "ambiguous-identity"),
        (&nameless, "no-identity"),
        (&forged, "bad-signature"),
        (&authority.path("root.pem"), "CERTIFICATE"),
    ] {
        authority
            .run(&["sign", path.to_str().unwrap(), "--profile", "client"])
            .refused(2, reason);
    }
    assert_eq!(
        std::fs::read_dir(authority.path("issued")).unwrap().count(),
        0
    );
}

#[test]
fn a_renewed_certificate_is_the_same_with_a_new_key() {
    let authority = Authority::new();
    authority
        .run(&[
            "issue",
            "checkout",
            "--spiffe",
            "/a",
            "--dns",
            "a.example.org",
            "--lifetime",
            "2h",
        ])
        .done();
    let path = authority.path("issued/checkout.pem");
    let name = path.to_str().unwrap();
    let before = certificates(&path).swap_remove(0);

    let waiting = authority
        .run(&["renew", name, "--if-expiring", "33%", "--json"])
        .done();
    assert_eq!(waiting.json()["renewed"], false);
    assert_eq!(certificates(&path)[0], before);

    let renewed = authority.run(&["renew", name, "--json"]).done().json();
    assert_eq!(renewed["renewed"], true);
    assert_eq!(renewed["names"][1], "dns:a.example.org");
    let after = certificates(&path).swap_remove(0);
    assert_ne!(spki(&before), spki(&after));
    let (_, old) = x509_parser::parse_x509_certificate(&before).unwrap();
    let (_, new) = x509_parser::parse_x509_certificate(&after).unwrap();
    assert_eq!(old.subject(), new.subject());
    let life = |certificate: &x509_parser::certificate::X509Certificate<'_>| {
        let validity = certificate.validity();
        validity.not_after.timestamp() - validity.not_before.timestamp()
    };
    assert_eq!(life(&old), life(&new));

    authority.run(&["renew", name, "--keep-key"]).done();
    assert_eq!(spki(&certificates(&path)[0]), spki(&after));
    let key = KeyPair::from_pem(&std::fs::read_to_string(path.with_extension("key")).unwrap());
    assert_eq!(
        rcgen::PublicKeyData::subject_public_key_info(&key.unwrap()),
        spki(&after)
    );
}

#[test]
fn revoked_and_foreign_certificates_are_not_renewed() {
    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    let path = authority.path("issued/a.pem");
    let name = path.to_str().unwrap();
    authority.run(&["revoke", "--cert", name]).done();
    authority
        .run(&["renew", name])
        .refused(2, "certificate-revoked");
    let other = Authority::new();
    other
        .run(&["renew", name])
        .refused(1, "not issued by this authority");
    let intermediate = authority.path("intermediate.pem");
    authority
        .run(&["renew", intermediate.to_str().unwrap()])
        .refused(1, "not issued by this authority");
}

#[test]
fn the_daemon_renews_when_due_and_calls_the_hook() {
    let authority = Authority::new();
    // The certificate is valid for a few seconds and begins five minutes in the past, so that its
    // renewal is due at once.
    authority
        .run(&["issue", "spiffe://example.org/a", "--lifetime", "3s"])
        .done();
    let path = authority.path("issued/a.pem");
    let log = authority.home.path().join("log");
    let hook = format!("echo $COUNTERSIGN_CERTIFICATE >> {}", log.display());
    let mut child = authority
        .pki(&[
            "renew",
            path.to_str().unwrap(),
            "--every",
            "1s",
            "--exec",
            &hook,
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let first = serial(&path);
    let deadline = Instant::now() + Duration::from_secs(20);
    let lines = || {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .count()
    };
    while lines() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lines() >= 2);
    assert_ne!(serial(&path), first);
}
