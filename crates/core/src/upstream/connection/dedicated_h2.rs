//! Connections in h2 that carry one tunnel and nothing else.
//!
//! RFC 8441 allows that a tunnel shares its connection with requests. The gateway nevertheless
//! gives each tunnel its own connection, as in HTTP/1.1. If a tunnel on a shared connection
//! stalled, its unsent bytes would stay in h2's buffers. They would stay there after the end of the
//! tunnel, until the connection is closed.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::read_tap::ReadTap;
use super::resources::HeldResources;
use crate::h2_frames::{ACK, Frame, FrameScanner, SETTING, SETTINGS};

/// Whether a service supports tunnels, according to the first frame that it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announcement {
    /// The service's SETTINGS frame allows extended CONNECT.
    Tunnels,
    /// The service's SETTINGS frame does not allow extended CONNECT.
    NoTunnels,
    /// The first frame is not a SETTINGS frame, although SETTINGS must come first (RFC 9113 section
    /// 3.4). The service does not speak h2, or violates the protocol.
    NotSettings,
}

impl Announcement {
    /// Determines the announcement from the first frame that a service sends.
    fn of(frame: &Frame) -> Self {
        let is_whole = usize::try_from(frame.length).is_ok_and(|length| length % SETTING == 0);
        if frame.kind != SETTINGS || frame.flags & ACK != 0 || frame.stream != 0 || !is_whole {
            return Self::NotSettings;
        }
        match frame.settings.connect_protocol {
            Some(true) => Self::Tunnels,
            Some(false) | None => Self::NoTunnels,
        }
    }
}

/// Wraps a connection. After the first frame is read, sends the service's [`Announcement`] through
/// `tell`. Holds `resources` until the connection is closed.
pub(super) fn announcing<S>(
    connection: S,
    resources: HeldResources,
    tell: oneshot::Sender<Announcement>,
) -> ReadTap<S, impl FnMut(&[u8]) -> io::Result<()> + Send + Unpin + 'static> {
    let mut scanner = FrameScanner::new(0);
    // `None` after the announcement was sent.
    let mut tell = Some(tell);
    ReadTap::new(connection, move |bytes| {
        let _resources = &resources;
        if tell.is_some() {
            scanner.advance(bytes, |frame| {
                if let Some(tell) = tell.take() {
                    let _ = tell.send(Announcement::of(&frame));
                }
            });
        }
        Ok(())
    })
}

/// The executor that hyper uses for one connection. It spawns and owns the connection's tasks.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn all(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, work: F) {
        self.all().spawn(work);
    }
}

/// The tasks of a dedicated connection. Dropping this value aborts them, which closes the
/// connection immediately.
#[derive(Debug)]
pub(in crate::upstream) struct DedicatedTasks(pub(super) Tasks);

impl DedicatedTasks {
    /// Sends the remaining data, for at most `timeout`. Then closes the connection.
    pub(in crate::upstream) fn close_gracefully(self, timeout: Duration) {
        let mut tasks = std::mem::take(&mut *self.0.all());
        tokio::spawn(async move {
            let all = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(timeout, all).await;
        });
    }
}

impl Drop for DedicatedTasks {
    fn drop(&mut self) {
        self.0.all().abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        crate::h2_frames::fixture::frame(kind, flags, stream, payload)
    }

    /// Returns the [`Announcement`] in `bytes`, and how many bytes were read until it was known.
    fn announced(bytes: &[u8]) -> (Option<Announcement>, usize) {
        let mut scanner = FrameScanner::new(0);
        let mut said = None;
        for (index, byte) in bytes.iter().enumerate() {
            scanner.advance(&[*byte], |frame| said = Some(Announcement::of(&frame)));
            if said.is_some() {
                return (said, index + 1);
            }
        }
        (said, bytes.len())
    }

    #[test]
    fn settings_say_whether_extended_connect_is_allowed() {
        let window = [0, 4, 0, 1, 0, 0];
        let allows = [0, 8, 0, 0, 0, 1];
        let forbids = [0, 8, 0, 0, 0, 0];
        for (payload, expected) in [
            (vec![], false),
            (window.to_vec(), false),
            (allows.to_vec(), true),
            ([window, allows].concat(), true),
            ([allows, window].concat(), true),
            (forbids.to_vec(), false),
            // If a setting occurs twice, the last value counts (RFC 9113 section 6.5.3).
            ([allows, forbids].concat(), false),
            // The RFC defines no meaning for the value 2, so it does not allow extended CONNECT.
            (vec![0, 8, 0, 0, 0, 2], false),
        ] {
            let expected = match expected {
                true => Announcement::Tunnels,
                false => Announcement::NoTunnels,
            };
            let bytes = frame(SETTINGS, 0, 0, &payload);
            // The announcement is known only after the last byte of the frame.
            assert_eq!(
                announced(&bytes),
                (Some(expected), bytes.len()),
                "{payload:?}"
            );
        }
    }

    #[test]
    fn anything_else_says_nothing_of_tunnels() {
        for bytes in [
            frame(SETTINGS, ACK, 0, &[]),
            frame(SETTINGS, 0, 0, &[0; 5]),
            frame(SETTINGS, 0, 1, &[]),
            frame(6, 0, 0, &[0; 8]),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        ] {
            assert_eq!(announced(&bytes).0, Some(Announcement::NotSettings));
        }
    }
}
