//! `Places`: whom a listener of the control plane has room for.
//!
//! Whoever has not proven anything yet is cheap to be: such connections make room for
//! one another, those that have said nothing apart from those that have said something,
//! and never push out one that is let in. The address that holds the most gives way
//! first, with its oldest: a flood from one address leaves room for all others, and for
//! somebody behind the same address who says at once what there is to say.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::descriptors::ControlShare;
use crate::identity::share_key::address_network;

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Places {
    share: ControlShare,
    all: Mutex<All>,
    left: Notify,
}

#[derive(Debug, Default)]
struct All {
    next: u64,
    silent: VecDeque<Guest>,
    speaking: VecDeque<Guest>,
    let_in: BTreeSet<u64>,
}

/// Somebody who is not let in yet.
#[derive(Debug)]
struct Guest {
    id: u64,
    from: Option<IpAddr>,
    leave: Arc<Notify>,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    leave: Arc<Notify>,
    places: Arc<Places>,
}

impl Places {
    /// Places for so many.
    pub(super) fn new(share: ControlShare) -> Self {
        Self {
            share,
            all: Mutex::default(),
            left: Notify::new(),
        }
    }

    /// A place for somebody who has said nothing yet; another one may lose its own by
    /// it. Connections without an address are all of one.
    pub(super) fn take(self: &Arc<Self>, from: Option<IpAddr>) -> Place {
        let leave = Arc::new(Notify::new());
        let mut all = self.all();
        let id = all.next;
        all.next = all.next.wrapping_add(1);
        let guest = Guest {
            id,
            from: from.map(address_network),
            leave: Arc::clone(&leave),
        };
        join(&mut all.silent, guest, self.share.outside);
        drop(all);
        Place {
            id,
            leave,
            places: Arc::clone(self),
        }
    }

    /// Waits until one more may be let in.
    pub(super) async fn room(&self) {
        self.until(|all| all.let_in.len() < self.share.let_in).await;
    }

    /// Waits until nobody is there any more.
    pub(super) async fn emptied(&self) {
        let is_empty =
            |all: &All| all.let_in.is_empty() && all.silent.is_empty() && all.speaking.is_empty();
        self.until(is_empty).await;
    }

    async fn until(&self, holds: impl Fn(&All) -> bool) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if holds(&self.all()) {
                return;
            }
            left.await;
        }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It has said something.
    pub(super) fn spoke(&self) {
        let mut all = self.places.all();
        if let Some(guest) = leave(&mut all.silent, self.id) {
            join(&mut all.speaking, guest, self.places.share.outside);
        }
    }

    /// It is let in: nobody pushes it out any more.
    pub(super) fn let_in(&self) {
        let mut all = self.places.all();
        let All {
            silent, speaking, ..
        } = &mut *all;
        let guest = leave(silent, self.id).or_else(|| leave(speaking, self.id));
        if guest.is_some() {
            all.let_in.insert(self.id);
        }
    }

    /// Waits until it has lost its place to somebody else.
    pub(super) async fn lost(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.all();
        leave(&mut all.silent, self.id);
        leave(&mut all.speaking, self.id);
        all.let_in.remove(&self.id);
        drop(all);
        self.places.left.notify_waiters();
    }
}

/// Takes somebody in, in place of the oldest of the address that holds the most where
/// there is no room.
fn join(guests: &mut VecDeque<Guest>, guest: Guest, room: usize) {
    let held = |from: Option<IpAddr>| guests.iter().filter(|other| other.from == from).count();
    if guests.len() >= room {
        // Of several the first is taken: the oldest.
        let mut most = None;
        for (index, other) in guests.iter().enumerate() {
            let count = held(other.from);
            if most.is_none_or(|(_, so_far)| count > so_far) {
                most = Some((index, count));
            }
        }
        if let Some(gone) = most.and_then(|(index, _)| guests.remove(index)) {
            gone.leave.notify_one();
        }
    }
    guests.push_back(guest);
}

fn leave(guests: &mut VecDeque<Guest>, id: u64) -> Option<Guest> {
    let index = guests.iter().position(|guest| guest.id == id)?;
    guests.remove(index)
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::net::Ipv6Addr;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    const LET_IN: usize = ControlShare::FULL.let_in;
    const OUTSIDE: usize = ControlShare::FULL.outside;

    fn has_lost(place: &Place) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let lost = pin!(place.lost());
        lost.poll(&mut context).is_ready()
    }

    fn address(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    #[test]
    fn silence_pushes_out_silence_alone() {
        let places = Arc::new(Places::new(ControlShare::FULL));
        let operator = places.take(address(1));
        operator.spoke();
        operator.let_in();
        let speaking = places.take(address(1));
        speaking.spoke();
        let silent: Vec<_> = (0..1000).map(|_| places.take(address(1))).collect();
        assert!(!has_lost(&operator) && !has_lost(&speaking));
        let (lost, kept) = silent.split_at(1000 - OUTSIDE);
        assert!(lost.iter().all(has_lost), "the oldest go first");
        assert!(!kept.iter().any(has_lost));
        // One that has lost its place does not come back by saying something late.
        lost[0].spoke();
        lost[0].let_in();
        assert_eq!(places.all().let_in.len(), 1);
        assert_eq!(places.all().speaking.len(), 1);
        // Those who speak make room for one another, never for the silent.
        for place in kept {
            place.spoke();
        }
        assert!(has_lost(&speaking) && !has_lost(&operator));
        assert!(places.all().silent.is_empty());
    }

    #[test]
    fn who_holds_the_most_gives_way() {
        let places = Arc::new(Places::new(ControlShare::FULL));
        let others: Vec<_> = (1..=3).map(|n| places.take(address(n))).collect();
        let v6 = |n: u128| {
            let bits = (0x2001_0db8 << 96) | n;
            Some(IpAddr::from(Ipv6Addr::from_bits(bits)))
        };
        let flood: Vec<_> = (0..500).map(|n| places.take(v6(n))).collect();
        assert!(!others.iter().any(has_lost));
        let newcomer = places.take(address(4));
        assert!(!has_lost(&newcomer) && !others.iter().any(has_lost));
        let kept = flood.iter().filter(|place| !has_lost(place)).count();
        // A notification is taken once: what was counted above is not again.
        assert!(kept <= OUTSIDE, "{kept}");
        assert_eq!(
            address_network("::ffff:10.0.0.1".parse().unwrap()),
            address(1).unwrap()
        );
    }

    #[tokio::test]
    async fn places_are_given_back() {
        let places = Arc::new(Places::new(ControlShare::FULL));
        places.room().await;
        places.emptied().await;
        let mut in_it: Vec<_> = (0..LET_IN).map(|_| places.take(None)).collect();
        // They come one after another.
        for place in &in_it {
            place.let_in();
        }
        let let_in = places.all().let_in.len();
        assert_eq!(let_in, OUTSIDE, "the others had lost theirs meanwhile");
        in_it.extend((0..LET_IN - OUTSIDE).map(|_| {
            let place = places.take(None);
            place.let_in();
            place
        }));
        tokio::join!(places.room(), async {
            assert_eq!(places.all().let_in.len(), LET_IN);
            drop(in_it.pop());
        });
        tokio::join!(places.emptied(), async { drop(in_it) });
    }
}
