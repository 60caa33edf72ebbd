//! Tracks which connections of the public listener are idle, and limits the requests in progress.
//!
//! Any client may connect, and may keep its connection open for later requests. If a new connection
//! needs a slot, an idle connection is evicted. A connection with a request in progress is not
//! evicted. If requests occupied all connections, health checks could not connect. The limit for
//! requests is therefore lower than the limit for connections. Health checks do not count.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use http_body::{Frame, SizeHint};

use crate::connection_slots::ConnectionSlot;
use crate::descriptors::ControlShare;

/// The paths of health checks. The limit does not apply to them.
const HEALTH: [&str; 2] = ["/healthz", "/readyz"];

/// Limits the requests in progress on one listener. Health checks do not count.
#[derive(Debug)]
pub(super) struct RequestLimit {
    free: AtomicUsize,
}

impl RequestLimit {
    /// Creates a limit of `share.let_in` requests. The listener allows more connections than
    /// requests, so a health check can always connect.
    pub(super) const fn of(share: ControlShare) -> Self {
        Self {
            free: AtomicUsize::new(share.let_in),
        }
    }

    fn take(self: &Arc<Self>) -> Option<RequestPermit> {
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                free.checked_sub(1)
            });
        taken.ok().map(|_| RequestPermit(Arc::clone(self)))
    }
}

struct RequestPermit(Arc<RequestLimit>);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// Marks a request as in progress until its response was sent.
struct InProgress {
    slot: Arc<ConnectionSlot>,
    _permit: Option<RequestPermit>,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.slot.rest();
    }
}

/// Adds a layer that protects a connection from eviction while requests are in progress on it.
pub(super) fn track(router: Router, slot: Arc<ConnectionSlot>, limit: Arc<RequestLimit>) -> Router {
    let keep = move |request: Request, next: Next| {
        let (slot, limit) = (Arc::clone(&slot), Arc::clone(&limit));
        async move {
            let permit = match HEALTH.contains(&request.uri().path()) {
                true => None,
                false => match limit.take() {
                    Some(permit) => Some(permit),
                    None => return busy(),
                },
            };
            // If the connection was already evicted, `establish` changes nothing, and `serve`
            // closes the connection.
            let _ = slot.establish();
            let in_progress = InProgress {
                slot,
                _permit: permit,
            };
            let response = next.run(request).await;
            response.map(|body| Body::new(TrackedBody { body, in_progress }))
        }
    };
    router.layer(middleware::from_fn(keep))
}

fn busy() -> Response {
    let fields = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CONNECTION, "close"),
        (RETRY_AFTER, "1"),
    ];
    let text = "too many requests are under way";
    (StatusCode::SERVICE_UNAVAILABLE, fields, text).into_response()
}

/// A response's body. When it is dropped, the request is no longer in progress.
struct TrackedBody {
    body: Body,
    #[expect(dead_code, reason = "held for its drop")]
    in_progress: InProgress,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::connection_slots::{ConnectionSlots, SlotLimits};

    fn get_request(path: &str) -> Request {
        Request::get(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_is_idle_when_its_response_was_taken() {
        let slots = ConnectionSlots::new(SlotLimits {
            total: 1,
            pending: 1,
        });
        let (slot, _) = slots.try_take(None, 1).unwrap();
        let slot = Arc::new(slot);
        let limit = Arc::new(RequestLimit {
            free: AtomicUsize::new(1),
        });
        let router = Router::new()
            .route("/", get(async || "x"))
            .route("/healthz", get(async || "ok"));
        let router = track(router, Arc::clone(&slot), Arc::clone(&limit));
        let router = TowerToHyperService::new(router);
        let response = router.call(get_request("/")).await.unwrap();
        assert!(
            slots.try_take(None, 1).is_none(),
            "its request is under way"
        );
        // One request is in progress, which is the limit. A second request is refused, unless it is
        // a health check.
        let other = router.call(get_request("/")).await.unwrap();
        assert_eq!(other.status(), StatusCode::SERVICE_UNAVAILABLE);
        let health = router.call(get_request("/healthz")).await.unwrap();
        assert_eq!(health.status(), StatusCode::OK);
        drop((response, other, health));
        assert!(slots.try_take(None, 1).is_some());
        assert!(limit.take().is_some());
    }
}
