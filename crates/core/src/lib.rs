//! The modules with which the gateway decides about requests: for example identities, trust,
//! policy, credentials, assertions and upstreams.
//!
//! The comment at the top of the program's `src/main.rs` lists the modules of all crates, ordered
//! by tier. `tests/architecture` checks that a module imports from lower tiers only.
//!
//! Of the crates of the gateway, only this crate and `countersign-verify` call the cryptography
//! provider. In the other crates, the features `ring` and `aws-lc-rs` only enable the same feature
//! of this crate. The feature `testing` adds helpers that unit tests of the other crates need.

pub mod assertion;
pub mod authn;
pub mod clock;
pub mod connection_slots;
pub mod crl_fetch;
pub mod crypto;
pub mod der;
pub mod descriptors;
pub mod directory_lock;
pub mod file_access;
pub mod file_read;
pub mod file_stamp;
pub mod h2_frames;
pub mod http_client;
pub mod identity;
pub mod kill_point;
pub mod now_or_later;
pub mod pem;
pub mod policy;
pub mod reason;
pub mod route;
pub mod secret;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod trust;
pub mod upstream;
