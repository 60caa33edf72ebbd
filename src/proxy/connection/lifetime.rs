//! How long a connection may live: until it is told to stop, its certificate
//! path expires, or a new configuration no longer accepts its certificate or
//! permits what it is doing.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Sleep;

use super::Connection;
use crate::clock;
use crate::policy::Denial;
use crate::proxy::task::poll_on_wake::PollOnWake;

/// Longest single sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Why a connection should end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The gateway stops; requests may finish.
    Drain,
    /// The identity no longer holds; requests are cut off.
    Cut(Denial),
}

enum Event {
    Changed,
    Stopping,
    Timer,
}

/// Watches over one connection.
pub(crate) struct Lifetime {
    stopping: watch::Receiver<bool>,
    draining: bool,
    changes: watch::Receiver<()>,
    /// When the identity has to be looked at again, in seconds since the Unix epoch.
    holds_until: Option<i64>,
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Lifetime {
    /// `changes` was subscribed to before the chain was verified, so that no
    /// change in between is missed.
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

    /// Resolves when the connection should end. May be called again after
    /// [`Ending::Drain`].
    pub(crate) async fn ending(&mut self, connection: &Connection) -> Ending {
        loop {
            if let Some(denial) = self.expired(connection) {
                return Ending::Cut(denial);
            }
            match self.event().await {
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
                    // A revocation list may have ended before the path does.
                    if let Err(denial) = self.recheck(connection) {
                        return Ending::Cut(denial);
                    }
                }
            }
        }
    }

    /// Resolves when the identity no longer holds, whether the gateway stops or not.
    pub(crate) async fn cut(&mut self, connection: &Connection) -> Denial {
        loop {
            if let Ending::Cut(denial) = self.ending(connection).await {
                return denial;
            }
        }
    }

    async fn event(&mut self) -> Event {
        let timer = async {
            match &mut self.expiry {
                Some(sleep) => sleep.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            // Without a sender nothing can change any more.
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let stopping = async {
            match self.draining {
                false => self.stopping.wait_for(|stopping| *stopping).await.is_ok(),
                true => std::future::pending().await,
            }
        };
        let event = async {
            tokio::select! {
                biased;
                () = changed => Event::Changed,
                _ = stopping => Event::Stopping,
                () = timer => Event::Timer,
            }
        };
        PollOnWake::new(pin!(event)).await
    }

    /// Whether the path has expired; arms the timer where it has not.
    fn expired(&mut self, connection: &Connection) -> Option<Denial> {
        let proof = connection.proof()?;
        let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        if let Some(denial) = proof.is_over_at(now) {
            return Some(denial);
        }
        if self.expiry.is_none() {
            let end = proof.identity.path_not_after();
            let end = end.min(self.holds_until.unwrap_or(end));
            let sleep = clock::certificate_time_left(end, now).min(LONGEST_SLEEP);
            self.expiry = Some(Box::pin(tokio::time::sleep(sleep)));
        }
        None
    }

    /// Holds the connection's identity against the newest snapshot, and every
    /// request in progress against its routes.
    fn recheck(&mut self, connection: &Connection) -> Result<(), Denial> {
        let snapshot = connection.snapshot();
        if let Some(until) = connection.reverify(&snapshot)? {
            self.holds_until = Some(until);
            // It may be earlier than before: arm the timer anew.
            self.expiry = None;
        }
        connection.recheck_requests(&snapshot)
    }
}
