//! `pki fixtures`: every broken certificate is refused, with the reason that its
//! file name and the manifest promise.

use std::path::Path;

use countersign::identity::caller::NameType;
use countersign::identity::{IdentityPattern, TrustDomain};
use countersign::trust::{
    ClientTrust, RevocationDepth, RevocationPosture, TrustBundle, TrustBundleConfig,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use serde_json::Value;

use super::{Authority, Run, certificates};

fn trust(out: &Path, identity_from: Vec<NameType>) -> ClientTrust {
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    let config = TrustBundleConfig {
        name: TrustDomain::parse("example.org").unwrap(),
        roots: certificates(&out.join("ca/trust.pem"))
            .into_iter()
            .map(CertificateDer::from)
            .collect(),
        intermediates: Vec::new(),
        crls: ["ca/crl/root.crl", "ca/crl/intermediate.crl"]
            .iter()
            .map(|name| CertificateRevocationListDer::from_pem_slice(&read(name)).unwrap())
            .collect(),
        posture: RevocationPosture::Hard,
        depth: RevocationDepth::Chain,
        vouches_for: ["spiffe://example.org/**", "dns:*.example.org"]
            .iter()
            .map(|pattern| IdentityPattern::parse(pattern).unwrap())
            .collect(),
        identity_from,
        grace: std::time::Duration::ZERO,
    };
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
    ClientTrust::new(vec![TrustBundle::build(config, now).unwrap().into()]).unwrap()
}

fn answer(trust: &ClientTrust, path: &Path) -> Value {
    let chain: Vec<CertificateDer<'_>> = certificates(path)
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let (leaf, rest) = chain.split_first().unwrap();
    match trust.verify(leaf, rest, UnixTime::now()) {
        Ok(_) => Value::Null,
        Err(refusal) => refusal.reason.as_str().into(),
    }
}

#[test]
fn each_fixture_is_refused_for_the_reason_it_is_named_after() {
    let authority = Authority::new();
    let before = authority.read("pki.toml");
    let out = authority.home.path().join("fixtures");
    let run = authority
        .run(&["fixtures", "--json", "--out", out.to_str().unwrap()])
        .done();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(run.json()["fixtures"], manifest["fixtures"]);
    assert_eq!(manifest["trust_domain"], "example.org");
    assert_eq!(authority.read("pki.toml"), before, "DIR was written");

    let by_spiffe = trust(&out, vec![NameType::Spiffe]);
    let by_dns = trust(&out, vec![NameType::Dns]);
    let fixtures = manifest["fixtures"].as_array().unwrap();
    assert_eq!(fixtures.len(), 20);
    for fixture in fixtures {
        let file = fixture["certificate"].as_str().unwrap();
        let path = out.join(file);
        assert_eq!(answer(&by_spiffe, &path), fixture["reason"], "{file}");
        if let Some(reason) = fixture["reason"].as_str() {
            assert!(file.starts_with(reason), "{file}: {reason}");
            assert_eq!(fixture["http_status"], 403);
            assert!(fixture["tls_alert"]["number"].is_u64(), "{file}");
        } else {
            assert_eq!(file, "valid.pem");
        }
        let other = &fixture["with_identity_from_dns"];
        if !other.is_null() {
            assert_eq!(answer(&by_dns, &path), other["reason"], "{file}");
        }
        if let Some(key) = fixture["key"].as_str() {
            let key = std::fs::read_to_string(out.join(key)).unwrap();
            let key = rcgen::KeyPair::from_pem(&key).unwrap();
            let leaf = certificates(&path).swap_remove(0);
            let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
            assert_eq!(
                rcgen::PublicKeyData::subject_public_key_info(&key),
                leaf.public_key().raw,
                "{file}"
            );
        }
    }
}

#[test]
fn fixtures_are_replaced_only_when_told_to() {
    let authority = Authority::new();
    let out = authority.home.path().join("fixtures");
    let make = ["fixtures", "--out", out.to_str().unwrap()];
    let said = authority.run(&make).done();
    assert!(said.stdout.contains("certificate-expired.pem"));
    let first = std::fs::read(out.join("valid.pem")).unwrap();
    authority.run(&make).refused(1, "--force");
    assert_eq!(std::fs::read(out.join("valid.pem")).unwrap(), first);
    authority.run(&[&make[..], &["--force"]].concat()).done();
    assert_ne!(std::fs::read(out.join("valid.pem")).unwrap(), first);
    Run::of(&mut super::pki(&[
        "fixtures",
        "--dir",
        authority.home.path().to_str().unwrap(),
        "--out",
        "x",
    ]))
    .refused(1, "there is no authority");
}
