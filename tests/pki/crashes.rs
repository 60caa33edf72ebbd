//! Processes that are killed at random moments. Nothing is lost, no file is incomplete, and no
//! serial number is used twice.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rcgen::PublicKeyData as _;

use super::{Authority, certificates, revocation_list};
use crate::support::copy_program;

/// The moments at which `runs` runs of a command are killed. They are spread from the start of
/// the command to somewhat after its normal end.
pub(super) struct Moments {
    undisturbed: Duration,
    runs: u32,
}

impl Moments {
    /// Runs `command` once to measure its duration.
    pub(super) fn of(authority: &Authority, command: &[&str], runs: u32) -> Self {
        let begin = Instant::now();
        authority.run(command).done();
        Self {
            undisturbed: begin.elapsed(),
            runs,
        }
    }

    pub(super) fn delays(&self) -> impl Iterator<Item = Duration> {
        let last = self.undisturbed * 5 / 4;
        (0..self.runs).map(move |run| last * run / (self.runs - 1).max(1))
    }
}

/// Starts a command and kills it after `delay`, if it has not ended by itself.
pub(super) fn kill_after(authority: &Authority, arguments: &[&str], delay: Duration) {
    let mut child = authority
        .pki(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(delay);
    // The process may have ended already.
    let _ = child.kill();
    child.wait().unwrap();
}

fn issued_files(authority: &Authority) -> Vec<PathBuf> {
    std::fs::read_dir(authority.path("issued"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn serials(authority: &Authority) -> Vec<String> {
    let listed = authority.run(&["list", "--json"]).done().json();
    listed["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["serial"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_killed_issue_leaves_whole_files_or_none() {
    let authority = Authority::new();
    let moments = Moments::of(&authority, &["issue", "spiffe://example.org/n"], 24);
    for (index, delay) in moments.delays().enumerate() {
        let name = format!("spiffe://example.org/n{index}");
        kill_after(&authority, &["issue", &name], delay);
    }
    let known: HashSet<String> = serials(&authority).into_iter().collect();
    assert_eq!(known.len(), serials(&authority).len());
    // All recorded certificates have files, and there are no temporary files.
    authority.has_nothing_aside();
    assert_eq!(issued_files(&authority).len(), 2 * known.len());
    authority
        .run(&["issue", "spiffe://example.org/last"])
        .done();
    let known: HashSet<String> = serials(&authority).into_iter().collect();
    for path in issued_files(&authority) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with('n') || name.starts_with("last"), "{name}");
        assert!(path.with_extension("pem").exists(), "{name}");
        let key = KeyPairFile(path.with_extension("key"));
        let key = key.read();
        if path.extension().is_some_and(|extension| extension == "pem") {
            let chain = certificates(&path);
            assert_eq!(chain.len(), 2, "{name}");
            let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
            assert_eq!(
                leaf.public_key().raw,
                key.subject_public_key_info(),
                "{name}"
            );
            let serial: String = leaf
                .raw_serial()
                .iter()
                .map(|octet| format!("{octet:02x}"))
                .collect();
            assert!(known.contains(&serial), "{name} is not in the inventory");
        }
    }
}

struct KeyPairFile(PathBuf);

impl KeyPairFile {
    fn read(&self) -> rcgen::KeyPair {
        rcgen::KeyPair::from_pem(&std::fs::read_to_string(&self.0).unwrap()).unwrap()
    }
}

#[test]
fn a_killed_revocation_is_recorded_or_was_not() {
    let authority = Authority::new();
    for index in 0..13 {
        let name = format!("spiffe://example.org/n{index}");
        authority.run(&["issue", &name]).done();
    }
    let mut all = serials(&authority);
    let undisturbed = all.pop().unwrap();
    let moments = Moments::of(&authority, &["revoke", "--serial", &undisturbed], 12);
    let mut highest = 0;
    for (serial, delay) in all.into_iter().zip(moments.delays()) {
        kill_after(&authority, &["revoke", "--serial", &serial], delay);
        // The CRL is always complete, and its number never decreases.
        let (number, _) = revocation_list(&authority.path("crl/intermediate.crl"));
        assert!(number >= highest);
        highest = number;
        // The next command completes the revocation: every recorded revocation is in the CRL.
        let recorded = revoked(&authority);
        let (number, on_list) = revocation_list(&authority.path("crl/intermediate.crl"));
        assert_eq!(recorded, on_list.into_iter().collect());
        assert!(number >= highest);
        highest = number;
        authority.has_nothing_aside();
    }
    authority.run(&["crl", "--issuer", "intermediate"]).done();
    let (number, on_list) = revocation_list(&authority.path("crl/intermediate.crl"));
    assert!(number > highest);
    assert_eq!(revoked(&authority), on_list.into_iter().collect());
}

/// Returns the serial numbers that the inventory records as revoked.
fn revoked(authority: &Authority) -> HashSet<String> {
    let listed = authority
        .run(&["list", "--revoked", "--json"])
        .done()
        .json();
    listed["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["serial"].as_str().unwrap().to_owned())
        .collect()
}

/// All certificates of a name are revoked, or none. The same command again completes the
/// revocation.
#[test]
fn a_killed_revocation_of_all_is_whole_or_was_not() {
    /// Creates an authority that has issued four certificates for one name, and one for another.
    fn filled() -> Authority {
        let authority = Authority::new();
        for _ in 0..4 {
            let issue = ["issue", "spiffe://example.org/n", "--force"];
            authority.run(&issue).done();
        }
        authority
            .run(&["issue", "spiffe://example.org/other"])
            .done();
        authority
    }

    let revoke = ["revoke", "--identity", "/n", "--all"];
    let moments = Moments::of(&filled(), &revoke, 16);
    let (mut begun, mut ended) = (0, 0);
    for delay in moments.delays() {
        let authority = filled();
        let all: HashSet<String> = serials(&authority).into_iter().collect();
        assert_eq!(all.len(), 5);
        let (before, _) = revocation_list(&authority.path("crl/intermediate.crl"));
        kill_after(&authority, &revoke, delay);
        let (number, on_list) = revocation_list(&authority.path("crl/intermediate.crl"));
        assert!(
            number >= before && [0, 4].contains(&on_list.len()),
            "{on_list:?}"
        );
        let recorded = revoked(&authority);
        let (_, on_list) = revocation_list(&authority.path("crl/intermediate.crl"));
        assert_eq!(recorded, on_list.into_iter().collect());
        authority.has_nothing_aside();
        match recorded.len() {
            0 => begun += 1,
            4 => ended += 1,
            some => panic!("{some} of 4 are revoked"),
        }
        // The revocation is complete, and the CRL contains exactly these certificates.
        let again = authority.run(&revoke);
        if again.code != 0 {
            again.refused(1, "no live certificate");
        }
        authority.run(&["crl", "--issuer", "intermediate"]).done();
        let (later, on_list) = revocation_list(&authority.path("crl/intermediate.crl"));
        assert!(later > number);
        assert_eq!(on_list.len(), 4);
        let known: HashSet<String> = serials(&authority).into_iter().collect();
        assert_eq!(known, all, "none is lost");
    }
    println!("{begun} were killed before, {ended} after");
}

/// Returns the paths and contents of everything in a directory.
fn contents(directory: &std::path::Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.push((path, None));
        } else {
            let content = std::fs::read(&path).unwrap();
            found.push((path, Some(content)));
        }
    }
    found.sort();
    found
}

/// Sets the modes and the owner of a directory and of everything in it.
fn set_modes(path: &std::path::Path, directory: u32, file: u32, owner: Option<u32>) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = if path.is_dir() { directory } else { file };
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            set_modes(&entry.unwrap().path(), directory, file, owner);
        }
    }
    if owner.is_some() {
        std::os::unix::fs::chown(path, owner, None).unwrap();
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Commands that write are refused with a file name, and change nothing. Commands that only read
/// work as usual, or give a reason.
#[test]
fn a_read_only_directory_stays_as_it_is() {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    /// A user that does not own files and is not root. Permissions do not apply to root.
    const NOBODY: u32 = 65_534;

    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    let serial = serials(&authority).remove(0);
    let superuser = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let owner = superuser.then_some(NOBODY);
    let home = authority.home.path();
    // `NOBODY` may have no access to the build directory, so that the program is copied.
    let program = home.join("countersign");
    copy_program(&program);
    set_modes(&authority.dir(), 0o555, 0o400, owner);
    let searchable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(home, searchable).unwrap();
    let before = contents(&authority.dir());
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.arg("pki").args(words).args(["--dir", "certs"]);
        command.current_dir(home).stdin(Stdio::null());
        if let Some(user) = owner {
            command.uid(user).gid(user);
        }
        super::Run::of(&mut command)
    };
    for words in [
        &["issue", "spiffe://example.org/b"][..],
        &["issue", "spiffe://example.org/a", "--force"],
        &["renew", "certs/issued/a.pem"],
        &["revoke", "--serial", &serial],
        &["revoke", "--identity", "/a", "--all"],
        &["crl"],
        &["rotate", "prepare"],
    ] {
        let said = run(words).refused(1, "certs/");
        let words_of_it = [
            "ermission denied",
            "readonly",
            "read-only",
            "unable to open",
        ];
        assert!(
            words_of_it.iter().any(|word| said.stderr.contains(word)),
            "{words:?}: {}",
            said.stderr
        );
    }
    let listed = run(&["list", "--json"]);
    if listed.code == 0 {
        assert_eq!(listed.json()["certificates"][0]["serial"], *serial);
    } else {
        listed.refused(1, "inventory.db");
    }
    assert_eq!(contents(&authority.dir()), before);
    // When the directory is writable again, the commands work.
    set_modes(&authority.dir(), 0o700, 0o600, owner);
    run(&["issue", "spiffe://example.org/b"]).done();
    run(&["revoke", "--serial", &serial]).done();
}

/// Runs a command that can write files of at most `blocks` blocks, as on a full disk.
fn with_room_for(blocks: u32, program: &std::process::Command) -> super::Run {
    let mut limited = std::process::Command::new("sh");
    // By default, SIGXFSZ would kill the process. If the signal is ignored, the write fails.
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""])
        .arg(blocks.to_string())
        .arg(program.get_program())
        .args(program.get_args())
        .stdin(Stdio::null());
    super::Run::of(&mut limited)
}

/// If a file cannot be written, there is a message, no file is incomplete, and the authority
/// still works.
#[test]
fn a_full_disk_loses_nothing() {
    let mut failed = 0;
    for blocks in [0, 1, 2, 3, 5, 8, 16, 64] {
        let authority = Authority::new();
        authority
            .run(&["issue", "spiffe://example.org/before"])
            .done();
        let serial = serials(&authority).remove(0);
        let list = authority.home.path().join("list");
        std::fs::write(&list, "one.example.org\ntwo.example.org\n").unwrap();
        let list = list.to_str().unwrap();
        let dir = authority.dir();
        let commands: [&[&str]; 5] = [
            &["issue", "spiffe://example.org/during"],
            &["issue", "--from", list],
            &["revoke", "--serial", &serial],
            &["crl"],
            &["rotate", "prepare"],
        ];
        for arguments in commands {
            let mut command = super::pki(arguments);
            let said = with_room_for(blocks, command.arg("--dir").arg(&dir));
            assert!(matches!(said.code, 0 | 1), "{arguments:?}: {}", said.stderr);
            assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
            failed += i32::from(said.code == 1);
            if said.code == 1 {
                let words = ["cannot", "too large", "full"];
                assert!(
                    words.iter().any(|words| said.stderr.contains(words)),
                    "{arguments:?}: {}",
                    said.stderr
                );
            }
        }
        // Without the limit, everything works, and all existing files are complete.
        authority
            .run(&["issue", "spiffe://example.org/after"])
            .done();
        authority.run(&["revoke", "--serial", &serial]).done();
        let known: HashSet<String> = serials(&authority).into_iter().collect();
        for path in issued_files(&authority) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(!name.starts_with('.'), "{name} is left aside");
            KeyPairFile(path.with_extension("key")).read();
            if path.extension().is_some_and(|extension| extension == "pem") {
                let leaf = certificates(&path).swap_remove(0);
                let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
                let serial = leaf.raw_serial_as_string().replace(':', "");
                assert!(known.contains(&serial), "{name} is not in the inventory");
            }
        }
        let revoked = authority
            .run(&["list", "--revoked", "--json"])
            .done()
            .json();
        assert_eq!(revoked["certificates"][0]["serial"], *serial);
    }
    assert!(failed > 10, "{failed} commands met the limit");
}
