//! Rules for the source tree: modules import only from lower tiers, and some functions may be
//! used in only one file. Cargo checks the tiers of the crates; these tests check the modules.

mod layers;
mod reasons;

use std::path::{Path, PathBuf};

use crate::support::root;

/// The modules from top to bottom. A module may use modules of lower tiers, but not of its own
/// tier.
const TIERS: [&[&str]; 15] = [
    &["cli"],
    &["app"],
    &["proxy", "admin", "config"],
    &["snapshot"],
    &["route"],
    &["authn", "assertion", "crl_fetch", "upstream", "pki"],
    &["tls", "policy"],
    &["trust"],
    &["connection_slots", "http_client", "telemetry"],
    &["identity"],
    &["crypto", "directory_lock"],
    &["secret"],
    &["file_access", "file_read", "file_stamp", "pem"],
    &[
        "clock",
        "der",
        "descriptors",
        "h2_frames",
        "now_or_later",
        "reason",
    ],
    &["kill_point"],
];

/// Folders of the crate whose modules are tiers, and of the program.
const MODULES: [&str; 2] = ["crates/core/src", "src"];
/// Crates that these tests treat in other ways.
const OTHER_CRATES: [&str; 3] = ["core", "verify", "testkit"];
/// Crates that are one module each.
const MODULE_CRATES: [&str; 4] = ["proxy", "admin", "config", "pki"];

/// One source file without its comments and its tests.
struct Source {
    path: PathBuf,
    /// The path of the file below the folder in which it was found.
    name: String,
    code: String,
}

impl Source {
    /// Path below the repository.
    fn path(&self) -> String {
        let path = self.path.strip_prefix(root()).unwrap();
        path.to_string_lossy().into_owned()
    }
}

/// Returns the sources of the program and its crates as one tree of modules: each file is
/// named as if all modules were folders of one crate, and imports by `crate::` are written so.
fn program() -> Vec<Source> {
    let mut all: Vec<Source> = MODULES
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
        .filter(|source| !matches!(source.name.as_str(), "lib.rs" | "main.rs"))
        .collect();
    for module in MODULE_CRATES {
        for mut source in sources(&root().join(format!("crates/{module}/src"))) {
            source.name = match source.name.as_str() {
                "lib.rs" => format!("{module}/mod.rs"),
                name => format!("{module}/{name}"),
            };
            source.code = with_module(&source.code, module);
            all.push(source);
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Replaces paths of a crate that is the module `module` by those below a common root.
fn with_module(code: &str, module: &str) -> String {
    let code = code.replace("countersign_core::", "crate::");
    let code = MODULE_CRATES.iter().fold(code, |code, other| {
        code.replace(
            &format!("countersign_{other}::"),
            &format!("crate::{other}::"),
        )
    });
    let mut parts = code.split("crate::");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        all += "crate::";
        if tier(&word(part)).is_none() {
            all += module;
            all += "::";
        }
        all += part;
    }
    all
}

fn sources(folder: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    collect(folder, &mut paths);
    assert!(!paths.is_empty(), "no sources in {}", folder.display());
    paths
        .into_iter()
        .map(|path| Source {
            name: path
                .strip_prefix(folder)
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            code: production_code(&std::fs::read_to_string(&path).unwrap()),
            path,
        })
        .filter(|source| !source.name.ends_with("tests.rs"))
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                collect(&path, paths);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Returns the code without comment lines, declarations of test modules, and the tests at the end.
fn production_code(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test_module = |pair: &[&str]| pair[0] == "#[cfg(test)]" && is_module(pair[1]);
    while let Some(at) = lines.windows(2).position(is_test_module) {
        if lines[at + 1].ends_with(';') {
            lines.drain(at..at + 2);
        } else {
            lines.truncate(at);
        }
    }
    lines.retain(|line| !line.starts_with("//"));
    lines.join("\n")
}

/// Returns whether a line declares a module or is an attribute.
fn is_module(line: &str) -> bool {
    let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
    line.starts_with("mod ") || line.starts_with("#[")
}

/// Returns the words after `prefix` in `code`: `crate::word`, and each first
/// word in `crate::{…}`.
fn words_after(code: &str, prefix: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let preceded = code[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
        if preceded {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => words.extend(first_words(list)),
            None => words.push(word(rest)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Returns the first word of each item of a `use` list, up to its closing brace.
fn first_words(list: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut depth = 0;
    let mut item = String::new();
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => words.push(word(std::mem::take(&mut item).trim())),
            _ if depth == 0 => item.push(character),
            _ => {}
        }
    }
    words.push(word(item.trim()));
    words
}

fn tier(module: &str) -> Option<usize> {
    TIERS.iter().position(|tier| tier.contains(&module))
}

#[test]
fn imports_point_down_only() {
    let mut broken = Vec::new();
    for source in program() {
        let first = source.name.split('/').next().unwrap();
        let module = first.trim_end_matches(".rs");
        let Some(own) = tier(module) else {
            broken.push(format!("{}: {module} has no tier", source.name));
            continue;
        };
        let mut used = words_after(&source.code, "crate::");
        // In a file that is directly in `src`, or in a `mod.rs`, `super` may be the crate root.
        if source.name.matches('/').count() == 0 || source.name.ends_with("mod.rs") {
            let mut outer = words_after(&source.code, "super::");
            outer.retain(|word| tier(word).is_some());
            if source.name.matches('/').count() <= 1 {
                used.extend(outer);
            }
        }
        used.sort_unstable();
        used.dedup();
        for other in used {
            match tier(&other) {
                None if other == module => {}
                None => broken.push(format!("{}: {other} has no tier", source.name)),
                Some(_) if other == module => {}
                Some(theirs) if theirs > own => {}
                Some(_) => broken.push(format!("{}: {module} uses {other}", source.name)),
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_map_in_main_rs_has_all_modules_in_their_tiers() {
    let text = std::fs::read_to_string(root().join("src/main.rs")).unwrap();
    let mut tiers: Vec<Vec<&str>> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("//! ")) {
        if line.starts_with(|first: char| first.is_ascii_digit()) {
            tiers.push(Vec::new());
        } else if let Some(entry) = line.trim_start().strip_prefix("- ") {
            let name = entry.split('`').nth(1).unwrap();
            tiers.last_mut().unwrap().push(name);
        }
    }
    for (number, (map, tier)) in tiers.iter().zip(&TIERS).enumerate() {
        let (mut map, mut tier) = (map.clone(), tier.to_vec());
        map.sort_unstable();
        tier.sort_unstable();
        assert_eq!(map, tier, "tier {} of the map", number + 1);
    }
    assert_eq!(tiers.len(), TIERS.len());
}

/// Returns the files whose code contains `needle` as a separate path.
fn naming(sources: Vec<Source>, needle: &str) -> Vec<String> {
    sources
        .into_iter()
        .filter(|source| {
            source.code.match_indices(needle).any(|(at, _)| {
                !source.code[..at]
                    .chars()
                    .next_back()
                    .is_some_and(|c| c.is_alphanumeric() || c == '_')
            })
        })
        .map(|source| source.path())
        .collect()
}

fn verifier() -> Vec<Source> {
    sources(&root().join("crates/verify/src"))
}

#[test]
fn only_verified_paths_make_peer_identities() {
    for file in naming(program(), "from_verified") {
        assert!(
            file.starts_with("crates/core/src/trust/")
                || file == "crates/core/src/identity/peer.rs",
            "{file} makes a PeerIdentity"
        );
    }
}

#[test]
fn one_module_per_crate_names_the_cryptography() {
    for needle in ["ring::", "aws_lc_rs::"] {
        for file in naming(program(), needle) {
            assert_eq!(file, "crates/core/src/crypto.rs", "{needle}");
        }
        for file in naming(verifier(), needle) {
            assert_eq!(file, "crates/verify/src/crypto.rs", "{needle}");
        }
    }
}

#[test]
fn one_module_per_crate_reads_the_clock() {
    for needle in [
        "SystemTime::now",
        "OffsetDateTime::now_utc",
        "UnixTime::now",
    ] {
        for file in naming(program(), needle) {
            assert_eq!(file, "crates/core/src/clock.rs", "{needle}");
        }
        for file in naming(verifier(), needle) {
            assert_eq!(file, "crates/verify/src/clock.rs", "{needle}");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for folder in ["src", "crates", "tests"] {
        let mut paths = Vec::new();
        collect(&root().join(folder), &mut paths);
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("//!"),
                "{} has no //! head",
                path.display()
            );
        }
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let code = production_code(
        "//! [`crate::cli`]\n#[cfg(test)]\nmod fixture;\nuse crate::clock;\n\
         use crate::{reason::{A, B}, secret};\n\
         fn f() { crate::tls::g(); $crate::no(); }\n#[cfg(test)]\nmod tests {\nuse crate::app;\n}",
    );
    assert_eq!(
        words_after(&code, "crate::"),
        ["clock", "reason", "secret", "tls"]
    );
}

#[test]
fn paths_of_a_crate_that_is_a_module_are_read_as_paths_below_it() {
    assert_eq!(
        with_module("use crate::store::a;\nuse crate::clock;\nsuper::b", "pki"),
        "use crate::pki::store::a;\nuse crate::clock;\nsuper::b"
    );
    let files = |module: &str| {
        let named = |source: &&Source| source.name.starts_with(module);
        program().iter().filter(named).count()
    };
    assert!(files("pki/") > 20 && files("proxy/wire/") > 10 && files("app/") > 5);
}

#[test]
fn every_crate_is_known_to_these_tests() {
    let mut found: Vec<String> = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort_unstable();
    let mut known = [&MODULE_CRATES[..], &OTHER_CRATES[..]].concat();
    known.sort_unstable();
    assert_eq!(found, known);
}
