//! `Search`: tries the endpoints of an upstream one after the other.

use crate::upstream::balance::{Tried, Upstream};
use crate::upstream::connection::error::ConnectError;

/// The endpoints that a request has tried, and the reasons why there is no connection to them.
pub(super) struct Search {
    pub(super) tried: Tried,
    /// The first tried endpoint that has reached its connection limit. If all endpoints fail, the
    /// request waits for a connection to this endpoint.
    pub(super) full: Option<usize>,
    /// The last error of a tried endpoint that has not reached its connection limit.
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

    /// Records that there is no connection to this endpoint. [`ConnectError::NoTunnels`] does not
    /// count as a failure of the endpoint, and is recorded elsewhere (`Upstream::note_no_tunnels`).
    pub(super) fn note(&mut self, upstream: &Upstream, index: usize, error: ConnectError) {
        if !matches!(error, ConnectError::NoTunnels) {
            self.tried.note(index);
        }
        match error {
            // The process has no free descriptor. The endpoint is not the cause, so connecting to
            // another endpoint would fail too.
            ConnectError::NoDescriptor => self.last = error,
            ConnectError::Full => {
                self.full.get_or_insert(index);
            }
            // An earlier error of another endpoint is kept, because it says more about why the
            // tunnel failed.
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
