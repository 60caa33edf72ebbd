//! The stages that a request passes before it is forwarded, in this order:
//!
//! - `admission`: may the connection have another request served?
//! - `target`: the host and path, checked so that the service cannot read them
//!   differently
//! - `route`: the route that they select, and the target that its service sees
//! - `authorize`: may the caller use the route? It runs, in this order,
//!   - `rate_limit`: the limits that apply before authentication,
//!   - `authenticate`: the caller's certificate, token or API key,
//!   - the route's policy, and the limits that need the caller
//! - `transaction`: does a transaction of an earlier request continue?
//! - `request_headers`: the fields that the gateway adds
//! - `body`: the body, as it arrives or read whole
//!
//! `target`, `route`, `authenticate` and the decision of `authorize` need no connection:
//! `countersign explain` runs them for imagined requests, so that both decide alike.

pub(crate) mod admission;
pub(crate) mod authenticate;
pub(crate) mod authorize;
pub(crate) mod body;
pub(crate) mod rate_limit;
pub(crate) mod request_headers;
pub(crate) mod route;
pub(crate) mod target;
pub(crate) mod transaction;

use std::sync::Arc;

use super::connection::Connection;
use crate::authn::ConnectionProof;
use crate::snapshot::Snapshot;

/// The connection that a request came by, and the state that decides about it.
#[derive(Clone, Copy)]
pub(crate) struct RequestContext<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    /// What the caller had proven when the request began. Read once, so that one identity
    /// is checked, recorded and signed for even if it is verified anew meanwhile.
    pub(crate) proof: Option<&'a ConnectionProof>,
    pub(crate) snapshot: &'a Snapshot,
}
