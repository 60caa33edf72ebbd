//! `pki sign` and `pki renew`: which requests are signed, and how certificates are renewed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use countersign_testkit::der::{elements, sequence};
use countersign_testkit::skipped::has_tool;
use countersign_testkit::unusual::{
    ECDSA_SHA1, ECDSA_SHA224, ECDSA_SHA512, keys_beyond_ring, request_claiming, unsupported_keys,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

use super::{Authority, certificates, pki};
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

/// Replaces the key of a request (RFC 2986), after version and subject.
fn with_key(request: &[u8], key: &[u8]) -> Vec<u8> {
    let mut parts = elements(request);
    let mut fields = elements(&parts[0]);
    fields[2] = key.to_vec();
    parts[0] = sequence(&fields);
    sequence(&parts)
}

#[test]
fn a_request_that_cannot_be_verified_is_not_called_altered() {
    let authority = Authority::new();
    let path = request(&authority, "unusual.csr", |_| {});
    let text = std::fs::read_to_string(&path).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    let der = block.contents;
    let signature = "the request's signature is";
    let mut cases = vec![
        (
            request_claiming(&der, ECDSA_SHA224),
            format!("unsupported-key: {signature} not supported: ECDSA with SHA-224"),
        ),
        (
            request_claiming(&der, ECDSA_SHA1),
            format!("weak-key: {signature} too weak: ECDSA with SHA-1"),
        ),
    ];
    let mut keys = unsupported_keys();
    if countersign_core::crypto::PROVIDER == "ring" {
        keys.extend(keys_beyond_ring());
        cases.push((
            request_claiming(&der, ECDSA_SHA512),
            format!("unsupported-key: {signature} not supported: ECDSA with SHA-512"),
        ));
    }
    for (name, key) in keys {
        let said = format!("unsupported-key: the request's key is not supported: {name}");
        cases.push((with_key(&der, &key), said));
    }
    for (der, said) in cases {
        std::fs::write(&path, der).unwrap();
        authority
            .run(&["sign", path.to_str().unwrap(), "--profile", "client"])
            .refused(2, &said);
        let inspected = Run::of(pki(&["inspect"]).arg(&path));
        assert!(inspected.stdout.contains(&said), "{inspected:?}");
    }
    assert!(authority.has_issued_nothing());
}

#[test]
fn requests_of_openssl_are_told_apart() {
    if !has_tool("openssl", "version") {
        return;
    }
    let authority = Authority::new();
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        Run::of(command.args(arguments).current_dir(&authority.home)).done();
    };
    let subject = "subjectAltName=URI:spiffe://example.org/a";
    let rsa = [
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
    ];
    let ec = [
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ];
    openssl(&[&rsa[..], &["-out", "rsa.key"]].concat());
    openssl(&[&ec[..], &["-out", "ec.key"]].concat());
    let pss = "rsa_padding_mode:pss";
    let is_ring = countersign_core::crypto::PROVIDER == "ring";
    let of_ring = |said: &'static str| is_ring.then_some(said);
    for (key, options, refusal) in [
        ("ec.key", &["-sha256"][..], None),
        ("ec.key", &["-sha384"], None),
        (
            "ec.key",
            &["-sha512"],
            of_ring("not supported: ECDSA with SHA-512"),
        ),
        ("rsa.key", &["-sha512"], None),
        (
            "rsa.key",
            &["-sha256", "-sigopt", pss, "-sigopt", "rsa_pss_saltlen:32"],
            None,
        ),
        (
            "rsa.key",
            &["-sha256", "-sigopt", pss, "-sigopt", "rsa_pss_saltlen:max"],
            Some("RSA-PSS with SHA-256 and a salt of 222 bytes"),
        ),
    ] {
        let request = [
            "req", "-new", "-subj", "/", "-addext", subject, "-out", "a.csr", "-key",
        ];
        openssl(&[&request[..], &[key], options].concat());
        let path = authority.home.path().join("a.csr");
        let sign = [
            "sign",
            path.to_str().unwrap(),
            "--profile",
            "client",
            "--force",
        ];
        let run = authority.run(&sign);
        match refusal {
            None => {
                run.done();
            }
            Some(said) => {
                let run = run.refused(2, said);
                assert!(run.stderr.contains("unsupported-key: "), "{}", run.stderr);
                assert!(
                    run.stderr.contains("openssl req -new -sha256"),
                    "{}",
                    run.stderr
                );
            }
        }
    }
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
