//! Tests how long an endpoint that fails is ejected.

use std::time::Duration;

use super::*;

fn upstream() -> Upstream {
    let endpoint = |port| Endpoint {
        host: "service".into(),
        port,
    };
    Upstream::new(UpstreamConfig {
        endpoints: vec![endpoint(1), endpoint(2)],
        ..UpstreamConfig::default()
    })
}

/// Returns whether requests go to the endpoint `index` while the other endpoint is available too.
fn is_used(upstream: &Upstream, index: usize) -> bool {
    let none = Tried::default();
    (0..4).any(|_| upstream.pick(Affinity::default(), &none) == Some(index))
}

/// Moves the clock of the first endpoint forward by `time`, without waiting.
fn pass(upstream: &mut Upstream, time: Duration) {
    let state = Arc::get_mut(&mut upstream.states[0]).unwrap();
    state.since = state.since.checked_sub(time).unwrap();
}

/// Records a failure of the first endpoint. Returns the minimum and maximum of the resulting
/// ejection time in milliseconds. The exact time is unknown, because the test itself takes time.
fn pause_of_next_failure(upstream: &Upstream) -> (u64, u64) {
    let state = &upstream.states[0];
    let now = || u64::try_from(state.since.elapsed().as_millis()).unwrap();
    let before = now();
    upstream.record_connect_failure(0);
    let after = now();
    let until = state.ejected_until.load(Ordering::Relaxed);
    (until - after, until - before)
}

#[test]
fn each_failure_doubles_the_pause_up_to_a_minute() {
    let upstream = upstream();
    let expected = [
        500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000,
    ];
    for (number, pause) in expected.into_iter().enumerate() {
        let (least, most) = pause_of_next_failure(&upstream);
        assert!(
            (least..=most).contains(&pause),
            "failure {number}: {least} to {most} ms"
        );
    }
    // After many more failures, the counter of failures must not overflow, and the ejection must
    // not become shorter than the maximum.
    for _ in 0..100 {
        let (least, most) = pause_of_next_failure(&upstream);
        assert!((least..=most).contains(&60_000), "{least} to {most} ms");
    }
}

#[test]
fn an_endpoint_returns_when_its_pause_is_over_and_not_earlier() {
    let mut upstream = upstream();
    for pause in [500, 1000, 2000] {
        upstream.record_connect_failure(0);
        pass(&mut upstream, Duration::from_millis(pause / 2));
        assert!(!is_used(&upstream, 0), "half of {pause} ms");
        pass(&mut upstream, Duration::from_millis(pause / 2 + 1));
        assert!(is_used(&upstream, 0), "{pause} ms");
    }
    assert!(is_used(&upstream, 1));
}

#[test]
fn an_answer_ends_the_pause_and_what_it_had_grown_to() {
    let upstream = upstream();
    for _ in 0..6 {
        upstream.record_connect_failure(0);
    }
    assert!(!is_used(&upstream, 0));
    upstream.record_response(0);
    assert!(is_used(&upstream, 0));
    let (least, most) = pause_of_next_failure(&upstream);
    assert!((least..=most).contains(&500), "{least} to {most} ms");
}

fn is_down(upstream: &Upstream) -> bool {
    upstream.states[0].down_since().is_some()
}

/// The checks may use another path than the requests, or another port of the service.
#[test]
fn passed_health_checks_do_not_hide_that_requests_fail() {
    let upstream = upstream();
    upstream.record_connect_failure(0);
    upstream.set_healthy(0, true);
    assert!(is_down(&upstream));
    upstream.record_response(0);
    assert!(!is_down(&upstream));
    // If checks have failed too, their recovery ends the problem until the next failure.
    upstream.record_connect_failure(0);
    upstream.set_healthy(0, false);
    upstream.set_healthy(0, true);
    assert!(!is_down(&upstream));
    upstream.record_connect_failure(0);
    upstream.set_healthy(0, true);
    assert!(is_down(&upstream));
}

#[test]
fn an_old_failure_does_not_show_that_an_endpoint_is_down() {
    let mut upstream = upstream();
    upstream.record_connect_failure(0);
    pass(&mut upstream, Duration::from_secs(100));
    assert!(is_down(&upstream));
    // A new failure counts from its own time.
    upstream.record_connect_failure(0);
    pass(&mut upstream, Duration::from_secs(100));
    assert!(is_down(&upstream));
    pass(&mut upstream, Duration::from_secs(20));
    assert!(!is_down(&upstream));
    // The result of a health check does not become old.
    upstream.set_healthy(0, false);
    pass(&mut upstream, Duration::from_secs(1000));
    assert!(is_down(&upstream));
}
