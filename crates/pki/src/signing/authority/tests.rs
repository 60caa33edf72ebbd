//! Tests of signed certificates and revocation lists. rcgen encodes the certificates and lists, so
//! the tests parse them with x509-parser or webpki.

use std::collections::HashSet;

use proptest::prelude::*;
use rcgen::IsCa;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;
use crate::identity::leaf::key_usage;
use crate::signing::revoked::{RevocationReason, RevokedCertificate};
use crate::signing::signatory::{AuthorityName, Generation};

const NOW: i64 = 1_800_000_000;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn authorities() -> (CertificateAuthority, CertificateAuthority) {
    let root = CertificateAuthority::new_root(&domain(), NOW).unwrap();
    let intermediate = root.new_intermediate(NOW).unwrap();
    (root, intermediate)
}

fn leaf(
    authority: &CertificateAuthority,
    label: &str,
    profile: &CertificateProfile,
    lifetime: Option<Lifetime>,
    now: i64,
) -> Result<SignedCertificate, AuthorityError> {
    // A leaf with a SPIFFE ID must have both usages. So only `PEER` gets a SPIFFE ID here.
    let names = if *profile == CertificateProfile::PEER {
        SubjectNames::new().spiffe_text("/a", &domain()).unwrap()
    } else {
        SubjectNames::new().dns("a.example.org").unwrap()
    };
    let key = key::generate().unwrap();
    authority.sign_leaf(&key, &names, label, profile, lifetime, now)
}

fn extension(der: &[u8], oid: &str) -> Option<(bool, Vec<u8>)> {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == oid)
        .map(|extension| (extension.critical, extension.value.to_vec()))
}

const SUBJECT_KEY_IDENTIFIER: &str = "2.5.29.14";
const KEY_USAGE: &str = "2.5.29.15";
const SUBJECT_ALT_NAME: &str = "2.5.29.17";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const AUTHORITY_KEY_IDENTIFIER: &str = "2.5.29.35";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";

/// Returns the key identifier of the certificate: the last 20 bytes of subjectKeyIdentifier or
/// authorityKeyIdentifier.
fn identifier(der: &[u8], oid: &str) -> Vec<u8> {
    let (critical, value) = extension(der, oid).unwrap();
    assert!(!critical);
    value[value.len() - 20..].to_vec()
}

#[test]
fn authorities_obey_their_profiles() {
    let (root, intermediate) = authorities();
    let root_der = root.certificate().der();
    let intermediate_der = intermediate.certificate().der();
    assert_eq!(root.certificate().path_length, Some(1));
    assert_eq!(intermediate.certificate().path_length, Some(0));
    for der in [root_der, intermediate_der] {
        assert!(extension(der, BASIC_CONSTRAINTS).unwrap().0);
        assert!(extension(der, KEY_USAGE).unwrap().0);
        assert!(extension(der, EXTENDED_KEY_USAGE).is_none());
        let facts = LeafFacts::read(der).unwrap();
        assert_eq!(
            facts.key_usage,
            Some(key_usage::KEY_CERT_SIGN | key_usage::CRL_SIGN)
        );
        assert_eq!(facts.sans.uri, ["spiffe://example.org"]);
        assert_eq!(facts.not_before, NOW - 300);
        assert_eq!(
            identifier(der, AUTHORITY_KEY_IDENTIFIER),
            identifier(root_der, SUBJECT_KEY_IDENTIFIER)
        );
    }
    assert_eq!(root.certificate().facts.not_after, NOW + 3652 * 86_400);
    assert_eq!(
        intermediate.certificate().facts.not_after,
        NOW + 1826 * 86_400
    );
    assert!(root.certificate().has_signed(intermediate_der));
    assert!(!intermediate.certificate().has_signed(root_der));
}

#[test]
fn leaves_obey_their_profiles() {
    let (_, intermediate) = authorities();
    for (profile, client, server) in [
        (CertificateProfile::CLIENT, true, false),
        (CertificateProfile::SERVER, false, true),
        (CertificateProfile::PEER, true, true),
    ] {
        let signed = leaf(&intermediate, "a", &profile, None, NOW).unwrap();
        let facts = &signed.facts;
        let usages = facts.extended_key_usage.unwrap();
        assert_eq!((usages.client, usages.server), (client, server));
        assert_eq!(facts.key_usage, Some(key_usage::DIGITAL_SIGNATURE));
        assert!(!facts.is_ca);
        assert_eq!(facts.not_before, NOW - 300);
        assert_eq!(facts.not_after, NOW + 86_400);
        assert!(extension(&signed.der, KEY_USAGE).unwrap().0);
        assert_eq!(
            extension(&signed.der, BASIC_CONSTRAINTS),
            Some((true, vec![0x30, 0]))
        );
        assert!(!extension(&signed.der, SUBJECT_ALT_NAME).unwrap().0);
        assert_eq!(
            identifier(&signed.der, AUTHORITY_KEY_IDENTIFIER),
            intermediate.certificate().key_identifier
        );
        assert_eq!(identifier(&signed.der, SUBJECT_KEY_IDENTIFIER).len(), 20);
        assert!(intermediate.certificate().has_signed(&signed.der));
    }
}

#[test]
fn an_empty_subject_makes_the_names_critical() {
    let (_, intermediate) = authorities();
    let long = "a".repeat(65);
    let signed = leaf(&intermediate, &long, &CertificateProfile::PEER, None, NOW).unwrap();
    assert_eq!(signed.facts.subject, "");
    assert!(extension(&signed.der, SUBJECT_ALT_NAME).unwrap().0);
}

#[test]
fn nothing_outlives_its_issuer() {
    let (root, intermediate) = authorities();
    let end = intermediate.certificate().facts.not_after;
    let peer = &CertificateProfile::PEER;
    let signed = leaf(&intermediate, "a", peer, None, end - 3_600).unwrap();
    assert!(signed.cut);
    assert_eq!(signed.facts.not_after, end);
    assert!(
        !leaf(&intermediate, "a", peer, None, end - 86_400)
            .unwrap()
            .cut
    );
    // At `end`, the issuer is still valid, because notAfter is inclusive (RFC 5280 section
    // 4.1.2.5). One second later, it has expired.
    let last = leaf(&intermediate, "a", peer, None, end).unwrap();
    assert_eq!(last.facts.not_after, end);
    assert!(matches!(
        leaf(&intermediate, "a", peer, None, end + 1),
        Err(AuthorityError::Expired(_))
    ));
    assert!(matches!(
        leaf(&intermediate, "a", peer, None, NOW - 301),
        Err(AuthorityError::NotYetValid(_))
    ));
    // The authority was made at `NOW` and is valid from `NOW - 300`. If the clock is then set back
    // by 200 seconds, the validity of a leaf must not begin before `NOW - 300`.
    let early = leaf(&intermediate, "a", peer, None, NOW - 200).unwrap();
    assert_eq!(early.facts.not_before, NOW - 300);
    let root_end = root.certificate().facts.not_after;
    let late = root.new_intermediate(root_end - 86_400).unwrap();
    assert_eq!(late.certificate().facts.not_after, root_end);
    assert!(matches!(
        leaf(&intermediate, "a", peer, Some(Lifetime::days(826)), NOW),
        Err(AuthorityError::LifetimeTooLong { .. })
    ));
    assert!(leaf(&intermediate, "a", peer, Some(Lifetime::days(825)), NOW).is_ok());
}

#[test]
fn an_intermediate_makes_no_authorities() {
    let (_, intermediate) = authorities();
    assert!(matches!(
        intermediate.new_intermediate(NOW),
        Err(AuthorityError::PathLength)
    ));
}

#[test]
fn what_is_no_authority_is_not_taken_into_use() {
    let (root, intermediate) = authorities();
    assert!(matches!(
        CertificateAuthority::load(root.certificate().der().clone(), key::generate().unwrap()),
        Err(AuthorityError::KeyMismatch)
    ));
    let signed = leaf(&intermediate, "a", &CertificateProfile::PEER, None, NOW).unwrap();
    assert!(matches!(
        AuthorityCertificate::read(signed.der),
        Err(AuthorityError::NotAnAuthority(_))
    ));
    assert!(matches!(
        AuthorityCertificate::read(CertificateDer::from(vec![0x30, 0])),
        Err(AuthorityError::Unreadable(_))
    ));
    let with = |change: fn(&mut CertificateParams)| {
        let validity = Validity {
            not_before: NOW,
            not_after: NOW + 1,
            cut: false,
        };
        let mut params = authority_params(&CertificateProfile::ROOT, &domain(), &validity).unwrap();
        change(&mut params);
        let key = key::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        AuthorityCertificate::read(der)
    };
    assert!(with(|_| {}).is_ok());
    assert!(with(|params| params.is_ca = IsCa::NoCa).is_err());
    assert!(with(|params| params.is_ca = IsCa::ExplicitNoCa).is_err());
    assert!(with(|params| params.key_usages.truncate(1)).is_err());
    assert!(with(|params| params.key_usages.clear()).is_err());
    assert!(with(|params| params.subject_alt_names.clear()).is_err());
    assert!(
        with(|params| params.subject_alt_names =
            vec![SanType::URI("spiffe://example.org/a".try_into().unwrap())])
        .is_err()
    );
}

#[test]
fn a_name_that_cannot_be_repeated_is_refused() {
    let validity = Validity {
        not_before: NOW,
        not_after: NOW + 86_400,
        cut: false,
    };
    let mut params =
        authority_params(&CertificateProfile::INTERMEDIATE, &domain(), &validity).unwrap();
    // The name has two organizational units. rcgen keeps only one of them when it parses the name.
    let unit = DnType::CustomDnType(vec![2, 5, 4, 11]);
    params.distinguished_name.push(unit, "one");
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "two");
    let key = key::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    let authority = CertificateAuthority::load(der, key).unwrap();
    assert!(
        authority
            .certificate
            .facts
            .subject
            .contains("OU=two,OU=one")
    );
    assert!(matches!(
        leaf(&authority, "a", &CertificateProfile::PEER, None, NOW),
        Err(AuthorityError::IssuerName)
    ));
}

#[test]
fn lists_carry_number_dates_key_identifier_and_reasons() {
    let (_, intermediate) = authorities();
    let entry = |serial: &str, reason| RevokedCertificate {
        issuer: AuthorityName::Intermediate,
        generation: Generation::FIRST,
        serial: serial.to_owned(),
        time: NOW - 10,
        reason,
    };
    let leaked = entry(
        "7fffffffffffffffffffffffffffffff",
        RevocationReason::KeyCompromise,
    );
    let other = entry("80", RevocationReason::Unspecified);
    let list = RevocationList {
        number: 300,
        this_update: NOW,
        lifetime: Lifetime::days(7),
        entries: vec![&leaked, &other],
    };
    let pem = intermediate.sign_list(&list, NOW).unwrap();
    assert!(pem.starts_with("-----BEGIN X509 CRL-----\n"));
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let (_, crl) = x509_parser::parse_x509_crl(&block.contents).unwrap();
    assert_eq!(crl.crl_number().unwrap().to_bytes_be(), [1, 44]);
    assert_eq!(crl.last_update().timestamp(), NOW);
    assert_eq!(crl.next_update().unwrap().timestamp(), NOW + 604_800);
    assert_eq!(
        crl.issuer().as_raw(),
        intermediate.certificate().subject_der
    );
    let aki = crl
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(aki) => aki.key_identifier.as_ref(),
            _ => None,
        })
        .unwrap();
    assert_eq!(aki.0, intermediate.certificate().key_identifier);
    let entries: Vec<_> = crl.iter_revoked_certificates().collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        entries[0].raw_serial(),
        [0x7f].into_iter().chain([0xff; 15]).collect::<Vec<_>>()
    );
    assert_eq!(entries[0].reason_code().unwrap().1.0, 1);
    // The serial number 0x80 is encoded with a leading zero byte, so that it is positive. An entry
    // with the reason `unspecified` has no reason extension.
    assert_eq!(entries[1].raw_serial(), [0, 0x80]);
    assert!(entries[1].reason_code().is_none());
}

/// The gateway uses webpki. So webpki must accept each leaf only for the leaf's usages, accept the
/// revocation lists, and detect the revoked leaf.
#[test]
fn webpki_accepts_chains_and_lists() {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
    use webpki::{CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList};

    let (root, intermediate) = authorities();
    let revoked = leaf(&intermediate, "b", &CertificateProfile::PEER, None, NOW).unwrap();
    let entry = RevokedCertificate {
        issuer: AuthorityName::Intermediate,
        generation: Generation::FIRST,
        serial: revoked.facts.serial_hex(),
        time: NOW,
        reason: RevocationReason::KeyCompromise,
    };
    let list = |authority: &CertificateAuthority, entries| {
        let list = RevocationList {
            number: 1,
            this_update: NOW,
            lifetime: Lifetime::days(7),
            entries,
        };
        let pem = authority.sign_list(&list, NOW).unwrap();
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
        CertRevocationList::from(OwnedCertRevocationList::from_der(&der).unwrap())
    };
    let lists = [list(&root, vec![]), list(&intermediate, vec![&entry])];
    let lists: Vec<_> = lists.iter().collect();
    let revocation = webpki::RevocationOptionsBuilder::new(&lists)
        .unwrap()
        .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
        .build();
    let anchor = webpki::anchor_from_trusted_cert(root.certificate().der()).unwrap();
    let intermediates = [intermediate.certificate().der().clone()];
    let algorithms = crypto::provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW as u64 + 1));
    let verify = |der: &CertificateDer<'_>, usage| {
        EndEntityCert::try_from(der)
            .unwrap()
            .verify_for_usage(
                algorithms,
                std::slice::from_ref(&anchor),
                &intermediates,
                now,
                usage,
                Some(revocation),
                None,
            )
            .map(|_| ())
    };
    for profile in CertificateProfile::LEAVES {
        let signed = leaf(&intermediate, "a", &profile, None, NOW).unwrap();
        let usages = profile.usages().unwrap();
        let client = verify(&signed.der, KeyUsage::client_auth());
        let server = verify(&signed.der, KeyUsage::server_auth());
        assert_eq!(
            (client.is_ok(), server.is_ok()),
            (usages.client, usages.server)
        );
    }
    assert_eq!(
        verify(&revoked.der, KeyUsage::client_auth()),
        Err(webpki::Error::CertRevoked)
    );
}

#[test]
fn serials_are_positive_random_and_unique() {
    let mut seen = HashSet::new();
    for _ in 0..2_000 {
        let serial = random_serial().unwrap();
        let octets = serial.as_ref().to_vec();
        assert_eq!(octets.len(), 16);
        assert!((1..=0x7f).contains(&octets[0]));
        assert!(seen.insert(octets));
    }
}

#[test]
fn long_trust_domains_fit_into_names() {
    let domain = TrustDomain::parse(&"a".repeat(255)).unwrap();
    let root = CertificateAuthority::new_root(&domain, NOW).unwrap();
    assert_eq!(*root.certificate().trust_domain(), domain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_leaf_reaches_beyond_its_issuer(age in 0_i64..1_825 * 86_400, days in 1_u16..=825) {
        let (_, intermediate) = authorities();
        let now = NOW + age;
        let signed = leaf(
            &intermediate,
            "a",
            &CertificateProfile::PEER,
            Some(Lifetime::days(days)),
            now,
        )
        .unwrap();
        let end = intermediate.certificate().facts.not_after;
        prop_assert!(signed.facts.not_after <= end);
        prop_assert!(signed.facts.not_before >= intermediate.certificate().facts.not_before);
        prop_assert!(signed.facts.not_before < now);
        prop_assert_eq!(signed.cut, now + i64::from(days) * 86_400 > end);
    }

    #[test]
    fn reading_rubbish_never_panics(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = AuthorityCertificate::read(CertificateDer::from(octets));
    }
}
