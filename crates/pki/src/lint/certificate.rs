//! Lints of certificates.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use super::names;
use super::rule::Severity::{Error, Warning};
use super::rule::{Finding, Lint, lints, run, unreadable, when};
use super::subject::{Certificates, Subject, basic_constraints, is_authority, is_leaf};
use crate::identity::LeafFacts;
use crate::identity::leaf::key_usage::{
    CRL_SIGN, DIGITAL_SIGNATURE, KEY_CERT_SIGN, OF_AUTHORITIES,
};
use crate::reason::ReasonCode;
use crate::trust::{SignedParts, check_key, check_signature};

/// Checks a certificate with all lints. If the certificate of the issuer is known, also checks that
/// both fit together.
#[must_use]
pub fn certificate(der: &[u8], issuer: Option<&[u8]>) -> Vec<Finding> {
    let Ok((rest, certificate)) = X509Certificate::from_der(der) else {
        return unreadable("it is not a certificate");
    };
    if !rest.is_empty() {
        return unreadable("bytes follow the certificate");
    }
    let issuer = issuer.and_then(|der| X509Certificate::from_der(der).ok());
    let subject = Subject {
        der,
        certificate: &certificate,
        facts: LeafFacts::read(der).ok(),
        issuer: issuer.as_ref().map(|(_, issuer)| issuer),
    };
    let mut findings = run(LINTS, &subject);
    findings.extend(run(names::LINTS, &subject));
    findings
}

const LINTS: &[Lint<Certificates>] = lints! {
    "version", Error, "RFC 5280 section 4.1.2.1", |s|
        when(s.certificate.version().0 != 2, "it is not of version 3");
    "extension-malformed", Error, "RFC 5280 section 4.2", |s|
        when(s.facts.is_none(), "an extension is malformed or stands twice");
    "unknown-critical-extension", Error, "RFC 5280 section 4.2", unknown_critical;
    "serial-not-positive", Error, "RFC 5280 section 4.1.2.2", |s| {
        let serial = s.certificate.raw_serial();
        when(
            serial.first().is_none_or(|first| first & 0x80 != 0) || serial.iter().all(|o| *o == 0),
            "the serial number is zero or negative",
        )
    };
    "serial-too-long", Error, "RFC 5280 section 4.1.2.2", |s|
        when(s.certificate.raw_serial().len() > 20, "the serial number has more than 20 octets");
    "serial-predictable", Warning, "CA/Browser Forum BR section 7.1", |s|
        when(s.certificate.raw_serial().len() < 8, "the serial number is too short to be random");
    "signature-weak", Error, "RFC 9155", |s| {
        let oid = s.certificate.signature_algorithm.algorithm.to_id_string();
        when(WEAK_SIGNATURES.contains(&oid.as_str()), "it is signed with MD5 or SHA-1")
    };
    "key-weak", Error, "NIST SP 800-57 part 1", |s|
        when(key_is_weak(s.certificate), "its key is weaker than P-256 or RSA with 2048 bits");
    "unsupported-key", Error, "reason code unsupported-key", unsupported;
    "rsa-exponent", Error, "FIPS 186-5 section A.1.1", |s| match s.certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => when(
            key.try_exponent().is_ok_and(|e| e < 65_537 || e % 2 == 0),
            "the RSA exponent is even or less than 65537",
        ),
        _ => None,
    };
    "validity-reversed", Error, "RFC 5280 section 4.1.2.5", |s| {
        let validity = s.certificate.validity();
        when(validity.not_after < validity.not_before, "it ends before it begins")
    };
    "validity-encoding", Error, "RFC 5280 section 4.1.2.5", |s| {
        let validity = s.certificate.validity();
        when(
            badly_encoded(validity.not_before) || badly_encoded(validity.not_after),
            "a date until 2049 is a GeneralizedTime, or a later one is not",
        )
    };
    "lifetime-long", Warning, "CA/Browser Forum BR section 6.3.2", |s| {
        let validity = s.certificate.validity();
        let length = validity.not_after.timestamp() - validity.not_before.timestamp();
        when(is_leaf(s) && length > 826 * 86_400, "it is good for more than 825 days")
    };
    "outlives-issuer", Warning, "RFC 5280 section 6.1.3", |s| {
        let end = s.certificate.validity().not_after;
        when(s.issuer.is_some_and(|issuer| end > issuer.validity().not_after),
            "it ends after its issuer")
    };
    "issuer-name", Error, "RFC 5280 section 6.1.3", |s|
        when(
            s.issuer.is_some_and(|i| i.subject().as_raw() != s.certificate.issuer().as_raw()),
            "its issuer's name is not the subject of the next certificate",
        );
    "authority-key-identifier-missing", Warning, "RFC 5280 section 4.2.1.1", |s|
        when(!is_self_issued(s) && authority_key(s.certificate).is_none(),
            "it has no authority key identifier");
    "authority-key-identifier-mismatch", Error, "RFC 5280 section 4.2.1.1", |s| {
        let theirs = s.issuer.and_then(subject_key)?;
        let named = authority_key(s.certificate)?;
        when(named != theirs, "its authority key identifier is not its issuer's key identifier")
    };
    "subject-key-identifier-missing", Error, "RFC 5280 section 4.2.1.2", |s|
        when(is_authority(s) && subject_key(s.certificate).is_none(),
            "it is an authority without subject key identifier");
    "basic-constraints-missing", Warning, "RFC 5280 section 4.2.1.9", |s|
        when(basic_constraints(s).is_none(), "it does not say whether it is an authority");
    "basic-constraints-not-critical", Error, "RFC 5280 section 4.2.1.9", |s| {
        let (critical, constraints) = basic_constraints(s)?;
        when(constraints.ca && !critical, "it is an authority, and that is not critical")
    };
    "path-length-on-leaf", Error, "RFC 5280 section 4.2.1.9", |s| {
        let (_, constraints) = basic_constraints(s)?;
        when(!constraints.ca && constraints.path_len_constraint.is_some(),
            "it has a path length and is no authority")
    };
    "key-usage-missing", Warning, "RFC 5280 section 4.2.1.3", |s|
        when(usage(s).is_none(), "it has no key usage");
    "key-usage-not-critical", Warning, "RFC 5280 section 4.2.1.3", |s|
        when(usage(s).is_some_and(|(critical, _)| !critical), "its key usage is not critical");
    "leaf-can-sign", Error, "X509-SVID sections 4.3 and 5.2", |s|
        when(is_leaf(s) && usage(s).is_some_and(|(_, bits)| bits & OF_AUTHORITIES != 0),
            "it is no authority and may sign certificates or lists");
    "authority-cannot-sign", Error, "RFC 5280 section 4.2.1.3", |s|
        when(is_authority(s) && usage(s).is_none_or(|(_, bits)| bits & KEY_CERT_SIGN == 0),
            "it is an authority without keyCertSign");
    "authority-cannot-sign-lists", Warning, "RFC 5280 section 4.2.1.3", |s|
        when(is_authority(s) && usage(s).is_none_or(|(_, bits)| bits & CRL_SIGN == 0),
            "it is an authority without cRLSign");
    "digital-signature-missing", Error, "RFC 8446 section 4.4.2.2", |s|
        when(is_leaf(s) && usage(s).is_some_and(|(_, bits)| bits & DIGITAL_SIGNATURE == 0),
            "its key usage lacks digitalSignature, which TLS needs");
    "extended-key-usage-missing", Warning, "RFC 5280 section 4.2.1.12", |s|
        when(is_leaf(s) && s.facts.as_ref().is_some_and(|f| f.extended_key_usage.is_none()),
            "it does not say what it is for");
    "any-extended-key-usage", Warning, "RFC 5280 section 4.2.1.12", |s|
        when(s.certificate.extensions().iter().any(|extension| matches!(
            extension.parsed_extension(),
            ParsedExtension::ExtendedKeyUsage(usages) if usages.any
        )), "it is for any use, which gateways do not accept as a client's");
    "uri-name-constraint", Error, "RFC 5280 section 4.2.1.10", |s|
        when(has_uri_constraint(s.certificate),
            "it constrains URI names: rustls then refuses every SPIFFE ID below it");
};

/// OIDs of signature algorithms that are too weak: md5WithRSAEncryption, sha1WithRSAEncryption,
/// ecdsa-with-SHA1 and dsa-with-SHA1.
const WEAK_SIGNATURES: [&str; 4] = [
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.2.840.10045.4.1",
    "1.2.840.10040.4.3",
];

fn is_self_issued(subject: &Subject<'_>) -> bool {
    subject.certificate.subject().as_raw() == subject.certificate.issuer().as_raw()
}

fn usage(subject: &Subject<'_>) -> Option<(bool, u16)> {
    let extension = subject.certificate.key_usage().ok()??;
    Some((extension.critical, extension.value.flags))
}

fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0)
            }
            _ => None,
        })
}

fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        })
}

fn unknown_critical(subject: &Subject<'_>) -> Option<String> {
    subject
        .certificate
        .extensions()
        .iter()
        .find_map(|extension| {
            let unknown = matches!(
                extension.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
            );
            (extension.critical && unknown).then(|| {
                format!(
                    "nobody knows its critical extension {}",
                    extension.oid.to_id_string()
                )
            })
        })
}

/// Finds a key or a signature that gateways of this build cannot verify. They do not verify the
/// signature of a root.
fn unsupported(subject: &Subject<'_>) -> Option<String> {
    let key = check_key(subject.certificate.public_key().raw);
    let of_key = key.err().map(|error| error.describe("its key"));
    let of_signature = || {
        let signed = SignedParts::read(subject.der)?;
        let error = check_signature(signed.algorithm).err()?;
        (!is_self_issued(subject)).then(|| error.describe("its signature"))
    };
    let (reason, message) = of_key.or_else(of_signature)?;
    (reason == ReasonCode::UnsupportedKey).then_some(message)
}

fn key_is_weak(certificate: &X509Certificate<'_>) -> bool {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => key.key_size() < 2048,
        Ok(PublicKey::EC(point)) => point.key_size() < 256,
        Ok(PublicKey::DSA(_)) => true,
        _ => false,
    }
}

/// 2050-01-01T00:00:00Z, in seconds since the Unix epoch. RFC 5280 section 4.1.2.5 requires UTCTime
/// for earlier dates, and GeneralizedTime from this date on.
const YEAR_2050: i64 = 2_524_608_000;

fn badly_encoded(time: ASN1Time) -> bool {
    (time.timestamp() < YEAR_2050) != time.is_utctime()
}

fn has_uri_constraint(certificate: &X509Certificate<'_>) -> bool {
    use x509_parser::extensions::GeneralName;
    certificate
        .extensions()
        .iter()
        .any(|extension| match extension.parsed_extension() {
            ParsedExtension::NameConstraints(constraints) => constraints
                .permitted_subtrees
                .iter()
                .chain(&constraints.excluded_subtrees)
                .flatten()
                .any(|subtree| matches!(subtree.base, GeneralName::URI(_))),
            _ => false,
        })
}
