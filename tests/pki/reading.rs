//! Commands that only read must work for another user and on a read-only file system. They must
//! also work while another process writes, and after a process was killed.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_testkit::skipped;
use rusqlite::Connection;

use super::Authority;
use crate::support::{BINARY, Run, copy_program};

/// A user that is neither root nor the owner of other files.
const NOBODY: u32 = 65_534;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Lets all users read a directory and its content, except the keys.
fn readable(path: &Path) {
    if !path.is_dir() {
        let is_key = path.extension().is_some_and(|extension| extension == "key");
        return set_mode(path, if is_key { 0o400 } else { 0o444 });
    }
    for entry in std::fs::read_dir(path).unwrap() {
        readable(&entry.unwrap().path());
    }
    set_mode(path, 0o755);
}

/// Returns the paths and contents of all files below a directory.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// An authority that another user may read, and a copy of the program for this user.
struct Readable {
    authority: Authority,
    program: PathBuf,
}

impl Readable {
    /// Lets all users read the authority. Returns `None` if this machine cannot run a command as
    /// another user.
    fn new(authority: Authority) -> Option<Self> {
        let is_superuser = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        if !skipped::machine(
            "being another user, without being the superuser",
            is_superuser,
        ) {
            return None;
        }
        // The other user may have no access to the build directory, so the program is copied.
        let program = authority.home.path().join("countersign");
        copy_program(&program);
        set_mode(authority.home.path(), 0o755);
        readable(&authority.dir());
        Some(Self { authority, program })
    }

    fn run(&self, words: &[&str]) -> Run {
        let mut command = Command::new(&self.program);
        command.arg("pki").args(words).stdin(Stdio::null());
        command.arg("--dir").arg(self.authority.dir());
        Run::of(command.uid(NOBODY).gid(NOBODY).current_dir("/"))
    }

    fn serials(&self) -> Vec<String> {
        let listed = self.run(&["list", "--json"]).done().json();
        let listed = listed["certificates"].as_array().unwrap();
        listed
            .iter()
            .map(|entry| entry["serial"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn issued(names: &[&str]) -> Authority {
    let authority = Authority::new();
    for name in names {
        let name = format!("spiffe://example.org/{name}");
        authority.run(&["issue", &name]).done();
    }
    authority
}

#[test]
fn another_user_lists_and_inspects_and_changes_nothing() {
    let authority = issued(&["a"]);
    authority.run(&["rotate", "prepare"]).done();
    authority.run(&["issue", "spiffe://example.org/b"]).done();
    let Some(readable) = Readable::new(authority) else {
        return;
    };
    let before = contents(&readable.authority.dir());
    assert_eq!(readable.serials().len(), 2);
    let listed = readable.run(&["list"]).done();
    assert!(
        listed.stdout.contains("spiffe://example.org/a"),
        "{listed:?}"
    );
    assert_eq!(readable.run(&["list", "--expiring", "2d"]).code, 3);
    assert_eq!(readable.run(&["list", "--expiring", "1m"]).code, 0);
    let status = readable.run(&["rotate", "status", "--json"]);
    assert_eq!(status.code, 3, "{status:?}");
    assert_eq!(status.json()["dependents"], 1);
    let mut inspect = Command::new(&readable.program);
    inspect.args(["pki", "inspect"]);
    inspect.arg(readable.authority.path("issued/a.pem"));
    Run::of(inspect.uid(NOBODY).gid(NOBODY)).done();
    // A command that would change files is refused.
    readable
        .run(&["issue", "spiffe://example.org/c"])
        .refused(1, "ermission denied");
    assert!(contents(&readable.authority.dir()) == before);
}

#[test]
fn an_authority_that_issued_nothing_is_listed_too() {
    let Some(readable) = Readable::new(Authority::new()) else {
        return;
    };
    let before = contents(&readable.authority.dir());
    assert_eq!(readable.serials(), [""; 0]);
    readable.run(&["rotate", "status"]).done();
    assert!(contents(&readable.authority.dir()) == before);
}

/// The newest certificates are only in the write-ahead log. Another user must see them too.
#[test]
fn another_user_sees_what_a_running_process_has_recorded() {
    let authority = issued(&["a"]);
    let database = Connection::open(authority.path("inventory.db")).unwrap();
    let add = "INSERT INTO certificate (serial, issuer_key, issuer, parent, profile, names, \
        not_before, not_after, thumbprint, certificate, issued_at, issued_by, cause) \
        SELECT 'abcdef', issuer_key, issuer, parent, profile, names, not_before, not_after, \
        thumbprint, certificate, issued_at, issued_by, cause FROM certificate WHERE id = 1";
    database.execute(add, []).unwrap();
    let Some(readable) = Readable::new(authority) else {
        return;
    };
    let authority = &readable.authority;
    assert!(authority.path("inventory.db-wal").metadata().unwrap().len() > 0);
    assert_eq!(readable.serials().len(), 2);
    // The result is the same in a copy without the shared memory, and after the process has ended.
    let copy = Authority {
        home: tempfile::tempdir().unwrap(),
    };
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(authority.dir()).arg(copy.home.path());
    assert!(cp.status().unwrap().success());
    std::fs::remove_file(copy.path("inventory.db-shm")).unwrap();
    drop(database);
    let copy = Readable::new(copy).unwrap();
    let before = contents(&copy.authority.dir());
    assert_eq!(copy.serials().len(), 2);
    assert!(contents(&copy.authority.dir()) == before);
    assert_eq!(readable.serials().len(), 2, "after the process has ended");
}

/// A crash can prevent the copy of revocations from `pki.toml` to the inventory. Records of an old
/// version may not be imported yet. Another user must see both.
#[test]
fn another_user_sees_revocations_and_records_that_are_not_copied_yet() {
    let authority = issued(&["a", "b"]);
    let leaf = authority.path("issued/a.pem");
    authority
        .run(&["revoke", "--cert", leaf.to_str().unwrap()])
        .done();
    let listed = authority.run(&["list", "--json"]).done().json();
    let issuer_key: String = {
        let database = Connection::open(authority.path("inventory.db")).unwrap();
        database
            .execute("UPDATE certificate SET revoked_at = NULL", [])
            .unwrap();
        let key = "SELECT issuer_key FROM certificate WHERE id = 1";
        database.query_row(key, [], |row| row.get(0)).unwrap()
    };
    let line = serde_json::json!({
        "serial": "abcdef", "issuer_key": issuer_key, "profile": "peer",
        "names": ["spiffe://example.org/old"], "not_before": 1_700_000_000,
        "not_after": 4_000_000_000_u32, "x5t#S256": "", "certificate": "old.pem",
    });
    std::fs::write(authority.path("issued.jsonl"), format!("{line}\n")).unwrap();
    let Some(readable) = Readable::new(authority) else {
        return;
    };
    let before = contents(&readable.authority.dir());
    let seen = readable.run(&["list", "--json"]).done().json();
    let seen = seen["certificates"].as_array().unwrap();
    assert_eq!(seen.len(), 3, "{seen:?}");
    for index in 0..2 {
        assert_eq!(
            seen[index]["status"],
            listed["certificates"][index]["status"]
        );
    }
    assert_eq!(seen[0]["status"], "revoked");
    assert!(contents(&readable.authority.dir()) == before);
}

/// A user who may only read cannot complete a change of another process. The command waits for some
/// time. Then it must say who can complete the change.
#[test]
fn a_reader_waits_for_a_change_and_names_the_remedy() {
    let Some(readable) = Readable::new(issued(&["a"])) else {
        return;
    };
    let transaction = readable.authority.path(".transaction");
    std::fs::write(&transaction, "{\"version\":1").unwrap();
    let said = Run::in_time(
        Command::new(&readable.program)
            .args(["pki", "list", "--dir"])
            .arg(readable.authority.dir())
            .uid(NOBODY)
            .gid(NOBODY),
    );
    said.refused(1, "as the owner of the directory");
    // Any command of the owner completes the change.
    readable.authority.run(&["list"]).done();
    assert!(!transaction.exists());
    // That command has also made the inventory private again, so the test makes it readable.
    self::readable(&readable.authority.dir());
    readable.run(&["list"]).done();
}

#[test]
fn a_group_that_may_read_can_go_on() {
    let authority = issued(&["a"]);
    let inventory = authority.path("inventory.db");
    let Some(readable) = Readable::new(authority) else {
        return;
    };
    std::os::unix::fs::chown(&inventory, None, Some(NOBODY)).unwrap();
    set_mode(&inventory, 0o640);
    readable.authority.run(&["list"]).done();
    assert_eq!(crate::support::mode(&inventory), 0o640);
    assert_eq!(readable.serials().len(), 1);
}

/// Returns a command that runs a program for which a directory is a read-only mount.
pub(super) fn with_read_only_mount(directory: &Path, program: &str) -> Command {
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && \
        exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(directory)
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Whether [`with_read_only_mount`] works on this machine.
pub(super) fn can_mount_read_only(directory: &Path) -> bool {
    let can_mount = with_read_only_mount(directory, "true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    skipped::machine("mounting a directory", can_mount)
}

#[test]
fn a_read_only_mount_is_enough() {
    let authority = issued(&["a"]);
    let home = authority.home.path();
    if !can_mount_read_only(home) {
        return;
    }
    let run = |words: &[&str]| {
        let mut command = with_read_only_mount(home, BINARY);
        Run::of(
            command
                .arg("pki")
                .args(words)
                .arg("--dir")
                .arg(authority.dir()),
        )
    };
    let listed = run(&["list", "--json"]).done().json();
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 1);
    assert_eq!(run(&["list", "--expiring", "2d"]).code, 3);
    run(&["rotate", "status"]).done();
    run(&["issue", "spiffe://example.org/b"]).refused(1, "inventory.db");
}
