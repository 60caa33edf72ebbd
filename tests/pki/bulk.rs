//! `pki issue --from`: a list is issued completely, or refused with a reason and a line. After a
//! kill, the command can continue the list.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use super::{Authority, certificates};

fn list(authority: &Authority, text: &str) -> String {
    let path = authority.home.path().join("list.txt");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_list_is_issued_once() {
    let authority = Authority::new();
    let path = list(
        &authority,
        "# callers\nspiffe://example.org/ns/shop/sa/a\n\n  b.example.org  \n10.0.0.1\n",
    );
    let first = authority
        .run(&["issue", "--from", &path, "--json"])
        .done()
        .json();
    assert_eq!(
        (&first["issued"], &first["skipped"]),
        (&3.into(), &0.into())
    );
    let leaf = authority.read("issued/a.pem");
    assert_eq!(
        certificates(&authority.path("issued/b.example.org.pem")).len(),
        2
    );
    let again = authority
        .run(&["issue", "--from", &path, "--json"])
        .done()
        .json();
    assert_eq!(
        (&again["issued"], &again["skipped"]),
        (&0.into(), &3.into())
    );
    assert_eq!(authority.read("issued/a.pem"), leaf);
    // If an issued file is missing, the command writes it again.
    std::fs::remove_file(authority.path("issued/a.pem")).unwrap();
    let mended = authority
        .run(&["issue", "--from", &path, "--json"])
        .done()
        .json();
    assert_eq!(
        (&mended["issued"], &mended["skipped"]),
        (&1.into(), &2.into())
    );
    let forced = authority
        .run(&["issue", "--from", &path, "--force", "--json"])
        .done()
        .json();
    assert_eq!(forced["issued"], 3);
}

#[test]
fn a_bad_line_is_named_and_nothing_is_issued() {
    let authority = Authority::new();
    for (text, words) in [
        ("a.example.org\nspiffe://other.org/a\n", "line 2"),
        ("a.example.org\n../b\n", "line 2"),
        (
            "spiffe://example.org/x/a\nspiffe://example.org/y/a\n",
            "two entries",
        ),
    ] {
        let path = list(&authority, text);
        authority.run(&["issue", "--from", &path]).refused(2, words);
    }
    assert!(authority.has_issued_nothing());
    authority.run(&["issue"]).refused(2, "<NAME>");
    let path = list(&authority, "a.example.org\n");
    authority
        .run(&["issue", "b", "--from", &path])
        .refused(2, "cannot be used with");
}

#[test]
fn a_killed_list_is_continued() {
    let authority = Authority::new();
    let mut text = String::new();
    for index in 0..1_500 {
        writeln!(text, "n{index}.example.org").unwrap();
    }
    let path = list(&authority, &text);
    for delay in [50, 200, 400, 900] {
        let mut child = authority
            .pki(&["issue", "--from", &path])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        // The process may have ended already.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let last = authority
        .run(&["issue", "--from", &path, "--json"])
        .done()
        .json();
    let count = |member: &str| last[member].as_u64().unwrap();
    assert_eq!(count("issued") + count("skipped"), 1_500);
    let listed = authority.run(&["list", "--json"]).done().json();
    let known: HashSet<_> = listed["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["serial"].as_str().unwrap())
        .collect();
    for index in 0..1_500 {
        let leaf = authority.path(&format!("issued/n{index}.example.org.pem"));
        let chain = certificates(&leaf);
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        let serial = leaf.raw_serial_as_string().replace(':', "");
        assert!(known.contains(serial.as_str()), "{serial}");
    }
    // There are no temporary files.
    assert_eq!(
        std::fs::read_dir(authority.path("issued")).unwrap().count(),
        3_000
    );
}
