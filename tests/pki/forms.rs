//! `pki inspect` and `pki export`: show the content of files, and convert files.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use countersign_testkit::skipped::has_tool;
use serde_json::Value;

use super::{Authority, certificates, pki};
use crate::support::{BINARY, Run};

fn authority() -> (Authority, PathBuf) {
    let authority = Authority::new();
    authority
        .run(&[
            "issue",
            "spiffe://example.org/ns/shop/sa/a",
            "--dns",
            "a.example.org",
        ])
        .done();
    let path = authority.path("issued/a.pem");
    (authority, path)
}

fn kinds(document: &Value) -> Vec<&str> {
    let items = document["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["kind"].as_str().unwrap())
        .collect()
}

fn inspect(path: &std::path::Path) -> Run {
    Run::of(pki(&["inspect", "--json"]).arg(path))
}

#[test]
fn what_this_program_makes_has_no_findings() {
    let (authority, path) = authority();
    for (path, kinds_expected) in [
        (path, &["certificate", "certificate"][..]),
        (authority.path("root.pem"), &["certificate"]),
        (authority.path("crl/intermediate.crl"), &["revocation-list"]),
        (authority.path("crl/root.crl"), &["revocation-list"]),
        (authority.path("root.key"), &["private-key"]),
    ] {
        let document = inspect(&path).done().json();
        assert_eq!(kinds(&document), kinds_expected, "{}", path.display());
        for item in document["items"].as_array().unwrap() {
            assert_eq!(item["lints"], serde_json::json!([]), "{}", path.display());
        }
    }
}

#[test]
fn a_person_and_a_pipe_can_read_it() {
    let (authority, path) = authority();
    let run = Run::of(pki(&["inspect"]).arg(&path)).done();
    for words in [
        "spiffe://example.org/ns/shop/sa/a",
        "EC P-256",
        "in its time",
        "client          yes",
    ] {
        assert!(run.stdout.contains(words), "{words:?} in {}", run.stdout);
    }
    let mut child = pki(&["inspect", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let der = certificates(&authority.path("root.pem")).swap_remove(0);
    child.stdin.take().unwrap().write_all(&der).unwrap();
    let document = Run::from(child.wait_with_output().unwrap()).done().json();
    assert_eq!(document["items"][0]["content"]["authority"], true);
    // The command never shows a private key.
    let key = std::fs::read_to_string(authority.path("root.key")).unwrap();
    let run = Run::of(pki(&["inspect"]).arg(authority.path("root.key"))).done();
    assert!(!run.stdout.contains(key.lines().nth(1).unwrap()));
}

/// Files that are not certificates: requests, key sets, and files with several objects.
#[test]
fn requests_key_sets_and_bundles_are_read() {
    let (authority, path) = authority();
    let home = authority.home.path();
    let mut params = rcgen::CertificateParams::default();
    let name = "spiffe://example.org/ns/shop/sa/b".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(name)];
    let key = rcgen::KeyPair::generate().unwrap();
    let request = params.serialize_request(&key).unwrap();
    let file = home.join("b.csr");
    std::fs::write(&file, request.pem().unwrap()).unwrap();
    let der = home.join("b.der");
    std::fs::write(&der, request.der()).unwrap();
    for file in [&file, &der] {
        let document = inspect(file).done().json();
        assert_eq!(kinds(&document), ["request"]);
        let said = document["items"][0].to_string();
        assert!(said.contains("spiffe://example.org/ns/shop/sa/b"), "{said}");
    }

    let dir = authority.dir();
    let bundle = home.join("bundle.json");
    let words = [
        "--format",
        "bundle",
        "--dir",
        dir.to_str().unwrap(),
        "--out",
    ];
    export(
        &authority,
        &[&words[..], &[bundle.to_str().unwrap()]].concat(),
    )
    .done();
    let tokens = home.join("keys.json");
    let token_key = countersign_testkit::TokenKey::new("one");
    let set = countersign_testkit::Idp::key_set(&[&token_key]);
    std::fs::write(&tokens, set.to_string()).unwrap();
    for file in [&bundle, &tokens] {
        assert_eq!(
            kinds(&inspect(file).done().json()),
            ["key-set"],
            "{}",
            file.display()
        );
    }

    let mut mixed = std::fs::read(&path).unwrap();
    for name in ["root.pem", "crl/root.crl", "root.key"] {
        mixed.extend(authority.read(name));
    }
    let file = home.join("mixed.pem");
    std::fs::write(&file, mixed).unwrap();
    assert_eq!(
        kinds(&inspect(&file).done().json()),
        [
            "certificate",
            "certificate",
            "certificate",
            "revocation-list",
            "private-key"
        ]
    );
}

#[test]
fn broken_certificates_are_marked() {
    let authority = Authority::new();
    let out = authority.home.path().join("fixtures");
    authority
        .run(&["fixtures", "--out", out.to_str().unwrap()])
        .done();
    for (file, lint) in [
        ("wrong-usage-key-cert-sign", "leaf-can-sign"),
        ("wrong-usage-crl-sign", "leaf-can-sign"),
        (
            "wrong-usage-critical-extension",
            "unknown-critical-extension",
        ),
        ("ambiguous-identity", "spiffe-id-not-alone"),
        ("malformed-identity-path", "spiffe-id-malformed"),
        ("malformed-identity-nul", "spiffe-id-malformed"),
        ("malformed-identity-scheme", "name-malformed"),
        ("no-identity", "no-subject-alternative-name"),
        ("no-identity-nul", "name-malformed"),
        ("weak-key", "key-weak"),
        ("wrong-usage-eku", "spiffe-usages"),
    ] {
        let path = out.join(format!("{file}.pem"));
        let run = inspect(&path);
        assert_eq!(run.code, 3, "{file}");
        let lints = run.json()["items"][0]["lints"].to_string();
        assert!(lints.contains(lint), "{file}: {lints}");
        let text = Run::of(pki(&["inspect"]).arg(&path)).stdout;
        assert!(text.contains("! ") && text.is_ascii(), "{text}");
        assert!(!text.contains('\0'));
    }
    let rubbish = authority.home.path().join("rubbish");
    std::fs::write(&rubbish, "rubbish").unwrap();
    inspect(&rubbish).refused(1, "no certificate");
    inspect(&authority.home.path().join("absent")).refused(2, "cannot read");
}

fn export(authority: &Authority, arguments: &[&str]) -> Run {
    let pass = authority.home.path().join("p12.pass");
    std::fs::write(&pass, "correct horse\n").unwrap();
    let mut command = pki(&["export"]);
    command.args(arguments).arg("--passphrase-file").arg(pass);
    Run::of(&mut command)
}

#[test]
fn pkcs12_opens_with_its_passphrase_here_and_elsewhere() {
    use std::os::unix::fs::PermissionsExt as _;
    let (authority, path) = authority();
    for legacy in [false, true] {
        let out = authority.home.path().join(format!("a-{legacy}.p12"));
        let mut arguments = vec![path.to_str().unwrap(), "--format", "pkcs12", "--out"];
        arguments.push(out.to_str().unwrap());
        if legacy {
            arguments.push("--legacy");
        }
        export(&authority, &arguments).done();
        export(&authority, &arguments).refused(1, "--force");
        assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let pass = authority.home.path().join("p12.pass");
        let read = |pass: &std::path::Path| {
            Run::of(
                pki(&["inspect", "--json"])
                    .arg(&out)
                    .arg("--passphrase-file")
                    .arg(pass),
            )
        };
        let document = read(&pass).done().json();
        assert_eq!(
            kinds(&document),
            ["private-key", "certificate", "certificate"]
        );
        let wrong = authority.home.path().join("wrong.pass");
        std::fs::write(&wrong, "wrong").unwrap();
        read(&wrong).refused(1, "passphrase");
        inspect(&out).refused(2, "is encrypted");

        if has_tool("keytool", "-help") {
            let mut command = Command::new("keytool");
            command.args(["-list", "-v", "-storetype", "PKCS12", "-storepass"]);
            command.arg("correct horse").arg("-keystore").arg(&out);
            let shown = Run::of(&mut command).done().stdout;
            assert!(shown.contains("PrivateKeyEntry"), "{shown}");
            assert!(shown.contains("Certificate chain length: 2"), "{shown}");
        }
        if has_tool("openssl", "version") {
            let mut command = Command::new("openssl");
            command.args(["pkcs12", "-nodes", "-in"]).arg(&out);
            command
                .arg("-passin")
                .arg(format!("file:{}", pass.display()));
            if legacy {
                command.arg("-legacy");
            }
            let shown = Run::of(&mut command).done().stdout;
            assert_eq!(shown.matches("BEGIN CERTIFICATE").count(), 2);
            assert_eq!(shown.matches("BEGIN PRIVATE KEY").count(), 1);
        }
    }
}

#[test]
fn java_reads_the_truststore() {
    let (authority, _) = authority();
    let out = authority.home.path().join("trust.p12");
    let dir = authority.dir();
    export(
        &authority,
        &[
            "--format",
            "truststore",
            "--dir",
            dir.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ],
    )
    .done();
    if has_tool("keytool", "-help") {
        let run = Run::of(
            Command::new("keytool")
                .args([
                    "-list",
                    "-storetype",
                    "PKCS12",
                    "-storepass",
                    "correct horse",
                    "-keystore",
                ])
                .arg(&out),
        )
        .done();
        assert!(run.stdout.contains("trustedCertEntry"), "{}", run.stdout);
    }
}

#[test]
fn plain_forms_and_the_bundle() {
    let (authority, path) = authority();
    let name = path.to_str().unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    let full = export(&authority, &[name, "--format", "full-chain"])
        .done()
        .stdout;
    assert_eq!(full, whole);
    let leaf = export(&authority, &[name, "--format", "pem"]).done().stdout;
    assert!(whole.starts_with(&leaf) && leaf.matches("BEGIN").count() == 1);
    let out = authority.home.path().join("a.der");
    export(
        &authority,
        &[name, "--format", "der", "--out", out.to_str().unwrap()],
    )
    .done();
    assert_eq!(std::fs::read(&out).unwrap(), certificates(&path)[0]);

    let dir = authority.dir();
    let bundle = export(
        &authority,
        &["--format", "bundle", "--dir", dir.to_str().unwrap()],
    )
    .done();
    let bundle: Value = serde_json::from_str(&bundle.stdout).unwrap();
    let key = &bundle["keys"][0];
    assert_eq!(
        (&key["use"], &key["kty"]),
        (&"x509-svid".into(), &"EC".into())
    );
    assert!(key["kid"].is_null() && key["x5c"].as_array().unwrap().len() == 1);
    export(&authority, &["--format", "bundle"]).refused(2, "--dir");
    export(&authority, &["--format", "der"]).refused(2, "name its file");
    let root = authority.path("root.key");
    export(
        &authority,
        &[name, "--format", "pkcs12", "--key", root.to_str().unwrap()],
    )
    .refused(1, "not the key");
}

#[tokio::test]
async fn a_live_server_is_inspected() {
    use countersign_testkit::{Credentials, Gateway, Settings, TestCa};
    let (authority, _) = authority();
    let root = authority.path("trust.pem");
    let domain = format!("name = \"example.org\"\nroots = [{root:?}]\nrevocation = \"off\"");
    let settings = Settings::new(&TestCa::new("example.org")).trust_domain(&domain);
    authority
        .run(&[
            "issue",
            "gateway",
            "--profile",
            "server",
            "--dns",
            "localhost",
        ])
        .done();
    let key = authority.path("issued/gateway.key");
    let key = rcgen::KeyPair::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
    let chain = certificates(&authority.path("issued/gateway.pem"));
    let chain = chain.into_iter().map(Into::into).collect();
    let server = Credentials::from_parts(chain, key.serialize_der());
    let settings = settings
        .server(&server)
        .everything_to("127.0.0.1:9".parse().unwrap());
    let gateway = Gateway::start(BINARY, &settings).await;
    let port = gateway.listener().port();
    let look = |url: String| async move {
        let mut command = tokio::process::Command::from(pki(&["inspect", &url, "--json"]));
        Run::from(command.output().await.unwrap())
    };
    let seen = look(format!("https://localhost:{port}"))
        .await
        .done()
        .json();
    assert_eq!(kinds(&seen), ["certificate", "certificate"]);
    assert_eq!(seen["items"][0]["content"]["names"], "dns:localhost");
    let connection = &seen["connection"];
    assert_eq!(connection["certificate_requested"], true, "{seen}");
    let issuers = connection["acceptable_issuers"].to_string();
    assert!(issuers.contains("Root CA"), "{seen}");
    // The certificate is not for this host name.
    let other = look(format!("https://127.0.0.1:{port}/path")).await;
    assert_eq!(other.code, 3);
    let lints = other.json()["items"][0]["lints"].to_string();
    assert!(lints.contains("other-name"), "{lints}");
    // A server without TLS, and a port on which no server listens.
    let plain = look(format!("https://{}", gateway.admin())).await;
    assert_eq!(plain.code, 1, "{}", plain.stdout);
    assert!(plain.stderr.contains("no certificate"), "{}", plain.stderr);
    look("https://localhost:1".to_owned())
        .await
        .refused(1, "no connection");
    look("https://:1".to_owned()).await.refused(2, "malformed");
}

#[test]
fn a_chain_is_verified_for_a_name() {
    let authority = Authority::new();
    let names = ["--dns", "*.example.org", "--ip", "::1"];
    authority
        .run(&[&["issue", "a", "--profile", "server"], &names[..]].concat())
        .done();
    authority
        .run(&[
            "issue",
            "spiffe://example.org/b",
            "--email",
            "b@example.org",
        ])
        .done();
    let verify = |purpose: &str, leaf: &str, name: &str| {
        let mut command = pki(&["verify", "--purpose", purpose, "--name", name, "--roots"]);
        let leaf = authority.path(&format!("issued/{leaf}.pem"));
        Run::of(command.arg(authority.path("trust.pem")).arg(leaf))
    };
    for name in [
        "x.example.org",
        "X.Example.org.",
        "dns:x.example.org",
        "::1",
        "ip:0:0::1",
    ] {
        verify("server", "a", name).done();
    }
    for name in [
        "example.org",
        "x.y.example.org",
        "127.0.0.1",
        "a",
        "*.example.com",
        "",
    ] {
        let refused = verify("server", "a", name).refused(3, "no-identity");
        assert!(
            refused.stderr.contains("does not carry"),
            "{}",
            refused.stderr
        );
    }
    for name in ["spiffe://example.org/b", "mailto:b@example.org"] {
        verify("client", "b", name).done();
    }
    for name in [
        "spiffe://example.org/bb",
        "spiffe://example.org",
        "b",
        "mailto:c@example.org",
    ] {
        verify("client", "b", name).refused(3, "no-identity");
    }
}
