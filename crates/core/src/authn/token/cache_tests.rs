//! Tests which judgements are cached, for how long, and which checks are shared.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;

const NOW: u64 = 1_770_000_000;

fn cache() -> TokenCache {
    TokenCache::new(CacheSettings::default())
}

fn key(token: &str) -> CacheKey {
    CacheKey::new(token, "issuer", 1, &[0; 32], Some(&[1; 32]))
}

fn accepted(hash: &str, expires: u64) -> Judgement {
    Ok(Arc::new(TokenClaims {
        issuer: "issuer".to_owned(),
        subject: None,
        client_id: None,
        scope: None,
        token_id: None,
        hash: hash.to_owned(),
        expires,
        bound: true,
        kept: serde_json::Map::new(),
        text: std::sync::OnceLock::new(),
    }))
}

fn refused(reason: ReasonCode) -> Judgement {
    Err(Denial::new(reason, "because"))
}

async fn put(cache: &TokenCache, key: CacheKey, judgement: Judgement) {
    cache
        .get_or_check(key, None, NOW, async { judgement })
        .await
        .ok();
}

#[tokio::test]
async fn acceptance_ends_with_the_token_or_earlier() {
    let cache = cache();
    put(&cache, key("a"), accepted("a", NOW + 10)).await;
    put(&cache, key("b"), accepted("b", NOW + 1000)).await;
    let known = |token, at| cache.get(&key(token), at).is_some();
    assert!(known("a", NOW + 9) && !known("a", NOW + 10));
    assert!(known("b", NOW + 59) && !known("b", NOW + 60));
    // The clock was set back before the time of the judgement.
    assert!(!known("a", NOW - 1));
    // The token expires now, so the judgement is not cached.
    put(&cache, key("c"), accepted("c", NOW)).await;
    assert!(!known("c", NOW));
    let short = cache.get_or_check(key("d"), Some(3), NOW, async { accepted("d", NOW + 1000) });
    short.await.unwrap();
    assert!(known("d", NOW + 2) && !known("d", NOW + 3));
}

#[tokio::test]
async fn refusals_are_remembered_briefly_and_failures_never() {
    let cache = cache();
    put(&cache, key("a"), refused(ReasonCode::TokenInactive)).await;
    put(&cache, key("b"), refused(ReasonCode::KeysUnavailable)).await;
    assert!(cache.get(&key("a"), NOW + 4).is_some());
    assert!(cache.get(&key("a"), NOW + 5).is_none());
    assert!(cache.get(&key("b"), NOW).is_none());
}

#[test]
fn every_circumstance_is_part_of_the_key() {
    let all = [
        CacheKey::new("a", "b", 1, &[0; 32], None),
        CacheKey::new("x", "b", 1, &[0; 32], None),
        CacheKey::new("a", "x", 1, &[0; 32], None),
        CacheKey::new("a", "b", 2, &[0; 32], None),
        CacheKey::new("a", "b", 1, &[1; 32], None),
        CacheKey::new("a", "b", 1, &[0; 32], Some(&[0; 32])),
        CacheKey::new("a", "b", 1, &[0; 32], Some(&[1; 32])),
        CacheKey::new("ba", "", 1, &[0; 32], None),
        CacheKey::new("", "ba", 1, &[0; 32], None),
    ];
    for (index, one) in all.iter().enumerate() {
        for other in &all[index + 1..] {
            assert!(one != other);
        }
    }
}

#[tokio::test]
async fn a_burst_costs_one_check() {
    let cache = Arc::new(cache());
    let checks = Arc::new(AtomicUsize::new(0));
    for (token, judgement) in [
        ("good", accepted("x", NOW + 100)),
        ("failing", refused(ReasonCode::KeysUnavailable)),
    ] {
        checks.store(0, Ordering::SeqCst);
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (cache, checks, judgement) =
                    (Arc::clone(&cache), Arc::clone(&checks), judgement.clone());
                tokio::spawn(async move {
                    let check = async {
                        checks.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        judgement
                    };
                    cache.get_or_check(key(token), None, NOW, check).await
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), judgement);
        }
        assert_eq!(checks.load(Ordering::SeqCst), 1, "{token}");
        assert!(cache.flights.count() == 0);
    }
    // The requests that waited share the failure. A later request checks again.
    put(&cache, key("failing"), accepted("y", NOW + 100)).await;
    assert!(cache.get(&key("failing"), NOW).is_some_and(|j| j.is_ok()));
}

#[tokio::test]
async fn one_who_goes_away_leaves_the_check_to_the_next() {
    let cache = Arc::new(cache());
    let never = cache.get_or_check(key("a"), None, NOW, std::future::pending());
    assert!(
        tokio::time::timeout(Duration::from_millis(5), never)
            .await
            .is_err()
    );
    assert!(cache.flights.count() == 0);
    let first = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move {
            cache
                .get_or_check(key("a"), None, NOW, std::future::pending())
                .await
        }
    });
    tokio::task::yield_now().await;
    let second = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move {
            cache
                .get_or_check(key("a"), None, NOW, async { accepted("a", NOW + 9) })
                .await
        }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert!(second.await.unwrap().is_ok());
    assert!(cache.flights.count() == 0);
}

#[tokio::test]
async fn purges_reach_what_is_stored_and_what_is_being_checked() {
    let cache = cache();
    put(&cache, key("a"), accepted("a", NOW + 100)).await;
    put(&cache, key("b"), accepted("b", NOW + 100)).await;
    cache.purge_token("a");
    assert!(cache.get(&key("a"), NOW).is_none() && cache.get(&key("b"), NOW).is_some());
    cache.purge();
    assert!(cache.is_empty());
    let check = async {
        cache.purge();
        accepted("c", NOW + 100)
    };
    assert!(cache.get_or_check(key("c"), None, NOW, check).await.is_ok());
    assert!(cache.get(&key("c"), NOW).is_none());
}

#[tokio::test]
async fn memory_is_bounded() {
    let cache = TokenCache::new(CacheSettings {
        bytes: 64 * 1024,
        ..CacheSettings::default()
    });
    for number in 0..2000 {
        put(&cache, key(&number.to_string()), accepted("x", NOW + 100)).await;
    }
    assert!(cache.len() <= 128, "{}", cache.len());
}
