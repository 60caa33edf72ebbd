//! Tests of which events the metrics count.

use std::time::Duration;

use super::{AuditCounts, Metrics};
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
    route.allowed(200, Duration::from_micros(700));
    route.allowed(200, Duration::from_secs(100));
    route.refused(ReasonCode::CallerNotAllowed, 403, Duration::from_millis(1));
    route.failed(ReasonCode::UpstreamTimeout, 504, Duration::from_millis(2));
    route.allowed(302, Duration::ZERO);
    // A refusal of a gRPC request.
    route.refused(ReasonCode::CallerNotAllowed, 200, Duration::ZERO);
    route.aborted();
    metrics
        .unrouted()
        .refused(ReasonCode::NoRoute, 404, Duration::ZERO);
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
        "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"\",status_class=\"2xx\"} 2",
        "countersign_requests_total{route=\"orders\",decision=\"refused\",reason=\"caller-not-allowed\",status_class=\"4xx\"} 1",
        "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"upstream-timeout\",status_class=\"5xx\"} 1",
        "countersign_requests_total{route=\"orders\",decision=\"aborted\",reason=\"\",status_class=\"\"} 1",
        "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"\",status_class=\"3xx\"} 1",
        "countersign_requests_total{route=\"orders\",decision=\"refused\",reason=\"caller-not-allowed\",status_class=\"2xx\"} 1",
        "countersign_requests_total{route=\"\",decision=\"refused\",reason=\"no-route\",status_class=\"4xx\"} 1",
        "countersign_upstream_errors_total{upstream=\"orders\",reason=\"upstream-timeout\"} 1",
        "countersign_request_duration_seconds_bucket{le=\"0.0005\",route=\"orders\"} 2",
        "countersign_request_duration_seconds_bucket{le=\"0.001\",route=\"orders\"} 4",
        "countersign_request_duration_seconds_bucket{le=\"60.0\",route=\"orders\"} 5",
        "countersign_request_duration_seconds_bucket{le=\"+Inf\",route=\"orders\"} 6",
        "countersign_request_duration_seconds_count{route=\"orders\"} 6",
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
    metrics.route("a", "u").allowed(204, Duration::ZERO);
    metrics.route("a", "u").allowed(204, Duration::ZERO);
    assert!(
        metrics
            .encode()
            .contains("countersign_requests_total{route=\"a\",decision=\"allowed\",reason=\"\",status_class=\"2xx\"} 2")
    );
}

#[test]
fn the_state_of_the_gateway_is_shown_as_it_was_set_last() {
    let metrics = Metrics::new();
    let state = metrics.state();
    state.problems([("crl-stale", 2), ("endpoint-down", 0)]);
    state.endpoints([("orders", "a:80", true), ("orders", "b:80", false)]);
    state.crl_next_updates([("example.org", "CN=root", 1_800_000_000)]);
    state.deny_list_entries([("deny.json", 3)]);
    state.audit(&AuditCounts {
        sink: "file",
        written: 7,
        lost: 2,
        last_write: 1_700_000_000,
    });
    let text = metrics.encode();
    for line in [
        "countersign_problem{code=\"crl-stale\"} 2",
        "countersign_problem{code=\"endpoint-down\"} 0",
        "countersign_upstream_endpoint_up{upstream=\"orders\",endpoint=\"a:80\"} 1",
        "countersign_upstream_endpoint_up{upstream=\"orders\",endpoint=\"b:80\"} 0",
        "countersign_crl_next_update_timestamp_seconds{trust_domain=\"example.org\",issuer=\"CN=root\"} 1800000000",
        "countersign_deny_list_entries{source=\"deny.json\"} 3",
        "countersign_audit_lines_total{sink=\"file\",result=\"written\"} 7",
        "countersign_audit_lines_total{sink=\"file\",result=\"lost\"} 2",
        "countersign_audit_last_write_timestamp_seconds{sink=\"file\"} 1700000000",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    // What the configuration does not name any more is removed.
    state.endpoints([("orders", "b:80", true)]);
    let text = metrics.encode();
    assert!(
        !text.contains("a:80") && text.contains("endpoint=\"b:80\"} 1"),
        "{text}"
    );
}
