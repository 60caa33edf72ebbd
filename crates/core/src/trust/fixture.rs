//! Trust for unit tests of this crate and of the crates that depend on it.
#![allow(
    clippy::unwrap_used,
    reason = "only tests use this, but a crate above is no test of this one"
)]

use std::time::Duration;

use countersign_testkit::TestCa;
use rustls_pki_types::CertificateRevocationListDer;

use super::{
    ClientTrust, CrlRules, RevocationDepth, RevocationPosture, TrustBundle, TrustBundleConfig,
};
use crate::clock;
use crate::identity::{IdentityPattern, NameType, TrustDomain};

/// Returns the configuration of a trust domain with the root of `ca`. If `lists` is not empty,
/// revocation is checked for the whole path.
pub fn config(ca: &TestCa, lists: &[Vec<u8>]) -> TrustBundleConfig {
    TrustBundleConfig {
        name: TrustDomain::parse(ca.domain()).unwrap(),
        roots: vec![ca.root().der().clone()],
        intermediates: Vec::new(),
        crls: lists
            .iter()
            .map(|der| CertificateRevocationListDer::from(der.clone()))
            .collect(),
        posture: if lists.is_empty() {
            RevocationPosture::Off
        } else {
            RevocationPosture::Hard
        },
        depth: RevocationDepth::Chain,
        grace: Duration::ZERO,
        crl_rules: CrlRules::default(),
        vouches_for: vec![IdentityPattern::parse("spiffe://example.org/**").unwrap()],
        identity_from: vec![NameType::Spiffe],
    }
}

/// Returns a `ClientTrust` that accepts only the trust domain in `config`.
pub fn trust(config: TrustBundleConfig) -> ClientTrust {
    let now = i64::try_from(clock::unix_now()).unwrap();
    ClientTrust::new(vec![std::sync::Arc::new(
        TrustBundle::build(config, now).unwrap(),
    )])
    .unwrap()
}
