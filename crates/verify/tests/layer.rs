//! Tests the `tower` layer with an axum router.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::routing::any;
use axum::{Extension, Router};
use countersign_verify::{Assertion, AssertionLayer, RequestParts, claims};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::support::{SigningKey, request_claims, verifier, with};

async fn who(Extension(assertion): Extension<Assertion>, body: String) -> String {
    format!("{} {body}", assertion.sub)
}

fn service(key: &SigningKey) -> Router {
    let inner = Router::new().route("/{id}", any(who));
    Router::new()
        .nest("/orders", inner)
        .layer(AssertionLayer::new(verifier(key)))
}

fn request(token: &str) -> Request<Body> {
    Request::get("/orders/7")
        .header(header::HOST, "orders.example.org")
        .header(claims::HEADER, token)
        .body(Body::from("hello"))
        .unwrap()
}

async fn problem(key: &SigningKey, request: Request<Body>) -> (StatusCode, String) {
    let response = service(key).oneshot(request).await.unwrap();
    let status = response.status();
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/problem+json"
    );
    assert_eq!(
        response.headers().contains_key(header::WWW_AUTHENTICATE),
        status == StatusCode::UNAUTHORIZED
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["status"], status.as_u16());
    assert!(body["detail"].is_string() && body["title"].is_string() && body["type"].is_string());
    (status, body["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_good_request_passes_with_its_assertion() {
    let key = SigningKey::es256();
    let response = service(&key)
        .oneshot(request(&key.assertion(&request_claims())))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "spiffe://example.org/ns/shop/sa/checkout hello");
}

#[tokio::test]
async fn others_are_answered_with_problem_details() {
    let key = SigningKey::es256();
    let token = key.assertion(&request_claims());
    let refused =
        |status: u16, code: &str| (StatusCode::from_u16(status).unwrap(), code.to_owned());
    let mut bare = request(&token);
    bare.headers_mut().remove(claims::HEADER);
    assert_eq!(problem(&key, bare).await, refused(401, "assertion-missing"));
    let mut twice = request(&token);
    twice
        .headers_mut()
        .append(claims::HEADER, token.parse().unwrap());
    assert_eq!(
        problem(&key, twice).await,
        refused(401, "assertion-duplicate")
    );
    let forged = SigningKey::es256().assertion(&request_claims());
    assert_eq!(
        problem(&key, request(&forged)).await,
        refused(401, "assertion-unknown-key")
    );
    let elsewhere = key.assertion(&with(request_claims(), "aud", "payments"));
    assert_eq!(
        problem(&key, request(&elsewhere)).await,
        refused(403, "assertion-audience")
    );
    for (target, code) in [
        ("/orders/8", "assertion-path"),
        ("/orders/7?", "assertion-query"),
        ("/nowhere", "assertion-path"),
    ] {
        let mut other = request(&token);
        *other.uri_mut() = target.parse().unwrap();
        assert_eq!(problem(&key, other).await, refused(403, code), "{target}");
    }
    let mut host = request(&token);
    host.headers_mut()
        .append(header::HOST, "orders.example.org".parse().unwrap());
    assert_eq!(
        problem(&key, host).await,
        refused(403, "assertion-request-unclear")
    );
    let mut forwarded = request(&token);
    forwarded
        .headers_mut()
        .insert(header::HOST, "evil.example".parse().unwrap());
    forwarded
        .headers_mut()
        .insert("x-forwarded-host", "orders.example.org".parse().unwrap());
    assert_eq!(
        problem(&key, forwarded).await,
        refused(403, "assertion-authority")
    );
}

#[test]
fn the_authority_is_the_targets_or_the_only_host() {
    let key = SigningKey::ed_dsa();
    let verifier = verifier(&key);
    let token = key.assertion(&request_claims());
    let verify = |target: &str, hosts: &[&str]| {
        let mut request = Request::get(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let parts = RequestParts::from_http(&head).unwrap();
        verifier
            .verify(&token, &parts)
            .map(drop)
            .map_err(|error| error.code())
    };
    let (host, other) = ("orders.example.org", "evil.example");
    assert_eq!(verify("/orders/7", &[host]), Ok(()));
    assert_eq!(verify("http://orders.example.org/orders/7", &[]), Ok(()));
    assert_eq!(
        verify("https://orders.example.org/orders/7", &[host]),
        Ok(())
    );
    assert_eq!(verify("/orders/7", &[other]), Err("assertion-authority"));
    assert_eq!(
        verify("http://evil.example/orders/7", &[]),
        Err("assertion-authority")
    );
    for (target, hosts) in [
        ("/orders/7", &[][..]),
        ("/orders/7", &[host, host]),
        ("/orders/7", &[host, other]),
        ("http://orders.example.org/orders/7", &[other]),
        ("http://orders.example.org/orders/7", &[host, host]),
    ] {
        assert_eq!(
            verify(target, hosts),
            Err("assertion-request-unclear"),
            "{target} {hosts:?}"
        );
    }
    let (head, ()) = Request::options("*").body(()).unwrap().into_parts();
    assert!(RequestParts::from_http(&head).is_err());
}

#[test]
fn targets_stay_as_received() {
    for (target, path, query) in [
        ("/a%2Fb/%7e?x=%20&y", "/a%2Fb/%7e", Some("x=%20&y")),
        ("/a?", "/a", Some("")),
        ("/a", "/a", None),
        ("http://h/?", "/", Some("")),
        ("http://h", "/", None),
    ] {
        let (head, ()) = Request::get(target).body(()).unwrap().into_parts();
        let parts = RequestParts::from_http(&head).unwrap();
        assert_eq!((parts.path(), parts.query()), (path, query), "{target}");
    }
}
