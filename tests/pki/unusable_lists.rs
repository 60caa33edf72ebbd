//! `pki verify` with CRLs that are not usable. The command must never print "checked" for a CRL
//! that it could not use.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_core::trust::{PathPurpose, PathTrust};
use countersign_testkit::{AuthoritySpec, Crl, Gateway, Leaf, Settings, TestCa};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::{Run, pki};

fn verify(ca: &TestCa, lists: &[&Path]) -> Run {
    let leaf = ca.write("leaf.pem", ca.client("/a").chain_pem());
    let mut command = pki(&["verify", "--purpose", "client", "--json", "--roots"]);
    command.arg(ca.root_file());
    for list in lists {
        command.arg("--crl").arg(list);
    }
    Run::of(command.arg(leaf))
}

/// Returns current CRLs of both authorities, without entries.
fn good(ca: &TestCa) -> [PathBuf; 2] {
    [
        ca.write("root.crl", Crl::new().signed_by(ca.root())),
        ca.write("issuing.crl", Crl::new().signed_by(ca.intermediate())),
    ]
}

/// Returns CRLs that are not usable, with the expected problem and the expected advice.
fn unusable(ca: &TestCa) -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let signed = |list: Crl| list.number(2).signed_by(ca.intermediate());
    let whole = signed(Crl::new());
    vec![
        (
            signed(Crl::new().delta()),
            "it is a delta list",
            "use the complete list of this issuer",
        ),
        (
            signed(Crl::new().indirect()),
            "it is an indirect list",
            "use the list that the certificates' own issuer signs",
        ),
        (
            signed(Crl::new().for_some_reasons()),
            "it covers some revocation reasons only",
            "that covers all reasons",
        ),
        (
            signed(Crl::new().for_attribute_certificates()),
            "it is about attribute certificates only",
            "about public key certificates",
        ),
        (
            signed(Crl::new().unknown_extension()),
            "a critical extension that is not supported: 2.5.29.99",
            "without this extension",
        ),
        (
            signed(Crl::new().version_1()),
            "it is a list of version 1",
            "crl_extensions",
        ),
        (
            signed(Crl::new().without_extensions()),
            "it has no number (cRLNumber)",
            "with a cRLNumber",
        ),
        (
            signed(Crl::new().without_next_update()),
            "it does not say when it will be replaced",
            "with nextUpdate",
        ),
        (whole.repeat(2), "bytes follow it", "a file of its own"),
        (
            whole[..whole.len() / 2].to_vec(),
            "its end is missing",
            "fetch the list again",
        ),
        (
            ca.client("/a").leaf().to_vec(),
            "it is damaged, or no revocation list",
            "fetch the list again",
        ),
    ]
}

#[test]
fn a_list_that_cannot_be_used_leaves_the_status_unknown() {
    let ca = TestCa::new("example.org");
    let [root, issuing] = good(&ca);
    let run = verify(&ca, &[&root, &issuing]).done();
    assert_eq!(run.json()["revocation"], "checked");
    for (list, what, remedy) in unusable(&ca) {
        let list = ca.write("unusable.crl", list);
        for lists in [
            vec![&*root, &*issuing, &*list],
            vec![&*list, &*root, &*issuing],
            vec![&*root, &*list],
        ] {
            let run = verify(&ca, &lists);
            assert_eq!(run.code, 3, "{what}: {}{}", run.stdout, run.stderr);
            let begins = format!(
                "revocation-unknown: {}: a revocation list cannot be used: ",
                list.display()
            );
            assert!(run.stderr.starts_with(&begins), "{what}: {}", run.stderr);
            assert!(run.stderr.contains(what), "{what}: {}", run.stderr);
            assert!(run.stderr.contains(remedy), "{remedy}: {}", run.stderr);
            let said = run.json();
            assert_eq!(said["valid"], false);
            assert_eq!(said["reason"], "revocation-unknown");
            assert_eq!(said["unusable"].as_array().unwrap().len(), 1, "{said}");
        }
    }
}

#[test]
fn a_better_reason_comes_first() {
    let ca = TestCa::new("example.org");
    let [root, _] = good(&ca);
    let delta = ca.write("delta.crl", Crl::new().delta().signed_by(ca.intermediate()));
    let leaf = ca.client("/a");
    let file = ca.write("revoked.pem", leaf.chain_pem());
    let revoking = Crl::new()
        .revoke(leaf.serial())
        .signed_by(ca.intermediate());
    let revoking = ca.write("revoking.crl", revoking);
    let verify = |more: &[&str]| {
        let mut command = pki(&["verify", "--purpose", "client", "--roots"]);
        command.arg(ca.root_file()).args(more);
        for list in [&root, &revoking, &delta] {
            command.arg("--crl").arg(list);
        }
        Run::of(command.arg(&file))
    };
    let run = verify(&[]).refused(3, "certificate-revoked: ");
    assert!(run.stderr.contains("it is a delta list"), "{}", run.stderr);
    verify(&["--time", "1000000000"]).refused(3, "certificate-not-yet-valid: ");
}

#[test]
fn lists_of_others_decide_nothing() {
    let (ca, other) = (TestCa::new("example.org"), TestCa::new("other.org"));
    let [root, issuing] = good(&ca);
    let serial = ca.client("/a").serial().to_vec();
    // This authority has the name of our intermediate, but another key.
    let namesake = ca
        .root()
        .intermediate(&AuthoritySpec::new("example.org intermediate"));
    for (name, list) in [
        ("stranger.crl", Crl::new().signed_by(other.intermediate())),
        (
            "namesake.crl",
            Crl::new().number(9).revoke(&serial).signed_by(&namesake),
        ),
        (
            "elsewhere.crl",
            Crl::new()
                .distribution_point("http://crl.example.org/other.crl")
                .signed_by(ca.intermediate()),
        ),
    ] {
        let list = ca.write(name, list);
        for lists in [[&*root, &*issuing, &*list], [&*list, &*issuing, &*root]] {
            let run = verify(&ca, &lists).done();
            assert_eq!(run.json()["revocation"], "checked", "{name}");
        }
        let run = verify(&ca, &[&root, &list]);
        assert_eq!(run.code, 3, "{name}: {}{}", run.stdout, run.stderr);
        assert_eq!(run.json()["reason"], "revocation-unknown", "{name}");
    }
    // A CRL with the name of the root but with another key is reported, because the root's key
    // is known.
    let namesake = TestCa::new("example.org");
    let forged = ca.write(
        "forged.crl",
        Crl::new().number(9).signed_by(namesake.root()),
    );
    let run = verify(&ca, &[&root, &issuing, &forged]).done();
    assert!(
        run.stderr
            .contains("is signed by none of the keys known of it"),
        "{}",
        run.stderr
    );
    let run = verify(&ca, &[&forged, &issuing]);
    assert_eq!(run.json()["reason"], "revocation-unknown");
    let stale = ca.write("stale.crl", Crl::new().stale().signed_by(ca.intermediate()));
    let run = verify(&ca, &[&root, &stale]);
    assert_eq!(run.json()["reason"], "revocation-stale");
    let future = Crl::new().valid(3600, 7200).signed_by(ca.intermediate());
    let future = ca.write("future.crl", future);
    let run = verify(&ca, &[&root, &future]);
    assert_eq!(run.json()["reason"], "revocation-unknown");
}

#[tokio::test]
async fn check_says_the_same_of_each_kind() {
    let ca = TestCa::new("example.org");
    let [root, issuing] = good(&ca);
    let third = ca.write(
        "third.crl",
        Crl::new().number(2).signed_by(ca.intermediate()),
    );
    let crls: Vec<String> = [&root, &issuing, &third]
        .iter()
        .map(|path| format!("\"{}\"", path.display()))
        .collect();
    let settings = Settings::new(&ca)
        .trust(
            &ca,
            &format!("crls = [{}]\nrevocation = \"hard\"", crls.join(", ")),
        )
        .everything_to(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
    let binary = env!("CARGO_BIN_EXE_countersign");
    let gateway = Gateway::start(binary, &settings).await;
    let check = || {
        let mut command = Command::new(binary);
        command
            .args(["check", "--config"])
            .arg(gateway.config_file());
        Run::of(command.stdin(Stdio::null()))
    };
    check().done();
    for (list, what, remedy) in unusable(&ca) {
        std::fs::write(&third, list).unwrap();
        let run = check().refused(2, what);
        assert!(run.stderr.contains(remedy), "{remedy}: {}", run.stderr);
        assert!(run.stderr.contains("third.crl"), "{}", run.stderr);
    }
}

#[test]
fn lists_that_lack_something_are_used_if_that_is_asked_for() {
    let ca = TestCa::new("example.org");
    let leaf = ca.client("/a");
    let file = ca.write("leaf.pem", leaf.chain_pem());
    let verify = |list: Crl, more: &[&str]| {
        let root = Crl::new().version_1().without_next_update();
        let root = ca.write("root.crl", root.signed_by(ca.root()));
        let issuing = ca.write("issuing.crl", list.signed_by(ca.intermediate()));
        let mut command = pki(&["verify", "--purpose", "client", "--roots"]);
        command.arg(ca.root_file()).args(more);
        command.arg("--crl").arg(root).arg("--crl").arg(issuing);
        Run::of(command.arg(&file))
    };
    let both = ["--crl-number", "optional", "--crl-max-age", "12h"];
    let list = Crl::new().without_extensions().without_next_update();
    verify(list.clone(), &both).done();
    verify(list.clone().revoke(leaf.serial()), &both).refused(3, "certificate-revoked: ");
    verify(list.clone(), &both[..2]).refused(3, "revocation-unknown: ");
    verify(list.clone(), &both[2..]).refused(3, "revocation-unknown: ");
    let short = ["--crl-number", "optional", "--crl-max-age", "30m"];
    verify(list, &short).refused(3, "revocation-stale: ");
    let malformed = [
        &[0x30, 0x00][..],
        &[0x30, 0x06, 0x81, 1, 0xff, 0x82, 1, 0xff],
    ];
    for content in malformed {
        let list = Crl::new().issuing_distribution_point(content);
        let run = verify(list, &both).refused(3, "revocation-unknown: ");
        assert!(run.stderr.contains("distribution point"), "{}", run.stderr);
    }
}

/// Names of errors of the libraries. Messages must not contain them.
const NAMES: [&str; 10] = [
    "BadDer",
    "BadEncoding",
    "Error",
    "Invalid",
    "Malformed",
    "Nom",
    "Supported",
    "TrailingData",
    "Unknown",
    "Unsupported",
];

fn assert_words(said: &str) {
    for name in NAMES {
        assert!(!said.contains(name), "{name}: {said}");
    }
}

/// Changes each byte of a list and of certificates in several ways. No message may contain the name
/// of a library error.
#[test]
fn what_is_wrong_is_said_in_words() {
    let ca = TestCa::new("example.org");
    let list = Crl::new().revoke(&[0x77, 1]).signed_by(ca.intermediate());
    let leaf = ca.issue(Leaf::with_uri("spiffe://example.org/a"));
    let roots = [ca.root().der().clone()];
    let changes = |der: &[u8]| -> Vec<Vec<u8>> {
        let change = |at: usize, mask: u8| {
            let mut changed = der.to_vec();
            changed[at] ^= mask;
            changed
        };
        (0..der.len())
            .flat_map(|at| [0x01, 0x10, 0x80, 0xff].map(|mask| change(at, mask)))
            .collect()
    };
    let (mut bad_lists, mut bad_leaves) = (0, 0);
    for der in changes(&list) {
        let lists = [CertificateRevocationListDer::from(der)];
        let trust = PathTrust::new(&roots, Vec::new(), Some(&lists), PathPurpose::Client);
        for (_, why) in trust.unusable_crls() {
            bad_lists += 1;
            assert_words(&format!("{why}; {}", why.remedy()));
        }
    }
    let issuers = vec![ca.intermediate().der().clone()];
    let trust = PathTrust::new(&roots, issuers, None, PathPurpose::Client);
    for der in changes(leaf.leaf()) {
        if let Err((_, why)) = trust.verify(&CertificateDer::from(der), UnixTime::now()) {
            bad_leaves += 1;
            assert_words(&why);
        }
    }
    for der in changes(ca.root().der()) {
        let roots = [CertificateDer::from(der)];
        let trust = PathTrust::new(&roots, Vec::new(), None, PathPurpose::Client);
        for (_, why) in trust.unusable_roots() {
            assert_words(why);
        }
    }
    assert!(
        bad_lists > 100 && bad_leaves > 500,
        "{bad_lists} {bad_leaves}"
    );
}
