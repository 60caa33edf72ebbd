//! `H2Body`: the body of a response over HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

use super::state::OpenStream;
use super::upload::Upload;
use crate::upstream::connection::error::ServiceError;

/// Pieces of content with fewer bytes than this are combined with following content that has
/// already arrived.
const SMALL: usize = 1024;
/// Maximum size in bytes of combined content.
const TOGETHER: usize = 16 * 1024;

/// The body of a response in HTTP/2. If the body is dropped before its end, the stream is reset.
pub(in crate::upstream) struct H2Body {
    /// The stream of the response. `None` after it has ended or failed.
    stream: Option<RecvStream>,
    /// The upload of the request's body, which may still be in progress.
    upload: Upload,
    /// Counts the stream as open. `None` if `stream` is `None`.
    open: Option<OpenStream>,
    /// Number of content bytes that have not arrived yet, according to the length that the response
    /// has announced. `None` if no length was announced.
    left: Option<u64>,
    /// Whether all content has been read. Trailers may still follow.
    is_read: bool,
    /// A piece or an error that was read while small pieces were combined, but could not be
    /// combined with them. It is returned next.
    next: Option<Result<Bytes, h2::Error>>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, ServiceError>>>;

impl H2Body {
    pub(super) fn new(
        response: RecvStream,
        upload: Upload,
        open: OpenStream,
        left: Option<u64>,
    ) -> Self {
        let left = left.or_else(|| response.is_end_stream().then_some(0));
        Self {
            stream: Some(response),
            upload,
            open: Some(open),
            left,
            is_read: false,
            next: None,
        }
    }

    /// Returns the next piece of content, and enlarges the flow-control windows by the length of
    /// this piece.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let polled = stream.poll_data(context);
        if let Poll::Ready(Some(Ok(data))) = &polled {
            // If the stream has ended, `release_capacity` fails. The error is ignored, because such
            // a stream has no window.
            let _ = stream.flow_control().release_capacity(data.len());
        }
        polled
    }

    /// If `first` is small, combines it with following content that has already arrived.
    fn together(&mut self, first: Bytes, context: &mut Context<'_>) -> Bytes {
        if first.len() >= SMALL {
            return first;
        }
        let mut whole = BytesMut::new();
        while let Poll::Ready(Some(next)) = self.poll_data(context) {
            match next {
                Ok(data) if whole.len() + first.len() + data.len() <= TOGETHER => {
                    if whole.is_empty() {
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&data);
                    if data.len() >= SMALL {
                        break;
                    }
                }
                other => {
                    self.next = Some(other);
                    break;
                }
            }
        }
        match whole.is_empty() {
            true => first,
            false => whole.freeze(),
        }
    }

    fn fail(&mut self, error: h2::Error) -> Polled {
        // The stream has already ended with this error, so no reset is needed.
        self.stream = None;
        let is_silent = |open: &OpenStream| open.state().is_silent();
        Poll::Ready(Some(Err(match self.open.as_ref().is_some_and(is_silent) {
            true => ServiceError::Silent,
            false => error.into(),
        })))
    }
}

impl Body for H2Body {
    type Data = Bytes;
    type Error = ServiceError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        if this.stream.is_none() {
            return Poll::Ready(None);
        }
        if this.upload.poll_failed(context) {
            return Poll::Ready(Some(Err(ServiceError::Upload)));
        }
        if !this.is_read {
            match std::task::ready!(this.poll_data(context)) {
                Some(Ok(data)) => {
                    let data = this.together(data, context);
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    this.left = this.left.map(|left| left.saturating_sub(length));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return this.fail(error),
                None => this.is_read = true,
            }
        }
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        match std::task::ready!(stream.poll_trailers(context)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => this.fail(error),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl Drop for H2Body {
    fn drop(&mut self) {
        let (Some(stream), Some(open)) = (self.stream.take(), self.open.take()) else {
            return;
        };
        if !self.upload.has_ended() {
            open.state().note_unfinished_upload();
        } else if stream.is_end_stream() {
            return;
        } else if self.left == Some(0) && self.next.is_none() {
            // All content has arrived, and only the frame that ends the stream is missing. The
            // reader of the body knew the length of the content, so it did not wait for that frame.
            open.let_end(stream);
            return;
        }
        open.abandon(Box::new(stream));
    }
}

impl std::fmt::Debug for H2Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("H2Body").finish_non_exhaustive()
    }
}
