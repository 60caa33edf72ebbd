//! Authorization of callers: rules, decisions and limits.
//!
//! - `engine`: decides about a request by its rule and credentials
//! - `denied`: checks the names in tokens and API keys against the deny list
//! - `rule`: what a route requires
//! - `revalidate`: verifies the certificate chain of a live connection again
//! - `rate_limit`: limits the requests of a caller in a period of time
//! - `redis_store`: counts the requests of several gateways together
//! - `throttle`: limits requests, and failed authentications of a caller or address
//! - `share`: the part of a limited resource that one caller may hold

pub mod denied;
pub mod engine;
pub mod rate_limit;
#[cfg(feature = "redis")]
pub mod redis_store;
pub mod revalidate;
pub mod rule;
pub mod share;
pub mod throttle;

pub use denied::check_denied;
pub use engine::{Denial, Permit, decide, missing, not_allowed};
pub use rule::{Authentication, Rule};
