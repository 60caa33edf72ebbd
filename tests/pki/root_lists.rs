//! Revocation lists that a root has signed elsewhere: their numbers never go back, and their
//! revocations are never lost, whichever command gets the list.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{CertificateParams, DnType};

use super::offline_root::{Offline, serial_of};
use super::{certificates, revocation_list};
use crate::support::Run;

const FOREIGN: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
const FOREIGN_HEX: &str = "11223344";

impl Offline {
    fn publish(&self, list: &str) -> Run {
        self.run(&["crl"], &["--root-crl", list])
    }

    fn published(&self) -> (u64, Vec<String>) {
        revocation_list(&self.path("certs/crl/root.crl"))
    }

    fn prepare(&self, arguments: &[&str]) -> Run {
        self.run(&["rotate", "prepare"], arguments)
    }

    fn retire(&self, arguments: &[&str]) -> Run {
        self.run(&["rotate", "retire"], arguments)
    }

    /// Returns the certificate of the next intermediate, which was requested and signed.
    fn next(&self) -> String {
        let file = self.word("next.csr");
        self.prepare(&["--intermediate-csr", &file]).done();
        self.sign("next.csr", "next.pem", |_| {})
    }

    fn revoke_in_inventory(&self, name: &str) {
        let file = self.word(&format!("certs/issued/{name}.pem"));
        self.run(&["revoke"], &["--cert", &file]).done();
    }
}

fn hex(serial: &[u8]) -> String {
    let significant = serial.iter().skip_while(|byte| **byte == 0);
    significant.map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_rotation_does_not_roll_the_list_of_the_root_back() {
    let offline = Offline::authority();
    let old = offline.word("root.crl");
    let revoked = [FOREIGN.to_vec()];
    let list = offline.list("six.crl", 6, &revoked, 30);
    offline.publish(&list).done();
    let next = offline.next();
    let lost = offline.list("lost.crl", 7, &[], 30);
    let other = offline.list("other.crl", 6, &revoked, 60);
    for (list, words) in [
        (&old, "goes back"),
        (&lost, FOREIGN_HEX),
        (&other, "another content"),
    ] {
        offline
            .prepare(&["--intermediate-cert", &next, "--ca-crl", list])
            .refused(1, words);
        assert!(!offline.path("certs/earlier").exists(), "{words}");
        assert_eq!(offline.published(), (6, vec![FOREIGN_HEX.to_owned()]));
    }
    offline.publish(&other).refused(1, "another content");
    // The same list again does no harm.
    offline.publish(&list).done();
    offline
        .prepare(&["--intermediate-cert", &next, "--ca-crl", &list])
        .done();
    assert_eq!(offline.published(), (6, vec![FOREIGN_HEX.to_owned()]));
    offline.publish(&old).refused(1, "goes back");
}

/// Gateways compare thisUpdate too, and refuse all callers until a list is valid.
#[test]
fn a_list_is_refused_if_the_clock_of_the_root_was_wrong() {
    let offline = Offline::authority();
    let six = offline.list_from("six.crl", 6, &[], [-1, 24]);
    offline.publish(&six).done();
    let slow = offline.list_from("slow.crl", 7, &[FOREIGN.to_vec()], [-2, 24]);
    let fast = offline.list_from("fast.crl", 8, &[FOREIGN.to_vec()], [1, 24]);
    let next = offline.next();
    for (list, words) in [
        (&slow, "its thisUpdate is"),
        (&fast, "it is valid only from"),
    ] {
        offline.publish(list).refused(1, words);
        offline
            .prepare(&["--intermediate-cert", &next, "--ca-crl", list])
            .refused(1, words);
        assert_eq!(offline.published(), (6, Vec::new()), "{words}");
    }
}

#[test]
fn a_revocation_in_the_list_of_a_rotation_is_recorded() {
    let offline = Offline::authority();
    let next = offline.next();
    let earlier = serial_of(&offline.path("certs/intermediate.pem"));
    let list = offline.list("six.crl", 6, std::slice::from_ref(&earlier), 30);
    offline
        .prepare(&["--intermediate-cert", &next, "--ca-crl", &list])
        .done();
    let lost = offline.list("lost.crl", 7, &[], 30);
    offline.publish(&lost).refused(1, &hex(&earlier));
    // Not even an operator can forget the revocation of an intermediate that is here.
    let forced = ["--root-crl", &lost, "--force"];
    offline.run(&["crl"], &forced).refused(1, &hex(&earlier));
    offline.retire(&[]).done();
    assert_eq!(offline.published(), (6, vec![hex(&earlier)]));
}

#[test]
fn a_list_for_a_new_authority_is_recorded() {
    let offline = Offline::new();
    offline.request();
    let intermediate = offline.sign("first.csr", "first.pem", |_| {});
    let list = offline.list("root.crl", 5, &[FOREIGN.to_vec()], 30);
    offline.complete(&[&intermediate, "--ca-crl", &list]).done();
    let lost = offline.list("lost.crl", 6, &[], 30);
    offline.publish(&lost).refused(1, FOREIGN_HEX);
    // Many authorities remove expired certificates from their lists.
    offline
        .run(&["crl"], &["--root-crl", &lost, "--force"])
        .done();
    assert_eq!(offline.published(), (6, Vec::new()));
    let later = offline.list("later.crl", 7, &[], 30);
    offline.publish(&later).done();
}

#[test]
fn an_intermediate_is_retired_when_its_root_has_revoked_it() {
    let offline = Offline::authority();
    for name in ["bad", "unused"] {
        offline.issue(name).done();
    }
    offline.revoke_in_inventory("bad");
    let next = offline.next();
    offline.prepare(&["--intermediate-cert", &next]).done();
    offline.issue("new").done();
    offline.revoke_in_inventory("unused");
    offline.retire(&[]).refused(1, "--root-crl FILE");
    assert!(offline.path("certs/earlier").exists());
    // With --force, the list of the retired intermediate stays, also when its successor signs.
    let retired = offline.retire(&["--force", "--json"]).done().json();
    assert_eq!(retired["keeps_list"], true);
    offline.verify("bad").ended(3, "certificate-revoked");
    offline.run(&["crl"], &[]).done();
    for name in ["bad", "unused"] {
        offline.verify(name).ended(3, "certificate-revoked");
    }
    offline.verify("new").done();
}

#[test]
fn a_root_that_is_here_revokes_the_intermediate_before_it_is_retired() {
    let offline = Offline::new();
    offline.import(&[]).done();
    offline.issue("bad").done();
    offline.revoke_in_inventory("bad");
    offline.prepare(&["--intermediate-only"]).done();
    offline.issue("new").done();
    let said = offline.retire(&[]);
    let earlier = offline.word("certs/earlier/intermediate.pem");
    let command = format!("countersign pki revoke --dir {}", offline.word("certs"));
    assert!(said.stderr.contains(&command), "{}", said.stderr);
    said.refused(1, &format!("--cert {earlier}"));
    offline.run(&["revoke"], &["--cert", &earlier]).done();
    let retired = offline.retire(&["--json"]).done().json();
    assert_eq!(retired["keeps_list"], false);
    offline.run(&["crl"], &["--issuer", "all"]).done();
    let retired = serial_of(&offline.path("certs/retired/1/intermediate.pem"));
    assert_eq!(offline.published().1, [hex(&retired)]);
    offline.verify("bad").ended(3, "");
    offline.verify("new").done();
    let list = std::fs::read_to_string(offline.path("certs/crl/intermediate.crl")).unwrap();
    assert_eq!(list.matches("BEGIN X509 CRL").count(), 1);
}

/// No list of a retired intermediate is signed any more. A command that only seems to revoke one of
/// its certificates would be worse than none.
#[test]
fn a_certificate_of_a_retired_intermediate_is_revoked_with_the_intermediate() {
    let offline = Offline::new();
    offline.import(&[]).done();
    offline.issue("old").done();
    offline.prepare(&["--intermediate-only"]).done();
    offline.retire(&["--force"]).done();
    offline.verify("old").done();
    let retired = offline.path("certs/retired/1/intermediate.pem");
    let advice = format!("--cert {} --dir", retired.display());
    let serial = hex(&serial_of(&offline.path("certs/issued/old.pem")));
    for more in [&[][..], &["--unrecorded"]] {
        let arguments = [&["--serial", &serial], more].concat();
        offline.run(&["revoke"], &arguments).refused(1, &advice);
    }
    let serial = hex(&serial_of(&retired));
    offline.run(&["revoke"], &["--serial", &serial]).done();
    offline.verify("old").ended(3, "certificate-revoked");
    // Not even an operator can forget this revocation.
    let lost = offline.list_from("lost.crl", 90, &[], [0, 24]);
    let forced = ["--root-crl", &lost, "--force"];
    offline.run(&["crl"], &forced).refused(1, &serial);
}

#[test]
fn the_key_of_a_root_that_stays_can_be_brought_into_the_directory() {
    let offline = Offline::authority();
    let key = offline.path("certs/root.key");
    assert!(!key.exists());
    let (certificate, given) = (offline.word("root.pem"), offline.word("root.key"));
    let list = offline.word("root.crl");
    let arguments = [
        "--ca-cert",
        &certificate,
        "--ca-key",
        &given,
        "--ca-crl",
        &list,
    ];
    offline.prepare(&arguments).done();
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    offline.run(&["crl"], &["--issuer", "root"]).done();
}

#[test]
fn revocations_from_elsewhere_stay_on_lists_that_are_signed_here() {
    let offline = Offline::new();
    offline.import(&[]).done();
    let list = offline.list_from("nine.crl", 9, &[FOREIGN.to_vec()], [0, 24]);
    offline.publish(&list).done();
    offline.run(&["crl"], &["--issuer", "root"]).done();
    assert_eq!(offline.published(), (10, vec![FOREIGN_HEX.to_owned()]));
    let time_of = |path: &Path| {
        let content = std::fs::read(path).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(&content).unwrap();
        let (_, list) = x509_parser::parse_x509_crl(&block.contents).unwrap();
        let entry = list.iter_revoked_certificates().next().unwrap();
        entry.revocation_date.timestamp()
    };
    let here = time_of(&offline.path("certs/crl/root.crl"));
    assert_eq!(here, time_of(Path::new(&list)));
    let lost = offline.list_from("lost.crl", 11, &[], [0, 24]);
    offline.publish(&lost).refused(1, FOREIGN_HEX);
}

#[test]
fn an_imported_root_continues_its_lists() {
    let offline = Offline::new();
    // A list that is out of date is good enough: its successor is signed here.
    let list = offline.list("last.crl", 41, &[FOREIGN.to_vec()], 0);
    let made = offline.import(&["--ca-crl", &list]).done();
    assert!(!made.stderr.contains("--ca-crl"), "{}", made.stderr);
    assert_eq!(offline.published(), (42, vec![FOREIGN_HEX.to_owned()]));
    offline.run(&["crl"], &["--issuer", "root"]).done();
    assert_eq!(offline.published(), (43, vec![FOREIGN_HEX.to_owned()]));
    // The same for the root of a rotation.
    let next = Offline::with("Next root", |_| {});
    let list = next.list("last.crl", 7, &[FOREIGN.to_vec()], 30);
    let [certificate, key] = [next.word("root.pem"), next.word("root.key")];
    let arguments = ["--ca-cert", &certificate, "--ca-key", &key];
    offline
        .prepare(&[&arguments[..], &["--ca-crl", &list]].concat())
        .done();
    assert_eq!(offline.published(), (8, vec![FOREIGN_HEX.to_owned()]));
    // Without its last list, a root may begin again with number 1.
    let unknown = Offline::new();
    let made = unknown.import(&[]).done();
    assert!(made.stderr.contains("--ca-crl"), "{}", made.stderr);
    let made = unknown.prepare(&arguments).done();
    assert!(made.stderr.contains("--ca-crl"), "{}", made.stderr);
}

#[test]
fn the_list_of_a_retired_root_does_not_stand_for_a_missing_one() {
    let offline = Offline::authority();
    let next = Offline::with("Next root", |_| {});
    let file = offline.word("next.csr");
    offline.prepare(&["--intermediate-csr", &file]).done();
    std::fs::copy(&file, next.path("next.csr")).unwrap();
    let intermediate = next.sign("next.csr", "next.pem", |_| {});
    let root = next.word("root.pem");
    let prepared = offline
        .prepare(&["--intermediate-cert", &intermediate, "--ca-cert", &root])
        .done();
    assert!(
        prepared.stderr.contains("--root-crl"),
        "{}",
        prepared.stderr
    );
    let retired = offline.retire(&[]).done();
    assert!(retired.stderr.contains("--root-crl"), "{}", retired.stderr);
    assert!(!offline.path("certs/crl/root.crl").exists());
    assert!(offline.path("certs/retired/1/root.crl").exists());
    let list = next.list("next.crl", 1, &[], 30);
    offline.publish(&list).done();
    offline.issue("new").done();
    offline.verify("new").done();
}

#[test]
fn a_root_that_issues_is_not_replaced_by_one_with_its_key() {
    let offline = Offline::new();
    offline.import(&["--root-only"]).done();
    let renamed = |name: &str, alter: fn(&mut CertificateParams)| {
        let mut params = offline.root.clone();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        alter(&mut params);
        let certificate = params.self_signed(&offline.key).unwrap();
        std::fs::write(offline.path("renamed.pem"), certificate.pem()).unwrap();
        offline.word("renamed.pem")
    };
    let key = offline.word("root.key");
    let certificate = renamed("Another name", |_| {});
    offline
        .prepare(&["--ca-cert", &certificate, "--ca-key", &key])
        .refused(1, "the key or the key identifier of the present one");
    // Another key with the same key identifier.
    let twin =
        Offline::with("Another root", |params| {
            let der = certificates(&offline.path("root.pem")).swap_remove(0);
            let (_, present) = x509_parser::parse_x509_certificate(&der).unwrap();
            let identifier = present.extensions().iter().find_map(|extension| {
                match extension.parsed_extension() {
                    x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => {
                        Some(id.0.to_vec())
                    }
                    _ => None,
                }
            });
            params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(identifier.unwrap());
        });
    let [certificate, key] = [twin.word("root.pem"), twin.word("root.key")];
    offline
        .prepare(&["--ca-cert", &certificate, "--ca-key", &key])
        .refused(1, "key identifier of the present one");
    assert!(!offline.path("certs/earlier").exists());
}

#[test]
fn an_intermediate_is_not_named_like_its_root() {
    let offline = Offline::new();
    offline.request();
    let name = offline.root.distinguished_name.clone();
    let same = offline.sign("first.csr", "same.pem", |params| {
        params.distinguished_name = name;
    });
    offline.refuses(&[&same], "the name, the key or the key identifier");
    // Without a path length, its key could make further authorities.
    let free = offline.sign("first.csr", "free.pem", |_| {});
    let made = offline.complete(&[&free]).done();
    assert!(made.stderr.contains("pathLen"), "{}", made.stderr);
    let file = offline.word("next.csr");
    offline.prepare(&["--intermediate-csr", &file]).done();
    let bound = offline.sign("next.csr", "bound.pem", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    });
    let made = offline.prepare(&["--intermediate-cert", &bound]).done();
    assert!(!made.stderr.contains("pathLen"), "{}", made.stderr);
}

#[test]
fn the_command_after_a_request_has_the_passphrase_option() {
    let offline = Offline::new();
    let [file, phrase] = [offline.word("first.csr"), offline.word("my phrase")];
    std::fs::write(&phrase, "correct horse\n").unwrap();
    let option = format!("--passphrase-file '{phrase}'");
    let given = ["--passphrase-file", &phrase];
    let said = offline
        .init(&[&["--intermediate-csr", &file][..], &given].concat())
        .done();
    assert!(said.stdout.contains(&option), "{}", said.stdout);
    let intermediate = offline.sign("first.csr", "first.pem", |_| {});
    offline
        .complete(&[&[&*intermediate][..], &given].concat())
        .done();
    let file = offline.word("next.csr");
    let said = offline
        .prepare(&[&["--intermediate-csr", &file][..], &given].concat())
        .done();
    assert!(said.stdout.contains(&option), "{}", said.stdout);
}
