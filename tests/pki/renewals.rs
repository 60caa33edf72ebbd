//! Renewals with and without requests, and timers for them. Serial numbers that the inventory has
//! lost. CRL numbers that an operator chooses.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

use super::{Authority, certificates, revocation_list};
use crate::support::Run;

const ID: &str = "spiffe://example.org/ns/shop/sa/checkout";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn serial(run: &Run) -> String {
    run.json()["serial"].as_str().unwrap().to_owned()
}

/// Creates a request for these URIs with a new key. Returns its path.
fn request(authority: &Authority, name: &str, uris: &[&str]) -> PathBuf {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    let key = KeyPair::generate().unwrap();
    let path = authority.home.path().join(name);
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    std::fs::write(&path, request).unwrap();
    path
}

fn spki(path: &Path) -> Vec<u8> {
    let leaf = certificates(path).swap_remove(0);
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    leaf.public_key().raw.to_vec()
}

#[test]
fn rotation_knows_what_was_renewed_and_as_what() {
    let authority = Authority::new();
    for name in ["a", "b", "c"] {
        let id = format!("spiffe://example.org/{name}");
        authority.run(&["issue", &id]).done();
    }
    // A certificate with the same names but another path belongs to another instance. Each of the
    // two must be renewed separately.
    let elsewhere = authority.home.path().join("b2");
    let copy = ["issue", "spiffe://example.org/b", "--out", text(&elsewhere)];
    authority.run(&copy).done();
    authority.run(&["rotate", "prepare"]).done();
    let renew = |name: &str| {
        let file = authority.path(&format!("issued/{name}.pem"));
        serial(&authority.run(&["renew", text(&file), "--json"]).done())
    };
    let status = || authority.run(&["rotate", "status", "--json"]);
    assert_eq!(status().json()["renewed"], 0);
    let renewed = [renew("a"), renew("b")];
    let said = status().json();
    assert_eq!(
        (&said["dependents"], &said["renewed"]),
        (&4.into(), &2.into())
    );
    let as_what: Vec<_> = said["certificates"].as_array().unwrap().iter().collect();
    for (entry, serial) in as_what.iter().zip(&renewed) {
        assert_eq!(entry["renewed_as"], serial.as_str(), "{said}");
    }
    assert!(as_what[2]["renewed_as"].is_null() && as_what[3]["renewed_as"].is_null());
    let shown = authority.run(&["rotate", "status"]);
    assert_eq!(shown.code, 3);
    for serial in &renewed {
        assert!(
            shown.stdout.contains(&format!("renewed as {serial}")),
            "{shown:?}"
        );
    }
    // Two certificates are not renewed yet, so the generation cannot be retired.
    let said = authority
        .run(&["rotate", "retire"])
        .refused(1, "4 live certificates");
    assert!(said.stderr.contains("2 of them renewed"), "{}", said.stderr);
    renew("c");
    let b2 = elsewhere.with_extension("pem");
    authority.run(&["renew", text(&b2)]).done();
    assert_eq!(status().json()["renewed"], 4);
    // A certificate whose renewal is revoked does not count as renewed.
    authority.run(&["revoke", "--cert", text(&b2)]).done();
    authority
        .run(&["rotate", "retire"])
        .refused(1, "3 of them renewed");
    let old = said_serial(&status(), 3);
    authority.run(&["revoke", "--serial", &old]).done();
    let retired = authority.run(&["rotate", "retire", "--json"]).done().json();
    assert_eq!(retired["abandoned"], 3);
}

fn said_serial(status: &Run, index: usize) -> String {
    let said = status.json();
    said["certificates"][index]["serial"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_certificate_of_a_request_is_renewed_with_a_new_request() {
    let authority = Authority::new();
    let first = request(&authority, "checkout.csr", &[ID]);
    authority
        .run(&[
            "sign",
            text(&first),
            "--profile",
            "client",
            "--lifetime",
            "7d",
        ])
        .done();
    let leaf = authority.path("issued/checkout.pem");
    let before = authority.read("issued/checkout.pem");
    let renew = ["renew", text(&leaf)];
    let said = authority
        .run(&renew)
        .refused(2, "was signed from a request");
    for words in [
        "openssl req",
        "subjectAltName=URI:spiffe://example.org/ns",
        "--csr NEW.csr",
    ] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    authority
        .run(&["renew", text(&leaf), "--keep-key"])
        .refused(2, "was signed from a request");
    assert_eq!(authority.read("issued/checkout.pem"), before);
    assert!(!authority.path("issued/checkout.key").exists());
    let other = request(&authority, "other.csr", &["spiffe://example.org/other"]);
    authority
        .run(&["renew", text(&leaf), "--csr", text(&other)])
        .refused(2, "a renewal has the same names");
    let second = request(&authority, "second.csr", &[ID]);
    let old_key = spki(&leaf);
    let renewed = authority
        .run(&["renew", text(&leaf), "--csr", text(&second), "--json"])
        .done()
        .json();
    assert_eq!(renewed["renewed"], true);
    // The request was signed under `client`, but a certificate with a SPIFFE ID must have both
    // usages.
    assert_eq!(renewed["profile"], "peer");
    assert!(renewed["key"].is_null());
    assert_ne!(spki(&leaf), old_key);
    assert!(!authority.path("issued/checkout.key").exists());
    // The next renewal needs another request.
    authority
        .run(&renew)
        .refused(2, "was signed from a request");
    // The key of this certificate is in its key file. A request for another key must be refused.
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    let own = authority.path("issued/a.pem");
    let csr = request(&authority, "a.csr", &["spiffe://example.org/a"]);
    authority
        .run(&["renew", text(&own), "--csr", text(&csr)])
        .refused(2, "renewed without --csr");
    // The holder can put the private key next to a certificate that was signed from a request. The
    // renewal then needs no request.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org/b".try_into().unwrap())];
    let csr = authority.home.path().join("b.csr");
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    std::fs::write(&csr, request).unwrap();
    authority.run(&["sign", text(&csr)]).done();
    std::fs::write(authority.path("issued/b.key"), key.serialize_pem()).unwrap();
    let own = authority.path("issued/b.pem");
    authority.run(&["renew", text(&own)]).done();
}

#[test]
fn all_that_are_due_are_renewed() {
    let authority = Authority::new();
    let issue = |name: &str, lifetime: &str| {
        let id = format!("spiffe://example.org/{name}");
        serial(
            &authority
                .run(&["issue", &id, "--lifetime", lifetime, "--json"])
                .done(),
        )
    };
    let old = [issue("a", "1h"), issue("b", "1h")];
    let long = issue("long", "30d");
    let csr = request(&authority, "checkout.csr", &[ID]);
    authority
        .run(&["sign", text(&csr), "--lifetime", "1h"])
        .done();
    issue("gone", "1h");
    std::fs::remove_file(authority.path("issued/gone.pem")).unwrap();
    issue("revoked", "1h");
    let revoked = authority.path("issued/revoked.pem");
    authority.run(&["revoke", "--cert", text(&revoked)]).done();
    let all = ["renew", "--all", "--if-expiring", "2h", "--json"];
    let run = authority.run(&all);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("needs a new request"), "{run:?}");
    let said = run.json();
    let renewed = said["renewed"].as_array().unwrap();
    let replaced: Vec<_> = renewed
        .iter()
        .map(|one| one["replaces"].as_str().unwrap())
        .collect();
    assert_eq!(replaced, old);
    assert_eq!(said["not_due"], 1);
    assert_eq!(said["needs_request"][0]["names"][0], ID);
    assert_eq!(said["elsewhere"], 1, "{said}");
    assert_eq!(said["failed"], serde_json::json!([]));
    for name in ["a", "b"] {
        assert!(authority.path(&format!("issued/{name}.key")).exists());
    }
    // A second run renews only the newest certificates, and not those that were already renewed.
    let again = authority.run(&all).json();
    assert_eq!(again["renewed"].as_array().unwrap().len(), 2);
    // Without `--if-expiring`, all certificates are renewed that need no request.
    let run = authority.run(&["renew", "--all", "--json"]);
    let everything = run.json();
    let replaced: Vec<_> = everything["renewed"].as_array().unwrap().iter().collect();
    assert_eq!(replaced.len(), 3, "{everything}");
    assert!(replaced.iter().any(|one| one["replaces"] == long.as_str()));
    // A damaged file does not prevent the renewal of other certificates.
    std::fs::write(authority.path("issued/a.pem"), "rubbish").unwrap();
    let run = authority.run(&["renew", "--all", "--json"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json()["renewed"].as_array().unwrap().len(), 2);
    assert!(run.stderr.contains("a.pem"), "{run:?}");
    for arguments in [
        &["renew"][..],
        &["renew", "a.pem", "--all"],
        &["renew", "--all", "--out", "x"],
    ] {
        assert_eq!(authority.run(arguments).code, 2);
    }
}

#[test]
fn a_hook_is_called_for_each_renewed_certificate() {
    let authority = Authority::new();
    for name in ["a", "b"] {
        let id = format!("spiffe://example.org/{name}");
        authority.run(&["issue", &id]).done();
    }
    let log = authority.home.path().join("log");
    let hook = format!("echo $COUNTERSIGN_CERTIFICATE >> {}", log.display());
    authority.run(&["renew", "--all", "--exec", &hook]).done();
    let called = std::fs::read_to_string(&log).unwrap();
    assert_eq!(called.lines().count(), 2, "{called}");
    assert!(called.contains("issued/a.pem") && called.contains("issued/b.pem"));
}

#[test]
fn a_number_that_the_inventory_has_lost_can_be_revoked() {
    let authority = Authority::new();
    let lost = serial(&authority.run(&["issue", ID, "--json"]).done());
    for file in ["inventory.db", "inventory.db-wal", "inventory.db-shm"] {
        let _ = std::fs::remove_file(authority.path(file));
    }
    let revoke = ["revoke", "--serial", &lost];
    authority.run(&revoke).refused(1, "--unrecorded");
    let list = authority.path("crl/intermediate.crl");
    assert!(revocation_list(&list).1.is_empty());
    authority
        .run(&[&revoke[..], &["--unrecorded"]].concat())
        .done();
    assert_eq!(revocation_list(&list).1, [lost.as_str()]);
    // The authority still works, with a new inventory.
    authority.run(&["issue", "spiffe://example.org/b"]).done();
    let listed = authority.run(&["list", "--json"]).done().json();
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 1);
    // During a rotation, either generation may have signed an unknown certificate. So both revoke
    // the number.
    authority.run(&["rotate", "prepare"]).done();
    let revoked = authority
        .run(&["revoke", "--serial", "0badcafe", "--unrecorded", "--json"])
        .done()
        .json();
    assert_eq!(revoked["revoked"].as_array().unwrap().len(), 2, "{revoked}");
    // If the inventory contains the number, only the generation that signed the certificate revokes
    // it.
    let known = serial(&authority.run(&["issue", "c.example.org", "--json"]).done());
    let revoked = authority
        .run(&["revoke", "--serial", &known, "--unrecorded", "--json"])
        .done()
        .json();
    assert_eq!(revoked["revoked"].as_array().unwrap().len(), 1);
    for arguments in [
        &["revoke", "--serial", "xyz", "--unrecorded"][..],
        &["revoke", "--identity", "/a", "--unrecorded"],
        &["revoke", "--unrecorded"],
    ] {
        assert_eq!(authority.run(arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn the_number_of_a_list_can_be_raised_and_never_lowered() {
    let authority = Authority::new();
    let list = authority.path("crl/intermediate.crl");
    let root = authority.path("crl/root.crl");
    assert_eq!(revocation_list(&list).0, 1);
    let sign = |number: &str| authority.run(&["crl", "--number", number]);
    for number in ["1", "0"] {
        sign(number).refused(2, "needs a number from 2");
    }
    sign("9223372036854775808").refused(2, "needs a number from 2");
    sign("-1").refused(2, "");
    assert_eq!((revocation_list(&list).0, revocation_list(&root).0), (1, 1));
    sign("4200").done();
    assert_eq!(
        (revocation_list(&list).0, revocation_list(&root).0),
        (4200, 4200)
    );
    authority.run(&["crl"]).done();
    assert_eq!(revocation_list(&list).0, 4201);
    authority
        .run(&["crl", "--issuer", "intermediate", "--number", "5000"])
        .done();
    assert_eq!(
        (revocation_list(&list).0, revocation_list(&root).0),
        (5000, 4201)
    );
    // Either both lists get the number, or none of them. The root alone could use 4500.
    sign("4500").refused(2, "intermediate needs a number from 5001");
    assert_eq!(
        (revocation_list(&list).0, revocation_list(&root).0),
        (5000, 4201)
    );
}

#[test]
fn only_the_expected_names_are_signed() {
    let authority = Authority::new();
    let csr = request(&authority, "checkout.csr", &[ID]);
    let sign = |expect: &[&str]| {
        let expect: Vec<_> = expect.iter().flat_map(|id| ["--expect", id]).collect();
        authority.run(&[&["sign", text(&csr), "--force"][..], &expect].concat())
    };
    sign(&["spiffe://example.org/ns/shop/sa/orders"]).refused(3, ID);
    sign(&[ID, "dns:a.example.org"]).refused(3, "nothing was signed");
    assert!(authority.has_issued_nothing());
    assert!(!authority.path("issued/checkout.pem").exists());
    sign(&[ID]).done();
    sign(&["/ns/shop/sa/checkout"]).done();
    let none = request(&authority, "none.csr", &[]);
    let arguments = ["sign", text(&none), "--expect", ID];
    authority.run(&arguments).refused(3, "no name");
}

/// Returns the words of the line `ExecStart=` of a unit, parsed as systemd does
/// (systemd.syntax(7)).
fn exec_start(unit: &str, credentials: &str) -> Vec<String> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    let mut words = vec![String::new()];
    let (mut quoted, mut rest) = (false, line.chars());
    while let Some(c) = rest.next() {
        let word = words.last_mut().unwrap();
        match (c, quoted) {
            ('"', _) => quoted = !quoted,
            (' ', false) => words.push(String::new()),
            ('\\', true) => word.push(rest.next().unwrap()),
            ('$', _) => {
                assert_eq!(rest.next(), Some('$'));
                word.push('$');
            }
            ('%', _) => match rest.next() {
                Some('%') => word.push('%'),
                Some('d') => word.push_str(credentials),
                other => panic!("%{other:?} in {line}"),
            },
            (c, _) => word.push(c),
        }
    }
    words
}

fn run_unit(unit: &str, credentials: &Path) -> Run {
    let words = exec_start(unit, credentials.to_str().unwrap());
    let (program, arguments) = words.split_first().unwrap();
    Run::of(std::process::Command::new(program).args(arguments))
}

#[test]
fn a_timer_renews_what_is_due() {
    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    let before = authority.read("issued/a.pem");
    authority
        .run(&["renew", "--all", "--if-expiring", "100%", "--timer"])
        .done();
    assert_eq!(authority.read("issued/a.pem"), before);
    let [service, timer] = ["service", "timer"].map(|kind| {
        String::from_utf8(authority.read(&format!("countersign-renew.{kind}"))).unwrap()
    });
    for line in [
        "OnCalendar=hourly",
        "Persistent=true",
        "WantedBy=timers.target",
    ] {
        assert!(timer.lines().any(|own| own == line), "{timer}");
    }
    assert!(!service.contains("LoadCredential"), "{service}");
    run_unit(&service, Path::new("/")).done();
    assert_ne!(authority.read("issued/a.pem"), before);
    // Without `--if-expiring`, the service renews a certificate only if less than 33 % of its
    // lifetime is left.
    authority
        .run(&["renew", "--all", "--timer", "--force"])
        .done();
    let service = String::from_utf8(authority.read("countersign-renew.service")).unwrap();
    assert!(service.contains("\"33%%\""), "{service}");
    let renewed = authority.read("issued/a.pem");
    run_unit(&service, Path::new("/")).done();
    assert_eq!(authority.read("issued/a.pem"), renewed);
}

#[test]
fn a_timer_for_one_certificate_can_be_printed() {
    let authority = Authority::new();
    let phrase = authority.home.path().join("my 100% phrase");
    std::fs::write(&phrase, "correct horse\n").unwrap();
    let phrase = text(&phrase);
    let init = [
        "init",
        "--trust-domain",
        "example.org",
        "--force",
        "--passphrase-file",
        phrase,
    ];
    authority.run(&init).done();
    authority
        .run(&[
            "issue",
            "spiffe://example.org/a",
            "--passphrase-file",
            phrase,
        ])
        .done();
    let file = authority.path("issued/a.pem");
    let mark = authority.home.path().join("renewed $HOME");
    let hook = format!("echo \"$COUNTERSIGN_CERTIFICATE\" > '{}'", mark.display());
    let arguments = [
        "renew",
        text(&file),
        "--if-expiring",
        "100%",
        "--exec",
        &hook,
        "--passphrase-file",
        phrase,
        "--timer=-",
        "--json",
    ];
    let units = authority.run(&arguments).done().json();
    assert!(!authority.path("countersign-renew-a.service").exists());
    let service = units["service"].as_str().unwrap();
    let credential = service
        .lines()
        .find_map(|line| line.strip_prefix("LoadCredential=passphrase:"));
    assert_eq!(credential, Some(&*phrase.replace('%', "%%")));
    // Provides the credential as systemd does for `LoadCredential=`.
    let credentials = authority.home.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::copy(phrase, credentials.join("passphrase")).unwrap();
    run_unit(service, &credentials).done();
    let called = std::fs::read_to_string(&mark).unwrap();
    assert_eq!(called.trim_end(), text(&file));
    let printed = authority
        .run(&["renew", "--all", "--timer=-"])
        .done()
        .stdout;
    assert!(
        printed.contains("# countersign-renew.timer\n[Unit]"),
        "{printed}"
    );
    assert!(printed.contains("LoadCredential=passphrase:/etc/countersign/ca.pass"));
    // If the service could not renew a certificate, the command that writes the units must fail.
    let missing = authority.path("issued/none.pem");
    let run = authority.run(&["renew", text(&missing), "--timer"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(!authority.path("countersign-renew-none.timer").exists());
}
