//! `Candidate`: a certificate that may become part of a path, with the few fields that the path
//! search needs.
//!
//! The fields are read in one pass over the certificate. This limits the cost for certificates from
//! unauthenticated peers. The full parser needs up to 100 ns for each DER element and copies names,
//! so it runs only after the signature of the certificate was verified.

use rustls_pki_types::CertificateDer;

use crate::der::{self, Element};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const CONSTRUCTED: u8 = 0x20;
/// Tag `[0]`: the version of a certificate.
const VERSION: u8 = 0xa0;
/// Tag `[3]`: the extensions of a certificate.
const EXTENSIONS: u8 = 0xa3;
/// Tag `[0]`: the key identifier in an authorityKeyIdentifier.
const KEY_IDENTIFIER: u8 = 0x80;
/// OID 2.5.29.14 (subjectKeyIdentifier), DER content.
const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];
/// OID 2.5.29.35 (authorityKeyIdentifier), DER content.
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];

/// A certificate that may become part of a path.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    pub(crate) der: CertificateDer<'a>,
    /// `None` if `der` does not have the structure of a certificate. The search then ignores the
    /// certificate.
    pub(crate) fields: Option<PathFields>,
}

impl<'a> Candidate<'a> {
    pub(crate) fn new(der: CertificateDer<'a>) -> Self {
        let fields = PathFields::read(&der);
        Self { der, fields }
    }

    pub(crate) fn borrowed(der: &'a CertificateDer<'_>) -> Self {
        Self::new(CertificateDer::from(der.as_ref()))
    }

    /// Returns the certificate. The result borrows the bytes of `der`, so they are not copied.
    pub(crate) fn shared(&self) -> CertificateDer<'_> {
        CertificateDer::from(self.der.as_ref())
    }
}

/// The fields of a certificate that the search for a path uses.
#[derive(Debug, Clone)]
pub(crate) struct PathFields {
    /// The subject's name, in DER.
    pub(crate) subject: Vec<u8>,
    /// The issuer's name, in DER.
    pub(crate) issuer: Vec<u8>,
    /// SubjectPublicKeyInfo, in DER.
    pub(crate) key: Vec<u8>,
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) authority_key_id: Option<Vec<u8>>,
}

impl PathFields {
    fn read(der: &[u8]) -> Option<Self> {
        let (certificate, _) = read(der, SEQUENCE)?;
        let (mut fields, _) = read(certificate, SEQUENCE)?;
        if let Some((_, rest)) = read(fields, VERSION) {
            fields = rest;
        }
        // Skips the fields serialNumber and signature.
        let (_, rest) = der::first(fields)?;
        let (_, rest) = der::first(rest)?;
        let (issuer, rest) = der::first(rest)?;
        // Skips the field validity.
        let (_, rest) = der::first(rest)?;
        let (subject, rest) = der::first(rest)?;
        let (key, mut rest) = der::first(rest)?;
        let mut found = Self {
            subject: subject.whole.to_vec(),
            issuer: issuer.whole.to_vec(),
            key: key.whole.to_vec(),
            key_id: None,
            authority_key_id: None,
        };
        while let Some((element, after)) = der::first(rest) {
            if element.tag == EXTENSIONS {
                let (mut extensions, _) = read(element.content, SEQUENCE)?;
                while let Some((extension, after)) = read(extensions, SEQUENCE) {
                    found.note(extension);
                    extensions = after;
                }
            }
            rest = after;
        }
        Some(found)
    }

    fn note(&mut self, extension: &[u8]) {
        let Some((identifier, rest)) = read(extension, OBJECT_IDENTIFIER) else {
            return;
        };
        let rest = read(rest, BOOLEAN).map_or(rest, |(_, rest)| rest);
        let Some((value, _)) = read(rest, OCTET_STRING) else {
            return;
        };
        match identifier {
            SUBJECT_KEY_IDENTIFIER => {
                self.key_id = read(value, OCTET_STRING).map(|(id, _)| id.to_vec());
            }
            AUTHORITY_KEY_IDENTIFIER => {
                self.authority_key_id = read(value, SEQUENCE)
                    .and_then(|(fields, _)| read(fields, KEY_IDENTIFIER))
                    .map(|(id, _)| id.to_vec());
            }
            _ => {}
        }
    }

    /// Whether `key_id`, the key identifier of an authority, does not contradict the
    /// authorityKeyIdentifier of this certificate. Returns true if one of them is absent. The
    /// result only decides which issuer is tried first, because key identifiers prove nothing.
    pub(crate) fn is_likely_below(&self, key_id: Option<&[u8]>) -> bool {
        match (self.authority_key_id.as_deref(), key_id) {
            (Some(wanted), Some(own)) => wanted == own,
            _ => true,
        }
    }

    /// Whether the key of `old` seems to have certified this key under the same name. This is only
    /// a guess, because key identifiers prove nothing.
    pub(crate) fn is_rollover_by(&self, old: &Self) -> bool {
        self.subject == old.subject
            && self.key != old.key
            && self.authority_key_id.is_some()
            && self.authority_key_id == old.key_id
    }
}

/// Counts the DER elements of a certificate, including elements inside extensions. Stops counting
/// at `limit`.
pub(crate) fn count_elements(der: &[u8], limit: usize) -> usize {
    let mut count = 0;
    let mut pending = vec![der];
    while let Some(mut rest) = pending.pop() {
        while let Some((Element { tag, content, .. }, after)) = der::first(rest) {
            count += 1;
            if count >= limit {
                return limit;
            }
            if tag & CONSTRUCTED != 0 || tag == OCTET_STRING {
                pending.push(content);
            } else if tag == BIT_STRING {
                // The first byte of a BIT STRING is the number of unused bits. The bytes after it
                // can be DER, for example an RSA public key.
                pending.push(content.get(1..).unwrap_or_default());
            }
            rest = after;
        }
    }
    count
}

/// Reads the first element of `input`, which must have the tag `wanted`. Returns its content, and
/// the input after the element.
fn read(input: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (element, rest) = der::first(input)?;
    (element.tag == wanted).then_some((element.content, rest))
}

#[cfg(test)]
mod tests {
    use countersign_testkit::{Leaf, TestCa};
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;
    use crate::trust::certificate::authority::AuthorityFacts;

    #[test]
    fn fields_say_what_the_full_reader_says() {
        let ca = TestCa::new("example.org");
        let leaf = ca.issue(Leaf::with_uri("spiffe://example.org/a"));
        for der in [leaf.leaf(), ca.intermediate().der(), ca.root().der()] {
            let fields = PathFields::read(der).unwrap();
            let (_, certificate) = X509Certificate::from_der(der).unwrap();
            assert_eq!(fields.subject, certificate.subject().as_raw());
            assert_eq!(fields.issuer, certificate.issuer().as_raw());
            assert_eq!(fields.key, certificate.public_key().raw);
            assert_eq!(fields.key_id, AuthorityFacts::read(der).unwrap().key_id);
        }
        let [leaf, issuer] = [leaf.leaf(), ca.intermediate().der()];
        let [leaf, issuer] = [leaf, issuer].map(|der| PathFields::read(der).unwrap());
        assert!(leaf.authority_key_id.is_some());
        assert_eq!(leaf.authority_key_id, issuer.key_id);
    }

    #[test]
    fn what_is_cut_off_is_no_certificate() {
        let ca = TestCa::new("example.org");
        let der = ca.root().der();
        assert!((0..der.len()).all(|length| PathFields::read(&der[..length]).is_none()));
        assert!(PathFields::read(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
    }

    #[test]
    fn elements_are_counted_as_far_as_it_matters() {
        let ca = TestCa::new("example.org");
        let der = ca.root().der();
        let count = count_elements(der, 1000);
        assert!((40..300).contains(&count), "{count}");
        assert_eq!(count_elements(der, 20), 20);
        // 500 NULL elements (tag 5, length 0) give the count 500.
        assert_eq!(count_elements(&[5, 0].repeat(500), 1000), 500);
    }
}
