//! Checks the index that lists, for each reason code, the files that name it.

use std::collections::BTreeMap;

use super::{program, root, word};

const HEAD: &str = "# Where each reason code is named\n\n\
    For each code of [reasons.md](reasons.md): the source files that name it, because they refuse\n\
    with it or treat it differently from others. A test compares this list with the sources, and\n\
    says how to write it again.\n\n";

/// Functions that make a refusal with one fixed code. Each has its name, the folder in which it is
/// used, and the variant.
const HELPERS: [(&str, &str, &str); 3] = [
    ("caller_limit(", "", "CallerLimit"),
    ("malformed(", "proxy/wire/", "MalformedRequest"),
    ("too_large(", "proxy/wire/", "TooLarge"),
];

/// Returns the variants and their codes, in the order of the table in `reason.rs`.
fn codes() -> Vec<(String, String)> {
    let table = std::fs::read_to_string(root().join("crates/core/src/reason.rs")).unwrap();
    let row = |line: &str| {
        let (variant, rest) = line.trim().split_once(" = \"")?;
        let (code, rest) = rest.split_once("\", ")?;
        let is_row = word(variant) == variant && rest.ends_with(',');
        is_row.then(|| (variant.to_owned(), code.to_owned()))
    };
    table.lines().filter_map(row).collect()
}

/// Returns, for each variant, the files whose code names the variant.
fn places() -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in program().iter().filter(|source| source.name != "reason.rs") {
        let named = source
            .code
            .match_indices("ReasonCode::")
            .map(|(at, prefix)| word(&source.code[at + prefix.len()..]));
        let helped = HELPERS
            .iter()
            .filter(|(call, folder, _)| {
                source.name.starts_with(folder) && source.code.contains(call)
            })
            .map(|(.., variant)| (*variant).to_owned());
        for variant in named.chain(helped) {
            let files = places.entry(variant).or_default();
            let path = source.path();
            if files.last() != Some(&path) {
                files.push(path);
            }
        }
    }
    places
}

#[test]
fn the_index_of_reasons_agrees_with_the_sources() {
    let places = places();
    let mut index = HEAD.to_owned();
    for (variant, code) in codes() {
        let files = places.get(&variant).map_or(&[][..], Vec::as_slice);
        let files: Vec<String> = files.iter().map(|file| format!("`{file}`")).collect();
        assert!(!files.is_empty(), "no file names {code}");
        index += &format!("- `{code}`: {}\n", files.join(", "));
    }
    let path = root().join("docs/reasons-in-code.md");
    if std::env::var_os("COUNTERSIGN_WRITE_INDEX").is_some() {
        std::fs::write(&path, &index).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == index,
        "docs/reasons-in-code.md is out of date: \
         COUNTERSIGN_WRITE_INDEX=1 cargo test the_index_of_reasons"
    );
}
