//! Limits on connections and requests.
//!
//! - `connection_limit`: limits connections to one endpoint, and selects which waiting request gets
//!   the next connection
//! - `descriptors`: limits connections to all services together
//! - `concurrency_limit`: a counter with a maximum
//! - `preemption`: asks the requests on a connection to end, because another caller needs the
//!   connection

pub(super) mod concurrency_limit;
pub(super) mod connection_limit;
pub(super) mod descriptors;
pub(super) mod preemption;
