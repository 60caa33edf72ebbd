//! The stages that a request passes before it is forwarded, in this order:
//!
//! - `admission`: may the connection have another request?
//! - `target`: checks host and path, so that the service cannot read them differently
//! - `route`: selects the route, and makes the target for the service
//! - `authorize`: may the caller use the route? It runs, in this order,
//!   - `rate_limit`: the limits that apply before authentication,
//!   - `authenticate`: the caller's certificate, token or API key,
//!   - the route's policy, and the limits that need the caller
//! - `transaction`: does the request continue an earlier transaction?
//! - `request_headers`: the fields that the gateway adds
//! - `body`: the body, streamed or buffered
//!
//! `target`, `route`, `authenticate` and the decision of `authorize` need no connection.
//! `countersign explain` runs the same code for the request on its command line, so that
//! it decides as the gateway does.

pub(crate) mod admission;
pub mod authenticate;
pub mod authorize;
pub(crate) mod body;
pub(crate) mod rate_limit;
pub(crate) mod request_headers;
pub mod route;
pub mod target;
pub(crate) mod transaction;

use std::sync::Arc;

use super::connection::Connection;
use crate::authn::ConnectionProof;
use crate::snapshot::Snapshot;

/// The connection of a request, and the snapshot under which the request is decided.
#[derive(Clone, Copy)]
pub(crate) struct RequestContext<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    /// The caller's identity when the request began. It is read once, so that the same
    /// identity is checked, recorded and signed, even if the connection is verified again
    /// during the request.
    pub(crate) proof: Option<&'a ConnectionProof>,
    pub(crate) snapshot: &'a Snapshot,
}
