//! Requests that the gateway responds to itself, on every host and before a route is selected.
//!
//! - `whoami`: tells a caller what the gateway knows about it
//! - `protected_resource`: tells clients which tokens a resource accepts
//! - `json`: the JSON responses of both

mod json;
pub(crate) mod protected_resource;
pub(crate) mod whoami;
