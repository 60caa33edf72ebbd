//! Tests of recovery. The tests create the files that a killed process can leave. The module
//! `kill_tests` kills real operations at every point.

use std::os::unix::ffi::OsStrExt as _;

use serde_json::{Value, json};

use super::*;
use crate::files::certificates;
use crate::identity::TrustDomain;
use crate::kill_point::tests::at_each_point;
use crate::{IssueRequest, KeyProtection, Pki, RevocationReason, RevocationTarget, SubjectNames};

const ASIDE: &str = "issued/.countersign-pki-00-a";

fn authority(directory: &Path) -> Pki {
    let domain = TrustDomain::parse("example.org").unwrap();
    Pki::create(directory, &domain, &KeyProtection::Plain).unwrap()
}

fn request(name: &str) -> IssueRequest {
    let names = SubjectNames::new().dns(&format!("{name}.example.org"));
    IssueRequest::new(name.parse().unwrap(), names.unwrap())
}

fn write(directory: &Path, scope: Scope, record: &Value) -> PathBuf {
    let file = Layout::new(directory).transaction(scope);
    std::fs::write(&file, record.to_string()).unwrap();
    file
}

/// Returns the file of a committed transaction. Its steps rename two temporary files to
/// `issued/new.key` and `issued/new.pem`, which must not exist. `leaf` identifies the certificate
/// that the inventory must contain.
fn leaf(leaf: &Value) -> Value {
    let step = |name: &str| {
        json!({ "place": {
            "aside": format!("issued/.countersign-pki-00-{name}"),
            "path": format!("issued/new.{name}"),
            "existing": "refuse",
        }})
    };
    json!({
        "version": 1,
        "prefix": ".countersign-pki-00-",
        "directories": ["issued"],
        "commit": { "if_recorded": leaf, "steps": [step("key"), step("pem")] },
    })
}

/// Creates an authority, and the files of a process that was killed after it had recorded a new
/// leaf. The record of the leaf `old` stands for the record of the new leaf.
fn killed_while_issuing(directory: &Path) {
    let mut pki = authority(directory);
    let issued = pki.issue(&request("old")).unwrap();
    let issuer = pki.authority(pki.issuer()).key_identifier_hex();
    for name in ["key", "pem"] {
        let aside = directory.join(format!("issued/.countersign-pki-00-{name}"));
        std::fs::write(aside, name).unwrap();
    }
    let recorded = json!({ "issuer_key": issuer, "serial": issued.serial });
    write(directory, Scope::Leaves, &leaf(&recorded));
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_that_appeared_meanwhile_is_not_overwritten() {
    at_each_point(
        "files::transaction::tests::open",
        |home| {
            killed_while_issuing(home);
            std::fs::write(home.join("issued/new.pem"), "another program's").unwrap();
        },
        |home| {
            Pki::open(home).unwrap();
            assert_eq!(
                names(&home.join("issued")),
                ["new.pem", "old.key", "old.pem"],
                "a key without its certificate is of no use"
            );
            let theirs = std::fs::read(home.join("issued/new.pem")).unwrap();
            assert_eq!(theirs, b"another program's");
            assert!(!Layout::new(home).transaction(Scope::Leaves).exists());
        },
    );
}

#[test]
#[ignore = "a child process"]
fn open() {
    if let Some(home) = crate::kill_point::tests::directory() {
        Pki::open(&home).unwrap();
    }
}

#[test]
fn leaves_that_were_not_recorded_are_undone() {
    let home = tempfile::tempdir().unwrap();
    killed_while_issuing(home.path());
    let recorded = json!({ "issuer_key": "00", "serial": "00" });
    write(home.path(), Scope::Leaves, &leaf(&recorded));
    Pki::open(home.path()).unwrap();
    assert_eq!(names(&home.path().join("issued")), ["old.key", "old.pem"]);
}

/// If the inventory is damaged, it is unknown whether the leaf was recorded. So its transaction
/// must wait and no leaf can be issued, but revoking must still work.
#[test]
fn a_damaged_inventory_holds_up_leaves_and_no_revocation() {
    let home = tempfile::tempdir().unwrap();
    killed_while_issuing(home.path());
    let inventory = home.path().join("inventory.db");
    let sound = std::fs::read(&inventory).unwrap();
    std::fs::write(&inventory, "x".repeat(8192)).unwrap();
    let mut pki = Pki::open(home.path()).unwrap();
    let target = RevocationTarget::File(home.path().join("issued/old.pem"));
    let revocation = pki
        .revoke(&target, RevocationReason::KeyCompromise)
        .unwrap();
    assert_eq!(revocation.crls[0].entries, 1);
    let error = pki.issue(&request("other")).unwrap_err().to_string();
    assert!(error.contains("inventory.db"), "{error}");
    assert!(home.path().join("issued/.countersign-pki-00-key").exists());
    std::fs::write(&inventory, sound).unwrap();
    Pki::open(home.path()).unwrap();
    assert_eq!(
        names(&home.path().join("issued")),
        ["new.key", "new.pem", "old.key", "old.pem"]
    );
}

#[test]
fn a_file_that_was_cut_short_means_nothing_and_a_damaged_one_is_refused() {
    let home = tempfile::tempdir().unwrap();
    authority(home.path());
    let aside = home.path().join(ASIDE);
    let begun = json!({
        "version": 1, "prefix": ".countersign-pki-00-", "directories": ["issued"],
    });
    let file = write(home.path(), Scope::Authority, &begun);
    let text = begun.to_string();
    for length in 0..text.len() {
        std::fs::write(&file, &text.as_bytes()[..length]).unwrap();
        Pki::open(home.path()).unwrap();
        assert!(!file.exists(), "{length}");
    }
    std::fs::write(&file, [0; 100]).unwrap();
    Pki::open(home.path()).unwrap();
    std::fs::write(&aside, "x").unwrap();
    std::fs::write(&file, &text).unwrap();
    Pki::open(home.path()).unwrap();
    assert!(!file.exists() && !aside.exists());
    for (member, value, words) in [
        ("version", json!(2), "format version 2"),
        // With an empty prefix, recovery would remove every file of the directory.
        ("prefix", json!(""), "damaged"),
        ("directories", json!(1), "damaged"),
        ("unknown", json!(1), "damaged"),
    ] {
        let mut record = begun.clone();
        record[member] = value;
        write(home.path(), Scope::Authority, &record);
        let error = Pki::open(home.path()).unwrap_err().to_string();
        assert!(
            error.contains(".transaction") && error.contains(words),
            "{error}"
        );
        assert!(home.path().join("pki.toml").exists());
    }
}

#[test]
fn paths_need_not_be_text() {
    let home = tempfile::tempdir().unwrap();
    let mut pki = authority(&home.path().join("certs"));
    let out = home.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    pki.issue(&request("a").out(&out)).unwrap();
    let mut file = out.into_os_string();
    file.push(".pem");
    assert_eq!(certificates::read(Path::new(&file)).unwrap().len(), 2);
    let path = Path::new(&file);
    let stored = StoredPath::new(Path::new("certs"), path);
    let text = serde_json::to_string(&stored).unwrap();
    let read: StoredPath = serde_json::from_str(&text).unwrap();
    assert_eq!(read.below(Path::new("certs")), path);
    let below = StoredPath::new(Path::new("certs"), Path::new("certs/a"));
    assert_eq!(serde_json::to_string(&below).unwrap(), "\"a\"");
}

#[test]
fn a_transaction_that_is_given_up_leaves_no_trace() {
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::new(home.path());
    let lock = DirectoryLock::acquire(home.path()).unwrap();
    let path = home.path().join("a");
    let mut change = Transaction::begin(&layout, Scope::Authority, &[], &lock).unwrap();
    let (owner, refuse) = (Audience::Owner, Existing::Refuse);
    change.stage(&path, b"x", owner, refuse).unwrap();
    assert_eq!(names(home.path()).len(), 3);
    assert!(
        change
            .stage(&home.path().join("b/c"), b"x", owner, refuse)
            .is_err()
    );
    drop(change);
    assert_eq!(names(home.path()), [".lock"]);
}
