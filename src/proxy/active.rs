//! The requests in progress on one connection, so that a new configuration can
//! be held against them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;

use crate::identity::Principal;
use crate::policy::{self, Denial};
use crate::reason::ReasonCode;
use crate::route::Selected;
use crate::snapshot::Snapshot;
use crate::upstream::gate::Pass;

/// What was permitted: enough to decide it again.
pub(crate) struct Permitted {
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) decoded_path: String,
    pub(crate) principal: Option<Principal>,
}

/// All requests in progress on one connection.
#[derive(Default)]
pub(crate) struct ActiveRequests {
    entries: Mutex<Vec<Arc<Permitted>>>,
}

/// One of them, until it is dropped.
pub(crate) struct ActiveRequest {
    all: Arc<ActiveRequests>,
    permitted: Arc<Permitted>,
    /// Its place among the requests of its upstream.
    pass: Option<Pass>,
}

impl ActiveRequests {
    /// Enters a permitted request.
    pub(crate) fn enter(self: &Arc<Self>, permitted: Permitted) -> ActiveRequest {
        let permitted = Arc::new(permitted);
        self.lock().push(Arc::clone(&permitted));
        ActiveRequest {
            all: Arc::clone(self),
            permitted,
            pass: None,
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether all of them are still permitted by `snapshot`.
    ///
    /// # Errors
    /// Why one of them is not.
    pub(crate) fn recheck(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        let entries = self.lock().clone();
        for request in &entries {
            let selected =
                snapshot
                    .routes
                    .select(&request.host, &request.decoded_path, &request.method);
            let Selected::Route(route) = selected else {
                return Err(Denial::new(
                    ReasonCode::NoRoute,
                    "the new configuration has no route for a request in progress",
                ));
            };
            policy::decide(&route.rule, request.principal.clone())?;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Permitted>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRequest {
    /// Keeps its place at its upstream for as long as it lasts.
    pub(crate) fn hold(&mut self, pass: Pass) {
        self.pass = Some(pass);
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let mut entries = self.all.lock();
        if let Some(position) = entries
            .iter()
            .position(|entry| Arc::ptr_eq(entry, &self.permitted))
        {
            entries.swap_remove(position);
        }
    }
}

impl fmt::Debug for ActiveRequests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ActiveRequests({})", self.lock().len())
    }
}
