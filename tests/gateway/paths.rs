//! A path must have the same meaning for the gateway's policy and for the service.

use std::time::Duration;

use countersign_testkit::{Protocol, http2};

use crate::support::{HOST, World, decode};

const AMBIGUOUS: [&str; 34] = [
    "/public/../admin",
    "/public/./admin",
    "/..",
    "/.",
    "/../admin",
    "/public/..",
    "/public/.",
    "/public/%2e%2e/admin",
    "/public/%2E%2e/admin",
    "/public/.%2e/admin",
    "/public/%2e./admin",
    "/public/%2e/admin",
    "/public/..;/admin",
    "/public/..;x=y/admin",
    "/public/%2e%2e;/admin",
    "/public/.;/admin",
    "/public/;/admin",
    "/public%2fadmin",
    "/public%2Fadmin",
    "/public/..%2fadmin",
    "/public%5cadmin",
    "/public%5C..%5Cadmin",
    "/public\\..\\admin",
    "/public\\admin",
    "//admin",
    "/public//admin",
    "///",
    "/public/%00",
    "/public/%0a",
    "/public/%0d%0aX:y",
    "/public/%7f",
    "/public/%252e%252e/admin",
    "/public/%",
    "/public/%zz",
];

async fn public_and_admin() -> World {
    World::with(|settings, echo| {
        settings
            .upstream("orders", echo)
            .route(
                "public",
                "orders",
                "paths = [\"/public\", \"/public/**\"]\ncallers = [\"*\"]\n",
            )
            .route(
                "admin",
                "orders",
                "paths = [\"/admin\", \"/admin/**\"]\ncallers = [\"spiffe://example.org/ns/ops/**\"]\n",
            )
            .route(
                "rest",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"*\"]\n",
            )
    })
    .await
}

#[tokio::test]
async fn ambiguous_paths_are_refused_over_http1() {
    let world = public_and_admin().await;
    for path in AMBIGUOUS {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let answer = world
            .client()
            .raw(request.as_bytes(), Duration::from_secs(2))
            .await
            .unwrap();
        assert_eq!(answer.statuses(), [400], "{path}");
        assert!(answer.text().contains("malformed-request"), "{path}");
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn ambiguous_paths_are_refused_over_http2() {
    let world = public_and_admin().await;
    for path in AMBIGUOUS {
        let mut octets = http2::preface();
        octets.extend(http2::headers(
            1,
            true,
            &[
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", HOST),
                (":path", path),
            ],
        ));
        let client = world.client().protocol(Protocol::Http2);
        let mut connection = client.connect().await.unwrap();
        connection.write(&octets).await.unwrap();
        // Waits for the HEADERS of the response, a reset of the stream, or GOAWAY.
        let answered = |octets: &[u8]| {
            http2::frames(octets)
                .iter()
                .any(|frame| matches!(frame.kind, 1 | 3 | 7))
        };
        let answer = connection.read_until(answered).await;
        let frames = http2::frames(&answer.octets);
        assert!(!frames.iter().any(http2::Frame::is_success), "{path}");
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn raw_control_characters_and_spaces_in_targets_are_refused() {
    let world = public_and_admin().await;
    for target in [
        "/a\tb", "/a\x0bb", "/a b", "/a\x7f", "/\u{e9}", "/a#b", "a", "*", "?a",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let answer = world
            .client()
            .raw(request.as_bytes(), Duration::from_secs(2))
            .await
            .unwrap();
        assert!(
            answer.statuses().iter().all(|status| *status == 400),
            "{target:?}: {}",
            answer.text()
        );
        assert!(answer.closed || !answer.statuses().is_empty(), "{target:?}");
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn no_spelling_of_a_path_escapes_its_route() {
    let world = public_and_admin().await;
    let mut session = world.client().session().await.unwrap();
    for path in [
        "/admin",
        "/admin/",
        "/admin/users",
        "/%61dmin",
        "/%61dmin/users",
        "/admi%6E/users",
        "/admin;x",
        "/admin;x=y/users",
        "/admin;/users",
        "/%61dmin;x/users",
        "/admin%3bx/users",
    ] {
        let answer = session.get(path).await.unwrap();
        assert!(
            matches!(answer.status, 400 | 403),
            "{path}: {}",
            answer.status
        );
        assert!(
            matches!(
                answer.reason(),
                Some("caller-not-allowed" | "malformed-request")
            ),
            "{path}: {answer:?}"
        );
    }
    assert_eq!(world.echo.requests(), 0);
    let operator = world.client_as("/ns/ops/sa/a");
    assert_eq!(operator.get("/%61dmin/users").await.unwrap().status, 200);
}

#[tokio::test]
async fn ordinary_paths_arrive_byte_by_byte() {
    let world = public_and_admin().await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for path in [
            "/",
            "/a",
            "/a/",
            "/caf%C3%A9",
            "/caf%c3%a9",
            "/%7Euser/~user",
            "/a;v=1/b,c;d",
            "/a@b:c+d=e!$&'()*",
            "/...",
            "/.well-known/x",
            "/a?b=../c&d=//e%2f",
            "/a?",
            "/a??b=?",
        ] {
            let answer = session.get(path).await.unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {path}: {answer:?}");
            assert_eq!(answer.json()["path"], path);
            let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
            let path_alone = path.split('?').next().unwrap();
            assert_eq!(claims["htu"], format!("https://{HOST}{path_alone}"));
        }
    }
}
