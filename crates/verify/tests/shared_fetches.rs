//! Tests that calls which need keys at the same time share one fetch and its outcome, even if the
//! key server does not respond.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use countersign_verify::{FetchProblem, Verifier, VerifyError};
use tokio::task::JoinSet;

use crate::fetch::{KeyServer, server, token, verify};
use crate::support::{AUDIENCE, ISSUER, SigningKey, TestClock, request};

type Calls = JoinSet<Result<(), VerifyError>>;

/// The number of calls that may wait for another call's fetch.
const MAX_WAITING: usize = 1024;

const BAD_GATEWAY: VerifyError = VerifyError::KeysUnavailable(FetchProblem::Status(502));
const BUSY: VerifyError = VerifyError::KeysUnavailable(FetchProblem::Busy);

/// Waits for an event at most one minute, so that a missing event fails the test.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), event)
        .await
        .expect("the event comes within a minute")
}

/// Makes each request to the server fail with status 502 after 5 seconds of `clock`. This is also
/// the time after which a request to an unresponsive server times out.
fn fail_slowly(server: &KeyServer, clock: &TestClock) {
    let clock = clock.clone();
    server.answer(move |_, _| {
        clock.advance(5);
        StatusCode::BAD_GATEWAY.into_response()
    });
}

/// Starts `count` concurrent verifications of the same token.
fn start(calls: &mut Calls, count: usize, verifier: &Arc<Verifier>, token: &str) {
    for _ in 0..count {
        let (verifier, token) = (Arc::clone(verifier), token.to_owned());
        calls.spawn(async move { verifier.verify_async(&token, &request()).await.map(drop) });
    }
}

/// Starts six concurrent verifications. Each token is signed with a different unpublished key.
/// Returns the result, which must be the same for all six.
async fn six_strangers(verifier: &Arc<Verifier>, clock: &TestClock) -> Result<(), VerifyError> {
    let mut calls = Calls::new();
    for _ in 0..6 {
        let token = token(&SigningKey::ed_dsa(), clock);
        start(&mut calls, 1, verifier, &token);
    }
    let mut results = soon(calls.join_all()).await;
    results.dedup();
    assert_eq!(results.len(), 1, "{results:?}");
    results[0]
}

#[tokio::test]
async fn without_keys_all_calls_share_one_failed_fetch() {
    let (server, clock, key) = server().await;
    fail_slowly(&server, &clock);
    let verifier = Arc::new(server.verifier(&clock));
    assert_eq!(six_strangers(&verifier, &clock).await, Err(BAD_GATEWAY));
    assert_eq!(server.requests(), 1);
    // The minimum interval begins when the fetch ends.
    assert_eq!(six_strangers(&verifier, &clock).await, Err(BAD_GATEWAY));
    assert_eq!(server.requests(), 1);
    clock.advance(1);
    assert_eq!(six_strangers(&verifier, &clock).await, Err(BAD_GATEWAY));
    assert_eq!(server.requests(), 2);
    server.publish(&[&key]);
    clock.advance(1);
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
}

#[tokio::test]
async fn with_keys_calls_for_unknown_keys_share_one_failed_fetch() {
    let (server, clock, key) = server().await;
    server.publish(&[&key]);
    let verifier = Arc::new(server.verifier(&clock));
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    clock.advance(10);
    fail_slowly(&server, &clock);
    let unknown = Err(VerifyError::UnknownKey);
    assert_eq!(six_strangers(&verifier, &clock).await, unknown);
    assert_eq!(server.requests(), 2);
    assert_eq!(six_strangers(&verifier, &clock).await, unknown);
    assert_eq!(server.requests(), 2);
    clock.advance(5);
    assert_eq!(six_strangers(&verifier, &clock).await, unknown);
    assert_eq!(server.requests(), 3);
    // A token with a known key causes no fetch.
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn a_silent_server_costs_all_calls_one_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut sockets = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            sockets.push(socket);
        }
    });
    // This verifier uses the system clock, because the timeout of a fetch is in real time.
    let verifier = Verifier::builder()
        .issuer(ISSUER)
        .audience(AUDIENCE)
        .jwks_url(format!("http://{address}/"))
        .build()
        .unwrap();
    let started = Instant::now();
    assert_eq!(
        six_strangers(&Arc::new(verifier), &TestClock::new()).await,
        Err(VerifyError::KeysUnavailable(FetchProblem::TimedOut))
    );
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(9), "{elapsed:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_limited_number_of_calls_waits() {
    let (server, clock, key) = server().await;
    server.publish(&[&key]);
    server.hold();
    let verifier = Arc::new(server.verifier(&clock));
    let token = token(&key, &clock);
    let mut calls = Calls::new();
    // One call fetches, `MAX_WAITING` calls wait, and the last six calls are refused.
    start(&mut calls, 1 + MAX_WAITING + 6, &verifier, &token);
    for _ in 0..6 {
        let result = soon(calls.join_next()).await.unwrap().unwrap();
        assert_eq!(result, Err(BUSY));
    }
    assert_eq!(soon(verifier.fetch_keys()).await, Err(FetchProblem::Busy));
    // A cancelled call does not keep its permit to wait, and does not cancel the fetch.
    soon(calls.shutdown()).await;
    start(&mut calls, MAX_WAITING, &verifier, &token);
    tokio::task::yield_now().await;
    server.release();
    let results = soon(calls.join_all()).await;
    assert_eq!(results, vec![Ok(()); MAX_WAITING]);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_waiting_call_gets_the_key_that_it_needs() {
    let (server, clock, key) = server().await;
    let new = SigningKey::ed_dsa();
    server.publish(&[&key]);
    let verifier = Arc::new(server.verifier(&clock));
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    clock.advance(10);
    server.publish(&[&key, &new]);
    server.hold();
    let mut calls = Calls::new();
    start(
        &mut calls,
        1,
        &verifier,
        &token(&SigningKey::es256(), &clock),
    );
    soon(server.received(2)).await;
    start(&mut calls, 1, &verifier, &token(&new, &clock));
    // The running fetch does not delay a token with a known key.
    assert_eq!(soon(verify(&verifier, &key, &clock)).await, Ok(()));
    server.release();
    let mut results = soon(calls.join_all()).await;
    results.sort_by_key(Result::is_err);
    assert_eq!(results, [Ok(()), Err(VerifyError::UnknownKey)]);
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn stale_keys_are_used_while_another_call_fetches() {
    let (server, clock, key) = server().await;
    server.publish(&[&key]);
    let verifier = Arc::new(server.verifier(&clock));
    assert_eq!(verify(&verifier, &key, &clock).await, Ok(()));
    clock.advance(300);
    server.hold();
    let mut calls = Calls::new();
    start(&mut calls, 1, &verifier, &token(&key, &clock));
    soon(server.received(2)).await;
    assert_eq!(soon(verify(&verifier, &key, &clock)).await, Ok(()));
    server.release();
    assert_eq!(soon(calls.join_all()).await, [Ok(())]);
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn explicit_fetches_at_the_same_time_are_one() {
    let (server, clock, key) = server().await;
    server.publish(&[&key]);
    let verifier = Arc::new(server.verifier(&clock));
    let fetch_six = || async {
        let mut fetches = JoinSet::new();
        for _ in 0..6 {
            let verifier = Arc::clone(&verifier);
            fetches.spawn(async move { verifier.fetch_keys().await });
        }
        soon(fetches.join_all()).await
    };
    assert_eq!(fetch_six().await, [Ok(()); 6]);
    assert_eq!(server.requests(), 1);
    server.fail();
    assert_eq!(fetch_six().await, [Err(FetchProblem::Status(502)); 6]);
    assert_eq!(server.requests(), 2);
}

#[test]
fn a_fetch_that_ends_with_its_runtime_blocks_no_later_call() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let other = runtime();
    let (server, clock, key) = other.block_on(server());
    server.publish(&[&key]);
    server.hold();
    let verifier = Arc::new(server.verifier(&clock));
    let first = runtime();
    let mut calls = Calls::new();
    first.block_on(async {
        start(&mut calls, 1, &verifier, &token(&key, &clock));
        soon(server.received(1)).await;
    });
    drop(first);
    server.release();
    clock.advance(1);
    other.block_on(async {
        assert_eq!(soon(verify(&verifier, &key, &clock)).await, Ok(()));
    });
    assert_eq!(server.requests(), 2);
}
