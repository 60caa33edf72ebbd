//! What the gateway decides with: identities, trust, policy, credentials, assertions, upstreams.
//!
//! The head of the program's `src/main.rs` is the map of all modules, here and in the other
//! crates, in their tiers. `tests/architecture` checks that a module imports from lower tiers
//! only.
//!
//! This crate alone names the cryptography: the features `ring` and `aws-lc-rs` of the other
//! crates only pass on to this one. The feature `testing` has what unit tests of the crates
//! above need.

pub mod assertion;
pub mod authn;
pub mod clock;
pub mod connection_slots;
pub mod crl_fetch;
pub mod crypto;
pub mod descriptors;
pub mod directory_lock;
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
