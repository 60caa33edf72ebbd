//! `Search`: tries the endpoints of an upstream one after the other.

use crate::upstream::balance::{Tried, Upstream};
use crate::upstream::connection::error::ConnectError;

/// The findings of a request at the endpoints that it has tried.
pub(super) struct Search {
    pub(super) tried: Tried,
    /// The first endpoint that has reached its connection limit. The request can wait for a
    /// connection to it.
    pub(super) full: Option<usize>,
    /// The error of the last of the other endpoints.
    pub(super) last: ConnectError,
}

impl Search {
    pub(super) const fn new(tried: Tried) -> Self {
        Self {
            tried,
            full: None,
            last: ConnectError::NoEndpoint,
        }
    }

    /// Notes that there is no connection to this endpoint. Whether it carries tunnels does not
    /// affect its health, and is noted elsewhere.
    pub(super) fn note(&mut self, upstream: &Upstream, index: usize, error: ConnectError) {
        if !matches!(error, ConnectError::NoTunnels) {
            self.tried.note(index);
        }
        match error {
            // The process has no descriptors: no endpoint causes this, and none could be
            // connected to.
            ConnectError::NoDescriptor => self.last = error,
            ConnectError::Full => {
                self.full.get_or_insert(index);
            }
            // The failure of an endpoint that may carry tunnels says more.
            ConnectError::NoTunnels if !matches!(self.last, ConnectError::NoEndpoint) => {}
            ConnectError::NoTunnels => self.last = error,
            error => {
                tracing::warn!(upstream = upstream.name(), endpoint = index, %error,
                    "no connection to the endpoint");
                upstream.record_connect_failure(index);
                self.last = error;
            }
        }
    }
}
