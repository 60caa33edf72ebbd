//! Unit tests of `MalformedResponder`.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use super::*;
use crate::h2_frames::fixture::frame;

const ID: &str = "an-id";

/// A connection that accepts at most `room` more bytes.
#[derive(Default)]
struct Limited {
    taken: Vec<u8>,
    room: usize,
}

impl AsyncWrite for Limited {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(self.room);
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        self.room -= count;
        self.taken.extend(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns a responder that has received the frames `received`, and the counter of the written
/// responses.
fn responder(
    received: &[Vec<u8>],
) -> (
    MalformedResponder<Limited, impl FnMut() -> RefusedRequest + use<>>,
    Arc<AtomicUsize>,
) {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let record = move || {
        let counter = Arc::clone(&counter);
        RefusedRequest {
            request_id: ID.into(),
            when_written: Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }),
        }
    };
    let mut responder = MalformedResponder::new(Limited::default(), 10, record);
    responder.received(&[0; 24]);
    for byte in received.concat() {
        responder.received(&[byte]);
    }
    (responder, written)
}

/// Writes the frames `sent` as h2 does. Whenever the connection accepts no bytes, makes room for
/// `room` more bytes. Returns the bytes that the caller gets, and the number of written responses.
fn write(received: &[Vec<u8>], sent: &[Vec<u8>], room: usize) -> (Vec<u8>, usize) {
    let (mut responder, written) = responder(received);
    let mut context = Context::from_waker(Waker::noop());
    let bytes = sent.concat();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match Pin::new(&mut responder).poll_write(&mut context, rest) {
            Poll::Ready(count) => rest = &rest[count.unwrap()..],
            Poll::Pending => responder.inner.room += room,
        }
    }
    while Pin::new(&mut responder)
        .poll_flush(&mut context)
        .is_pending()
    {
        responder.inner.room += room;
    }
    (responder.inner.taken, written.load(Ordering::Relaxed))
}

fn head(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, b"head")
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn response(stream: u32) -> Vec<u8> {
    head_of(stream, &field_block(None, ID))
}

fn head_of(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

#[test]
fn the_fields_are_literals() {
    let block = field_block(None, ID);
    let expected = b"\x8c\0\x12countersign-reason\x11malformed-request\0\x0cx-request-id\
        \x05an-id\0\x0dcache-control\x08no-store\0\x0econtent-length\x010";
    assert_eq!(
        block.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
    // The examples of RFC 7541 appendix C.1.
    for (value, expected) in [
        (10, &[0b01010][..]),
        (1337, &[0b11111, 0b1001_1010, 0b1010]),
    ] {
        let mut integer = Vec::new();
        push_integer(&mut integer, 0, 5, value);
        assert_eq!(integer, expected);
    }
}

#[tokio::test]
async fn resets_are_replaced_however_little_can_be_written() {
    let received = [
        frame(SETTINGS, 0, 0, &[]),
        head(1, END_STREAM),
        head(3, 0),
        frame(DATA, 0, 3, b"part"),
        head(5, END_STREAM),
        head(7, 0),
        frame(DATA, END_STREAM, 7, b"rest"),
    ];
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 128]);
    // A field block in two frames, and DATA whose content looks like a reset, must pass unchanged.
    let others = [
        frame(HEADERS, 0, 5, b"a head"),
        frame(9, END_HEADERS, 5, b"its rest"),
        frame(DATA, 0, 5, &reset(3, 1)),
    ]
    .concat();
    let trailers = head(5, END_STREAM);
    let sent = [
        settings.clone(),
        reset(1, 1),
        others.clone(),
        reset(3, 1),
        reset(7, 1),
        trailers.clone(),
    ];
    let expected = [
        settings,
        response(1),
        reset(1, 1),
        others,
        response(3),
        response(7),
        reset(7, 1),
        trailers,
    ];
    for room in [1, 2, 5, 9, 13, 14, 50, 1000] {
        let (taken, written) = write(&received, &sent, room);
        assert_eq!(taken, expected.concat(), "{room}");
        assert_eq!(written, 3);
    }
}

/// Polls the responder until the caller has received at least `length` bytes.
async fn until_taken(
    responder: &mut MalformedResponder<Limited, impl FnMut() -> RefusedRequest + Unpin>,
    length: usize,
) {
    poll_fn(|context| {
        let _ = Pin::new(&mut *responder).poll_flush(context);
        match responder.inner.taken.len() < length {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_request_does_not_end_is_reset_later() {
    let (mut responder, _) = responder(&[head(1, 0), head(3, 0), head(5, 0), head(7, 0)]);
    responder.inner.room = 10_000;
    let mut context = Context::from_waker(Waker::noop());
    let block = frame(HEADERS, 0, 9, b"a head");
    for bytes in [reset(1, 1), reset(3, 1), reset(5, 1), block.clone()] {
        let polled = Pin::new(&mut responder).poll_write(&mut context, &bytes);
        assert!(matches!(polled, Poll::Ready(Ok(count)) if count == bytes.len()));
    }
    // The request of stream 3 ends, so its reset is due. The caller resets stream 5, so stream 5
    // needs no reset.
    responder.received(&frame(DATA, END_STREAM, 3, b""));
    responder.received(&reset(5, 8));
    let before = [response(1), response(3), response(5), block].concat();
    // Nothing may be written between the two parts of a field block.
    poll_fn(|context| responder.late.poll_due(context)).await;
    let polled = Pin::new(&mut responder).poll_flush(&mut context);
    assert!(polled.is_ready());
    assert_eq!(responder.inner.taken, before);
    let rest = frame(CONTINUATION, END_HEADERS, 9, b"its rest");
    let polled = Pin::new(&mut responder).poll_write(&mut context, &rest);
    assert!(polled.is_ready());
    let expected = [before, rest, reset(3, 0), reset(1, 0)].concat();
    until_taken(&mut responder, expected.len()).await;
    assert_eq!(responder.inner.taken, expected);
    assert!(responder.late.streams.is_empty());
}

#[test]
fn other_resets_pass_unchanged() {
    let window = |more: u8| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, more]);
    for (received, sent) in [
        // The caller has sent no request on the stream, or the code is not PROTOCOL_ERROR.
        (vec![], vec![reset(1, 1)]),
        (vec![head(1, END_STREAM)], vec![reset(3, 1)]),
        (vec![head(1, END_STREAM)], vec![reset(1, 7)]),
        // The response has already begun.
        (vec![head(1, END_STREAM)], vec![head(1, 0), reset(1, 1)]),
        (vec![head(1, 0)], vec![head(1, END_STREAM), reset(1, 1)]),
        // An earlier reset with another code has ended the stream.
        (vec![head(1, END_STREAM)], vec![reset(1, 7), reset(1, 1)]),
        // The caller has reset the stream.
        (vec![head(1, 0), reset(1, 8)], vec![reset(1, 1)]),
        // A second HEADERS frame or a window increment of 0 is the fault, not the head.
        (vec![head(1, 0), head(1, END_STREAM)], vec![reset(1, 1)]),
        (vec![head(1, 0), window(0)], vec![reset(1, 1)]),
    ] {
        let (taken, written) = write(&received, &sent, 100);
        assert_eq!((taken, written), (sent.concat(), 0), "{received:?}");
    }
    let received = [head(1, END_STREAM), window(1)];
    assert_eq!(write(&received, &[reset(1, 1)], 100).1, 1);
}

#[test]
fn a_stream_gets_one_response() {
    let received = [head(1, END_STREAM)];
    let sent = [reset(1, 1), reset(1, 1)];
    let expected = [response(1), reset(1, 1), reset(1, 1)].concat();
    assert_eq!(write(&received, &sent, 3), (expected, 1));
}

#[test]
fn the_rest_of_a_response_is_written_before_anything_else() {
    let (mut responder, written) = responder(&[head(1, END_STREAM)]);
    let mut context = Context::from_waker(Waker::noop());
    responder.inner.room = 20;
    let bytes = reset(1, 1);
    let polled = Pin::new(&mut responder).poll_write(&mut context, &bytes);
    assert!(matches!(polled, Poll::Ready(Ok(13))));
    let ping = frame(6, 0, 0, &[0; 8]);
    let slices = [IoSlice::new(&ping), IoSlice::new(b"")];
    let polled = Pin::new(&mut responder).poll_write_vectored(&mut context, &slices);
    assert!(polled.is_pending());
    for polled in [
        Pin::new(&mut responder).poll_flush(&mut context),
        Pin::new(&mut responder).poll_shutdown(&mut context),
    ] {
        assert!(polled.is_pending());
    }
    assert_eq!(written.load(Ordering::Relaxed), 0);
    responder.inner.room = 1000;
    let polled = Pin::new(&mut responder).poll_write_vectored(&mut context, &slices);
    assert!(matches!(polled, Poll::Ready(Ok(17))));
    assert_eq!(written.load(Ordering::Relaxed), 1);
    let expected = [response(1), reset(1, 1), ping].concat();
    assert_eq!(responder.inner.taken, expected);
}

#[test]
fn a_smaller_table_of_the_callers_decoder_is_confirmed() {
    let size = |size: u8| frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, size]);
    let ack = frame(SETTINGS, ACK, 0, &[]);
    let confirmed = head_of(1, &field_block(Some(40), ID));
    assert_eq!(confirmed[9..12], [0x3f, 9, 0x8c]);
    let received = [size(40), head(1, END_STREAM)];
    let with_ack = [ack.clone(), reset(1, 1)];
    let expected = [ack.clone(), confirmed, reset(1, 1)].concat();
    assert_eq!(write(&received, &with_ack, 100).0, expected);
    // The new size is not acknowledged yet, or h2 has already sent a field block with this size.
    for before in [vec![], [ack.clone(), head(3, 0)].concat()] {
        let sent = [before.clone(), reset(1, 1)];
        let expected = [before, response(1), reset(1, 1)].concat();
        assert_eq!(write(&received, &sent, 100).0, expected);
    }
}

#[test]
fn the_number_of_remembered_streams_is_limited() {
    let heads: Vec<_> = (0..500).map(|number| head(2 * number + 1, 0)).collect();
    let (responder, _) = responder(&heads);
    assert_eq!(responder.open.streams.len(), 74);
    let last = responder.open.streams.back().unwrap();
    assert_eq!(last.id, 999);
}
