//! Makes each change of a directory of keys in a child process, and kills this process at each
//! point between two file operations. The next command must find the keys as they were either
//! before or after the change. The directory must then contain no unused private key.
//!
//! The child processes run the ignored tests at the end of this file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SigningAlgorithm::Es256;
use super::key_directory::{MIN_PUBLISH_AHEAD, add, generate, jwks, list, revoke};
use super::key_record::RETIREMENT_SECONDS;
use crate::kill_point::tests::{at_each_point, directory};

const START: u64 = 2_000_000_000;
/// A time when the second key signs and the first key has expired.
const LATER: u64 = START + 900 + RETIREMENT_SECONDS;

/// Creates a directory of two keys in a temporary directory. Returns the temporary directory, and
/// the identifier of the first key.
fn two_keys() -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join("keys");
    let first = generate(&keys, Es256, START).unwrap();
    add(&keys, None, MIN_PUBLISH_AHEAD, START).unwrap();
    (home, first.record.kid)
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// Lists the keys as the next command would, and checks that no unexpected files exist. Returns the
/// number of recorded keys, and the number of keys that have a private key.
fn next_command(home: &Path, now: u64) -> (usize, usize) {
    let keys = home.join("keys");
    let listed = list(&keys, now).unwrap();
    let usable = listed.iter().filter(|key| key.record.is_usable());
    let mut expected: BTreeSet<PathBuf> = usable
        .map(|key| keys.join(format!("{}.key", key.record.kid)))
        .collect();
    let count = expected.len();
    expected.extend([".lock", "ring.json"].map(|name| keys.join(name)));
    let found: BTreeSet<PathBuf> = std::fs::read_dir(&keys)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(found, expected);
    jwks(&keys, now).unwrap();
    (listed.len(), count)
}

#[test]
fn a_first_key_is_made_or_not() {
    let mut made = Vec::new();
    at_each_point(
        "assertion::key_kill_tests::make",
        |_| {},
        |home| {
            let keys = home.join("keys");
            let has_one = keys.join("ring.json").exists();
            made.push(has_one);
            if has_one {
                assert_eq!(next_command(home, START), (1, 1));
            }
            // If no key was created, `list` would fail. Therefore the next command is `generate`
            // here.
            generate(&keys, Es256, START).unwrap();
            let count = 1 + usize::from(has_one);
            assert_eq!(next_command(home, START), (count, count));
        },
    );
    made.dedup();
    assert_eq!(made, [false, true]);
}

/// The change creates a third key. It also removes the private key of the first key, which has
/// expired.
#[test]
fn a_further_key_is_made_or_not() {
    let (template, _) = two_keys();
    let mut found = Vec::new();
    at_each_point(
        "assertion::key_kill_tests::make",
        |home| copy(&template.path().join("keys"), home),
        |home| found.push(next_command(home, LATER)),
    );
    found.dedup();
    // After the change there is a third key, and the private key of the first key is removed.
    assert_eq!(found, [(2, 2), (3, 2)]);
}

#[test]
fn a_key_is_revoked_or_not() {
    let (template, kid) = two_keys();
    let mut found = Vec::new();
    at_each_point(
        "assertion::key_kill_tests::withdraw",
        |home| {
            copy(&template.path().join("keys"), home);
            std::fs::write(home.join("kid"), &kid).unwrap();
        },
        |home| found.push(next_command(home, START)),
    );
    found.dedup();
    assert_eq!(found, [(2, 2), (2, 1)]);
}

/// The file of a key without a marker file must stay: an operator may be copying the keys, and may
/// copy `ring.json` last.
#[test]
fn a_key_that_nobody_was_making_stays() {
    let (home, _) = two_keys();
    let keys = home.path().join("keys");
    let foreign = keys.join(format!("{}.key", "x".repeat(43)));
    std::fs::write(&foreign, "another program's").unwrap();
    list(&keys, START).unwrap();
    add(&keys, None, MIN_PUBLISH_AHEAD, START).unwrap();
    assert!(foreign.exists());
}

// The changes that the child processes make.

#[test]
#[ignore = "a child process"]
fn make() {
    let Some(home) = directory() else { return };
    generate(&home.join("keys"), Es256, LATER).unwrap();
}

#[test]
#[ignore = "a child process"]
fn withdraw() {
    let Some(home) = directory() else { return };
    let kid = std::fs::read_to_string(home.join("kid")).unwrap();
    revoke(&home.join("keys"), &kid, false, START).unwrap();
}
