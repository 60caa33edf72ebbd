//! `pki init` with options: types of keys, lifetimes, existing roots, timers.

use countersign_testkit::skipped::has_tool;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::{certificates, pki};
use crate::support::Run;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn init(&self, arguments: &[&str]) -> Run {
        let mut command = pki(&["init", "--trust-domain", "example.org", "--no-passphrase"]);
        Run::of(command.arg("--dir").arg(self.path("certs")).args(arguments))
    }

    fn root(&self, name: &str, alter: impl FnOnce(&mut CertificateParams)) -> [String; 4] {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Old root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        alter(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let [pem, key_path] = [
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        ];
        std::fs::write(&pem, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        let word = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        [
            "--ca-cert".to_owned(),
            word(pem),
            "--ca-key".to_owned(),
            word(key_path),
        ]
    }
}

fn words(arguments: &[String; 4]) -> [&str; 4] {
    arguments.each_ref().map(String::as_str)
}

fn issue(home: &Home) -> Run {
    let mut command = pki(&["issue", "spiffe://example.org/a", "--dir"]);
    Run::of(command.arg(home.path("certs")))
}

#[test]
fn keys_and_lifetimes_can_be_chosen() {
    for (key_type, oid) in [("p384", "1.2.840.10045.2.1"), ("ed25519", "1.3.101.112")] {
        let home = Home::new();
        home.init(&[
            "--key-type",
            key_type,
            "--root-lifetime",
            "30d",
            "--intermediate-lifetime",
            "10d",
            "--path-length",
            "2",
        ])
        .done();
        for (name, days, path_length) in [("root", 30, 2), ("intermediate", 10, 0)] {
            let der = certificates(&home.path(&format!("certs/{name}.pem"))).swap_remove(0);
            let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
            let validity = certificate.validity();
            let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
            assert_eq!(seconds / 86_400, days);
            assert_eq!(
                certificate.public_key().algorithm.algorithm.to_id_string(),
                oid
            );
            let constraints = certificate.basic_constraints().unwrap().unwrap().value;
            assert_eq!(constraints.path_len_constraint, Some(path_length));
        }
        issue(&home).done();
    }
    let home = Home::new();
    home.init(&["--root-lifetime", "9999d"])
        .refused(2, "at most 3652d");
    home.init(&["--permit-dns", "example.org"])
        .refused(2, "vouches_for");
    assert!(!home.path("certs/root.pem").exists());
}

#[test]
fn a_root_there_is_can_be_used() {
    let home = Home::new();
    let root = home.root("old", |_| {});
    home.init(&words(&root)).done();
    assert_eq!(
        certificates(&home.path("certs/root.pem")),
        certificates(&home.path("old.pem"))
    );
    issue(&home).done();
    let mut list = pki(&["crl", "--issuer", "all", "--dir"]);
    Run::of(list.arg(home.path("certs"))).done();
}

#[test]
fn what_is_no_usable_root_is_refused_and_leaves_nothing() {
    let home = Home::new();
    let [option, certificate, key_option, _] = home.root("a", |_| {});
    let other = home.root("b", |_| {})[3].clone();
    let leaf = home.root("leaf", |params| params.is_ca = IsCa::ExplicitNoCa);
    let closed = home.root("closed", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let listless = home.root("listless", |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let expired = home.root("expired", |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    for (arguments, reason) in [
        (
            &[option, certificate, key_option, other],
            "another certificate",
        ),
        (&leaf, "not say CA"),
        (&closed, "path length"),
        (&listless, "cRLSign"),
        (&expired, "expired"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        home.init(&arguments).refused(1, reason);
        assert!(!home.path("certs").join("root.pem").exists(), "{reason}");
    }
    home.init(&["--ca-cert", "x.pem"]).refused(2, "--ca-key");
}

#[test]
fn the_timer_names_program_and_directory() {
    let home = Home::new();
    home.init(&["--timer"]).done();
    let service = std::fs::read_to_string(home.path("certs/countersign-crl.service")).unwrap();
    let timer = std::fs::read_to_string(home.path("certs/countersign-crl.timer")).unwrap();
    let line = service
        .lines()
        .find(|line| line.starts_with("ExecStart=\"/"))
        .unwrap();
    assert!(line.ends_with("--issuer intermediate"), "{line}");
    assert!(line.contains(&format!("--dir \"{}\"", home.path("certs").display())));
    assert!(timer.contains("OnCalendar=daily"));
}

#[test]
fn name_constraints_are_refused_with_the_reason() {
    let home = Home::new();
    for option in ["--permit-dns=example.org", "--permit-ip=10.0.0.0/8"] {
        home.init(&[option]).refused(2, "vouches_for");
        assert!(!home.path("certs").exists());
    }
}

#[test]
fn a_name_that_would_not_be_repeated_exactly_is_refused() {
    if !has_tool("openssl", "version") {
        return;
    }
    let home = Home::new();
    let [certificate, key] = [home.path("dc.pem"), home.path("dc.key")];
    Run::of(
        std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args([
                "-nodes",
                "-subj",
                "/DC=corp/DC=example/CN=Root",
                "-days",
                "90",
            ])
            .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )
    .done();
    home.init(&[
        "--ca-cert",
        certificate.to_str().unwrap(),
        "--ca-key",
        key.to_str().unwrap(),
    ])
    .refused(1, "nothing would chain to it");
}

/// A long name leaves little of an assertion for the path of a request.
#[test]
fn a_note_says_that_a_name_is_long_for_assertions() {
    let home = Home::new();
    home.init(&[]).done();
    let id = |length: usize| {
        let path = "a/".repeat(length / 2);
        format!("spiffe://example.org/{path}caller-{length}")
    };
    let note = "have room for a path of";
    let list = home.path("callers.txt");
    std::fs::write(&list, format!("{}\n{}\n", id(20), id(1300))).unwrap();
    let list = list.to_str().unwrap();
    let (short, long) = (id(200), id(1200));
    for (arguments, noted) in [
        (&["short", "--spiffe", &short][..], false),
        (&["long", "--spiffe", &long], true),
        (&["--from", list], true),
    ] {
        let mut command = pki(&["issue", "--dir"]);
        let run = Run::of(command.arg(home.path("certs")).args(arguments));
        assert_eq!(run.stderr.contains(note), noted, "{arguments:?} {run:?}");
        assert_eq!(run.code, 0, "{run:?}");
    }
}
