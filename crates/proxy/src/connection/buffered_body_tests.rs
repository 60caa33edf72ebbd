//! Tests of buffered bodies: frames of several sizes, memory limits, and a body that arrives too
//! slowly.

use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::*;
use crate::identity::CallerName;
use crate::policy::Denial;
use crate::policy::share::Share;

/// A body that receives its frames from a channel.
struct Sent(mpsc::UnboundedReceiver<Bytes>);

impl Body for Sent {
    type Data = Bytes;
    type Error = Denial;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Denial>>> {
        let received = self.0.poll_recv(context);
        received.map(|data| Some(Ok(Frame::data(data?))))
    }
}

fn limits(declared_length: Option<u64>, max_total: u64) -> BufferLimits {
    BufferLimits {
        declared_length,
        max_bytes: 1 << 20,
        budget: BudgetLimits {
            max_total,
            share: Share::QUARTER,
        },
        rate_period: RATE_PERIOD,
    }
}

/// Reads a body in a new task. The returned sender provides the frames.
fn reading(
    limits: BufferLimits,
) -> (
    mpsc::UnboundedSender<Bytes>,
    tokio::task::JoinHandle<Result<BufferedBody, Refusal>>,
) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let caller = ShareKey::of_caller(&CallerName::Dns("a.example.org".into()));
    let budget = Arc::default();
    let read =
        tokio::spawn(
            async move { BufferedBody::read(Sent(receiver), limits, &budget, caller).await },
        );
    (sender, read)
}

#[tokio::test]
async fn content_is_the_same_in_whatever_frames_it_comes() {
    let content: Vec<u8> = (0..200_000_u32).map(|n| n.to_be_bytes()[3]).collect();
    for size in [1, 3000, 70_000, 200_000] {
        for declared in [None, Some(200_000)] {
            let (sender, read) = reading(limits(declared, 1 << 20));
            for frame in content.chunks(size) {
                sender.send(Bytes::copy_from_slice(frame)).unwrap();
            }
            drop(sender);
            let body = read.await.unwrap().unwrap();
            assert_eq!(body.hash(), crypto::sha256(&content), "{size}");
            assert_eq!(body.length(), 200_000);
            assert!(body.pieces.iter().all(|piece| !piece.is_empty()));
        }
    }
}

#[tokio::test]
async fn no_more_memory_is_taken_than_is_declared() {
    // The declared length equals the budget. The body needs exactly the memory that it declares.
    let (sender, read) = reading(limits(Some(100_000), 100_000));
    sender.send(vec![b'x'; 99_999].into()).unwrap();
    sender.send(vec![b'x'; 1].into()).unwrap();
    drop(sender);
    assert!(read.await.unwrap().is_ok());
    let (sender, read) = reading(limits(None, 100_000));
    sender.send(vec![b'x'; 100_001].into()).unwrap();
    let refusal = read.await.unwrap().unwrap_err();
    assert_eq!(refusal.denial.reason, ReasonCode::Overloaded);
    drop(sender);
}

#[tokio::test]
async fn a_body_that_trickles_is_ended() {
    let rate_period = Duration::from_millis(200);
    let (sender, read) = reading(BufferLimits {
        rate_period,
        ..limits(None, 1 << 20)
    });
    let begun = Instant::now();
    // 10,240 bytes satisfy the first period. 10,239 bytes are one byte too few for the second.
    sender.send(vec![b'x'; 10_240].into()).unwrap();
    tokio::time::sleep(rate_period * 3 / 2).await;
    sender.send(vec![b'x'; 10_239].into()).unwrap();
    let refusal = read.await.unwrap().unwrap_err();
    assert_eq!(refusal.denial.reason, ReasonCode::BodyTooSlow);
    assert!(begun.elapsed() >= rate_period * 2);
    assert!(sender.is_closed());
}
