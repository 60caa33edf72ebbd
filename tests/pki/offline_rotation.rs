//! Rotations of authorities whose root key is elsewhere, and rotations that replace only the
//! intermediate.

use time::{Duration, OffsetDateTime};

use super::offline_root::{Offline, serial_of};
use super::reading::{can_mount_read_only, with_read_only_mount};
use super::{certificates, revocation_list};
use crate::support::{BINARY, Run};

#[test]
fn the_next_intermediate_comes_from_the_same_root() {
    let offline = Offline::authority();
    offline.issue("old").done();
    let root = certificates(&offline.path("certs/root.pem"));
    let earlier = offline.path("certs/earlier/intermediate.pem");
    offline
        .run(&["rotate", "prepare"], &["--intermediate-only"])
        .refused(1, "--intermediate-csr");
    let file = offline.word("next.csr");
    offline
        .run(&["rotate", "prepare"], &["--intermediate-csr", &file])
        .done();
    // The current intermediate signs leaves until the certificate of the next one is given.
    offline.issue("between").done();
    let same = offline.sign("first.csr", "same.pem", |_| {});
    offline
        .run(&["rotate", "prepare"], &["--intermediate-cert", &same])
        .refused(1, "not for the key");
    let next = offline.sign("next.csr", "next.pem", |_| {});
    let prepared = offline
        .run(
            &["rotate", "prepare"],
            &["--intermediate-cert", &next, "--json"],
        )
        .done();
    assert!(!prepared.stderr.contains("could not be removed"));
    let prepared = prepared.json();
    assert_eq!(
        (&prepared["generation"], &prepared["dependents"]),
        (&2.into(), &2.into())
    );
    assert_eq!(certificates(&offline.path("certs/trust.pem")), root);
    assert_eq!(certificates(&offline.path("certs/earlier/root.pem")), root);
    assert!(!offline.path("certs/pending").exists());
    let list = offline.path("certs/crl/root.crl");
    assert_eq!(revocation_list(&list), (5, Vec::new()));
    offline.issue("new").done();
    for name in ["old", "between", "new"] {
        offline.verify(name).done();
    }
    // The root revokes the earlier intermediate. The root has one list, which must stay after the
    // earlier generation is retired.
    offline
        .run(&["revoke"], &["--cert", earlier.to_str().unwrap()])
        .refused(1, "--root-crl");
    let revoked = serial_of(&earlier);
    for (number, words) in [(4, "goes back"), (6, "")] {
        let list = offline.list("next.crl", number, std::slice::from_ref(&revoked), 30);
        let run = offline.run(&["crl"], &["--root-crl", &list]);
        match words {
            "" => run.done(),
            words => run.refused(1, words),
        };
    }
    offline.verify("old").ended(3, "revoked");
    offline.verify("new").done();
    offline.issue("newer").done();
    let lost = offline.list("lost.crl", 7, &[], 30);
    offline
        .run(&["crl"], &["--root-crl", &lost])
        .refused(1, "does not revoke");
    offline.run(&["rotate", "retire"], &["--force"]).done();
    assert_eq!(certificates(&offline.path("certs/trust.pem")), root);
    assert_eq!(revocation_list(&list).0, 6);
    offline.verify("newer").done();
    // If a list revokes the current intermediate, no leaf can be issued any more.
    let present = serial_of(&offline.path("certs/intermediate.pem"));
    let end = offline.list("end.crl", 8, &[revoked, present], 30);
    offline.run(&["crl"], &["--root-crl", &end]).done();
    offline.issue("late").refused(1, "is revoked");
}

#[test]
fn a_root_of_another_program_replaces_the_present_one() {
    let offline = Offline::authority();
    offline.issue("old").done();
    let next = Offline::with("Next root", |_| {});
    let [certificate, key] = [next.word("root.pem"), next.word("root.key")];
    let prepare = |arguments: &[&str]| offline.run(&["rotate", "prepare"], arguments);
    prepare(&["--ca-cert", &certificate]).refused(2, "--ca-key");
    let own = offline.word("root.key");
    prepare(&["--ca-cert", &certificate, "--ca-key", &own]).refused(1, "another certificate");
    // A second root with the same name is refused, because gateways could not distinguish the lists
    // of both roots.
    let twin = Offline::new();
    let words = [twin.word("root.pem"), twin.word("root.key")];
    prepare(&["--ca-cert", &words[0], "--ca-key", &words[1]]).refused(1, "the name of the present");
    assert!(!offline.path("certs/earlier").exists());
    prepare(&["--ca-cert", &certificate, "--ca-key", &key]).done();
    assert_eq!(certificates(&offline.path("certs/trust.pem")).len(), 2);
    offline.issue("new").done();
    for name in ["old", "new"] {
        offline.verify(name).done();
    }
    offline.run(&["rotate", "retire"], &["--force"]).done();
    offline.verify("old").ended(3, "");
    offline.verify("new").done();
    offline.run(&["crl"], &["--issuer", "all"]).done();
    // The next rotation returns to a root whose key is elsewhere. It must move the key of the
    // current root to `earlier/`.
    let file = offline.word("back.csr");
    prepare(&["--intermediate-csr", &file]).done();
    let back = offline.sign("back.csr", "back.pem", |_| {});
    let root = offline.word("root.pem");
    let list = offline.list("back.crl", 9, &[], 30);
    prepare(&[
        "--intermediate-cert",
        &back,
        "--ca-cert",
        &root,
        "--ca-crl",
        &list,
    ])
    .done();
    assert!(!offline.path("certs/root.key").exists());
    assert!(offline.path("certs/earlier/root.key").exists());
    offline.issue("back").done();
    offline.verify("back").done();
    offline.verify("new").done();
}

#[test]
fn only_the_intermediate_is_replaced_with_the_root_here() {
    let offline = Offline::new();
    offline.import(&[]).done();
    offline.issue("old").done();
    let root = certificates(&offline.path("certs/root.pem"));
    let list = offline.path("certs/crl/root.crl");
    let prepare = |arguments: &[&str]| offline.run(&["rotate", "prepare"], arguments);
    // If the root's key is offline, the operator can give the key for one command. The key must not
    // be stored.
    std::fs::rename(offline.path("certs/root.key"), offline.path("away.key")).unwrap();
    let away = offline.word("away.key");
    prepare(&["--intermediate-only", "--ca-key", &away]).done();
    assert!(!offline.path("certs/root.key").exists());
    std::fs::rename(offline.path("away.key"), offline.path("certs/root.key")).unwrap();
    assert_eq!(certificates(&offline.path("certs/trust.pem")), root);
    offline.issue("new").done();
    for name in ["old", "new"] {
        offline.verify(name).done();
    }
    // The earlier intermediate is revoked in the only list of the root, and must stay revoked.
    let earlier = offline.path("certs/earlier/intermediate.pem");
    offline
        .run(&["revoke"], &["--cert", earlier.to_str().unwrap()])
        .done();
    assert_eq!(revocation_list(&list).1.len(), 1);
    offline.verify("old").ended(3, "revoked");
    offline.verify("new").done();
    offline.run(&["rotate", "retire"], &["--force"]).done();
    offline.run(&["crl"], &["--issuer", "all"]).done();
    assert_eq!(revocation_list(&list).1.len(), 1);
    prepare(&["--intermediate-only"]).done();
    offline.run(&["crl"], &["--issuer", "all"]).done();
    let (number, revoked) = revocation_list(&list);
    assert_eq!((number, revoked.len()), (4, 1));
    let content = std::fs::read_to_string(&list).unwrap();
    assert_eq!(content.matches("BEGIN X509 CRL").count(), 1);
    // An earlier intermediate can also be revoked by its serial number.
    let serial = serial_of(&earlier);
    let hex: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    offline.run(&["revoke"], &["--serial", &hex]).done();
    assert_eq!(revocation_list(&list).1.len(), 2);
    offline.verify("new").ended(3, "revoked");
    offline.issue("newest").done();
    offline.verify("newest").done();
}

/// A root that was renewed with its key is the same authority, with one revocation list.
#[test]
fn a_renewed_root_goes_on_with_its_list() {
    let offline = Offline::new();
    offline.import(&[]).done();
    offline.issue("old").done();
    let mut params = offline.root.clone();
    params.not_after = OffsetDateTime::now_utc() + Duration::days(1800);
    let renewed = params.self_signed(&offline.key).unwrap();
    std::fs::write(offline.path("root-2.pem"), renewed.pem()).unwrap();
    let [certificate, key] = [offline.word("root-2.pem"), offline.word("root.key")];
    offline
        .run(
            &["rotate", "prepare"],
            &["--ca-cert", &certificate, "--ca-key", &key],
        )
        .done();
    assert_eq!(certificates(&offline.path("certs/trust.pem")).len(), 2);
    offline.issue("new").done();
    offline.run(&["crl"], &["--issuer", "all"]).done();
    let lists = std::fs::read_to_string(offline.path("certs/crl/root.crl")).unwrap();
    assert_eq!(lists.matches("BEGIN X509 CRL").count(), 1);
    for name in ["old", "new"] {
        offline.verify(name).done();
    }
    offline.run(&["rotate", "retire"], &["--force"]).done();
    assert_eq!(
        certificates(&offline.path("certs/trust.pem")),
        certificates(&offline.path("root-2.pem"))
    );
    offline.verify("new").done();
    offline.run(&["crl"], &["--issuer", "all"]).done();
}

/// The change is complete before the copy of the key is removed, so the command must succeed.
#[test]
fn a_copy_of_the_key_that_cannot_be_removed_is_named() {
    let offline = Offline::new();
    offline.request();
    let pending = offline.path("certs/pending");
    if !can_mount_read_only(&pending) {
        return;
    }
    let run = |words: &[&str], file: &str| {
        let mut command = with_read_only_mount(&pending, BINARY);
        let run = Run::of(
            command
                .arg("pki")
                .args(words)
                .arg("--dir")
                .arg(offline.path("certs"))
                .args(["--intermediate-cert", file]),
        )
        .done();
        let key = pending.join("intermediate.key");
        assert!(key.exists());
        for words in [
            format!("note: {} could not be removed", key.display()),
            format!("rm -r {}\n", pending.display()),
        ] {
            assert!(run.stderr.contains(&words), "{}", run.stderr);
        }
        std::fs::remove_dir_all(&pending).unwrap();
    };
    let root = offline.word("root.pem");
    let first = offline.sign("first.csr", "first.pem", |_| {});
    let list = offline.list("root.crl", 5, &[], 30);
    let init = ["init", "--trust-domain", "example.org", "--ca-cert", &root];
    run(&[&init[..], &["--ca-crl", &list]].concat(), &first);
    offline.issue("old").done();
    let file = offline.word("next.csr");
    offline
        .run(&["rotate", "prepare"], &["--intermediate-csr", &file])
        .done();
    let next = offline.sign("next.csr", "next.pem", |_| {});
    run(&["rotate", "prepare"], &next);
    offline.issue("new").done();
    for name in ["old", "new"] {
        offline.verify(name).done();
    }
}
