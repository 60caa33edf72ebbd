//! Trust bundles for tests and benchmarks that call the library directly.
//!
//! Benchmarks include this file by its path, so that it must not use other files of the tests.

use std::time::Duration;

use countersign_core::identity::{IdentityPattern, NameType, TrustDomain};
use countersign_core::trust::{CrlRules, RevocationDepth, RevocationPosture, TrustBundleConfig};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

/// Returns the bundle of the trust domain `example.org`. Its authorities may certify SPIFFE IDs
/// of this domain. If there are CRLs, revocation is checked for the whole path.
pub(crate) fn bundle_config(
    roots: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
) -> TrustBundleConfig {
    TrustBundleConfig {
        name: TrustDomain::parse("example.org").unwrap(),
        roots,
        intermediates: Vec::new(),
        posture: if crls.is_empty() {
            RevocationPosture::Off
        } else {
            RevocationPosture::Hard
        },
        crls,
        depth: RevocationDepth::Chain,
        grace: Duration::ZERO,
        crl_rules: CrlRules::default(),
        vouches_for: vec![IdentityPattern::parse("spiffe://example.org/**").unwrap()],
        identity_from: vec![NameType::Spiffe],
    }
}
