//! `Lifetime`: decides when a connection must end. A connection ends in these cases:
//!
//! - The gateway stops.
//! - The caller opens a new connection and has reached its connection limit.
//! - The certificate path expires.
//! - After a change of trust or configuration, the certificate is not accepted any more, or a
//!   request in progress is not permitted any more.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Sleep;

use super::Connection;
use crate::clock;
use crate::policy::Denial;
use crate::task::poll_on_wake::PollOnWake;

/// Maximum length of one sleep until an expiry. A longer wait consists of several sleeps. The wall
/// clock is read after each sleep, because it may have been changed.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// The way in which a connection should end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The gateway stops, or this idle connection must close so that its caller can open a new one.
    /// Requests in progress may finish.
    Drain,
    /// The identity is no longer valid, or a request in progress is not permitted any more. The
    /// gateway ends all requests in progress immediately.
    Cut(Denial),
}

enum Event {
    Changed,
    Stopping,
    Timer,
}

/// Decides when one connection must end.
pub(crate) struct Lifetime {
    stopping: watch::Receiver<bool>,
    draining: bool,
    changes: watch::Receiver<()>,
    /// The time at which the identity must be verified again, in seconds since the Unix epoch. It
    /// may be earlier than the expiry of the path, because a CRL may become stale.
    holds_until: Option<i64>,
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Lifetime {
    /// Creates the lifetime of a connection. The caller of this function must subscribe to
    /// `changes` before it verifies the chain. Otherwise a change between verification and
    /// subscription would be missed.
    pub(crate) fn new(
        stopping: watch::Receiver<bool>,
        changes: watch::Receiver<()>,
        holds_until: Option<i64>,
    ) -> Self {
        Self {
            stopping,
            draining: false,
            changes,
            holds_until,
            expiry: None,
        }
    }

    /// Resolves when the connection should end. Call this again after [`Ending::Drain`], because
    /// the identity may become invalid while the connection drains.
    pub(crate) async fn ending(&mut self, connection: &Connection) -> Ending {
        loop {
            if let Some(denial) = self.expired(connection) {
                return Ending::Cut(denial);
            }
            match self.event(connection).await {
                Event::Changed => {
                    if let Err(denial) = self.recheck(connection) {
                        return Ending::Cut(denial);
                    }
                }
                Event::Stopping => {
                    self.draining = true;
                    return Ending::Drain;
                }
                Event::Timer => {
                    self.expiry = None;
                    if let Err(denial) = self.recheck(connection) {
                        return Ending::Cut(denial);
                    }
                }
            }
        }
    }

    /// Resolves when the connection must be cut ([`Ending::Cut`]). Does not resolve when the
    /// gateway stops.
    pub(crate) async fn cut(&mut self, connection: &Connection) -> Denial {
        loop {
            if let Ending::Cut(denial) = self.ending(connection).await {
                return denial;
            }
        }
    }

    async fn event(&mut self, connection: &Connection) -> Event {
        let timer = async {
            match &mut self.expiry {
                Some(sleep) => sleep.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            // If the sender of `changes` was dropped, there are no further changes.
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let stopping = async {
            match self.draining {
                false => tokio::select! {
                    _ = self.stopping.wait_for(|stopping| *stopping) => {}
                    () = connection.asked_to_yield() => {}
                },
                true => std::future::pending().await,
            }
        };
        let event = async {
            tokio::select! {
                biased;
                () = changed => Event::Changed,
                () = stopping => Event::Stopping,
                () = timer => Event::Timer,
            }
        };
        PollOnWake::new(pin!(event)).await
    }

    /// Returns a denial if the certificate path has expired. Otherwise starts the timer for the
    /// next verification, if this timer does not run yet.
    fn expired(&mut self, connection: &Connection) -> Option<Denial> {
        let proof = connection.proof()?;
        let now = clock::certificate_now();
        if let Some(denial) = proof.is_over_at(now) {
            return Some(denial);
        }
        if self.expiry.is_none() {
            let end = proof.identity.path_not_after();
            let end = end.min(self.holds_until.unwrap_or(end));
            let sleep = clock::certificate_time_left(end, now).min(MAX_SLEEP);
            self.expiry = Some(Box::pin(tokio::time::sleep(sleep)));
        }
        None
    }

    /// Verifies the identity under the newest snapshot, and authorizes every request in progress by
    /// the snapshot's routes.
    fn recheck(&mut self, connection: &Connection) -> Result<(), Denial> {
        let snapshot = connection.snapshot();
        if let Some(until) = connection.reverify(&snapshot)? {
            self.holds_until = Some(until);
            // The new expiry may be earlier, so the timer must be started again.
            self.expiry = None;
        }
        connection.recheck_requests(&snapshot)
    }
}
