//! Tests with callers that take as many places as they can get, and callers that come later.

use super::*;
use crate::identity::CallerName;

fn caller(name: &str) -> ShareKey {
    ShareKey::of_caller(&CallerName::Dns(name.into()))
}

fn limits(max: usize) -> PlaceLimits {
    PlaceLimits {
        max,
        shared: max,
        share: Share::QUARTER,
    }
}

/// Takes as many places for the caller `name` as this caller can get.
fn take_all(places: &Arc<Places>, name: &str, limits: PlaceLimits) -> Vec<Place> {
    std::iter::from_fn(|| places.enter(caller(name), limits).ok()).collect()
}

#[test]
fn shares_are_percentages_or_numbers() {
    assert_eq!(Share::parse_percent("25%"), Some(Share::QUARTER));
    for bad in ["", "%", "0%", "101%", "025%", "2.5%", "-1%", "+1%", "25"] {
        assert_eq!(Share::parse_percent(bad), None, "{bad}");
    }
    assert_eq!(Share::QUARTER.of(1024), 256);
    assert_eq!(Share::QUARTER.of(1), 1);
    assert_eq!(Share::Number(10).of(1024), 10);
    assert_eq!(Share::Percent(100).of(u64::MAX), u64::MAX);
}

#[test]
fn a_caller_that_is_alone_leaves_an_eighth() {
    let places = Arc::default();
    let mallory = take_all(&places, "mallory", limits(1024));
    assert_eq!(mallory.len(), 896);
    assert_eq!(
        places.enter(caller("mallory"), limits(1024)).unwrap_err(),
        NoPlace::Caller
    );
    // Bob gets places from the part that stays free for further callers. After mallory has freed
    // her places, bob gets more places.
    let bob = take_all(&places, "bob", limits(1024));
    assert_eq!(bob.len(), 42);
    drop(mallory);
    assert!(take_all(&places, "bob", limits(1024)).len() > 400);
}

#[test]
fn few_places_are_all_for_a_caller_that_is_alone() {
    let places = Arc::default();
    let all = take_all(&places, "alice", limits(2));
    assert_eq!(all.len(), 2);
    for name in ["alice", "bob"] {
        let refused = places.enter(caller(name), limits(2)).unwrap_err();
        assert_eq!(refused, NoPlace::Full, "{name}");
    }
}

#[test]
fn however_many_callers_take_all_they_can_get_some_is_left() {
    let places = Arc::default();
    let attackers: Vec<_> = (0..8)
        .map(|n| take_all(&places, &format!("mallory{n}"), limits(1024)))
        .collect();
    assert!(attackers.iter().all(|held| !held.is_empty()));
    assert!(!take_all(&places, "bob", limits(1024)).is_empty());
}

#[test]
fn no_more_than_all_places_are_taken() {
    let places: Arc<Places> = Arc::default();
    let all: Vec<_> = (0..1000)
        .filter_map(|n| places.enter(caller(&n.to_string()), limits(100)).ok())
        .collect();
    assert_eq!(all.len(), 100);
    drop(all);
    assert_eq!(places.taken(), 0);
    assert!(
        places
            .shards
            .iter()
            .all(|shard| shard.lock().unwrap().is_empty())
    );
}

#[test]
fn a_caller_has_no_more_than_its_number() {
    let places: Arc<Places> = Arc::default();
    let _two = [(); 2].map(|()| places.enter_below(caller("a"), 2).unwrap());
    assert!(places.enter_below(caller("a"), 2).is_err());
    assert!(places.enter_below(caller("b"), 2).is_ok());
}

#[tokio::test]
async fn a_caller_waits_for_one_of_its_own_places() {
    let places: Arc<Places> = Arc::default();
    let mut mallory = take_all(&places, "mallory", limits(16));
    let wait = |max| {
        let places = Arc::clone(&places);
        async move {
            let timeout = Duration::from_millis(if max == 1 { 100 } else { 10_000 });
            let waited = places.enter_within(caller("mallory"), limits(16), timeout, max);
            waited.await
        }
    };
    assert_eq!(wait(0).await.unwrap_err(), NoPlace::Caller);
    assert_eq!(wait(1).await.unwrap_err(), NoPlace::Caller);
    let waiting = tokio::spawn(wait(2));
    tokio::task::yield_now().await;
    mallory.pop();
    let place = waiting.await.unwrap().unwrap();
    assert_eq!(places.taken(), mallory.len() + 1);
    // A request that was aborted while it waited gets no place.
    let gone = tokio::spawn(wait(2));
    tokio::task::yield_now().await;
    gone.abort();
    assert!(gone.await.is_err());
    drop(place);
    assert_eq!(places.taken(), mallory.len());
}
