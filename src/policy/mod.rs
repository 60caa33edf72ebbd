//! Who may do what: rules, and the decision that yields a permit.

pub mod engine;
pub mod rate_limit;
#[cfg(feature = "redis")]
pub mod redis_store;
pub mod rule;
pub mod share;
pub mod throttle;

pub use engine::{Denial, Permit, decide, missing, not_allowed};
pub use rule::{Authentication, Rule};
