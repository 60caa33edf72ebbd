//! Tokens and assertions that were made for another purpose, or made by an attacker who knows
//! only public keys.

use countersign_testkit::pem;
use serde_json::json;

use super::worlds::TokenWorld;
use super::{ask, issuer, refused};
use crate::support::{TOKEN_ISSUER, assertion_claims, base64url, get_with, reloaded, replace};

/// If a signature can be made with only the public key, the gateway must refuse it.
#[tokio::test]
async fn a_public_key_is_no_secret_to_sign_with() {
    use base64ct::Encoding as _;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};

    let route = "callers = [\"*\"]\ntoken = { issuer = \"corporate\" }";
    let world = TokenWorld::with("", route).await;
    let jwk = world.key.jwk();
    let part =
        |name: &str| base64ct::Base64UrlUnpadded::decode_vec(jwk[name].as_str().unwrap()).unwrap();
    // The prefix of the SubjectPublicKeyInfo of a P-256 key.
    let mut spki = vec![
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
    ];
    spki.extend(part("x"));
    spki.extend(part("y"));
    let claims = world.claims(json!({}));
    for secret in [
        pem("PUBLIC KEY", &spki).into_bytes(),
        pem("PUBLIC KEY", &spki).trim_end().as_bytes().to_vec(),
        spki.clone(),
        spki[26..].to_vec(),
        jwk.to_string().into_bytes(),
        Vec::new(),
    ] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let mut header = Header::new(algorithm);
            header.typ = Some("at+jwt".to_owned());
            header.kid = Some("one".to_owned());
            let key = EncodingKey::from_secret(&secret);
            let forged = jsonwebtoken::encode(&header, &claims, &key).unwrap();
            let answer = ask(&world.client(), "/a", &forged).await;
            refused(&answer, 401, "token-algorithm");
            // Even with the `kid` of the public key, the signature is not valid.
            let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": "one"});
            let rest = forged.split_once('.').unwrap().1;
            let renamed = format!("{}.{rest}", base64url(header.to_string().as_bytes()));
            let answer = ask(&world.client(), "/a", &renamed).await;
            refused(&answer, 401, "token-signature");
        }
    }
    assert_eq!(world.echo.requests(), 0);
    assert_eq!(ask(&world.client(), "/a", &world.token()).await.status, 200);
}

/// Two issuers may have the same key, for example as tenants of one provider. They must not share
/// cached tokens.
#[tokio::test]
async fn a_token_remembered_for_one_issuer_is_none_of_another() {
    let world = TokenWorld::open(|settings, keys, echo| {
        let other = issuer(keys, "")
            .replace("corporate", "other")
            .replace(TOKEN_ISSUER, "https://other.example.org");
        let route = |name: &str, issuer: &str| {
            format!("paths = [\"/{name}\"]\ncallers = [\"*\"]\ntoken = {{ issuer = \"{issuer}\" }}")
        };
        settings
            .section(&issuer(keys, ""))
            .section(&other)
            .upstream("orders", echo)
            .route("one", "orders", &route("one", "corporate"))
            .route("two", "orders", &route("two", "other"))
    })
    .await;
    let token = world.token();
    let theirs = world.token_with(json!({"iss": "https://other.example.org"}));
    for _ in 0..2 {
        assert_eq!(ask(&world.client(), "/one", &token).await.status, 200);
        let answer = ask(&world.client(), "/two", &token).await;
        refused(&answer, 401, "token-issuer");
        assert_eq!(ask(&world.client(), "/two", &theirs).await.status, 200);
        let answer = ask(&world.client(), "/one", &theirs).await;
        refused(&answer, 401, "token-issuer");
    }
}

/// The gateway does not accept its own assertion as a token, even if it is configured as a token
/// issuer.
#[tokio::test]
async fn an_assertion_that_is_sent_back_is_no_token() {
    let own = "https://gateway.example.org:9080";
    for types in ["", "types = [\"at+jwt\", \"jwt\", \"untyped\"]"] {
        let world = TokenWorld::open(|settings, keys, echo| {
            settings
                .section(&format!(
                    "[[token_issuer]]\nname = \"itself\"\nissuer = \"{own}\"\n\
                     audience = [\"orders\"]\njwks_file = \"{}\"\n\
                     certificate_binding = \"if-present\"\n{types}",
                    keys.display()
                ))
                .upstream("orders", echo)
                .route(
                    "plain",
                    "orders",
                    "paths = [\"/plain\"]\ncallers = [\"*\"]\naudience = \"orders\"",
                )
                .route(
                    "token",
                    "orders",
                    "paths = [\"/token\"]\ncallers = [\"*\"]\naudience = \"orders\"\n\
                     token = { issuer = \"itself\" }",
                )
        })
        .await;
        let file = world.ca.directory().join("keys.json");
        replace(&file, world.gateway.jwks().await);
        reloaded(&world.gateway).await;
        let answer = world.client().get("/plain").await.unwrap();
        let received = answer.received("countersign-assertion").remove(0);
        let claims = assertion_claims(&answer);
        assert_eq!(
            (&claims["iss"], &claims["aud"]),
            (&json!(own), &json!("orders"))
        );
        let answer = ask(&world.client(), "/token", &received).await;
        refused(&answer, 401, "token-type");
        // In its own header field, the assertion does not authenticate the caller either.
        let anonymous = get_with("/token", &[("countersign-assertion", &received)]);
        let answer = world.client().send(anonymous).await.unwrap();
        refused(&answer, 401, "token-missing");
    }
}
