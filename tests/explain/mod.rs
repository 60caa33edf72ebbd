//! `countersign explain` must give the same verdicts as the running gateway, without asking it.

mod replay;

use std::path::{Path, PathBuf};

use countersign_testkit::{Credentials, Crl, Leaf, Settings, TestCa};
use rcgen::KeyUsagePurpose;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{BINARY, CALLER, HOST, RevocationLists, Run, World};

/// The exit code and the output of `explain --json`.
struct Explained {
    code: i32,
    said: Value,
    stderr: String,
}

impl Explained {
    fn step(&self, name: &str) -> &Value {
        let steps = self.said["steps"].as_array().unwrap();
        let found = steps.iter().find(|step| step["step"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {}", self.said))
    }

    fn reason(&self) -> &str {
        self.said["answer"]["reason"].as_str().unwrap_or_default()
    }
}

async fn world(configure: impl FnOnce(Settings, &TestCa) -> Settings) -> World {
    World::of(TestCa::new("example.org"), |settings, ca, echo| {
        configure(settings, ca).upstream("orders", echo).route(
            "orders",
            "orders",
            "hosts = [\"orders.example.org\"]\npaths = [\"/orders/**\"]\nmethods = [\"GET\"]\n\
             callers = [\"spiffe://example.org/ns/shop/sa/*\"]\n\
             except = [\"spiffe://example.org/ns/shop/sa/retired\"]\n",
        )
    })
    .await
}

impl World {
    fn write(&self, caller: &Credentials) -> PathBuf {
        self.ca.write("caller.pem", caller.chain_pem())
    }

    async fn explain(&self, caller: &Credentials, more: &[&str]) -> Explained {
        let chain = self.write(caller);
        explain(&self.gateway.config_file(), &chain, more).await
    }
}

async fn explain(config: &Path, chain: &Path, more: &[&str]) -> Explained {
    let run = Run::of_async(
        Command::new(BINARY)
            .args(["--json", "explain", "--config"])
            .arg(config)
            .arg("--cert")
            .arg(chain)
            .args(more),
    )
    .await;
    Explained {
        code: run.code,
        said: serde_json::from_str(&run.stdout).unwrap_or(Value::Null),
        stderr: run.stderr,
    }
}

#[tokio::test]
async fn an_allowed_request_is_explained_with_its_claims() {
    let world = world(|settings, _| settings).await;
    let caller = world.ca.client(CALLER);
    let url = format!("https://{HOST}:8443/orders/7?x=y");
    let explained = world.explain(&caller, &["--url", &url]).await;
    assert_eq!(explained.code, 0, "{}", explained.stderr);
    assert_eq!(explained.said["allowed"], true);
    assert_eq!(explained.said["answer"]["upstream"], "orders");
    assert_eq!(
        explained.step("identity")["facts"]["caller"],
        world.ca.spiffe(CALLER)
    );
    assert_eq!(
        explained.step("path")["facts"]["file"],
        world.ca.root_file().display().to_string()
    );
    assert_eq!(
        explained.step("rule")["facts"]["callers"],
        "spiffe://example.org/ns/shop/sa/*"
    );
    let claims = &explained.said["claims"];
    assert_eq!(claims["sub"], world.ca.spiffe(CALLER));
    assert_eq!(claims["aud"], "orders");
    assert_eq!(claims["htm"], "GET");
    assert_eq!(claims["htu"], format!("https://{HOST}:8443/orders/7"));
    assert!(claims["htq"].is_string());
}

#[tokio::test]
async fn it_refuses_a_path_that_is_too_long_for_the_assertion_exactly_as_the_gateway() {
    let world = World::of(TestCa::new("example.org"), |settings, _, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "hosts = [\"orders.example.org\"]\npaths = [\"/**\"]\ncallers = [\"*\"]\nbind_body = \"1KiB\"\n",
        )
    })
    .await;
    let caller = world.ca.client(CALLER);
    let client = world.anonymous().with(&caller);
    // The gateway accepts `fits` and refuses the path that is one byte longer.
    let (mut fits, mut refused) = (1000, 3000);
    while refused - fits > 1 {
        let middle = (fits + refused) / 2;
        let answer = client.get(&format!("/{}", "p".repeat(middle))).await;
        match answer.unwrap().status {
            200 => fits = middle,
            414 => refused = middle,
            other => panic!("{other}"),
        }
    }
    for (length, allowed) in [(fits, true), (refused, false)] {
        let url = format!("https://{HOST}/{}", "p".repeat(length));
        let explained = world.explain(&caller, &["--url", &url]).await;
        assert_eq!(explained.said["allowed"], allowed, "{length}");
        if !allowed {
            assert_eq!(explained.reason(), "too-large");
        }
    }
}

#[tokio::test]
async fn its_refusals_are_those_of_the_gateway() {
    let world = world(|settings, _| settings).await;
    let allowed = world.ca.client(CALLER);
    let retired = world.ca.client("/ns/shop/sa/retired");
    for (caller, method, host, path) in [
        (&allowed, "GET", HOST, "/elsewhere"),
        (&allowed, "POST", HOST, "/orders/7"),
        (&allowed, "BREW", HOST, "/orders/7"),
        (&retired, "GET", HOST, "/orders/7"),
        (&allowed, "GET", HOST, "/orders/../x"),
        (&allowed, "GET", HOST, "/orders/%2e%2e/x"),
        (&allowed, "GET", HOST, "/orders/a%2Fb"),
        (&allowed, "GET", HOST, "/orders//x"),
        (&allowed, "GET", HOST, "/orders;a/7"),
        (&allowed, "GET", "other.example.org", "/orders/7"),
        (&allowed, "POST", HOST, "/.well-known/countersign/whoami"),
    ] {
        let url = format!("https://{host}{path}");
        let explained = world.explain(caller, &["--url", &url, "-X", method]).await;
        assert_eq!(explained.code, 3, "{url}: {}", explained.stderr);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .body(bytes::Bytes::new())
            .unwrap();
        let client = world.gateway.client(host).with(caller);
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.reason(), Some(explained.reason()), "{method} {url}");
        assert_eq!(
            explained.said["answer"]["status"], answer.status,
            "{method} {url}"
        );
        assert!(explained.stderr.starts_with(explained.reason()));
    }
}

#[tokio::test]
async fn its_alerts_are_those_of_the_gateway() {
    let world = world(|settings, ca| {
        let lists = RevocationLists::of(ca);
        lists.publish(ca, Crl::new().revoke(&[0x77, 1]));
        settings.trust(ca, &format!("{}\nrevocation = \"hard\"", lists.setting()))
    })
    .await;
    let name = world.ca.spiffe(CALLER);
    let leaf = || Leaf::with_uri(&name);
    let stranger = TestCa::new("example.org");
    for caller in [
        world.ca.issue(leaf().serial(&[0x77, 1])),
        world.ca.issue(leaf().valid(-7200, -3600)),
        world.ca.issue(leaf().valid(3600, 7200)),
        world.ca.issue(leaf().for_server()),
        world.ca.issue(Leaf::new().dns("a.example.org")),
        world.ca.issue(leaf().uri("https://example.org/x")),
        world.ca.issue(leaf().corrupt_signature()),
        world.ca.issue(Leaf::with_uri("spiffe://other.org/a")),
        world.ca.client(CALLER).without_intermediates(),
        stranger.client(CALLER),
    ] {
        let url = format!("https://{HOST}/orders/7");
        let explained = world.explain(&caller, &["--url", &url]).await;
        assert_eq!(explained.code, 3, "{}", explained.stderr);
        let refusal = world.gateway.client(HOST).with(&caller).refusal().await;
        let alert = refusal.alert();
        assert_eq!(
            explained.said["answer"]["alert"]["number"],
            alert.unwrap(),
            "{}",
            explained.said
        );
        let line = world
            .gateway
            .audit()
            .line("the refusal", |line| {
                line["event"] == "handshake" && line["serial"] == caller.serial_hex()
            })
            .await;
        assert_eq!(line["reason"], explained.reason());
        assert_eq!(line["detail"], explained.said["answer"]["detail"]);
    }
}

#[tokio::test]
async fn without_a_url_it_ends_with_the_handshake() {
    let world = world(|settings, _| settings).await;
    let caller = world.ca.client(CALLER);
    let explained = world.explain(&caller, &[]).await;
    assert_eq!(explained.code, 0, "{}", explained.stderr);
    assert_eq!(explained.said["answer"]["result"], "connected");
    let output = Run::of_async(
        Command::new(BINARY)
            .args(["explain", "--config"])
            .arg(world.gateway.config_file())
            .arg("--cert")
            .arg(world.write(&caller)),
    )
    .await;
    let text = output.stdout;
    for part in ["server name", "chain", "path", "revocation", "identity"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[tokio::test]
async fn bad_usage_is_exit_2() {
    let world = world(|settings, _| settings).await;
    let caller = world.ca.client(CALLER);
    for url in [
        "http://orders.example.org/",
        "orders",
        "/orders",
        "https://",
    ] {
        let explained = world.explain(&caller, &["--url", url]).await;
        assert_eq!(explained.code, 2, "{url}: {}", explained.stderr);
    }
    let empty = world.ca.write("empty.pem", "");
    let explained = explain(&world.gateway.config_file(), &empty, &[]).await;
    assert_eq!(explained.code, 2);
    let missing = Path::new("/nonexistent.pem");
    let explained = explain(&world.gateway.config_file(), missing, &[]).await;
    assert_eq!(explained.code, 2);
    assert!(explained.stderr.contains("/nonexistent.pem"));
}

/// X509-SVID section 5.2 forbids this key usage for every leaf: with or without a SPIFFE ID, for
/// clients and servers, in the gateway and in `explain`.
#[tokio::test]
async fn a_leaf_that_may_sign_lists_is_refused_everywhere() {
    let world = world(|settings, ca| {
        settings.trust(
            ca,
            "revocation = \"off\"\nidentity_from = [\"spiffe\", \"dns\"]\n\
             vouches_for = [\"spiffe://example.org/**\", \"dns:*.example.org\"]",
        )
    })
    .await;
    let usages = [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    for leaf in [
        Leaf::with_uri(&world.ca.spiffe(CALLER)),
        Leaf::new().dns("checkout.example.org"),
    ] {
        let good = world.ca.issue(leaf.clone());
        let bad = world.ca.issue(leaf.key_usages(&usages));
        for (caller, holds) in [(&good, true), (&bad, false)] {
            let client = world.gateway.client(HOST).with(caller);
            let explained = world.explain(caller, &[]).await;
            let output = Command::new(BINARY)
                .args(["pki", "verify", "--purpose", "client", "--roots"])
                .arg(world.ca.root_file())
                .arg(world.write(caller))
                .output()
                .await
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            if holds {
                let path = "/.well-known/countersign/whoami";
                assert_eq!(client.get(path).await.unwrap().status, 200);
                assert_eq!(explained.code, 0, "{}", explained.stderr);
                assert_eq!(output.status.code(), Some(0), "{said}");
                continue;
            }
            assert_eq!(client.refusal().await.alert(), Some(46));
            let line = world
                .gateway
                .audit()
                .line("the refusal", |line| line["serial"] == caller.serial_hex())
                .await;
            assert_eq!(line["reason"], "wrong-usage", "{line}");
            assert_eq!(explained.code, 3, "{}", explained.stderr);
            assert_eq!(explained.reason(), "wrong-usage");
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert!(said.starts_with("wrong-usage: "), "{said}");
            assert!(said.contains("cRLSign"), "{said}");
        }
    }
    let server = Leaf::new().for_server().dns("a.example.org");
    for (leaf, code) in [(server.clone(), 0), (server.key_usages(&usages), 3)] {
        let output = Command::new(BINARY)
            .args(["pki", "verify", "--purpose", "server", "--roots"])
            .arg(world.ca.root_file())
            .arg(world.write(&world.ca.issue(leaf)))
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}
