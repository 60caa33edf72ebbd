//! Requests that the gateway responds to itself, on every host and before a route is selected.
//!
//! - `whoami`: tells a caller which identity the gateway has verified
//! - `protected_resource`: tells clients which tokens a resource accepts
//! - `json`: makes the JSON responses for `whoami` and `protected_resource`

mod json;
pub(crate) mod protected_resource;
pub(crate) mod whoami;
