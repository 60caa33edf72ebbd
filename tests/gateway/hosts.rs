//! The TLS server name of a connection limits the hosts in its requests.

use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::{Client, Credentials, Protocol, TestCa};
use http::Request;

use crate::support::World;

/// A gateway with `[[server_name]]` entries for `orders.example.org` and `*.internal.example.org`.
/// These entries and the default entry have different certificates.
struct Names {
    world: World,
    orders: Credentials,
    internal: Credentials,
    default: Credentials,
}

async fn names() -> Names {
    let ca = TestCa::new("example.org");
    let orders = ca.server(&["orders.example.org"]);
    let internal = ca.server(&["*.internal.example.org"]);
    let default = ca.server(&["default.example.org"]);
    let entry = "trust_domains = [\"example.org\"]\nclient_certificate = ";
    let world = World::of(ca, |settings, ca, echo| {
        settings
            .server(&default)
            .optional_certificates()
            .server_name(
                ca.directory(),
                &["orders.example.org"],
                &orders,
                &format!("{entry}\"required\""),
            )
            .server_name(
                ca.directory(),
                &["*.internal.example.org"],
                &internal,
                &format!("{entry}\"optional\""),
            )
            .everything_to(echo)
    })
    .await;
    Names {
        world,
        orders,
        internal,
        default,
    }
}

impl Names {
    fn client(&self, server_name: Option<&str>, host: &str) -> Client {
        self.world.client().server_name(server_name).host(host)
    }
}

async fn status(client: &Client) -> u16 {
    let answer = client.get("/a").await.unwrap();
    let expected = match answer.status {
        421 => Some("host-mismatch"),
        400 => Some("malformed-request"),
        _ => None,
    };
    assert_eq!(answer.reason(), expected, "{answer:?}");
    answer.status
}

#[tokio::test]
async fn each_name_presents_its_own_certificate() {
    let names = names().await;
    for (server_name, expected) in [
        (Some("orders.example.org"), &names.orders),
        (Some("Orders.EXAMPLE.org"), &names.orders),
        (Some("a.internal.example.org"), &names.internal),
        (Some("a.b.internal.example.org"), &names.default),
        (Some("internal.example.org"), &names.default),
        (Some("unknown.test"), &names.default),
        (None, &names.default),
    ] {
        let client = names.client(server_name, "orders.example.org");
        let connection = client.connect().await.unwrap();
        assert_eq!(
            connection.server_certificate().as_ref(),
            Some(expected.leaf()),
            "{server_name:?}"
        );
    }
}

#[tokio::test]
async fn the_requests_host_must_belong_to_the_connections_name() {
    let names = names().await;
    for protocol in Protocol::BOTH {
        for (server_name, host, expected) in [
            (Some("orders.example.org"), "orders.example.org", 200),
            (Some("orders.example.org"), "ORDERS.Example.Org", 200),
            (Some("orders.example.org"), "orders.example.org.", 200),
            (Some("orders.example.org"), "orders.example.org:8443", 200),
            (Some("orders.example.org"), "a.internal.example.org", 421),
            (Some("orders.example.org"), "unknown.test", 421),
            (Some("orders.example.org"), "127.0.0.1", 421),
            (Some("orders.example.org"), "[::1]", 421),
            (
                Some("a.internal.example.org"),
                "b.internal.example.org",
                200,
            ),
            (Some("a.internal.example.org"), "orders.example.org", 421),
            (Some("a.internal.example.org"), "internal.example.org", 421),
            (Some("unknown.test"), "unknown.test", 200),
            (Some("unknown.test"), "other.test", 200),
            (Some("unknown.test"), "Orders.Example.Org:1", 421),
            (Some("unknown.test"), "orders.example.org.", 421),
            (None, "unknown.test", 200),
            (None, "127.0.0.1", 200),
            (None, "orders.example.org", 421),
            (None, "a.internal.example.org", 421),
        ] {
            let client = names.client(server_name, host).protocol(protocol);
            assert_eq!(
                status(&client).await,
                expected,
                "{protocol:?} {server_name:?} {host}"
            );
        }
    }
}

#[tokio::test]
async fn a_name_that_asks_for_no_certificate_does_not_open_one_that_does() {
    let names = names().await;
    let client = names
        .world
        .anonymous()
        .server_name(Some("a.internal.example.org"))
        .host("orders.example.org");
    assert_eq!(status(&client).await, 421);
    let direct = names.world.anonymous();
    assert_eq!(direct.refusal().await.alert(), Some(116));
    assert_eq!(names.world.echo.requests(), 0);
}

#[tokio::test]
async fn malformed_hosts_are_refused() {
    let names = names().await;
    let before = names.world.echo.requests();
    for host in [
        "",
        " ",
        "a b",
        "orders.example.org:port",
        "orders.example.org:99999999",
        "user@orders.example.org",
        "orders.example.org/",
        "orders..example.org",
        "orders.example.org, other.test",
        "orders.example.org\\",
        "[::1",
        "orders.example.org%00",
    ] {
        let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = names
            .world
            .client()
            .raw(request.as_bytes(), Duration::from_secs(2))
            .await
            .unwrap();
        let statuses = answer.statuses();
        assert!(
            statuses.iter().all(|status| matches!(status, 400 | 421)),
            "{host:?}: {statuses:?}"
        );
        assert!(!statuses.is_empty() || answer.closed, "{host:?}");
    }
    assert_eq!(names.world.echo.requests(), before);
}

#[tokio::test]
async fn an_absolute_target_must_agree_with_host() {
    let names = names().await;
    let ask = async |target: &str, host: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = names
            .world
            .client()
            .raw(request.as_bytes(), Duration::from_secs(2))
            .await
            .unwrap();
        answer.statuses()
    };
    let good = "https://orders.example.org/a";
    assert_eq!(ask(good, "orders.example.org").await, [200]);
    let seen = names.world.echo.seen();
    assert_eq!(seen[0]["path"], "/a", "the service gets a plain path");
    assert_eq!(ask(good, "unknown.test").await, [400]);
    assert_eq!(
        ask("https://unknown.test/a", "orders.example.org").await,
        [400]
    );
    assert_eq!(names.world.echo.requests(), 1);
}

#[tokio::test]
async fn authority_and_host_of_http2_must_agree() {
    let names = names().await;
    let request = Request::get("https://orders.example.org/a")
        .header("host", "unknown.test")
        .body(Bytes::new())
        .unwrap();
    let client = names.world.client().protocol(Protocol::Http2);
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(names.world.echo.requests(), 0);
}
