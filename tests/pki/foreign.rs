//! OpenSSL, Go and Java verify the chains and CRLs. A test is skipped if its tool is missing,
//! unless `COUNTERSIGN_REQUIRE_TOOLS=1`.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_testkit::skipped::has_tool;

use super::Authority;
use crate::support::Run;

/// An authority that has issued certificates with several profiles, one of them revoked.
struct Issued {
    authority: Authority,
}

impl Issued {
    fn new() -> Self {
        let authority = Authority::new();
        std::fs::write(authority.path("profiles.toml"), PROFILES).unwrap();
        for arguments in [
            &[
                "server",
                "--profile",
                "server",
                "--dns",
                "localhost",
                "--dns",
                "*.example.org",
                "--ip",
                "127.0.0.1",
            ][..],
            &[
                "client",
                "--profile",
                "client",
                "--email",
                "alice@example.org",
                "--uri",
                "urn:example:alice",
            ],
            &[
                "spiffe://example.org/ns/shop/sa/peer",
                "--dns",
                "peer.example.org",
            ],
            &["revoked", "--dns", "revoked.example.org"],
            &["spiffe://example.org/batch", "--profile", "batch"],
            // This name is too long for a common name. So the subject must be empty, and
            // subjectAltName must be critical.
            &[LONG, "--spiffe", "/nameless"],
        ] {
            authority.run(&[&["issue"], arguments].concat()).done();
        }
        let revoked = authority.path("issued/revoked.pem");
        authority
            .run(&[
                "revoke",
                "--cert",
                revoked.to_str().unwrap(),
                "--reason",
                "key-compromise",
            ])
            .done();
        Self { authority }
    }

    /// Creates an authority without an intermediate, whose root issues the leaves.
    fn by_a_root() -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority { home };
        authority
            .run(&[
                "init",
                "--trust-domain",
                "example.org",
                "--no-passphrase",
                "--root-only",
            ])
            .done();
        authority
            .run(&["issue", "spiffe://example.org/peer"])
            .done();
        Self { authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.authority.path(name)
    }

    fn leaf(&self, name: &str) -> PathBuf {
        self.path(&format!("issued/{name}.pem"))
    }
}

const LONG: &str = "a-label-that-is-longer-than-the-sixty-four-characters-of-a-common-name";

/// The name of each leaf, the purposes that it must have, and the purposes that it must not have.
const PURPOSES: [(&str, &[&str], &[&str]); 5] = [
    ("server", &["server"], &["client"]),
    ("client", &["client"], &["server"]),
    ("peer", &["client", "server"], &[]),
    (LONG, &["client", "server"], &[]),
    ("batch", &["client", "server"], &[]),
];

/// A profile with all settings that a profile can have.
const PROFILES: &str = r#"
[[profile]]
name = "batch"
usages = ["client"]
key_types = ["p384"]
crl_urls = ["http://pki.example.org/a.crl", "http://pki2.example.org/a.crl"]
issuer_urls = ["http://pki.example.org/a.der"]
organization = "Example"
organizational_unit = "Batch"
"#;

fn run(command: &mut Command) -> Run {
    Run::of(command)
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/pki")
        .join(name)
}

#[test]
fn openssl_accepts_chains_and_lists() {
    if !has_tool("openssl", "version") {
        return;
    }
    let issued = Issued::new();
    let verify = |leaf: &str, more: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-CAfile"]);
        command
            .arg(issued.path("trust.pem"))
            .arg("-untrusted")
            .arg(issued.leaf(leaf));
        run(command.args(more).arg(issued.leaf(leaf)))
    };
    for (leaf, has, lacks) in PURPOSES {
        for purpose in has {
            verify(leaf, &["-purpose", &format!("ssl{purpose}")]).done();
        }
        for purpose in lacks {
            assert_ne!(
                verify(leaf, &["-purpose", &format!("ssl{purpose}")]).code,
                0
            );
        }
    }
    for name in ["localhost", "a.example.org"] {
        verify("server", &["-verify_hostname", name]).done();
    }
    assert_ne!(
        verify("server", &["-verify_hostname", "example.org"]).code,
        0
    );
    verify("server", &["-verify_ip", "127.0.0.1"]).done();

    // Checks the revocation of the whole chain, with both CRLs in one file.
    let lists = issued.path("all.crl");
    let mut content = std::fs::read(issued.path("crl/root.crl")).unwrap();
    content.extend(std::fs::read(issued.path("crl/intermediate.crl")).unwrap());
    std::fs::write(&lists, content).unwrap();
    let checked = ["-crl_check_all", "-CRLfile", lists.to_str().unwrap()];
    verify("peer", &checked).done();
    let revoked = verify("revoked", &checked);
    assert!(
        revoked.code != 0 && revoked.stderr.contains("revoked"),
        "{}",
        revoked.stderr
    );

    for name in ["root", "intermediate"] {
        let mut command = Command::new("openssl");
        command
            .args(["crl", "-noout", "-verify", "-in"])
            .arg(issued.path(&format!("crl/{name}.crl")));
        let checked = run(command
            .arg("-CAfile")
            .arg(issued.path(&format!("{name}.pem"))))
        .done();
        assert!(checked.stderr.contains("verify OK"), "{}", checked.stderr);
    }
}

#[test]
fn openssl_opens_keys_and_they_fit_their_certificates() {
    if !has_tool("openssl", "version") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    let passphrase = home.path().join("passphrase");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    let source = format!("file:{}", passphrase.display());
    let mut init = super::pki(&["init", "--trust-domain", "example.org", "--passphrase-file"]);
    Run::of(init.arg(&passphrase).arg("--dir").arg(&dir)).done();
    let mut issue = super::pki(&["issue", "a", "--passphrase-file"]);
    Run::of(issue.arg(&passphrase).arg("--dir").arg(&dir)).done();
    for name in ["root", "intermediate", "issued/a"] {
        let mut key = Command::new("openssl");
        key.args(["pkey", "-pubout", "-passin", &source, "-in"])
            .arg(dir.join(format!("{name}.key")));
        let mut certificate = Command::new("openssl");
        certificate
            .args(["x509", "-pubkey", "-noout", "-in"])
            .arg(dir.join(format!("{name}.pem")));
        assert_eq!(
            run(&mut key).done().stdout,
            run(&mut certificate).done().stdout,
            "{name}"
        );
    }
}

#[test]
fn go_accepts_chains_and_lists() {
    if !has_tool("go", "version") {
        return;
    }
    let issued = Issued::new();
    let build = tempfile::tempdir().unwrap();
    let program = build.path().join("verify");
    let mut command = Command::new("go");
    command
        .args(["build", "-o"])
        .arg(&program)
        .arg(source("verify.go"));
    run(command.current_dir(build.path())).done();
    let verify = |leaf: &str, purpose: &str, host: &str| {
        let mut command = Command::new(&program);
        command.arg(issued.authority.dir()).arg(issued.leaf(leaf));
        run(command.args([purpose, host]))
    };
    for (leaf, has, lacks) in PURPOSES {
        for purpose in has {
            verify(leaf, purpose, "").done();
        }
        for purpose in lacks {
            assert_ne!(verify(leaf, purpose, "").code, 0, "{leaf} {purpose}");
        }
    }
    verify("server", "server", "a.example.org").done();
    verify("server", "server", "127.0.0.1").done();
    assert_ne!(verify("server", "server", "example.com").code, 0);
    let peer = verify("peer", "client", "").done();
    assert!(
        peer.stdout.contains("spiffe://example.org/ns/shop/sa/peer"),
        "{}",
        peer.stdout
    );
    let revoked = verify("revoked", "client", "");
    assert!(revoked.stderr.contains("revoked"), "{}", revoked.stderr);
    let issued = Issued::by_a_root();
    let mut command = Command::new(&program);
    command.arg(issued.authority.dir()).arg(issued.leaf("peer"));
    run(command.args(["client", ""])).done();
}

#[test]
fn java_accepts_chains_and_lists() {
    if !has_tool("java", "-version") || !has_tool("keytool", "-help") {
        return;
    }
    let issued = Issued::new();
    let verify = |leaves: &[(&str, &str)]| {
        let mut command = Command::new("java");
        command
            .arg("-XX:TieredStopAtLevel=1")
            .arg(source("Verify.java"));
        command.arg(issued.authority.dir());
        for (leaf, purpose) in leaves {
            command.arg(issued.leaf(leaf)).arg(purpose);
        }
        run(&mut command)
    };
    let mut expected = Vec::new();
    let mut asked = Vec::new();
    for (leaf, has, lacks) in PURPOSES {
        for purpose in has {
            asked.push((leaf, *purpose));
            expected.push("accepted");
        }
        for purpose in lacks {
            asked.push((leaf, *purpose));
            expected.push("refused");
        }
    }
    asked.push(("revoked", "client"));
    expected.push("revoked");
    let answers = verify(&asked).done();
    assert_eq!(
        answers.stdout.lines().collect::<Vec<_>>(),
        expected,
        "{}",
        answers.stderr
    );

    let by_a_root = Issued::by_a_root();
    let mut command = Command::new("java");
    command
        .arg("-XX:TieredStopAtLevel=1")
        .arg(source("Verify.java"));
    command
        .arg(by_a_root.authority.dir())
        .arg(by_a_root.leaf("peer"));
    let answer = run(command.arg("client")).done();
    assert_eq!(answer.stdout.trim(), "accepted", "{}", answer.stderr);

    let store = issued.path("trust.p12");
    let mut import = Command::new("keytool");
    import.args([
        "-importcert",
        "-noprompt",
        "-alias",
        "root",
        "-storepass",
        "changeit",
        "-file",
    ]);
    run(import
        .arg(issued.path("trust.pem"))
        .arg("-keystore")
        .arg(store))
    .done();
    for name in ["server", "peer", "batch"] {
        let mut print = Command::new("keytool");
        let printed = run(print.args(["-printcert", "-file"]).arg(issued.leaf(name))).done();
        assert!(!printed.stdout.contains("Warning"), "{}", printed.stdout);
    }
}
