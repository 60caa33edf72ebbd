//! Connections in h2 that carry one tunnel and nothing else.
//!
//! A tunnel could share its connection with requests (RFC 8441 wants that to be
//! possible). It gets one of its own nevertheless, as in HTTP/1.1: what a stalled
//! tunnel has not got rid of stays with h2 for as long as the connection lasts, and
//! one that is cut off must leave nothing behind.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::connect::Kept;
use super::overheard::Overheard;

/// A frame's header (RFC 9113 section 4.1), and one setting (section 6.5.1).
const HEADER: usize = 9;
const SETTING: usize = 6;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
/// Of a stream's identifier; to be ignored.
const RESERVED: u32 = 1 << 31;
/// RFC 8441 section 3.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// What a service says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announcement {
    /// Settings that allow extended CONNECT.
    Tunnels,
    /// Settings that do not.
    NoTunnels,
    /// No settings, which come before everything else (RFC 9113 section 3.4): it does
    /// not speak h2, or is out of order, and says nothing of tunnels.
    NotSettings,
}

/// Reads the frame that a service says first: its settings.
#[derive(Debug)]
struct Scan {
    header: [u8; HEADER],
    setting: [u8; SETTING],
    /// Octets of the header, and of the present setting, that have passed.
    have: usize,
    /// Octets of the frame that have not.
    left: u32,
    allowed: bool,
}

impl Scan {
    const fn new() -> Self {
        Self {
            header: [0; HEADER],
            setting: [0; SETTING],
            have: 0,
            left: u32::MAX,
            allowed: false,
        }
    }

    /// Takes the octets that come next. Says what is announced as soon as that is
    /// known.
    fn pass(&mut self, octets: &[u8]) -> Option<Announcement> {
        octets.iter().find_map(|octet| self.step(*octet))
    }

    fn step(&mut self, octet: u8) -> Option<Announcement> {
        if self.left == u32::MAX {
            *self.header.get_mut(self.have)? = octet;
            self.have += 1;
            if self.have < HEADER {
                return None;
            }
            self.have = 0;
            let [a, b, c, kind, flags, stream @ ..] = self.header;
            self.left = u32::from_be_bytes([0, a, b, c]);
            let of_connection = u32::from_be_bytes(stream) & !RESERVED == 0;
            let whole = usize::try_from(self.left).is_ok_and(|left| left % SETTING == 0);
            if kind != SETTINGS || flags & ACK != 0 || !of_connection || !whole {
                return Some(Announcement::NotSettings);
            }
            return (self.left == 0).then_some(Announcement::NoTunnels);
        }
        *self.setting.get_mut(self.have)? = octet;
        self.have += 1;
        self.left = self.left.saturating_sub(1);
        if self.have == SETTING {
            self.have = 0;
            let [high, low, a, b, c, d] = self.setting;
            if u16::from_be_bytes([high, low]) == ENABLE_CONNECT_PROTOCOL {
                self.allowed = u32::from_be_bytes([a, b, c, d]) == 1;
            }
        }
        (self.left == 0).then_some(match self.allowed {
            true => Announcement::Tunnels,
            false => Announcement::NoTunnels,
        })
    }
}

/// A connection that tells what its service announces, and keeps its slot for as
/// long as it lasts.
pub(super) fn announcing<S>(
    connection: S,
    kept: Kept,
    tell: oneshot::Sender<Announcement>,
) -> Overheard<S, impl FnMut(&[u8]) -> io::Result<()> + Send + Unpin + 'static> {
    let mut scan = Scan::new();
    // Gone once it was told.
    let mut tell = Some(tell);
    Overheard::new(connection, move |octets| {
        let _kept = &kept;
        if tell.is_some()
            && let Some(announcement) = scan.pass(octets)
            && let Some(tell) = tell.take()
        {
            let _ = tell.send(announcement);
        }
        Ok(())
    })
}

/// Runs what moves one connection.
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

/// A connection of its own: it ends at once when this is dropped.
#[derive(Debug)]
pub(super) struct Own(pub(super) Tasks);

impl Own {
    /// Lets what is still to be sent be sent, for a while.
    pub(super) fn settle(self, longest: Duration) {
        let mut tasks = std::mem::take(&mut *self.0.all());
        tokio::spawn(async move {
            let all = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(longest, all).await;
        });
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.all().abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
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
            // The last one counts (RFC 9113 section 6.5.3).
            ([allows, forbids].concat(), false),
            // Not a value that means anything.
            (vec![0, 8, 0, 0, 0, 2], false),
        ] {
            let expected = match expected {
                true => Announcement::Tunnels,
                false => Announcement::NoTunnels,
            };
            let octets = frame(SETTINGS, 0, &payload);
            assert_eq!(Scan::new().pass(&octets), Some(expected), "{payload:?}");
            // However it is cut, and not before it is complete.
            let mut scan = Scan::new();
            let (last, others) = octets.split_last().unwrap();
            for octet in others {
                assert_eq!(scan.pass(&[*octet]), None);
            }
            assert_eq!(scan.pass(&[*last]), Some(expected));
        }
    }

    #[test]
    fn anything_else_says_nothing_of_tunnels() {
        let mut of_a_stream = frame(SETTINGS, 0, &[]);
        of_a_stream[8] = 1;
        for octets in [
            frame(SETTINGS, ACK, &[]),
            frame(SETTINGS, 0, &[0; 5]),
            of_a_stream,
            frame(6, 0, &[0; 8]),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        ] {
            assert_eq!(Scan::new().pass(&octets), Some(Announcement::NotSettings));
        }
    }
}
