//! The profiles of builds.

use crate::support::root;

#[test]
fn release_builds_have_no_debug_information() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let release = manifest["profile"]["release"].as_table().unwrap();
    assert_eq!(release["debug"].as_bool(), Some(false));
    // The standard library's stays otherwise.
    assert_eq!(release["strip"].as_str(), Some("debuginfo"));
    let dist = manifest["profile"]["dist"].as_table().unwrap();
    assert_eq!(dist["inherits"].as_str(), Some("release"));
    for key in ["debug", "strip"] {
        assert!(!dist.contains_key(key), "dist has the {key} of release");
    }
}
