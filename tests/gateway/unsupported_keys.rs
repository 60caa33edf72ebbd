//! Keys and signatures that the provider cannot verify: one reason for each, in handshakes and
//! offline, with the name of the algorithm.

use std::path::Path;
use std::process::{Command, Stdio};

use countersign_testkit::skipped::has_tool;
use countersign_testkit::unusual::{
    ECDSA_SHA1, ECDSA_SHA224, ECDSA_SHA512, certificate_claiming, keys_beyond_ring, list_claiming,
    unsupported_keys, with_key,
};
use countersign_testkit::{Authority, AuthoritySpec, Credentials, Crl, TestCa, TlsVersion, pem};
use rustls_pki_types::CertificateDer;

use crate::support::{
    BINARY, CALLER, HOST, Run, World, readyz, reloaded, replace, revocable, streaming,
};

/// Whether this build uses ring, which supports fewer algorithms than AWS-LC.
fn is_ring() -> bool {
    countersign_core::crypto::PROVIDER == "ring"
}

/// Keys that this build does not support.
fn keys() -> Vec<(&'static str, Vec<u8>)> {
    let mut keys = unsupported_keys();
    if is_ring() {
        keys.extend(keys_beyond_ring());
    }
    keys
}

/// Runs a command on a chain, and expects it to say no.
fn says_no(arguments: &[&str], chain: &Path) -> Run {
    let run = Run::of(
        Command::new(BINARY)
            .args(arguments)
            .arg(chain)
            .stdin(Stdio::null()),
    );
    assert_eq!(run.code, 3, "{arguments:?}: {}{}", run.stdout, run.stderr);
    run
}

/// Expects the same reason and detail of both TLS versions, of the audit log, and of the commands
/// that judge certificates.
async fn is_refused(world: &World, chain: &[CertificateDer<'static>], reason: &str, detail: &str) {
    // The chain is judged before the proof of possession, so that any key will do.
    let key = world.caller.key().secret_der().to_vec();
    let caller = Credentials::from_parts(chain.to_vec(), key);
    for version in TlsVersion::BOTH {
        let client = world.anonymous().with(&caller).tls(version);
        let error = client.refusal().await;
        assert_eq!(error.alert(), Some(46), "{detail} {version:?}: {error}");
    }
    let audit = world.gateway.audit();
    let is_it = |line: &serde_json::Value| line["reason"] == reason && line["detail"] == detail;
    audit
        .at_least(2, &format!("{reason}: {detail}"), is_it)
        .await;

    let expected = format!("{reason}: {detail}");
    let file = world.ca.write("presented.pem", caller.chain_pem());
    let config = world.gateway.config_file().display().to_string();
    let explained = says_no(&["explain", "--config", &config, "--cert"], &file);
    assert!(explained.stderr.contains(&expected), "{}", explained.stderr);
    let roots = world.ca.root_file().display().to_string();
    let verify = ["pki", "verify", "--purpose", "client", "--roots", &roots];
    let verified = says_no(&verify, &file);
    assert!(verified.stderr.contains(&expected), "{}", verified.stderr);
}

/// Expects `pki inspect` to mark a certificate of the chain.
fn is_marked(world: &World, lint: &str, name: &str) {
    let file = world.ca.directory().join("presented.pem");
    let document = says_no(&["pki", "inspect", "--json"], &file).json();
    let items = document["items"].as_array().unwrap();
    let mut lints = items
        .iter()
        .flat_map(|item| item["lints"].as_array().unwrap());
    let is_it = |found: &&serde_json::Value| {
        found["lint"] == lint && found["message"].as_str().unwrap().contains(name)
    };
    assert!(
        lints.any(|found| is_it(&found)),
        "{lint} {name}: {document}"
    );
}

#[tokio::test]
async fn keys_of_leaves_have_one_reason_everywhere() {
    let world = World::open().await;
    let issuer = world.ca.intermediate();
    for (name, key) in keys() {
        let leaf = with_key(issuer, world.caller.leaf(), &key);
        let chain = [leaf, issuer.der().clone()];
        let detail = format!("the leaf's key is not supported: {name}");
        is_refused(&world, &chain, "unsupported-key", &detail).await;
        is_marked(&world, "unsupported-key", name);
    }
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn keys_of_issuers_have_the_same_reason() {
    let world = World::open().await;
    let root = world.ca.root();
    for (name, key) in keys() {
        let issuer = with_key(root, world.ca.intermediate().der(), &key);
        let chain = [world.caller.leaf().clone(), issuer];
        let of = "the key of CN=example.org intermediate";
        let detail = format!("{of} is not supported: {name}");
        is_refused(&world, &chain, "unsupported-key", &detail).await;
        is_marked(&world, "unsupported-key", name);
    }
}

#[tokio::test]
async fn signatures_of_certificates_have_the_same_reason() {
    let world = World::open().await;
    let (leaf, issuer) = (world.caller.leaf(), world.ca.intermediate().der());
    let mut cases = vec![
        (
            ECDSA_SHA224,
            "unsupported-key",
            "not supported: ECDSA with SHA-224",
            "unsupported-key",
        ),
        (
            ECDSA_SHA1,
            "weak-key",
            "too weak: ECDSA with SHA-1",
            "signature-weak",
        ),
    ];
    if is_ring() {
        let sha_512 = "not supported: ECDSA with SHA-512";
        cases.push((ECDSA_SHA512, "unsupported-key", sha_512, "unsupported-key"));
    }
    for (algorithm, reason, said, lint) in cases {
        let altered = certificate_claiming(leaf, algorithm);
        let detail = format!("the signature of the leaf is {said}");
        is_refused(&world, &[altered, issuer.clone()], reason, &detail).await;
        is_marked(&world, lint, "");
        let altered = certificate_claiming(issuer, algorithm);
        let detail = format!("the signature of CN=example.org intermediate is {said}");
        is_refused(&world, &[leaf.clone(), altered], reason, &detail).await;
        is_marked(&world, lint, "");
    }
}

fn check(world: &World) -> Run {
    let config = world.gateway.config_file();
    let mut command = Command::new(BINARY);
    Run::of(
        command
            .args(["check", "--config"])
            .arg(config)
            .stdin(Stdio::null()),
    )
}

#[tokio::test]
async fn check_refuses_a_root_under_which_nobody_could_pass() {
    let world = World::open().await;
    let root = world.ca.root();
    for (name, key) in keys() {
        let unusable = with_key(root, root.der(), &key);
        let unusable = pem("CERTIFICATE", &unusable);
        let _ = world.ca.write("root.pem", &unusable);
        let run = check(&world).refused(2, "has no root certificate that can be used");
        for part in [
            name,
            "CN=example.org root",
            "use an authority whose key is P-256",
        ] {
            assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
        }
        // Beside a usable root it is only a warning.
        let _ = world.ca.write("root.pem", root.pem() + &unusable);
        let run = check(&world).done();
        let said = run.stdout + &run.stderr;
        for part in [
            name,
            "root CN=example.org root cannot be used",
            "replace the root",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    // The gateway still uses the good root.
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn check_warns_of_intermediates_that_cannot_be_used() {
    let ca = TestCa::new("example.org");
    let file = ca.write("intermediates.pem", ca.intermediate().pem());
    let trust = format!("revocation = \"off\"\nintermediates = [{file:?}]");
    let world = World::of(ca, |settings, ca, echo| {
        settings.trust(ca, &trust).everything_to(echo)
    })
    .await;
    assert!(!check(&world).done().stderr.contains("intermediate"));
    let intermediate = world.ca.intermediate().der();
    let (name, key) = keys().swap_remove(0);
    let unusable = with_key(world.ca.root(), intermediate, &key);
    let unsigned = certificate_claiming(intermediate, ECDSA_SHA224);
    for (der, what) in [
        (
            unusable,
            format!("the key of CN=example.org intermediate is not supported: {name}"),
        ),
        (unsigned, "is not supported: ECDSA with SHA-224".to_owned()),
    ] {
        let _ = world
            .ca
            .write("intermediates.pem", pem("CERTIFICATE", &der));
        let run = check(&world).done();
        let said = run.stdout + &run.stderr;
        for part in [
            what.as_str(),
            "intermediate CN=example.org intermediate cannot be used",
            "issued anew",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

#[tokio::test]
async fn check_warns_of_roots_of_services_that_cannot_be_used() {
    let ca = TestCa::new("example.org");
    let (name, key) = keys().swap_remove(0);
    let root = pem("CERTIFICATE", &with_key(ca.root(), ca.root().der(), &key));
    let file = ca.write("service.pem", root);
    let more = format!("roots = [{file:?}]\nserver_name = \"localhost\"\n");
    let endpoint = ["https://127.0.0.1:9".to_owned()];
    let world = World::of(ca, |settings, _, echo| {
        let settings = settings.everything_to(echo);
        settings.upstream_at("secured", &endpoint, &more)
    })
    .await;
    let run = check(&world).done();
    let said = run.stdout + &run.stderr;
    let why = format!("the key of CN=example.org root is not supported: {name}");
    for part in [
        "service.pem has a root certificate that cannot be used",
        &why,
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test]
async fn a_list_whose_signature_cannot_be_verified_is_refused_with_a_remedy() {
    let (world, lists) = revocable().await;
    let list = Crl::new().number(2).signed_by(world.ca.intermediate());
    let mut cases = vec![
        (
            ECDSA_SHA224,
            "its signature is not supported: ECDSA with SHA-224",
        ),
        (ECDSA_SHA1, "its signature is too weak: ECDSA with SHA-1"),
    ];
    if is_ring() {
        cases.push((
            ECDSA_SHA512,
            "its signature is not supported: ECDSA with SHA-512",
        ));
    }
    for (algorithm, said) in cases {
        replace(&lists.issuing, list_claiming(&list, algorithm));
        let run = check(&world).refused(2, said);
        for part in ["issuing.crl", "sign the list with SHA-256 or SHA-384"] {
            assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
        }
        let inspected = says_no(&["pki", "inspect"], &lists.issuing).stdout;
        assert!(inspected.contains(said), "{inspected}");
    }
    // The running gateway reports it, and keeps the list that it has.
    readyz(&world.gateway, "its signature is", true).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
}

/// Keys of OpenSSL that it uses in TLS 1.3, and how to make them.
const OF_OPENSSL: [(&str, &[&str]); 3] = [
    (
        "P-521",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
    ),
    ("Ed448", &["-algorithm", "ED448"]),
    (
        "RSASSA-PSS",
        &["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"],
    ),
];

fn openssl(directory: &Path, arguments: &[&str]) -> Run {
    let mut command = Command::new("openssl");
    Run::of(
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null()),
    )
}

#[tokio::test]
async fn the_key_of_the_gateway_itself_is_named() {
    if !is_ring() || !has_tool("openssl", "version") {
        return;
    }
    let world = World::open().await;
    let made = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-521",
        "-nodes",
        "-subj",
        "/CN=gateway",
        "-keyout",
        "gateway.key",
        "-out",
        "gateway.pem",
    ];
    openssl(world.gateway.directory(), &made).done();
    check(&world).refused(2, "the key of CN=gateway is not supported: P-521");
}

/// A client sends no certificate if the gateway does not ask for a signature that it can make. The
/// gateway could then only say that there is none.
#[tokio::test]
async fn a_stock_client_hears_of_its_key_and_not_of_a_missing_certificate() {
    if !has_tool("openssl", "version") {
        return;
    }
    let world = World::open().await;
    let directory = world.ca.directory();
    let _ = world.ca.write("root.key", world.ca.root().key_pem());
    let extensions = format!(
        "extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n\
         subjectAltName=URI:spiffe://example.org{CALLER}\n"
    );
    let _ = world.ca.write("leaf.ext", extensions);
    let address = world.gateway.listener().to_string();
    for (name, algorithm) in OF_OPENSSL {
        if name == "P-521" && !is_ring() {
            continue;
        }
        let made = [&["genpkey", "-out", "leaf.key"][..], algorithm].concat();
        openssl(directory, &made).done();
        let csr = [
            "req", "-new", "-key", "leaf.key", "-subj", "/CN=leaf", "-out", "leaf.csr",
        ];
        openssl(directory, &csr).done();
        let signed = [
            "x509", "-req", "-in", "leaf.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days",
            "1", "-sha256", "-extfile", "leaf.ext", "-out", "leaf.pem",
        ];
        openssl(directory, &signed).done();
        let call = [
            "s_client",
            "-connect",
            &address,
            "-servername",
            HOST,
            "-cert",
            "leaf.pem",
            "-key",
            "leaf.key",
            "-tls1_3",
        ];
        openssl(directory, &call);
        let line = world
            .gateway
            .audit()
            .line(name, |line| line["detail"].to_string().contains(name))
            .await;
        assert_eq!(line["reason"], "unsupported-key", "{line}");
        assert_eq!(line["alert"], "certificate_unknown", "{line}");
        assert!(line["sans"].to_string().contains(CALLER), "{line}");
    }
}

/// A removed root is not trusted any more, also if no remaining root can verify callers.
#[tokio::test]
async fn a_removed_root_loses_trust_although_the_other_one_cannot_be_used() {
    let key = &keys()[0].1;
    for (name, alert) in [("unsupported", 46), ("expired", 48)] {
        let world = World::open().await;
        let root = world.ca.root();
        let other = match name {
            "unsupported" => pem("CERTIFICATE", &with_key(root, root.der(), key)),
            _ => Authority::root(&AuthoritySpec::new("expired").valid(-100, -10)).pem(),
        };
        replace(&world.ca.root_file(), root.pem() + &other);
        reloaded(&world.gateway).await;
        let client = world.client();
        assert_eq!(client.get("/a").await.unwrap().status, 200, "{name}");
        let mut stream = streaming(&client).await;
        replace(&world.ca.root_file(), other);
        assert!(stream.read_until(|_| false).await.closed, "{name}");
        assert_eq!(client.refusal().await.alert(), Some(alert), "{name}");
        readyz(&world.gateway, "has no root certificate that", true).await;
    }
}
