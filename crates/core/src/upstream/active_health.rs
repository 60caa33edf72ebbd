//! Active health checks: the gateway asks each endpoint at intervals whether it is healthy, even if
//! no requests come.
//!
//! The checks run on the control plane's runtime, not on the workers. Each check opens a new
//! connection with the upstream's TLS settings and protocol.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderValue, Request, StatusCode, Uri, Version};
use http_body_util::Empty;

use super::balance::Upstream;
use super::config::HealthCheck;
use super::config::target::HttpProtocol;
use super::connection::connect::{Opened, connect};
use super::connection::error::{ConnectError, ServiceError};
use crate::telemetry::metrics::Metrics;

/// The reason why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("no answer: {0}")]
    NoAnswer(#[from] ServiceError),
    #[error("the check cannot be sent: {0}")]
    Request(#[from] http::Error),
    #[error("status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// Checks one endpoint of an upstream at intervals, until the future is dropped.
pub async fn check(upstream: Arc<Upstream>, index: usize, metrics: Arc<Metrics>) {
    let Some(check) = upstream.config().health_check.clone() else {
        return;
    };
    let Some(endpoint) = upstream.config().endpoints.get(index).cloned() else {
        return;
    };
    let gauge = metrics.endpoint(upstream.name(), &endpoint.to_string());
    let mut streak = Streak::default();
    let mut ticks = tokio::time::interval(check.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = tokio::time::timeout(check.timeout, ask(&upstream, index, &check)).await;
        let outcome = asked.unwrap_or(Err(CheckError::Late(check.timeout)));
        // If the gateway has no free file descriptor, a check fails without a fault of the
        // endpoint. Such a failure therefore does not count.
        if matches!(
            &outcome,
            Err(CheckError::Connect(ConnectError::NoDescriptor))
        ) {
            continue;
        }
        if let Some(well) = streak.count(outcome.is_ok(), &check) {
            let was_well = upstream.is_healthy(index);
            upstream.set_healthy(index, well);
            if was_well != well {
                let name = upstream.name();
                match &outcome {
                    Ok(()) => tracing::info!(upstream = name, %endpoint, "the endpoint is well"),
                    Err(failure) => {
                        tracing::warn!(upstream = name, %endpoint, %failure, "the endpoint is not well");
                    }
                }
            }
        }
        gauge.set(upstream.is_healthy(index));
    }
}

/// Counts consecutive outcomes of the checks of one endpoint.
#[derive(Debug, Default)]
struct Streak {
    good: u32,
    bad: u32,
    /// Whether the endpoint was checked before. The outcome of the first check alone decides the
    /// health. Later the health changes only after several equal outcomes in a row.
    decided: bool,
}

impl Streak {
    /// Counts the outcome of one check. `well` is true if the check succeeded. Returns whether the
    /// endpoint is healthy, if this is the first check or if enough outcomes in a row were equal.
    /// Otherwise returns `None`, and the health does not change.
    fn count(&mut self, well: bool, check: &HealthCheck) -> Option<bool> {
        let (same, other, enough) = if well {
            (&mut self.good, &mut self.bad, check.healthy)
        } else {
            (&mut self.bad, &mut self.good, check.unhealthy)
        };
        *same = same.saturating_add(1);
        *other = 0;
        let decides = *same >= enough || !self.decided;
        self.decided = true;
        decides.then_some(well)
    }
}

async fn ask(upstream: &Upstream, index: usize, check: &HealthCheck) -> Result<(), CheckError> {
    let config = upstream.config();
    let (addresses, endpoint) = upstream.location(index).ok_or(ConnectError::NoEndpoint)?;
    let connected = connect::<Empty<Bytes>>(addresses, config, None).await?;
    let authority = match &config.host {
        Some(host) => host.clone(),
        None => endpoint.to_string(),
    };
    let mut request = Request::new(Empty::new());
    request
        .headers_mut()
        .insert(USER_AGENT, HeaderValue::from_static("countersign"));
    let status = match connected.opened {
        Opened::Http1(mut sender, mut driver) => {
            driver.detach();
            let host = HeaderValue::from_str(&authority).map_err(http::Error::from)?;
            request.headers_mut().insert(HOST, host);
            *request.uri_mut() = Uri::from(check.path.clone());
            let response = sender.send_request(request).await;
            driver.close();
            response.map_err(ServiceError::from)?.status()
        }
        Opened::Http2(mut client) => {
            let scheme = match config.protocol {
                HttpProtocol::Http2 if config.tls.is_some() => Scheme::HTTPS,
                _ => Scheme::HTTP,
            };
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = Uri::builder()
                .scheme(scheme)
                .authority(authority)
                .path_and_query(check.path.clone())
                .build()?;
            let response = client.send(request, |_| {}).await;
            response.map_err(|failed| failed.error)?.status()
        }
    };
    if check.statuses.contains(&status) {
        Ok(())
    } else {
        Err(CheckError::Status(status))
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    #[test]
    fn the_first_outcome_decides_and_then_only_streaks_do() {
        let check = HealthCheck {
            path: PathAndQuery::from_static("/"),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            statuses: vec![StatusCode::OK],
            healthy: 2,
            unhealthy: 3,
        };
        let mut streak = Streak::default();
        let outcomes = [
            (false, Some(false)),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
        ];
        for (number, (outcome, decision)) in outcomes.into_iter().enumerate() {
            assert_eq!(streak.count(outcome, &check), decision, "{number}");
        }
    }
}
