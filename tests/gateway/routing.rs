//! The selection of a route, and the callers that the route allows.

use bytes::Bytes;
use countersign_testkit::{Answer, Protocol};
use http::Request;

use crate::support::{World, decode};

fn refusal(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.reason())
}

#[tokio::test]
async fn what_no_route_names_is_refused() {
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "hosts = [\"orders.example.org\"]\npaths = [\"/orders/*\"]\ncallers = [\"*\"]\n",
        )
    })
    .await;
    let mut session = world.client().session().await.unwrap();
    assert_eq!(session.get("/orders/7").await.unwrap().status, 200);
    for path in [
        "/",
        "/orders",
        "/orders/",
        "/orders/7/items",
        "/ordersx/7",
        "/Orders/7",
    ] {
        let answer = session.get(path).await.unwrap();
        assert_eq!(refusal(&answer), (404, Some("no-route")), "{path}");
    }
    let elsewhere = world.client().host("other.example.org");
    let answer = elsewhere.get("/orders/7").await.unwrap();
    assert_eq!(refusal(&answer), (404, Some("no-route")));
    assert_eq!(world.echo.requests(), 1);
}

#[tokio::test]
async fn a_method_that_is_not_allowed_says_which_are() {
    let world = World::with(|settings, echo| {
        settings
            .upstream("orders", echo)
            .route(
                "read",
                "orders",
                "paths = [\"/orders\"]\nmethods = [\"GET\", \"HEAD\"]\ncallers = [\"*\"]\n",
            )
            .route(
                "write",
                "orders",
                "paths = [\"/orders\"]\nmethods = [\"POST\"]\ncallers = [\"spiffe://example.org/ns/ops/**\"]\n",
            )
            .route(
                "wide",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"*\"]\n",
            )
    })
    .await;
    let mut session = world.client().session().await.unwrap();
    let put = Request::put("/orders").body("".into()).unwrap();
    let answer = session.send(put).await.unwrap();
    // The wider route allows PUT, but the most specific path has already been selected.
    assert_eq!(refusal(&answer), (405, Some("method-not-allowed")));
    let mut allowed: Vec<&str> = answer.header("allow").unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    let post = Request::post("/orders").body("".into()).unwrap();
    let answer = session.send(post).await.unwrap();
    assert_eq!(refusal(&answer), (403, Some("caller-not-allowed")));
    assert_eq!(session.get("/orders").await.unwrap().status, 200);
    // A method in a header field has no effect.
    let tricky = Request::get("/orders")
        .header("x-http-method-override", "POST")
        .header("x-method-override", "POST")
        .body("".into())
        .unwrap();
    assert_eq!(session.send(tricky).await.unwrap().json()["method"], "GET");
}

#[tokio::test]
async fn callers_and_exceptions_decide() {
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"spiffe://example.org/ns/shop/sa/*\", \"spiffe://example.org/ns/ops/**\"]\n\
             except = [\"spiffe://example.org/ns/shop/sa/banned\", \"spiffe://example.org/ns/ops/old/**\"]\n",
        )
    })
    .await;
    for (path, allowed) in [
        ("/ns/shop/sa/checkout", true),
        ("/ns/shop/sa/banned", false),
        ("/ns/shop/sa/banned2", true),
        ("/ns/shop/sa/checkout/deep", false),
        ("/ns/shop/sa", false),
        ("/ns/shop", false),
        ("/ns/ops/a", true),
        ("/ns/ops/a/b", true),
        ("/ns/ops/old/a", false),
        ("/ns/shop/SA/checkout", false),
    ] {
        for protocol in Protocol::BOTH {
            let client = world.client_as(path).protocol(protocol);
            let answer = client.get("/a").await.unwrap();
            if allowed {
                assert_eq!(answer.status, 200, "{path}");
            } else {
                assert_eq!(
                    refusal(&answer),
                    (403, Some("caller-not-allowed")),
                    "{path}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_most_specific_route_wins_and_its_refusal_is_final() {
    let only = |who: &str| format!("callers = [\"spiffe://example.org/{who}\"]\n");
    let world = World::with(|settings, echo| {
        let route = |name: &str, hosts: &str, path: &str, who: &str| {
            (
                name.to_owned(),
                format!(
                    "{hosts}paths = [\"{path}\"]\naudience = \"{name}\"\n{}",
                    only(who)
                ),
            )
        };
        let exact = "hosts = [\"orders.example.org\"]\n";
        let wildcard = "hosts = [\"*.example.org\"]\n";
        [
            route("any-host", "", "/**", "**"),
            route("wildcard-host", wildcard, "/**", "**"),
            route("exact-host", exact, "/**", "**"),
            route("below", exact, "/a/**", "**"),
            route("one-segment", exact, "/a/*", "**"),
            route("exact-path", exact, "/a/b", "nobody"),
        ]
        .into_iter()
        .rev()
        .fold(
            settings.upstream("orders", echo),
            |settings, (name, body)| settings.route(&name, "orders", &body),
        )
    })
    .await;
    for (host, path, expected) in [
        ("orders.example.org", "/x", Some("exact-host")),
        ("orders.example.org", "/a/b/c", Some("below")),
        ("orders.example.org", "/a/x", Some("one-segment")),
        ("orders.example.org", "/a/b", None),
        ("payments.example.org", "/a/b", Some("wildcard-host")),
        ("a.payments.example.org", "/a/b", Some("any-host")),
        ("localhost", "/a/b", Some("any-host")),
    ] {
        let answer = world.client().host(host).get(path).await.unwrap();
        match expected {
            Some(audience) => {
                let assertion = answer.received("countersign-assertion");
                assert_eq!(decode(&assertion[0]).1["aud"], audience, "{host}{path}");
            }
            None => assert_eq!(refusal(&answer), (403, Some("caller-not-allowed"))),
        }
    }
}

#[tokio::test]
async fn a_route_without_authentication_sends_no_assertion() {
    let world = World::with(|settings, echo| {
        settings
            .optional_certificates()
            .upstream("orders", echo)
            .route(
                "open",
                "orders",
                "paths = [\"/open\"]\nauthenticate = \"none\"\n",
            )
            .route(
                "closed",
                "orders",
                "paths = [\"/closed\"]\ncallers = [\"*\"]\n",
            )
    })
    .await;
    for client in [world.anonymous(), world.client()] {
        let request = Request::get("/open")
            .header("countersign-assertion", "forged")
            .body("".into())
            .unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.received("countersign-assertion"), [""; 0]);
    }
    let answer = world.anonymous().get("/closed").await.unwrap();
    assert_eq!(refusal(&answer), (403, Some("no-certificate")));
    assert_eq!(world.client().get("/closed").await.unwrap().status, 200);
}

#[tokio::test]
async fn another_caller_of_the_same_connection_kind_is_told_apart_per_route() {
    let world = World::with(|settings, echo| {
        settings
            .upstream("orders", echo)
            .route(
                "a",
                "orders",
                "paths = [\"/a\"]\ncallers = [\"spiffe://example.org/a\"]\n",
            )
            .route(
                "b",
                "orders",
                "paths = [\"/b\"]\ncallers = [\"spiffe://example.org/b\"]\n",
            )
    })
    .await;
    for (caller, path, status) in [
        ("/a", "/a", 200),
        ("/a", "/b", 403),
        ("/b", "/b", 200),
        ("/b", "/a", 403),
    ] {
        let answer = world.client_as(caller).get(path).await.unwrap();
        assert_eq!(answer.status, status, "{caller} {path}");
    }
}

/// A service that implements TRACE would send the assertion to the caller.
#[tokio::test]
async fn trace_has_to_be_named() {
    let world = World::with(|settings, echo| {
        settings
            .upstream("echo", echo)
            .route("any", "echo", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
            .route(
                "named",
                "echo",
                "paths = [\"/named\"]\nmethods = [\"TRACE\"]\ncallers = [\"*\"]\n",
            )
    })
    .await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let trace = |path: &str| {
            let request = Request::builder().method("TRACE").uri(path);
            request.body(Bytes::new()).unwrap()
        };
        let answer = client.send(trace("/a")).await.unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (501, Some("method-not-allowed"))
        );
        let answer = client.send(trace("/named")).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(world.echo.requests(), 2);
}

#[tokio::test]
async fn an_upgrade_that_is_no_list_of_protocols_is_refused() {
    let world = World::open().await;
    for value in [
        "\"h2c\"",
        "foo;h2c",
        "foo\th2c",
        "foo/",
        "/1",
        "websocket, a b",
    ] {
        for connection in ["Upgrade", "keep-alive"] {
            let request = Request::get("/a")
                .header("connection", connection)
                .header("upgrade", value)
                .body(Bytes::new())
                .unwrap();
            let answer = world.client().send(request).await.unwrap();
            assert_eq!(
                (answer.status, answer.reason()),
                (400, Some("malformed-request")),
                "{value:?}"
            );
        }
    }
    assert_eq!(world.echo.requests(), 0);
}
