//! Path rewrites. Policy uses the caller's path. The service and its assertion get the rewritten
//! path.

use countersign_testkit::Protocol;

use crate::support::{World, decode};

async fn world() -> World {
    World::with(|settings, echo| {
        settings
            .upstream("orders", echo)
            .route(
                "strip",
                "orders",
                "paths = [\"/api\", \"/api/**\"]\ncallers = [\"*\"]\nrewrite = { from = \"/api\", to = \"/\" }\n",
            )
            .route(
                "exchange",
                "orders",
                "paths = [\"/shop/v1/**\"]\ncallers = [\"*\"]\nrewrite = { from = \"/shop/v1\", to = \"/v2/shop\" }\n",
            )
            .route(
                "closed",
                "orders",
                "paths = [\"/admin/**\"]\ncallers = [\"spiffe://example.org/nobody\"]\n",
            )
    })
    .await
}

#[tokio::test]
async fn the_service_sees_and_the_assertion_names_the_rewritten_path() {
    let world = world().await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for (asked, seen) in [
            ("/api", "/"),
            ("/api/", "/"),
            ("/api/orders/7?x=/api", "/orders/7?x=/api"),
            ("/api/api", "/api"),
            ("/api/a%20b/;p=1x", "/a%20b/;p=1x"),
            ("/%61pi/x", "/x"),
            ("/shop/v1/a/b?", "/v2/shop/a/b?"),
            ("/shop/v1/", "/v2/shop/"),
        ] {
            let answer = session.get(asked).await.unwrap();
            if asked.contains(';') {
                // A path segment of only parameters is ambiguous in any path.
                assert_eq!(answer.status, 400, "{asked}");
                continue;
            }
            assert_eq!(answer.status, 200, "{asked}: {answer:?}");
            assert_eq!(answer.json()["path"], seen, "{asked}");
            let assertion = &answer.received("countersign-assertion")[0];
            let path = seen.split('?').next().unwrap();
            assert_eq!(
                decode(assertion).1["htu"],
                format!("https://orders.example.org{path}")
            );
        }
    }
    // The audit log contains the caller's path, which policy used.
    let line = world.gateway.audit().request("/shop/v1/a/b").await;
    assert_eq!(line["route"], "exchange");
}

#[tokio::test]
async fn no_rewrite_leads_around_policy() {
    let world = world().await;
    let mut session = world.client().session().await.unwrap();
    for path in [
        "/api/../admin/x",
        "/api/%2e%2e/admin/x",
        "/api//admin/x",
        "/api/%2fadmin",
        "/api/..;/admin/x",
        "/api\\admin",
    ] {
        let answer = session.get(path).await;
        // The client itself refuses to send some of these paths.
        if let Ok(answer) = answer {
            assert_eq!(answer.reason(), Some("malformed-request"), "{path}");
        } else {
            session = world.client().session().await.unwrap();
        }
    }
    assert_eq!(world.client().get("/admin/x").await.unwrap().status, 403);
    assert_eq!(world.client().get("/apix").await.unwrap().status, 404);
    assert_eq!(world.echo.requests(), 0);
}
