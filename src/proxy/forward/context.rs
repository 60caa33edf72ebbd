//! `ForwardContext`: what every step of forwarding a permitted request needs.

use std::sync::Arc;

use crate::identity::{Principal, ShareKey};
use crate::policy::Permit;
use crate::proxy::connection::Connection;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::upstream::Affinity;

/// The connection, state, route and permit of a request.
#[derive(Clone, Copy)]
pub(crate) struct ForwardContext<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) route: &'a Arc<Route>,
    pub(crate) permit: &'a Permit,
}

impl<'a> ForwardContext<'a> {
    /// How the caller influences the choice of an endpoint.
    pub(crate) fn affinity(&self) -> Affinity<'a> {
        let caller = self.permit.principal().map(Principal::caller);
        self.route.upstream.affinity(caller, self.share_key())
    }

    /// For whom the request's part of shared limits is counted.
    pub(crate) fn share_key(&self) -> ShareKey {
        match self.permit.principal() {
            Some(principal) => ShareKey::of_caller(principal.caller()),
            None => ShareKey::of_address(self.connection.facts().peer.ip()),
        }
    }
}
