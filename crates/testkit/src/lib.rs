//! Test support for Countersign, for development only.
//!
//! This crate does not use the product's code, because an error in shared code would not be
//! noticed by the tests. rcgen makes the certificates. Clients use rustls, hyper and raw bytes.
//! The gateway is a separate process.
//!
//! | Module | Content |
//! |---|---|
//! | [`ca`] | [`TestCa`]: a root with an intermediate, and authorities with any settings |
//! | [`leaf`] | [`Leaf`]: leaf certificates with any content |
//! | [`credentials`] | [`Credentials`]: a certificate chain and its key |
//! | [`crl`] | CRLs: empty, with entries, stale, from the future |
//! | [`der`] | DER that certificate libraries refuse to write |
//! | `keys` | keys and serial numbers of certificates |
//! | [`client`] | [`Client`]: TLS connections to the gateway |
//! | [`connection`] | [`Connection`]: HTTP/1.1, h2 or raw bytes over TLS |
//! | `answer` | [`Answer`]: complete responses |
//! | `pieces` | request bodies that a test sends in pieces |
//! | `protocol` | TLS versions, application protocols, and connection errors |
//! | `sessions` | TLS sessions that a client resumes |
//! | [`http2`] | single h2 frames, for requests that no library would send |
//! | [`echo`] | [`Echo`]: an upstream that responds with what it received |
//! | [`idp`] | [`Idp`]: an identity provider that misbehaves if a test tells it to |
//! | [`relay`] | [`Relay`]: adds TLS with a client certificate for programs that cannot do so |
//! | `shelf` | [`Shelf`]: an https server with one document that a test can change |
//! | [`scripted`] | [`Scripted`]: an upstream that responds with given bytes |
//! | [`service`] | [`Service`]: an upstream with TLS, h2 and streams |
//! | [`switching`] | [`Switching`]: an upstream for upgrades and tunnels |
//! | [`attacks`] | [`Attack`]: requests with which a caller can harm other callers |
//! | [`bystander`] | [`Bystander`]: a caller that checks whether attacks harm it |
//! | [`paced`] | [`Paced`]: a service for attackers and bystanders |
//! | [`program`] | [`Program`]: nginx, Envoy and scripts as services |
//! | [`gateway`] | [`Gateway`]: a running gateway process |
//! | `settings` | [`Settings`]: the configuration of a gateway |
//! | `audit` | [`AuditLog`]: the audit lines of a gateway |
//! | [`unusual`] | keys and signatures that rcgen does not make |
//! | [`skipped`] | notes about missing test data and missing programs |
//!
//! Tests can run at the same time, because the operating system selects a free port for every
//! listener. Every wait has a time limit, mostly [`DEADLINE`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test's helper stops the test when its own preparations fail"
)]

pub mod attacks;
pub mod bystander;
pub mod ca;
pub mod client;
pub mod connection;
pub mod credentials;
pub mod crl;
pub mod der;
pub mod echo;
pub mod gateway;
pub mod http2;
pub mod idp;
pub mod leaf;
pub mod paced;
pub mod program;
pub mod relay;
pub mod scripted;
pub mod service;
pub mod skipped;
pub mod switching;
pub mod unusual;

mod answer;
mod audit;
mod keys;
mod pieces;
mod protocol;
mod sessions;
mod settings;
mod shelf;

pub use attacks::Attack;
pub use bystander::{Bystander, Target};
pub use paced::Paced;
pub use program::Program;

pub use answer::{Answer, CallError};
pub use audit::AuditLog;
pub use ca::{Authority, AuthoritySpec, KeyKind, TestCa};
pub use client::Client;
pub use connection::{Connection, RawAnswer, Session};
pub use credentials::{Credentials, pem};
pub use crl::Crl;
pub use echo::Echo;
pub use gateway::{Gateway, StartFailure};
pub use idp::{Fault, Idp, TokenKey};
pub use leaf::Leaf;
pub use protocol::{ConnectError, Protocol, TlsVersion};
pub use relay::Relay;
pub use scripted::{Afterwards, Scripted, read_head};
pub use service::{Service, ServiceSpec};
pub use settings::Settings;
pub use shelf::{Item, Shelf};
pub use switching::Switching;

use std::time::Duration;

/// The maximum time for one operation in a test, such as a connection or a response. After this
/// time, the test fails.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Returns the SHA-256 of `data`, computed without the product's code.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let suite = protocol::provider()
        .cipher_suites
        .iter()
        .find_map(|suite| {
            suite
                .tls13()
                .filter(|_| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256)
        })
        .expect("the provider has TLS_AES_128_GCM_SHA256");
    let hash = suite.common.hash_provider.hash(data);
    hash.as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// Waits until `condition` is true, and checks it every 10 ms. The test fails after
/// [`DEADLINE`]. `what` describes the condition in the error message.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    in_time(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Runs `work`. The test fails if `work` takes longer than [`DEADLINE`]. `what` describes `work`
/// in the error message.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took longer than {DEADLINE:?}"),
    }
}
