//! Tests of the framing guard's state machine (`framing.rs`).

use proptest::prelude::*;

use super::*;
use crate::reason::ReasonCode;

/// Passes `input` to a [`FramingMachine`] in pieces of `size` bytes. Returns the bytes that the
/// machine accepted, the error, and the number of complete heads.
fn run(input: &[u8], size: usize) -> (Vec<u8>, Option<FramingError>, u64) {
    let mut machine = FramingMachine::new(1024);
    let mut passed = Vec::new();
    for piece in input.chunks(size.max(1)) {
        let step = machine.advance(piece);
        passed.extend(step.released.unwrap_or_default());
        passed.extend_from_slice(&piece[step.pass.clone()]);
        if step.error.is_some() {
            return (passed, step.error, machine.heads());
        }
    }
    (passed, None, machine.heads())
}

const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a?b HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/b HTTP/1.1\r\nHost: A\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: [::1]:80\r\nX:\t a b \r\n\r\n",
];

const BAD: &[(&str, &str)] = &[
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "both",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "more than one",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
        "plain number",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        "plain number",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
        "passes for",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "exactly chunked",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        "control",
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0",
    ),
    ("GET / HTTP/1.1\nHost: a\r\n\r\n", "without CR"),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", "without CR"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "control"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "control"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "folded"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", "token"),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "more than one Host",
    ),
    ("GET / HTTP/1.1\r\n\r\n", "no Host"),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "empty"),
    ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "not a host"),
    (
        "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "different hosts",
    ),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "METHOD SP"),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "METHOD SP"),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "version"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "neither"),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT"),
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "METHOD SP"),
    (
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "empty lines",
    ),
];

const BAD_CHUNKS: &[(&str, &str)] = &[
    ("5\nhello\r\n0\r\n\r\n", "without CR"),
    ("5 \r\nhello\r\n", "hexadecimal"),
    ("5;\r\nhello\r\n", "no name"),
    ("0x5\r\nhello\r\n", "hexadecimal"),
    ("\r\nhello", "hexadecimal"),
    ("ffffffffffffffff\r\n", "hexadecimal"),
    ("5\r\nhelloX\r\n", "too long"),
    ("5\r\nhello\n", "without CR"),
    ("5;a\rb\r\nhello\r\n", "control"),
    ("0\r\nContent-Length: 5\r\n\r\n", "framing"),
    ("0\r\nX y\r\n\r\n", "colon"),
];

#[test]
fn good_requests_pass_unchanged_however_they_are_split() {
    let all: String = GOOD.concat();
    for size in [1, 2, 3, 7, 64, all.len()] {
        let (passed, error, heads) = run(all.as_bytes(), size);
        assert_eq!(error, None, "pieces of {size}");
        assert_eq!(String::from_utf8(passed).unwrap(), all);
        assert_eq!(heads, GOOD.len() as u64);
    }
}

#[test]
fn bad_heads_are_refused_whole() {
    for (request, expected) in BAD {
        for size in [1, 5, request.len()] {
            let input = format!("{}{request}", GOOD[0]);
            let (passed, error, heads) = run(input.as_bytes(), size);
            let error = error.unwrap_or_else(|| panic!("accepted {request:?}"));
            assert!(error.detail.contains(expected), "{request:?}: {error:?}");
            assert_eq!(
                passed,
                GOOD[0].as_bytes(),
                "{request:?} in pieces of {size}"
            );
            assert_eq!(heads, 1);
        }
    }
}

#[test]
fn bad_chunks_are_refused() {
    for (body, expected) in BAD_CHUNKS {
        for size in [1, 4096] {
            let input =
                format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            let (_, error, _) = run(input.as_bytes(), size);
            let error = error.unwrap_or_else(|| panic!("accepted {body:?}"));
            assert!(error.detail.contains(expected), "{body:?}: {error:?}");
        }
    }
}

#[test]
fn large_heads_are_refused_without_waiting_for_their_end() {
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(2000));
    for size in [1, 100, 4096] {
        let (passed, error, _) = run(endless.as_bytes(), size);
        assert_eq!(error.unwrap().reason, ReasonCode::TooLarge);
        assert!(passed.is_empty());
    }
}

proptest! {
    #[test]
    fn splitting_changes_nothing(input in proptest::collection::vec(prop_oneof![
        Just(b"\r\n".to_vec()), Just(b"GET / HTTP/1.1\r\n".to_vec()), Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: 3\r\n".to_vec()), Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"3\r\nabc\r\n".to_vec()), Just(b"0\r\n".to_vec()), Just(b"abc".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ], 0..20).prop_map(|parts| parts.concat()), size in 1_usize..40) {
        let (whole, whole_violation, whole_heads) = run(&input, input.len().max(1));
        let (pieces, pieces_violation, pieces_heads) = run(&input, size);
        prop_assert_eq!(whole_heads, pieces_heads);
        prop_assert_eq!(whole_violation.is_some(), pieces_violation.is_some());
        if whole_violation.is_none() {
            prop_assert_eq!(whole, pieces);
        }
    }
}
