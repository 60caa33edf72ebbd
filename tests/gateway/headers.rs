//! Neither callers nor services can forge the header fields of the gateway.

use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::http2;
use countersign_testkit::{Answer, Protocol};
use http::{HeaderName, HeaderValue, Request};
use serde_json::Value;

use crate::support::{HOST, World, decode};

/// The value of all forged fields. It must not arrive.
const FORGED: &str = "forged";

/// Fields that only the gateway may set. Also fields of other gateways and proxies, because
/// services trust these fields.
const FORGEABLE: [&str; 77] = [
    "Countersign-Assertion",
    "Countersign-Reason",
    "Countersign-Anything",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "X-Original-Host",
    "SCRIPT_NAME",
    "Path_Info",
    "Daphne-Root-Path",
    "X-Script-Name",
    "Fastly-Client-IP",
    "Proxy-Client-IP",
    "WL-Proxy-Client-Cert",
    "X-Azure-ClientIP",
    "X-Azure-SocketIP",
    "X-Appengine-User-IP",
    "X-Remote-Group",
    "Remote-Groups",
    "Remote-Email",
    "Remote-Name",
    "X-Original-URL",
    "X-Original-URI",
    "X-Rewrite-URL",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Request-Id",
    "X-Real-IP",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Cluster-Client-IP",
    "Remote-User",
    "X-Remote-User",
    "X-Webauth-User",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Amzn-Oidc-Data",
    "X-Amzn-Oidc-Identity",
    "X-MS-Client-Principal",
    "X-MS-Client-Principal-Name",
    "X-Goog-Authenticated-User-Email",
    "X-Goog-Iap-Jwt-Assertion",
    "Cf-Access-Jwt-Assertion",
    "Cf-Access-Authenticated-User-Email",
    "X-Pomerium-Jwt-Assertion",
    "X-Pomerium-Claim-Email",
    "X-Consumer-Id",
    "X-Consumer-Username",
    "Txn-Token",
    "Workload-Identity-Token",
    "WIMSE-Token",
    "X-ARR-ClientCert",
    "X-Amzn-Mtls-Clientcert",
    "X-Amzn-Mtls-Clientcert-Subject",
    "X-SSL-Cert",
    "X-SSL-Client-S-DN",
    "SSL-Cert",
    "SSL-Client-Verify",
    "X-Client-Cert",
    "X-Client-DN",
    "X-Client-SAN",
    "X-SPIFFE-ID",
    "X-TLS-Client-Cert",
    "X-Envoy-External-Address",
    "X-Envoy-Original-Path",
    "Proxy",
];

/// Returns all spellings that some servers read as `name`.
fn spellings(name: &str) -> Vec<String> {
    let mut all: Vec<String> = ["-", "_", ".", "!", "~"]
        .iter()
        .map(|separator| name.replace('-', separator))
        .collect();
    all.push(name.replacen('-', "_", 1));
    all.push(name.to_ascii_uppercase());
    all.push(name.to_ascii_lowercase());
    all
}

fn forged_request(names: &[String]) -> Request<Bytes> {
    let mut request = countersign_testkit::client::get("/a");
    for name in names {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        // Each field occurs twice, because the gateway must remove all copies.
        for _ in 0..2 {
            request
                .headers_mut()
                .append(name.clone(), HeaderValue::from_static(FORGED));
        }
    }
    request
}

/// Checks that no field of the request at the service has a forged value.
fn assert_nothing_forged(seen: &Value) {
    for field in seen["headers"].as_array().unwrap() {
        assert!(!field[1].as_str().unwrap().contains(FORGED), "{field}");
    }
}

fn assert_ours(answer: &Answer) {
    let assertions = answer.received("countersign-assertion");
    assert_eq!(assertions.len(), 1, "{answer:?}");
    assert_eq!(decode(&assertions[0]).1["aud"], "orders");
}

#[tokio::test]
async fn forged_fields_never_arrive_in_any_spelling() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for name in FORGEABLE {
            let answer = session
                .send(forged_request(&spellings(name)))
                .await
                .unwrap();
            assert_eq!(answer.status, 200, "{protocol:?} {name}");
            assert_nothing_forged(&answer.json());
            assert_ours(&answer);
        }
    }
}

#[tokio::test]
async fn forged_fields_never_arrive_without_a_certificate_either() {
    let world = World::open_to_all().await;
    for client in [world.anonymous(), world.client()] {
        for protocol in Protocol::BOTH {
            let mut session = client.clone().protocol(protocol).session().await.unwrap();
            for name in FORGEABLE {
                let answer = session
                    .send(forged_request(&spellings(name)))
                    .await
                    .unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_nothing_forged(&answer.json());
                assert_eq!(answer.received("countersign-assertion"), [""; 0]);
            }
        }
    }
}

/// Makes an HTTP/1.1 request with these trailers.
fn in_chunks(trailers: &[String]) -> String {
    let lines: String = trailers
        .iter()
        .map(|name| format!("{name}: {FORGED}\r\n"))
        .collect();
    format!(
        "POST /trailers HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: {}, X-Checksum\r\n\r\n4\r\nbody\r\n0\r\n{lines}X-Checksum: 1\r\n\r\n",
        trailers.join(", ")
    )
}

#[tokio::test]
async fn forged_fields_never_arrive_as_trailers_in_any_spelling() {
    let world = World::open().await;
    let mut session = world.client().connect().await.unwrap();
    for name in FORGEABLE {
        let request = in_chunks(&spellings(name));
        session.write(request.as_bytes()).await.unwrap();
        let answer = session.read_until(|octets| octets.ends_with(b"}")).await;
        assert_eq!(answer.statuses(), [200], "{name}: {}", answer.text());
    }
    let seen = world.echo.seen();
    assert_eq!(seen.len(), FORGEABLE.len());
    for seen in seen {
        assert_eq!(seen["trailers"].to_string(), r#"[["x-checksum","1"]]"#);
        assert_nothing_forged(&seen);
    }
}

/// Starts a gateway whose upstream has these header rules.
async fn with_rules(rules: &str) -> World {
    World::with(|settings, echo| {
        settings.upstream_with("orders", echo, rules).route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\n",
        )
    })
    .await
}

#[tokio::test]
async fn a_field_that_is_kept_arrives_in_that_spelling_alone() {
    let world = with_rules("keep_headers = [\"X-Envoy-*\", \"Remote-User\"]\n").await;
    for protocol in Protocol::BOTH {
        let request = Request::get("/a")
            .header("x-envoy-retry-on", "5xx")
            .header("remote-user", "alice")
            .header("remote-user", "bob")
            .header("x_envoy-retry-on", FORGED)
            .header("remote_user", FORGED)
            .header("x-remote-user", FORGED)
            .header("x-forwarded-for", FORGED)
            .header("countersign-reason", FORGED)
            .body(Bytes::new())
            .unwrap();
        let client = world.client().protocol(protocol);
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.received("x-envoy-retry-on"), ["5xx"]);
        assert_eq!(answer.received("remote-user"), ["alice", "bob"]);
        assert_nothing_forged(&answer.json());
        assert_ours(&answer);
    }
    let names = ["Remote_User", "X-Envoy-Retry-On"].map(str::to_owned);
    let mut connection = world.client().connect().await.unwrap();
    let request = in_chunks(&names);
    connection.write(request.as_bytes()).await.unwrap();
    connection.read_until(|octets| octets.ends_with(b"}")).await;
    let trailers = world.echo.seen().pop().unwrap()["trailers"].clone();
    let mut trailers: Vec<_> = trailers.as_array().unwrap().iter().map(|t| &t[0]).collect();
    trailers.sort_unstable_by_key(|name| name.to_string());
    assert_eq!(trailers, ["x-checksum", "x-envoy-retry-on"]);
}

#[tokio::test]
async fn a_kept_field_of_one_upstream_does_not_reach_another() {
    let world = World::with(|settings, echo| {
        settings
            .upstream_with("trusting", echo, "keep_headers = [\"Remote-User\"]\n")
            .upstream("orders", echo)
            .route(
                "trusting",
                "trusting",
                "paths = [\"/t/**\"]\ncallers = [\"*\"]\n",
            )
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
    })
    .await;
    for (path, arrived) in [("/t/a", &["alice"][..]), ("/a", &[])] {
        let request = Request::get(path).header("remote-user", "alice");
        let request = request.body(Bytes::new()).unwrap();
        let answer = world.client().send(request).await.unwrap();
        assert_eq!(answer.received("remote-user"), arrived, "{path}");
    }
}

#[tokio::test]
async fn further_fields_are_removed_in_every_spelling() {
    let world = with_rules("remove_headers = [\"X-Debug-*\", \"Cookie\"]\ntrace = \"off\"\n").await;
    for protocol in Protocol::BOTH {
        let mut names = spellings("X-Debug-Level");
        names.push("cookie".to_owned());
        let mut request = forged_request(&names);
        let kept = HeaderValue::from_static("kept");
        request.headers_mut().insert("x-debu", kept);
        let client = world.client().protocol(protocol);
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_nothing_forged(&answer.json());
        assert_eq!(answer.received("x-debu"), ["kept"]);
    }
}

#[tokio::test]
async fn an_allow_list_passes_its_fields_and_those_of_http_alone() {
    let rules = "pass_headers = [\"X-Team-*\"]\nremove_headers = [\"X-Team-Secret\"]\n\
                 keep_headers = [\"X-Envoy-Retry-On\"]\n";
    let world = with_rules(rules).await;
    for protocol in Protocol::BOTH {
        let request = Request::post("/a")
            .header("content-type", "text/plain")
            .header("accept", "application/json")
            .header("if-none-match", "\"1\"")
            .header("x-team-name", "shop")
            .header("x-envoy-retry-on", "5xx")
            .header("x-team-secret", FORGED)
            .header("x_team_name", FORGED)
            .header("user-agent", FORGED)
            .header("cookie", FORGED)
            .header("x-custom", FORGED)
            .header("remote-user", FORGED)
            .header("authorization", FORGED)
            .body(Bytes::from_static(b"body"))
            .unwrap();
        let client = world.client().protocol(protocol);
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, 200);
        let seen = answer.json();
        assert_nothing_forged(&seen);
        let mut names: Vec<_> = seen["headers"].as_array().unwrap().iter().collect();
        names.sort_unstable_by_key(|field| field.to_string());
        let names: Vec<_> = names
            .iter()
            .map(|field| field[0].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "accept",
                "content-length",
                "content-type",
                "countersign-assertion",
                "host",
                "if-none-match",
                "traceparent",
                "via",
                "x-envoy-retry-on",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-request-id",
                "x-team-name",
            ],
            "{protocol:?}"
        );
        assert_eq!(seen["body"], "body");
    }
    let names = ["X-Team-Sum", "X-Team-Secret", "X-Other"].map(str::to_owned);
    let mut connection = world.client().connect().await.unwrap();
    let request = in_chunks(&names);
    connection.write(request.as_bytes()).await.unwrap();
    connection.read_until(|octets| octets.ends_with(b"}")).await;
    let seen = world.echo.seen().pop().unwrap();
    assert_eq!(
        seen["trailers"].to_string(),
        format!(r#"[["x-team-sum","{FORGED}"]]"#)
    );
}

#[tokio::test]
async fn connection_cannot_remove_what_the_gateway_adds() {
    let world = World::open().await;
    for named in [
        "countersign-assertion",
        "close, Countersign-Assertion",
        "keep-alive,COUNTERSIGN-ASSERTION,x-request-id",
        "countersign_assertion, host, content-length",
    ] {
        let request = Request::post("/a")
            .header("connection", named)
            .header("countersign-assertion", FORGED)
            .body(Bytes::from_static(b"body"))
            .unwrap();
        let answer = world.client().send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{named}");
        assert_ours(&answer);
        assert_nothing_forged(&answer.json());
        assert_eq!(answer.json()["body"], "body");
        assert_eq!(answer.received("host"), [HOST]);
    }
}

#[tokio::test]
async fn fields_for_one_hop_stop_here() {
    let world = World::open().await;
    let request = Request::get("/a")
        .header("connection", "x-hop, X-Other-Hop")
        .header("x-hop", FORGED)
        .header("x-other-hop", FORGED)
        .header("keep-alive", FORGED)
        .header("proxy-connection", FORGED)
        .header("proxy-authorization", FORGED)
        .header("te", "trailers")
        .body(Bytes::new())
        .unwrap();
    let answer = world.client().send(request).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_nothing_forged(&answer.json());
    for name in ["connection", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.received(name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn ordinary_fields_arrive_unchanged_and_credentials_do_not() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let request = Request::get("/a")
            .header("authorization", "Bearer forged")
            .header("cookie", "a=b; c=d")
            .header("accept", "text/plain")
            .header("accept", "*/*")
            .header("x-custom", "spaces  and \"quotes\"")
            .header("x_underscore", "kept")
            .header("x-forward", "kept")
            .body(Bytes::new())
            .unwrap();
        let answer = world
            .client()
            .protocol(protocol)
            .send(request)
            .await
            .unwrap();
        assert_eq!(answer.status, 200);
        assert_nothing_forged(&answer.json());
        assert_eq!(answer.received("authorization"), [""; 0]);
        assert_eq!(answer.received("cookie"), ["a=b; c=d"]);
        assert_eq!(answer.received("accept"), ["text/plain", "*/*"]);
        assert_eq!(answer.received("x-custom"), ["spaces  and \"quotes\""]);
        assert_eq!(answer.received("x_underscore"), ["kept"]);
        assert_eq!(answer.received("x-forward"), ["kept"]);
    }
}

#[tokio::test]
async fn many_cookie_fields_of_http2_arrive_as_one() {
    let world = World::open().await;
    let request = Request::get("/a")
        .header("cookie", "a=b")
        .header("cookie", "c=d")
        .body(Bytes::new())
        .unwrap();
    let client = world.client().protocol(Protocol::Http2);
    let answer = client.send(request).await.unwrap();
    // RFC 9113 section 8.2.3: the gateway joins the cookie fields of an h2 request.
    assert_eq!(answer.received("cookie"), ["a=b; c=d"]);
}

#[tokio::test]
async fn the_services_fields_cannot_pass_for_the_gateways() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let client = world.client().protocol(protocol);
        let answer = client.get("/forged").await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-service"), Some("kept"));
        for name in [
            "countersign-reason",
            "countersign_assertion",
            "x-hop",
            "keep-alive",
        ] {
            assert_eq!(answer.header(name), None, "{protocol:?} {name}");
        }
        let own = client.get("/status/401").await.unwrap();
        assert_eq!(own.status, 401);
        assert_eq!(own.reason(), None);
    }
}

#[tokio::test]
async fn forged_trailers_of_http1_are_left_out() {
    let world = World::open().await;
    let request = format!(
        "POST /trailers HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Checksum, Countersign-Assertion\r\n\r\n4\r\nbody\r\n0\r\n\
         Countersign-Assertion: forged\r\ncountersign_assertion: forged\r\n\
         X-Forwarded-For: forged\r\nClient-Cert: forged\r\nAuthorization: forged\r\n\
         X-Checksum: 1\r\n\r\n"
    );
    let answer = world
        .client()
        .raw(request.as_bytes(), Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(answer.statuses(), [200], "{}", answer.text());
    let seen = world.echo.seen().remove(0);
    assert_eq!(seen["body"], "body");
    assert!(!seen["trailers"].to_string().contains(FORGED), "{seen}");
    assert!(
        seen["trailers"].to_string().contains("x-checksum"),
        "{seen}"
    );
    assert_nothing_forged(&seen);
}

#[tokio::test]
async fn forged_trailers_of_http2_are_left_out() {
    let world = World::open().await;
    let mut octets = http2::preface();
    octets.extend(http2::headers(
        1,
        false,
        &[
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", HOST),
            (":path", "/trailers"),
            (
                "trailer",
                "countersign-assertion, x-forwarded-for, x-checksum",
            ),
        ],
    ));
    octets.extend(http2::data(1, false, b"body"));
    octets.extend(http2::headers(
        1,
        true,
        &[
            ("countersign-assertion", FORGED),
            ("countersign_assertion", FORGED),
            ("x-forwarded-for", FORGED),
            ("x-checksum", "1"),
        ],
    ));
    let client = world.client().protocol(Protocol::Http2);
    let answer = client
        .raw(&octets, Duration::from_millis(300))
        .await
        .unwrap();
    let frames = http2::frames(&answer.octets);
    assert!(frames.iter().any(http2::Frame::is_success), "{frames:?}");
    let seen = world.echo.seen().remove(0);
    assert_eq!(seen["body"], "body");
    assert!(!seen["trailers"].to_string().contains(FORGED), "{seen}");
    assert!(
        seen["trailers"].to_string().contains("x-checksum"),
        "{seen}"
    );
}
