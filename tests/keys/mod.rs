//! `countersign keys`, `assertion` and `reasons` as people and scripts use them: files, exit codes
//! and output. Another JOSE library uses the results.

mod assertions;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{BINARY, Run, countersign, mode, obstruct};

/// A directory for keys. The program creates it when it is needed.
struct Keys {
    _root: TempDir,
    path: PathBuf,
}

impl Keys {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("certs/signing");
        Self { _root: root, path }
    }

    fn with_one(algorithm: &str) -> (Self, String) {
        let keys = Self::new();
        let made = keys.run(&["generate", "--algorithm", algorithm, "--json"]);
        let kid = made.done().json()["kid"].as_str().unwrap().to_owned();
        (keys, kid)
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let directory = self.path.to_str().unwrap();
        countersign(&[&["keys"], arguments, &["--dir", directory]].concat(), "")
    }

    fn key_file(&self, kid: &str) -> PathBuf {
        self.path.join(format!("{kid}.key"))
    }

    /// Returns the `kid` and the state of each key, as `keys list` prints them.
    fn states(&self) -> Vec<(String, String)> {
        let list = self.run(&["list", "--json"]).done().json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        list["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| (text(&key["kid"]), text(&key["state"])))
            .collect()
    }

    fn jwks(&self) -> Value {
        self.run(&["jwks"]).done().json()
    }
}

#[test]
fn the_first_key_signs_at_once_and_is_private() {
    for algorithm in ["ES256", "EdDSA"] {
        let keys = Keys::new();
        let made = keys.run(&["generate", "--algorithm", algorithm, "--json"]);
        let made = made.done().json();
        assert_eq!(made["algorithm"], algorithm);
        assert_eq!(made["state"], "current");
        assert_eq!(made["published"], true);
        let kid = made["kid"].as_str().unwrap();
        assert_eq!(kid.len(), 43);
        let file = keys.key_file(kid);
        assert_eq!(made["file"], file.to_str().unwrap());
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&keys.path), 0o700);
        let set = keys.jwks();
        let jwk = &set["keys"][0];
        assert_eq!(set["keys"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&jwk["kid"], &jwk["alg"]),
            (&made["kid"], &made["algorithm"])
        );
        assert_eq!(jwk["use"], "sig");
        assert!(jwk.get("d").is_none());
    }
}

#[test]
fn output_for_people_says_what_was_made_and_the_next_step() {
    let keys = Keys::new();
    let made = keys.run(&["generate"]).done();
    let kid = &keys.states()[0].0;
    assert!(made.stdout.contains(kid) && made.stdout.contains("signs from now on"));
    assert!(made.stdout.contains("countersign keys list --dir"));
    assert_eq!(keys.run(&["generate", "--quiet"]).done().stdout, "");
    let list = keys.run(&["list"]).done().stdout;
    assert_eq!(list.lines().count(), 3);
    assert!(
        list.contains("current") && list.contains("signs from 20"),
        "{list}"
    );
    let help = countersign(&["keys", "generate", "--help"], "").done();
    assert!(help.stdout.contains("Examples:"));
}

#[test]
fn a_further_key_is_published_before_it_signs() {
    let (keys, first) = Keys::with_one("EdDSA");
    let made = keys.run(&["rotate", "--json"]).done().json();
    assert_eq!(made["algorithm"], "EdDSA");
    assert_eq!(made["state"], "next");
    let ahead = made["active_from"].as_u64().unwrap() - made["created"].as_u64().unwrap();
    assert_eq!(ahead, 3600);
    let made = keys.run(&["generate", "--active-in", "15m", "--json"]);
    let made = made.done().json();
    let ahead = made["active_from"].as_u64().unwrap() - made["created"].as_u64().unwrap();
    assert_eq!(ahead, 900);
    assert_eq!(keys.jwks()["keys"].as_array().unwrap().len(), 3);
    assert_eq!(keys.states()[0], (first, "current".to_owned()));
    keys.run(&["rotate", "--active-in", "14m"])
        .refused(2, "15 minutes");
    keys.run(&["rotate", "--active-in", "soon"])
        .refused(2, "--active-in");
    keys.run(&["rotate", "--algorithm", "HS256"])
        .refused(2, "ES256, EdDSA");
    assert_eq!(keys.states().len(), 3);
}

#[test]
fn without_keys_the_command_that_makes_one_is_named() {
    let keys = Keys::new();
    for command in ["list", "jwks", "rotate"] {
        let run = keys
            .run(&[command])
            .refused(1, "countersign keys generate --dir");
        assert_eq!(run.stdout, "");
    }
    keys.run(&["revoke", "x"])
        .refused(1, "countersign keys generate");
    assert!(!keys.path.exists());
    countersign(&["keys", "generate"], "").refused(2, "--dir");
}

#[test]
fn revoking_ends_a_key_at_once() {
    let (keys, first) = Keys::with_one("ES256");
    let run = keys.run(&["revoke", &first]).refused(1, "--force");
    assert_eq!(run.stdout, "");
    keys.run(&["revoke", &"x".repeat(43)]).refused(2, "no key");
    keys.run(&["revoke", "../ring"]).refused(2, "no key");
    let second = keys.run(&["rotate", "--json"]).done().json();
    let second = second["kid"].as_str().unwrap();
    let revoked = keys.run(&["revoke", &first, "--json"]).done().json();
    assert_eq!(revoked["successor"], second);
    assert!(!keys.key_file(&first).exists());
    let set = keys.jwks();
    assert_eq!(set["keys"].as_array().unwrap().len(), 1);
    assert_eq!(set["keys"][0]["kid"], second);
    assert_eq!(
        keys.states(),
        [
            (first, "revoked".to_owned()),
            (second.to_owned(), "current".to_owned())
        ]
    );
    keys.run(&["revoke", second, "--force"]).done();
    assert_eq!(keys.jwks()["keys"].as_array().unwrap().len(), 0);
    let made = keys.run(&["generate", "--json"]).done().json();
    assert_eq!(made["state"], "current");
}

#[test]
fn a_kid_may_begin_with_a_hyphen() {
    let (keys, _) = Keys::with_one("ES256");
    for kid in [
        "-A0DSzxH8TeWFQzeJOu26mTTNlyPNWJwVTVpn1pWRi8",
        "--DSzxH8TeWFQzeJOu26mTTNlyPNWJwVTVpn1pWRi8-",
    ] {
        keys.run(&["revoke", kid])
            .refused(2, &format!("no key {kid}"));
    }
}

#[test]
fn damaged_directories_are_refused_by_name() {
    let (keys, kid) = Keys::with_one("ES256");
    let (other, other_kid) = Keys::with_one("ES256");
    std::fs::copy(other.key_file(&other_kid), keys.key_file(&kid)).unwrap();
    keys.run(&["jwks"])
        .refused(1, &format!("{kid}.key: this is another key"));
    std::fs::write(keys.key_file(&kid), "rubbish").unwrap();
    keys.run(&["jwks"]).refused(1, &format!("{kid}.key"));
    std::fs::remove_file(keys.key_file(&kid)).unwrap();
    keys.run(&["jwks"]).refused(1, &format!("{kid}.key"));
    std::fs::write(keys.path.join("ring.json"), "{").unwrap();
    for command in ["jwks", "list", "rotate", "generate"] {
        keys.run(&[command]).refused(1, "ring.json");
    }
}

/// A named pipe in the place of a file must not block the commands that read the file.
#[test]
fn what_is_not_a_file_does_not_block_and_is_named() {
    for what in ["named pipe", "device", "directory"] {
        for file in [".lock", "ring.json", "KID.key"] {
            let (keys, kid) = Keys::with_one("ES256");
            let name = file.replace("KID", &kid);
            obstruct(&keys.path.join(&name), what);
            let mut refused = 0;
            for command in ["list", "jwks", "rotate"] {
                let mut program = Command::new(BINARY);
                program.args(["keys", command, "--dir"]).arg(&keys.path);
                let run = Run::in_time(&mut program);
                if run.code != 0 {
                    let said = run.stderr;
                    let words = ["named pipe", "device", "symbolic link", "directory"];
                    assert!(
                        said.contains(&name) && words.iter().any(|words| said.contains(words)),
                        "{file}, {what}: {said}"
                    );
                    refused += 1;
                }
            }
            // Only `rotate` takes the lock, only `jwks` reads key files, and all three commands
            // read `ring.json`.
            assert_eq!(refused, if file == "ring.json" { 3 } else { 1 }, "{file}");
        }
    }
}

#[test]
fn the_lock_is_for_its_owner_alone() {
    let (keys, _) = Keys::with_one("ES256");
    let lock = keys.path.join(".lock");
    assert_eq!(mode(&lock), 0o600);
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o666)).unwrap();
    keys.run(&["rotate"]).done();
    assert_eq!(mode(&lock), 0o600);
}

#[test]
fn processes_at_the_same_time_lose_no_key() {
    let keys = Keys::new();
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| keys.run(&["generate"]).done());
        }
    });
    let states = keys.states();
    assert_eq!(states.len(), 5);
    let current = states.iter().filter(|(_, state)| state == "current");
    assert_eq!(current.count(), 1);
}

#[test]
fn reasons_are_explained_listed_and_suggested() {
    let all = countersign(&["reasons", "--json"], "").done().json();
    let all = all["reasons"].as_array().unwrap();
    let list = countersign(&["reasons"], "").done().stdout;
    assert_eq!(list.lines().count(), all.len() + 1);
    for reason in all {
        let code = reason["code"].as_str().unwrap();
        assert!(list.contains(code));
        assert!(!reason["hint"].as_str().unwrap().is_empty());
    }
    let one = countersign(&["reasons", "certificate-revoked", "--json"], "")
        .done()
        .json();
    assert_eq!(one["status"], 403);
    assert_eq!(one["tls_alert"]["number"], 44);
    let words = countersign(&["reasons", "token-scope"], "").done().stdout;
    assert!(words.starts_with("token-scope: "));
    countersign(&["reasons", "certificate-revokd"], "").refused(2, "certificate-revoked");
    countersign(&["reasons", "xyzzy"], "").refused(2, "countersign reasons");
    for arguments in [
        &["reasons", "46"][..],
        &["reasons", "--alert", "46"],
        &["reasons", "--alert", "certificate_unknown"],
        &["reasons", "certificate unknown"],
    ] {
        let words = countersign(arguments, "").done().stdout;
        assert!(
            words.starts_with("TLS alert 46 certificate_unknown\n"),
            "{words}"
        );
        for code in ["wrong-usage: ", "identity-denied: ", "no-identity: "] {
            assert!(words.contains(code), "{code} in {words}");
        }
        assert!(!words.contains("certificate-revoked"), "{words}");
    }
    let document = countersign(&["reasons", "--alert", "44", "--json"], "")
        .done()
        .json();
    assert_eq!(document["alert"]["name"], "certificate_revoked");
    assert_eq!(document["reasons"][0]["code"], "certificate-revoked");
    assert_eq!(document["reasons"].as_array().unwrap().len(), 1);
    let none = countersign(&["reasons", "protocol_version"], "").done();
    assert!(none.stdout.contains("No reason code"), "{}", none.stdout);
    for unknown in ["300", "nonsense", ""] {
        countersign(&["reasons", "--alert", unknown], "").refused(2, "no TLS alert");
    }
    let page = countersign(&["reasons", "--markdown"], "").done().stdout;
    assert!(page.starts_with("# Reason codes\n"));
}
