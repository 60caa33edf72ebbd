//! `HandshakeSources`: detects whether most handshakes come from one address. This happens behind a
//! load balancer that does not forward its clients' addresses.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::identity::ShareKey;
use crate::identity::share_key::address_network;

/// The length of a counting period. Results are computed from the current and the previous period.
const WINDOW: Duration = Duration::from_secs(30);
/// Number of addresses that are counted. An address with more than half of the handshakes is always
/// among them (Misra and Gries 1982).
const MAX_COUNTED: usize = 16;
/// If there were fewer handshakes than this in the last minute, [`HandshakeSources::busiest`]
/// returns no address.
const MIN_HANDSHAKES: u64 = 30;

/// Counts the handshakes of the last minute by address.
#[derive(Debug, Default)]
pub struct HandshakeSources(Mutex<Windows>);

#[derive(Debug, Default)]
struct Windows {
    began: Option<Instant>,
    current: Window,
    previous: Window,
}

#[derive(Debug, Default)]
struct Window {
    total: u64,
    counted: Vec<Counted>,
}

#[derive(Debug)]
struct Counted {
    address: IpAddr,
    /// A lower bound for the number of handshakes from this address. Handshakes from other
    /// addresses can reduce the count (Misra and Gries 1982).
    count: u64,
    callers: Callers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callers {
    None,
    One(ShareKey),
    Several,
}

impl Callers {
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (one, Self::None) => one,
            (Self::None, other) => other,
            (one, other) if one == other => one,
            _ => Self::Several,
        }
    }
}

/// The address from which most handshakes of the last minute came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusiestAddress {
    /// The IPv4 address, or the IPv6 network with a prefix of 64 bits.
    pub address: IpAddr,
    /// A lower bound for the number of handshakes from this address in the last minute.
    pub handshakes: u64,
    /// Number of handshakes from all addresses in the last minute.
    pub of: u64,
}

impl HandshakeSources {
    /// Counts a handshake from `address`. `caller` is the caller whose identity the handshake has
    /// proven, or `None` if the handshake has proven no identity.
    pub fn note(&self, address: IpAddr, caller: Option<ShareKey>) {
        self.note_at(Instant::now(), address, caller);
    }

    /// Returns the address from which more than half of the handshakes come. Returns `None` if
    /// there is no such address, if its handshakes prove only one caller, or if there are fewer
    /// handshakes than `MIN_HANDSHAKES`.
    #[must_use]
    pub fn busiest(&self) -> Option<BusiestAddress> {
        self.busiest_at(Instant::now())
    }

    fn note_at(&self, now: Instant, address: IpAddr, caller: Option<ShareKey>) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        let callers = caller.map_or(Callers::None, Callers::One);
        windows.current.note(address_network(address), callers);
    }

    fn busiest_at(&self, now: Instant) -> Option<BusiestAddress> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        let (current, previous) = (&windows.current, &windows.previous);
        let of = current.total + previous.total;
        let found = current.counted.iter().chain(&previous.counted);
        found.clone().find_map(|one| {
            let own = found.clone().filter(|other| other.address == one.address);
            let (count, callers) = own.fold((0, Callers::None), |(count, callers), one| {
                (count + one.count, callers.with(one.callers))
            });
            let is_busiest = of >= MIN_HANDSHAKES && count * 2 > of && callers == Callers::Several;
            is_busiest.then_some(BusiestAddress {
                address: one.address,
                handshakes: count,
                of,
            })
        })
    }
}

impl Windows {
    fn turn(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age >= WINDOW {
            self.previous = std::mem::take(&mut self.current);
            self.began = Some(now);
        }
        if age >= 2 * WINDOW {
            self.previous = Window::default();
        }
    }
}

impl Window {
    fn note(&mut self, address: IpAddr, callers: Callers) {
        self.total += 1;
        let mut counted = self.counted.iter_mut();
        if let Some(own) = counted.find(|one| one.address == address) {
            own.count += 1;
            own.callers = own.callers.with(callers);
        } else if self.counted.len() < MAX_COUNTED {
            self.counted.push(Counted {
                address,
                count: 1,
                callers,
            });
        } else {
            self.counted.retain_mut(|one| {
                one.count -= 1;
                one.count > 0
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CallerName;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn caller(name: &str) -> Option<ShareKey> {
        Some(ShareKey::of_caller(&CallerName::Dns(name.into())))
    }

    #[test]
    fn several_callers_of_one_address_are_found() {
        let sources = HandshakeSources::default();
        let begin = Instant::now();
        for number in 0..200 {
            // One third of the handshakes comes from many different addresses.
            sources.note_at(begin, address(number), caller("other"));
            sources.note_at(begin, address(250), caller("one"));
            sources.note_at(begin, address(250), caller("two"));
        }
        let found = sources.busiest_at(begin + WINDOW).unwrap();
        assert_eq!((found.address, found.of), (address(250), 600));
        assert!((301..=400).contains(&found.handshakes), "{found:?}");
        assert_eq!(sources.busiest_at(begin + 3 * WINDOW), None);
    }

    #[test]
    fn one_busy_caller_is_no_balancer() {
        let sources = HandshakeSources::default();
        let begin = Instant::now();
        for _ in 0..200 {
            sources.note_at(begin, address(1), caller("one"));
            // Handshakes that prove no identity must not count as further callers.
            sources.note_at(begin, address(1), None);
        }
        assert_eq!(sources.busiest_at(begin), None);
        sources.note_at(begin, address(1), caller("two"));
        assert!(sources.busiest_at(begin).is_some());
    }

    #[test]
    fn a_few_handshakes_mean_nothing() {
        let sources = HandshakeSources::default();
        let begin = Instant::now();
        for name in ["one", "two"] {
            sources.note_at(begin, address(1), caller(name));
        }
        assert_eq!(sources.busiest_at(begin), None);
    }
}
