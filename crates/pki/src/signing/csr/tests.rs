//! Tests of which parts of a PKCS#10 request are used.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, SanType};

use super::*;

fn request(alter: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org/a".try_into().unwrap())];
    alter(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn reason(der: &[u8]) -> ReasonCode {
    match SigningRequest::read(der) {
        Err(SigningRequestError::Refused(error)) => error.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn key_and_names_are_taken() {
    let read = SigningRequest::read(&request(|_| {})).unwrap();
    let names: Vec<String> = read.names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["spiffe://example.org/a"]);
    assert_eq!(read.ignored(), [""; 0]);
}

#[test]
fn rights_of_an_authority_are_refused() {
    let ca = request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(reason(&ca), ReasonCode::WrongUsage);
    for usage in [
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ] {
        let signer = request(|params| params.key_usages = vec![usage]);
        assert_eq!(reason(&signer), ReasonCode::WrongUsage);
    }
}

#[test]
fn unknown_extensions_are_reported() {
    let der = request(|params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 5, 5, 7, 1, 24],
            vec![0x30, 0x03, 0x02, 0x01, 0x05],
        )];
    });
    let read = SigningRequest::read(&der).unwrap();
    assert_eq!(
        read.ignored(),
        ["key usage", "extension 1.3.6.1.5.5.7.1.24"]
    );
}

#[test]
fn an_altered_request_is_refused() {
    let mut der = request(|_| {});
    let place = der
        .windows(11)
        .position(|window| window == b"example.org")
        .unwrap();
    der[place] = b'f';
    assert_eq!(reason(&der), ReasonCode::BadSignature);
}

#[test]
fn names_that_a_gateway_would_refuse_are_refused() {
    for name in [
        "spiffe://example.org/a//b",
        "spiffe://example.org/a\0b",
        "dns:a",
    ] {
        let der = request(|params| {
            params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        });
        assert_eq!(reason(&der), ReasonCode::MalformedIdentity, "{name:?}");
    }
}

#[test]
fn rubbish_is_named() {
    let mut longer = request(|_| {});
    longer.push(0);
    for content in [
        &b""[..],
        b"rubbish",
        b"0\x03abc",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        &longer,
    ] {
        assert!(matches!(
            SigningRequest::read(content),
            Err(SigningRequestError::Unreadable(_))
        ));
    }
}

proptest! {
    /// Changes one byte of a request. Reading the changed request must fail, or return the same
    /// names and key. Reading can succeed, because some bytes that are not signed have several
    /// valid values.
    #[test]
    fn damage_never_panics_and_changes_nothing(index in 0_usize..300, octet: u8) {
        let mut der = request(|_| {});
        let whole = SigningRequest::read(&der).unwrap();
        let index = index % der.len();
        der[index] = octet;
        if let Ok(read) = SigningRequest::read(&der) {
            prop_assert_eq!(read.names(), whole.names());
            prop_assert_eq!(read.key, whole.key);
        }
    }
}
