//! Revocation must not wait long. Other users cannot lock the authority, the wait for a lock has
//! a timeout, and pipes and devices in the directory do not block.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use countersign_testkit::skipped;

use super::{Authority, revocation_list};
use crate::support::{BINARY, Run, mode, obstruct};

/// A user that does not own files and is not root. Permissions do not apply to root.
const NOBODY: u32 = 65_534;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Creates an authority that has issued `a`. Returns the authority and the path of the
/// certificate.
fn with_a_leaf() -> (Authority, String) {
    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    let leaf = authority.path("issued/a.pem").to_str().unwrap().to_owned();
    (authority, leaf)
}

#[test]
fn what_can_be_locked_is_for_its_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority { home };
    let script = "umask 000; \"$0\" pki init --dir \"$1\" --trust-domain example.org \
        --no-passphrase && exec \"$0\" pki issue spiffe://example.org/a --dir \"$1\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, BINARY]);
    Run::of(shell.arg(authority.dir())).done();
    let files = [".lock", "inventory.db"].map(|name| authority.path(name));
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
        // Earlier versions created the lock file with this mode.
        set_mode(file, 0o666);
    }
    let leaf = authority.path("issued/a.pem");
    authority
        .run(&["revoke", "--cert", leaf.to_str().unwrap()])
        .done();
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    let is_superuser = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !skipped::machine(
        "being another user, without being the superuser",
        is_superuser,
    ) {
        return;
    }
    set_mode(authority.home.path(), 0o755);
    for (file, may_be_opened) in [
        (".lock", false),
        ("inventory.db", false),
        ("pki.toml", true),
    ] {
        let mut opening = Command::new("sh");
        opening
            .args(["-c", "exec 3< \"$0\""])
            .arg(authority.path(file));
        let opened = opening
            .uid(NOBODY)
            .gid(NOBODY)
            .stderr(Stdio::null())
            .status();
        assert_eq!(opened.unwrap().success(), may_be_opened, "{file}");
    }
}

/// A process holds the lock. It opened the lock file while the mode of the file allowed this.
#[test]
fn a_lock_that_stays_held_ends_the_wait_and_is_named() {
    let (authority, leaf) = with_a_leaf();
    let list = authority.path("crl/intermediate.crl");
    let before = revocation_list(&list);
    let lock = File::open(authority.path(".lock")).unwrap();
    lock.lock().unwrap();
    let revoke = ["revoke", "--cert", &leaf];
    let said = Run::in_time(&mut authority.pki(&revoke)).refused(1, "try again");
    let place = authority.path(".lock").display().to_string();
    assert!(
        said.stderr.contains(&format!("{place} is locked by ")),
        "{}",
        said.stderr
    );
    // The operating system may not show which process holds the lock.
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let place = format!(":{} 0 EOF", lock.metadata().unwrap().ino());
    if locks.lines().any(|line| line.ends_with(&place)) {
        let own = format!("process {} (", std::process::id());
        assert!(said.stderr.contains(&own), "{}", said.stderr);
    }
    assert_eq!(revocation_list(&list), before);
    lock.unlock().unwrap();
    authority.run(&revoke).done();
    assert_eq!(revocation_list(&list).1.len(), 1);
}

#[test]
fn what_is_not_a_file_does_not_block_and_is_named() {
    for what in ["named pipe", "device", "directory"] {
        for file in [
            ".lock",
            "pki.toml",
            "intermediate.pem",
            "intermediate.key",
            "issued/a.pem",
            "inventory.db",
            "inventory.db-wal",
            ".transaction",
            ".transaction-leaves",
        ] {
            let (authority, leaf) = with_a_leaf();
            obstruct(&authority.path(file), what);
            let begins = file.rsplit('/').next().unwrap();
            // The revocation of a leaf does not need this file, and therefore succeeds.
            let commands: [&[&str]; 2] = [
                &["revoke", "--cert", &leaf],
                &["issue", "spiffe://example.org/b"],
            ];
            let mut refused = 0;
            for command in commands {
                let said = Run::in_time(&mut authority.pki(command));
                if said.code != 0 {
                    let said = said.refused(1, begins);
                    refused += 1;
                    let words = [
                        "named pipe",
                        "symbolic link",
                        "device",
                        "directory",
                        "larger",
                    ];
                    let is_explained = words.iter().any(|words| said.stderr.contains(words));
                    assert!(is_explained, "{file}, {what}: {}", said.stderr);
                }
            }
            assert!(refused > 0, "{file} is a {what}, and nothing fails");
            if file.starts_with("inventory") || file == ".transaction-leaves" {
                assert_eq!(refused, 1, "{file} is a {what}, and nothing can be revoked");
                let (_, on_list) = revocation_list(&authority.path("crl/intermediate.crl"));
                assert_eq!(on_list.len(), 1);
            }
        }
    }
}

/// A pipe, a device or a directory can be in the place of a CRL file. The command must replace it
/// or name it in an error.
#[test]
fn what_is_not_a_list_is_replaced_by_one() {
    for (what, gives_way) in [("named pipe", true), ("device", true), ("directory", false)] {
        let (authority, leaf) = with_a_leaf();
        let list = authority.path("crl/intermediate.crl");
        obstruct(&list, what);
        let revoke = ["revoke", "--cert", &leaf];
        let said = Run::in_time(&mut authority.pki(&revoke));
        if gives_way {
            said.done();
            assert!(list.symlink_metadata().unwrap().is_file());
        } else {
            said.refused(1, "intermediate.crl");
            // The revocation is recorded, and is published when this is possible again.
            std::fs::remove_dir(&list).unwrap();
            authority.run(&["list"]).done();
        }
        assert_eq!(revocation_list(&list).1.len(), 1, "{what}");
    }
}

/// Commands follow symbolic links to files, because mounted secrets are links. They do not follow
/// a link in the place of the lock file.
#[test]
fn links_are_followed_but_for_the_lock() {
    let (authority, leaf) = with_a_leaf();
    let key = authority.path("intermediate.key");
    let elsewhere = authority.home.path().join("elsewhere.key");
    std::fs::rename(&key, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &key).unwrap();
    authority.run(&["crl", "--issuer", "intermediate"]).done();
    let target = authority.home.path().join("target");
    std::fs::remove_file(authority.path(".lock")).unwrap();
    std::os::unix::fs::symlink(&target, authority.path(".lock")).unwrap();
    let said = authority.run(&["revoke", "--cert", &leaf]);
    let said = said.refused(1, "it is a symbolic link");
    assert!(said.stderr.contains("remove it"), "{}", said.stderr);
    assert!(!target.exists());
}

/// A file that an operator names may be a pipe, because a shell passes the output of a command as
/// a pipe.
#[test]
fn a_key_to_be_imported_may_come_through_a_pipe() {
    let (authority, _) = with_a_leaf();
    let script = "cat \"$1/root.key\" | \"$0\" pki init --dir \"$2\" --trust-domain example.org \
        --no-passphrase --ca-cert \"$1/root.pem\" --ca-key /dev/stdin";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, BINARY]);
    let other = authority.home.path().join("other");
    Run::in_time(shell.arg(authority.dir()).arg(&other)).done();
    let key = std::fs::read(other.join("root.key")).unwrap();
    assert_eq!(key, authority.read("root.key"));
}
