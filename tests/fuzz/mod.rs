//! The bodies of the fuzz targets (`fuzz/`) with inputs of proptest: a small and
//! steady part of what fuzzing does, on stable.

#[allow(unreachable_pub, reason = "it is a library of its own in fuzz/")]
#[path = "../../fuzz/src/lib.rs"]
mod bodies;
mod seeds;

use proptest::collection::vec;
use proptest::prelude::*;

/// Octets made of these words and a few of no meaning.
fn made_of(words: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let word = proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec());
    let piece = prop_oneof![12 => word, 1 => vec(any::<u8>(), 1..4)];
    vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

/// Messages that are nearly right, one after the other.
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
