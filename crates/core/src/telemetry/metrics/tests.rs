//! Tests of which events the metrics count.

use std::time::Duration;

use super::Metrics;
use crate::reason::ReasonCode;

#[test]
fn codes_are_numbered_as_they_are_listed() {
    for (index, code) in ReasonCode::ALL.iter().enumerate() {
        assert_eq!(*code as usize, index);
    }
}

#[test]
fn counts_appear_under_their_labels() {
    let metrics = Metrics::new();
    metrics.connection_opened();
    metrics.connection_opened();
    metrics.connection_closed();
    metrics.panicked();
    metrics.limit_reached("limits.connections");
    metrics.handshake_succeeded();
    metrics.handshake_refused(ReasonCode::CertificateRevoked);
    metrics.assertion_signed();
    let route = metrics.route("orders", "u");
    route.allowed(Duration::from_micros(700));
    route.allowed(Duration::from_secs(100));
    route.refused(ReasonCode::CallerNotAllowed, Duration::from_millis(1));
    route.failed(ReasonCode::UpstreamTimeout, Duration::from_millis(2));
    route.aborted();
    metrics
        .unrouted()
        .refused(ReasonCode::NoRoute, Duration::ZERO);
    metrics
        .upstream("orders")
        .failed(ReasonCode::UpstreamTimeout);
    let text = metrics.encode();
    for line in [
        "countersign_connections_open 1",
        "countersign_connections_total 2",
        "countersign_panics_total 1",
        "countersign_limit_reached_total{limit=\"limits.connections\"} 1",
        "countersign_handshakes_total{result=\"ok\",reason=\"\"} 1",
        "countersign_handshakes_total{result=\"refused\",reason=\"certificate-revoked\"} 1",
        "countersign_assertions_signed_total 1",
        "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"\"} 2",
        "countersign_requests_total{route=\"orders\",decision=\"refused\",reason=\"caller-not-allowed\"} 1",
        "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"upstream-timeout\"} 1",
        "countersign_requests_total{route=\"orders\",decision=\"aborted\",reason=\"\"} 1",
        "countersign_requests_total{route=\"\",decision=\"refused\",reason=\"no-route\"} 1",
        "countersign_upstream_errors_total{upstream=\"orders\",reason=\"upstream-timeout\"} 1",
        "countersign_request_duration_seconds_bucket{le=\"0.0005\",route=\"orders\"} 0",
        "countersign_request_duration_seconds_bucket{le=\"0.001\",route=\"orders\"} 2",
        "countersign_request_duration_seconds_bucket{le=\"60.0\",route=\"orders\"} 3",
        "countersign_request_duration_seconds_bucket{le=\"+Inf\",route=\"orders\"} 4",
        "countersign_request_duration_seconds_count{route=\"orders\"} 4",
        "# EOF",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert!(text.contains("countersign_build_info{version="));
    assert!(!text.contains("token-expired"));
}

#[test]
fn a_route_resolved_twice_counts_in_one_place() {
    let metrics = Metrics::new();
    metrics.route("a", "u").allowed(Duration::ZERO);
    metrics.route("a", "u").allowed(Duration::ZERO);
    assert!(
        metrics
            .encode()
            .contains("countersign_requests_total{route=\"a\",decision=\"allowed\",reason=\"\"} 2")
    );
}
