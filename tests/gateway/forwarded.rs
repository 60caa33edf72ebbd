//! Fields for services besides the assertion: the origin of a request, its trace, and the caller's
//! certificate.

use base64ct::Encoding as _;
use bytes::Bytes;
use countersign_testkit::client::get;
use countersign_testkit::{Answer, Leaf, Protocol};
use http::Request;

use crate::support::{HOST, World};

/// Starts a gateway with several upstreams, each with further keys. `/NAME` leads to upstream
/// `NAME`.
async fn world(upstreams: &[(&str, &str)]) -> World {
    World::with(|settings, echo| {
        let mut settings = settings.optional_certificates();
        for (name, more) in upstreams {
            settings = settings.upstream_with(name, echo, more).route(
                name,
                name,
                &format!("paths = [\"/{name}/**\"]\ncallers = [\"*\"]\n"),
            );
        }
        settings
            .upstream_with("open", echo, "certificate_headers = [\"client-cert\"]\n")
            .route(
                "open",
                "open",
                "paths = [\"/open/**\"]\nauthenticate = \"none\"\n",
            )
    })
    .await
}

async fn forged(world: &World, protocol: Protocol, path: &str) -> Answer {
    let request = Request::get(path)
        .header("x-forwarded-for", "6.6.6.6")
        .header("x_forwarded_for", "6.6.6.6")
        .header("x-forwarded-proto", "http")
        .header("x-forwarded-host", "evil.example")
        .header("x-forwarded-port", "1")
        .header("forwarded", "for=6.6.6.6")
        .header("via", "1.0 caller")
        .body(Bytes::new())
        .unwrap();
    let answer = world
        .client()
        .protocol(protocol)
        .send(request)
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

#[tokio::test]
async fn each_upstream_says_how_it_is_told_where_requests_come_from() {
    let world = world(&[
        ("default", ""),
        (
            "rfc",
            "forwarded = \"forwarded\"\nhost = \"orders.internal\"\n",
        ),
        ("both", "forwarded = \"both\"\n"),
        ("off", "forwarded = \"off\"\n"),
    ])
    .await;
    let old = [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", HOST),
    ];
    let new = format!("for=127.0.0.1;host={HOST};proto=https");
    for (name, has_old, has_new) in [
        ("default", true, false),
        ("rfc", false, true),
        ("both", true, true),
        ("off", false, false),
    ] {
        for protocol in Protocol::BOTH {
            let answer = forged(&world, protocol, &format!("/{name}/a")).await;
            for (field, value) in old {
                let expected: &[&str] = if has_old { &[value] } else { &[] };
                assert_eq!(answer.received(field), expected, "{name} {protocol:?}");
            }
            let expected: &[&str] = if has_new { &[&new] } else { &[] };
            assert_eq!(answer.received("forwarded"), expected, "{name}");
            assert!(!answer.json().to_string().contains("6.6.6.6"));
            assert_eq!(answer.received("x-forwarded-port"), [""; 0]);
            let received = match protocol {
                Protocol::Http1 => "1.1 countersign",
                Protocol::Http2 => "2.0 countersign",
            };
            assert_eq!(answer.received("via"), ["1.0 caller", received]);
        }
    }
}

#[tokio::test]
async fn a_trace_goes_on_or_begins() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let world = world(&[
        ("default", ""),
        ("restart", "trace = \"restart\"\n"),
        ("off", "trace = \"off\"\n"),
    ])
    .await;
    let traced = |path: &str, parents: &[&str]| {
        let mut request = Request::get(path).header("tracestate", "a=1");
        for parent in parents {
            request = request.header("traceparent", *parent);
        }
        request.body(Bytes::new()).unwrap()
    };
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        let answer = session
            .send(traced("/default/on", &[PARENT]))
            .await
            .unwrap();
        assert_eq!(answer.received("traceparent"), [PARENT]);
        assert_eq!(answer.received("tracestate"), ["a=1"]);
        for parents in [&[][..], &["garbage"], &[PARENT, PARENT]] {
            let answer = session.send(traced("/default/new", parents)).await.unwrap();
            let begun = answer.received("traceparent");
            assert_eq!(begun.len(), 1);
            assert_eq!((begun[0].len(), &begun[0][..3]), (55, "00-"));
            assert!(begun[0].ends_with("-00") && !begun[0].contains("4bf92f"));
            assert_eq!(answer.received("tracestate"), [""; 0]);
        }
        let answer = session.send(traced("/restart/a", &[PARENT])).await.unwrap();
        assert_ne!(answer.received("traceparent"), [PARENT]);
        assert_eq!(answer.received("tracestate"), [""; 0]);
        let answer = session.send(traced("/off/a", &["as it is"])).await.unwrap();
        assert_eq!(answer.received("traceparent"), ["as it is"]);
    }
    let line = world.gateway.audit().request("/default/on").await;
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let line = world.gateway.audit().request("/default/new").await;
    assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn a_service_is_told_the_callers_certificate_where_it_wants_it() {
    let world = world(&[
        ("default", ""),
        (
            "all",
            "certificate_headers = [\"client-cert\", \"client-cert-chain\", \"x-forwarded-client-cert\"]\n",
        ),
    ])
    .await;
    let sequence = |der: &[u8]| format!(":{}:", base64ct::Base64::encode_string(der));
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for _ in 0..2 {
            let mut request = get("/all/a");
            for name in [
                "client-cert",
                "client_cert_chain",
                "x-forwarded-client-cert",
            ] {
                request.headers_mut().insert(
                    http::HeaderName::from_static(name),
                    http::HeaderValue::from_static("forged"),
                );
            }
            let answer = session.send(request).await.unwrap();
            assert!(!answer.json().to_string().contains("forged"));
            assert_eq!(
                answer.received("client-cert"),
                [sequence(world.caller.leaf())]
            );
            let chain = &world.caller.chain;
            let issuers: Vec<String> = chain.iter().skip(1).map(|der| sequence(der)).collect();
            assert_eq!(answer.received("client-cert-chain"), [issuers.join(", ")]);
            let xfcc = answer.received("x-forwarded-client-cert");
            let hash: String = countersign_testkit::sha256(world.caller.leaf())
                .iter()
                .map(|octet| format!("{octet:02x}"))
                .collect();
            assert!(
                xfcc[0].starts_with(&format!("Hash={hash};Subject=\"")),
                "{xfcc:?}"
            );
            assert!(
                xfcc[0].ends_with(";URI=spiffe://example.org/ns/shop/sa/checkout"),
                "{xfcc:?}"
            );
        }
        let answer = session.get("/default/a").await.unwrap();
        assert_eq!(answer.received("client-cert"), [""; 0]);
        // On a route without authentication, the gateway does not send the certificate to the
        // service.
        for client in [world.client(), world.anonymous()] {
            let answer = client.protocol(protocol).get("/open/a").await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.received("client-cert"), [""; 0]);
        }
    }
}

#[tokio::test]
async fn names_in_a_certificate_cannot_inject_fields() {
    let world = world(&[(
        "all",
        "certificate_headers = [\"x-forwarded-client-cert\"]\n",
    )])
    .await;
    let caller = world.ca.issue(
        Leaf::with_uri("spiffe://example.org/ns/shop/sa/odd")
            .common_name("a\";URI=spiffe://example.org/admin,By=x\\\" \r\nX-Admin: 1"),
    );
    let client = world.anonymous().with(&caller);
    let answer = client.get("/all/a").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let xfcc = answer.received("x-forwarded-client-cert");
    assert_eq!(xfcc.len(), 1);
    let outside: String = xfcc[0].split('"').step_by(2).collect();
    assert_eq!(xfcc[0].matches('"').count(), 2, "{xfcc:?}");
    assert_eq!(outside.matches("URI=").count(), 1, "{xfcc:?}");
    assert!(outside.ends_with(";URI=spiffe://example.org/ns/shop/sa/odd"));
    assert!(!outside.contains("By="));
    assert_eq!(answer.received("x-admin"), [""; 0]);
}
