//! Which connections of the public listener are idle, and the places that health checks
//! have of their own.
//!
//! Anybody may connect, and stay for the next request. A connection on which nothing goes
//! on yields to a new one; one whose request is under way does not. So many requests can
//! be under way that health checks would find no place: all others get fewer.

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

/// Paths that are asked for to see whether the gateway lives.
const HEALTH: [&str; 2] = ["/healthz", "/readyz"];

/// How many requests of one listener may be under way, health checks apart.
#[derive(Debug)]
pub(super) struct RequestPlaces {
    free: AtomicUsize,
}

impl RequestPlaces {
    /// As many as there are connections, less those that may be pending: a health check
    /// that connects always finds a slot.
    pub(super) const fn of(share: ControlShare) -> Self {
        Self {
            free: AtomicUsize::new(share.let_in),
        }
    }

    fn take(self: &Arc<Self>) -> Option<RequestPlace> {
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                free.checked_sub(1)
            });
        taken.ok().map(|_| RequestPlace(Arc::clone(self)))
    }
}

struct RequestPlace(Arc<RequestPlaces>);

impl Drop for RequestPlace {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request that is under way until its response has been taken.
struct UnderWay {
    slot: Arc<ConnectionSlot>,
    _place: Option<RequestPlace>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.slot.rest();
    }
}

/// Has the requests of one connection keep its slot while they are under way.
pub(super) fn track(
    router: Router,
    slot: Arc<ConnectionSlot>,
    places: Arc<RequestPlaces>,
) -> Router {
    let keep = move |request: Request, next: Next| {
        let (slot, places) = (Arc::clone(&slot), Arc::clone(&places));
        async move {
            let place = match HEALTH.contains(&request.uri().path()) {
                true => None,
                false => match places.take() {
                    Some(place) => Some(place),
                    None => return busy(),
                },
            };
            // One that has yielded meanwhile is closed all the same.
            let _ = slot.establish();
            let under_way = UnderWay {
                slot,
                _place: place,
            };
            let response = next.run(request).await;
            response.map(|body| Body::new(TrackedBody { body, under_way }))
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

/// A response's body, and what ends with it.
struct TrackedBody {
    body: Body,
    #[expect(dead_code, reason = "held for its drop")]
    under_way: UnderWay,
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
        let places = Arc::new(RequestPlaces {
            free: AtomicUsize::new(1),
        });
        let router = Router::new()
            .route("/", get(async || "x"))
            .route("/healthz", get(async || "ok"));
        let router = track(router, Arc::clone(&slot), Arc::clone(&places));
        let router = TowerToHyperService::new(router);
        let response = router.call(get_request("/")).await.unwrap();
        assert!(
            slots.try_take(None, 1).is_none(),
            "its request is under way"
        );
        // No other request has a place, except a health check.
        let other = router.call(get_request("/")).await.unwrap();
        assert_eq!(other.status(), StatusCode::SERVICE_UNAVAILABLE);
        let health = router.call(get_request("/healthz")).await.unwrap();
        assert_eq!(health.status(), StatusCode::OK);
        drop((response, other, health));
        assert!(slots.try_take(None, 1).is_some());
        assert!(places.take().is_some());
    }
}
