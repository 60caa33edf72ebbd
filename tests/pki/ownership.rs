//! Files that a command replaces keep owner, group and mode, even if root runs the command. So
//! programs that could read a file still can.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_testkit::skipped;

use super::Authority;
use crate::support::{BINARY, Run, copy_program, mode};

/// The owner of the files, and another user. Neither of them is root.
const OWNER: u32 = 65_534;
const OTHER: u32 = 65_533;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns `path`, and the paths of all files and directories below it.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            found.extend(tree(&entry.unwrap().path()));
        }
    }
    found
}

fn give(path: &Path, owner: u32) {
    for file in tree(path) {
        chown(file, Some(owner), Some(owner)).unwrap();
    }
}

#[track_caller]
fn belongs(path: &Path, owner: u32) {
    for file in tree(path) {
        let metadata = file.symlink_metadata().unwrap();
        let found = (metadata.uid(), metadata.gid());
        assert_eq!(found, (owner, owner), "{}", file.display());
    }
}

/// Returns the path of a copy of the program that other users can run. Returns `None` if this
/// machine cannot run commands as other users.
fn program(home: &Path) -> Option<PathBuf> {
    let is_superuser = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !skipped::machine(
        "being another user, without being the superuser",
        is_superuser,
    ) {
        return None;
    }
    let program = home.join("countersign");
    copy_program(&program);
    set_mode(home, 0o755);
    Some(program)
}

fn run_as(user: u32, program: &Path, words: &[&str]) -> Run {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).current_dir("/");
    Run::of(command.uid(user).gid(user))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_root_changes_still_belongs_to_its_owner() {
    let authority = Authority::new();
    for name in ["a", "b"] {
        let id = format!("spiffe://example.org/{name}");
        authority.run(&["issue", &id]).done();
    }
    let Some(program) = program(authority.home.path()) else {
        return;
    };
    let dir = authority.dir();
    give(&dir, OWNER);
    // If root creates the lock file and the inventory, they must also belong to the owner.
    for file in [".lock", "inventory.db"] {
        std::fs::remove_file(authority.path(file)).unwrap();
    }
    let leaf = authority.path("issued/a.pem");
    let other = authority.path("issued/b.pem");
    for command in [
        &["renew", text(&leaf)][..],
        &["issue", "spiffe://example.org/c"],
        &["issue", "spiffe://example.org/a", "--force"],
        &["revoke", "--cert", text(&other), "--reason", "superseded"],
        &["crl"],
        &["rotate", "prepare"],
        &["list"],
        &["renew", "--all"],
    ] {
        authority.run(command).done();
        belongs(&dir, OWNER);
    }
    assert_eq!(mode(&authority.path("issued/a.key")), 0o600);
    assert_eq!(mode(&authority.path("crl/intermediate.crl")), 0o644);
    // After that, the owner can use the authority as before.
    for command in [
        &["pki", "renew", text(&leaf), "--dir", text(&dir)][..],
        &["pki", "revoke", "--cert", text(&leaf), "--dir", text(&dir)],
        &["pki", "rotate", "retire", "--force", "--dir", text(&dir)],
        &["pki", "rotate", "prepare", "--dir", text(&dir)],
    ] {
        run_as(OWNER, &program, command).done();
    }
    belongs(&dir, OWNER);
}

/// Root owns the files, and the gateway runs as a member of their group. Replaced files must keep
/// both.
#[test]
fn group_and_mode_are_kept() {
    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    if program(authority.home.path()).is_none() {
        return;
    }
    let files = [
        "issued/a.key",
        "issued/a.pem",
        "crl/intermediate.crl",
        "trust.pem",
    ];
    for file in files {
        chown(authority.path(file), None, Some(OWNER)).unwrap();
        set_mode(&authority.path(file), 0o640);
    }
    // All users can read this private key. When it is replaced, its mode must become 0600.
    let root_key = authority.path("root.key");
    set_mode(&root_key, 0o644);
    let leaf = authority.path("issued/a.pem");
    authority.run(&["renew", text(&leaf)]).done();
    authority.run(&["revoke", "--cert", text(&leaf)]).done();
    authority.run(&["rotate", "prepare"]).done();
    for file in files {
        let metadata = authority.path(file).metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, OWNER), "{file}");
        assert_eq!(mode(&authority.path(file)), 0o640, "{file}");
    }
    assert_eq!(mode(&root_key), 0o600);
    assert_eq!(mode(&authority.path("intermediate.key")), 0o600);
}

/// This user may write to the directory, but is not the owner of the file that would be replaced.
#[test]
fn who_cannot_keep_the_owner_is_refused_with_a_remedy() {
    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    let home = authority.home.path().to_owned();
    let Some(program) = program(&home) else {
        return;
    };
    let exchange = home.join("exchange");
    std::fs::create_dir(&exchange).unwrap();
    set_mode(&exchange, 0o777);
    set_mode(&authority.dir(), 0o755);
    let leaf = authority.path("issued/a.pem");
    let out = exchange.join("out.pem");
    let export = [
        "pki",
        "export",
        text(&leaf),
        "--format",
        "pem",
        "--force",
        "--out",
        text(&out),
    ];
    std::fs::write(&out, "before").unwrap();
    chown(&out, Some(OWNER), Some(OWNER)).unwrap();
    set_mode(&out, 0o640);
    let said = run_as(OTHER, &program, &export).refused(1, "it belongs to user 65534");
    assert!(said.stderr.contains("sudo -u '#65534'"), "{}", said.stderr);
    assert_eq!(std::fs::read(&out).unwrap(), b"before");
    // If all users may read the old file, no user loses access when the owner changes. So the file
    // is replaced.
    set_mode(&out, 0o644);
    run_as(OTHER, &program, &export).done();
    assert_ne!(std::fs::read(&out).unwrap(), b"before");
    assert_eq!(out.metadata().unwrap().uid(), OTHER);
    assert_eq!(mode(&out), 0o644);
}

#[test]
fn keys_that_root_rotates_are_for_those_who_read_the_keys_before() {
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join("keys");
    let run = |words: &[&str]| {
        let mut command = Command::new(BINARY);
        command.arg("keys").args(words).arg("--dir").arg(&keys);
        Run::of(command.stdin(Stdio::null()))
    };
    run(&["generate"]).done();
    let Some(program) = program(home.path()) else {
        return;
    };
    give(&keys, OWNER);
    let second = run(&["rotate", "--json"]).done().json();
    belongs(&keys, OWNER);
    run_as(OWNER, &program, &["keys", "jwks", "--dir", text(&keys)]).done();
    // Root owns the keys, and the gateway is a member of their group.
    give(&keys, 0);
    for file in tree(&keys) {
        chown(&file, None, Some(OWNER)).unwrap();
        set_mode(&file, if file.is_dir() { 0o750 } else { 0o640 });
    }
    let third = run(&["rotate", "--json"]).done().json();
    for document in [&second, &third] {
        let file = Path::new(document["file"].as_str().unwrap());
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, OWNER));
        assert_eq!(mode(file), 0o640);
    }
    let jwks = run_as(OWNER, &program, &["keys", "jwks", "--dir", text(&keys)]).done();
    assert_eq!(jwks.json()["keys"].as_array().unwrap().len(), 3);
    run(&["revoke", second["kid"].as_str().unwrap()]).done();
    assert_eq!(mode(&keys.join("ring.json")), 0o640);
    // Another user cannot rotate these keys.
    set_mode(&keys, 0o777);
    std::fs::remove_file(keys.join(".lock")).unwrap();
    for file in tree(&keys) {
        if !file.is_dir() {
            set_mode(&file, 0o640);
        }
    }
    set_mode(&keys.join("ring.json"), 0o644);
    let rotate = ["keys", "rotate", "--dir", text(&keys)];
    run_as(OTHER, &program, &rotate).refused(1, "it belongs to user 0");
}

/// If other users can create files in a directory, an attacker can create a file with the name of a
/// key. The command must not write a private key to this file.
#[test]
fn a_planted_file_does_not_get_a_private_key() {
    let authority = Authority::new();
    let shared = tempfile::tempdir().unwrap();
    if program(shared.path()).is_none() {
        return;
    }
    set_mode(shared.path(), 0o777);
    let key = shared.path().join("planted.key");
    std::fs::write(&key, "").unwrap();
    chown(&key, Some(OTHER), Some(OTHER)).unwrap();
    let out = shared.path().join("planted");
    let issue = |more: &[&str]| {
        let words = ["issue", "spiffe://example.org/planted", "--out", text(&out)];
        authority.run(&[&words[..], more].concat())
    };
    issue(&["--force"]).refused(1, "it belongs to user 65533, who would own the new secret");
    assert_eq!(std::fs::read(&key).unwrap(), b"");
    set_mode(shared.path(), 0o755);
    issue(&["--force"]).done();
    belongs(&key, OTHER);
}
