//! `countersign serve`, from outside: what callers, services and operators see.

mod assertion;
mod audit;
mod bindings;
mod bodies;
mod bound_bodies;
mod client_faults;
mod concurrency;
mod corpus;
mod descriptors;
mod expectations;
mod foreign;
mod forwarded;
mod framing;
mod h2spec;
mod headers;
mod hostile_answers;
mod hosts;
mod http1_ends;
mod http2_answers;
mod http2_floods;
mod http2_framing;
mod identity;
mod known_chains;
mod lists;
mod material;
mod names;
mod paths;
mod pem_files;
mod problems;
mod proxy_protocol;
mod public;
mod resting;
mod resumption;
mod revocation;
mod rewrite;
mod routing;
mod shutdown;
mod startup;
mod termination;
mod transactions;
mod trust_changes;
mod upstream_faults;

use std::path::PathBuf;

use countersign_testkit::{Client, Credentials, Echo, Gateway, Settings, TestCa};
use serde_json::Value;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_countersign");
/// The host that requests are for unless a test says otherwise.
const HOST: &str = "orders.example.org";
/// The gateway's issuer in every test.
const ISSUER: &str = "https://gateway.example.org:9080";
/// SPIFFE path of the caller that is allowed unless a test says otherwise.
const CALLER: &str = "/ns/shop/sa/checkout";

/// An authority, a service that echoes, and a gateway between.
struct World {
    ca: TestCa,
    echo: Echo,
    gateway: Gateway,
    caller: Credentials,
}

impl World {
    /// One route that takes everything from every authenticated caller.
    async fn open() -> Self {
        Self::with(|settings, echo| settings.everything_to(echo)).await
    }

    /// A gateway with routes of the test's own.
    async fn with(configure: impl FnOnce(Settings, std::net::SocketAddr) -> Settings) -> Self {
        let ca = TestCa::new("example.org");
        let echo = Echo::start().await;
        let settings = configure(Settings::new(&ca), echo.address());
        let gateway = Gateway::start(BINARY, &settings).await;
        Self {
            caller: ca.client(CALLER),
            ca,
            echo,
            gateway,
        }
    }

    /// The allowed caller.
    fn client(&self) -> Client {
        self.anonymous().with(&self.caller)
    }

    /// A client without certificate.
    fn anonymous(&self) -> Client {
        self.gateway.client(HOST)
    }

    /// A client with another SPIFFE path.
    fn client_as(&self, path: &str) -> Client {
        self.anonymous().with(&self.ca.client(path))
    }
}

/// Header and claims of a compact JWS, unverified.
fn decode(token: &str) -> (Value, Value) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "not a compact JWS: {token}");
    let part = |text: &str| serde_json::from_slice(&base64url_decode(text)).unwrap();
    (part(parts[0]), part(parts[1]))
}

/// base64url without padding.
fn base64url(octets: &[u8]) -> String {
    use base64ct::Encoding as _;
    base64ct::Base64UrlUnpadded::encode_string(octets)
}

fn base64url_decode(text: &str) -> Vec<u8> {
    use base64ct::Encoding as _;
    base64ct::Base64UrlUnpadded::decode_vec(text).unwrap()
}

/// The same token with one octet of its claims changed.
fn altered(token: &str) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut claims: Value = serde_json::from_slice(&base64url_decode(&parts[1])).unwrap();
    claims["sub"] = "spiffe://example.org/ns/ops/sa/admin".into();
    parts[1] = base64url(claims.to_string().as_bytes());
    parts.join(".")
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
