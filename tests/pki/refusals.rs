//! Bad input: each command gives a clear reason and the right exit code, and creates nothing.

use super::{Authority, pki};
use crate::support::Run;

#[test]
fn what_the_gateway_would_refuse_is_not_issued() {
    let authority = Authority::new();
    for (arguments, reason) in [
        (&["spiffe://example.com/a"][..], "trust-domain-mismatch"),
        (
            &["a", "--spiffe", "spiffe://example.com/a"],
            "trust-domain-mismatch",
        ),
        (
            &["a", "--uri", "spiffe://example.com/a"],
            "trust-domain-mismatch",
        ),
        (
            &["a", "--spiffe", "spiffe://example.org"],
            "malformed-identity",
        ),
        (
            &["a", "--spiffe", "spiffe://example.org/"],
            "malformed-identity",
        ),
        (
            &["a", "--spiffe", "spiffe://example.org/a/"],
            "malformed-identity",
        ),
        (&["a", "--spiffe", "/a/../b"], "malformed-identity"),
        (&["a", "--spiffe", "/a%2fb"], "malformed-identity"),
        (
            &["a", "--spiffe", "SPIFFE://example.org/a"],
            "malformed-identity",
        ),
        (&["a", "--spiffe", "a"], "malformed-identity"),
        (&["a", "--spiffe", ""], "malformed-identity"),
        (
            &["a", "--spiffe", "/a", "--uri", "urn:example:a"],
            "ambiguous-identity",
        ),
        (
            &[
                "a",
                "--uri",
                "spiffe://example.org/a",
                "--uri",
                "spiffe://example.org/b",
            ],
            "ambiguous-identity",
        ),
        (
            &["spiffe://example.org/a", "--spiffe", "/b"],
            "ambiguous-identity",
        ),
        (&["a", "--uri", "dns:alice"], "malformed-identity"),
        (&["a", "--uri", "no scheme"], "malformed-identity"),
        (&["a", "--dns", "a..b"], "malformed-identity"),
        (&["a", "--dns", "a b"], "malformed-identity"),
        (&["a", "--dns", "10.0.0.1"], "malformed-identity"),
        (
            &["a", "--dns", "*.org", "--profile", "server"],
            "malformed-identity",
        ),
        (
            &["a", "--dns", "*.example.org", "--profile", "client"],
            "malformed-identity",
        ),
        (
            &["a", "--dns", "*.example.org", "--profile", "peer"],
            "malformed-identity",
        ),
        (
            &["a", "--dns", "*.example.org", "--spiffe", "/a"],
            "malformed-identity",
        ),
        (&["a", "--ip", "10.0.0.256"], "malformed-identity"),
        (&["a", "--ip", "10.0.0.0/8"], "malformed-identity"),
        (&["a", "--ip", "localhost"], "malformed-identity"),
        (&["a", "--email", "alice"], "malformed-identity"),
        (&["a", "--email", "a b@example.org"], "malformed-identity"),
        (&["alice@example.org"], "no-identity"),
    ] {
        let run = authority.run(&[&["issue"], arguments].concat());
        run.refused(2, reason);
    }
    assert_eq!(
        std::fs::read_dir(authority.path("issued")).unwrap().count(),
        0
    );
    assert!(authority.has_issued_nothing());
}

#[test]
fn unsafe_names_and_bad_options_are_bad_usage() {
    let authority = Authority::new();
    for name in [
        "../a",
        "a/b",
        "/a",
        "..",
        ".",
        ".a",
        "",
        "a b",
        "a\\b",
        "é",
        "a\nb",
        "spiffe://example.org/..",
    ] {
        authority
            .run(&["issue", "--dns", "a", "--", name])
            .refused(2, "cannot name a file");
    }
    for lifetime in ["0s", "24", "1w", "-1h", "1.5h", "", "99999999d", "826d"] {
        let option = format!("--lifetime={lifetime}");
        authority
            .run(&["issue", "a", &option])
            .refused(2, "lifetime");
    }
    authority
        .run(&["issue", "a", "--lifetime", "826d"])
        .refused(2, "825d");
    authority
        .run(&["issue", "a", "--profile", "root"])
        .refused(2, "root");
    authority.run(&["issue"]).refused(2, "NAME");
    assert!(authority.has_issued_nothing());
}

#[test]
fn bad_trust_domains_are_bad_usage() {
    let home = tempfile::tempdir().unwrap();
    for domain in [
        "",
        "Example.org",
        "example.org/a",
        "spiffe://example.org",
        "a b",
        "é",
        &"a".repeat(256),
    ] {
        let mut init = pki(&["init", "--no-passphrase", "--trust-domain", domain, "--dir"]);
        Run::of(init.arg(home.path().join("certs"))).refused(2, "trust-domain");
    }
    assert!(!home.path().join("certs").exists());
}

#[test]
fn a_directory_that_is_none_is_said_so() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut init = pki(&[
        "init",
        "--no-passphrase",
        "--trust-domain",
        "example.org",
        "--dir",
    ]);
    Run::of(init.arg(&file)).refused(1, "file");
    for verb in [
        &["issue", "a"][..],
        &["list"],
        &["crl"],
        &["revoke", "--serial", "01"],
    ] {
        let run = |dir: &std::path::Path| Run::of(pki(verb).arg("--dir").arg(dir));
        run(&file).refused(1, "file");
        run(&home.path().join("missing")).refused(1, "countersign pki init");
    }
}

#[test]
fn a_directory_that_cannot_be_written_loses_nothing() {
    let authority = Authority::new();
    // There is a file in the place of the directory `issued`. This must fail for root too, and
    // permissions do not apply to root.
    std::fs::remove_dir(authority.path("issued")).unwrap();
    std::fs::write(authority.path("issued"), "in the way").unwrap();
    authority.run(&["issue", "a"]).refused(1, "issued/a.");
    assert!(authority.has_issued_nothing());
    let missing = authority.home.path().join("missing/a");
    authority
        .run(&["issue", "a", "--out", missing.to_str().unwrap()])
        .refused(1, "missing/a.key");
    assert!(authority.has_issued_nothing());
}

#[test]
fn damaged_and_mixed_up_files_are_named() {
    let other = Authority::new();
    let foreign = Authority::for_domain("example.com");
    let text = |authority: &Authority, name: &str| String::from_utf8(authority.read(name)).unwrap();
    let half = |content: &str| {
        content
            .get(..content.len() / 2)
            .unwrap_or_default()
            .to_owned()
    };
    let pristine = Authority::new();
    let certificate = text(&pristine, "intermediate.pem");
    let key = text(&pristine, "intermediate.key");
    let state = text(&pristine, "pki.toml");
    for (file, content, words) in [
        ("intermediate.pem", half(&certificate), "intermediate.pem"),
        ("intermediate.pem", String::new(), "intermediate.pem"),
        (
            "intermediate.pem",
            format!("{certificate}{certificate}"),
            "one certificate",
        ),
        ("intermediate.pem", key.clone(), "intermediate.pem"),
        (
            "intermediate.pem",
            text(&other, "intermediate.pem"),
            "not signed by root.pem",
        ),
        (
            "root.pem",
            text(&other, "root.pem"),
            "not signed by root.pem",
        ),
        ("root.pem", half(&certificate), "root.pem"),
        ("intermediate.key", half(&key), "intermediate.key"),
        ("intermediate.key", String::new(), "intermediate.key"),
        ("intermediate.key", certificate.clone(), "intermediate.key"),
        (
            "intermediate.key",
            text(&pristine, "root.key"),
            "belongs to another certificate",
        ),
        ("pki.toml", String::new(), "pki.toml"),
        ("pki.toml", half(&state), "pki.toml"),
        ("pki.toml", text(&foreign, "pki.toml"), "trust domain"),
        (
            "pki.toml",
            state.replace("version = 1", "version = 5"),
            "version 5",
        ),
    ] {
        let before = pristine.read(file);
        std::fs::write(pristine.path(file), content).unwrap();
        pristine.run(&["issue", "a"]).refused(1, words);
        std::fs::write(pristine.path(file), before).unwrap();
    }
    std::fs::remove_file(pristine.path("intermediate.key")).unwrap();
    pristine.run(&["issue", "a"]).refused(1, "intermediate.key");
    assert!(pristine.has_issued_nothing());
}

#[test]
fn help_shows_examples() {
    for verb in [
        "init", "issue", "sign", "renew", "list", "profiles", "revoke", "crl", "inspect", "export",
        "verify", "fixtures",
    ] {
        let run = Run::of(&mut pki(&[verb, "--help"])).done();
        assert!(run.stdout.contains("Examples:"), "{verb}");
        assert!(
            run.stdout.contains(&format!("countersign pki {verb} ")),
            "{verb}"
        );
    }
}

/// The clock was set back since the authority was created, or the authority's certificates begin in
/// the future. The error must mention the clock, and nothing is issued.
#[test]
fn a_clock_set_back_is_named() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let authority = Authority::new();
    let key = |name: &str| {
        let text = String::from_utf8(authority.read(name)).unwrap();
        KeyPair::from_pem(&text).unwrap()
    };
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        params
    };
    let root = params("Root of tomorrow");
    let root_key = key("root.key");
    let certificate = root.self_signed(&root_key).unwrap();
    std::fs::write(authority.path("root.pem"), certificate.pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&certificate.pem(), root_key).unwrap();
    let intermediate = params("Intermediate of tomorrow")
        .signed_by(&key("intermediate.key"), &issuer)
        .unwrap();
    std::fs::write(authority.path("intermediate.pem"), intermediate.pem()).unwrap();
    for arguments in [
        &["issue", "spiffe://example.org/a"][..],
        &["crl"],
        &["crl", "--issuer", "intermediate"],
    ] {
        authority.run(arguments).refused(
            1,
            "not valid before 2090-01-01T00:00:00Z; is the clock right?",
        );
    }
    assert!(authority.has_issued_nothing());
}
