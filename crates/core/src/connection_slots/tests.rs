//! Tests which connection is evicted for a new connection.

use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;

const SHARE: usize = 8;

fn slots(total: usize) -> Arc<ConnectionSlots> {
    ConnectionSlots::new(SlotLimits {
        total,
        pending: total,
    })
}

fn address(number: u8) -> Option<ShareKey> {
    Some(ShareKey::of_address(IpAddr::from([10, 0, 0, number])))
}

fn take(slots: &Arc<ConnectionSlots>, from: Option<ShareKey>) -> ConnectionSlot {
    slots.try_take(from, SHARE).unwrap().0
}

/// Returns whether the connection of the slot was evicted since the last call of this function. The
/// call consumes the notification.
fn is_evicted(slot: &ConnectionSlot) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(slot.evicted()).poll(&mut context).is_ready()
}

fn established(slots: &Arc<ConnectionSlots>, from: Option<ShareKey>) -> ConnectionSlot {
    let slot = take(slots, from);
    slot.spoke();
    assert!(slot.establish());
    slot
}

#[test]
fn nothing_yields_while_there_is_room() {
    let slots = slots(100);
    let all: Vec<_> = (0..100).map(|_| take(&slots, address(1))).collect();
    assert!(!all.iter().any(is_evicted));
}

#[test]
fn the_oldest_silent_connection_of_the_busiest_address_yields() {
    let slots = slots(100);
    let others: Vec<_> = (2..12)
        .map(|number| take(&slots, address(number)))
        .collect();
    let flood: Vec<_> = (0..90).map(|_| take(&slots, address(1))).collect();
    flood[0].spoke();
    let (newcomer, yielded) = slots.try_take(address(20), SHARE).unwrap();
    assert_eq!(yielded, Some(Yielded::AddressShare));
    // The oldest connection, `flood[0]`, has sent bytes, so `flood[1]` is evicted.
    assert!(!is_evicted(&flood[0]) && is_evicted(&flood[1]) && !is_evicted(&flood[2]));
    // A new connection gets a slot even if its address has the most pending connections.
    let same = take(&slots, address(1));
    assert!(is_evicted(&flood[2]) && !is_evicted(&newcomer) && !is_evicted(&same));
    assert!(!others.iter().any(is_evicted));
    // `flood[1]` was evicted, so it cannot become established.
    assert!(!flood[1].establish());
}

#[test]
fn who_has_said_something_is_not_spared_for_it() {
    let slots = slots(20);
    let speaking: Vec<_> = (0..SHARE).map(|_| take(&slots, address(1))).collect();
    speaking.iter().for_each(ConnectionSlot::spoke);
    let silent: Vec<_> = (2..14)
        .map(|number| take(&slots, address(number)))
        .collect();
    let (_newcomer, yielded) = slots.try_take(address(99), SHARE).unwrap();
    assert_eq!(yielded, Some(Yielded::Full));
    assert!(is_evicted(&speaking[0]) && !silent.iter().any(is_evicted));
}

#[test]
fn among_addresses_with_as_many_as_each_other_silence_yields_first() {
    let slots = slots(3);
    let all: Vec<_> = (1..4).map(|number| take(&slots, address(number))).collect();
    all[0].spoke();
    all[2].spoke();
    let _newcomer = take(&slots, address(99));
    assert!(is_evicted(&all[1]) && !is_evicted(&all[0]) && !is_evicted(&all[2]));
}

#[test]
fn established_connections_do_not_yield() {
    let slots = slots(3);
    let all: Vec<_> = (0..3).map(|_| established(&slots, address(1))).collect();
    assert!(slots.try_take(address(2), SHARE).is_none());
    assert!(!all.iter().any(is_evicted));
    // Established connections that are idle may be evicted.
    all[1].rest();
    all[0].rest();
    let newcomer = take(&slots, address(2));
    assert!(is_evicted(&all[1]) && !is_evicted(&all[0]) && !is_evicted(&all[2]));
    assert!(all[0].establish(), "it has something to do again");
    // Fewer connections are pending than the limit allows. Therefore the idle connection `all[2]`
    // is evicted before the pending connection `newcomer`.
    all[2].rest();
    let _another = take(&slots, address(2));
    assert!(is_evicted(&all[2]) && !is_evicted(&newcomer));
}

#[test]
fn a_bound_on_pending_connections_leaves_room_for_established_ones() {
    let slots = ConnectionSlots::new(SlotLimits {
        total: 10,
        pending: 4,
    });
    let pending: Vec<_> = (0..5).map(|_| take(&slots, None)).collect();
    assert!(is_evicted(&pending[0]) && !is_evicted(&pending[1]));
}

#[test]
fn a_network_of_ipv6_is_one_address() {
    let slots = slots(100);
    let v6 = |number: u128| {
        let bits = (0x2001_0db8 << 96) | number;
        Some(ShareKey::of_address(Ipv6Addr::from_bits(bits).into()))
    };
    let others: Vec<_> = (1..4).map(|number| take(&slots, address(number))).collect();
    let flood: Vec<_> = (0..97).map(|number| take(&slots, v6(number))).collect();
    let more: Vec<_> = (0..50)
        .map(|number| take(&slots, v6(1000 + number)))
        .collect();
    assert!(!others.iter().chain(&more).any(is_evicted));
    assert_eq!(flood.iter().filter(|slot| is_evicted(slot)).count(), 50);
}

#[test]
fn peers_that_are_not_counted_by_address_count_one_each() {
    let slots = slots(20);
    let trusted: Vec<_> = (0..15).map(|_| take(&slots, None)).collect();
    let flood: Vec<_> = (0..5).map(|_| take(&slots, address(1))).collect();
    let _newcomer = take(&slots, None);
    assert!(is_evicted(&flood[0]) && !trusted.iter().any(is_evicted));
}

#[tokio::test]
async fn a_balancer_that_has_not_said_for_whom_it_connects_yields_last() {
    let slots = slots(4);
    let take = || slots.try_take(Origin::Balancer, 1).unwrap().0;
    let all: Vec<_> = (0..4).map(|_| take()).collect();
    let newcomer = slots.take(Origin::Balancer, 1);
    let (newcomer, ()) = tokio::join!(newcomer, async {
        // While the new connection waits, the balancers send one caller's address for `all[0]`, and
        // another caller's address for `all[1]` and `all[2]`.
        tokio::task::yield_now().await;
        all[0].comes_from(address(1));
        all[1].comes_from(address(2));
        all[2].comes_from(address(2));
    });
    let (newcomer, yielded) = newcomer;
    assert_eq!(yielded, Some(Yielded::AddressShare));
    assert!(is_evicted(&all[1]) && !is_evicted(&all[0]));
    assert!(!is_evicted(&all[3]) && !is_evicted(&newcomer));
    drop(all);
    // If no balancer sends a caller's address within `NAMING_TIMEOUT`, the oldest connection is
    // evicted.
    let more: Vec<_> = (0..3).map(|_| take()).collect();
    let (_last, yielded) = slots.take(Origin::Balancer, 1).await;
    assert_eq!(yielded, Some(Yielded::Full));
    assert!(is_evicted(&newcomer) && !more.iter().any(is_evicted));
}

#[test]
fn those_that_do_not_leave_are_waited_for() {
    let slots = slots(MAX_LEAVING + 10);
    let all: Vec<_> = (0..MAX_LEAVING + 10).map(|_| take(&slots, None)).collect();
    let more: Vec<_> = (0..MAX_LEAVING).map(|_| take(&slots, None)).collect();
    assert!(slots.try_take(None, SHARE).is_none());
    drop(all);
    assert!(slots.try_take(None, SHARE).is_some());
    drop(more);
}

#[tokio::test]
async fn slots_are_given_back() {
    let slots = slots(2);
    slots.emptied().await;
    let mut all = vec![established(&slots, None), established(&slots, None)];
    let waiting = slots.take(None, SHARE);
    let ((_slot, yielded), ()) = tokio::join!(waiting, async { drop(all.pop()) });
    assert_eq!(yielded, None);
    let emptied = slots.emptied();
    drop(_slot);
    tokio::join!(emptied, async { drop(all) });
}
