//! The files of an authority and their modes. No file may be lost or replaced by mistake.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Authority, certificates, pki, revocation_list};
use crate::support::{BINARY, Run, mode};

const KEYS: [&str; 2] = ["root.key", "intermediate.key"];
const PUBLIC: [&str; 6] = [
    "root.pem",
    "intermediate.pem",
    "trust.pem",
    "crl/root.crl",
    "crl/intermediate.crl",
    "pki.toml",
];

#[test]
fn init_makes_every_file_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("new").join("certs");
    let mut command = pki(&[
        "init",
        "--trust-domain",
        "example.org",
        "--no-passphrase",
        "--dir",
    ]);
    let run = Run::of(command.arg(&dir)).done();
    for words in [
        "trust domain example.org",
        "(in 10 years)",
        "(in 5 years)",
        "countersign pki issue",
        "trust.pem",
    ] {
        assert!(run.stdout.contains(words), "{words:?} in {}", run.stdout);
    }
    for key in KEYS {
        assert_eq!(mode(&dir.join(key)), 0o600, "{key}");
        let text = std::fs::read_to_string(dir.join(key)).unwrap();
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    }
    for file in PUBLIC {
        assert!(dir.join(file).is_file(), "{file}");
    }
    assert_eq!(
        certificates(&dir.join("root.pem")),
        certificates(&dir.join("trust.pem"))
    );
    assert_eq!(certificates(&dir.join("intermediate.pem")).len(), 1);
    for list in ["root", "intermediate"] {
        let (number, serials) = revocation_list(&dir.join(format!("crl/{list}.crl")));
        assert_eq!((number, serials.len()), (1, 0));
    }
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let authority = Authority::new();
    let run = Command::new("sh")
        .args([
            "-c",
            "umask 000; exec \"$0\" pki issue spiffe://example.org/a --dir \"$1\"",
        ])
        .arg(BINARY)
        .arg(authority.dir())
        .output()
        .unwrap();
    Run::from(run).done();
    assert_eq!(mode(&authority.path("issued/a.key")), 0o600);
    assert_eq!(mode(&authority.path("issued/a.pem")), 0o644);
}

#[test]
fn json_names_files_absolutely_and_dates_exactly() {
    let home = tempfile::tempdir().unwrap();
    let mut init = pki(&[
        "init",
        "--dir",
        "ca",
        "--trust-domain",
        "example.org",
        "--no-passphrase",
        "--json",
    ]);
    let document = Run::of(init.current_dir(home.path())).done().json();
    assert_eq!(document["trust_domain"], "example.org");
    let files = ["certificate", "key", "crl"]
        .iter()
        .flat_map(|file| [&document["root"][file], &document["intermediate"][file]])
        .chain([&document["trust"]]);
    for file in files {
        let path = Path::new(file.as_str().unwrap());
        assert!(path.is_absolute() && path.is_file(), "{file}");
    }
    let mut issue = pki(&[
        "--json",
        "issue",
        "alice",
        "--dir",
        "ca",
        "--dns",
        "alice.example.org",
        "--ip",
        "10.0.0.1",
        "--email",
        "alice@example.org",
        "--uri",
        "urn:example:alice",
        "--profile",
        "client",
    ]);
    let document = Run::of(issue.current_dir(home.path())).done().json();
    assert_eq!(
        document["names"],
        serde_json::json!([
            "urn:example:alice",
            "dns:alice.example.org",
            "ip:10.0.0.1",
            "mailto:alice@example.org"
        ])
    );
    assert_eq!(document["profile"], "client");
    assert_eq!(document["usages"], serde_json::json!(["client"]));
    assert_eq!(document["serial"].as_str().unwrap().len(), 32);
    for date in ["not_before", "not_after"] {
        let date = document[date].as_str().unwrap();
        assert!(date.ends_with('Z') && date.len() == 20, "{date}");
    }
    let certificate = Path::new(document["certificate"].as_str().unwrap());
    assert!(certificate.is_absolute() && certificate.ends_with("ca/issued/alice.pem"));
    assert_eq!(certificates(certificate).len(), 2);
}

#[test]
fn issue_prints_the_name_and_the_expiry() {
    let authority = Authority::new();
    let run = authority
        .run(&[
            "issue",
            "spiffe://example.org/ns/shop/sa/checkout",
            "--lifetime",
            "7d",
        ])
        .done();
    for words in [
        "spiffe://example.org/ns/shop/sa/checkout",
        "(in 7 days)",
        "issued/checkout.pem",
        "curl --cert",
    ] {
        assert!(run.stdout.contains(words), "{words:?} in {}", run.stdout);
    }
    let presented = certificates(&authority.path("issued/checkout.pem"));
    assert_eq!(presented.len(), 2);
    assert_eq!(
        presented[1],
        certificates(&authority.path("intermediate.pem"))[0]
    );
    let quiet = authority
        .run(&["issue", "spiffe://example.org/b", "--quiet"])
        .done();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn an_authority_is_replaced_with_force_only() {
    let authority = Authority::new();
    let before: Vec<_> = KEYS
        .iter()
        .chain(&PUBLIC)
        .map(|name| authority.read(name))
        .collect();
    let init = ["init", "--trust-domain", "example.com", "--no-passphrase"];
    authority.run(&init).refused(1, "--force");
    let after: Vec<_> = KEYS
        .iter()
        .chain(&PUBLIC)
        .map(|name| authority.read(name))
        .collect();
    assert!(before == after);
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    authority.run(&[&init[..], &["--force"]].concat()).done();
    assert_ne!(authority.read("root.key"), before[0]);
    // Certificates of the earlier authority do not belong to the new authority.
    let list = authority.run(&["list", "--json"]).done().json();
    assert_eq!(list["certificates"], serde_json::json!([]));
    let earlier = authority.path("issued/a.pem");
    authority
        .run(&["revoke", "--cert", earlier.to_str().unwrap()])
        .refused(1, "not issued by this authority");
}

#[test]
fn init_does_not_overwrite_other_files() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("README.md"), "fine").unwrap();
    std::fs::write(home.path().join("root.key"), "precious").unwrap();
    let mut command = pki(&[
        "init",
        "--trust-domain",
        "example.org",
        "--no-passphrase",
        "--dir",
    ]);
    Run::of(command.arg(home.path())).refused(1, "root.key exists already");
    assert_eq!(
        std::fs::read(home.path().join("root.key")).unwrap(),
        b"precious"
    );
    assert!(!home.path().join("root.pem").exists());
}

#[test]
fn an_interrupted_init_is_recognised() {
    let authority = Authority::new();
    std::fs::remove_file(authority.path("pki.toml")).unwrap();
    authority.run(&["issue", "a"]).refused(1, "incomplete");
    authority
        .run(&[
            "init",
            "--trust-domain",
            "example.org",
            "--no-passphrase",
            "--force",
        ])
        .done();
    authority.run(&["issue", "a"]).done();
}

#[test]
fn issued_files_are_replaced_with_force_only() {
    let authority = Authority::new();
    let issue = ["issue", "spiffe://example.org/ns/a/sa/web"];
    authority.run(&issue).done();
    let before = (
        authority.read("issued/web.pem"),
        authority.read("issued/web.key"),
    );
    // The last path segments of two identities are equal, so that the file names would be equal.
    // The error names the option that helps.
    let other = authority.run(&["issue", "spiffe://example.org/ns/b/sa/web"]);
    let other = other.refused(1, "web.key exists already");
    assert!(other.stderr.contains("--out"), "{}", other.stderr);
    assert_eq!(
        before,
        (
            authority.read("issued/web.pem"),
            authority.read("issued/web.key")
        )
    );
    // A certificate file without its key prevents the command too.
    std::fs::remove_file(authority.path("issued/web.key")).unwrap();
    authority.run(&issue).refused(1, "web.pem exists already");
    assert!(!authority.path("issued/web.key").exists());
    authority.run(&[issue[0], issue[1], "--force"]).done();
    assert_ne!(before.0, authority.read("issued/web.pem"));
    assert_eq!(mode(&authority.path("issued/web.key")), 0o600);
}

#[test]
fn out_chooses_another_place() {
    let authority = Authority::new();
    let prefix = authority.home.path().join("tls.v1");
    let prefix = prefix.to_str().unwrap();
    authority
        .run(&["issue", "gateway", "--dns", "localhost", "--out", prefix])
        .done();
    assert!(Path::new(&format!("{prefix}.pem")).is_file());
    assert_eq!(mode(Path::new(&format!("{prefix}.key"))), 0o600);
    assert!(!authority.path("issued/gateway.pem").exists());
    let directory = format!("{}/", authority.home.path().display());
    authority
        .run(&[
            "issue",
            "gateway",
            "--dns",
            "localhost",
            "--out",
            &directory,
        ])
        .refused(2, "names no file");
}

#[test]
fn names_become_file_names_as_documented() {
    let authority = Authority::new();
    for (name, more, file) in [
        ("a.example.org", &[][..], "a.example.org"),
        (
            "*.example.org",
            &["--profile", "server"][..],
            "_wildcard.example.org",
        ),
        ("::1", &[][..], "__1"),
        ("alice", &["--email", "alice@example.org"][..], "alice"),
    ] {
        authority.run(&[&["issue", name], more].concat()).done();
        assert!(
            authority.path(&format!("issued/{file}.pem")).is_file(),
            "{name}"
        );
    }
}

#[test]
fn processes_at_once_do_not_lose_anything() {
    let authority = Authority::new();
    let mut running = Vec::new();
    for index in 0..6 {
        let name = format!("spiffe://example.org/workload-{index}");
        running.push(authority.pki(&["issue", &name]));
        running.push(authority.pki(&["crl"]));
    }
    let running: Vec<_> = running
        .into_iter()
        .map(|mut command| {
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in running {
        Run::from(child.wait_with_output().unwrap()).done();
    }
    let list = authority.run(&["list", "--json"]).done().json();
    assert_eq!(list["certificates"].as_array().unwrap().len(), 6);
    assert_eq!(revocation_list(&authority.path("crl/root.crl")).0, 7);
    assert_eq!(
        revocation_list(&authority.path("crl/intermediate.crl")).0,
        7
    );
}

#[test]
fn of_two_processes_with_one_name_one_wins() {
    let authority = Authority::new();
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut command = authority.pki(&["issue", "spiffe://example.org/a"]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let codes: Vec<_> = children
        .into_iter()
        .map(|child| Run::from(child.wait_with_output().unwrap()).code)
        .collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == 1).count(),
        5,
        "{codes:?}"
    );
    let left: Vec<_> = std::fs::read_dir(authority.path("issued"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let list = authority.run(&["list", "--json"]).done().json();
    assert_eq!(list["certificates"].as_array().unwrap().len(), 1);
}
