//! Benchmarks of hot paths, such as signing an assertion and verifying a certificate path. Run
//! them with `cargo bench --profile dist`. Compare only ratios within one run.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark stops when its own preparations fail"
)]

#[path = "../../../tests/support/trust.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use countersign_core::assertion::signer::RequestBinding;
use countersign_core::assertion::{
    AssertionDetail, AssertionSettings, AssertionSigner, Recipient, SigningAlgorithm,
    SigningKeyRing, key_directory,
};
use countersign_core::clock;
use countersign_core::identity::{IdentityPattern, Principal};
use countersign_core::policy::{Authentication, Permit, Rule, decide};
use countersign_core::trust::{ClientTrust, TrustBundle};
use countersign_proxy::wire::framing::FramingMachine;
use countersign_proxy::wire::headers::strip_request;
use countersign_proxy::wire::path::checked_path;
use countersign_testkit::{Credentials, Leaf, TestCa};
use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::UnixTime;

fn main() {
    divan::main();
}

fn trust(ca: &TestCa) -> ClientTrust {
    let config = support::bundle_config(vec![ca.root().der().clone()], Vec::new());
    let now = i64::try_from(clock::unix_now()).unwrap();
    ClientTrust::new(vec![Arc::new(TrustBundle::build(config, now).unwrap())]).unwrap()
}

fn caller() -> (ClientTrust, Credentials) {
    let ca = TestCa::new("example.org");
    let credentials = ca.issue(Leaf::with_uri("spiffe://example.org/ns/shop/sa/checkout"));
    (trust(&ca), credentials)
}

fn permit() -> Permit {
    let (trust, credentials) = caller();
    let (leaf, rest) = credentials.chain.split_first().unwrap();
    let peer = trust.verify(leaf, rest, UnixTime::now()).unwrap();
    let rule = Rule {
        authentication: Authentication::Certificate,
        callers: vec![IdentityPattern::AnyCaller],
        except: Vec::new(),
    };
    decide(&rule, Some(Principal::from_certificate(peer, 0, false))).unwrap()
}

fn signer(algorithm: SigningAlgorithm) -> AssertionSigner {
    let directory = tempfile::tempdir().unwrap();
    key_directory::generate(directory.path(), algorithm, clock::unix_now()).unwrap();
    AssertionSigner::new(
        AssertionSettings {
            issuer: "https://gateway.example.org:9080".into(),
            header: HeaderName::from_static("countersign-assertion"),
            lifetime: Duration::from_secs(30),
            max_size: countersign_core::assertion::DEFAULT_MAX_SIZE,
        },
        Arc::new(SigningKeyRing::load(directory.path(), algorithm).unwrap()),
    )
}

#[divan::bench(args = ["ES256", "EdDSA"])]
fn sign_request(bencher: Bencher<'_, '_>, algorithm: &str) {
    let signer = signer(SigningAlgorithm::parse(algorithm).unwrap());
    let permit = permit();
    let now = clock::unix_now();
    let binding = RequestBinding {
        method: "GET",
        authority: "orders.example.org",
        path: "/orders/7",
        query: None,
        body_hash: None,
        transaction: "0123456789012345678901",
    };
    let recipient = Recipient {
        audience: "orders",
        detail: AssertionDetail::Full,
    };
    bencher.bench(|| signer.sign_request(black_box(&permit), recipient, &binding, now));
}

#[divan::bench]
fn verify_path(bencher: Bencher<'_, '_>) {
    let (trust, credentials) = caller();
    let (leaf, rest) = credentials.chain.split_first().unwrap();
    bencher.bench(|| trust.verify(black_box(leaf), rest, UnixTime::now()));
}

#[divan::bench]
fn follow_one_request(bencher: Bencher<'_, '_>) {
    let head = b"GET /orders/7?x=1 HTTP/1.1\r\nHost: orders.example.org\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Custom: some value of usual length\r\n\r\n";
    let mut machine = FramingMachine::new(32 * 1024);
    bencher.bench_local(|| machine.advance(black_box(head)));
}

#[divan::bench]
fn check_path(bencher: Bencher<'_, '_>) {
    bencher.bench(|| checked_path(black_box("/orders/2026/11/7")).map(|path| path.text.len()));
}

/// Removes forbidden fields from the head of a typical request. About half of the field names
/// begin like a forbidden name, so that the lookup by first characters does not exclude them.
#[divan::bench]
fn strip_fields(bencher: Bencher<'_, '_>) {
    let mut fields = HeaderMap::new();
    for name in [
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "content-type",
        "content-length",
        "cookie",
        "cache-control",
        "x-custom",
        "x-csrf-token",
        "x-b3-traceid",
        "referer",
        "sec-fetch-mode",
    ] {
        fields.insert(name, HeaderValue::from_static("1"));
    }
    let assertion = HeaderName::from_static("countersign-assertion");
    let api_key = HeaderName::from_static("x-api-key");
    bencher
        .with_inputs(|| fields.clone())
        .bench_local_refs(|fields| strip_request(black_box(fields), &assertion, &api_key, false));
}
