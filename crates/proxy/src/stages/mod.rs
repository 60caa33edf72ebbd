//! The stages that a request passes before it is forwarded, in this order:
//!
//! - `admission`: may the connection carry another request?
//! - `target`: checks host and path, so that the service cannot read them differently
//! - `route`: selects the route, and makes the target for the service
//! - `authorize`: may the caller use the route? It runs, in this order,
//!   - `rate_limit`: the limits whose key is known before authentication,
//!   - `authenticate`: the caller's certificate, token or API key,
//!   - the route's policy, and the limits whose key is known after authentication
//! - `transaction`: does the request continue an earlier transaction?
//! - `request_headers`: the fields that the gateway adds
//! - `body`: checks the body's length, and streams or buffers the body
//!
//! `target`, `route`, `authenticate` and `authorize::decide` need no connection.
//! `countersign explain` calls the same functions, so that its decision is the gateway's decision.

#![allow(
    clippy::missing_errors_doc,
    reason = "the error of each stage is the refusal that the caller gets"
)]

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
    /// The caller's identity when the request began. The connection may be verified again during
    /// the request. This copy makes sure that the gateway checks, records and signs one identity.
    pub(crate) proof: Option<&'a ConnectionProof>,
    pub(crate) snapshot: &'a Snapshot,
}
