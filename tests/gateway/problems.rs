//! Responses to refused callers, over HTTP and gRPC.

use bytes::Bytes;
use countersign_testkit::{Protocol, Scripted};
use http::Request;

use crate::support::World;

async fn world() -> World {
    World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "paths = [\"/orders\"]\nmethods = [\"GET\", \"HEAD\", \"POST\"]\ncallers = [\"spiffe://example.org/ops\"]\n",
        )
    })
    .await
}

#[tokio::test]
async fn a_refusal_is_a_problem_document() {
    let world = world().await;
    for protocol in Protocol::BOTH {
        for (path, status, code) in [
            ("/orders", 403, "caller-not-allowed"),
            ("/nowhere?secret=1", 404, "no-route"),
            ("/a//b", 400, "malformed-request"),
        ] {
            let answer = world.client().protocol(protocol).get(path).await.unwrap();
            assert_eq!(answer.status, status);
            assert_eq!(answer.reason(), Some(code));
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json")
            );
            let problem = answer.json();
            assert_eq!(problem["status"], status);
            assert_eq!(problem["code"], code);
            assert!(problem["type"].as_str().unwrap().contains(code));
            assert!(problem["title"].as_str().unwrap().ends_with('.'));
            assert!(problem["detail"].is_string());
            assert!(!problem.to_string().contains("secret"), "{problem}");
            let request_id = answer.header("x-request-id").unwrap();
            assert_eq!(problem["request_id"], request_id);
            let line = world
                .gateway
                .audit()
                .line("the same request", |line| line["request_id"] == request_id)
                .await;
            assert_eq!(line["reason"], code);
        }
    }
}

#[tokio::test]
async fn request_ids_are_the_gateways_own() {
    let world = world().await;
    let mut seen = std::collections::HashSet::new();
    let mut session = world.client().session().await.unwrap();
    for _ in 0..3 {
        let request = Request::get("/orders")
            .header("x-request-id", "mine")
            .body(Bytes::new())
            .unwrap();
        let answer = session.send(request).await.unwrap();
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_ne!(id, "mine");
        assert!(seen.insert(id));
    }
}

#[tokio::test]
async fn head_has_the_same_answer_without_its_body() {
    let world = world().await;
    for protocol in Protocol::BOTH {
        let request = Request::head("/orders").body(Bytes::new()).unwrap();
        let client = world.client().protocol(protocol);
        let mut session = client.session().await.unwrap();
        let answer = session.send(request).await.unwrap();
        assert_eq!(answer.status, 403);
        assert_eq!(answer.reason(), Some("caller-not-allowed"));
        assert!(answer.body.is_empty());
        // A HEAD response must not have content, so that the next response is read correctly.
        assert_eq!(session.get("/orders").await.unwrap().status, 403);
    }
}

#[tokio::test]
async fn the_services_answer_to_head_passes_without_a_body() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let mut session = client.session().await.unwrap();
        for path in ["/a", "/megabyte"] {
            let request = Request::head(path).body(Bytes::new()).unwrap();
            let answer = session.send(request).await.unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {path}");
            assert_eq!(answer.header("x-head"), Some("yes"));
            assert!(answer.body.is_empty());
        }
        assert_eq!(session.get("/a").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn grpc_callers_get_a_grpc_status() {
    let world = world().await;
    let client = world.client().protocol(Protocol::Http2);
    for (path, grpc, code) in [
        ("/orders", "7", "caller-not-allowed"),
        ("/nowhere", "12", "no-route"),
        ("/a//b", "3", "malformed-request"),
    ] {
        let request = Request::post(path)
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(Bytes::from_static(&[0, 0, 0, 0, 0]))
            .unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.is_empty());
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("application/grpc")
        );
        assert_eq!(answer.header("grpc-status"), Some(grpc), "{path}");
        assert!(answer.header("grpc-message").is_some());
        assert_eq!(answer.reason(), Some(code));
        let details = answer.header("grpc-status-details-bin").unwrap();
        let details = {
            use base64ct::Encoding as _;
            base64ct::Base64Unpadded::decode_vec(details.trim_end_matches('=')).unwrap()
        };
        let details = String::from_utf8_lossy(&details).into_owned();
        assert!(details.contains("google.rpc.ErrorInfo"), "{details:?}");
        assert!(details.contains(code), "{details:?}");
    }
}

#[tokio::test]
async fn the_services_own_refusals_pass_unchanged() {
    let service = Scripted::start(
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: text/plain\r\n\
         WWW-Authenticate: Custom realm=\"x\"\r\nCountersign-Reason: token-missing\r\n\
         Content-Length: 4\r\n\r\nmine",
        countersign_testkit::Afterwards::Again,
    )
    .await;
    let world = World::with(|settings, _| settings.everything_to(service.address())).await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let answer = client.get("/a").await.unwrap();
        assert_eq!(answer.status, 401);
        assert_eq!(answer.reason(), None);
        assert_eq!(answer.body, "mine");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Custom realm=\"x\"")
        );
    }
}
