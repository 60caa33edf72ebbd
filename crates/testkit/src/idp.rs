//! [`Idp`]: an identity provider that misbehaves if a test tells it to.
//!
//! The provider serves metadata (RFC 8414 and OpenID Connect discovery), a JWK set and
//! introspection (RFC 7662). A test creates [`TokenKey`]s, signs tokens with them, and publishes
//! them in the JWK set. [`Fault`] describes a misbehaviour.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::Credentials;

/// A key that signs tokens with ES256.
#[derive(Debug)]
pub struct TokenKey {
    id: String,
    pair: KeyPair,
}

impl TokenKey {
    /// Creates a new key with this `kid`.
    ///
    /// # Panics
    /// If the key cannot be made.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            pair: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key"),
        }
    }

    /// Returns an access token with these claims. `typ` in its header is `at+jwt`.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": self.id});
        self.sign_with(&header, claims)
    }

    /// Returns a token with this header and these claims.
    ///
    /// # Panics
    /// If signing fails.
    #[must_use]
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let input = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let der = self.pair.sign(input.as_bytes()).expect("a signature");
        format!("{input}.{}", base64url(&fixed_signature(&der)))
    }

    /// Returns the public key as a JWK.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let point = self.pair.der_bytes();
        json!({
            "kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "alg": "ES256",
            "x": base64url(&point[1..33]), "y": base64url(&point[33..]),
        })
    }
}

/// What an [`Idp`] does instead of sending the right response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Waits for this time, then sends the right response.
    Slow(Duration),
    /// Responds with an HTML page and status 200.
    Html,
    /// Responds with the right content but with this content type.
    ContentType(String),
    /// Responds with 50 MB of spaces.
    Huge,
    /// Responds with a JWK set that contains 10,000 copies of one key.
    ManyKeys,
    /// Responds with this status and no content.
    Status(u16),
    /// Responds with status 302 and this URL in `Location`.
    Redirect(String),
    /// Closes the connection without a response.
    Hangup,
}

/// The latest introspection request that an [`Idp`] received.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The header fields of the request.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: String,
}

#[derive(Debug, Default)]
struct State {
    issuer: String,
    keys: Vec<Value>,
    faults: HashMap<String, Fault>,
    counts: HashMap<String, usize>,
    introspection: Option<Value>,
    metadata: Option<Value>,
    asked: Asked,
}

/// A running identity provider.
#[derive(Debug)]
pub struct Idp {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Idp {
    /// The path of the JWK set.
    pub const KEYS: &str = "/keys";
    /// The path of the introspection endpoint.
    pub const INTROSPECTION: &str = "/introspect";
    /// The path of the metadata of RFC 8414.
    pub const METADATA: &str = "/.well-known/oauth-authorization-server";
    /// The path of the metadata of OpenID Connect discovery.
    pub const OPENID: &str = "/.well-known/openid-configuration";

    /// Starts a provider over plain HTTP. Its issuer is `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// If no port is available.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a provider over TLS. Its issuer is `https://localhost:PORT`.
    ///
    /// # Panics
    /// If no port is available, or if the credentials are not usable.
    pub async fn start_tls(credentials: &Credentials) -> Self {
        let config = rustls::ServerConfig::builder_with_provider(crate::protocol::provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(credentials.chain.clone(), credentials.key())
            .expect("credentials of a server");
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let issuer = match &tls {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let state = Arc::new(Mutex::new(State {
            issuer,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    // Errors of the connection are ignored, because some tests disconnect early.
                    let _ = match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => {
                                http.serve_connection(TokioIo::new(stream), service).await
                            }
                            Err(_) => Ok(()),
                        },
                    };
                });
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// Returns the issuer identifier.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.state().issuer.clone()
    }

    /// Returns the address on which the provider listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of a path, for example [`Idp::KEYS`].
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer())
    }

    /// Returns a JWK set of the public keys.
    #[must_use]
    pub fn key_set(keys: &[&TokenKey]) -> Value {
        json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()})
    }

    /// Publishes exactly these keys in the JWK set, from the next request.
    pub fn publish(&self, keys: &[&TokenKey]) {
        self.state().keys = keys.iter().map(|key| key.jwk()).collect();
    }

    /// Responds to introspection requests with this document, from the next request. By default,
    /// the response is that the token is not active.
    pub fn introspect_as(&self, document: Value) {
        self.state().introspection = Some(document);
    }

    /// Serves this metadata instead of the default, from the next request.
    pub fn describe_as(&self, document: Value) {
        self.state().metadata = Some(document);
    }

    /// Misbehaves on this path, from the next request until [`Idp::mend`].
    pub fn fault(&self, path: &str, fault: Fault) {
        self.state().faults.insert(path.to_owned(), fault);
    }

    /// Removes all faults that [`Idp::fault`] has set.
    pub fn mend(&self) {
        self.state().faults.clear();
    }

    /// Returns how many requests for this path have arrived.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        self.state().counts.get(path).copied().unwrap_or(0)
    }

    /// Waits until `times` requests for this path have arrived.
    pub async fn reached(&self, path: &str, times: usize) {
        crate::until("the issuer is asked", async || self.count(path) >= times).await;
    }

    /// Returns the latest introspection request.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    let (fault, document) = {
        let mut state = lock(&state);
        *state.counts.entry(path.clone()).or_default() += 1;
        if path == Idp::INTROSPECTION {
            state.asked = Asked {
                headers: head.headers,
                body,
            };
        }
        (state.faults.get(&path).cloned(), document(&state, &path))
    };
    let Some(document) = document else {
        return Ok(status(404));
    };
    let content = document.to_string();
    Ok(match fault {
        None => typed("application/json", content),
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            typed("application/json", content)
        }
        Some(Fault::Html) => typed("text/html", "<html><body>Sign in</body></html>".to_owned()),
        Some(Fault::ContentType(name)) => typed(&name, content),
        Some(Fault::Huge) => typed("application/json", " ".repeat(50_000_000)),
        Some(Fault::ManyKeys) => {
            let key = TokenKey::new("many").jwk();
            typed(
                "application/json",
                json!({"keys": vec![key; 10_000]}).to_string(),
            )
        }
        Some(Fault::Status(code)) => status(code),
        Some(Fault::Redirect(target)) => {
            let mut response = status(302);
            response
                .headers_mut()
                .insert(LOCATION, target.parse().expect("a location"));
            response
        }
        Some(Fault::Hangup) => return Err(std::io::ErrorKind::ConnectionReset.into()),
    })
}

fn document(state: &State, path: &str) -> Option<Value> {
    match path {
        Idp::KEYS => Some(json!({"keys": state.keys})),
        Idp::INTROSPECTION => Some(
            state
                .introspection
                .clone()
                .unwrap_or_else(|| json!({"active": false})),
        ),
        Idp::METADATA | Idp::OPENID => Some(state.metadata.clone().unwrap_or_else(|| {
            json!({
                "issuer": state.issuer,
                "jwks_uri": format!("{}{}", state.issuer, Idp::KEYS),
                "introspection_endpoint": format!("{}{}", state.issuer, Idp::INTROSPECTION),
            })
        })),
        _ => None,
    }
}

fn typed(content_type: &str, content: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(content)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, content_type.parse().expect("a content type"));
    response
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = code.try_into().expect("a status");
    response
}

/// Converts an ECDSA signature from DER, `SEQUENCE { r, s }`, to `r ‖ s` (RFC 7518 section 3.4).
fn fixed_signature(der: &[u8]) -> Vec<u8> {
    let mut fixed = Vec::with_capacity(64);
    let mut rest = &der[2..];
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let integer = &rest[2..2 + length];
        let significant = &integer[integer.len().saturating_sub(32)..];
        fixed.resize(fixed.len() + 32 - significant.len(), 0);
        fixed.extend_from_slice(significant);
        rest = &rest[2 + length..];
    }
    fixed
}

fn base64url(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in octets.chunks(3) {
        let word = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_usize, |word, octet| word << 8 | usize::from(*octet));
        for index in 0..=chunk.len() {
            text.push(char::from(ALPHABET[word >> (18 - 6 * index) & 63]));
        }
    }
    text
}
