//! `countersign pki` as a person or a script meets it: files, exit codes, words,
//! and what other TLS stacks think of the certificates.

mod bulk;
mod crashes;
mod explained;
mod files;
mod fixtures;
mod foreign;
mod forms;
mod locks;
mod making;
mod passphrases;
mod pem_files;
mod profiles;
mod refusals;
mod requests;
mod revocation;
mod root_only;
mod rotation;
mod terminal;
mod unusable_lists;
mod waiting;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// A finished run of the program.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// Fails the test unless the program was done (exit code 0).
    #[track_caller]
    fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the program ended with `code` and said `words`,
    /// without panicking and without a result on standard output.
    #[track_caller]
    fn refused(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(words), "{words:?} in: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        self
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs a command that has to end by itself: one that blocks is killed, and fails the
/// test.
#[track_caller]
pub(crate) fn ended(command: &mut Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    let (said, hears) = mpsc::channel();
    std::thread::spawn(move || said.send(child.wait_with_output()));
    match hears.recv_timeout(Duration::from_secs(60)) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            Command::new("kill").args(["-9", &id]).status().unwrap();
            panic!("{command:?} does not end");
        }
    }
}

/// Replaces a file by something that blocks its readers, or has no end.
pub(crate) fn obstruct(path: &Path, what: &str) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else if path.symlink_metadata().is_ok() {
        std::fs::remove_file(path).unwrap();
    }
    match what {
        "named pipe" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "device" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        "directory" => std::fs::create_dir(path).unwrap(),
        other => panic!("{other}?"),
    }
}

/// `countersign pki …`, without a terminal.
fn pki(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.arg("pki").args(arguments).stdin(Stdio::null());
    command
}

/// An authority for `example.org` with plain keys, in a directory of its own.
struct Authority {
    home: TempDir,
}

impl Authority {
    fn new() -> Self {
        Self::for_domain("example.org")
    }

    fn for_domain(domain: &str) -> Self {
        let authority = Self {
            home: tempfile::tempdir().unwrap(),
        };
        let mut init = authority.pki(&["init", "--trust-domain", domain, "--no-passphrase"]);
        Run::of(&mut init).done();
        authority
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("certs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Whether the inventory knows of no certificate.
    fn has_issued_nothing(&self) -> bool {
        let path = self.path("inventory.db");
        !path.exists()
            || rusqlite::Connection::open(path)
                .unwrap()
                .query_row("SELECT COUNT(*) FROM certificate", [], |row| {
                    row.get::<_, i64>(0)
                })
                .unwrap()
                == 0
    }

    /// `countersign pki VERB --dir DIR …`, where `rotate STEP` is a verb too.
    fn pki(&self, arguments: &[&str]) -> Command {
        let words = if arguments[0] == "rotate" { 2 } else { 1 };
        let (verb, rest) = arguments.split_at(words);
        let mut command = pki(verb);
        command.arg("--dir").arg(self.dir()).args(rest);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.pki(arguments))
    }

    /// Fails the test if a process that was killed has left something aside.
    #[track_caller]
    fn has_nothing_aside(&self) {
        for directory in ["", "crl", "issued"] {
            for entry in std::fs::read_dir(self.path(directory)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let is_known = !name.starts_with('.') || name == ".lock";
                assert!(is_known && name != "next", "{directory}/{name} is left");
            }
        }
    }
}

/// The certificates of a PEM file as DER.
fn certificates(path: &Path) -> Vec<Vec<u8>> {
    let content = std::fs::read(path).unwrap();
    x509_parser::pem::Pem::iter_from_buffer(&content)
        .map(|block| {
            let block = block.unwrap();
            assert_eq!(block.label, "CERTIFICATE");
            block.contents
        })
        .collect()
}

/// The number of a revocation list, and the serial numbers on it in hexadecimal.
fn revocation_list(path: &Path) -> (u64, Vec<String>) {
    let content = std::fs::read(path).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(&content).unwrap();
    assert_eq!(block.label, "X509 CRL");
    let (_, list) = x509_parser::parse_x509_crl(&block.contents).unwrap();
    let number = list
        .crl_number()
        .unwrap()
        .iter_u64_digits()
        .next()
        .unwrap_or(0);
    let serials = list
        .iter_revoked_certificates()
        .map(|entry| {
            let hex: String = entry
                .raw_serial()
                .iter()
                .map(|octet| format!("{octet:02x}"))
                .collect();
            hex
        })
        .collect();
    (number, serials)
}
