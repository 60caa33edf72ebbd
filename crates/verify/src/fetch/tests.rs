//! Tests of freshness, URLs, and fetches that never end. The files `tests/fetch.rs` and
//! `tests/shared_fetches.rs` test the rest with a server.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AGE, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue};

use super::client::{Answer, freshness};
use super::{Location, RemoteKeys};
use crate::{FetchProblem, VerifyError};

fn headers(control: &'static str, age: Option<&'static str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(control));
    if let Some(age) = age {
        headers.insert(AGE, HeaderValue::from_static(age));
    }
    headers
}

#[test]
fn freshness_follows_the_server_within_bounds() {
    assert_eq!(freshness(&HeaderMap::new()), 300);
    assert_eq!(freshness(&headers("public, Max-Age=600", None)), 600);
    assert_eq!(freshness(&headers("max-age=600", Some("100"))), 500);
    assert_eq!(freshness(&headers("max-age=600", Some("900"))), 60);
    assert_eq!(freshness(&headers("max-age=1", None)), 60);
    assert_eq!(freshness(&headers("max-age=99999999", None)), 86_400);
    assert_eq!(freshness(&headers("no-store", None)), 60);
    assert_eq!(freshness(&headers("no-cache, max-age=600", None)), 60);
    assert_eq!(freshness(&headers("max-age=soon", None)), 300);
}

#[test]
fn keys_come_over_https_or_from_loopback() {
    for good in [
        "https://gateway.example.org/.well-known/jwks.json",
        "https://gateway.example.org:9080/keys?version=1",
        "http://127.0.0.1:9080/keys",
        "http://127.8.9.10/keys",
        "http://[::1]:9080/keys",
        "http://localhost:9080/keys",
    ] {
        assert!(Location::key_set(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "/keys",
        "gateway.example.org/keys",
        "http://gateway.example.org/keys",
        "http://localhost.example.org/keys",
        "http://127.0.0.1.example.org/keys",
        "http://10.0.0.1/keys",
        "http://[::2]/keys",
        "http://0.0.0.0/keys",
        "ftp://localhost/keys",
        "file:///keys",
        "https://user@gateway.example.org/keys",
        "http://localhost@gateway.example.org/keys",
        "https://gateway.example.org/keys#one",
    ] {
        assert!(Location::key_set(bad).is_err(), "{bad}");
    }
}

#[test]
fn metadata_lies_between_host_and_path() {
    let at = |issuer| Location::metadata(issuer).unwrap().url().to_string();
    let well_known = "https://g.example/.well-known/oauth-authorization-server";
    assert_eq!(at("https://g.example"), well_known);
    assert_eq!(at("https://g.example/"), well_known);
    assert_eq!(at("https://g.example/a/b"), format!("{well_known}/a/b"));
    assert!(Location::metadata("https://g.example/?a").is_err());
}

#[test]
fn metadata_names_its_issuer_and_keys_of_its_origin() {
    let location = Location::metadata("https://g.example:9080").unwrap();
    let read = |text: &str| location.key_set_in_metadata(text.as_bytes());
    let good = r#"{"issuer":"https://g.example:9080","jwks_uri":"https://g.example:9080/k"}"#;
    assert_eq!(read(good).unwrap(), "https://g.example:9080/k");
    for bad in [
        "{}",
        "[]",
        r#"{"issuer":"https://g.example:9080/","jwks_uri":"https://g.example:9080/k"}"#,
        r#"{"issuer":"https://other.example","jwks_uri":"https://g.example:9080/k"}"#,
        r#"{"issuer":"https://g.example:9080","jwks_uri":"https://g.example/k"}"#,
        r#"{"issuer":"https://g.example:9080","jwks_uri":"http://g.example:9080/k"}"#,
        r#"{"issuer":"https://g.example:9080"}"#,
    ] {
        assert_eq!(read(bad).unwrap_err(), FetchProblem::Metadata, "{bad}");
    }
}

#[tokio::test]
async fn a_fetch_that_never_ends_is_given_up() {
    let location = Location::key_set("http://127.0.0.1:9/keys").unwrap();
    let remote = RemoteKeys::new(location, None, Arc::new(|| 1_770_000_000)).unwrap();
    let stuck = remote.state().begin(0);
    let outcome = remote.wait(stuck.running.clone(), Duration::ZERO).await;
    assert_eq!(outcome, Err(FetchProblem::TimedOut));
    assert_eq!(
        remote.at_hand().unwrap_err(),
        VerifyError::KeysUnavailable(FetchProblem::TimedOut)
    );
    // Another fetch can start now. A late response to the first fetch must not change the state.
    let next = remote.state().begin(0);
    let late = || Answer::Body {
        octets: r#"{"keys":[]}"#.into(),
        entity_tag: None,
        fresh_for: 300,
    };
    let number = stuck.running.number;
    assert!(remote.store(late(), number).is_err());
    remote.state().end(number, Ok(()));
    assert!(remote.at_hand().is_err());
    assert!(remote.state().is_running(next.running.number));
    let number = next.running.number;
    assert!(remote.store(late(), number).is_ok());
    assert!(remote.at_hand().is_ok());
}
