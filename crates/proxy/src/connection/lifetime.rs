//! `Lifetime`: when a connection must end. It ends when the gateway stops, when the
//! caller's limit is needed for a newer connection of the same caller, or when the
//! certificate path expires. It also ends when, after a change of trust or configuration,
//! the certificate is no longer accepted or a request in progress is no longer permitted.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Sleep;

use super::Connection;
use crate::clock;
use crate::policy::Denial;
use crate::task::poll_on_wake::PollOnWake;

/// Longest single sleep until an expiry. It is limited because the wall clock may be
/// changed during the sleep.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// Why a connection should end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The gateway stops, or this idle connection is closed because its caller opens
    /// another one. Requests in progress may finish.
    Drain,
    /// The identity is no longer valid. Requests in progress are cut off.
    Cut(Denial),
}

enum Event {
    Changed,
    Stopping,
    Timer,
}

/// Determines when one connection must end.
pub(crate) struct Lifetime {
    stopping: watch::Receiver<bool>,
    draining: bool,
    changes: watch::Receiver<()>,
    /// When the identity must be verified again, in seconds since the Unix epoch. A CRL
    /// may become stale before the path expires.
    holds_until: Option<i64>,
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Lifetime {
    /// `changes` must be subscribed to before the chain is verified. Otherwise a change
    /// between verification and subscription would be missed.
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

    /// Resolves when the connection should end. Call it again after [`Ending::Drain`],
    /// because the identity may become invalid while the connection drains.
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

    /// Resolves when the identity is no longer valid. Ignores that the gateway stops.
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
            // The sender is gone, so that no more changes can come.
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

    /// Returns the denial if the path has expired, else starts the timer.
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

    /// Verifies the identity under the newest snapshot, and decides about every request in
    /// progress by its routes.
    fn recheck(&mut self, connection: &Connection) -> Result<(), Denial> {
        let snapshot = connection.snapshot();
        if let Some(until) = connection.reverify(&snapshot)? {
            self.holds_until = Some(until);
            // The new expiry may be earlier, so that the timer must be set again.
            self.expiry = None;
        }
        connection.recheck_requests(&snapshot)
    }
}
