//! `UpstreamBody`: the body of a service's response, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::error::ServiceError;
use super::http2::H2Body;

/// The body of a service's response.
#[derive(Debug)]
pub struct UpstreamBody(Source);

#[derive(Debug)]
enum Source {
    /// A body over HTTP/1.1, or over an HTTP/2 connection that carries a tunnel.
    Hyper(Incoming),
    /// A body over HTTP/2.
    H2(H2Body),
}

impl From<Incoming> for UpstreamBody {
    fn from(body: Incoming) -> Self {
        Self(Source::Hyper(body))
    }
}

impl From<H2Body> for UpstreamBody {
    fn from(body: H2Body) -> Self {
        Self(Source::H2(body))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ServiceError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ServiceError>>> {
        match &mut self.get_mut().0 {
            Source::Hyper(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(ServiceError::Hyper),
            Source::H2(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Hyper(body) => body.is_end_stream(),
            Source::H2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Hyper(body) => body.size_hint(),
            Source::H2(body) => body.size_hint(),
        }
    }
}
