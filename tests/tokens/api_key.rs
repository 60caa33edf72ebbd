//! `countersign api-key new` prints the key once, and its hash for the configuration.

use std::os::unix::fs::PermissionsExt as _;

use super::text;
use crate::support::{Files, countersign};

#[test]
fn a_key_is_printed_once_and_only_its_hash_is_kept() {
    let files = Files::new();
    let hmac = files.write("x", "").with_file_name("api-keys.hmac");
    let new = |more: &[&str]| {
        let base = ["api-key", "new", "batch", "--hmac-key", text(&hmac)];
        countersign(&[&base[..], more].concat(), "")
    };
    let run = new(&[
        "--expires",
        "90d",
        "--route",
        "orders",
        "--network",
        "10.0.0.0/8",
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let key = run.stdout.lines().next().unwrap();
    assert!(key.starts_with("ck_") && key.len() == 63, "{key}");
    assert_eq!(run.stdout.matches(&key[20..]).count(), 1);
    for line in [
        "[[api_key]]",
        "name = \"batch\"",
        "routes = [\"orders\"]",
        "networks = [\"10.0.0.0/8\"]",
    ] {
        assert!(run.stdout.contains(line), "{}", run.stdout);
    }
    let mode = hmac.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = std::fs::read(&hmac).unwrap();
    let second = new(&["--json"]);
    let document = second.json();
    assert_ne!(document["key"], key);
    assert_eq!(document["hash"].as_str().unwrap().len(), 43);
    assert_eq!(std::fs::read(&hmac).unwrap(), first);
    assert_eq!(new(&["--quiet"]).stdout.lines().count(), 1);
}

#[test]
fn bad_usage_is_said_so() {
    let files = Files::new();
    let short = files.write("short", "too short");
    for arguments in [
        vec!["batch"],
        vec!["a b", "--hmac-key", text(&short)],
        vec!["", "--hmac-key", text(&short)],
        vec!["batch", "--hmac-key", text(&short)],
        vec!["batch", "--hmac-key", text(&short), "--network", "x"],
    ] {
        let run = countersign(&[&["api-key", "new"][..], &arguments].concat(), "");
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
    }
}
