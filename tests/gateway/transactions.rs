//! `continue_transaction`: a service calls another service during a request. From the presented
//! assertion, only `txn` is kept.

use bytes::Bytes;
use countersign_testkit::{
    Answer, Credentials, Gateway, Leaf, Protocol, Service, ServiceSpec, Settings, TestCa,
};
use http::Request;

use crate::support::{BINARY, Front, HOST, altered, assertion, decode};

const ORDERS: &str = "/ns/shop/sa/orders";

struct Services {
    /// The gateway and the caller from outside.
    front: Front,
    /// The credentials of the service `orders`, which is also a caller.
    orders: Credentials,
    ca: TestCa,
    _services: [Service; 2],
}

impl Services {
    /// Starts the services and the gateway. `/orders` leads to the first service. `/stock` leads to
    /// the second service and continues transactions. `/plain` leads to the second service and does
    /// not.
    async fn open() -> Self {
        let ca = TestCa::new("example.org");
        let service = |path: &str| {
            let leaf = Leaf::with_uri(&ca.spiffe(path)).for_server();
            ServiceSpec::tls(Protocol::Http1, &ca.issue(leaf))
        };
        let services = [
            Service::start(service(ORDERS)).await,
            Service::start(service("/ns/shop/sa/stock")).await,
        ];
        let upstream = |service: &Service, identity: &str| {
            (
                vec![format!("https://{}", service.address())],
                format!(
                    "roots = [\"{}\"]\nidentity = \"{identity}\"\n",
                    ca.root_file().display()
                ),
            )
        };
        let (orders, orders_keys) = upstream(&services[0], &ca.spiffe(ORDERS));
        let (stock, stock_keys) = upstream(&services[1], "spiffe://example.org/ns/shop/sa/*");
        let settings = Settings::new(&ca)
            .upstream_at("orders", &orders, &orders_keys)
            .upstream_at("stock", &stock, &stock_keys)
            .route(
                "orders",
                "orders",
                "paths = [\"/orders\"]\ncallers = [\"*\"]\n",
            )
            .route(
                "stock",
                "stock",
                "paths = [\"/stock\"]\ncallers = [\"*\"]\ncontinue_transaction = true\n",
            )
            .route(
                "plain",
                "stock",
                "paths = [\"/plain\"]\ncallers = [\"*\"]\n",
            );
        Self {
            front: Front::with(&ca, &settings).await,
            orders: ca.client(ORDERS),
            ca,
            _services: services,
        }
    }

    async fn call(&self, caller: &Credentials, path: &str, assertions: &[&str]) -> Answer {
        let mut request = Request::get(path);
        for assertion in assertions {
            request = request.header("countersign-assertion", *assertion);
        }
        let request = request.body(Bytes::new()).unwrap();
        let answer = self
            .front
            .gateway
            .client(HOST)
            .with(caller)
            .send(request)
            .await
            .unwrap();
        assert_eq!(
            answer.status,
            200,
            "{answer:?} {}",
            self.front.gateway.stderr()
        );
        answer
    }
}

fn txn(answer: &Answer) -> String {
    decode(&assertion(answer)).1["txn"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn only_the_service_an_assertion_was_made_for_goes_on_with_its_transaction() {
    let world = Services::open().await;
    let first = world.call(&world.front.caller, "/orders", &[]).await;
    let shown = assertion(&first);
    let second = world.call(&world.orders, "/stock", &[&shown]).await;
    assert_eq!(txn(&second), txn(&first));
    let claims = decode(&assertion(&second)).1;
    assert_eq!(claims["sub"], world.ca.spiffe(ORDERS));
    assert_ne!(claims["jti"], decode(&shown).1["jti"]);
    let line = world.front.gateway.audit().request("/stock").await;
    assert_eq!(line["txn"], txn(&first));
    assert_ne!(line["request_id"], txn(&first));

    // A route without `continue_transaction`, another caller, several assertions, and assertions
    // that the gateway did not sign.
    let other = altered(&shown);
    let stock = assertion(&second);
    for (caller, path, shown) in [
        (&world.orders, "/plain", &[&*shown][..]),
        (&world.front.caller, "/stock", &[&shown]),
        (&world.orders, "/stock", &[&shown, &shown]),
        (&world.orders, "/stock", &[&other]),
        (&world.orders, "/stock", &["garbage"]),
        (&world.orders, "/stock", &["", ""]),
        // The `identity` of this audience's upstream has a wildcard.
        (&world.orders, "/stock", &[&stock]),
    ] {
        let answer = world.call(caller, path, shown).await;
        assert_ne!(txn(&answer), txn(&first), "{path} {shown:?}");
    }
}

#[tokio::test]
async fn an_expired_assertion_begins_a_new_transaction() {
    let ca = TestCa::new("example.org");
    let leaf = Leaf::with_uri(&ca.spiffe(ORDERS)).for_server();
    let service = Service::start(ServiceSpec::tls(Protocol::Http1, &ca.issue(leaf))).await;
    let keys = format!(
        "roots = [\"{}\"]\nidentity = \"{}\"\n",
        ca.root_file().display(),
        ca.spiffe(ORDERS)
    );
    let settings = Settings::new(&ca)
        .set("assertion", "lifetime", "\"1s\"")
        .upstream_at("orders", &[format!("https://{}", service.address())], &keys)
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\ncontinue_transaction = true\n",
        );
    let gateway = Gateway::start(BINARY, &settings).await;
    let orders = ca.client(ORDERS);
    let call = async |shown: Option<&str>| {
        let mut request = Request::get("/a");
        if let Some(shown) = shown {
            request = request.header("countersign-assertion", shown);
        }
        let request = request.body(Bytes::new()).unwrap();
        gateway
            .client(HOST)
            .with(&orders)
            .send(request)
            .await
            .unwrap()
    };
    let first = call(None).await;
    let shown = assertion(&first);
    let exp = decode(&shown).1["exp"].as_u64().unwrap();
    loop {
        if countersign_core::clock::unix_now() >= exp {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_ne!(txn(&call(Some(&shown)).await), txn(&first));
}
