//! Tests keys over HTTP: rotation, floods of requests, outages, and servers with wrong responses.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use countersign_verify::jose::JoseError;
use countersign_verify::{BuildError, FetchProblem, Verifier, VerifyError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::support::{
    AUDIENCE, SigningKey, TestClock, builder, builder_with_clock, key_set, request, request_claims,
    with,
};

type Answer = Box<dyn Fn(&str, &HeaderMap) -> Response + Send + Sync>;

/// A key server whose responses a test can change. The server ends with the tokio
/// runtime of the test.
#[derive(Clone)]
pub(crate) struct KeyServer {
    origin: String,
    answer: Arc<Mutex<Answer>>,
    requests: watch::Sender<usize>,
    /// Whether the server delays its responses.
    held: watch::Sender<bool>,
}

impl KeyServer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            answer: Arc::new(Mutex::new(Box::new(|_, _| {
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }))),
            requests: watch::Sender::new(0),
            held: watch::Sender::new(false),
        };
        let service = Router::new().fallback(serve).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        server
    }

    pub(crate) fn answer(
        &self,
        answer: impl Fn(&str, &HeaderMap) -> Response + Send + Sync + 'static,
    ) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        let body = key_set(keys).to_json().to_string();
        self.answer(move |_, _| ([("cache-control", "max-age=300")], body.clone()).into_response());
    }

    pub(crate) fn fail(&self) {
        self.answer(|_, _| StatusCode::BAD_GATEWAY.into_response());
    }

    /// Delays all responses until the test calls [`KeyServer::release`].
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    pub(crate) fn requests(&self) -> usize {
        *self.requests.borrow()
    }

    /// Waits until the server has received `count` requests.
    pub(crate) async fn received(&self, count: usize) {
        let mut requests = self.requests.subscribe();
        requests
            .wait_for(|received| *received >= count)
            .await
            .unwrap();
    }

    pub(crate) fn verifier(&self, clock: &TestClock) -> Verifier {
        builder_with_clock(clock)
            .jwks_url(format!("{}/keys", self.origin))
            .build()
            .unwrap()
    }
}

async fn serve(State(server): State<KeyServer>, uri: Uri, headers: HeaderMap) -> Response {
    server.requests.send_modify(|requests| *requests += 1);
    let mut held = server.held.subscribe();
    held.wait_for(|held| !held).await.unwrap();
    let answer = server.answer.lock().unwrap();
    answer(uri.path(), &headers)
}

pub(crate) async fn server() -> (KeyServer, TestClock, SigningKey) {
    let server = KeyServer::start().await;
    (server, TestClock::new(), SigningKey::es256())
}

pub(crate) fn token(key: &SigningKey, clock: &TestClock) -> String {
    let now = clock.now();
    key.assertion(&with(with(request_claims(), "iat", now), "exp", now + 30))
}

pub(crate) async fn verify(
    verifier: &Verifier,
    key: &SigningKey,
    clock: &TestClock,
) -> Result<(), VerifyError> {
    verifier
        .verify_async(&token(key, clock), &request())
        .await
        .map(drop)
}

#[tokio::test]
async fn keys_are_fetched_when_first_needed_and_kept() {
    let (server, clock, key) = server().await;
    server.publish(&[&key]);
    let verifier = server.verifier(&clock);
    assert_eq!(server.requests(), 0);
    assert_eq!(
        verifier.verify(&token(&key, &clock), &request()),
        Err(VerifyError::KeysUnavailable(FetchProblem::NotFetched))
    );
    for _ in 0..20 {
        assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    }
    assert_eq!(server.requests(), 1);
    // After the fetch, the keys are also available to `verify`, which never fetches.
    assert!(verifier.verify(&token(&key, &clock), &request()).is_ok());
    clock.advance(299);
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    assert_eq!(server.requests(), 1);
    clock.advance(1);
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once() {
    let (server, clock) = (KeyServer::start().await, TestClock::new());
    let (old, new) = (SigningKey::es256(), SigningKey::ed_dsa());
    server.publish(&[&old]);
    let verifier = server.verifier(&clock);
    assert_eq!(verify(&verifier, &old, &clock).await, Ok(()));
    // Rotation: the new key signs while the cached keys are still fresh.
    clock.advance(10);
    server.publish(&[&old, &new]);
    assert_eq!(verify(&verifier, &new, &clock).await, Ok(()));
    assert_eq!(server.requests(), 2);
    // Removal: a key that is absent from the fetched set is not used any more.
    clock.advance(300);
    server.publish(&[&new]);
    assert_eq!(verify(&verifier, &new, &clock).await, Ok(()));
    assert_eq!(
        verify(&verifier, &old, &clock).await,
        Err(VerifyError::UnknownKey)
    );
    assert_eq!(server.requests(), 3);
    // Removal of all keys: if the fetched set is empty, no key is used any more.
    clock.advance(300);
    server.answer(|_, _| r#"{"keys":[]}"#.into_response());
    assert_eq!(
        verify(&verifier, &new, &clock).await,
        Err(VerifyError::UnknownKey)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_keys_causes_few_requests() {
    let (server, clock, key) = (
        KeyServer::start().await,
        TestClock::new(),
        SigningKey::ed_dsa(),
    );
    server.publish(&[&key]);
    let verifier = Arc::new(server.verifier(&clock));
    let flood = || async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (verifier, clock) = (Arc::clone(&verifier), clock.clone());
            calls.spawn(async move { verify(&verifier, &SigningKey::ed_dsa(), &clock).await });
        }
        for outcome in calls.join_all().await {
            assert_eq!(outcome, Err(VerifyError::UnknownKey));
        }
    };
    flood().await;
    flood().await;
    assert_eq!(server.requests(), 1);
    // After each minimum interval, one more fetch is allowed, whatever the number of requests.
    clock.advance(5);
    flood().await;
    flood().await;
    assert_eq!(server.requests(), 2);
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    // If a fetch did not find a key identifier, the identifier causes no further fetch for 30 s.
    let stranger = SigningKey::ed_dsa();
    for _ in 0..4 {
        clock.advance(5);
        assert_eq!(
            verify(&verifier, &stranger, &clock).await,
            Err(VerifyError::UnknownKey)
        );
    }
    assert_eq!(server.requests(), 3);
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    assert_eq!(server.requests(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_at_the_start_is_one_request() {
    let (server, clock) = (KeyServer::start().await, TestClock::new());
    let key = Arc::new(SigningKey::es256());
    server.publish(&[&key]);
    let verifier = Arc::new(server.verifier(&clock));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (verifier, clock, key) = (Arc::clone(&verifier), clock.clone(), Arc::clone(&key));
        calls.spawn(async move { verify(&verifier, &key, &clock).await });
    }
    assert!(calls.join_all().await.iter().all(Result::is_ok));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn the_last_good_keys_serve_for_a_day() {
    let (server, clock, key) = server().await;
    server.publish(&[&key]);
    let verifier = server.verifier(&clock);
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    server.fail();
    let day = 24 * 60 * 60;
    for _ in 0..3 {
        clock.advance((day - 1) / 3);
        assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    }
    // The minimum interval also applies after a failed fetch.
    let before = server.requests();
    for _ in 0..10 {
        assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    }
    assert_eq!(server.requests(), before);
    // The cached keys are stale and do not contain this key. The verifier cannot know whether the
    // gateway has published the key, so the error is not "unknown key".
    assert_eq!(
        verify(&verifier, &SigningKey::es256(), &clock).await,
        Err(VerifyError::KeysUnavailable(FetchProblem::Status(502)))
    );
    clock.advance(3);
    assert_eq!(
        verify(&verifier, &key, &clock).await,
        Err(VerifyError::KeysUnavailable(FetchProblem::Status(502)))
    );
    assert_eq!(
        verifier.verify(&token(&key, &clock), &request()),
        Err(VerifyError::KeysUnavailable(FetchProblem::Status(502)))
    );
    server.publish(&[&key]);
    clock.advance(1);
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
}

#[tokio::test]
async fn keys_age_after_the_clock_is_set_back() {
    let (server, clock, removed) = server().await;
    let (year, day) = (365 * 24 * 60 * 60, 24 * 60 * 60);
    server.publish(&[&removed]);
    let verifier = server.verifier(&clock);
    clock.advance(year);
    assert_eq!(verify(&verifier, &removed, &clock).await, Ok(()));
    clock.set_back(year);
    assert_eq!(verify(&verifier, &removed, &clock).await, Ok(()));
    assert_eq!(server.requests(), 1);
    let key = SigningKey::es256();
    server.publish(&[&key]);
    clock.advance(300);
    assert_eq!(
        verify(&verifier, &removed, &clock).await,
        Err(VerifyError::UnknownKey)
    );
    assert_eq!(server.requests(), 2);
    clock.set_back(year);
    assert!(verifier.verify(&token(&key, &clock), &request()).is_ok());
    clock.advance(day);
    assert_eq!(
        verifier.verify(&token(&key, &clock), &request()),
        Err(VerifyError::KeysUnavailable(FetchProblem::NotFetched))
    );
}

#[tokio::test]
async fn unchanged_keys_are_confirmed() {
    let (server, clock, key) = server().await;
    let body = key_set(&[&key]).to_json().to_string();
    server.answer(move |_, headers| {
        if headers
            .get("if-none-match")
            .is_some_and(|tag| tag == "\"one\"")
        {
            return (StatusCode::NOT_MODIFIED, [("cache-control", "max-age=60")]).into_response();
        }
        (
            [("etag", "\"one\""), ("cache-control", "max-age=60")],
            body.clone(),
        )
            .into_response()
    });
    let verifier = server.verifier(&clock);
    for expected in 1..=3 {
        assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
        assert_eq!(server.requests(), expected);
        clock.advance(60);
    }
    // Keys stay usable for 24 h after each successful fetch.
    for _ in 0..3 {
        clock.advance(20 * 60 * 60);
        assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (server, clock, key) = server().await;
    let body = key_set(&[&key]).to_json().to_string();
    server.answer(move |path, _| {
        if path == "/keys" {
            (StatusCode::FOUND, [("location", "/elsewhere")]).into_response()
        } else {
            body.clone().into_response()
        }
    });
    assert_eq!(
        verify(&server.verifier(&clock), &key, &clock).await,
        Err(VerifyError::KeysUnavailable(FetchProblem::Status(302)))
    );
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn useless_answers_are_refused_and_do_not_replace_keys() {
    let (server, clock, key) = server().await;
    server.publish(&[&key]);
    let verifier = server.verifier(&clock);
    assert_eq!(verifier.fetch_keys().await, Ok(()));
    let large = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(1024 * 1024));
    let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 10_000].join(","));
    for (body, problem) in [
        (large, FetchProblem::TooLarge),
        (
            many,
            FetchProblem::NotKeySet(JoseError::TooManyKeys { limit: 128 }),
        ),
        (
            "<html></html>".to_owned(),
            FetchProblem::NotKeySet(JoseError::NotJson { part: "key set" }),
        ),
        (
            "{}".to_owned(),
            FetchProblem::NotKeySet(JoseError::Member { member: "keys" }),
        ),
        (
            String::new(),
            FetchProblem::NotKeySet(JoseError::NotJson { part: "key set" }),
        ),
    ] {
        server.answer(move |_, _| body.clone().into_response());
        assert_eq!(verifier.fetch_keys().await, Err(problem));
        assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    }
    for status in [204, 304, 404, 500] {
        server.answer(move |_, _| StatusCode::from_u16(status).unwrap().into_response());
        assert_eq!(
            verifier.fetch_keys().await,
            Err(FetchProblem::Status(status))
        );
    }
    // No server listens on this port.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let verifier = builder()
        .jwks_url(format!("http://{address}/"))
        .build()
        .unwrap();
    assert_eq!(verifier.fetch_keys().await, Err(FetchProblem::Unreachable));
}

#[tokio::test]
async fn a_silent_server_costs_bounded_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let verifier = builder()
        .jwks_url(format!("http://{address}/"))
        .build()
        .unwrap();
    let started = std::time::Instant::now();
    assert_eq!(verifier.fetch_keys().await, Err(FetchProblem::TimedOut));
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
    drop(listener);
}

#[tokio::test]
async fn metadata_must_be_the_issuers() {
    let (server, clock, key) = server().await;
    let verifier = || {
        let clock = clock.clone();
        Verifier::builder()
            .issuer(&server.origin)
            .audience(AUDIENCE)
            .clock(move || clock.now())
            .discover()
            .build()
            .unwrap()
    };
    let keys = key_set(&[&key]).to_json().to_string();
    let serve = |issuer: String, keys_url: String| {
        let keys = keys.clone();
        server.answer(move |path, _| match path {
            "/.well-known/oauth-authorization-server" => {
                json!({"issuer": issuer, "jwks_uri": keys_url})
                    .to_string()
                    .into_response()
            }
            _ => keys.clone().into_response(),
        });
    };
    let keys_url = format!("{}/.well-known/jwks.json", server.origin);
    serve(server.origin.clone(), keys_url.clone());
    let claims = with(request_claims(), "iss", server.origin.clone());
    let good = verifier();
    assert!(
        good.verify_async(&key.assertion(&claims), &request())
            .await
            .is_ok()
    );
    assert_eq!(server.requests(), 2);
    serve(format!("{}/", server.origin), keys_url);
    assert_eq!(verifier().fetch_keys().await, Err(FetchProblem::Metadata));
    serve(
        server.origin.clone(),
        "https://elsewhere.example/keys".to_owned(),
    );
    assert_eq!(verifier().fetch_keys().await, Err(FetchProblem::Metadata));
}

/// Starts a key server over TLS with a new certificate for `localhost`. The server
/// responds to every request with `body`. Returns the port and the PEM certificate.
async fn start_tls(body: String) -> (u16, String) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else {
                continue;
            };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, certified.cert.pem())
}

#[tokio::test]
async fn keys_over_tls_need_a_trusted_certificate() {
    let (clock, key) = (TestClock::new(), SigningKey::es256());
    let (port, root) = start_tls(key_set(&[&key]).to_json().to_string()).await;
    let (_, other_root) = start_tls(String::new()).await;
    let verifier = |host: &str, root: &str| {
        builder_with_clock(&clock)
            .jwks_url(format!("https://{host}:{port}/keys"))
            .root_certificates(root)
            .build()
            .unwrap()
    };
    assert_eq!(
        verify(&verifier("localhost", &root), &key, &clock).await,
        Ok(())
    );
    for (host, root) in [("localhost", &other_root), ("127.0.0.1", &root)] {
        assert_eq!(
            verifier(host, root).fetch_keys().await,
            Err(FetchProblem::Unreachable),
            "{host}"
        );
    }
}

#[test]
fn no_root_is_left_out_without_a_word() {
    let root = rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .unwrap()
        .cert
        .pem();
    let build = |pem: String| {
        builder()
            .jwks_url("https://gateway.example.org/keys")
            .root_certificates(pem)
            .build()
    };
    assert!(build(format!("{root}{root}")).is_ok());
    assert!(build(format!("\u{feff}{root}")).is_ok());
    for damaged in [
        format!("{}{root}", root.trim_end()),
        format!("{root}{}", root.replace("-----BEGIN", "> -----BEGIN")),
        format!("{root}{}", root.replace("-----BEGIN", "----BEGIN")),
        format!(
            "{root}{}",
            root.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
        ),
    ] {
        assert!(
            matches!(build(damaged.clone()), Err(BuildError::RootCertificates(_))),
            "{damaged}"
        );
    }
}

#[test]
fn addresses_and_roots_are_checked_when_built() {
    assert!(matches!(
        builder()
            .jwks_url("http://gateway.example.org/keys")
            .build(),
        Err(BuildError::Url)
    ));
    for pem in [
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert!(matches!(
            builder()
                .jwks_url("https://gateway.example.org/keys")
                .root_certificates(pem)
                .build(),
            Err(BuildError::RootCertificates(_))
        ));
    }
}
