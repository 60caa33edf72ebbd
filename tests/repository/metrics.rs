//! `docs/operations.md` must name exactly the metrics that the program has.

use std::collections::BTreeSet;

use crate::support::root;

/// What registers a metric in the code. Its name is the next string.
const REGISTRATIONS: [&str; 4] = [
    "counted!(",
    "registered(",
    ".register(",
    ".register_with_unit(",
];

/// Returns the names that a source registers, without the prefix of the program.
fn registered(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for start in REGISTRATIONS {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            let Some((before, rest)) = rest.split_once('"') else {
                continue;
            };
            // Only the registry may stand before the name.
            let is_registry =
                |c: char| c.is_whitespace() || "&,_".contains(c) || c.is_ascii_lowercase();
            if before.chars().all(is_registry)
                && let Some((name, _)) = rest.split_once('"')
            {
                // The unit of all metrics with a unit is seconds.
                let unit = match start {
                    ".register_with_unit(" => "_seconds",
                    _ => "",
                };
                names.insert(format!("{name}{unit}"));
            }
        }
    }
    names
}

/// Returns the name of a metric without the suffixes that the format adds.
fn bare(name: &str) -> String {
    let suffixes = ["_total", "_info"];
    let found = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    found.unwrap_or(name).to_owned()
}

#[test]
fn the_document_and_the_program_have_the_same_metrics() {
    let folder = root().join("crates/core/src/telemetry/metrics");
    let mut code = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != "tests.rs") {
            code.extend(registered(&std::fs::read_to_string(path).unwrap()));
        }
    }
    assert!(code.len() > 20, "{code:?}");
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `countersign_"));
    let names = rows.filter_map(|row| row.split_once('`'));
    let documented: BTreeSet<String> = names.map(|(name, _)| bare(name)).collect();
    let missing: Vec<_> = code.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&code).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "docs/operations.md: {missing:?} are not documented, {invented:?} do not exist"
    );
}
