//! The requests in progress on one connection, so that a new configuration can
//! be held against them.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::authn::certificate::ConnectionProof;
use crate::authn::{Credentials, Presented};
use crate::clock;
use crate::identity::Principal;
use crate::policy::{self, Denial, Permit};
use crate::reason::ReasonCode;
use crate::route::{Route, Selected};
use crate::snapshot::Snapshot;
use crate::upstream::gate::Pass;

/// What was permitted: enough to decide it again.
pub(crate) struct PermittedRequest {
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) decoded_path: String,
    pub(crate) principal: Option<Principal>,
    /// The credentials beside the certificate, where the route asked for any.
    pub(crate) kept: Option<Box<UsedCredentials>>,
}

impl PermittedRequest {
    /// What `permit` allowed; `presented` are the credentials it rests on.
    pub(crate) fn new(
        method: Method,
        (host, decoded_path): (String, String),
        route: &Route,
        permit: &Permit,
        presented: Presented,
    ) -> Self {
        Self {
            method,
            host,
            decoded_path,
            principal: permit.principal().cloned(),
            kept: (!route.authenticators.is_empty()).then(|| {
                let rules = *route.authenticators.rules();
                Box::new(UsedCredentials { presented, rules })
            }),
        }
    }
}

/// Credentials that let a request in, and by which rules.
pub(crate) struct UsedCredentials {
    pub(crate) presented: Presented,
    pub(crate) rules: [u8; 32],
}

/// Longest single sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// All requests in progress on one connection.
#[derive(Default)]
pub(crate) struct InFlightRequests {
    entries: Mutex<Vec<Arc<PermittedRequest>>>,
}

/// One of them, until it is dropped.
pub(crate) struct InFlightRequest {
    all: Arc<InFlightRequests>,
    permitted: Arc<PermittedRequest>,
    /// Its place among the requests of its upstream.
    pass: Option<Pass>,
    /// When its answer has to be over.
    until: Option<Instant>,
}

impl InFlightRequests {
    /// Enters a permitted request.
    pub(crate) fn register(self: &Arc<Self>, permitted: PermittedRequest) -> InFlightRequest {
        let permitted = Arc::new(permitted);
        self.lock().push(Arc::clone(&permitted));
        InFlightRequest {
            all: Arc::clone(self),
            permitted,
            pass: None,
            until: None,
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
    pub(crate) fn recheck(
        &self,
        snapshot: &Snapshot,
        proof: Option<&ConnectionProof>,
        address: IpAddr,
    ) -> Result<(), Denial> {
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
            let principal = match (&request.principal, &request.kept) {
                (Some(earlier), kept) if !route.authenticators.is_empty() => {
                    let nothing = Presented::default();
                    let credentials = Credentials {
                        proof,
                        presented: kept.as_ref().map_or(&nothing, |kept| &kept.presented),
                        query: None,
                        address,
                        now: clock::unix_now(),
                    };
                    let rules = kept.as_ref().map_or([0; 32], |kept| kept.rules);
                    let found = route.authenticators.recheck(&credentials, earlier, &rules);
                    Some(found.map_err(|rejection| rejection.denial)?)
                }
                (earlier, _) => earlier.clone(),
            };
            policy::decide(&route.rule, principal)?;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<PermittedRequest>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when the credentials of a request have expired, with what to say.
pub(crate) type Deadline = Pin<Box<dyn Future<Output = Denial> + Send>>;

impl InFlightRequest {
    /// Its answer has to be over then.
    pub(crate) const fn bound(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    /// When its answer ends, whether or not it is complete.
    pub(crate) fn answer_deadline(&self) -> Option<Deadline> {
        let credentials = self.deadline();
        let Some(until) = self.until else {
            return credentials;
        };
        Some(Box::pin(async move {
            let time = async {
                tokio::time::sleep_until(until).await;
                Denial::new(
                    ReasonCode::UpstreamTimeout,
                    "the service's answer took longer than it may",
                )
            };
            match credentials {
                None => time.await,
                Some(expired) => tokio::select! {
                    denial = expired => denial,
                    denial = time => denial,
                },
            }
        }))
    }

    /// Keeps its place at its upstream for as long as it lasts.
    pub(crate) fn hold(&mut self, pass: Pass) {
        self.pass = Some(pass);
    }

    /// Gives its place at its upstream back.
    pub(crate) fn leave_upstream(&mut self) {
        self.pass = None;
    }

    /// When its token or API key ends; none where it has none, or none that ends.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        let end = self.permitted.principal.as_ref()?.ends()?;
        Some(Box::pin(expiry(end)))
    }
}

async fn expiry(end: u64) -> Denial {
    loop {
        let left = end.saturating_sub(clock::unix_now());
        if left == 0 {
            return Denial::new(
                ReasonCode::TokenExpired,
                "the token or API key expired while the request was in progress",
            );
        }
        tokio::time::sleep(Duration::from_secs(left).min(LONGEST_SLEEP)).await;
    }
}

/// What comes of `work`, unless the credentials it rests on end before.
pub(crate) async fn unless_expired<T>(
    deadline: Deadline,
    work: impl Future<Output = T>,
) -> Result<T, Denial> {
    tokio::select! {
        biased;
        denial = deadline => Err(denial),
        done = work => Ok(done),
    }
}

impl Drop for InFlightRequest {
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

impl fmt::Debug for InFlightRequests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "InFlightRequests({})", self.lock().len())
    }
}
