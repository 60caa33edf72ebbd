//! Authorization of callers: rules, and the decision that yields a permit.
//!
//! - `engine`: decides about a request by its rule and credentials
//! - `rule`: what a route requires
//! - `revalidate`: verifies the certificate chain of a live connection again
//! - `rate_limit`: requests of a caller in a period of time
//! - `redis_store`: counts of several gateways together
//! - `throttle`: failed attempts of a client
//! - `share`: the part of a limited resource that one caller may hold

pub mod engine;
pub mod rate_limit;
#[cfg(feature = "redis")]
pub mod redis_store;
pub mod revalidate;
pub mod rule;
pub mod share;
pub mod throttle;

pub use engine::{Denial, Permit, decide, missing, not_allowed};
pub use rule::{Authentication, Rule};
