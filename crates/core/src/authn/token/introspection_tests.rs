//! Tests introspection against an issuer that responds, and an issuer that misbehaves.

use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::{Fault, Idp};
use countersign_verify::jose::{CompactJws, Jwk, MAX_TOKEN_BYTES};
use rustls::RootCertStore;

use super::*;
use crate::http_client::{ClientSettings, checked_url};

/// Long enough for a response on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);

fn introspector(idp: &Idp, authentication: ClientAuthentication) -> Introspector {
    let client = HttpClient::new(&ClientSettings {
        roots: Arc::new(RootCertStore::empty()),
        certificate: None,
        timeout: TIMEOUT,
    })
    .unwrap();
    let endpoint = checked_url(&idp.url(Idp::INTROSPECTION)).unwrap();
    Introspector::new(endpoint, client, authentication)
}

fn caller() -> ShareKey {
    ShareKey::of_address([127, 0, 0, 1].into())
}

fn with_password(idp: &Idp) -> Introspector {
    let authentication = ClientAuthentication::Basic {
        client_id: "gate way".to_owned(),
        secret: Secret::from("p:ss+w".to_owned()),
    };
    introspector(idp, authentication)
}

#[tokio::test]
async fn the_token_goes_into_the_body_and_the_password_into_the_field() {
    let idp = Idp::start().await;
    assert_eq!(with_password(&idp).ask("a+b/c=", caller()).await, Ok(None));
    let asked = idp.asked();
    assert_eq!(
        asked.body,
        "token=a%2Bb%2Fc%3D&token_type_hint=access_token"
    );
    // The credentials are encoded as in RFC 6749 section 2.3.1: "gate%20way:p%3Ass%2Bw".
    assert_eq!(
        asked.headers["authorization"],
        format!("Basic {}", Base64::encode_string(b"gate%20way:p%3Ass%2Bw"))
    );
    idp.introspect_as(json!({"active": true, "sub": "alice"}));
    let claims = with_password(&idp)
        .ask("a", caller())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(claims["sub"], "alice");
    let shown = format!("{:?}", with_password(&idp));
    assert!(!shown.contains("p:ss"), "{shown}");
}

#[tokio::test]
async fn a_signed_assertion_is_fresh_each_time() {
    let idp = Idp::start().await;
    let scheme = SignatureScheme::EcdsaP256Sha256;
    let document = SigningKeyPair::generate_pkcs8(scheme).unwrap();
    let key = SigningKeyPair::from_pkcs8(scheme, document.expose()).unwrap();
    let public = Jwk::from_p256_point(key.public_key()).unwrap();
    let introspector = introspector(
        &idp,
        ClientAuthentication::PrivateKeyJwt {
            client_id: "gateway".to_owned(),
            audience: idp.issuer(),
            key_id: "k".to_owned(),
            scheme,
            key: Box::new(key),
        },
    );
    let mut seen = Vec::new();
    for _ in 0..2 {
        introspector.ask("a", caller()).await.unwrap();
        let body = idp.asked().body;
        let assertion = body.split("client_assertion=").nth(1).unwrap().to_owned();
        let jws = CompactJws::parse(&assertion, MAX_TOKEN_BYTES).unwrap();
        let claims = parse_object(jws.verify(&public).unwrap(), "claims").unwrap();
        assert_eq!(claims["aud"], idp.issuer());
        assert_eq!(claims["iss"], "gateway");
        assert_eq!(claims["sub"], "gateway");
        assert!(body.contains("client_assertion_type=urn%3Aietf%3Aparams"));
        seen.push(claims["jti"].clone());
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn anything_but_an_answer_is_a_failure_to_check() {
    let idp = Idp::start().await;
    let introspector = with_password(&idp);
    for fault in [
        Fault::Html,
        Fault::ContentType("text/html".to_owned()),
        Fault::Huge,
        Fault::Status(401),
        Fault::Status(500),
        Fault::Redirect("https://elsewhere.example/".to_owned()),
        Fault::Hangup,
        Fault::Slow(TIMEOUT * 10),
    ] {
        idp.fault(Idp::INTROSPECTION, fault.clone());
        let error = introspector.ask("a", caller()).await.unwrap_err();
        assert!(matches!(error, IntrospectionError::Fetch(_)), "{fault:?}");
        assert_eq!(Denial::from(error).reason, ReasonCode::KeysUnavailable);
    }
    idp.mend();
    for document in [
        json!({}),
        json!([]),
        json!({"active": "true"}),
        json!({"active": 1}),
        json!({"active": null}),
    ] {
        idp.introspect_as(document.clone());
        let error = introspector.ask("a", caller()).await.unwrap_err();
        assert_eq!(error, IntrospectionError::Malformed, "{document}");
    }
}

#[tokio::test]
async fn questions_at_once_are_bounded_whoever_still_waits() {
    // This server accepts connections, but never responds.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = HttpClient::new(&ClientSettings {
        roots: Arc::new(RootCertStore::empty()),
        certificate: None,
        timeout: Duration::from_secs(30),
    })
    .unwrap();
    let endpoint = checked_url(&format!("http://{address}/introspect")).unwrap();
    let authentication = ClientAuthentication::Certificate {
        client_id: "gateway".to_owned(),
    };
    let introspector = Arc::new(Introspector::new(endpoint, client, authentication));
    introspector.run_on(&tokio::runtime::Handle::current());
    let mut taken = Vec::new();
    let address = |host: u8| ShareKey::of_address([192, 0, 2, host].into());
    for host in 0..64 {
        let asking = Arc::clone(&introspector);
        let waiting = tokio::spawn(async move { asking.ask("a", address(host)).await });
        taken.push(listener.accept().await.unwrap());
        // If the caller aborts its request, the request to the issuer continues. It must therefore
        // still count for the caller.
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
    }
    let refused = introspector.ask("a", address(64)).await.unwrap_err();
    assert_eq!(refused, IntrospectionError::Fetch(FetchError::Busy));
}

#[tokio::test]
async fn equal_tokens_are_asked_about_once_at_a_time() {
    let idp = Idp::start().await;
    idp.introspect_as(json!({"active": true, "sub": "alice"}));
    idp.fault(Idp::INTROSPECTION, Fault::Slow(Duration::from_millis(100)));
    let introspector = Arc::new(with_password(&idp));
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let introspector = Arc::clone(&introspector);
            tokio::spawn(async move { introspector.ask("a", caller()).await })
        })
        .collect();
    for asked in asked {
        assert!(asked.await.unwrap().unwrap().is_some());
    }
    assert_eq!(idp.count(Idp::INTROSPECTION), 1);
    // A later request asks the issuer again, because the token may have been revoked.
    introspector.ask("a", caller()).await.unwrap();
    assert_eq!(idp.count(Idp::INTROSPECTION), 2);
    assert_eq!(
        (introspector.flights.count(), introspector.places.taken()),
        (0, 0)
    );
}

#[tokio::test]
async fn many_tokens_of_one_caller_leave_room_for_others() {
    let idp = Idp::start().await;
    idp.introspect_as(json!({"active": true, "sub": "alice"}));
    idp.fault(Idp::INTROSPECTION, Fault::Slow(Duration::from_millis(400)));
    let introspector = Arc::new(with_password(&idp));
    let ask = |token: String, caller| {
        let introspector = Arc::clone(&introspector);
        tokio::spawn(async move { introspector.ask(&token, caller).await })
    };
    let mallory: Vec<_> = (0..200).map(|n| ask(n.to_string(), caller())).collect();
    while introspector.places.taken() < 56 {
        tokio::task::yield_now().await;
    }
    let bob = ShareKey::of_address([127, 0, 0, 2].into());
    assert!(
        ask("bob's".to_owned(), bob)
            .await
            .unwrap()
            .unwrap()
            .is_some()
    );
    let mut refused = 0;
    for asked in mallory {
        match asked.await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, IntrospectionError::CallerLimit);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 144);
}
