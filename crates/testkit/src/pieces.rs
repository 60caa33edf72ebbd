//! Request bodies that a test sends piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use tokio::sync::mpsc;

/// A channel as a body.
pub(crate) struct Received(pub(crate) mpsc::Receiver<Piece>);

/// A part of a body.
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

/// A body for requests, sent piece by piece.
pub type PieceBody = BoxBody<Bytes, hyper::Error>;

/// A request body and the channel that feeds it.
#[must_use]
pub fn pieces() -> (mpsc::Sender<Result<Frame<Bytes>, hyper::Error>>, PieceBody) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, Received(receiver).boxed())
}
