//! Test support for Countersign; development only.
//!
//! Everything here is independent of the product on purpose: certificates are
//! made by rcgen directly, clients are rustls, hyper and raw bytes, and the
//! gateway is a process that is started, asked and stopped.
//!
//! | Module | What it gives |
//! |---|---|
//! | [`ca`] | [`TestCa`]: a root and an intermediate, and authorities of all kinds |
//! | [`leaf`] | [`Leaf`]: leaf certificates with every knob |
//! | [`credentials`] | [`Credentials`]: a chain and its key |
//! | [`crl`] | revocation lists: empty, with entries, stale, from the future |
//! | [`der`] | DER that certificate libraries refuse to write |
//! | `keys` | keys and serial numbers of certificates |
//! | [`client`] | [`Client`]: TLS to the gateway |
//! | [`connection`] | [`Connection`]: h1, h2 and raw bytes over it |
//! | `answer` | [`Answer`]: responses as tests see them |
//! | `pieces` | request bodies that a test sends piece by piece |
//! | `protocol` | TLS versions, application protocols, and why there is no connection |
//! | `sessions` | TLS sessions that a client resumes |
//! | [`http2`] | single h2 frames, for requests that no library would send |
//! | [`echo`] | [`Echo`]: an upstream that responds with what it received |
//! | [`idp`] | [`Idp`]: an identity provider that can be told to misbehave |
//! | [`relay`] | [`Relay`]: TLS with a client certificate for programs without |
//! | `shelf` | [`Shelf`]: an https server with a document that changes |
//! | [`scripted`] | [`Scripted`]: an upstream that responds with given bytes |
//! | [`service`] | [`Service`]: an upstream with TLS, h2 and streams |
//! | [`switching`] | [`Switching`]: an upstream behind upgrades |
//! | [`attacks`] | [`Attack`]: what a caller can do to others |
//! | [`bystander`] | [`Bystander`]: a caller that notices whether it is harmed |
//! | [`paced`] | [`Paced`]: a service for both |
//! | [`program`] | [`Program`]: nginx, Envoy and scripts as services |
//! | [`gateway`] | [`Gateway`]: the binary |
//! | `settings` | [`Settings`]: its configuration |
//! | `audit` | [`AuditLog`]: its audit lines |
//! | [`skipped`] | what a test needs and a machine may lack |
//!
//! Every wait has a deadline ([`DEADLINE`]), and every listener a port of the system's choice,
//! so that tests may run side by side.

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

/// The longest that anything in a test may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// SHA-256, computed without the product's code.
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

/// Waits until `condition` holds. It is polled, because it depends on another process or
/// task.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    in_time(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Runs `work` and fails the test when it takes longer than [`DEADLINE`].
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took longer than {DEADLINE:?}"),
    }
}
