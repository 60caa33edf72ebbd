//! Limits on connections and requests.
//!
//! - `connection_limit`: connections to one endpoint, and which request gets the next one
//! - `descriptors`: connections to all services together
//! - `concurrency_limit`: a plain count with a limit
//! - `preemption`: tells the requests on a connection that another caller needs it more

pub(super) mod concurrency_limit;
pub(super) mod connection_limit;
pub(super) mod descriptors;
pub(super) mod preemption;
