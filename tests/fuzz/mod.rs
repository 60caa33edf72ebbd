//! Runs the fuzz targets (`fuzz/`) with inputs from proptest. This is a small part of fuzzing that
//! runs with every test, on stable Rust.

#[allow(unreachable_pub, reason = "it is a library of its own in fuzz/")]
#[path = "../../fuzz/src/lib.rs"]
mod bodies;
mod seeds;

use proptest::collection::vec;
use proptest::prelude::*;

/// Makes inputs from `words`, with some random bytes between them.
fn made_of(words: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let word = proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec());
    let piece = prop_oneof![12 => word, 1 => vec(any::<u8>(), 1..4)];
    vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

/// One item of an input: its kind and its content (`fuzz/src/input.rs`).
type Item = (u8, &'static [u8]);

/// Makes inputs from items. Some items are joined, and some are random.
fn items_of(words: &'static [Item], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let word = proptest::sample::select(words).prop_map(|(kind, word)| (kind, word.to_vec()));
    let item = prop_oneof![
        12 => word.clone(),
        2 => (word.clone(), word).prop_map(|((kind, one), (_, other))| (kind, [one, other].concat())),
        1 => (any::<u8>(), vec(any::<u8>(), 0..24)),
    ];
    vec(item, 0..most).prop_map(|items| {
        let item = |(kind, content): &(u8, Vec<u8>)| {
            let length = u8::try_from(content.len()).unwrap();
            [&[*kind, length], &content[..]].concat()
        };
        items.iter().flat_map(item).collect()
    })
}

/// Makes several HTTP messages that are nearly valid.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let fields = made_of(
        &[
            "Host: a\r\n",
            "host: a\r\n",
            "Content-Length: 5\r\n",
            "Content-Length: 0\r\n",
            "Content-Length: 5 \r\n",
            "Content-Length: 05\r\n",
            "content_length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: \tchunked \r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Connection: close\r\n",
            "Connection: keep-alive, Upgrade\r\n",
            "Upgrade: websocket\r\n",
            "Expect: 100-continue\r\n",
            "TE: trailers\r\n",
            "X: \"\r\n",
            "X:\r\n y\r\n",
            "X: \u{e9}\r\n",
            "X-Empty:\r\n",
        ],
        5,
    );
    let bodies = made_of(
        &[
            "hello",
            "5\r\nhello\r\n",
            "5;a=b\r\nhello\r\n",
            "5;a=\"\r\nhello\r\n",
            "05\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5\r\nhello\n",
            "5\nhello\r\n",
            "0\r\n",
            "0\r\n\r\n",
            "X-Trailer: a\r\n",
            "Content-Length: 1\r\n",
            "\r\n",
        ],
        4,
    );
    let lines = proptest::sample::select(
        &[
            "GET /a HTTP/1.1\r\n",
            "POST /b?c HTTP/1.1\r\n",
            "GET /a HTTP/1.0\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "GET http://a/b HTTP/1.1\r\n",
            "\r\nGET /a HTTP/1.1\r\n",
            "GET  /a HTTP/1.1\r\n",
            "GET /a\tHTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "HEAD /a HTTP/1.1\r\nHost: a\r\n",
            "POST /d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n",
            "POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        ][..],
    );
    let message = (lines, fields, any::<bool>(), bodies).prop_map(|(line, fields, end, body)| {
        let end: &[u8] = if end { b"\r\n" } else { b"" };
        [line.as_bytes(), &fields, end, &body].concat()
    });
    (any::<u8>(), vec(message, 0..4))
        .prop_map(|(piece, messages)| [vec![piece], messages.concat()].concat())
}

fn lines_of(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    vec(made_of(words, 6), 3).prop_map(|lines| lines.join(&b'\n'))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn framing(data in messages()) {
        bodies::framing(&data);
    }

    #[test]
    fn paths(data in made_of(&[
        "/", ".", "..", "%2e", "%2F", "%5c", "\\", "%25", "2f", "%00", ";", ";a=b", "a", "~",
        "%C3%A9", "%c3", "A", ":", "80", "[::1]", "%", "é", "*",
    ], 10)) {
        bodies::paths(&data);
    }

    #[test]
    fn headers(data in vec(made_of(&[
        "Countersign-Assertion", "countersign_", "x-forwarded-for", "X.Forwarded~For", "client-cert",
        "x-who", "x_who", "forwarded", "connection", "te", "upgrade", "h2c", "http2-settings",
        "authorization", "cookie", "host", "content-length", "content_length", "keep-alive", "y-a",
        "Y-B", ":", ": ", ", ", "close", "a", "1", "trailers", "transfer-encoding", "chunked",
        "transfer_encoding", "expect", "proxy_authorization", "content.type", "Set_Cookie", "x_api.key",
        "grpc-status",
    ], 6), 0..8).prop_map(|lines| lines.join(&b'\n'))) {
        bodies::headers(&data);
    }

    #[test]
    fn patterns(data in lines_of(&[
        "/", "*", "**", "/**", "/*", "a", "b", ".", "..", "spiffe://", "a.b", "dns:", "mailto:", "@",
        "ip:", "10.0.0.0/8", "::1", "uri:", "https://", "*.", "api-key:", "client:", "%", "é", "A",
    ])) {
        bodies::patterns(&data);
    }

    #[test]
    fn jose(data in made_of(&[
        "{", "}", "\"alg\":\"ES256\"", "\"alg\":\"EdDSA\"", "\"kid\":\"a\"", "\"crit\":[\"b64\"]",
        "\"typ\":\"countersign+jwt\"", ",", "\"alg\"", ":", "[", "]", "1", "1e400", "\\u0061", ".",
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ", "e30", "AAAA", "AAA", "AAB", "=", "-_", " ",
        "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"",
        "{\"keys\":[", "\"d\":\"AA\"",
    ], 10)) {
        bodies::jose(&data);
    }

    #[test]
    fn proxy_header(
        command in proptest::sample::select(&[0x20_u8, 0x21, 0x22, 0x11][..]),
        family in proptest::sample::select(&[0_u8, 0x11, 0x21, 0x31][..]),
        length in prop_oneof![Just(12_u16), Just(36), Just(43), 0..60_u16],
        octets in vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..64),
    ) {
        let [high, low] = length.to_be_bytes();
        bodies::proxy_header(&[&[command, family, high, low][..], &octets].concat());
    }

    #[test]
    fn leaf(changes in vec(any::<u8>(), 0..12)) {
        bodies::leaf(&[vec![1], changes].concat());
    }
}

/// The items of a CRL: entries (0) and extensions (1).
const LIST_ITEMS: [Item; 12] = [
    (0, b"\x02\x02\x77\x01\x17\x0d260101000000Z"),
    (0, b"\x02\x01\x05\x17\x0d260101000000Z"),
    (0, b"\x02\x03\x00\x77\x01\x17\x0d260101000000Z"),
    (0, b"\x02\x02\x77\x01\x18\x0f20260101000000Z"),
    (0, b"\x02\x02\x77\x01\x17\x0d260101000000Z\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01\x08"),
    (1, b"\x06\x03\x55\x1d\x14\x04\x03\x02\x01\x03"),
    (1, b"\x06\x03\x55\x1d\x14\x01\x01\xff\x04\x03\x02\x01\x03"),
    (1, b"\x06\x03\x55\x1d\x1c\x01\x01\xff\x04\x12\x30\x10\xa0\x0e\xa0\x0c\x86\x0ahttp://a/b"),
    (1, b"\x06\x03\x55\x1d\x1c\x01\x01\xff\x04\x05\x30\x03\x82\x01\xff"),
    (1, b"\x06\x03\x55\x1d\x1c\x01\x01\xff\x04\x05\x30\x03\x84\x01\xff"),
    (1, b"\x06\x03\x55\x1d\x1b\x01\x01\xff\x04\x03\x02\x01\x01"),
    (1, b"\x06\x03\x55\x1d\x7f\x04\x02\x05\x00"),
];

/// Extensions of a certificate request. The kind 1 begins a new attribute.
const REQUEST_ITEMS: [Item; 12] = [
    (
        1,
        b"\x06\x03\x55\x1d\x11\x04\x11\x30\x0f\x82\x0da.example.org",
    ),
    (
        0,
        b"\x06\x03\x55\x1d\x11\x04\x11\x30\x0f\x82\x0da.example.org",
    ),
    (
        0,
        b"\x06\x03\x55\x1d\x11\x04\x11\x30\x0f\x82\x0dA.Example.ORG",
    ),
    (
        0,
        b"\x06\x03\x55\x1d\x11\x04\x11\x30\x0f\x81\x0da@example.org",
    ),
    (
        0,
        b"\x06\x03\x55\x1d\x11\x04\x1a\x30\x18\x86\x16spiffe://example.org/a",
    ),
    (
        0,
        b"\x06\x03\x55\x1d\x11\x04\x0e\x30\x0c\x87\x04\x0a\x00\x00\x01\x87\x04\x0a\x00\x00\x02",
    ),
    (
        0,
        b"\x06\x03\x55\x1d\x11\x01\x01\xff\x04\x0a\x30\x08\x82\x06*.a.bc",
    ),
    (
        0,
        b"\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff",
    ),
    (0, b"\x06\x03\x55\x1d\x13\x04\x02\x30\x00"),
    (0, b"\x06\x03\x55\x1d\x0f\x04\x04\x03\x02\x02\x04"),
    (0, b"\x06\x03\x55\x1d\x0f\x04\x04\x03\x02\x07\x80"),
    (
        0,
        b"\x06\x03\x55\x1d\x25\x04\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01",
    ),
];

/// Complete frames, and the beginnings of frames.
const FRAMES: [&[u8]; 14] = [
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\xff\xff",
    b"\x00\x00\x0c\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x01\x00\x03\x00\x00\x00\x64",
    b"\x00\x00\x0e\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x01\x00\x04\x00\x00\x00\x02\x00\x04",
    b"\x00\x00\x05\x00\x01\x00\x00\x00\x01hello",
    b"\x00\x00\x03\x01\x04\x00\x00\x00\x01\x82\x86\x84",
    b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08",
    b"\x00\x00\x03\x03\x00\x00\x00\x00\x01\x00\x00\x08",
    b"\x00\x00\x04\x08\x00\x80\x00\x00\x01\xff\xff\xff\xff",
    b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02",
    b"\x00\x00\x06\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\x00\x00\x09\x09\x04\x00\x00\x00\x03",
    b"\x00\x00",
    b"\xff\xff\xff\xfa\xff\xff\xff\xff\xff",
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn csr(items in items_of(&REQUEST_ITEMS, 5)) {
        bodies::csr(&[vec![2], items].concat());
    }

    #[test]
    fn http2(piece: u8, frames in vec(proptest::sample::select(&FRAMES[..]), 0..8)) {
        bodies::http2(&[vec![piece], frames.concat()].concat());
    }

    #[test]
    fn configuration(data in made_of(&[
        "[listener]\n", "address = \"127.0.0.1:0\"\n", "certificate = \"gateway.pem\"\n",
        "private_key = \"gateway.key\"\n", "[assertion]\n", "issuer = \"https://a\"\n",
        "keys = \"signing\"\n", "[[trust_domain]]\n", "name = \"example.org\"\n",
        "roots = [\"trust.pem\"]\n", "revocation = \"off\"\n", "crls = [\"*.crl\"]\n",
        "[[upstream]]\n", "endpoints = [\"http://127.0.0.1:1\"]\n", "[[route]]\n",
        "paths = [\"/**\"]\n", "callers = [\"*\"]\n", "upstream = \"orders\"\n",
        "audience = \"orders\"\n", "[limits]\n", "header_timeout = \"30s\"\n", "[[profile]]\n",
        "usages = [\"client\"]\n", "lifetime = \"8h\"\n", "name = \"orders\"\n", "[", "]", "{ ", " }",
        "= ", "\"", "\"\"\"", "\\u001b", "\t", "\r\n", "# é", "1", "true", ".", "surprise",
    ], 24)) {
        bodies::configuration(&data);
    }
}

proptest! {
    // 300 cases, because each case verifies about twenty signatures.
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn crl(items in items_of(&LIST_ITEMS, 4)) {
        // The input includes a CRL number, because a CRL without a number is not accepted.
        let number = b"\x01\x0a\x06\x03\x55\x1d\x14\x04\x03\x02\x01\x03";
        bodies::crl(&[&[2], &number[..], &items].concat());
    }

    #[test]
    fn changes_of_what_is_signed(kind in 0..2_u8, changes in vec(any::<u8>(), 0..12)) {
        bodies::crl(&[vec![kind], changes.clone()].concat());
        bodies::csr(&[vec![kind], changes].concat());
    }
}
