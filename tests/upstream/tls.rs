//! TLS connections to services: which services the gateway trusts, and which certificate it
//! presents.

use countersign_testkit::{Leaf, Protocol, Service, ServiceSpec, TestCa};

use super::https;
use crate::support::{BINARY, Front};

const PAYMENTS: &str = "/ns/shop/sa/payments";

fn roots(ca: &TestCa) -> String {
    format!("roots = [\"{}\"]\n", ca.root_file().display())
}

async fn expect_untrusted(world: &Front, service: &Service) {
    let answer = world.client().get("/a").await.unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (502, Some("upstream-untrusted"))
    );
    assert_eq!(
        service.requests(),
        0,
        "a request reached an untrusted service"
    );
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(line["reason"], "upstream-untrusted");
}

#[tokio::test]
async fn a_service_is_believed_by_its_name_and_connections_are_pooled() {
    let ca = TestCa::new("example.org");
    for protocol in Protocol::BOTH {
        let server = ca.server(&["payments.internal"]);
        let service = Service::start(ServiceSpec::tls(protocol, &server)).await;
        let word = if protocol == Protocol::Http1 {
            "http1"
        } else {
            "h2"
        };
        let more = format!(
            "{}protocol = \"{word}\"\nserver_name = \"payments.internal\"\n",
            roots(&ca)
        );
        let world = Front::open(&ca, &[https(service.address())], &more).await;
        let mut session = world.client().session().await.unwrap();
        for _ in 0..5 {
            let answer = session.get("/a").await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?} {}", world.gateway.stderr());
            assert_eq!(answer.received("countersign-assertion").len(), 1);
        }
        assert_eq!(service.connections(), 1);
    }
}

#[tokio::test]
async fn the_endpoints_address_may_be_its_name() {
    let ca = TestCa::new("example.org");
    let service = Service::start(ServiceSpec::tls(Protocol::Http1, &ca.server(&[]))).await;
    let world = Front::open(&ca, &[https(service.address())], &roots(&ca)).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn another_name_another_authority_and_a_clients_certificate_are_refused() {
    let ca = TestCa::new("example.org");
    let other = TestCa::new("example.org");
    let named = "server_name = \"payments.internal\"\n";
    for (server, what) in [
        (ca.server(&["orders.internal"]), "another name"),
        (other.server(&["payments.internal"]), "another authority"),
        (
            ca.issue(Leaf::new().dns("payments.internal")),
            "a client's certificate",
        ),
    ] {
        let service = Service::start(ServiceSpec::tls(Protocol::Http1, &server)).await;
        let world = Front::open(&ca, &[https(service.address())], &(roots(&ca) + named)).await;
        eprintln!("{what}");
        expect_untrusted(&world, &service).await;
    }
}

#[tokio::test]
async fn a_service_is_believed_by_its_spiffe_id() {
    let ca = TestCa::new("example.org");
    let expected = format!("{}identity = \"{}\"\n", roots(&ca), ca.spiffe(PAYMENTS));
    let good = ca.issue(Leaf::with_uri(&ca.spiffe(PAYMENTS)).for_server());
    let service = Service::start(ServiceSpec::tls(Protocol::Http1, &good)).await;
    let world = Front::open(&ca, &[https(service.address())], &expected).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);

    for bad in [
        ca.issue(Leaf::with_uri(&ca.spiffe("/ns/shop/sa/orders")).for_server()),
        ca.issue(
            Leaf::with_uri(&ca.spiffe(PAYMENTS))
                .uri(&ca.spiffe("/b"))
                .for_server(),
        ),
        ca.server(&["payments.internal"]),
    ] {
        let service = Service::start(ServiceSpec::tls(Protocol::Http1, &bad)).await;
        let world = Front::open(&ca, &[https(service.address())], &expected).await;
        expect_untrusted(&world, &service).await;
    }
}

#[tokio::test]
async fn the_gateway_shows_its_own_certificate() {
    let ca = TestCa::new("example.org");
    let server = ca.server(&[]);
    let own = ca.client("/gateway");
    let certificate = ca.write("own.pem", own.chain_pem());
    let key = ca.write("own.key", own.key_pem());
    let with_own = format!(
        "{}certificate = \"{}\"\nprivate_key = \"{}\"\n",
        roots(&ca),
        certificate.display(),
        key.display()
    );
    let spec = ServiceSpec::tls(Protocol::Http1, &server).demanding(&ca);
    let service = Service::start(spec.clone()).await;
    let world = Front::open(&ca, &[https(service.address())], &with_own).await;
    let answer = world.client().get("/a").await.unwrap();
    assert_eq!(answer.status, 200, "{}", world.gateway.stderr());
    let hash: String = countersign_testkit::sha256(own.leaf())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(answer.json()["client"], hash);

    let service = Service::start(spec).await;
    let world = Front::open(&ca, &[https(service.address())], &roots(&ca)).await;
    expect_untrusted(&world, &service).await;
}

#[tokio::test]
async fn tls_keys_need_https_and_https_needs_roots() {
    use countersign_testkit::{Gateway, Settings};
    let ca = TestCa::new("example.org");
    for (endpoints, more, said) in [
        ("\"https://127.0.0.1:1\"", String::new(), "no `roots`"),
        (
            "\"http://127.0.0.1:1\"",
            roots(&ca),
            "the endpoints are plain http",
        ),
        (
            "\"http://127.0.0.1:1\", \"https://127.0.0.1:2\"",
            roots(&ca),
            "some endpoints",
        ),
        (
            "\"https://127.0.0.1:1\"",
            roots(&ca) + "identity = \"*\"\n",
            "every certificate",
        ),
        (
            "\"https://127.0.0.1:1\"",
            roots(&ca) + "certificate = \"a\"\n",
            "no `private_key`",
        ),
    ] {
        let settings = Settings::new(&ca)
            .section(&format!(
                "[[upstream]]\nname = \"orders\"\nendpoints = [{endpoints}]\n{more}"
            ))
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n");
        let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
        assert!(failure.stderr.contains(said), "{said}: {}", failure.stderr);
    }
}
