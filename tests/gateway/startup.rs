//! Errors that prevent the gateway from starting, and their messages.

use countersign_testkit::{
    Authority, AuthoritySpec, Credentials, Crl, Echo, Gateway, Leaf, Settings, StartFailure,
    TestCa, until,
};

use crate::support::{BINARY, World, named_pipe};

async fn failure(settings: &Settings) -> StartFailure {
    match Gateway::try_start(BINARY, settings).await {
        Ok(gateway) => panic!("it started: {}", gateway.stderr()),
        Err(failure) => failure,
    }
}

/// Checks that the gateway does not start, and that its message contains all of these words.
async fn assert_fails(settings: &Settings, words: &[&str]) {
    let failure = failure(settings).await;
    assert!(matches!(failure.status.code(), Some(1 | 2)), "{failure}");
    for word in words {
        assert!(failure.stderr.contains(word), "no {word:?} in: {failure}");
    }
    assert!(!failure.stderr.contains("panicked"), "{failure}");
}

fn settings(ca: &TestCa) -> Settings {
    Settings::new(ca).everything_to(std::net::SocketAddr::from(([127, 0, 0, 1], 9)))
}

#[tokio::test]
async fn an_occupied_port_is_an_error_that_names_it() {
    let world = World::open().await;
    let taken = world.gateway.listener().to_string();
    let second = settings(&world.ca).set("listener", "address", &format!("\"{taken}\""));
    assert_fails(&second, &[&taken]).await;
    let public = world.gateway.public().to_string();
    let third = settings(&world.ca).set("public", "address", &format!("\"{public}\""));
    assert_fails(&third, &[&public]).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn it_says_where_it_listens() {
    let world = World::open().await;
    for address in [
        world.gateway.listener(),
        world.gateway.public(),
        world.gateway.admin(),
    ] {
        let port = format!(":{}", address.port());
        let is_said = || {
            let said = world.gateway.stderr();
            said.lines()
                .any(|line| line.contains("listening") && line.contains(&port))
        };
        // The log arrives through a pipe, a moment after the gateway is ready.
        let wait = async {
            while !is_said() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait)
            .await
            .unwrap_or_else(|_| panic!("{address}: {}", world.gateway.stderr()));
    }
}

#[tokio::test]
async fn bad_server_credentials_are_refused() {
    let ca = TestCa::new("example.org");
    let good = ca.server(&["orders.example.org"]);
    let other = ca.server(&["orders.example.org"]);
    let server = |valid: (i64, i64)| {
        ca.issue(
            Leaf::new()
                .for_server()
                .dns("orders.example.org")
                .valid(valid.0, valid.1),
        )
    };
    let mismatched = Credentials::from_parts(good.chain.clone(), other.key().secret_der().to_vec());
    assert_fails(&settings(&ca).server(&mismatched), &["gateway.key"]).await;
    let expired = server((-7200, -3600));
    assert_fails(&settings(&ca).server(&expired), &["gateway.pem", "expired"]).await;
    let future = server((3600, 7200));
    assert_fails(&settings(&ca).server(&future), &["gateway.pem"]).await;
}

#[tokio::test]
async fn unreadable_files_are_refused_by_name() {
    let ca = TestCa::new("example.org");
    let truncated = {
        let pem = ca.root().pem();
        let half = pem.len() / 2;
        pem[..half].to_owned()
    };
    for (name, content) in [
        ("empty.pem", Some(String::new())),
        ("text.pem", Some("no PEM here\n".to_owned())),
        ("truncated.pem", Some(truncated)),
        ("key.pem", Some(ca.server(&["a.example.org"]).key_pem())),
        (
            "rubbish.pem",
            Some(countersign_testkit::pem("CERTIFICATE", b"rubbish")),
        ),
        (
            "leaf.pem",
            Some(countersign_testkit::pem(
                "CERTIFICATE",
                ca.client("/a").leaf(),
            )),
        ),
        ("missing.pem", None),
    ] {
        let path = ca.directory().join(name);
        if let Some(content) = content {
            let _ = ca.write(name, content);
        }
        let roots = settings(&ca).trust_domain(&format!(
            "name = \"example.org\"\nroots = [\"{}\"]\nrevocation = \"off\"",
            path.display()
        ));
        assert_fails(&roots, &[name]).await;
        let certificate = settings(&ca).set(
            "listener",
            "certificate",
            &format!("\"{}\"", path.display()),
        );
        if name != "leaf.pem" {
            assert_fails(&certificate, &[name]).await;
        }
        let key = settings(&ca).set(
            "listener",
            "private_key",
            &format!("\"{}\"", path.display()),
        );
        assert_fails(&key, &[name]).await;
    }
}

#[tokio::test]
async fn trust_without_a_valid_root_is_refused() {
    let ca = TestCa::new("example.org");
    let expired = Authority::root(&AuthoritySpec::new("old").valid(-7200, -3600));
    let expired = ca.write("expired.pem", expired.pem());
    let domain = |roots: &str| {
        settings(&ca).trust_domain(&format!(
            "name = \"example.org\"\nroots = [{roots}]\nrevocation = \"off\""
        ))
    };
    let expired = format!("\"{}\"", expired.display());
    assert_fails(&domain(&expired), &["example.org", "expired"]).await;
    assert_fails(&domain(""), &["roots"]).await;
    // If there is also a valid root, the expired root is ignored with a warning.
    let both = format!("{expired}, \"{}\"", ca.root_file().display());
    let gateway = Gateway::start(BINARY, &domain(&both)).await;
    until("the alarm", async || gateway.stderr().contains("expired")).await;
}

#[tokio::test]
async fn a_trust_domain_says_how_it_treats_revocation() {
    let ca = TestCa::new("example.org");
    assert_fails(&settings(&ca).trust(&ca, ""), &["revocation"]).await;
    assert_fails(
        &settings(&ca).trust(&ca, "revocation = \"hard\""),
        &["crls"],
    )
    .await;
    let rubbish = ca.write("rubbish.crl", "rubbish");
    let with = |path: &std::path::Path| {
        settings(&ca).trust(
            &ca,
            &format!("crls = [\"{}\"]\nrevocation = \"hard\"", path.display()),
        )
    };
    assert_fails(&with(&rubbish), &["rubbish.crl"]).await;
    assert_fails(&with(&ca.directory().join("none.crl")), &["none.crl"]).await;
    // With a stale CRL, the gateway starts, applies `revocation`, and reports a problem.
    let stale = ca.write("stale.crl", Crl::new().stale().signed_by(ca.intermediate()));
    let gateway = Gateway::start(BINARY, &with(&stale)).await;
    drop(gateway);
}

#[tokio::test]
async fn trust_domains_that_could_be_confused_are_refused() {
    let ours = TestCa::new("example.org");
    let partner = TestCa::new("partner.org");
    let shared = settings(&ours)
        .trust(&ours, "revocation = \"off\"")
        .trust_domain(&format!(
            "name = \"partner.org\"\nroots = [\"{}\"]\nrevocation = \"off\"",
            ours.root_file().display()
        ));
    assert_fails(&shared, &["example.org", "partner.org", "root"]).await;
    let dns = "revocation = \"off\"\nidentity_from = [\"dns\"]\nvouches_for = ";
    let overlapping = settings(&ours)
        .trust(&ours, &format!("{dns}[\"dns:*.svc.example.org\"]"))
        .trust(&partner, &format!("{dns}[\"dns:a.svc.example.org\"]"));
    assert_fails(&overlapping, &["vouch", "dns:"]).await;
}

#[tokio::test]
async fn tied_routes_and_missing_upstreams_are_refused() {
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let route = "paths = [\"/a\"]\ncallers = [\"*\"]\n";
    let base = Settings::new(&ca).upstream("orders", echo.address());
    let tied = base
        .clone()
        .route("first", "orders", route)
        .route("second", "orders", route);
    assert_fails(&tied, &["first", "second"]).await;
    let missing = base.clone().route("lost", "nowhere", route);
    assert_fails(&missing, &["nowhere"]).await;
    let nobody = base.clone().route("open", "orders", "paths = [\"/a\"]\n");
    assert_fails(&nobody, &["callers"]).await;
    let typo = base.set("listener", "adress", "\"127.0.0.1:0\"");
    assert_fails(&typo, &["adress", "address"]).await;
}

#[tokio::test]
async fn a_missing_configuration_is_bad_usage() {
    let output = tokio::process::Command::new(BINARY)
        .args(["serve", "--config", "/nonexistent/countersign.toml"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent/countersign.toml"), "{said}");
}

#[tokio::test]
async fn an_audit_log_without_a_reader_is_refused_at_once() {
    let ca = TestCa::new("example.org");
    let pipe = ca.directory().join("audit.pipe");
    named_pipe(&pipe);
    let settings = Settings::new(&ca)
        .set("audit", "file", &format!("\"{}\"", pipe.display()))
        .everything_to("127.0.0.1:9".parse().unwrap());
    let failure = failure(&settings).await;
    assert_eq!(failure.status.code(), Some(1), "{failure}");
    for part in [
        "audit.pipe",
        "a named pipe without a reader",
        "standard output",
    ] {
        assert!(failure.stderr.contains(part), "{part}: {failure}");
    }
}
