//! The gateway refuses requests that two HTTP parsers could read differently.

use std::time::Duration;

use crate::support::{HOST, World};

const PATIENCE: Duration = Duration::from_secs(5);

/// Sends bytes. Checks that no request succeeds or arrives at the service, and that the gateway
/// closes the connection.
async fn assert_refused(world: &World, what: &str, octets: &[u8]) {
    let answer = world.client().raw(octets, PATIENCE).await.unwrap();
    let statuses = answer.statuses();
    assert!(
        statuses.iter().all(|status| *status >= 400),
        "{what}: {}",
        answer.text()
    );
    assert!(statuses.len() <= 1, "{what}: {}", answer.text());
    assert!(answer.closed, "{what}: the connection is still open");
    assert_eq!(world.echo.requests(), 0, "{what}: {:?}", world.echo.seen());
}

fn get(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn two_ways_to_delimit_a_body_are_refused() {
    let world = World::open().await;
    let smuggled = format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chun ked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding\r\n : chunked\r\n",
        "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content_Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999\r\n",
    ] {
        assert_refused(&world, fields, post(fields, &smuggled).as_bytes()).await;
    }
}

#[tokio::test]
async fn malformed_lines_are_refused() {
    let world = World::open().await;
    for (what, request) in [
        ("bare LF", format!("GET /a HTTP/1.1\nHost: {HOST}\n\n")),
        (
            "one bare LF",
            format!("GET /a HTTP/1.1\r\nHost: {HOST}\nX: y\r\n\r\n"),
        ),
        (
            "LF at the end",
            format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\n"),
        ),
        ("bare CR in a value", get("X-A: b\rX-B: c\r\n")),
        ("NUL in a value", get("X-A: b\0c\r\n")),
        ("NUL in a name", get("X\0A: b\r\n")),
        ("folded line", get("X-A: b\r\n c\r\n")),
        ("folded by tab", get("X-A: b\r\n\tc\r\n")),
        (
            "folded first line",
            format!("GET /a HTTP/1.1\r\n X: y\r\nHost: {HOST}\r\n\r\n"),
        ),
        ("space before the colon", get("X-A : b\r\n")),
        ("tab before the colon", get("Content-Length\t: 0\r\n")),
        ("no colon", get("X-A\r\n")),
        ("empty name", get(": b\r\n")),
        ("name with a space", get("X A: b\r\n")),
        ("name with a slash", get("X/A: b\r\n")),
        ("name beyond ASCII", get("X-\u{e9}: b\r\n")),
        ("control in a value", get("X-A: \x01\r\n")),
        ("DEL in a value", get("X-A: \x7f\r\n")),
    ] {
        assert_refused(&world, what, request.as_bytes()).await;
    }
}

#[tokio::test]
async fn malformed_request_lines_are_refused() {
    let world = World::open().await;
    let host = format!("Host: {HOST}\r\n\r\n");
    for line in [
        "GET  /a HTTP/1.1",
        "GET /a  HTTP/1.1",
        " GET /a HTTP/1.1",
        "GET\t/a\tHTTP/1.1",
        "GET /a HTTP/1.1 ",
        "GET /a",
        "GET /a HTTP/1.2",
        "GET /a HTTP/2.0",
        "GET /a HTTP/11",
        "GET /a http/1.1",
        "GET /a HTTP/1.1x",
        "GET /a b HTTP/1.1",
        "G@T /a HTTP/1.1",
        "GE\0T /a HTTP/1.1",
        "GET a HTTP/1.1",
        "CONNECT orders.example.org:443 HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        let request = format!("{line}\r\n{host}");
        assert_refused(&world, line, request.as_bytes()).await;
    }
}

#[tokio::test]
async fn the_host_is_named_exactly_once() {
    let world = World::open().await;
    for (what, head) in [
        ("no Host", "GET /a HTTP/1.1\r\n\r\n".to_owned()),
        ("empty Host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n".to_owned()),
        ("two Hosts", get("Host: other.test\r\n")),
        ("the same Host twice", get(&format!("Host: {HOST}\r\n"))),
        (
            "Host as a list",
            format!("GET /a HTTP/1.1\r\nHost: {HOST}, other.test\r\n\r\n"),
        ),
        (
            "Host with userinfo",
            format!("GET /a HTTP/1.1\r\nHost: a@{HOST}\r\n\r\n"),
        ),
        (
            "absolute form elsewhere",
            format!("GET https://other.test/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        ),
        (
            "absolute form with userinfo",
            format!("GET https://a@{HOST}/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        ),
    ] {
        assert_refused(&world, what, head.as_bytes()).await;
    }
}

#[tokio::test]
async fn bad_chunks_end_the_connection() {
    let world = World::open().await;
    for (what, body) in [
        ("no size", "\r\nabcd\r\n0\r\n\r\n"),
        ("not hexadecimal", "g\r\nabcd\r\n0\r\n\r\n"),
        ("prefixed", "0x4\r\nabcd\r\n0\r\n\r\n"),
        ("negative", "-4\r\nabcd\r\n0\r\n\r\n"),
        ("with a plus", "+4\r\nabcd\r\n0\r\n\r\n"),
        ("with a space before", " 4\r\nabcd\r\n0\r\n\r\n"),
        ("too large", "ffffffffffffffff1\r\nabcd\r\n0\r\n\r\n"),
        ("bare LF after the size", "4\nabcd\r\n0\r\n\r\n"),
        ("bare LF after the data", "4\r\nabcd\n0\r\n\r\n"),
        ("longer than it says", "4\r\nabcdef\r\n0\r\n\r\n"),
        ("bare LF at the end", "4\r\nabcd\r\n0\r\n\n"),
        ("NUL in an extension", "4;a=\0\r\nabcd\r\n0\r\n\r\n"),
        ("CR in an extension", "4;a=\rb\r\nabcd\r\n0\r\n\r\n"),
        (
            "length among the trailers",
            "4\r\nabcd\r\n0\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "coding among the trailers",
            "4\r\nabcd\r\n0\r\nTransfer-Encoding: x\r\n\r\n",
        ),
        ("folded trailer", "4\r\nabcd\r\n0\r\nX: a\r\n b\r\n\r\n"),
    ] {
        let mut request = post("Transfer-Encoding: chunked\r\n", body).into_bytes();
        request.extend(get("").into_bytes());
        let answer = world.client().raw(&request, PATIENCE).await.unwrap();
        assert!(
            answer.statuses().iter().all(|status| *status >= 400),
            "{what}: {}",
            answer.text()
        );
        assert!(answer.closed, "{what}: the connection is still open");
    }
    // The gateway may have forwarded the head before the malformed chunk arrived. It must not
    // have forwarded a complete request or anything after it.
    for seen in world.echo.seen() {
        assert_eq!(seen["method"], "POST", "{seen}");
        assert!(seen.get("body").is_none(), "{seen}");
    }
}

#[tokio::test]
async fn changing_the_protocol_within_a_connection_is_refused() {
    let world = World::open().await;
    let settings = "HTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    for fields in [
        format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{settings}"),
        "Connection: Upgrade\r\nUpgrade: h2c\r\n".to_owned(),
        "Connection: Upgrade\r\nUpgrade: foo, H2C\r\n".to_owned(),
        settings.to_owned(),
    ] {
        let request = get(&format!("{fields}Connection: close\r\n"));
        let answer = world
            .client()
            .raw(request.as_bytes(), PATIENCE)
            .await
            .unwrap();
        assert_eq!(answer.statuses(), [400], "{fields}");
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn an_unanswered_upgrade_does_not_hide_a_second_request() {
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"foo\"]\n",
        )
    })
    .await;
    let mut request = get("Connection: Upgrade\r\nUpgrade: foo\r\n").into_bytes();
    request.extend(b"GET /second HTTP/1.1\r\nHost: wrong host\r\n\r\n");
    let answer = world.client().raw(&request, PATIENCE).await.unwrap();
    assert!(!answer.statuses().contains(&101), "{}", answer.text());
    assert!(
        !world
            .echo
            .seen()
            .iter()
            .any(|seen| seen["path"] == "/second"),
        "a request passed the checks inside an upgrade"
    );
}

#[tokio::test]
async fn http_1_0_has_no_chunks() {
    let world = World::open().await;
    let request = format!(
        "POST /a HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
    );
    assert_refused(&world, "HTTP/1.0 with chunks", request.as_bytes()).await;
    let plain = format!("GET /a HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    let answer = world
        .client()
        .raw(plain.as_bytes(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [200]);
    assert!(answer.closed);
}

#[tokio::test]
async fn good_requests_pass_however_they_are_cut() {
    let world = World::open().await;
    let requests = [
        get(""),
        post("Content-Length: 4\r\n", "abcd"),
        post(
            "Transfer-Encoding: chunked\r\n",
            "2\r\nab\r\n2;ext=1\r\ncd\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        format!("\r\n{}", get("")),
        get("Connection: close\r\n"),
    ]
    .concat();
    let whole = world
        .client()
        .raw(requests.as_bytes(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(whole.statuses(), [200; 5], "{}", whole.text());

    let mut connection = world.client().connect().await.unwrap();
    for octets in requests.as_bytes().chunks(7) {
        connection.write(octets).await.unwrap();
    }
    let cut = connection.read_until_silent(PATIENCE).await;
    assert_eq!(cut.statuses(), [200; 5], "{}", cut.text());
    let bodies: Vec<_> = world
        .echo
        .seen()
        .iter()
        .map(|seen| seen["body"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(bodies, ["", "abcd", "abcd", "", ""].repeat(2));
}

#[tokio::test]
async fn a_refused_request_is_recorded() {
    let world = World::open().await;
    assert_refused(&world, "bare LF", b"GET /a HTTP/1.1\nHost: a\n\n").await;
    let line = world
        .gateway
        .audit()
        .line("the refusal", |line| line["reason"] == "malformed-request")
        .await;
    assert_eq!(line["event"], "request");
    assert_eq!(line["decision"], "refused");
    assert_eq!(line["status"], 400);
    assert!(line["caller"].is_string(), "{line}");
}
