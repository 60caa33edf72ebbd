//! `ForwardContext`: the data that every step of forwarding a request needs.

use std::sync::Arc;

use crate::connection::Connection;
use crate::identity::{Principal, ShareKey};
use crate::policy::Permit;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::upstream::Affinity;

/// The connection, snapshot, route and permit of a request.
#[derive(Clone, Copy)]
pub(crate) struct ForwardContext<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) route: &'a Arc<Route>,
    pub(crate) permit: &'a Permit,
    /// Identifies the caller in the limits that give each caller a share.
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

    /// Returns the properties of the request that can influence the choice of an endpoint.
    pub(crate) fn affinity(&self) -> Affinity<'a> {
        let caller = self.permit.principal().map(Principal::caller);
        self.route.upstream.affinity(caller, self.share_key)
    }
}
