//! Tests keys, introspection and cache together, against an issuer that misbehaves.

use std::time::Duration;

use countersign_testkit::{Fault, Idp, TokenKey};
use countersign_verify::jose::Algorithm;
use rustls::RootCertStore;
use serde_json::{Value, json};

use super::super::binding::CertificateBinding;
use super::super::introspection::ClientAuthentication;
use super::super::jwks::KeySettings;
use super::super::key_location::KeyLocation;
use super::super::token_type::TokenType;
use super::*;
use crate::clock;
use crate::http_client::{ClientSettings, HttpClient, checked_url};

const THUMBPRINT: [u8; 32] = [7; 32];

fn client() -> HttpClient {
    HttpClient::new(&ClientSettings {
        roots: Arc::new(RootCertStore::empty()),
        certificate: None,
        timeout: Duration::from_millis(500),
    })
    .unwrap()
}

fn rules(idp: &Idp) -> ClaimRules {
    ClaimRules {
        issuer: idp.issuer(),
        audiences: vec!["orders".to_owned(), "payments".to_owned()],
        binding: CertificateBinding::Required,
        skew: 0,
        keep: Vec::new(),
    }
}

fn introspector(idp: &Idp) -> Introspector {
    let authentication = ClientAuthentication::Certificate {
        client_id: "gateway".to_owned(),
    };
    let endpoint = checked_url(&idp.url(Idp::INTROSPECTION)).unwrap();
    Introspector::new(endpoint, client(), authentication)
}

fn jwt_issuer(idp: &Idp) -> TokenIssuer {
    let location = KeyLocation::metadata(&idp.issuer()).unwrap();
    let check = TokenCheck::Jwt {
        keys: IssuerKeys::remote(location, client(), KeySettings::default()),
        rules: TokenRules {
            claims: rules(idp),
            algorithms: vec![Algorithm::Es256],
            types: vec![TokenType::AccessToken],
        },
        introspector: Some(introspector(idp)),
    };
    TokenIssuer::new("corporate", check, CacheSettings::default())
}

fn opaque_issuer(idp: &Idp) -> TokenIssuer {
    let check = TokenCheck::Introspection {
        introspector: introspector(idp),
        rules: rules(idp),
    };
    TokenIssuer::new("opaque", check, CacheSettings::default())
}

fn demands(audience: &str, introspection: Introspection) -> RouteDemands {
    let demands = Demands {
        audience: Some(audience.to_owned()),
        ..Demands::default()
    };
    RouteDemands::new(demands, introspection)
}

fn claims(idp: &Idp) -> Value {
    let now = clock::unix_now();
    json!({
        "iss": idp.issuer(), "aud": "orders", "sub": "alice", "client_id": "app", "jti": "1",
        "iat": now, "exp": now + 100, "cnf": {"x5t#S256": base64url_encode(&THUMBPRINT)},
    })
}

fn presenter(thumbprint: Option<&[u8; 32]>) -> Presenter<'_> {
    Presenter {
        caller: ShareKey::of_address([127, 0, 0, 1].into()),
        thumbprint,
        now: clock::unix_now(),
    }
}

async fn reason(
    issuer: &TokenIssuer,
    token: &str,
    demands: &RouteDemands,
    thumbprint: Option<&[u8; 32]>,
) -> Option<ReasonCode> {
    let judgement = issuer.judge(token, demands, presenter(thumbprint)).await;
    judgement.err().map(|denial| denial.reason)
}

#[tokio::test]
async fn a_remembered_token_is_good_for_its_route_and_certificate_only() {
    let idp = Idp::start().await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    let issuer = jwt_issuer(&idp);
    let token = key.sign(&claims(&idp));
    let orders = demands("orders", Introspection::AsNeeded);
    let payments = demands("payments", Introspection::AsNeeded);
    issuer.keys().unwrap().fetch().await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            reason(&issuer, &token, &orders, Some(&THUMBPRINT)).await,
            None
        );
        let other = reason(&issuer, &token, &payments, Some(&THUMBPRINT)).await;
        assert_eq!(other, Some(ReasonCode::TokenAudience));
        for thumbprint in [None, Some(&[8; 32])] {
            let stolen = reason(&issuer, &token, &orders, thumbprint).await;
            assert_eq!(stolen, Some(ReasonCode::TokenBindingMismatch));
        }
    }
    assert_eq!(issuer.cache().len(), 4);
    assert_eq!(idp.count(Idp::KEYS), 1);
    assert_eq!(idp.count(Idp::INTROSPECTION), 0);
}

#[tokio::test]
async fn judgements_die_with_the_key() {
    let idp = Idp::start().await;
    let (one, two) = (TokenKey::new("one"), TokenKey::new("two"));
    idp.publish(&[&one]);
    let issuer = jwt_issuer(&idp);
    let token = one.sign(&claims(&idp));
    let orders = demands("orders", Introspection::AsNeeded);
    assert_eq!(
        reason(&issuer, &token, &orders, Some(&THUMBPRINT)).await,
        None
    );
    idp.publish(&[&two]);
    issuer.keys().unwrap().fetch().await.unwrap();
    assert_eq!(
        reason(&issuer, &token, &orders, Some(&THUMBPRINT)).await,
        Some(ReasonCode::TokenSignature)
    );
    // The new key has the same identifier as the first key. Tokens of the first key must be
    // refused, and tokens of the new key must be accepted.
    let again = TokenKey::new("one");
    idp.publish(&[&again]);
    issuer.keys().unwrap().fetch().await.unwrap();
    assert_eq!(
        reason(&issuer, &token, &orders, Some(&THUMBPRINT)).await,
        Some(ReasonCode::TokenSignature)
    );
    let fresh = again.sign(&claims(&idp));
    assert_eq!(
        reason(&issuer, &fresh, &orders, Some(&THUMBPRINT)).await,
        None
    );
}

#[tokio::test]
async fn an_issuer_that_is_down_is_not_a_bad_token() {
    let idp = Idp::start().await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    idp.fault(Idp::METADATA, Fault::Status(500));
    let issuer = jwt_issuer(&idp);
    let token = key.sign(&claims(&idp));
    let orders = demands("orders", Introspection::AsNeeded);
    let down = reason(&issuer, &token, &orders, Some(&THUMBPRINT)).await;
    assert_eq!(down, Some(ReasonCode::KeysUnavailable));
    assert!(issuer.cache().is_empty());
    // A token that is refused without a key causes no request to the issuer.
    let before = idp.count(Idp::METADATA);
    let forged = key.sign_with(&json!({"alg": "none", "typ": "at+jwt"}), &claims(&idp));
    let refused = reason(&issuer, &forged, &orders, Some(&THUMBPRINT)).await;
    assert_eq!(refused, Some(ReasonCode::TokenAlgorithm));
    assert_eq!(idp.count(Idp::METADATA), before);
    idp.mend();
    issuer.keys().unwrap().fetch().await.unwrap();
    assert_eq!(
        reason(&issuer, &token, &orders, Some(&THUMBPRINT)).await,
        None
    );
}

#[tokio::test]
async fn routes_choose_how_often_the_issuer_is_asked() {
    let idp = Idp::start().await;
    let key = TokenKey::new("one");
    idp.publish(&[&key]);
    let issuer = jwt_issuer(&idp);
    let token = key.sign(&claims(&idp));
    let mut active = claims(&idp);
    active["active"] = json!(true);
    idp.introspect_as(active);
    let always = demands("orders", Introspection::Always);
    let once = demands("orders", Introspection::OncePer(30));
    for demands in [&always, &always, &once, &once] {
        assert_eq!(
            reason(&issuer, &token, demands, Some(&THUMBPRINT)).await,
            None
        );
    }
    assert_eq!(idp.count(Idp::INTROSPECTION), 3);
    idp.introspect_as(json!({"active": false}));
    assert_eq!(
        reason(&issuer, &token, &always, Some(&THUMBPRINT)).await,
        Some(ReasonCode::TokenInactive)
    );
    assert_eq!(
        reason(&issuer, &token, &once, Some(&THUMBPRINT)).await,
        None
    );
    issuer.cache().purge();
    assert_eq!(
        reason(&issuer, &token, &once, Some(&THUMBPRINT)).await,
        Some(ReasonCode::TokenInactive)
    );
}

#[tokio::test]
async fn opaque_tokens_are_judged_by_what_the_issuer_says() {
    let idp = Idp::start().await;
    let issuer = opaque_issuer(&idp);
    let orders = demands("orders", Introspection::AsNeeded);
    let of = async |document: Value, thumbprint: Option<&[u8; 32]>| {
        idp.introspect_as(document);
        issuer.cache().purge();
        reason(&issuer, "opaque", &orders, thumbprint).await
    };
    let mut active = claims(&idp);
    active["active"] = json!(true);
    assert_eq!(of(active.clone(), Some(&THUMBPRINT)).await, None);
    let mismatch = Some(ReasonCode::TokenBindingMismatch);
    assert_eq!(of(active.clone(), None).await, mismatch);
    assert_eq!(of(active.clone(), Some(&[8; 32])).await, mismatch);
    let inactive = of(json!({"active": false}), Some(&THUMBPRINT)).await;
    assert_eq!(inactive, Some(ReasonCode::TokenInactive));
    active["cnf"] = json!(null);
    let malformed = of(active.clone(), Some(&THUMBPRINT)).await;
    assert_eq!(malformed, Some(ReasonCode::TokenMalformed));
    active.as_object_mut().unwrap().remove("cnf");
    let unbound = of(active.clone(), Some(&THUMBPRINT)).await;
    assert_eq!(unbound, Some(ReasonCode::TokenUnbound));
    active["exp"] = json!(1);
    active["cnf"] = claims(&idp)["cnf"].clone();
    let expired = of(active, Some(&THUMBPRINT)).await;
    assert_eq!(expired, Some(ReasonCode::TokenExpired));
}

#[tokio::test]
async fn a_burst_of_one_token_asks_once() {
    let idp = Idp::start().await;
    let mut active = claims(&idp);
    active["active"] = json!(true);
    idp.introspect_as(active);
    idp.fault(Idp::INTROSPECTION, Fault::Slow(Duration::from_millis(50)));
    let issuer = Arc::new(opaque_issuer(&idp));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let issuer = Arc::clone(&issuer);
            tokio::spawn(async move {
                let orders = demands("orders", Introspection::AsNeeded);
                reason(&issuer, "opaque", &orders, Some(&THUMBPRINT)).await
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), None);
    }
    assert_eq!(idp.count(Idp::INTROSPECTION), 1);
}
