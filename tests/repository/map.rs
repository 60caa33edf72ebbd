//! All paths in the map of the source tree (`ARCHITECTURE.md`) must exist.

use crate::support::root;

#[test]
fn every_path_in_the_map_exists() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let paths: Vec<&str> = map
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| {
            let folders = ["src/", "tests/", "crates/", "docs/", "scripts/"];
            folders.iter().any(|folder| text.starts_with(folder))
        })
        .collect();
    assert!(paths.len() > 80, "{} paths", paths.len());
    let missing: Vec<&&str> = (paths.iter())
        .filter(|path| !root().join(path).exists())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
