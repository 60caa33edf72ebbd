//! Request bodies that a test sends in pieces.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use tokio::sync::mpsc;

/// A body whose pieces come from a channel.
pub(crate) struct Received(pub(crate) mpsc::Receiver<Piece>);

/// One piece of a body: data or trailers.
pub(crate) type Piece = Result<Frame<Bytes>, hyper::Error>;

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.poll_recv(context)
    }
}

/// A request body that a test sends in pieces.
pub type PieceBody = BoxBody<Bytes, hyper::Error>;

/// Creates a request body, and the channel into which a test sends the pieces of the body. The
/// body ends when the test drops the channel's sender.
#[must_use]
pub fn pieces() -> (mpsc::Sender<Result<Frame<Bytes>, hyper::Error>>, PieceBody) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, Received(receiver).boxed())
}
