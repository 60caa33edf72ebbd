//! What a caller's chain costs: verified anew, and known from before; and what a
//! large revocation list costs to load and to look up in.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark stops when its own preparations fail"
)]

use std::sync::Arc;
use std::time::Duration;

use countersign::clock;
use countersign::identity::{IdentityPattern, NameType, TrustDomain};
use countersign::trust::{
    ClientTrust, RevocationDepth, RevocationPosture, TrustBundle, TrustBundleConfig,
};
use countersign_testkit::{Credentials, Crl, TestCa};
use divan::Bencher;
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};

fn main() {
    divan::main();
}

fn config(ca: &TestCa, lists: Vec<Vec<u8>>) -> TrustBundleConfig {
    TrustBundleConfig {
        name: TrustDomain::parse("example.org").unwrap(),
        roots: vec![ca.root().der().clone()],
        intermediates: vec![ca.intermediate().der().clone()],
        posture: if lists.is_empty() {
            RevocationPosture::Off
        } else {
            RevocationPosture::Hard
        },
        crls: lists
            .into_iter()
            .map(CertificateRevocationListDer::from)
            .collect(),
        depth: RevocationDepth::Chain,
        grace: Duration::ZERO,
        vouches_for: vec![IdentityPattern::parse("spiffe://example.org/**").unwrap()],
        identity_from: vec![NameType::Spiffe],
    }
}

fn build(config: TrustBundleConfig) -> TrustBundle {
    TrustBundle::build(config, i64::try_from(clock::unix_now()).unwrap()).unwrap()
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()))
}

/// Both lists; the intermediate's with so many entries.
fn lists(ca: &TestCa, entries: u32) -> Vec<Vec<u8>> {
    let crl = (0..entries).fold(Crl::new(), |crl, number| {
        crl.revoke(&[&[0x51; 12][..], &number.to_be_bytes()].concat())
    });
    vec![
        Crl::new().signed_by(ca.root()),
        crl.signed_by(ca.intermediate()),
    ]
}

fn prepared(entries: Option<u32>) -> (ClientTrust, Credentials) {
    let ca = TestCa::new("example.org");
    let lists = entries
        .map(|entries| lists(&ca, entries))
        .unwrap_or_default();
    let trust = ClientTrust::new(vec![Arc::new(build(config(&ca, lists)))]).unwrap();
    (trust, ca.client("/a"))
}

/// Lists: none, small ones, one with 100,000 entries.
const LISTS: [Option<u32>; 3] = [None, Some(1), Some(100_000)];

#[divan::bench(args = LISTS)]
fn chain_anew(bencher: Bencher<'_, '_>, entries: &Option<u32>) {
    let (trust, caller) = prepared(*entries);
    bencher.bench_local(|| {
        trust
            .verify(&caller.chain[0], &caller.chain[1..], now())
            .unwrap()
    });
}

#[divan::bench(args = LISTS)]
fn chain_known(bencher: Bencher<'_, '_>, entries: &Option<u32>) {
    let (trust, caller) = prepared(*entries);
    let first = trust
        .admit(&caller.chain[0], &caller.chain[1..], now())
        .unwrap();
    first.pending.unwrap().commit();
    bencher.bench_local(|| {
        trust
            .admit(&caller.chain[0], &caller.chain[1..], now())
            .unwrap()
    });
}

#[divan::bench(sample_count = 10)]
fn load_100_000_entries(bencher: Bencher<'_, '_>) {
    let ca = TestCa::new("example.org");
    let lists = lists(&ca, 100_000);
    bencher
        .with_inputs(|| config(&ca, lists.clone()))
        .bench_local_values(build);
}

#[divan::bench(sample_count = 10)]
fn reload_the_same_100_000_entries(bencher: Bencher<'_, '_>) {
    let ca = TestCa::new("example.org");
    let lists = lists(&ca, 100_000);
    let before = build(config(&ca, lists.clone()));
    let now = i64::try_from(clock::unix_now()).unwrap();
    bencher
        .with_inputs(|| config(&ca, lists.clone()))
        .bench_local_values(|config| TrustBundle::build_after(config, now, Some(&before)).unwrap());
}
