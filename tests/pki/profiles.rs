//! `profiles.toml`: certificates have the content that the operator configured. Other requests
//! are refused with a reason.

use std::path::Path;
use std::process::Command;

use countersign_testkit::skipped::has_tool;

use super::{Authority, certificates, pki};
use crate::support::Run;

const PROFILES: &str = r#"
[[profile]]
name = "batch"
usages = ["client"]
lifetime = "8h"
max_lifetime = "2d"
identities = ["spiffe://example.org/ns/batch/**", "mailto:*@batch.example.org"]
key_types = ["p384", "p256"]
crl_urls = ["http://pki.example.org/intermediate.crl", "http://pki2.example.org/intermediate.crl"]
issuer_urls = ["http://pki.example.org/intermediate.der"]
organization = "Example"
organizational_unit = "Batch"

[[profile]]
name = "server"
lifetime = "90d"
identities = ["dns:*.example.org", "dns:localhost"]
common_name = "none"

[[profile]]
name = "peer"
max_lifetime = "1h"
"#;

fn authority(profiles: &str) -> Authority {
    let authority = Authority::new();
    std::fs::write(authority.path("profiles.toml"), profiles).unwrap();
    authority
}

/// Returns the time from issuing to the end of validity in seconds. A certificate begins five
/// minutes before it is issued.
fn lifetime(path: &Path) -> i64 {
    let der = certificates(path).swap_remove(0);
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    let validity = leaf.validity();
    validity.not_after.timestamp() - validity.not_before.timestamp() - 300
}

fn text(path: &Path) -> String {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-text", "-in"]).arg(path);
    Run::of(&mut command).done().stdout
}

#[test]
fn certificates_are_as_the_profile_says() {
    let authority = authority(PROFILES);
    let issued = authority
        .run(&[
            "issue",
            "spiffe://example.org/ns/batch/sa/a",
            "--profile",
            "batch",
            "--json",
        ])
        .done()
        .json();
    assert_eq!(issued["profile"], "batch");
    assert_eq!(issued["usages"], serde_json::json!(["client", "server"]));
    assert!(
        issued["notes"][0].as_str().unwrap().contains("X509-SVID"),
        "{issued}"
    );
    let leaf = authority.path("issued/a.pem");
    assert_eq!(lifetime(&leaf), 8 * 3_600);
    authority
        .run(&[
            "issue",
            "bob",
            "--profile",
            "batch",
            "--email",
            "bob@batch.example.org",
        ])
        .done();
    // The names select a built-in profile, which the operator has replaced.
    authority.run(&["issue", "*.example.org"]).done();
    assert_eq!(
        lifetime(&authority.path("issued/_wildcard.example.org.pem")),
        90 * 86_400
    );
    authority.run(&["issue", "spiffe://example.org/b"]).done();
    assert_eq!(lifetime(&authority.path("issued/b.pem")), 3_600);

    // `pki verify` must use the given CRLs, although the certificate names other URLs for CRLs.
    let verify = |path: &Path| {
        let mut command = pki(&["verify", "--purpose", "client", "--roots"]);
        command.arg(authority.path("trust.pem"));
        for list in ["crl/root.crl", "crl/intermediate.crl"] {
            command.arg("--crl").arg(authority.path(list));
        }
        Run::of(command.arg(path))
    };
    verify(&leaf).done();
    let bob = authority.path("issued/bob.pem");
    authority
        .run(&["revoke", "--cert", bob.to_str().unwrap()])
        .done();
    let refused = verify(&bob);
    assert_eq!(refused.code, 3);
    assert!(
        refused.stderr.starts_with("certificate-revoked"),
        "{}",
        refused.stderr
    );

    if !has_tool("openssl", "version") {
        return;
    }
    let said = text(&leaf);
    for words in [
        "URI:http://pki.example.org/intermediate.crl",
        "URI:http://pki2.example.org/intermediate.crl",
        "CA Issuers - URI:http://pki.example.org/intermediate.der",
        "O = Example, OU = Batch, CN = a",
        "ASN1 OID: secp384r1",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let wildcard = text(&authority.path("issued/_wildcard.example.org.pem"));
    assert!(wildcard.contains("Subject: \n"), "{wildcard}");
    let mut command = Command::new("openssl");
    command
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(authority.path("trust.pem"));
    Run::of(command.arg("-untrusted").arg(&leaf).arg(&leaf)).done();
}

#[test]
fn a_renewed_certificate_keeps_its_profile_as_it_is_now() {
    let authority = authority(PROFILES);
    authority
        .run(&[
            "issue",
            "bob",
            "--profile",
            "batch",
            "--email",
            "bob@batch.example.org",
        ])
        .done();
    let leaf = authority.path("issued/bob.pem");
    let shorter = PROFILES
        .replace(
            "lifetime = \"8h\"\nmax_lifetime = \"2d\"",
            "max_lifetime = \"1h\"",
        )
        .replace("\"Batch\"", "\"Night\"");
    std::fs::write(authority.path("profiles.toml"), shorter).unwrap();
    let renewed = authority
        .run(&["renew", leaf.to_str().unwrap(), "--json"])
        .done()
        .json();
    assert_eq!(renewed["profile"], "batch");
    assert_eq!(lifetime(&leaf), 3_600);
    let der = certificates(&leaf).swap_remove(0);
    let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(read.subject().to_string(), "O=Example, OU=Night, CN=bob");
    // A name that the profile no longer allows cannot be renewed either.
    let closed = PROFILES.replace("mailto:*@batch.example.org", "mailto:eve@batch.example.org");
    std::fs::write(authority.path("profiles.toml"), closed).unwrap();
    authority
        .run(&["renew", leaf.to_str().unwrap()])
        .refused(2, "identity-denied");
}

#[test]
fn what_a_profile_does_not_allow_is_refused() {
    let authority = authority(PROFILES);
    for (arguments, words) in [
        (
            &[
                "issue",
                "spiffe://example.org/ns/shop/sa/a",
                "--profile",
                "batch",
            ][..],
            "identity-denied: profile batch does not certify spiffe://example.org/ns/shop/sa/a",
        ),
        (
            &["issue", "a.example.com", "--profile", "server"],
            "identity-denied",
        ),
        (&["issue", "*.a.example.org"], "identity-denied"),
        (
            &["issue", "spiffe://example.org/a", "--lifetime", "2h"],
            "profile peer allows: at most 1h",
        ),
        (
            &["issue", "spiffe://example.org/a", "--profile", "bach"],
            "there are client, server, peer, batch",
        ),
    ] {
        authority.run(arguments).refused(2, words);
    }
    let list = authority.home.path().join("list");
    std::fs::write(&list, "localhost\na.example.com\n").unwrap();
    authority
        .run(&[
            "issue",
            "--profile",
            "server",
            "--from",
            list.to_str().unwrap(),
        ])
        .refused(2, "line 2: identity-denied");
    assert!(authority.has_issued_nothing());
}

#[test]
fn keys_of_requests_are_held_against_the_profile() {
    let authority = authority(PROFILES);
    let request = |algorithm: &'static rcgen::SignatureAlgorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::default();
        let id = "spiffe://example.org/ns/batch/sa/a".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(id)];
        let path = authority.home.path().join("a.csr");
        std::fs::write(
            &path,
            params.serialize_request(&key).unwrap().pem().unwrap(),
        )
        .unwrap();
        path
    };
    let refused = request(&rcgen::PKCS_ED25519);
    authority
        .run(&["sign", refused.to_str().unwrap(), "--profile", "batch"])
        .refused(
            2,
            "weak-key: profile batch does not certify keys of this kind",
        );
    let taken = request(&rcgen::PKCS_ECDSA_P384_SHA384);
    authority
        .run(&["sign", taken.to_str().unwrap(), "--profile", "batch"])
        .done();
}

#[test]
fn a_file_that_is_wrong_stops_everything_that_issues() {
    let authority = authority("[[profile]]\nname = \"batch\"\nusage = [\"client\"]\n");
    for arguments in [
        &["issue", "spiffe://example.org/a"][..],
        &["profiles"],
        &["issue", "a", "--profile", "batch"],
    ] {
        let said = authority.run(arguments).refused(2, "profiles.toml:3:1");
        assert!(
            said.stderr.contains("did you mean `usages`"),
            "{}",
            said.stderr
        );
        assert!(said.stderr.contains("has no `usages`"), "{}", said.stderr);
    }
    // Revocation does not depend on `profiles.toml`.
    authority.run(&["list"]).done();
    authority.run(&["crl"]).done();
}

#[test]
fn profiles_are_listed() {
    let authority = authority(PROFILES);
    let said = authority.run(&["profiles"]).done().stdout;
    for words in [
        "batch",
        "client and server",
        "p384, p256",
        "mailto:*@batch.example.org",
        "90d",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let document = authority.run(&["profiles", "--json"]).done().json();
    let names: Vec<_> = document["profiles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|profile| profile["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["client", "server", "peer", "batch", "intermediate"]);
    assert_eq!(document["profiles"][3]["organizational_unit"], "Batch");
    let plain = Authority::new();
    let document = plain.run(&["profiles", "--json"]).done().json();
    assert!(document["file"].is_null());
}

#[test]
fn the_intermediates_profile_counts_when_it_is_made() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(
        dir.join("profiles.toml"),
        "[[profile]]\nname = \"intermediate\"\nlifetime = \"30d\"\nkey_types = [\"p384\"]\n\
         crl_urls = [\"http://pki.example.org/root.crl\"]\norganization = \"Example\"\n",
    )
    .unwrap();
    let init = |more: &[&str]| {
        let mut command = pki(&["init", "--trust-domain", "example.org", "--no-passphrase"]);
        Run::of(command.arg("--dir").arg(&dir).args(more))
    };
    init(&["--key-type", "ed25519"]).refused(1, "does not certify keys of this kind");
    assert!(!dir.join("root.pem").exists());
    init(&[]).done();
    let der = certificates(&dir.join("intermediate.pem")).swap_remove(0);
    let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(
        read.subject()
            .to_string()
            .starts_with("O=Example, CN=Intermediate CA")
    );
    assert_eq!(lifetime(&dir.join("intermediate.pem")), 30 * 86_400);
    let curve = read.public_key().algorithm.parameters.as_ref().unwrap();
    assert_eq!(curve.as_oid().unwrap().to_id_string(), "1.3.132.0.34");
}
