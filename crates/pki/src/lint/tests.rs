//! Tests of the lints: for each fault there is a lint that finds it, and a leaf without faults has
//! no findings.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;

fn sound() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[1; 16]));
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 6, 1);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.subject_alt_names = vec![uri("spiffe://example.org/a")];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn found(alter: impl FnOnce(&mut CertificateParams)) -> Vec<&'static str> {
    let mut params = sound();
    alter(&mut params);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    certificate(&der, None)
        .into_iter()
        .map(|finding| finding.lint)
        .collect()
}

#[test]
fn a_sound_leaf_has_no_findings() {
    assert_eq!(found(|_| {}), [""; 0]);
}

/// Certificates of Windows authorities can have no other name.
#[test]
fn a_user_principal_name_is_a_name() {
    let name = rcgen::OtherNameValue::Utf8String("alice@corp.test".to_owned());
    let names = vec![SanType::OtherName((
        vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
        name,
    ))];
    assert_eq!(found(|p| p.subject_alt_names = names), [""; 0]);
}

type Alter = fn(&mut CertificateParams);

#[test]
fn each_fault_is_found_by_its_lint() {
    let cases: [(&str, Alter); 15] = [
        ("serial-not-positive", |p| {
            p.serial_number = Some(rcgen::SerialNumber::from_slice(&[0; 9]))
        }),
        ("serial-predictable", |p| {
            p.serial_number = Some(7_u64.into())
        }),
        ("serial-too-long", |p| {
            p.serial_number = Some(rcgen::SerialNumber::from_slice(&[1; 21]))
        }),
        ("validity-reversed", |p| {
            p.not_after = rcgen::date_time_ymd(2025, 1, 1)
        }),
        ("lifetime-long", |p| {
            p.not_after = rcgen::date_time_ymd(2036, 1, 1)
        }),
        ("basic-constraints-missing", |p| p.is_ca = IsCa::NoCa),
        ("key-usage-missing", |p| p.key_usages.clear()),
        ("leaf-can-sign", |p| {
            p.key_usages.push(KeyUsagePurpose::KeyCertSign)
        }),
        ("leaf-can-sign", |p| {
            p.key_usages.push(KeyUsagePurpose::CrlSign)
        }),
        ("extended-key-usage-missing", |p| {
            p.extended_key_usages.clear()
        }),
        ("no-subject-alternative-name", |p| {
            p.subject_alt_names.clear()
        }),
        ("spiffe-id-not-alone", |p| {
            p.subject_alt_names.push(uri("https://example.org/"))
        }),
        ("spiffe-id-malformed", |p| {
            p.subject_alt_names = vec![uri("spiffe://example.org/a//b")]
        }),
        ("spiffe-usages", |p| p.extended_key_usages.truncate(1)),
        ("name-malformed", |p| {
            p.subject_alt_names = vec![SanType::DnsName("a\0.example.org".try_into().unwrap())]
        }),
    ];
    for (lint, alter) in cases {
        assert!(found(alter).contains(&lint), "{lint}: {:?}", found(alter));
    }
    let authority = found(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names = vec![uri("spiffe://example.org")];
    });
    assert!(
        authority.contains(&"authority-cannot-sign"),
        "{authority:?}"
    );
    assert!(authority.contains(&"authority-cannot-sign-lists"));
}

#[test]
fn the_fit_with_the_issuer_is_looked_at() {
    let key = KeyPair::generate().unwrap();
    let leaf = sound().self_signed(&key).unwrap();
    let mut other = sound();
    other
        .distinguished_name
        .push(rcgen::DnType::CommonName, "other");
    other.not_after = rcgen::date_time_ymd(2026, 2, 1);
    let other = other.self_signed(&key).unwrap();
    let lints: Vec<_> = certificate(leaf.der(), Some(other.der()))
        .into_iter()
        .map(|finding| finding.lint)
        .collect();
    assert_eq!(lints, ["outlives-issuer", "issuer-name"]);
}

#[test]
fn rubbish_is_unreadable() {
    assert_eq!(certificate(b"", None)[0].lint, "unreadable");
    assert_eq!(revocation_list(b"0\x03abc", 0)[0].lint, "unreadable");
}
