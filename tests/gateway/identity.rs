//! Refused handshakes. The caller gets the right alert, and the audit log gets a line with the
//! reason code.

use countersign_testkit::skipped::tool;
use countersign_testkit::{
    Authority, AuthoritySpec, Credentials, KeyKind, Leaf, Settings, TestCa, TlsVersion,
};
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use serde_json::Value;

use crate::support::{BINARY, CALLER, HOST, World};

/// Connects with `credentials` and both TLS versions, and checks the alert. Returns the audit line
/// of the last attempt.
pub(super) async fn refused(
    world: &World,
    credentials: &Credentials,
    reason: &str,
    alert: u8,
) -> Value {
    for (count, version) in TlsVersion::BOTH.into_iter().enumerate() {
        let client = world.anonymous().with(credentials).tls(version);
        let error = client.refusal().await;
        assert_eq!(error.alert(), Some(alert), "{reason} {version:?}: {error}");
        let serial = credentials.serial_hex();
        world
            .gateway
            .audit()
            .at_least(count + 1, &format!("{reason} of {serial}"), |line| {
                line["event"] == "handshake"
                    && line["reason"] == reason
                    && (serial.is_empty() || line["serial"] == serial || line["serial"].is_null())
            })
            .await;
    }
    let lines = world
        .gateway
        .audit()
        .matching(|line| line["event"] == "handshake" && line["reason"] == reason);
    lines.last().unwrap().clone()
}

fn spiffe_leaf() -> Leaf {
    Leaf::with_uri(&format!("spiffe://example.org{CALLER}"))
}

#[tokio::test]
async fn a_refused_handshake_leaves_all_facts_for_the_operator() {
    let world = World::open().await;
    let expired = world.ca.issue(
        spiffe_leaf()
            .dns("checkout.example.org")
            .common_name("checkout")
            .valid(-7200, -3600),
    );
    let line = refused(&world, &expired, "certificate-expired", 45).await;
    assert_eq!(line["decision"], "refused");
    assert_eq!(line["serial"], expired.serial_hex());
    assert_eq!(line["subject"], "CN=checkout");
    assert_eq!(line["issuer"], "CN=example.org intermediate");
    let sans = line["sans"].to_string();
    assert!(sans.contains(&world.ca.spiffe(CALLER)), "{line}");
    assert!(sans.contains("checkout.example.org"), "{line}");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(line["sni"], HOST);
    assert_eq!(line["possession_proven"], false);
    assert!(line["connection_id"].is_string(), "{line}");
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert_eq!(world.echo.requests(), 0);
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_alert_arrives_although_the_caller_has_begun_its_request() {
    let world = World::open().await;
    let expired = world.ca.issue(spiffe_leaf().valid(-7200, -3600));
    let request = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 60000\r\n\r\n{}",
        "x".repeat(60_000)
    );
    for round in 0..10 {
        let client = world.anonymous().with(&expired);
        let error = client.refusal_after(request.as_bytes()).await;
        assert_eq!(error.alert(), Some(45), "round {round}: {error}");
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn no_certificate_where_one_is_required() {
    let world = World::open().await;
    for (version, alert) in [(TlsVersion::V13, 116), (TlsVersion::V12, 40)] {
        let error = world.anonymous().tls(version).refusal().await;
        assert_eq!(error.alert(), Some(alert), "{version:?}: {error}");
    }
    world
        .gateway
        .audit()
        .at_least(2, "no-certificate", |line| {
            line["event"] == "handshake"
                && line["reason"] == "no-certificate"
                && line["subject"].is_null()
        })
        .await;
}

#[tokio::test]
async fn no_certificate_where_routes_decide() {
    let world = World::with(|s, echo| s.optional_certificates().everything_to(echo)).await;
    let answer = world.anonymous().get("/a").await.unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(answer.reason(), Some("no-certificate"));
    assert_eq!(world.echo.requests(), 0);
    // A presented certificate must be valid, even if the certificate is optional.
    let expired = world.ca.issue(spiffe_leaf().valid(-7200, -3600));
    refused(&world, &expired, "certificate-expired", 45).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn validity_is_checked_for_leaf_and_intermediates() {
    let world = World::open().await;
    let future = world.ca.issue(spiffe_leaf().valid(3600, 7200));
    refused(&world, &future, "certificate-not-yet-valid", 45).await;
    let old = world
        .ca
        .root()
        .intermediate(&AuthoritySpec::new("old").valid(-7200, -3600));
    let leaf = old.issue(spiffe_leaf());
    refused(&world, &leaf, "certificate-expired", 45).await;
}

#[tokio::test]
async fn an_unknown_issuer_is_refused() {
    let world = World::open().await;
    let stranger = TestCa::new("stranger.test");
    let claimed = stranger.issue(spiffe_leaf());
    refused(&world, &claimed, "unknown-issuer", 48).await;
    let incomplete = world.ca.client(CALLER).without_intermediates();
    refused(&world, &incomplete, "unknown-issuer", 48).await;
    // It does not help to add another caller's certificate at the end of the chain.
    let appended = stranger
        .issue(spiffe_leaf())
        .with_extra(world.ca.client(CALLER).leaf().clone())
        .with_extra(world.ca.root().der().clone());
    refused(&world, &appended, "unknown-issuer", 48).await;
}

#[tokio::test]
async fn a_namesake_of_the_authority_is_refused() {
    let world = World::open().await;
    let namesake = TestCa::new("example.org").client(CALLER);
    for version in TlsVersion::BOTH {
        let error = world
            .anonymous()
            .with(&namesake)
            .tls(version)
            .refusal()
            .await;
        // The issuer's name is known but its key is not, so that both alerts are right.
        assert!(matches!(error.alert(), Some(46 | 48)), "{error}");
    }
    let lines = world
        .gateway
        .audit()
        .at_least(2, "the namesake", |line| {
            line["serial"] == namesake.serial_hex()
        })
        .await;
    for line in lines {
        let reason = line["reason"].as_str().unwrap();
        assert!(
            ["unknown-issuer", "bad-signature"].contains(&reason),
            "{line}"
        );
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn an_unused_certificate_in_the_chain_does_no_harm() {
    let world = World::open().await;
    let with_more = world
        .ca
        .client(CALLER)
        .with_extra(world.ca.root().der().clone())
        .with_extra(TestCa::new("other.org").root().der().clone());
    let client = world.anonymous().with(&with_more);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_cross_signed_intermediate_leads_to_the_trusted_root() {
    let world = World::open().await;
    let partner = Authority::root(&AuthoritySpec::new("partner root"));
    let issuing = partner.intermediate(&AuthoritySpec::new("partner issuing"));
    let mut credentials = issuing.issue(spiffe_leaf());
    let client = |credentials: &Credentials| world.anonymous().with(credentials);
    assert_eq!(client(&credentials).refusal().await.alert(), Some(48));
    credentials.chain.push(world.ca.root().cross_sign(&issuing));
    assert_eq!(client(&credentials).get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn every_supported_key_type_is_accepted() {
    let world = World::open().await;
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519] {
        let credentials = world.ca.issue(spiffe_leaf().key(kind));
        for version in TlsVersion::BOTH {
            let client = world.anonymous().with(&credentials).tls(version);
            assert_eq!(client.get("/a").await.unwrap().status, 200, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn usages_are_checked() {
    let world = World::open().await;
    let wrong = [
        spiffe_leaf().extended_key_usages(&[ExtendedKeyUsagePurpose::ServerAuth]),
        spiffe_leaf().authority().key_usages(&[
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ]),
        spiffe_leaf().authority(),
        spiffe_leaf().key_usages(&[
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ]),
        // X509-SVID section 5.2 forbids cRLSign in a leaf.
        spiffe_leaf().key_usages(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
        spiffe_leaf().key_usages(&[KeyUsagePurpose::CrlSign]),
        spiffe_leaf().key_usages(&[KeyUsagePurpose::KeyEncipherment]),
        // The critical extension 1.3.6.1.4.1.99999.1 is unknown.
        spiffe_leaf().extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, &[5, 0]),
    ];
    for leaf in wrong {
        let what = format!("{leaf:?}");
        let credentials = world.ca.issue(leaf);
        let line = refused(&world, &credentials, "wrong-usage", 46).await;
        assert_eq!(line["serial"], credentials.serial_hex(), "{what}");
    }
    // A leaf without key usages is allowed. An unknown extension that is not critical is ignored.
    for leaf in [
        spiffe_leaf().key_usages(&[]).extended_key_usages(&[]),
        spiffe_leaf().extension(&[1, 3, 6, 1, 4, 1, 99999, 1], false, &[5, 0]),
    ] {
        let client = world.anonymous().with(&world.ca.issue(leaf));
        assert_eq!(client.get("/a").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_issuer_needs_the_right_to_issue() {
    let world = World::open().await;
    let spec = AuthoritySpec::new("only lists").key_usages(&[KeyUsagePurpose::CrlSign]);
    let leaf = world.ca.root().intermediate(&spec).issue(spiffe_leaf());
    refused(&world, &leaf, "wrong-usage", 46).await;
}

#[tokio::test]
async fn name_constraints_bind() {
    let world = World::open().await;
    let constrained = world
        .ca
        .root()
        .intermediate(&AuthoritySpec::new("constrained").permitted_dns("example.org"));
    let outside = constrained.issue(spiffe_leaf().dns("checkout.example.com"));
    refused(&world, &outside, "name-constraint", 46).await;
    let inside = constrained.issue(spiffe_leaf().dns("checkout.example.org"));
    let client = world.anonymous().with(&inside);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

/// The line of a chain that is refused unread names the leaf as other lines do, as unproven facts.
fn describes_the_leaf(line: &Value, credentials: &Credentials) {
    assert_eq!(line["serial"], credentials.serial_hex(), "{line}");
    for member in ["subject", "sans", "issuer", "thumbprint"] {
        assert!(line[member].is_string(), "{member}: {line}");
    }
    assert!(
        line["sans"].as_str().unwrap().contains("spiffe://"),
        "{line}"
    );
    assert_eq!(line["possession_proven"], false);
}

#[tokio::test]
async fn chains_are_bounded() {
    let world = World::open().await;
    let mut long = world.ca.client(CALLER);
    for number in 0..7 {
        long = long.with_extra(
            Authority::root(&AuthoritySpec::new(&format!("{number}")))
                .der()
                .clone(),
        );
    }
    assert_eq!(long.chain.len(), 9);
    let line = refused(&world, &long, "chain-too-long", 46).await;
    describes_the_leaf(&line, &long);

    let padding = vec![0x04; 34 * 1024];
    let big =
        world
            .ca
            .issue(spiffe_leaf().extension(&[1, 3, 6, 1, 4, 1, 99999, 2], false, &padding));
    let line = refused(&world, &big, "chain-too-long", 46).await;
    describes_the_leaf(&line, &big);

    let short = Authority::root(&AuthoritySpec::new("short root").path_length(0));
    let settings = Settings::new(&world.ca)
        .trust_domain(&format!(
            "name = \"example.org\"\nroots = [\"{}\"]\nrevocation = \"off\"",
            world.ca.write("short.pem", short.pem()).display()
        ))
        .everything_to(world.echo.address());
    let world = World {
        gateway: countersign_testkit::Gateway::start(BINARY, &settings).await,
        ..world
    };
    let below = short.intermediate(&AuthoritySpec::new("one too many"));
    refused(&world, &below.issue(spiffe_leaf()), "chain-too-long", 46).await;
    let client = world.anonymous().with(&short.issue(spiffe_leaf()));
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn signatures_are_checked() {
    let world = World::open().await;
    let damaged = world.ca.issue(spiffe_leaf().corrupt_signature());
    refused(&world, &damaged, "bad-signature", 46).await;

    // Another caller's certificate is refused if the client has only its own key.
    let victim = world.ca.client(CALLER);
    let thief = Credentials::from_parts(
        victim.chain.clone(),
        world.ca.client("/thief").key().secret_der().to_vec(),
    );
    for version in TlsVersion::BOTH {
        let error = world.anonymous().with(&thief).tls(version).refusal().await;
        // TLS libraries may send 51 (decrypt_error) for this error.
        assert!(
            matches!(error.alert(), Some(46 | 51)),
            "{version:?}: {error}"
        );
    }
    let lines = world
        .gateway
        .audit()
        .at_least(2, "handshakes with a stolen certificate", |line| {
            line["event"] == "handshake" && line["serial"] == victim.serial_hex()
        })
        .await;
    for line in lines {
        assert_eq!(line["reason"], "bad-signature", "{line}");
        assert_eq!(line["possession_proven"], false, "{line}");
    }
}

#[tokio::test]
async fn weak_keys_are_refused() {
    let world = World::open().await;
    let chain = weak_chain(&world);
    if tool("openssl", chain.is_some()) {
        refused(&world, &chain.unwrap(), "weak-key", 46).await;
    }
}

/// Returns a P-256 leaf below an intermediate with RSA-1024. OpenSSL makes the certificates.
fn weak_chain(world: &World) -> Option<Credentials> {
    let path = |name: &str| world.ca.directory().join(name).display().to_string();
    let openssl = |arguments: &[&str]| {
        std::process::Command::new("openssl")
            .args(arguments)
            .output()
            .ok()
            .map(|output| {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{arguments:?}: {said}");
            })
    };
    let (root, root_key) = (path("root.pem"), path("root.key"));
    let _ = world.ca.root_file();
    let _ = world.ca.write("root.key", world.ca.root().key_pem());
    let ca_extensions = world.ca.write(
        "ca.ext",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n",
    );
    let leaf_extensions = world.ca.write(
        "leaf.ext",
        format!("extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\nsubjectAltName=URI:spiffe://example.org{CALLER}\n"),
    );
    let (ca_extensions, leaf_extensions) = (
        ca_extensions.display().to_string(),
        leaf_extensions.display().to_string(),
    );
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "rsa:1024",
        "-nodes",
        "-subj",
        "/CN=weak",
        "-keyout",
        &path("weak.key"),
        "-out",
        &path("weak.csr"),
    ])?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        &path("weak.csr"),
        "-CA",
        &root,
        "-CAkey",
        &root_key,
        "-days",
        "1",
        "-sha256",
        "-extfile",
        &ca_extensions,
        "-out",
        &path("weak.pem"),
    ])?;
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=leaf",
        "-keyout",
        &path("leaf.key"),
        "-out",
        &path("leaf.csr"),
    ])?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        &path("leaf.csr"),
        "-CA",
        &path("weak.pem"),
        "-CAkey",
        &path("weak.key"),
        "-days",
        "1",
        "-sha256",
        "-extfile",
        &leaf_extensions,
        "-out",
        &path("leaf.pem"),
    ])?;
    let read = |name: &str| {
        use rustls_pki_types::pem::PemObject as _;
        rustls_pki_types::CertificateDer::from_pem_file(path(name)).unwrap()
    };
    let key = {
        use rustls_pki_types::pem::PemObject as _;
        rustls_pki_types::PrivateKeyDer::from_pem_file(path("leaf.key")).unwrap()
    };
    Some(Credentials::from_parts(
        vec![read("leaf.pem"), read("weak.pem")],
        key.secret_der().to_vec(),
    ))
}

/// Names that do not name the caller go to services too, in the assertion and in header fields.
#[tokio::test]
async fn additional_names_with_hazardous_characters_are_refused() {
    let world = World::open().await;
    let leaf = || Leaf::with_uri(&world.ca.spiffe(CALLER));
    for leaf in [
        leaf().dns("a\n.example.org"),
        leaf().dns("a\".example.org"),
        leaf().dns("a\u{7f}"),
        leaf().email("a\r\nX: y@example.org"),
        leaf().email("\"a b\"@example.org"),
        leaf().email("a\u{1b}[2J@example.org"),
        leaf().dns("good.example.org").dns("bad\0.example.org"),
    ] {
        refused(&world, &world.ca.issue(leaf), "malformed-identity", 46).await;
    }
    let line = world.gateway.audit().handshake("malformed-identity").await;
    assert!(!line.to_string().contains('\u{1b}'), "{line}");
    let good = leaf().dns("a.example.org").email("o'brien@example.org");
    let client = world.anonymous().with(&world.ca.issue(good));
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}
