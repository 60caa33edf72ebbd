//! A path must have the same meaning for the gateway's policy and for the service.

use std::time::Duration;

use countersign_testkit::{Protocol, http2};

use crate::support::{HOST, World, decode, replace};

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

/// Starts a gateway with one route for each form of paths, strict routes, and a route for all other
/// paths.
async fn forms() -> World {
    World::with(|settings, echo| {
        let relaxed = [
            ("slash", "allow-encoded-slash"),
            ("twice", "allow-double-encoding"),
            ("empty", "allow-empty-segments"),
            ("bytes", "allow-non-utf8"),
        ];
        let settings = relaxed.into_iter().fold(
            settings.upstream("orders", echo),
            |settings, (name, encoding)| {
                settings.route(
                    name,
                    "orders",
                    &format!("paths = [\"/{name}/**\"]\ncallers = [\"*\"]\npath_encoding = \"{encoding}\"\n"),
                )
            },
        );
        settings
            .route(
                "all",
                "orders",
                "paths = [\"/all/*/x\", \"/all/**\"]\ncallers = [\"*\"]\nrewrite = { from = \"/all\", to = \"/\" }\n\
                 path_encoding = [\"allow-encoded-slash\", \"allow-double-encoding\", \"allow-empty-segments\", \"allow-non-utf8\"]\n",
            )
            .route(
                "inner",
                "orders",
                "paths = [\"/all/inner/**\"]\ncallers = [\"spiffe://example.org/ns/ops/**\"]\n",
            )
            .route("same", "orders", "paths = [\"/all/same/**\"]\ncallers = [\"*\"]\n")
            .route(
                "read",
                "orders",
                "paths = [\"/all/read/**\"]\nmethods = [\"GET\"]\ncallers = [\"*\"]\n",
            )
            .route("rest", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await
}

/// Starts a gateway with a route for all callers that allows all forms of paths, and a route for
/// administrators.
async fn wide_and_admin() -> World {
    World::with(|settings, echo| {
        settings
            .upstream("orders", echo)
            .route(
                "wide",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"*\"]\n\
                 path_encoding = [\"allow-encoded-slash\", \"allow-double-encoding\", \"allow-empty-segments\", \"allow-non-utf8\"]\n",
            )
            .route(
                "admin",
                "orders",
                "paths = [\"/admin/**\"]\ncallers = [\"spiffe://example.org/ns/ops/**\"]\n",
            )
    })
    .await
}

#[tokio::test]
async fn no_form_of_a_path_leads_around_the_route_of_administrators() {
    let world = wide_and_admin().await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for path in [
            "//admin/x",
            "///admin//x",
            "/%2Fadmin/x",
            "/%2fadmin%2fx",
            "/admin%2Fx",
            "/admin%252fx",
            "/%2561dmin/x",
            "/admin%255cx",
            "//admin;a=b/x",
            "//admin;a%2Fx",
            "/admin%2F",
            "/%252Fadmin/x",
        ] {
            let answer = session.get(path).await.unwrap();
            assert_eq!(answer.status, 400, "{path}: {answer:?}");
            assert_eq!(answer.reason(), Some("malformed-request"), "{path}");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            let named = detail.contains("another route") || detail.contains("ambiguous");
            assert!(named, "{path}: {detail}");
        }
        assert_eq!(world.echo.requests(), 0);
    }
    for path in [
        "//other/x",
        "/%2Fother/x",
        "/a%2Fadmin/x",
        "/a%252fb",
        "/%ff//b",
    ] {
        let answer = world.client().get(path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let operator = world.client_as("/ns/ops/sa/a");
    assert_eq!(operator.get("/admin/x").await.unwrap().status, 200);
}

/// Changes the configuration while a request is in progress. The gateway must then end the request,
/// because it is malformed under the new configuration.
async fn request_becomes_malformed(
    world: &World,
    path: &str,
    change: impl FnOnce(String) -> String,
) {
    let mut connection = world.client().connect().await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    connection.write(request.as_bytes()).await.unwrap();
    assert_eq!(connection.read_head().await.statuses(), [200]);
    let config = world.gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    replace(&config, change(text));
    assert!(connection.read_until(|_| false).await.closed);
    let line = world.gateway.audit().request(path).await;
    assert_eq!(line["reason"], "malformed-request", "{line}");
}

#[tokio::test]
async fn requests_in_progress_end_if_a_new_route_makes_their_path_ambiguous() {
    let route = "\n[[route]]\nname = \"admin\"\npaths = [\"/admin/**\"]\nupstream = \"orders\"\n\
                 audience = \"orders\"\ncallers = [\"spiffe://example.org/ns/ops/**\"]\n";
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "wide",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\npath_encoding = \"allow-empty-segments\"\n",
        )
    })
    .await;
    let change = |text: String| text + route;
    request_becomes_malformed(&world, "//admin/hang-mid-body", change).await;
}

#[tokio::test]
async fn a_route_passes_the_forms_that_it_allows_byte_by_byte() {
    let world = forms().await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for path in [
            "/slash/%2F/name",
            "/slash/@scope%2fname",
            "/slash/group%2Fproject/issues?x=%2F//",
            "/twice/a%252Fb",
            "/twice/100%2525",
            "/empty//x",
            "/empty/a//b//",
            "/bytes/%ff%FE/%c3%a9",
            "/%62ytes/%ff",
        ] {
            let answer = session.get(path).await.unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {path}: {answer:?}");
            assert_eq!(answer.json()["path"], path);
            let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
            let path_alone = path.split('?').next().unwrap();
            assert_eq!(claims["htu"], format!("https://{HOST}{path_alone}"));
        }
        for (asked, seen) in [
            ("/all/%2F//%2525%FF", "/%2F//%2525%FF"),
            ("/all/a%2Fb/x", "/a%2Fb/x"),
        ] {
            let answer = session.get(asked).await.unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {asked}: {answer:?}");
            assert_eq!(answer.json()["path"], seen);
            let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
            assert_eq!(claims["htu"], format!("https://{HOST}{seen}"));
        }
    }
}

#[tokio::test]
async fn a_form_is_allowed_on_its_route_only() {
    let world = forms().await;
    for path in [
        // The form of another route.
        "/twice/a%2Fb",
        "/slash/a%252Fb",
        "/slash//b",
        "/empty/%ff",
        "/bytes/a%2fb",
        // A path that a strict route matches.
        "/rest/a%2Fb",
        "/slash%2Fx",
        "//slash/x",
        "/all%2Finner/x",
        "//all/inner/x",
        "/all/inner/%2F",
        "/all/inner//x",
        // A service could read the path as one of the route "inner", which has other callers, or of
        // a route for other methods.
        "/all/inner%2Fz",
        "/all//inner/z",
        "/all/%69nner%2Fz",
        "/all/%2Finner/z",
        "/all/%2F%2Finner/z",
        "/all/inner%252Fz",
        "/all/%2569nner/z",
        "/all/inner;v%2Fz",
        "/all/inner%253Bv%2Fz",
        "/all/inner%255Cz",
        "/all/read%2Fz",
        // A service could take the beginning of the rewritten path for a host.
        "/all//x",
        // Forms that no route allows.
        "/all/a%5Cb",
        "/all/%00",
        "/all/%2500",
        "/all/%0a",
        "/all/..%2Fadmin",
        "/all/%2F..%2Fadmin",
        "/all/%252e%252e/admin",
        "/all/a%2F%2e%2e",
        "/all/a%252F..",
        "/all//../admin",
        "/all/.%252e;x/admin",
        "/all/%c0%ae%c0%ae/admin",
        "/all/%c0%afadmin",
        "/all/%c0%2Fadmin",
        "/all/%fc%80%80%80%80%ae/admin",
        "/all/a%25252Fb",
        "/all/%25u002e%25u002e/admin",
        "/rest/%25u002e",
        "/all/%zz",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let answer = world
            .client_as("/ns/ops/sa/a")
            .raw(request.as_bytes(), Duration::from_secs(2))
            .await
            .unwrap();
        assert_eq!(answer.statuses(), [400], "{path}");
        assert!(answer.text().contains("malformed-request"), "{path}");
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn patterns_are_matched_before_slashes_are_decoded() {
    let world = forms().await;
    let mut session = world.client().session().await.unwrap();
    for (path, route) in [
        ("/all/a%2Fb/x", "all"),
        ("/all/a%2Finner/x", "all"),
        ("/all/%2Fother%2Fx", "all"),
        ("/all/same%2Fx", "all"),
    ] {
        let answer = session.get(path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let line = world.gateway.audit().request(path).await;
        assert_eq!(line["route"], route, "{line}");
    }
    // An encoded letter is decoded before the path is matched, in all modes.
    for path in ["/all/%69nner/y", "/all/inner/y"] {
        let answer = session.get(path).await.unwrap();
        assert_eq!(answer.reason(), Some("caller-not-allowed"), "{path}");
    }
}

#[tokio::test]
async fn requests_in_progress_end_if_their_route_becomes_strict() {
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\npath_encoding = \"allow-encoded-slash\"\n",
        )
    })
    .await;
    let change = |text: String| text.replace("allow-encoded-slash", "strict");
    request_becomes_malformed(&world, "/a%2Fb/hang-mid-body", change).await;
    assert_eq!(world.client().get("/a%2Fb").await.unwrap().status, 400);
}
