//! Reads configuration files. Any content must result in a snapshot, or in errors with positions
//! in the file.

use std::path::{Path, PathBuf};

use countersign_config::{self as config, AdminSocketError, ConfigErrors};
use countersign_core::assertion::{SigningAlgorithm, key_directory};
use countersign_core::clock;
use countersign_core::identity::TrustDomain;
use countersign_testkit::{Crl, Idp, TestCa, TokenKey};
use tempfile::TempDir;

/// A folder with the files that a fuzzed configuration can name:
///
/// | Name | Content |
/// |---|---|
/// | `gateway.pem`, `gateway.key` | a server certificate for `orders.example.org`, and its key |
/// | `trust.pem` | the root certificate of the callers |
/// | `root.crl`, `issuing.crl` | the CRLs of root and intermediate |
/// | `signing` | a directory with a key that signs assertions |
/// | `keys.json` | the keys of a token issuer |
/// | `secret` | a secret, as one line of text |
struct Folder(TempDir);

thread_local! {
    static FOLDER: Folder = Folder::new();
}

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let ca = TestCa::new("example.org");
        let server = ca.server(&["orders.example.org"]);
        for (name, content) in [
            ("gateway.pem", server.chain_pem()),
            ("gateway.key", server.key_pem()),
            ("trust.pem", ca.root().pem()),
            ("root.crl", Crl::new().pem_signed_by(ca.root())),
            ("issuing.crl", Crl::new().pem_signed_by(ca.intermediate())),
            (
                "keys.json",
                Idp::key_set(&[&TokenKey::new("one")]).to_string(),
            ),
            ("secret", "not-a-very-good-secret\n".to_owned()),
        ] {
            folder.write(name, content.as_bytes());
        }
        let signing = folder.0.path().join("signing");
        key_directory::generate(&signing, SigningAlgorithm::Es256, clock::unix_now()).unwrap();
        folder
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// Checks that each error has a message and a position in the file, and that the printed errors
/// contain no terminal escape sequence.
fn check(errors: &ConfigErrors, path: &Path, content: &[u8]) {
    let text = String::from_utf8_lossy(content);
    let records = errors.records();
    assert!(!records.is_empty() && records.len() == errors.errors().len());
    for record in &records {
        assert!(!record.message.is_empty(), "{record:?}");
        assert_eq!(record.file, path.display().to_string());
        let Some(line) = record.line else { continue };
        let lines: Vec<&str> = text.split('\n').collect();
        assert!((1..=lines.len()).contains(&line), "{record:?}");
        let width = lines[line - 1].chars().count();
        let column = record.column.expect("a column");
        // `width + 1`, because the position of an error may be the end of a line.
        assert!((1..=width + 1).contains(&column), "{record:?}");
    }
    let shown = errors.render(false);
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    for record in &records {
        let first = record.message.lines().next().unwrap_or_default();
        assert!(shown.contains(first), "{record:?} in {shown}");
    }
}

/// Returns whether a gateway accepts this configuration. If not, checks the errors.
pub fn loads(content: &[u8]) -> bool {
    FOLDER.with(|folder| {
        let path = folder.write("countersign.toml", content);
        match config::inspect(&path) {
            Ok(_) => {
                // `admin_socket` reads the file separately, and only for the admin socket. It
                // must not find a syntax error in an accepted file.
                let socket = config::admin_socket(&path);
                assert!(matches!(socket, Ok(_) | Err(AdminSocketError::None(_))));
                true
            }
            Err(errors) => {
                check(&errors, &path, content);
                false
            }
        }
    })
}

/// Reads the input as a gateway configuration, twice, and as the profiles of a certificate
/// authority.
pub fn configuration(data: &[u8]) {
    let first = loads(data);
    assert_eq!(loads(data), first, "read otherwise the second time");
    FOLDER.with(|folder| {
        let domain = TrustDomain::parse("example.org").unwrap();
        let path = folder.write("profiles.toml", data);
        if let Err(errors) = config::profiles(&path, &domain) {
            check(&errors, &path, data);
        }
    });
}
