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
    /// For whom the request's part of shared limits is counted.
    pub(crate) share_key: ShareKey,
}

impl<'a> ForwardContext<'a> {
    pub(crate) fn new(
        connection: &'a Arc<Connection>,
        snapshot: &'a Snapshot,
        route: &'a Arc<Route>,
        permit: &'a Permit,
    ) -> Self {
        let share_key = match permit.principal() {
            Some(principal) => ShareKey::of_caller(principal.caller()),
            None => ShareKey::of_address(connection.facts().peer.ip()),
        };
        Self {
            connection,
            snapshot,
            route,
            permit,
            share_key,
        }
    }

    /// How the caller influences the choice of an endpoint.
    pub(crate) fn affinity(&self) -> Affinity<'a> {
        let caller = self.permit.principal().map(Principal::caller);
        self.route.upstream.affinity(caller, self.share_key)
    }
}
