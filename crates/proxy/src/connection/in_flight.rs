//! The requests in progress on one connection. They are authorized again when trust or the
//! configuration changes.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method};
use tokio::time::Instant;

use crate::authn::ConnectionProof;
use crate::authn::{Credentials, Presented, RequestAddresses};
use crate::clock;
use crate::identity::Principal;
use crate::policy::share::Place;
use crate::policy::{self, Denial};
use crate::reason::ReasonCode;
use crate::route::{PathEncodings, Route, Selected};
use crate::snapshot::Snapshot;
use crate::upstream::PreemptionSignal;
use crate::wire::path_readings;

/// A permitted request, with the data that is needed to authorize it again.
pub(crate) struct PermittedRequest {
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) decoded_path: String,
    /// The unusual forms of the path, which the route must allow.
    pub(crate) path_forms: PathEncodings,
    pub(crate) principal: Option<Principal>,
    /// The token or API key of the request, if the route has authenticators.
    pub(crate) credentials: Option<Box<UsedCredentials>>,
    /// The protocols in the request's `Upgrade` field. After the service has switched protocols,
    /// this is the protocol that the service chose. `None` if the request asks for no upgrade.
    pub(crate) upgrade: Mutex<Option<HeaderValue>>,
}

impl PermittedRequest {
    /// Returns whether the request asks to switch protocols, or has switched already.
    pub(crate) fn asks_for_tunnel(&self) -> bool {
        self.upgrade().is_some()
    }

    fn upgrade(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        self.upgrade.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The credentials that authenticated a request, and a hash of the rules that accepted them.
pub(crate) struct UsedCredentials {
    presented: Presented,
    rules: [u8; 32],
}

impl UsedCredentials {
    /// Keeps `presented` for later checks if the route has authenticators. Otherwise returns
    /// `None`.
    pub(crate) fn keep(presented: Presented, route: &Route) -> Option<Box<Self>> {
        (!route.authenticators.is_empty()).then(|| {
            let rules = *route.authenticators.rules();
            Box::new(Self { presented, rules })
        })
    }
}

/// Maximum length of one sleep until an expiry. A longer wait consists of several sleeps. The wall
/// clock is read after each sleep, because it may have been changed.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// All requests in progress on one connection.
#[derive(Default)]
pub(crate) struct InFlightRequests {
    entries: Mutex<Vec<Arc<PermittedRequest>>>,
}

/// A request in progress. It ends when this value is dropped.
pub(crate) struct InFlightRequest {
    all: Arc<InFlightRequests>,
    permitted: Arc<PermittedRequest>,
    /// Counts the request in the concurrency limit of its upstream.
    upstream_place: Option<Place>,
    /// Counts the request in the tunnel limit of its caller.
    tunnel_place: Option<Place>,
    /// The time by which the response must be complete. `None` if there is no limit.
    deadline: Option<Instant>,
    /// `Some` if the gateway may end the request early, because another caller needs the request's
    /// upstream connection.
    ends_for_another: Option<EndsForAnother>,
}

/// A signal that ends a request, because another caller needs the request's upstream connection.
/// `denial` is the reason that the audit log then contains.
pub(crate) struct EndsForAnother {
    pub(crate) preemption: Arc<PreemptionSignal>,
    pub(crate) denial: Denial,
}

impl InFlightRequests {
    /// Adds a permitted request to the requests in progress.
    pub(crate) fn register(self: &Arc<Self>, permitted: PermittedRequest) -> InFlightRequest {
        let permitted = Arc::new(permitted);
        self.lock().push(Arc::clone(&permitted));
        InFlightRequest {
            all: Arc::clone(self),
            permitted,
            upstream_place: None,
            tunnel_place: None,
            deadline: None,
            ends_for_another: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Authorizes all requests in progress again, under `snapshot`.
    ///
    /// # Errors
    /// Returns the denial of the first request that is not permitted any more.
    pub(crate) fn recheck(
        &self,
        snapshot: &Snapshot,
        proof: Option<&ConnectionProof>,
        addresses: RequestAddresses,
    ) -> Result<(), Denial> {
        // The list is cloned, so that its lock is not held while requests are authorized.
        let entries = self.lock().clone();
        for request in &entries {
            let selected = path_readings::select(
                &snapshot.routes,
                &request.host,
                &request.decoded_path,
                request.path_forms,
                &request.method,
            )?;
            let Selected::Route(route) = selected else {
                return Err(Denial::new(
                    ReasonCode::NoRoute,
                    "the new configuration has no route for a request in progress",
                ));
            };
            let principal = match (&request.principal, &request.credentials) {
                (Some(earlier), used) if !route.authenticators.is_empty() => {
                    let nothing = Presented::default();
                    let credentials = Credentials {
                        proof,
                        presented: used.as_ref().map_or(&nothing, |used| &used.presented),
                        query: None,
                        addresses,
                        now: clock::unix_now(),
                    };
                    let rules = used.as_ref().map_or([0; 32], |used| used.rules);
                    let found = route.authenticators.recheck(&credentials, earlier, &rules);
                    Some(found.map_err(|rejection| rejection.denial)?)
                }
                (earlier, _) => earlier.clone(),
            };
            if let Some(principal) = &principal {
                policy::check_denied(snapshot.deny_list.as_deref(), principal)?;
            }
            policy::decide(&route.rule, principal)?;
            let is_allowed =
                |protocols: &HeaderValue| route.allowed_upgrades(protocols).next().is_some();
            if !request.upgrade().as_ref().is_none_or(is_allowed) {
                return Err(Denial::new(
                    ReasonCode::UpgradeNotAllowed,
                    "the new configuration does not allow this route's tunnels",
                ));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<PermittedRequest>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A future that resolves when a request must end. Its output is the reason.
pub(crate) type Deadline = Pin<Box<dyn Future<Output = Denial> + Send>>;

impl InFlightRequest {
    /// Returns the caller of the request. Returns `None` if the route authenticates no caller.
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.permitted.principal.as_ref()
    }

    /// Sets the time by which the response must be complete.
    pub(crate) const fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Sets the signal that ends the request if another caller needs its upstream connection.
    pub(crate) fn set_ends_for_another(&mut self, ends: Option<EndsForAnother>) {
        self.ends_for_another = ends;
    }

    /// Returns a future that resolves when the response must end, even if it is incomplete. The
    /// response must end at the deadline, when the credentials expire, or when another caller needs
    /// the upstream connection. Returns `None` if none of these can happen.
    pub(crate) fn response_deadline(&mut self) -> Option<Deadline> {
        let expiry = match (self.credentials_expiry(), self.ends_for_another.take()) {
            (expiry, None) => expiry,
            (expiry, Some(EndsForAnother { preemption, denial })) => Some(Box::pin(async move {
                let needed = async move {
                    preemption.requested().await;
                    denial
                };
                match expiry {
                    None => needed.await,
                    Some(expired) => tokio::select! {
                        denial = expired => denial,
                        denial = needed => denial,
                    },
                }
            })
                as Deadline),
        };
        let Some(deadline) = self.deadline else {
            return expiry;
        };
        Some(Box::pin(async move {
            let time = async {
                tokio::time::sleep_until(deadline).await;
                Denial::new(
                    ReasonCode::UpstreamTimeout,
                    "the service's answer took longer than it may",
                )
            };
            match expiry {
                None => time.await,
                Some(expired) => tokio::select! {
                    denial = expired => denial,
                    denial = time => denial,
                },
            }
        }))
    }

    /// Sets the protocol to which the connection has switched. `None` means that the connection has
    /// not switched.
    pub(crate) fn set_upgrade(&self, protocol: Option<HeaderValue>) {
        *self.permitted.upgrade() = protocol;
    }

    /// Counts the request in the concurrency limit of its upstream until the request ends.
    pub(crate) fn hold_upstream(&mut self, place: Place) {
        self.upstream_place = Some(place);
    }

    /// Counts the request in the tunnel limit of its caller until the tunnel ends.
    pub(crate) fn hold_tunnel(&mut self, place: Place) {
        self.tunnel_place = Some(place);
    }

    /// Stops counting the request as a tunnel. Called if the service has not switched protocols.
    pub(crate) fn release_tunnel(&mut self) {
        self.tunnel_place = None;
    }

    /// Stops counting the request in the concurrency limit of its upstream.
    pub(crate) fn release_upstream(&mut self) {
        self.upstream_place = None;
    }

    /// Returns a future that resolves when the token or API key expires. Returns `None` if the
    /// request has no such credential, or if the credential never expires.
    pub(crate) fn credentials_expiry(&self) -> Option<Deadline> {
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
        tokio::time::sleep(Duration::from_secs(left).min(MAX_SLEEP)).await;
    }
}

/// Runs `work` and returns its output. If the credentials of the request expire first, stops `work`
/// and returns the denial of `expiry`.
pub(crate) async fn unless_expired<T>(
    expiry: Deadline,
    work: impl Future<Output = T>,
) -> Result<T, Denial> {
    tokio::select! {
        biased;
        denial = expiry => Err(denial),
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
