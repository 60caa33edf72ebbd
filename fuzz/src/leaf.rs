//! Reads leaf certificates. The URI and DNS names must agree with webpki's reading of the same
//! bytes.

use std::sync::OnceLock;

use countersign_core::identity::caller::CallerName;
use countersign_core::identity::leaf::LeafFacts;
use countersign_testkit::{Leaf, TestCa};
use rustls_pki_types::CertificateDer;

use super::input::altered;

/// Returns a valid certificate with subject alternative names of each supported type.
fn original() -> &'static [u8] {
    static ORIGINAL: OnceLock<Vec<u8>> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let ca = TestCa::new("example.org");
        let leaf = Leaf::with_uri("spiffe://example.org/ns/shop/sa/checkout")
            .dns("checkout.example.org")
            .email("checkout@example.org")
            .ip([10, 0, 0, 1].into())
            .common_name("checkout");
        ca.issue(leaf).leaf().to_vec()
    })
}

/// The first byte of the input selects the meaning of the other bytes: a certificate, or changes
/// of a valid certificate (see `altered`).
pub fn leaf(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let certificate = if kind % 2 == 0 {
        rest.to_vec()
    } else {
        altered(original(), rest)
    };
    let Ok(facts) = LeafFacts::read(&certificate) else {
        return;
    };
    let _ = facts.sans.summary();
    let _ = facts.serial_hex();
    for uri in &facts.sans.uri {
        if let Ok(name) = CallerName::from_uri(uri) {
            assert_eq!(
                name.to_string(),
                *uri,
                "a URI is its caller's name verbatim"
            );
        }
    }
    let certificate = CertificateDer::from(certificate);
    if let Ok(parsed) = webpki::EndEntityCert::try_from(&certificate) {
        let theirs: Vec<&str> = parsed.valid_uri_names().collect();
        assert_eq!(facts.sans.uri, theirs, "URI names");
        let theirs: Vec<&str> = parsed.valid_dns_names().collect();
        // webpki leaves out invalid DNS names. All others must be among ours, in the same order.
        let mut ours = facts.sans.dns.iter();
        assert!(
            theirs.iter().all(|name| ours.any(|own| own == name)),
            "{theirs:?} and {:?}",
            facts.sans.dns
        );
    }
}
