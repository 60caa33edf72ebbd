//! The stages of a request, in the order in which it passes them.

pub(crate) mod admission;
pub(crate) mod authorize;
pub(crate) mod rate_limit;
pub(crate) mod request_headers;
pub(crate) mod transaction;
