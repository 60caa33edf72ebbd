//! Tests that kill each operation that changes several files, at every point between two file
//! operations. The next command must find the state before or after the operation, and no temporary
//! files.
//!
//! The operations run in child processes, as the ignored tests in `operations`.

mod operations;
mod rotation;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::PublicKeyData as _;

use super::files::certificates;
use super::records::state::State;
use super::rotating::RotationOptions;
use super::store::key;
use super::*;
use crate::clock;
use crate::identity::TrustDomain;
use crate::kill_point::tests::{at_each_point, directory, kill_at};

/// The contents of all files below a directory, by their paths. Leaves out the lock file and the
/// inventory, because a command that only reads may change these files.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn tree(directory: &Path) -> Tree {
    let mut found = Tree::new();
    let mut left = vec![directory.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                left.push(path);
            } else if name != ".lock" && !name.starts_with("inventory.db") {
                let below = path.strip_prefix(directory).unwrap().to_owned();
                found.insert(below, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn request(pki: &Pki, name: &str) -> IssueRequest {
    let path = format!("/{name}");
    let names = SubjectNames::new().spiffe_text(&path, pki.trust_domain());
    IssueRequest::new(name.parse().unwrap(), names.unwrap())
}

/// A temporary directory with an authority. Each run of an operation gets a copy.
struct Template(tempfile::TempDir);

impl Template {
    /// Creates an authority in `certs`, issues the leaf `old`, and calls `more` for further
    /// changes.
    fn new(more: impl FnOnce(&mut Pki, &Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut pki =
            Pki::create(&home.path().join("certs"), &domain(), &KeyProtection::Plain).unwrap();
        pki.issue(&request(&pki, "old")).unwrap();
        std::fs::create_dir(home.path().join("out")).unwrap();
        more(&mut pki, home.path());
        Self(home)
    }

    fn put(&self, home: &Path) {
        for name in ["certs", "out"] {
            copy(&self.0.path().join(name), home);
        }
    }

    fn tree(&self) -> Tree {
        tree(self.0.path())
    }
}

/// Opens the authority, as the command after the kill does. Checks that all files fit together.
fn next_command(home: &Path) -> Pki {
    let pki = Pki::open(&home.join("certs")).unwrap();
    let entries = pki.issued(&Filter::default()).unwrap();
    for path in tree(home).into_keys() {
        let path = home.join(path);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            !name.starts_with(".countersign") && !name.starts_with(".transaction"),
            "{name} is left"
        );
        if !name.ends_with(".key") {
            continue;
        }
        // The key in each key file must belong to the certificate in the file next to it.
        let certificate = &certificates::read(&path.with_extension("pem")).unwrap()[0];
        let (_, read) = x509_parser::parse_x509_certificate(certificate).unwrap();
        let key = key::read(&path, None).unwrap();
        assert_eq!(
            read.public_key().raw,
            key.subject_public_key_info(),
            "{name}"
        );
    }
    assert!(!pki.layout().next().directory().exists());
    let state = State::read(&pki.layout().state()).unwrap();
    // The inventory and `pki.toml` must have the same revoked certificates.
    for (entry, status) in &entries {
        assert_eq!(
            *status == Status::Revoked,
            state
                .revoked
                .iter()
                .any(|revoked| revoked.serial == entry.serial)
        );
    }
    // Each revocation list must have the latest CRL number in `pki.toml` and contain all
    // revocations.
    let mut numbers = state.clone();
    for name in AuthorityName::ALL {
        let content = std::fs::read(pki.layout().crl(name)).unwrap();
        let blocks = x509_parser::pem::Pem::iter_from_buffer(&content);
        assert_eq!(blocks.count(), pki.signatories(name).count());
        for signatory in pki.signatories(name) {
            let subject = pki.certificate_of(signatory).subject_der();
            let pem = crls::list_of(&content, subject).unwrap().unwrap();
            let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
            let (_, list) = x509_parser::parse_x509_crl(&block.contents).unwrap();
            let number = list.crl_number().unwrap().iter_u64_digits().next().unwrap();
            assert_eq!(number + 1, numbers.take_number(signatory));
            let recorded = state.revoked.iter().filter(|one| one.is_of(signatory));
            assert_eq!(list.iter_revoked_certificates().count(), recorded.count());
        }
    }
    let roots = certificates::read(&pki.layout().trust()).unwrap();
    let rotates_root = pki.earlier.is_some() && !pki.keeps_root();
    assert_eq!(roots.len(), 1 + usize::from(rotates_root));
    assert!(roots.contains(pki.authority(AuthorityName::Root).der()));
    pki
}

/// Returns the number of certificates with this name in the inventory.
fn recorded(pki: &Pki, name: &str) -> usize {
    let filter = Filter {
        name: Some(pki.printed_name(&format!("/{name}"))),
        ..Filter::default()
    };
    pki.issued(&filter).unwrap().len()
}

/// Checks that the current generation can issue leaves, and that both authorities can sign lists.
fn use_it(pki: &mut Pki) {
    pki.issue(&request(pki, "new")).unwrap();
    for name in AuthorityName::ALL {
        pki.sign_crls(name, None).unwrap();
    }
}

#[test]
fn an_issue_is_whole_or_nothing() {
    let template = Template::new(|_, _| {});
    let before = template.tree();
    for (operation, files) in [
        ("issue", ["certs/issued/new.key", "certs/issued/new.pem"]),
        ("issue_elsewhere", ["out/new.key", "out/new.pem"]),
    ] {
        let name = format!("kill_tests::operations::{operation}");
        let mut issued = 0;
        at_each_point(
            &name,
            |home| template.put(home),
            |home| {
                let pki = next_command(home);
                let mut after = tree(home);
                let placed = files.map(|file| after.remove(Path::new(file)).is_some());
                let is_recorded = recorded(&pki, "new") == 1;
                assert_eq!(placed, [is_recorded; 2]);
                assert_eq!(after, before);
                issued += u32::from(is_recorded);
            },
        );
        assert!(issued > 2, "some kills came after the commit");
    }
}

#[test]
fn a_signature_is_whole_or_nothing() {
    let template = Template::new(|_, home| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let name = rcgen::string::Ia5String::try_from("spiffe://example.org/new").unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(name)];
        let request = params.serialize_request(&key).unwrap();
        std::fs::write(home.join("out/request"), request.pem().unwrap()).unwrap();
    });
    let before = template.tree();
    at_each_point(
        "kill_tests::operations::sign",
        |home| template.put(home),
        |home| {
            let pki = next_command(home);
            let mut after = tree(home);
            let placed = after.remove(Path::new("certs/issued/new.pem"));
            assert_eq!(placed.is_some(), recorded(&pki, "new") == 1);
            assert_eq!(after, before);
        },
    );
}

/// Both files of a leaf must change, or neither. Otherwise a gateway could read a new key with an
/// old certificate.
#[test]
fn a_renewal_replaces_key_and_certificate_or_neither() {
    let template = Template::new(|_, _| {});
    let before = template.tree();
    let mut renewed = 0;
    at_each_point(
        "kill_tests::operations::renew",
        |home| template.put(home),
        |home| {
            let pki = next_command(home);
            let is_renewed = recorded(&pki, "old") == 2;
            let after = tree(home);
            for file in ["certs/issued/old.key", "certs/issued/old.pem"] {
                let file = Path::new(file);
                assert_eq!(
                    before[file] != after[file],
                    is_renewed,
                    "{}",
                    file.display()
                );
            }
            assert_eq!(before.len(), after.len());
            renewed += u32::from(is_renewed);
        },
    );
    assert!(renewed > 2, "some kills came after the commit");
}

#[test]
fn a_batch_is_whole_or_nothing() {
    let template = Template::new(|_, _| {});
    let before = template.tree();
    at_each_point(
        "kill_tests::operations::issue_many",
        |home| template.put(home),
        |home| {
            let mut pki = next_command(home);
            let mut after = tree(home);
            let is_recorded = recorded(&pki, "a") == 1;
            for file in ["a.key", "a.pem", "b.key", "b.pem"] {
                let place = Path::new("certs/issued").join(file);
                assert_eq!(after.remove(&place).is_some(), is_recorded);
            }
            assert_eq!(after, before);
            // A second run with the same list must issue exactly the leaves that the killed run has
            // not issued.
            let requests = ["a", "b"].map(|name| request(&pki, name));
            let done = pki.issue_many(&requests, &mut |_| {}).unwrap();
            let there = if is_recorded { 2 } else { 0 };
            assert_eq!((done.skipped, done.issued), (there, 2 - there));
        },
    );
}

/// The operation `revoke` revokes one certificate of each generation. So two lists and `pki.toml`
/// must change together.
#[test]
fn a_revocation_is_recorded_and_published_or_neither() {
    let template = Template::new(|pki, _| {
        pki.prepare_rotation(&RotationOptions::default()).unwrap();
        pki.issue(&request(pki, "old").out(pki.layout().issued("again")))
            .unwrap();
    });
    let before = template.tree();
    let mut counts = Vec::new();
    for operation in ["revoke", "revoke_intermediate"] {
        at_each_point(
            &format!("kill_tests::operations::{operation}"),
            |home| template.put(home),
            |home| {
                let pki = next_command(home);
                let revoked = State::read(&pki.layout().state()).unwrap().revoked.len();
                if revoked == 0 {
                    assert_eq!(tree(home), before);
                }
                assert_eq!(tree(home).len(), before.len());
                counts.push(revoked);
            },
        );
    }
    counts.sort_unstable();
    counts.dedup();
    assert_eq!(counts, [0, 1, 2]);
}

#[test]
fn lists_are_signed_with_their_numbers_or_not() {
    let template = Template::new(|pki, _| {
        pki.prepare_rotation(&RotationOptions::default()).unwrap();
        let target = RevocationTarget::Name(pki.printed_name("/old"), Among::Only);
        pki.revoke(&target, RevocationReason::Superseded).unwrap();
    });
    let before = template.tree();
    at_each_point(
        "kill_tests::operations::sign_lists",
        |home| template.put(home),
        |home| {
            next_command(home);
            let changed: Vec<_> = tree(home)
                .into_iter()
                .filter(|(path, content)| before.get(path) != Some(content))
                .map(|(path, _)| path)
                .collect();
            let both = ["certs/crl/intermediate.crl", "certs/pki.toml"].map(PathBuf::from);
            assert!(changed.is_empty() || changed == both, "{changed:?}");
        },
    );
}

#[test]
fn an_authority_is_made_or_not_begun() {
    let mut made = Vec::new();
    at_each_point(
        "kill_tests::operations::create",
        |_| {},
        |home| {
            let directory = home.join("certs");
            match Pki::open(&directory) {
                Ok(_) => {
                    let mut pki = next_command(home);
                    use_it(&mut pki);
                    assert!(directory.join("countersign-crl.timer").exists());
                    assert!(Pki::check_absent(&directory).is_err());
                    made.push(true);
                }
                Err(error) => {
                    assert!(matches!(error, PkiError::NoAuthority(_)), "{error}");
                    // After the kill, the same command must succeed.
                    Pki::check_absent(&directory).unwrap();
                    let mut pki =
                        Pki::create(&directory, &domain(), &KeyProtection::Plain).unwrap();
                    use_it(&mut pki);
                    next_command(home);
                    made.push(false);
                }
            }
        },
    );
    made.dedup();
    assert_eq!(made, [false, true]);
}

/// If replacing an authority is killed, either the old or the complete new authority must remain.
#[test]
fn an_authority_is_replaced_or_stays() {
    let template = Template::new(|_, _| {});
    let before = template.tree();
    let mut replaced = Vec::new();
    at_each_point(
        "kill_tests::operations::replace",
        |home| template.put(home),
        |home| {
            let mut pki = next_command(home);
            let root = Path::new("certs/root.pem");
            let is_new = tree(home)[root] != before[root];
            replaced.push(is_new);
            if !is_new {
                assert_eq!(tree(home), before);
            }
            use_it(&mut pki);
        },
    );
    replaced.dedup();
    assert_eq!(replaced, [false, true]);
}

#[test]
fn records_of_earlier_versions_are_taken_over_once() {
    let template = Template::new(|pki, _| {
        let record = serde_json::json!({
            "serial": "0badc0de",
            "issuer_key": pki.authority(AuthorityName::Intermediate).key_identifier_hex(),
            "profile": "peer",
            "names": ["spiffe://example.org/imported"],
            "not_before": clock::certificate_now(),
            "not_after": clock::certificate_now() + 3600,
            "x5t#S256": "00",
            "certificate": "imported.pem",
        });
        let journal = pki.layout().journal();
        std::fs::write(journal, format!("{record}\n")).unwrap();
    });
    at_each_point(
        "kill_tests::operations::list",
        |home| template.put(home),
        |home| {
            let pki = next_command(home);
            assert_eq!(recorded(&pki, "imported"), 1);
            assert!(!pki.layout().journal().exists());
        },
    );
}

/// First kills an operation just after its commit. Then kills the next command, which completes the
/// operation, at every point. The command after that must find the operation completed.
#[test]
fn a_command_that_completes_an_operation_may_be_killed_too() {
    let template = Template::new(|_, _| {});
    for operation in ["prepare", "renew"] {
        let operation = format!("kill_tests::operations::{operation}");
        // Finds the last point at which the operation is committed but no file has its final path
        // yet.
        let before = template.tree();
        let is_committed = |home: &Path| {
            let now = tree(home);
            let is_aside = |path: &PathBuf| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with(".countersign") || name.starts_with(".transaction")
            };
            let aside = now.keys().filter(|path| is_aside(path)).count();
            let same = before
                .iter()
                .all(|(path, content)| now.get(path) == Some(content));
            (aside > 1 && same, now)
        };
        let mut committed = None;
        for point in 0.. {
            let home = tempfile::tempdir().unwrap();
            template.put(home.path());
            if !kill_at(point, &operation, home.path()) {
                break;
            }
            if is_committed(home.path()).0 {
                committed = Some((point, home));
            }
        }
        let (point, killed) = committed.unwrap();
        println!("{operation} is committed at point {point}");
        at_each_point(
            "kill_tests::operations::list",
            |home| {
                copy(&killed.path().join("certs"), home);
                std::fs::create_dir(home.join("out")).unwrap();
            },
            |home| {
                let pki = next_command(home);
                let done = (pki.generation().number(), recorded(&pki, "old"));
                assert!(matches!(done, (2, 1) | (1, 2)), "{done:?}");
            },
        );
    }
}
