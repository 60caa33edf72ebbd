//! Tokens and API keys, from outside: what callers with and without certificate
//! get, what services are told, and what comes of a bad issuer.

mod api_keys;
mod explained;
mod issuers;
mod lifetimes;
mod limits;
mod provider;
#[cfg(feature = "redis")]
mod redis;
mod remembered;
mod replayed;
mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_testkit::{
    Answer, Client, Credentials, Echo, Gateway, Idp, Settings, TestCa, TokenKey,
};
use http::Request;
use serde_json::{Value, json};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_countersign");
/// The host that requests are for unless a test says otherwise.
const HOST: &str = "orders.example.org";
/// SPIFFE path of the caller.
const CALLER: &str = "/ns/shop/sa/checkout";
/// The issuer of tokens that are checked with keys in a file.
const ISSUER: &str = "https://idp.example.org";

/// An authority, an issuer's key in a file, a service that echoes, and a gateway.
struct World {
    ca: TestCa,
    key: TokenKey,
    echo: Echo,
    gateway: Gateway,
    caller: Credentials,
}

impl World {
    /// A gateway with one issuer (`more` are further keys of its) and one route
    /// with these lines.
    async fn with(more: &str, route: &str) -> Self {
        Self::open(|settings, keys, echo| {
            settings
                .optional_certificates()
                .section(&issuer(keys, more))
                .upstream("orders", echo)
                .route("orders", "orders", &format!("paths = [\"/**\"]\n{route}"))
        })
        .await
    }

    /// A gateway with settings of the test's own: they get the file with the
    /// issuer's keys and the service's address.
    async fn open(configure: impl FnOnce(Settings, &Path, SocketAddr) -> Settings) -> Self {
        let ca = TestCa::new("example.org");
        let key = TokenKey::new("one");
        let keys = ca.write("keys.json", Idp::key_set(&[&key]).to_string());
        let echo = Echo::start().await;
        let settings = configure(Settings::new(&ca), &keys, echo.address());
        Self {
            gateway: Gateway::start(BINARY, &settings).await,
            caller: ca.client(CALLER),
            ca,
            key,
            echo,
        }
    }

    /// The caller with its certificate.
    fn client(&self) -> Client {
        self.anonymous().with(&self.caller)
    }

    /// A client without certificate.
    fn anonymous(&self) -> Client {
        self.gateway.client(HOST)
    }

    /// A good token, bound to the caller's certificate.
    fn token(&self) -> String {
        self.token_with(json!({}))
    }

    /// The same with other claims; null takes one away.
    fn token_with(&self, changes: Value) -> String {
        self.key.sign(&self.claims(changes))
    }

    fn claims(&self, changes: Value) -> Value {
        claims(&self.caller, ISSUER, changes)
    }

    /// Writes the configuration again with one text replaced, and has it loaded.
    async fn reconfigure(&self, from: &str, to: &str) {
        let file = self.gateway.config_file();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        replace(&file, text.replacen(from, to, 1));
    }
}

/// An `[[token_issuer]]` with keys in a file.
fn issuer(keys: &Path, more: &str) -> String {
    format!(
        "[[token_issuer]]\nname = \"corporate\"\nissuer = \"{ISSUER}\"\n\
         audience = [\"orders-api\", \"payments-api\"]\njwks_file = \"{}\"\n{more}\n",
        keys.display()
    )
}

/// Claims of a good token of `issuer`, bound to `caller`'s certificate, with
/// changes; null takes a claim away.
fn claims(caller: &Credentials, issuer: &str, changes: Value) -> Value {
    let now = now();
    let mut claims = json!({
        "iss": issuer, "aud": "orders-api", "sub": "alice", "client_id": "app",
        "iat": now, "exp": now + 600, "jti": "token-1", "scope": "orders:read orders:write",
        "tenant": "acme", "cnf": {"x5t#S256": thumbprint(caller)},
    });
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => members.remove(name),
            value => members.insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn thumbprint(credentials: &Credentials) -> String {
    base64url(&countersign_testkit::sha256(credentials.leaf()))
}

fn now() -> u64 {
    countersign::clock::unix_now()
}

fn base64url(octets: &[u8]) -> String {
    use base64ct::Encoding as _;
    base64ct::Base64UrlUnpadded::encode_string(octets)
}

/// A GET request with these fields.
fn get_with(path: &str, fields: &[(&str, &str)]) -> Request<bytes::Bytes> {
    let mut request = Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(bytes::Bytes::new()).unwrap()
}

/// Asks with a bearer token.
async fn ask(client: &Client, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    client
        .send(get_with(path, &[("authorization", &bearer)]))
        .await
        .unwrap()
}

/// The claims of the assertion that an echo received.
#[track_caller]
fn assertion(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let received = answer.received("countersign-assertion");
    assert_eq!(received.len(), 1, "{answer:?}");
    let payload = received[0].split('.').nth(1).unwrap();
    use base64ct::Encoding as _;
    serde_json::from_slice(&base64ct::Base64UrlUnpadded::decode_vec(payload).unwrap()).unwrap()
}

/// Holds a refusal against what it should be.
#[track_caller]
fn refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(
        (answer.status, answer.reason()),
        (status, Some(reason)),
        "{answer:?}"
    );
}

/// Replaces a file as careful programs do.
fn replace(path: &Path, content: impl AsRef<[u8]>) {
    let aside: PathBuf = path.with_extension("aside");
    std::fs::write(&aside, content).unwrap();
    std::fs::rename(&aside, path).unwrap();
}
