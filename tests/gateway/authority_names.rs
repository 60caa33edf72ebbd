//! The authorities that callers are told: many clients send a certificate only if its issuer is
//! among them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use countersign_testkit::skipped::has_tool;
use countersign_testkit::{AuthoritySpec, Credentials, Settings, TestCa, TlsVersion, in_time};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;

use crate::support::{BINARY, CALLER, HOST, Run, World, root};

/// As clients of Go and Java: it sends its certificate only if the issuer is named, or if no
/// authority is named at all.
#[derive(Debug)]
struct Choosy {
    certified: Arc<CertifiedKey>,
    issuer: Vec<u8>,
    named: Mutex<Vec<Vec<u8>>>,
}

impl ResolvesClientCert for Choosy {
    fn resolve(&self, names: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.named.lock().unwrap() = names.iter().map(|name| name.to_vec()).collect();
        let is_accepted = names.is_empty() || names.contains(&self.issuer.as_slice());
        is_accepted.then(|| Arc::clone(&self.certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn subject(der: &[u8]) -> Vec<u8> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    certificate.subject().as_raw().to_vec()
}

/// Calls the gateway with a leaf alone. Returns the names that the gateway sent, and whether the
/// request was forwarded.
async fn call(world: &World, version: TlsVersion) -> (Vec<Vec<u8>>, bool) {
    let provider = countersign_core::crypto::provider();
    let caller = world.ca.client(CALLER).without_intermediates();
    let key = provider
        .key_provider
        .load_private_key(caller.key())
        .unwrap();
    let choosy = Arc::new(Choosy {
        certified: Arc::new(CertifiedKey::new(caller.chain.clone(), key)),
        issuer: subject(world.ca.intermediate().der()),
        named: Mutex::default(),
    });
    let mut roots = RootCertStore::empty();
    roots.add(world.ca.root().der().clone()).unwrap();
    let versions = match version {
        TlsVersion::V12 => &rustls::version::TLS12,
        TlsVersion::V13 => &rustls::version::TLS13,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[versions])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::clone(&choosy) as Arc<dyn ResolvesClientCert>);
    let exchange = async {
        let stream = TcpStream::connect(world.gateway.listener()).await.ok()?;
        let name = ServerName::try_from(HOST).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.ok()?;
        let request = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.ok()?;
        response.starts_with(b"HTTP/1.1 200 ").then_some(())
    };
    let forwarded = in_time("a call", exchange).await.is_some();
    let named = choosy.named.lock().unwrap().clone();
    (named, forwarded)
}

/// A gateway with these intermediates in its configuration.
async fn world(ca: TestCa, intermediates: &str) -> World {
    let file = ca.write("intermediates.pem", intermediates);
    let trust = format!("revocation = \"off\"\nintermediates = [{file:?}]");
    let configured = |settings: Settings, ca: &TestCa, echo| match intermediates.is_empty() {
        true => settings.everything_to(echo),
        false => settings.trust(ca, &trust).everything_to(echo),
    };
    World::of(ca, configured).await
}

#[tokio::test]
async fn configured_intermediates_are_named() {
    let ca = TestCa::new("example.org");
    let names = [ca.root(), ca.intermediate()].map(|authority| subject(authority.der()));
    // The same certificate twice is named once.
    let intermediates = ca.intermediate().pem().repeat(2);
    let configured = world(ca, &intermediates).await;
    let bare = world(TestCa::new("example.org"), "").await;
    for version in TlsVersion::BOTH {
        assert_eq!(call(&configured, version).await, (names.to_vec(), true));
        let (named, forwarded) = call(&bare, version).await;
        assert_eq!((&named[..], forwarded), (&names[..1], false));
    }
    let audit = bare.gateway.audit();
    let is_refusal = |line: &serde_json::Value| line["reason"] == "no-certificate";
    audit.at_least(2, "no certificate", is_refusal).await;
}

/// Authorities with names of some 220 bytes.
fn many(ca: &TestCa, count: usize) -> String {
    let name = |number: usize| format!("{number} {}", "x".repeat(200));
    (0..count)
        .map(|number| {
            ca.root()
                .intermediate(&AuthoritySpec::new(&name(number)))
                .pem()
        })
        .chain([ca.intermediate().pem()])
        .collect()
}

#[tokio::test]
async fn too_many_names_are_not_sent() {
    for (count, named) in [(120, 122), (150, 0)] {
        let ca = TestCa::new("example.org");
        let intermediates = many(&ca, count);
        let world = world(ca, &intermediates).await;
        for version in TlsVersion::BOTH {
            let (names, forwarded) = call(&world, version).await;
            assert_eq!((names.len(), forwarded), (named, true), "{version:?}");
        }
        let mut check = Command::new(BINARY);
        check
            .args(["check", "--config"])
            .arg(world.gateway.config_file());
        let run = Run::of_async(&mut check).await.done();
        let said = run.stdout + &run.stderr;
        assert_eq!(
            said.contains("at most 30720 are sent"),
            named == 0,
            "{said}"
        );
    }
}

/// Writes the files of a caller that has its leaf alone: root, certificate, key.
fn files(ca: &TestCa, caller: &Credentials) -> [PathBuf; 3] {
    [
        ca.root_file(),
        ca.write("caller.pem", caller.chain_pem()),
        ca.write("caller.key", caller.key_pem()),
    ]
}

async fn stock_clients(program: &Path, arguments: &[&str], versions: [&str; 2], port_only: bool) {
    let ca = TestCa::new("example.org");
    let intermediate = ca.intermediate().pem();
    let world = world(ca, &intermediate).await;
    let caller = world.ca.client(CALLER).without_intermediates();
    let address = world.gateway.listener();
    let target = match port_only {
        true => address.port().to_string(),
        false => address.to_string(),
    };
    for version in versions {
        let mut command = Command::new(program);
        command.args(arguments).args([target.as_str(), HOST]);
        command.args(files(&world.ca, &caller)).arg(version);
        let run = Run::of_async(&mut command).await.done();
        assert!(run.stdout.contains("200"), "{version}: {run:?}");
    }
}

#[tokio::test]
async fn go_sends_a_certificate_without_its_intermediate() {
    if !has_tool("go", "version") {
        return;
    }
    let build = tempfile::tempdir().unwrap();
    let program = build.path().join("caller");
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&program);
    command.arg(root().join("tests/foreign/caller.go"));
    Run::of_async(command.current_dir(build.path()))
        .await
        .done();
    stock_clients(&program, &[], ["1.2", "1.3"], false).await;
}

#[tokio::test]
async fn java_sends_a_certificate_without_its_intermediate() {
    if !has_tool("java", "-version") {
        return;
    }
    let source = root().join("tests/foreign/Caller.java");
    let source = source.display().to_string();
    let versions = ["TLSv1.2", "TLSv1.3"];
    stock_clients(Path::new("java"), &[&source], versions, true).await;
}
