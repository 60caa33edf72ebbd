//! `countersign pki` as people and scripts use it: files, exit codes and output. Other TLS
//! libraries verify the certificates.

mod bulk;
mod crashes;
mod explained;
mod files;
mod fixtures;
mod foreign;
mod forms;
mod locks;
mod making;
mod offline_root;
mod offline_rotation;
mod own_files;
mod ownership;
mod passphrases;
mod pem_files;
mod profiles;
mod reading;
mod refusals;
mod renewals;
mod requests;
mod revocation;
mod root_lists;
mod root_only;
mod rotation;
mod terminal;
mod timers;
mod unusable_lists;
mod waiting;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{BINARY, Run};

/// Returns the command `countersign pki …`, which has no terminal.
fn pki(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("pki").args(arguments).stdin(Stdio::null());
    command
}

/// An authority for `example.org` with unencrypted keys, in a temporary directory.
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

    /// Returns whether the inventory contains no certificate.
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

    /// Returns the command `countersign pki VERB --dir DIR …`. A verb may have two words, such as
    /// `rotate prepare`.
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

    /// Fails the test if a killed process has left temporary files.
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

/// Returns the certificates of a PEM file in DER.
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

/// Returns the number of a CRL, and the serial numbers in the CRL in hexadecimal.
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
