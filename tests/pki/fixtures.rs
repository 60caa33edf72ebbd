//! `pki fixtures`: the gateway refuses every broken certificate with the reason code in its file
//! name and in the manifest.

use std::collections::HashMap;
use std::path::Path;

use countersign_core::identity::IdentityPattern;
use countersign_core::identity::caller::NameType;
use countersign_core::trust::{ClientTrust, TrustBundle, TrustBundleConfig};
use countersign_testkit::{Credentials, Echo, Gateway, Settings, TestCa, TlsVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer, UnixTime,
};
use serde_json::Value;

use super::{Authority, certificates};
use crate::support::{BINARY, Run, bundle_config};

fn trust(out: &Path, identity_from: Vec<NameType>) -> ClientTrust {
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    let roots = certificates(&out.join("ca/trust.pem"));
    let crls = ["ca/crl/root.crl", "ca/crl/intermediate.crl"]
        .iter()
        .map(|name| CertificateRevocationListDer::from_pem_slice(&read(name)).unwrap())
        .collect();
    let config = TrustBundleConfig {
        vouches_for: ["spiffe://example.org/**", "dns:*.example.org"]
            .iter()
            .map(|pattern| IdentityPattern::parse(pattern).unwrap())
            .collect(),
        identity_from,
        ..bundle_config(roots.into_iter().map(CertificateDer::from).collect(), crls)
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
    assert_eq!(fixtures.len(), 22);
    for fixture in fixtures {
        let file = fixture["certificate"].as_str().unwrap();
        let path = out.join(file);
        assert_eq!(answer(&by_spiffe, &path), fixture["reason"], "{file}");
        if let Some(reason) = fixture["reason"].as_str() {
            assert!(file.starts_with(reason), "{file}: {reason}");
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

/// Starts a gateway with the settings from the manifest.
async fn gateway(out: &Path, manifest: &Value, identity_from: &Value, echo: &Echo) -> Gateway {
    let files = |names: &Value| {
        let names = names.as_array().unwrap().iter();
        let paths: Vec<_> = names
            .map(|name| format!("{:?}", out.join(name.as_str().unwrap())))
            .collect();
        paths.join(", ")
    };
    let domain = format!(
        "name = {}\nroots = [{}]\ncrls = [{}]\nrevocation = {}\nidentity_from = {identity_from}\n\
         vouches_for = [\"spiffe://example.org/**\", \"dns:*.example.org\"]",
        manifest["trust_domain"],
        files(&manifest["roots"]),
        files(&manifest["crls"]),
        manifest["revocation"],
    );
    let settings = Settings::new(&TestCa::new("example.org")).trust_domain(&domain);
    Gateway::start(BINARY, &settings.everything_to(echo.address())).await
}

fn credentials(out: &Path, fixture: &Value) -> Credentials {
    let chain = certificates(&out.join(fixture["certificate"].as_str().unwrap()));
    // If the fixture has no key, any key is used, because the gateway verifies the chain before
    // the proof of possession.
    let key = fixture["key"].as_str().unwrap_or("valid.key");
    let key = PrivatePkcs8KeyDer::from_pem_file(out.join(key)).unwrap();
    Credentials::from_parts(
        chain.into_iter().map(CertificateDer::from).collect(),
        key.secret_pkcs8_der().to_vec(),
    )
}

#[tokio::test]
async fn a_running_gateway_answers_as_the_manifest_says() {
    let authority = Authority::new();
    let out = authority.home.path().join("fixtures");
    authority
        .run(&["fixtures", "--out", out.to_str().unwrap()])
        .done();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let echo = Echo::start().await;
    let by_spiffe = gateway(&out, &manifest, &manifest["identity_from"], &echo).await;
    let by_dns = gateway(&out, &manifest, &serde_json::json!(["dns"]), &echo).await;
    let mut refusals: HashMap<String, usize> = HashMap::new();
    let mut driven = 0;
    for fixture in manifest["fixtures"].as_array().unwrap() {
        let file = fixture["certificate"].as_str().unwrap();
        let presented = credentials(&out, fixture);
        let other = &fixture["with_identity_from_dns"];
        for (gateway, expected) in [(&by_spiffe, fixture), (&by_dns, other)] {
            if expected.is_null() {
                continue;
            }
            let client = gateway.client("orders.example.org").with(&presented);
            let Some(reason) = expected["reason"].as_str() else {
                let answer = client.get("/a").await.unwrap();
                assert_eq!(answer.status, 200, "{file}");
                continue;
            };
            for version in TlsVersion::BOTH {
                let refusal = client.clone().tls(version).refusal().await;
                let alert = refusal.alert().map(Value::from);
                assert_eq!(
                    alert.as_ref(),
                    expected.pointer("/tls_alert/number"),
                    "{file} {version:?}"
                );
                let count = refusals
                    .entry(format!("{:?} {reason}", gateway.listener()))
                    .or_default();
                *count += 1;
                gateway
                    .audit()
                    .at_least(*count, &format!("{reason} for {file}"), |line| {
                        line["event"] == "handshake" && line["reason"] == reason
                    })
                    .await;
                driven += 1;
            }
        }
    }
    assert_eq!(echo.requests(), 1);
    // The gateway refuses 21 fixtures, each with both TLS versions. For three of them, the gateway
    // with `identity_from = ["dns"]` is tested too.
    assert_eq!(driven, 2 * (21 + 3));
}

#[test]
fn fixtures_are_replaced_only_with_force() {
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
