//! Revoking certificates, publishing CRLs, and listing certificates.

use super::{Authority, revocation_list};

fn issue(authority: &Authority, name: &str) -> (String, String) {
    let id = format!("spiffe://example.org/{name}");
    let document = authority.run(&["issue", &id, "--json"]).done().json();
    let member = |name: &str| document[name].as_str().unwrap().to_owned();
    (member("serial"), member("certificate"))
}

#[test]
fn revoked_by_file_or_serial_stays_revoked() {
    let authority = Authority::new();
    let (first, file) = issue(&authority, "a");
    let (second, _) = issue(&authority, "b");
    let (third, _) = issue(&authority, "c");
    let list = authority.path("crl/intermediate.crl");

    let run = authority.run(&[
        "revoke",
        "--cert",
        &file,
        "--reason",
        "key-compromise",
        "--json",
    ]);
    let document = run.done().json();
    assert_eq!(document["serial"], first.as_str());
    assert_eq!(document["reason"], "key-compromise");
    assert_eq!(document["issuer"], "intermediate");
    assert_eq!(document["repeated"], false);
    assert_eq!(document["crl"]["number"], 2);
    assert_eq!(revocation_list(&list), (2, vec![first.clone()]));

    // People paste serial numbers in this form: upper case, with colons.
    let pasted: Vec<_> = second
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
        .collect();
    authority
        .run(&["revoke", "--serial", &pasted.join(":")])
        .done();
    assert_eq!(
        revocation_list(&list),
        (3, vec![first.clone(), second.clone()])
    );

    // A repeated revocation changes nothing, and publishes the CRL again.
    let again = authority.run(&[
        "revoke",
        "--serial",
        &first,
        "--reason",
        "superseded",
        "--json",
    ]);
    let again = again.done().json();
    assert_eq!(
        (&again["repeated"], &again["reason"]),
        (&true.into(), &"key-compromise".into())
    );
    assert_eq!(again["revoked_at"], document["revoked_at"]);
    authority.run(&["crl", "--issuer", "all"]).done();
    assert_eq!(
        revocation_list(&list),
        (5, vec![first.clone(), second.clone()])
    );

    let document = authority.run(&["list", "--json"]).done().json();
    let statuses: Vec<_> = document["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["serial"].as_str().unwrap(),
                entry["status"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        statuses,
        [
            (first.as_str(), "revoked"),
            (second.as_str(), "revoked"),
            (third.as_str(), "valid")
        ]
    );
    let text = authority.run(&["list"]).done().stdout;
    assert!(
        text.contains(&third) && text.contains("spiffe://example.org/c"),
        "{text}"
    );
}

#[test]
fn only_what_this_authority_issued_can_be_revoked() {
    let authority = Authority::new();
    let other = Authority::new();
    let (serial, file) = issue(&other, "a");
    authority
        .run(&["revoke", "--cert", &file])
        .refused(1, "not issued by this authority");
    authority
        .run(&["revoke", "--serial", &serial])
        .refused(1, &serial);
    authority
        .run(&["revoke", "--serial", "xyz"])
        .refused(2, "xyz");
    authority.run(&["revoke"]).refused(2, "--serial");
    authority
        .run(&["revoke", "--serial", "01", "--cert", &file])
        .refused(2, "cannot be used with");
    authority
        .run(&["revoke", "--serial", "01", "--reason", "because"])
        .refused(2, "key-compromise");
    for (name, words) in [
        ("root.pem", "root cannot be revoked"),
        ("root.key", "root.key"),
        ("missing.pem", "missing.pem"),
    ] {
        let path = authority.path(name);
        authority
            .run(&["revoke", "--cert", path.to_str().unwrap()])
            .refused(1, words);
    }
    assert_eq!(
        revocation_list(&authority.path("crl/intermediate.crl")),
        (1, vec![])
    );
}

#[test]
fn a_revoked_intermediate_is_on_the_roots_list_and_issues_no_more() {
    let authority = Authority::new();
    let intermediate = authority.path("intermediate.pem");
    let run = authority.run(&["revoke", "--cert", intermediate.to_str().unwrap(), "--json"]);
    assert_eq!(run.done().json()["issuer"], "root");
    assert_eq!(revocation_list(&authority.path("crl/root.crl")).1.len(), 1);
    assert_eq!(
        revocation_list(&authority.path("crl/intermediate.crl"))
            .1
            .len(),
        0
    );
    authority.run(&["issue", "a"]).refused(1, "revoked");
}

#[test]
fn lists_last_as_long_as_asked_for() {
    let authority = Authority::new();
    let run = authority.run(&[
        "crl",
        "--issuer",
        "intermediate",
        "--lifetime",
        "1h",
        "--json",
    ]);
    let document = run.done().json();
    let lists = document["crls"].as_array().unwrap();
    assert_eq!(lists.len(), 1);
    let moment = |name: &str| lists[0][name].as_str().unwrap().to_owned();
    assert_ne!(moment("this_update"), moment("next_update"));
    assert_eq!(revocation_list(&authority.path("crl/root.crl")).0, 1);
    authority
        .run(&["crl", "--lifetime", "367d"])
        .refused(2, "366d");
    authority
        .run(&["crl", "--issuer", "leaf"])
        .refused(2, "leaf");
}

#[test]
fn the_roots_key_may_be_kept_elsewhere() {
    let authority = Authority::new();
    std::fs::remove_file(authority.path("root.key")).unwrap();
    issue(&authority, "a");
    let run = authority.run(&["crl"]).done();
    assert!(run.stderr.contains("root"), "{}", run.stderr);
    assert_eq!(
        revocation_list(&authority.path("crl/intermediate.crl")).0,
        2
    );
    assert_eq!(revocation_list(&authority.path("crl/root.crl")).0, 1);
    authority
        .run(&["crl", "--issuer", "root"])
        .refused(1, "root.key");
}

#[test]
fn a_name_that_several_certificates_carry_is_not_guessed_at() {
    let authority = Authority::new();
    let (first, file) = issue(&authority, "a");
    authority.run(&["renew", &file]).done();
    let run = authority
        .run(&["revoke", "--identity", "/a"])
        .refused(2, "2 live certificates");
    assert!(run.stderr.contains(&first), "{}", run.stderr);
    assert_eq!(
        revocation_list(&authority.path("crl/intermediate.crl")).1,
        [""; 0]
    );

    authority
        .run(&["revoke", "--identity", "/nobody"])
        .refused(1, "no live certificate");
    let revoked = authority
        .run(&["revoke", "--identity", "/a", "--all", "--json"])
        .done()
        .json();
    assert_eq!(revoked["revoked"].as_array().unwrap().len(), 2);
    let (_, serials) = revocation_list(&authority.path("crl/intermediate.crl"));
    assert!(serials.len() == 2 && serials.contains(&first));

    // Both certificates are revoked, so that the next certificate is the only one of the name.
    issue_again(&authority);
    let only = authority
        .run(&["revoke", "--identity", "spiffe://example.org/a", "--json"])
        .done()
        .json();
    assert!(only["serial"].is_string() && only["repeated"] == false);
    let listed = authority
        .run(&["list", "--revoked", "--json"])
        .done()
        .json();
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 3);
    assert_eq!(listed["certificates"][0]["cause"], "issue");
    assert_eq!(listed["certificates"][1]["cause"], "renew");
    assert_eq!(listed["certificates"][0]["revoked_reason"], "unspecified");
}

fn issue_again(authority: &Authority) {
    authority
        .run(&["issue", "spiffe://example.org/a", "--force"])
        .done();
}

#[test]
fn those_issued_before_a_time_are_revoked() {
    let authority = Authority::new();
    issue(&authority, "a");
    authority
        .run(&["revoke", "--identity", "/a", "--issued-before", "1h"])
        .refused(1, "no live certificate");
    authority
        .run(&[
            "revoke",
            "--identity",
            "/a",
            "--issued-before",
            "2099-01-01T00:00:00Z",
        ])
        .done();
    authority
        .run(&["revoke", "--identity", "/a", "--issued-before", "soon"])
        .refused(2, "a time is written as");
    authority
        .run(&["revoke", "--serial", "01", "--all"])
        .refused(2, "--identity");
}

#[test]
fn listings_filter_and_say_so_in_their_exit_code() {
    let authority = Authority::new();
    issue(&authority, "a");
    authority
        .run(&[
            "issue",
            "long",
            "--dns",
            "long.example.org",
            "--lifetime",
            "90d",
        ])
        .done();
    let names = |arguments: &[&str], code: i32| {
        let run = authority.run(&[&["list", "--json"], arguments].concat());
        assert_eq!(run.code, code, "{}", run.stderr);
        run.json()["certificates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["identity"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (a, long) = ("spiffe://example.org/a", "dns:long.example.org");
    assert_eq!(names(&[], 0), [a, long]);
    assert_eq!(names(&["--expiring", "7d"], 3), [a]);
    assert_eq!(names(&["--expiring", "1m"], 0), [""; 0]);
    assert_eq!(names(&["--identity", "long.example.org"], 0), [long]);
    assert_eq!(names(&["--revoked"], 0), [""; 0]);
    assert_eq!(names(&["--limit", "1"], 0), [a]);
    assert_eq!(names(&["--limit", "1", "--after", "1"], 0), [long]);
}

/// The JSON listing is written while the inventory is read. A long listing needs only the memory
/// of one page.
#[test]
fn a_long_listing_takes_no_memory() {
    use std::io::{BufRead as _, BufReader, Read as _};
    const MANY: usize = 60_000;

    let authority = Authority::new();
    issue(&authority, "a");
    let mut database = rusqlite::Connection::open(authority.path("inventory.db")).unwrap();
    let transaction = database.transaction().unwrap();
    transaction
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO certificate SELECT i, printf('%032x', i), issuer_key, issuer, parent,
                 profile, names, not_before, not_after, thumbprint, certificate, issued_at,
                 issued_by, cause, NULL, NULL FROM n, certificate WHERE id = 1",
            [60_000],
        )
        .unwrap();
    transaction.commit().unwrap();
    drop(database);

    let mut child = authority
        .pki(&["list", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = Vec::new();
    // The test reads most of the output. The rest keeps the program waiting.
    while text.len() < MANY * 500 {
        let read = out.fill_buf().unwrap().len();
        assert_ne!(read, 0, "the listing is short");
        (&mut out).take(read as u64).read_to_end(&mut text).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .unwrap()
        .parse()
        .unwrap();
    out.read_to_end(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(peak < 48 * 1024, "{peak} KiB for {} octets", text.len());
    let listed: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(text.last(), Some(&b'\n'));
    let entries = listed["certificates"].as_array().unwrap();
    assert_eq!(entries.len(), MANY);
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(entry["id"], index + 1);
    }

    let page = authority
        .run(&["list", "--json", "--limit", "2500", "--after", "100"])
        .done()
        .json();
    let page = page["certificates"].as_array().unwrap();
    assert_eq!(
        (page.len(), &page[0]["id"]),
        (2500, &serde_json::json!(101))
    );
    let none = authority
        .run(&["list", "--json", "--after", "60000"])
        .done();
    assert_eq!(none.stdout, "{\"certificates\":[]}\n");
}

#[test]
fn earlier_records_are_taken_over_and_newer_ones_refused() {
    let authority = Authority::new();
    let (serial, _) = issue(&authority, "a");
    let entry = authority.run(&["list", "--json"]).done().json()["certificates"][0].clone();
    // Old versions had no inventory, so the test removes it.
    for file in ["inventory.db", "inventory.db-wal", "inventory.db-shm"] {
        let _ = std::fs::remove_file(authority.path(file));
    }
    let intermediate = super::certificates(&authority.path("intermediate.pem")).swap_remove(0);
    let (_, intermediate) = x509_parser::parse_x509_certificate(&intermediate).unwrap();
    let issuer_key = intermediate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(
                id.0.iter()
                    .map(|octet| format!("{octet:02x}"))
                    .collect::<String>(),
            ),
            _ => None,
        })
        .unwrap();
    let line = serde_json::json!({
        "serial": serial,
        "issuer_key": issuer_key,
        "profile": "peer",
        "names": ["spiffe://example.org/a"],
        "not_before": 1_700_000_000,
        "not_after": 4_000_000_000_u32,
        "x5t#S256": entry["x5t#S256"],
        "certificate": entry["certificate"],
    });
    std::fs::write(authority.path("issued.jsonl"), format!("{line}\n{{\"ser")).unwrap();
    let listed = authority.run(&["list", "--json"]).done().json();
    assert_eq!(listed["certificates"][0]["serial"], serial.as_str());
    assert_eq!(listed["certificates"][0]["cause"], "import");
    assert!(!authority.path("issued.jsonl").exists());
    assert!(authority.path("issued.jsonl.imported").exists());

    let database = rusqlite::Connection::open(authority.path("inventory.db")).unwrap();
    database.execute_batch("PRAGMA user_version = 7").unwrap();
    drop(database);
    for arguments in [&["list"][..], &["issue", "b.example.org"]] {
        authority.run(arguments).refused(1, "format version 7");
    }
    assert!(!authority.path("issued/b.example.org.pem").exists());
}

#[test]
fn two_processes_lose_nothing() {
    let authority = Authority::new();
    let children: Vec<_> = (0..6)
        .map(|index| {
            let name = format!("spiffe://example.org/n{index}");
            authority
                .pki(&["issue", &name])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let listed = authority.run(&["list", "--json"]).done().json();
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 6);
}
