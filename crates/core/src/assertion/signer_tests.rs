//! Tests of `signer.rs`.

use std::net::IpAddr;

use countersign_testkit::{Leaf, TestCa};
use countersign_verify::claims::Assertion;
use countersign_verify::{AssertionVerifier, RequestParts};
use rustls_pki_types::UnixTime;

use countersign_verify::claims::MAX_SANS_PER_TYPE;

use super::*;
use crate::assertion::{SigningAlgorithm, key_directory};
use crate::clock;
use crate::identity::{
    ApiKeyUse, CallerName, IdentityPattern, NameType, PeerIdentity, TokenClaims,
};
use crate::policy::{Authentication, Rule, decide};
use crate::trust::TrustBundleConfig;
use crate::trust::fixture::{config, trust};

fn peer(leaf: Leaf) -> Arc<PeerIdentity> {
    let ca = TestCa::new("example.org");
    let credentials = ca.issue(leaf);
    let trust = trust(TrustBundleConfig {
        vouches_for: vec![IdentityPattern::AnyCaller],
        identity_from: NameType::ALL.to_vec(),
        ..config(&ca, &[])
    });
    let (first, rest) = credentials.chain.split_first().unwrap();
    trust.verify(first, rest, UnixTime::now()).unwrap()
}

fn permit(leaf: Leaf) -> Permit {
    let rule = Rule {
        authentication: Authentication::Certificate,
        callers: vec![IdentityPattern::AnyCaller],
        except: Vec::new(),
    };
    let principal = Principal::from_certificate(peer(leaf), clock::unix_now(), false);
    decide(&rule, Some(principal)).unwrap()
}

fn signer(algorithm: SigningAlgorithm) -> AssertionSigner {
    let directory = tempfile::tempdir().unwrap();
    key_directory::generate(directory.path(), algorithm, clock::unix_now()).unwrap();
    let keys = SigningKeyRing::load(directory.path(), algorithm).unwrap();
    AssertionSigner::new(
        AssertionSettings {
            issuer: "https://gateway.example.org:9080".into(),
            header: http::HeaderName::from_static("countersign-assertion"),
            lifetime: Duration::from_secs(30),
            max_size: DEFAULT_MAX_SIZE,
        },
        Arc::new(keys),
    )
}

fn payload(assertion: &SignedAssertion) -> serde_json::Value {
    let wire = assertion.header_value().to_str().unwrap();
    let payload = wire.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

const ORDERS: Recipient<'_> = Recipient {
    audience: "orders",
    detail: AssertionDetail::Full,
};

const BINDING: RequestBinding<'_> = RequestBinding {
    method: "GET",
    authority: "orders.example.org",
    path: "/orders/\"7",
    query: Some(""),
    body_hash: Some(&[7; 32]),
    transaction: "t",
};

/// A leaf certificate with names of every type. Some names need escaping in JSON.
fn rich() -> Leaf {
    Leaf::with_uri("spiffe://example.org/ns/shop/sa/checkout")
        .dns("checkout.example.org")
        .email("a\\b\\c@example.org")
        .ip("10.0.0.1".parse::<IpAddr>().unwrap())
}

#[test]
fn what_is_written_by_hand_is_what_the_shared_types_write() {
    for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa] {
        let signer = signer(algorithm);
        let permit = permit(rich());
        let now = clock::unix_now();
        let request = signer.sign_request(&permit, ORDERS, &BINDING, now).unwrap();
        let caller = signer.sign_caller(&permit, ORDERS, now).unwrap();
        for assertion in [&request, &caller] {
            let written = payload(assertion);
            let typed: Assertion = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(&typed).unwrap(), written);
        }
        assert_eq!(
            payload(&request)["htu"],
            "https://orders.example.org/orders/\"7"
        );
        assert_eq!(payload(&request)["jti"].as_str(), request.jti());
        assert!(payload(&caller).get("htm").is_none() && caller.jti().is_none());
    }
}

#[test]
fn a_service_accepts_it_for_this_request_only() {
    for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa] {
        let signer = signer(algorithm);
        let now = clock::unix_now();
        let assertion = signer
            .sign_request(&permit(rich()), ORDERS, &BINDING, now)
            .unwrap();
        let verifier = AssertionVerifier::builder()
            .issuer("https://gateway.example.org:9080")
            .audience("orders")
            .jwks_json(signer.keys().jwks(now))
            .build()
            .unwrap();
        let token = assertion.header_value().to_str().unwrap();
        let ask = |method, target| {
            let about = RequestParts::new(method, "orders.example.org", target).unwrap();
            verifier.verify(token, &about)
        };
        assert_eq!(
            ask("GET", "/orders/\"7?").unwrap().sub,
            "spiffe://example.org/ns/shop/sa/checkout"
        );
        assert!(ask("POST", "/orders/\"7?").is_err());
        assert!(ask("GET", "/orders/8?").is_err());
        assert!(ask("GET", "/orders/\"7").is_err());
        assert!(ask("GET", "/orders/\"7?x").is_err());
    }
}

fn token(expires: u64) -> Arc<TokenClaims> {
    Arc::new(TokenClaims {
        issuer: "https://idp.example.org".into(),
        subject: Some("al\"ice".into()),
        client_id: Some("app".into()),
        scope: Some("a b".into()),
        token_id: None,
        hash: "h".repeat(43),
        expires,
        bound: true,
        kept: serde_json::Map::new(),
        text: std::sync::OnceLock::new(),
    })
}

fn permit_for(principal: Principal) -> Permit {
    let rule = Rule {
        authentication: Authentication::Any(principal.methods()),
        callers: vec![IdentityPattern::AnyCaller],
        except: Vec::new(),
    };
    decide(&rule, Some(principal)).unwrap()
}

#[test]
fn tokens_and_callers_without_certificate_are_as_the_shared_types_write_them() {
    let signer = signer(SigningAlgorithm::Es256);
    let now = clock::unix_now();
    let certified = Principal::from_certificate(peer(rich()), now, false);
    let client = CallerName::from_client("corporate", "app").unwrap();
    let key = ApiKeyUse {
        name: "batch".into(),
        id: "0123456789abcdef".into(),
        expires: None,
    };
    let by_key = Principal::named(CallerName::from_api_key("batch").unwrap(), now);
    for (principal, sub, methods) in [
        (
            certified.with_token(token(now + 10)),
            "spiffe://example.org/ns/shop/sa/checkout",
            "certificate token",
        ),
        (
            Principal::named(client, now).with_token(token(now + 10)),
            "client:corporate/app",
            "token",
        ),
        (by_key.with_api_key(key), "api-key:batch", "api-key"),
    ] {
        let has_token = principal.token().is_some();
        let has_certificate = principal.peer().is_some();
        let permit = permit_for(principal);
        let assertion = signer.sign_request(&permit, ORDERS, &BINDING, now).unwrap();
        let written = payload(&assertion);
        let typed: Assertion = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), written);
        assert_eq!(typed.sub, sub);
        assert_eq!(typed.authn.methods.join(" "), methods);
        assert_eq!(typed.client_cert.is_some(), has_certificate);
        assert_eq!(typed.exp, if has_token { now + 10 } else { now + 30 });
        let subject = typed.token.and_then(|token| token.sub);
        assert_eq!(subject.as_deref(), has_token.then_some("al\"ice"));
    }
}

#[test]
fn it_ends_with_the_token() {
    let now = clock::unix_now();
    let principal = Principal::from_certificate(peer(rich()), now, false);
    let permit = permit_for(principal.with_token(token(now + 5)));
    let signer = signer(SigningAlgorithm::Es256);
    let assertion = signer.sign_caller(&permit, ORDERS, now).unwrap();
    assert_eq!(assertion.expires(), now + 5);
    assert_eq!(
        signer.sign_caller(&permit, ORDERS, now + 5).unwrap_err(),
        SignError::CredentialExpired
    );
}

#[test]
fn it_ends_with_the_certificate() {
    let permit = permit(Leaf::with_uri("spiffe://example.org/a").valid(-3600, 20));
    let end = permit.principal().unwrap().peer().unwrap().path_not_after();
    let end = u64::try_from(end).unwrap();
    let signer = signer(SigningAlgorithm::Es256);
    let assertion = signer.sign_caller(&permit, ORDERS, end - 10).unwrap();
    assert_eq!(assertion.expires(), end);
    let assertion = signer.sign_caller(&permit, ORDERS, end - 1).unwrap();
    assert_eq!(assertion.expires(), end);
    // The certificate is valid in its last second (RFC 5280 section 4.1.2.5). `exp` is the first
    // second in which the assertion is not valid.
    let assertion = signer.sign_caller(&permit, ORDERS, end).unwrap();
    assert_eq!(assertion.expires(), end + 1);
    assert_eq!(
        signer.sign_caller(&permit, ORDERS, end + 1).unwrap_err(),
        SignError::Expired
    );
}

#[test]
fn a_connection_may_be_used_through_the_last_second_of_its_certificate() {
    let proof = crate::authn::ConnectionProof {
        identity: peer(Leaf::with_uri("spiffe://example.org/a")),
        proven_at: 0,
        resumed: false,
    };
    let end = proof.identity.path_not_after();
    assert!(proof.is_over_at(end - 1).is_none());
    assert!(proof.is_over_at(end).is_none());
    let denial = proof.is_over_at(end + 1).unwrap();
    assert_eq!(denial.reason, crate::reason::ReasonCode::CertificateExpired);
}

#[test]
fn many_names_are_truncated_and_say_so() {
    let mut leaf = Leaf::with_uri("spiffe://example.org/a");
    for number in 0..20 {
        leaf = leaf.dns(&format!("n{number}.example.org"));
    }
    let assertion = signer(SigningAlgorithm::Es256)
        .sign_caller(&permit(leaf), ORDERS, clock::unix_now())
        .unwrap();
    let cert = &payload(&assertion)["client_cert"];
    assert_eq!(
        cert["sans"]["dns"].as_array().unwrap().len(),
        MAX_SANS_PER_TYPE
    );
    assert_eq!(cert["sans_truncated"], true);
}

fn permit_with_groups(leaf: Leaf, length: usize, now: u64) -> Permit {
    let mut claims = TokenClaims::clone(&token(u64::MAX));
    claims
        .kept
        .insert("groups".into(), "g".repeat(length).into());
    let principal = Principal::from_certificate(peer(leaf), now, false);
    permit_for(principal.with_token(Arc::new(claims)))
}

#[test]
fn forwarded_claims_are_never_left_out() {
    let now = clock::unix_now();
    let signer = signer(SigningAlgorithm::Es256);
    let permit = permit_with_groups(rich(), 1500, now);
    let said = payload(&signer.sign_request(&permit, ORDERS, &BINDING, now).unwrap());
    assert_eq!(said["client_cert"]["issuer_truncated"], true);
    assert_eq!(said["token"]["groups"].as_str().unwrap().len(), 1500);
    assert_eq!(said["token"].as_object().unwrap().len(), 6, "{said}");

    let permit = permit_with_groups(rich(), 2600, now);
    for refused in [
        signer.sign_request(&permit, ORDERS, &BINDING, now),
        signer.sign_caller(&permit, ORDERS, now),
    ] {
        let Err(SignError::TooLong {
            member,
            member_size,
            ..
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(member, "token");
        assert!(member_size > 2600);
    }
}

#[test]
fn the_request_has_no_influence_on_what_is_left_out() {
    let now = clock::unix_now();
    let signer = signer(SigningAlgorithm::Es256);
    for (names, groups) in [(0, 0), (6, 0), (16, 0), (3, 700), (0, 1700)] {
        let leaf = (0..names).fold(rich(), |leaf, number| {
            leaf.dns(&format!("n{number}.{}.example.org", "a".repeat(50)))
        });
        let permit = permit_with_groups(leaf, groups, now);
        let about_caller = |path: usize, authority: usize| {
            let request = RequestBinding {
                path: &format!("/{}", "p".repeat(path)),
                authority: &"h".repeat(authority),
                ..BINDING
            };
            let signed = signer.sign_request(&permit, ORDERS, &request, now).ok()?;
            let said = payload(&signed);
            Some((said["client_cert"].clone(), said["token"].clone()))
        };
        let expected = about_caller(0, 1).unwrap();
        assert_eq!(expected.1["groups"].as_str().unwrap().len(), groups);
        let mut refused = 0;
        for path in (0..3000).step_by(50) {
            for authority in [1, 200] {
                match about_caller(path, authority) {
                    Some(found) => assert_eq!(found, expected, "{names} {groups} {path}"),
                    None => refused += 1,
                }
            }
        }
        assert!(refused > 0);
    }
}

#[test]
fn the_estimate_of_the_path_is_never_too_high() {
    let names = ["a".repeat(20), "a".repeat(900), "a".repeat(1900)];
    for detail in [AssertionDetail::Full, AssertionDetail::Compact] {
        for name in &names {
            let permit = permit(Leaf::with_uri(&format!("spiffe://example.org/{name}")));
            let caller = permit.principal().unwrap().caller().to_string();
            let recipient = Recipient { detail, ..ORDERS };
            for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa] {
                let signer = signer(algorithm);
                let texts = ["orders", "orders.example.org", "example.org", &caller];
                let texts = texts.iter().map(|text| text.len()).sum();
                let room = signer.settings().path_room(texts, detail);
                assert_eq!(room == WANTED_PATH, name.len() < 1000, "{room}");
                for (length, fits) in [(room, true), (room + 200, false)] {
                    if room == WANTED_PATH && !fits {
                        // A longer path can fit.
                        continue;
                    }
                    let path = "p".repeat(length);
                    let binding = RequestBinding {
                        method: "OPTIONS",
                        path: &path,
                        transaction: "0123456789012345678901",
                        ..BINDING
                    };
                    let now = clock::unix_now();
                    let signed = signer.sign_request(&permit, recipient, &binding, now);
                    assert_eq!(signed.is_ok(), fits, "{detail:?} {} {length}", name.len());
                }
            }
        }
    }
}
