//! Rotation of root and intermediate. Both generations are trusted until an operator retires the
//! earlier one. After a kill, nothing is incomplete.

use std::path::Path;
use std::process::Command;

use countersign_testkit::skipped::has_tool;

use super::crashes::{Moments, kill_after};
use super::{Authority, certificates, revocation_list};
use crate::support::Run;

const PREPARE: [&str; 2] = ["rotate", "prepare"];
const RETIRE: [&str; 3] = ["rotate", "retire", "--force"];

fn issue(authority: &Authority, name: &str) -> String {
    let id = format!("spiffe://example.org/{name}");
    let document = authority.run(&["issue", &id, "--json"]).done().json();
    document["serial"].as_str().unwrap().to_owned()
}

fn rotate(authority: &Authority, arguments: &[&str]) -> Run {
    authority.run(&[&["rotate"], arguments].concat())
}

/// Verifies a leaf with OpenSSL and all published CRLs.
fn openssl(authority: &Authority, leaf: &str) -> Run {
    let leaf = authority.path(&format!("issued/{leaf}.pem"));
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]);
    command.arg(authority.path("trust.pem"));
    for list in ["crl/root.crl", "crl/intermediate.crl"] {
        command.arg("-CRLfile").arg(authority.path(list));
    }
    command.arg("-untrusted").arg(&leaf).arg(&leaf);
    Run::of(&mut command)
}

/// Returns how many CRLs a file contains, and how many entries these CRLs have in total.
fn lists(path: &Path) -> (usize, usize) {
    let content = std::fs::read(path).unwrap();
    let blocks: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(&content)
        .map(Result::unwrap)
        .collect();
    let entries = blocks
        .iter()
        .map(|block| {
            let (_, list) = x509_parser::parse_x509_crl(&block.contents).unwrap();
            list.iter_revoked_certificates().count()
        })
        .sum();
    (blocks.len(), entries)
}

#[test]
fn both_generations_are_good_until_the_earlier_one_is_retired() {
    let authority = Authority::new();
    let old = issue(&authority, "old");
    let revoked = issue(&authority, "revoked");
    let none = rotate(&authority, &["status", "--json"]).done().json();
    assert_eq!(
        (&none["generation"], &none["dependents"]),
        (&1.into(), &0.into())
    );
    rotate(&authority, &["retire"]).refused(1, "no earlier generation");

    let earlier_root = authority.read("root.pem");
    let prepared = rotate(&authority, &["prepare", "--json"]).done().json();
    assert_eq!(prepared["generation"], 2);
    assert_eq!(prepared["dependents"], 2);
    assert_eq!(authority.read("earlier/root.pem"), earlier_root);
    assert_ne!(authority.read("root.pem"), earlier_root);
    assert_eq!(certificates(&authority.path("trust.pem")).len(), 2);
    assert!(!authority.path("next").exists());
    rotate(&authority, &["prepare"]).refused(1, "not retired yet");
    issue(&authority, "new");

    // Certificates of the earlier intermediate can still be revoked and renewed.
    let document = authority
        .run(&["revoke", "--serial", &revoked, "--json"])
        .done()
        .json();
    assert_eq!(document["crl"]["generation"], 1);
    let list = authority.path("crl/intermediate.crl");
    assert_eq!(lists(&list), (2, 1));
    // The CRL of the current generation is the first in the file.
    assert_eq!(revocation_list(&list), (1, Vec::new()));
    let signed = authority.run(&["crl", "--json"]).done().json();
    assert_eq!(signed["crls"].as_array().unwrap().len(), 4);
    assert_eq!(lists(&list), (2, 1));
    assert_eq!(revocation_list(&list), (2, Vec::new()));
    if has_tool("openssl", "version") {
        openssl(&authority, "old").done();
        openssl(&authority, "new").done();
        assert!(openssl(&authority, "revoked").stderr.contains("revoked"));
    }

    let status = rotate(&authority, &["status", "--json"]);
    assert_eq!(status.code, 3, "{}", status.stderr);
    let status = status.json();
    assert_eq!(status["dependents"], 1);
    assert_eq!(status["certificates"][0]["serial"], old.as_str());
    rotate(&authority, &["retire"]).refused(1, "1 live certificates depend");
    assert_eq!(certificates(&authority.path("trust.pem")).len(), 2);

    let file = authority.path("issued/old.pem");
    authority.run(&["renew", file.to_str().unwrap()]).done();
    // A renewal does not revoke the earlier certificate. `rotate status` lists it until it is
    // revoked or expires.
    assert_eq!(rotate(&authority, &["status"]).code, 3);
    authority.run(&["revoke", "--serial", &old]).done();
    rotate(&authority, &["status"]).done();
    let retired = rotate(&authority, &["retire", "--json"]).done().json();
    assert_eq!(
        (&retired["retired"], &retired["abandoned"]),
        (&1.into(), &0.into())
    );
    assert_eq!(authority.read("retired/1/root.pem"), earlier_root);
    assert_eq!(certificates(&authority.path("trust.pem")).len(), 1);
    assert_eq!(lists(&list), (1, 0));
    if has_tool("openssl", "version") {
        openssl(&authority, "old").done();
        openssl(&authority, "new").done();
        assert_ne!(openssl(&authority, "revoked").code, 0);
    }
    // A second rotation has its own CRL numbers.
    rotate(&authority, &["prepare"]).done();
    rotate(&authority, &["retire", "--force"]).done();
    assert!(authority.path("retired/2/root.pem").exists());
    assert!(openssl_refuses(&authority, "new"));
}

fn openssl_refuses(authority: &Authority, leaf: &str) -> bool {
    !has_tool("openssl", "version") || openssl(authority, leaf).code != 0
}

#[test]
fn a_name_of_both_generations_is_revoked_in_both() {
    let authority = Authority::new();
    issue(&authority, "a");
    rotate(&authority, &["prepare"]).done();
    let file = authority.path("issued/a.pem");
    authority.run(&["renew", file.to_str().unwrap()]).done();
    authority
        .run(&["revoke", "--identity", "/a"])
        .refused(2, "2 live certificates");
    let document = authority
        .run(&["revoke", "--identity", "/a", "--all", "--json"])
        .done()
        .json();
    assert_eq!(document["crls"].as_array().unwrap().len(), 2);
    assert_eq!(lists(&authority.path("crl/intermediate.crl")), (2, 2));
    let listed = authority
        .run(&["list", "--revoked", "--json"])
        .done()
        .json();
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 2);
    // The earlier intermediate itself can be revoked too.
    let earlier = authority.path("earlier/intermediate.pem");
    authority
        .run(&["revoke", "--cert", earlier.to_str().unwrap()])
        .done();
    assert_eq!(lists(&authority.path("crl/root.crl")), (2, 1));
    issue(&authority, "b");
}

#[test]
fn sealed_keys_stay_sealed_with_the_same_passphrase() {
    let authority = Authority::new();
    let phrase = authority.home.path().join("phrase");
    let wrong = authority.home.path().join("wrong");
    std::fs::write(&phrase, "correct horse\n").unwrap();
    std::fs::write(&wrong, "wrong\n").unwrap();
    let [phrase, wrong] = [&phrase, &wrong].map(|path| path.to_str().unwrap());
    authority
        .run(&[
            "init",
            "--trust-domain",
            "example.org",
            "--force",
            "--passphrase-file",
            phrase,
        ])
        .done();
    let before = authority.read("root.pem");
    rotate(&authority, &["prepare"]).refused(2, "passphrase");
    rotate(&authority, &["prepare", "--passphrase-file", wrong]).refused(1, "passphrase");
    assert_eq!(authority.read("root.pem"), before);
    rotate(&authority, &["prepare", "--passphrase-file", phrase]).done();
    for key in ["root.key", "intermediate.key", "earlier/root.key"] {
        let text = String::from_utf8(authority.read(key)).unwrap();
        assert!(text.contains("ENCRYPTED"), "{key}");
    }
    authority.run(&["crl", "--passphrase-file", phrase]).done();
}

#[test]
fn a_killed_rotation_leaves_the_old_one_or_both() {
    let moments = Moments::of(&Authority::new(), &PREPARE, 16);
    let mut prepared = 0;
    for delay in moments.delays() {
        let authority = Authority::new();
        issue(&authority, "old");
        kill_after(&authority, &PREPARE, delay);
        // The authority works, and both leaves are valid. No change is incomplete.
        issue(&authority, "new");
        authority.has_nothing_aside();
        let status = rotate(&authority, &["status", "--json"]).json();
        let roots = certificates(&authority.path("trust.pem")).len();
        let generation = status["generation"].as_u64().unwrap();
        assert_eq!(roots as u64, generation);
        prepared += generation - 1;
        if has_tool("openssl", "version") {
            openssl(&authority, "old").done();
            openssl(&authority, "new").done();
        }
        if generation == 1 {
            rotate(&authority, &["prepare"]).done();
        }
        assert_eq!(certificates(&authority.path("trust.pem")).len(), 2);
        issue(&authority, "newer");
        rotate(&authority, &["retire", "--force"]).done();
        assert!(!authority.path("earlier").exists() && !authority.path("next").exists());
    }
    println!("{prepared} of 16 were prepared before the kill");
}

#[test]
fn a_killed_retirement_is_not_begun_or_completed() {
    /// Creates an authority with an earlier generation that can be retired.
    fn prepared() -> Authority {
        let authority = Authority::new();
        issue(&authority, "old");
        rotate(&authority, &["prepare"]).done();
        issue(&authority, "new");
        authority
    }

    let moments = Moments::of(&prepared(), &RETIRE, 16);
    let mut not_begun = 0;
    for delay in moments.delays() {
        let authority = prepared();
        kill_after(&authority, &RETIRE, delay);
        // The current generation stays valid, and its CRLs can be signed.
        if has_tool("openssl", "version") {
            openssl(&authority, "new").done();
        }
        issue(&authority, "newer");
        authority.has_nothing_aside();
        // If the retirement was recorded, the next command has completed it.
        let roots = certificates(&authority.path("trust.pem")).len();
        assert_eq!(authority.path("earlier").exists(), roots == 2);
        authority.run(&["crl"]).done();
        let again = rotate(&authority, &["retire", "--force"]);
        if roots == 2 {
            again.done();
            not_begun += 1;
        } else {
            again.refused(1, "there is no earlier generation");
        }
        assert_eq!(certificates(&authority.path("trust.pem")).len(), 1);
        assert_eq!(lists(&authority.path("crl/root.crl")).0, 1);
        assert_eq!(lists(&authority.path("crl/intermediate.crl")).0, 1);
        assert!(!authority.path("earlier").exists());
        // The keys are moved to another folder and never deleted.
        for file in [
            "root.key",
            "intermediate.key",
            "root.pem",
            "intermediate.pem",
        ] {
            assert!(
                authority.path(&format!("retired/1/{file}")).exists(),
                "{file}"
            );
        }
        let status = rotate(&authority, &["status", "--json"]).done().json();
        assert_eq!(status["generation"], 2);
        if has_tool("openssl", "version") {
            openssl(&authority, "newer").done();
            assert!(openssl_refuses(&authority, "old"));
        }
        rotate(&authority, &["prepare"]).done();
    }
    println!("{not_begun} of 16 were killed before they were decided");
}

#[test]
fn every_step_of_an_interrupted_rotation_is_completed() {
    let authority = Authority::new();
    issue(&authority, "old");
    rotate(&authority, &["prepare"]).done();
    // Simulates a process that was killed after it had moved some files. The other files of the new
    // generation are still in `next/`, and `pki.toml` has the mark `unsettled`.
    let state = String::from_utf8(authority.read("pki.toml")).unwrap();
    let unsettled = state.replace("generation = 2\n", "generation = 2\nunsettled = true\n");
    assert_ne!(state, unsettled);
    std::fs::create_dir(authority.path("next")).unwrap();
    for name in ["intermediate.pem", "intermediate.key"] {
        std::fs::rename(
            authority.path(name),
            authority.path(&format!("next/{name}")),
        )
        .unwrap();
    }
    std::fs::write(authority.path("pki.toml"), unsettled).unwrap();
    issue(&authority, "new");
    assert_eq!(
        String::from_utf8(authority.read("pki.toml")).unwrap(),
        state
    );
    assert!(!authority.path("next").exists());
    if has_tool("openssl", "version") {
        openssl(&authority, "old").done();
        openssl(&authority, "new").done();
    }
}

/// Earlier versions created a new generation in the directory next/. If such a version was killed
/// at its end, the directory stayed. The next command and the retirement must remove it.
#[test]
fn nothing_of_a_rotation_stays_beside_the_authority() {
    let authority = Authority::new();
    rotate(&authority, &["prepare"]).done();
    for next_command in [&["issue", "spiffe://example.org/a"][..], &["crl"], &RETIRE] {
        std::fs::create_dir_all(authority.path("next/crl")).unwrap();
        authority.run(next_command).done();
        authority.has_nothing_aside();
    }
}
