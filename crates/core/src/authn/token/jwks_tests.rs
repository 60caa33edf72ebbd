//! Tests fetched keys against an identity provider that misbehaves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use countersign_testkit::{Fault, Idp, TestCa, TokenKey};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

use super::*;
use crate::http_client::ClientSettings;

/// The number of seconds that is added to the clock of all tests. `Remote::now` is a plain
/// function, so all tests that move time are in one function.
static SHIFT: AtomicU64 = AtomicU64::new(0);

fn shifted() -> u64 {
    clock::unix_now() + SHIFT.load(Ordering::Relaxed)
}

/// Long enough for a response on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);

fn client(roots: RootCertStore, timeout: Duration) -> HttpClient {
    HttpClient::new(&ClientSettings {
        roots: Arc::new(roots),
        certificate: None,
        timeout,
    })
    .unwrap()
}

fn keys_at(idp: &Idp) -> IssuerKeys {
    IssuerKeys::remote(
        KeyLocation::key_set(&idp.url(Idp::KEYS)).unwrap(),
        client(RootCertStore::empty(), TIMEOUT),
        KeySettings::default(),
    )
}

fn keys_of(issuer: &str) -> IssuerKeys {
    IssuerKeys::remote(
        KeyLocation::metadata(issuer).unwrap(),
        client(RootCertStore::empty(), TIMEOUT),
        KeySettings::default(),
    )
}

#[tokio::test]
async fn a_burst_causes_one_fetch() {
    let idp = Idp::start().await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    idp.fault(Idp::KEYS, Fault::Slow(Duration::from_millis(50)));
    let keys = Arc::new(keys_at(&idp));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let keys = Arc::clone(&keys);
            tokio::spawn(async move { keys.for_key(Some("one")).await.unwrap().generation })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 1);
    }
    assert_eq!(idp.count(Idp::KEYS), 1);
}

#[tokio::test]
async fn unknown_identifiers_neither_amplify_nor_evict() {
    let idp = Idp::start().await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    let keys = keys_at(&idp);
    keys.for_key(Some("one")).await.unwrap();
    for number in 0..2000 {
        let found = keys
            .for_key(Some(&format!("random-{number}")))
            .await
            .unwrap();
        assert_eq!(found.set.keys().len(), 1);
    }
    assert!(idp.count(Idp::KEYS) <= 2, "{}", idp.count(Idp::KEYS));
    keys.for_key(Some("one")).await.unwrap();
}

#[tokio::test]
async fn a_lying_issuer_gives_no_keys_and_takes_none_away() {
    let idp = Idp::start().await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    let elsewhere = Idp::start().await;
    elsewhere.publish(&[&key]);
    for (fault, error) in [
        (Fault::Html, FetchError::NotJson),
        (
            Fault::ContentType("text/plain".to_owned()),
            FetchError::NotJson,
        ),
        (Fault::Huge, FetchError::TooLarge),
        (Fault::ManyKeys, FetchError::NotJson),
        (Fault::Status(500), FetchError::Status(500)),
        (
            Fault::Redirect(elsewhere.url(Idp::KEYS)),
            FetchError::Status(302),
        ),
        (Fault::Hangup, FetchError::Unreachable),
        (Fault::Slow(TIMEOUT * 10), FetchError::TimedOut),
    ] {
        let fresh = keys_at(&idp);
        idp.fault(Idp::KEYS, fault.clone());
        let started = Instant::now();
        match fresh.for_key(Some("one")).await {
            Err(found) if fault == Fault::ManyKeys => {
                assert!(matches!(found, FetchError::NotJson | FetchError::TooLarge));
            }
            outcome => assert_eq!(outcome.unwrap_err(), error, "{fault:?}"),
        }
        assert!(started.elapsed() < TIMEOUT * 5, "{fault:?}");
        idp.mend();
        fresh.fetch().await.unwrap();
        idp.fault(Idp::KEYS, fault.clone());
        assert!(fresh.fetch().await.is_err(), "{fault:?}");
        let kept = fresh.for_key(Some("one")).await.unwrap();
        assert_eq!((kept.set.keys().len(), kept.generation), (1, 1));
        idp.mend();
    }
    assert_eq!(elsewhere.count(Idp::KEYS), 0);
}

#[tokio::test]
async fn discovery_follows_the_issuers_own_metadata_only() {
    let idp = Idp::start().await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    let issuer = idp.issuer();
    assert!(keys_of(&issuer).for_key(Some("one")).await.is_ok());
    assert_eq!(idp.count(Idp::OPENID), 0);
    idp.fault(Idp::METADATA, Fault::Status(404));
    assert!(keys_of(&issuer).for_key(Some("one")).await.is_ok());
    assert_eq!(idp.count(Idp::OPENID), 1);
    idp.mend();
    let elsewhere = Idp::start().await;
    elsewhere.publish(&[&key]);
    for metadata in [
        json!({"issuer": format!("{issuer}/"), "jwks_uri": idp.url(Idp::KEYS)}),
        json!({"issuer": "https://other.example", "jwks_uri": idp.url(Idp::KEYS)}),
        json!({"issuer": issuer, "jwks_uri": elsewhere.url(Idp::KEYS)}),
        json!({"issuer": issuer, "jwks_uri": "file:///etc/passwd"}),
        json!({"issuer": issuer}),
    ] {
        idp.describe_as(metadata.clone());
        let outcome = keys_of(&issuer).for_key(Some("one")).await;
        assert_eq!(outcome.unwrap_err(), FetchError::Metadata, "{metadata}");
    }
    assert_eq!(elsewhere.count(Idp::KEYS), 0);
}

#[tokio::test]
async fn the_providers_certificate_is_verified() {
    let ca = TestCa::new("example.org");
    let idp = Idp::start_tls(&ca.server(&["localhost"])).await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    let of = |ca: &TestCa| {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(ca.root().pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        IssuerKeys::remote(
            KeyLocation::metadata(&idp.issuer()).unwrap(),
            client(roots, Duration::from_secs(5)),
            KeySettings::default(),
        )
    };
    assert!(of(&ca).for_key(Some("one")).await.is_ok());
    let stranger = of(&TestCa::new("example.org")).for_key(Some("one")).await;
    assert_eq!(stranger.unwrap_err(), FetchError::Unreachable);
}

#[tokio::test]
async fn rotation_is_followed_and_last_good_keys_end() {
    let idp = Idp::start().await;
    let (one, two) = (TokenKey::new("one"), TokenKey::new("two"));
    idp.publish(&[&one]);
    let keys = IssuerKeys::remote_with_clock(
        KeyLocation::key_set(&idp.url(Idp::KEYS)).unwrap(),
        client(RootCertStore::empty(), TIMEOUT),
        KeySettings {
            last_good: Duration::from_secs(1000),
        },
        shifted,
    );
    let has = |keys: &Keys, id: &str| has_key(&keys.set, Some(id));
    assert!(has(&keys.for_key(Some("one")).await.unwrap(), "one"));
    idp.publish(&[&one, &two]);
    // Within the minimum interval nothing is fetched. After it, the new key is found.
    assert!(!has(&keys.for_key(Some("two")).await.unwrap(), "two"));
    SHIFT.fetch_add(MINIMUM_INTERVAL, Ordering::Relaxed);
    let found = keys.for_key(Some("two")).await.unwrap();
    assert!(has(&found, "two") && found.generation == 2);
    assert_eq!(keys.generation(), Some(2));
    // A key that the issuer has removed is gone after the next refresh.
    idp.publish(&[&two]);
    keys.fetch().await.unwrap();
    assert!(!has(&keys.for_key(Some("two")).await.unwrap(), "one"));
    assert_eq!(keys.generation(), Some(3));
    // Keys that are not fresh are returned without waiting for the issuer, which fails now.
    idp.fault(Idp::KEYS, Fault::Status(503));
    SHIFT.fetch_add(400, Ordering::Relaxed);
    assert!(has(&keys.for_key(Some("two")).await.unwrap(), "two"));
    // The issuer may have a newer key set with this key, so the result is an error and not "unknown
    // key".
    assert!(keys.for_key(Some("three")).await.is_err());
    SHIFT.fetch_add(700, Ordering::Relaxed);
    let ended = keys.for_key(Some("two")).await;
    assert_eq!(ended.unwrap_err(), FetchError::Status(503));
    assert_eq!(
        keys.generation(),
        None,
        "what was judged with them has ended too"
    );
    idp.mend();
    SHIFT.fetch_add(MINIMUM_INTERVAL, Ordering::Relaxed);
    assert!(keys.for_key(Some("two")).await.is_ok());
    assert_eq!(keys.generation(), Some(3), "they are the same keys");
}

/// The issuer states a freshness of five minutes, but the keys may be used for one minute only.
/// They must be fetched again before that minute is over.
#[tokio::test]
async fn keys_are_refreshed_before_they_must_not_be_used() {
    let idp = Idp::start().await;
    idp.publish(&[&TokenKey::new("one")]);
    let keys = IssuerKeys::remote(
        KeyLocation::key_set(&idp.url(Idp::KEYS)).unwrap(),
        client(RootCertStore::empty(), TIMEOUT),
        KeySettings {
            last_good: Duration::from_secs(60),
        },
    );
    keys.fetch().await.unwrap();
    let Source::Remote(remote) = &keys.0 else {
        unreachable!()
    };
    let wait = remote.seconds_until_refresh();
    assert!((10..=30).contains(&wait), "{wait} s");
}

#[test]
fn freshness_follows_the_issuer_within_bounds() {
    let of = |control: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, http::HeaderValue::from_static(control));
        freshness(&headers)
    };
    assert_eq!(freshness(&HeaderMap::new()), 300);
    assert_eq!(of("public, max-age=600"), 600);
    assert_eq!(of("max-age=1"), 60);
    assert_eq!(of("max-age=99999999"), 86_400);
    assert_eq!(of("no-store"), 60);
}
