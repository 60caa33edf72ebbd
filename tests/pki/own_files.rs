//! Certificates and exports never replace the authority's own files. An inventory that has lost its
//! content is never treated as a new one.

use std::path::Path;

use super::{Authority, pki};
use crate::support::Run;

const OWN: [&str; 9] = [
    "root.pem",
    "root.key",
    "intermediate.pem",
    "intermediate.key",
    "trust.pem",
    "pki.toml",
    "inventory.db",
    "crl/root.crl",
    "crl/intermediate.crl",
];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Creates an authority with one leaf and a rotation in progress, so that it has files of two
/// generations.
fn rotated() -> Authority {
    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    authority.run(&["rotate", "prepare"]).done();
    authority
}

fn own(authority: &Authority) -> Vec<Vec<u8>> {
    OWN.iter().map(|name| authority.read(name)).collect()
}

/// Each spelling of the path must be refused, with and without `--force`.
#[test]
fn issuing_never_replaces_a_file_of_the_authority() {
    let authority = rotated();
    let before = own(&authority);
    let link = authority.home.path().join("link");
    std::os::unix::fs::symlink(authority.dir(), &link).unwrap();
    let prefixes = [
        authority.path("root"),
        authority.path("ROOT"),
        authority.path("intermediate"),
        authority.path("trust"),
        authority.path("issued/../root"),
        link.join("root"),
        link.join("intermediate"),
        authority.path("crl/root"),
        authority.path("crl/new"),
        authority.path("earlier/root"),
    ];
    for prefix in &prefixes {
        for force in [&["--force"][..], &[]] {
            let issue = ["issue", "spiffe://example.org/b", "--out", text(prefix)];
            let said = authority.run(&[&issue[..], force].concat());
            let said = said.refused(2, "belongs to the authority in ");
            assert!(said.stderr.contains("/issued/NAME"), "{}", said.stderr);
        }
        let leaf = authority.path("issued/a.pem");
        let renew = ["renew", text(&leaf), "--out"];
        authority
            .run(&[&renew[..], &[text(prefix)]].concat())
            .refused(2, "belongs to the authority in ");
    }
    assert!(own(&authority) == before);
    // The authority still works, and certificates can be written to a path that is not its own.
    let place = authority.path("issued/root");
    let issue = ["issue", "spiffe://example.org/b", "--out", text(&place)];
    authority.run(&issue).done();
    authority.run(&[&issue[..], &["--force"]].concat()).done();
}

#[test]
fn an_authority_beside_this_one_is_not_overwritten_either() {
    let (authority, other) = (Authority::new(), Authority::new());
    let before = own_of_new(&other);
    let issue = ["issue", "spiffe://example.org/b", "--force", "--out"];
    authority
        .run(&[&issue[..], &[text(&other.path("root"))]].concat())
        .refused(2, "belongs to the authority in ");
    assert!(own_of_new(&other) == before);
}

/// Returns the contents of the authority's own files. An authority that has issued nothing has no
/// inventory.
fn own_of_new(authority: &Authority) -> Vec<Vec<u8>> {
    let names = OWN.iter().filter(|name| **name != "inventory.db");
    names.map(|name| authority.read(name)).collect()
}

/// Both commands must be refused, even if the usual directory `issued` is a link to the authority's
/// directory.
#[test]
fn a_list_of_names_and_the_usual_folder_do_not_lead_to_own_files() {
    let authority = Authority::new();
    let before = own_of_new(&authority);
    std::fs::remove_dir(authority.path("issued")).unwrap();
    std::os::unix::fs::symlink(".", authority.path("issued")).unwrap();
    let list = authority.home.path().join("list");
    std::fs::write(&list, "root\nother.example.org\n").unwrap();
    authority
        .run(&["issue", "--from", text(&list), "--force"])
        .refused(2, "belongs to the authority in ");
    authority
        .run(&["issue", "root", "--dns", "localhost", "--force"])
        .refused(2, "belongs to the authority in ");
    assert!(own_of_new(&authority) == before);
}

#[test]
fn signing_and_exporting_never_replace_a_file_of_the_authority() {
    let authority = rotated();
    let before = own(&authority);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut request = rcgen::CertificateParams::default();
    let uri = "spiffe://example.org/b".try_into().unwrap();
    request.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    request.distinguished_name = rcgen::DistinguishedName::new();
    let request = request.serialize_request(&key).unwrap().pem().unwrap();
    let csr = authority.home.path().join("b.csr");
    std::fs::write(&csr, request).unwrap();
    for prefix in ["root", "intermediate", "trust"] {
        let prefix = authority.path(prefix);
        authority
            .run(&["sign", text(&csr), "--out", text(&prefix), "--force"])
            .refused(2, "belongs to the authority in ");
    }
    let leaf = authority.path("issued/a.pem");
    let files = OWN
        .iter()
        .chain(&["inventory.db-wal", "profiles.toml", ".lock", ".transaction"]);
    for file in files {
        let mut export = pki(&["export", text(&leaf), "--format", "pem", "--force", "--out"]);
        Run::of(export.arg(authority.path(file))).refused(2, "belongs to the authority in ");
    }
    assert!(own(&authority) == before);
    let mut export = pki(&["export", text(&leaf), "--format", "der", "--out"]);
    Run::of(export.arg(authority.path("issued/a.der"))).done();
}

/// `pki fixtures` may replace the authority in `ca` only if `pki fixtures` has made it.
#[test]
fn fixtures_do_not_replace_an_authority() {
    let authority = Authority::new();
    let home = authority.home.path();
    let place = home.join("place");
    std::fs::create_dir(&place).unwrap();
    std::fs::rename(authority.dir(), place.join("ca")).unwrap();
    let key = std::fs::read(place.join("ca/root.key")).unwrap();
    let fixtures = |force: &[&str]| {
        let mut command = pki(&["fixtures", "--dir", text(&place.join("ca")), "--out"]);
        Run::of(command.arg(&place).args(force))
    };
    for force in [&["--force"][..], &[]] {
        fixtures(force).refused(2, "did not make");
    }
    assert_eq!(std::fs::read(place.join("ca/root.key")).unwrap(), key);
    // An authority that `pki fixtures` has made is replaced, even if the earlier run was not
    // complete.
    let out = home.join("fixtures");
    let again = |force: &[&str]| {
        let mut command = pki(&["fixtures", "--dir", text(&place.join("ca")), "--out"]);
        Run::of(command.arg(&out).args(force))
    };
    again(&[]).done();
    std::fs::remove_file(out.join("manifest.json")).unwrap();
    again(&["--force"]).done();
}

#[test]
fn an_empty_inventory_is_damage() {
    let authority = Authority::new();
    authority.run(&["issue", "spiffe://example.org/a"]).done();
    let leaf = authority.path("issued/a.pem");
    let sound = authority.read("inventory.db");
    let path = authority.path("inventory.db");
    let beside = authority.path("inventory.db-wal");
    // The database is truncated, is missing although its write-ahead log exists, or has no tables.
    let damages: [(&str, &dyn Fn()); 3] = [
        ("truncated", &|| std::fs::write(&path, "").unwrap()),
        ("gone", &|| {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&beside, [1; 4096]).unwrap();
        }),
        ("without tables", &|| {
            std::fs::remove_file(&path).unwrap();
            let database = rusqlite::Connection::open(&path).unwrap();
            database
                .execute_batch("VACUUM; PRAGMA journal_mode = WAL")
                .unwrap();
        }),
    ];
    for (what, damage) in damages {
        damage();
        let before = std::fs::read(&path).ok();
        for command in [
            &["list"][..],
            &["list", "--json"],
            &["issue", "spiffe://example.org/b"],
            &["issue", "spiffe://example.org/a", "--force"],
            &["renew", text(&leaf)],
            &["revoke", "--identity", "/a"],
            &["revoke", "--serial", "0123"],
        ] {
            let said = authority.run(command).refused(1, "inventory.db is empty");
            assert!(said.stderr.contains("backup"), "{what}: {}", said.stderr);
        }
        assert_eq!(std::fs::read(&path).ok(), before, "{what}: it was changed");
        assert!(!authority.path("issued/b.pem").exists(), "{what}");
        let _ = std::fs::remove_file(&beside);
        std::fs::write(&path, &sound).unwrap();
        let listed = authority.run(&["list", "--json"]).done().json();
        assert_eq!(listed["certificates"].as_array().unwrap().len(), 1);
    }
    // A revocation that does not need the inventory still works.
    std::fs::write(&path, "").unwrap();
    authority.run(&["revoke", "--cert", text(&leaf)]).done();
}
