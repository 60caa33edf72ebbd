//! The responses of the public and admin listeners, and the requests that they refuse.

use countersign_testkit::gateway::plain;
use serde_json::Value;

use crate::support::{ISSUER, World};

const JWKS: &str = "/.well-known/jwks.json";
const METADATA: [&str; 2] = [
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
];

#[tokio::test]
async fn the_key_set_has_public_halves_only() {
    for (algorithm, key_type, curve) in [("ES256", "EC", "P-256"), ("EdDSA", "OKP", "Ed25519")] {
        let world = World::with(|s, echo| s.algorithm(algorithm).everything_to(echo)).await;
        for listener in [world.gateway.public(), world.gateway.admin()] {
            let answer = plain(listener, "GET", JWKS, &[]).await;
            assert_eq!(answer.status, 200);
            assert!(
                answer
                    .header("cache-control")
                    .is_some_and(|value| value.contains("max-age=300"))
            );
            let content_type = answer.header("content-type").unwrap();
            assert!(content_type.contains("json"), "{content_type}");
            let keys = answer.json()["keys"].as_array().unwrap().clone();
            assert!(!keys.is_empty());
            for key in keys {
                assert_eq!(key["kty"], key_type);
                assert_eq!(key["crv"], curve);
                assert_eq!(key["use"], "sig");
                assert_eq!(key["alg"], algorithm);
                assert_eq!(key["kid"].as_str().unwrap().len(), 43);
                assert_eq!(key.get("d"), None);
            }
        }
    }
}

#[tokio::test]
async fn key_identifiers_are_thumbprints() {
    let world = World::open().await;
    let keys: jsonwebtoken::jwk::JwkSet =
        serde_json::from_str(&world.gateway.jwks().await).unwrap();
    for key in keys.keys {
        let thumbprint = key
            .thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256)
            .unwrap();
        assert_eq!(key.common.key_id, Some(thumbprint));
    }
}

#[tokio::test]
async fn metadata_lead_to_the_keys() {
    let world = World::open().await;
    for path in METADATA {
        let answer = plain(world.gateway.public(), "GET", path, &[]).await;
        assert_eq!(answer.status, 200, "{path}");
        let metadata = answer.json();
        assert_eq!(metadata["issuer"], ISSUER);
        assert_eq!(metadata["jwks_uri"], format!("{ISSUER}{JWKS}"));
        assert_eq!(
            metadata["response_types_supported"],
            serde_json::json!(["none"])
        );
        assert_eq!(metadata["countersign_header"], "Countersign-Assertion");
        assert_eq!(metadata["countersign_typ"], "countersign+jwt");
    }
}

#[tokio::test]
async fn known_keys_need_not_be_sent_again() {
    let world = World::open().await;
    let public = world.gateway.public();
    for path in [JWKS, METADATA[0]] {
        let first = plain(public, "GET", path, &[]).await;
        let tag = first.header("etag").unwrap().to_owned();
        assert!(tag.starts_with('"') || tag.starts_with("W/\""), "{tag}");
        let again = plain(public, "GET", path, &[("If-None-Match", &tag)]).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""));
        assert_eq!(again.header("etag"), Some(tag.as_str()));
        let list = format!("\"other\", {tag}");
        let again = plain(public, "GET", path, &[("If-None-Match", &list)]).await;
        assert_eq!(again.status, 304);
        let other = plain(public, "GET", path, &[("If-None-Match", "\"other\"")]).await;
        assert_eq!(other.status, 200);
        let head = plain(public, "HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(head.header("etag"), Some(tag.as_str()));
    }
}

#[tokio::test]
async fn both_listeners_show_health() {
    let world = World::open().await;
    for listener in [world.gateway.public(), world.gateway.admin()] {
        for path in ["/healthz", "/readyz"] {
            let answer = plain(listener, "GET", path, &[]).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn both_listeners_are_read_only_and_serve_nothing_else() {
    let world = World::open().await;
    for listener in [world.gateway.public(), world.gateway.admin()] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            for path in [JWKS, "/healthz", "/readyz", METADATA[0]] {
                let answer = plain(listener, method, path, &[]).await;
                assert_eq!(answer.status, 405, "{method} {path}");
            }
        }
        for path in [
            "/",
            "/orders",
            "/reload",
            "/..",
            "/.well-known/",
            "//healthz",
        ] {
            let answer = plain(listener, "GET", path, &[]).await;
            assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        }
        let answer = plain(listener, "GET", JWKS, &[("Origin", "https://evil.test")]).await;
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn the_public_listener_serves_what_is_configured() {
    let world = World::with(|settings, echo| {
        settings
            .set("public", "serve", "[\"health\"]")
            .everything_to(echo)
    })
    .await;
    let public = world.gateway.public();
    assert_eq!(plain(public, "GET", "/healthz", &[]).await.status, 200);
    assert_eq!(plain(public, "GET", JWKS, &[]).await.status, 404);
    assert_eq!(plain(public, "GET", "/metrics", &[]).await.status, 404);
    let admin = world.gateway.admin();
    assert_eq!(plain(admin, "GET", JWKS, &[]).await.status, 200);
}

#[tokio::test]
async fn the_admin_listener_checks_host() {
    let world = World::open().await;
    let admin = world.gateway.admin();
    let port = admin.port();
    for host in ["evil.test", "evil.test:9901", "127.0.0.1.evil.test", ""] {
        let answer = plain(admin, "GET", "/healthz", &[("Host", host)]).await;
        assert!(
            matches!(answer.status, 400 | 403 | 421),
            "{host}: {answer:?}"
        );
    }
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let answer = plain(admin, "GET", "/healthz", &[("Host", &host)]).await;
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[tokio::test]
async fn the_public_listener_may_use_the_listeners_certificate() {
    let world = World::with(|settings, echo| {
        settings
            .set("public", "tls", "\"listener\"")
            .everything_to(echo)
    })
    .await;
    let client = countersign_testkit::Client::new(world.gateway.public(), "orders.example.org");
    let answer = client.get(JWKS).await.unwrap();
    assert_eq!(answer.status, 200);
    let keys: Value = answer.json();
    assert!(keys["keys"].is_array());
}
