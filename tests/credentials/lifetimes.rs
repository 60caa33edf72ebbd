//! A request that a token permits must end with this token: at `exp`, or when a new
//! configuration does not accept the token any more.

use countersign_testkit::{Connection, Protocol, Switching, http2};
use serde_json::json;

use super::worlds::TokenWorld;
use super::{ask, issuer, refused};
use crate::support::{HOST, get_with, now, reloaded, replace, streaming_with};

const ROUTE: &str = "callers = [\"*\"]\ntoken = { issuer = \"corporate\" }";

/// Opens a connection on which a response for this token is in progress.
async fn streaming(world: &TokenWorld, token: &str) -> Connection {
    let field = format!("Authorization: Bearer {token}\r\n");
    streaming_with(&world.client(), &field).await
}

#[tokio::test]
async fn an_answer_ends_with_its_token() {
    let world = TokenWorld::with("", ROUTE).await;
    let token = world.token_with(json!({"exp": now() + 2}));
    let mut connection = streaming(&world, &token).await;
    let rest = connection.read_until(|_| false).await;
    assert!(rest.closed);
    assert!(!rest.octets.ends_with(b"0\r\n\r\n"), "it looks complete");
    let line = world.gateway.audit().request("/hang-mid-body").await;
    assert_eq!(
        (&line["reason"], &line["complete"]),
        (&json!("token-expired"), &json!(false))
    );
    let answer = ask(&world.client(), "/a", &token).await;
    refused(&answer, 401, "token-expired");
}

#[tokio::test]
async fn one_stream_ends_and_the_others_go_on() {
    let world = TokenWorld::with("", ROUTE).await;
    let client = world.client().protocol(Protocol::Http2);
    let mut session = client.session().await.unwrap();
    let short = format!("Bearer {}", world.token_with(json!({"exp": now() + 2})));
    let request = get_with("/hang-mid-body", &[("authorization", &short)]);
    let ended = session.send(request).await;
    assert!(ended.is_err(), "{ended:?}");
    let bearer = format!("Bearer {}", world.token());
    let request = get_with("/a", &[("authorization", &bearer)]);
    assert_eq!(session.send(request).await.unwrap().status, 200);
}

/// The caller has read nothing of a small response, or only a part of a large response.
#[tokio::test]
async fn an_answer_that_its_caller_has_not_taken_ends_with_its_token() {
    let world = TokenWorld::with("", ROUTE).await;
    for window in [0_u8, 10] {
        let client = world.client().protocol(Protocol::Http2);
        let mut connection = client.connect().await.unwrap();
        let token = world.token_with(json!({"exp": now() + 2}));
        let mut octets = http2::preface();
        // SETTINGS_INITIAL_WINDOW_SIZE, so that the gateway can send only `window` bytes.
        octets.extend(http2::frame(4, 0, 0, &[0, 4, 0, 0, 0, window]));
        for (stream, path) in [(1, "/small"), (3, "/megabyte")] {
            let fields = [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", HOST),
                (":path", path),
                ("authorization", &format!("Bearer {token}")),
            ];
            octets.extend(http2::headers(stream, true, &fields));
        }
        connection.write(&octets).await.unwrap();
        let reset = |octets: &[u8], stream: u32| {
            let mut frames = http2::frames(octets).into_iter();
            frames.any(|frame| frame.kind == 3 && frame.stream == stream)
        };
        let answer = connection
            .read_until(|octets| reset(octets, 1) && reset(octets, 3))
            .await;
        assert!(!answer.closed, "window {window}");
        let frames = http2::frames(&answer.octets);
        for stream in [1, 3] {
            let mut own = frames.iter().filter(|frame| frame.stream == stream);
            assert!(own.clone().any(http2::Frame::is_success));
            assert!(own.all(|frame| frame.kind != 0 || frame.flags & 1 == 0));
        }
        for path in ["/small", "/megabyte"] {
            let lines = world
                .gateway
                .audit()
                .at_least(1 + usize::from(window > 0), path, |line| {
                    line["path"] == path
                })
                .await;
            for line in lines {
                assert_eq!(
                    (&line["reason"], &line["complete"]),
                    (&json!("token-expired"), &json!(false)),
                    "{line}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_waits_for_its_service_ends_with_its_token() {
    let world = TokenWorld::with("", ROUTE).await;
    let token = world.token_with(json!({"exp": now() + 2}));
    let answer = ask(&world.client(), "/hang", &token).await;
    refused(&answer, 401, "token-expired");
}

#[tokio::test]
async fn a_tunnel_ends_with_its_token() {
    let service = Switching::start().await;
    let world = TokenWorld::open(|settings, keys, _| {
        settings
            .section(&issuer(keys, ""))
            .upstream("orders", service.address())
            .route(
                "orders",
                "orders",
                &format!("paths = [\"/**\"]\nupgrade = [\"websocket\"]\n{ROUTE}"),
            )
    })
    .await;
    let token = world.token_with(json!({"exp": now() + 3}));
    let mut connection = world.client().connect().await.unwrap();
    let head = format!(
        "GET /socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    connection.write(head.as_bytes()).await.unwrap();
    let answer = connection.read_head().await;
    assert_eq!(answer.statuses(), [101]);
    let rest = connection.read_until(|_| false).await;
    assert!(rest.closed);
    let line = world.gateway.audit().request("/socket").await;
    assert_eq!(line["reason"], "token-expired", "{line}");
}

#[tokio::test]
async fn a_reload_ends_what_it_no_longer_permits_and_nothing_else() {
    for (from, to, reason) in [
        ("\"orders-api\", ", "", Some("token-audience")),
        (
            "issuer = \"https://idp.example.org\"",
            "issuer = \"https://new.example.org\"",
            Some("token-issuer"),
        ),
        (
            "token = { issuer",
            "token = { scopes = [\"admin\"], issuer",
            Some("token-scope"),
        ),
        (
            "token = { issuer",
            "token = { client = \"caller\", issuer",
            Some("caller-not-allowed"),
        ),
        (
            "token = { issuer",
            "token = { scopes = [\"orders:read\"], issuer",
            None,
        ),
    ] {
        let world = TokenWorld::with("", ROUTE).await;
        let mut connection = streaming(&world, &world.token()).await;
        world.reconfigure(from, to);
        match reason {
            Some(reason) => {
                let rest = connection.read_until(|_| false).await;
                assert!(rest.closed);
                let line = world.gateway.audit().request("/hang-mid-body").await;
                assert_eq!(line["reason"], reason, "{line}");
            }
            None => {
                reloaded(&world.gateway).await;
                let silence = std::time::Duration::from_millis(300);
                assert!(!connection.read_until_silent(silence).await.closed);
            }
        }
    }
}

#[tokio::test]
async fn a_key_that_is_taken_out_of_the_file_takes_its_tokens_along() {
    let world = TokenWorld::with("", ROUTE).await;
    let token = world.token();
    // The gateway caches the token with this request.
    assert_eq!(ask(&world.client(), "/a", &token).await.status, 200);
    let mut connection = streaming(&world, &token).await;
    let other = countersign_testkit::TokenKey::new("two");
    let keys = countersign_testkit::Idp::key_set(&[&other]);
    replace(&world.ca.directory().join("keys.json"), keys.to_string());
    assert!(connection.read_until(|_| false).await.closed);
    refused(
        &ask(&world.client(), "/a", &token).await,
        401,
        "token-signature",
    );
}
