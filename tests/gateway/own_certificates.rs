//! The gateway's own certificates: operators hear that one expires before callers do.

use std::path::Path;

use countersign_testkit::gateway::plain;
use countersign_testkit::{
    AuthoritySpec, Credentials, Echo, Gateway, Leaf, Settings, TestCa, until,
};
use serde_json::Value;

use crate::support::{BINARY, CALLER, HOST, Run, countersign, readyz, replace};

/// A server's certificate whose life began an hour ago.
fn server(names: &[&str], until: i64) -> Leaf {
    let leaf = Leaf::new().for_server().valid(-3_600, until);
    names.iter().fold(leaf, |leaf, name| leaf.dns(name))
}

/// Settings with metrics, and with this certificate of the listener.
fn settings(ca: &TestCa, own: &Credentials, echo: &Echo) -> Settings {
    Settings::new(ca)
        .server(own)
        .set("public", "serve", "[\"health\", \"metrics\"]")
        .everything_to(echo.address())
}

async fn logged(gateway: &Gateway, wanted: &str) {
    until(wanted, async || gateway.stderr().contains(wanted)).await;
}

/// Waits until a line of the metrics begins like this, or none does any more.
async fn metric(gateway: &Gateway, begins: &str, there: bool) -> String {
    let found = std::cell::RefCell::new(String::new());
    until(begins, async || {
        let answer = plain(gateway.public(), "GET", "/metrics", &[]).await;
        let mut lines = answer.body.lines().map(str::to_owned);
        let line = lines.find(|line| line.starts_with(begins));
        let is_there = line.is_some();
        found.replace(line.unwrap_or_default());
        is_there == there
    })
    .await;
    found.into_inner()
}

fn problem<'a>(ready: &'a Value, wanted: &str) -> &'a Value {
    let problems = ready["problems"].as_array().unwrap();
    let mut found = problems
        .iter()
        .filter(|problem| problem["detail"].as_str().unwrap().contains(wanted));
    found.next().unwrap_or_else(|| panic!("{wanted}: {ready}"))
}

fn check(config: &Path, more: &[&str]) -> Run {
    let arguments = [&["check", "--config", config.to_str().unwrap()][..], more].concat();
    countersign(&arguments, "").done()
}

#[tokio::test]
async fn the_listeners_certificate_is_a_problem_from_a_third_of_its_life_until_it_is_renewed() {
    let ca = TestCa::new("example.org");
    let names = ["orders.example.org", "localhost"];
    let own = ca.issue(server(&names, 9));
    let echo = Echo::start().await;
    let gateway = Gateway::start(BINARY, &settings(&ca, &own, &echo)).await;
    let client = gateway.client(HOST).with(&ca.client(CALLER));
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let of_own = format!(
        "countersign_certificate_not_after_timestamp_seconds{{use=\"listener\",name=\"\",serial=\"{}\"}} ",
        own.serial_hex()
    );

    let ready = readyz(&gateway, "certificate-expiring", true).await;
    let expiring = problem(&ready, "the certificate of [listener]");
    assert_eq!(expiring["severity"], "warning", "{ready}");
    assert!(expiring["since"].is_string(), "{ready}");
    let detail = expiring["detail"].as_str().unwrap();
    for said in ["gateway.pem", "expires at 20", "callers are turned away"] {
        assert!(detail.contains(said), "{detail}");
    }
    let command = expiring["command"].as_str().unwrap();
    assert!(command.starts_with("countersign pki renew "), "{command}");
    logged(&gateway, "the certificate of [listener]").await;
    let said = gateway.stderr();
    let mut warnings = said.lines().filter(|line| line.contains("WARN"));
    assert!(
        warnings.any(|line| line.contains("expires at 20")),
        "{said}"
    );
    let value = metric(&gateway, &of_own, true).await;
    let not_after: f64 = value.strip_prefix(&of_own).unwrap().parse().unwrap();
    assert!(not_after > 1_700_000_000.0, "{value}");

    let ready = readyz(&gateway, "certificate-expired", true).await;
    let expired = problem(&ready, "callers are turned away");
    assert_eq!(expired["severity"], "error", "{ready}");
    let detail = expired["detail"].as_str().unwrap();
    assert!(detail.contains("expired at 20"), "{detail}");
    assert!(
        !ready.to_string().contains("certificate-expiring"),
        "{ready}"
    );
    logged(&gateway, "expired at 20").await;

    let renewed = ca.issue(server(&names, 90_000));
    replace(&gateway.directory().join("gateway.key"), renewed.key_pem());
    replace(
        &gateway.directory().join("gateway.pem"),
        renewed.chain_pem(),
    );
    readyz(&gateway, "certificate-expired", false).await;
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    metric(&gateway, &of_own, false).await;
    let of_renewed = of_own.replace(&own.serial_hex(), &renewed.serial_hex());
    metric(&gateway, &of_renewed, true).await;
}

#[tokio::test]
async fn the_certificates_of_names_upstreams_and_intermediates_are_looked_after_too() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    // The listener's own certificate is fresh, and the intermediate beside it is not.
    let short = AuthoritySpec::new("short-lived").valid(-3_600, 600);
    let short = ca.root().intermediate(&short);
    let own = short.issue(server(&["orders.example.org"], 90_000));
    let named = ca.issue(server(&["pay.example.org"], 600));
    let of_upstream = ca.issue(Leaf::with_uri("spiffe://example.org/gw").valid(-3_600, 600));
    let upstream = format!(
        "roots = [{:?}]\ncertificate = {:?}\nprivate_key = {:?}\n",
        ca.root_file(),
        ca.write("upstream.pem", of_upstream.chain_pem()),
        ca.write("upstream.key", of_upstream.key_pem()),
    );
    let settings = settings(&ca, &own, &echo)
        .server_name(ca.directory(), &["pay.example.org"], &named, "")
        .upstream_at("secured", &["https://127.0.0.1:9".to_owned()], &upstream)
        .route(
            "secured",
            "secured",
            "paths = [\"/s\"]\ncallers = [\"*\"]\n",
        );
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&ca.client(CALLER));
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let ready = readyz(&gateway, "certificate-expiring", true).await;
    let expected = [
        ("short-lived", "callers that need it are turned away"),
        (
            "the certificate of [[server_name]] pay.example.org",
            "callers of these names are turned away",
        ),
        (
            "the certificate of [[upstream]] secured",
            "its services turn the gateway's requests away",
        ),
    ];
    let run = check(&gateway.config_file(), &[]);
    for (what, consequence) in expected {
        let problem = problem(&ready, what);
        assert_eq!(problem["code"], "certificate-expiring", "{ready}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(consequence), "{detail}");
        logged(&gateway, what).await;
        assert!(run.stderr.contains(what), "{what}: {}", run.stderr);
    }
    let problems = ready["problems"].as_array().unwrap();
    let expiring = problems
        .iter()
        .filter(|p| p["code"] == "certificate-expiring");
    assert_eq!(
        expiring.count(),
        3,
        "the fresh ones are no problem: {ready}"
    );
    for line in [
        "countersign_certificate_not_after_timestamp_seconds{use=\"server-name\",name=\"pay.example.org\"",
        "countersign_certificate_not_after_timestamp_seconds{use=\"upstream\",name=\"secured\"",
    ] {
        metric(&gateway, line, true).await;
    }
    assert!(
        run.stdout.contains("certificate of [[upstream]] secured: "),
        "{}",
        run.stdout
    );
    let json = check(&gateway.config_file(), &["--json"]).json();
    let uses = json["certificates"].as_array().unwrap().iter();
    let uses: Vec<&str> = uses.map(|one| one["use"].as_str().unwrap()).collect();
    assert!(
        uses.contains(&"upstream") && uses.contains(&"listener"),
        "{json}"
    );
    let warnings = json["warnings"].as_array().unwrap().iter();
    let expiring = warnings.filter(|one| one.as_str().unwrap().contains("expires at"));
    assert_eq!(expiring.count(), 3, "{json}");
}

#[tokio::test]
async fn operators_hear_that_they_would_be_turned_away_as_well() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let own = ca.issue(server(&["orders.example.org"], 600));
    let settings = settings(&ca, &own, &echo).set(
        "admin",
        "operators",
        "[\"spiffe://example.org/ns/ops/**\"]",
    );
    let gateway = Gateway::start(BINARY, &settings).await;
    logged(&gateway, "callers and operators are turned away").await;
}

#[tokio::test]
async fn a_certificate_with_most_of_its_life_left_is_no_problem() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let own = ca.issue(server(&["orders.example.org"], 3_600));
    let gateway = Gateway::start(BINARY, &settings(&ca, &own, &echo)).await;
    metric(
        &gateway,
        "countersign_certificate_not_after_timestamp_seconds{use=\"listener\"",
        true,
    )
    .await;
    let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await.json();
    assert!(!ready.to_string().contains("certificate-"), "{ready}");
    let run = check(&gateway.config_file(), &[]);
    assert!(!run.stderr.contains("expires at"), "{}", run.stderr);
}
