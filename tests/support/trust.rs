//! Trust in this process, for tests and benchmarks of the library.
//!
//! Benchmarks include this file by its path, so it uses nothing else of the tests.

use std::time::Duration;

use countersign_core::identity::{IdentityPattern, NameType, TrustDomain};
use countersign_core::trust::{RevocationDepth, RevocationPosture, TrustBundleConfig};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

/// The trust domain `example.org`, whose authorities may certify its SPIFFE IDs.
/// With lists, revocation is checked for the whole path.
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
        vouches_for: vec![IdentityPattern::parse("spiffe://example.org/**").unwrap()],
        identity_from: vec![NameType::Spiffe],
    }
}
