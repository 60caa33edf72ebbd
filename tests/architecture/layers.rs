//! The files of one module must not import each other in a cycle, and its folders form layers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, program, root, sources, word};

/// The checked modules, each with its folders from top to bottom. `""` stands for the files above
/// all folders. A folder may import only from folders after it. A name with a slash is a folder of
/// sources outside the program.
const LAYERED: &[(&str, &[&str])] = &[
    (
        "cli",
        &["", "explain", "check", "pki", "probe", "demo", "common"],
    ),
    ("app", &["", "reload"]),
    (
        "proxy",
        &[
            "",
            "gateway_routes",
            "response",
            "forward",
            "stages",
            "connection",
            "wire",
            "task",
        ],
    ),
    ("admin", &[""]),
    ("snapshot", &[""]),
    ("route", &[""]),
    ("assertion", &[""]),
    (
        "upstream",
        &["", "pool", "balance", "connection", "limits", "config"],
    ),
    ("policy", &[""]),
    ("telemetry", &["", "metrics"]),
    ("identity", &[""]),
    (
        "trust",
        &["", "deny_list", "path", "revocation", "certificate"],
    ),
    ("tls", &[""]),
    ("authn", &["", "token"]),
    (
        "config",
        &["", "resolve", "material", "document", "diagnostics"],
    ),
    (
        "pki",
        // The unit tests in `kill_tests` use everything, and nothing uses them.
        &[
            "kill_tests",
            "",
            "fixtures",
            "files",
            "records",
            "signing",
            "lint",
            "store",
        ],
    ),
    ("connection_slots", &[""]),
    ("crypto", &[""]),
    ("pem", &[""]),
    ("h2_frames", &[""]),
    ("crates/testkit/src", &[""]),
    ("crates/testkit/src/bin/load", &[""]),
    ("crates/testkit/src/bin/siege", &[""]),
    ("crates/testkit/src/bin/soak", &[""]),
];

/// The path of a module in its crate, for example `["proxy", "wire", "head"]`.
type ModulePath = Vec<String>;

/// The imports between the files of a module. The names of files are their paths below `src`.
#[derive(Debug, Default)]
struct Imports(BTreeMap<String, BTreeSet<String>>);

impl Imports {
    /// Reads the imports of a module's files. `files` are pairs of a path below `src` and the code.
    fn read(files: &[(&str, &str)]) -> Self {
        let modules: BTreeMap<ModulePath, &str> = files
            .iter()
            .map(|(name, _)| (module_path(name), *name))
            .collect();
        let mut imports = Self::default();
        for (name, code) in files {
            let own = module_path(name);
            let used = imported_paths(code, &own, &modules)
                .iter()
                .filter_map(|path| resolve(path, &modules))
                .filter(|other| other != name)
                .map(str::to_owned)
                .collect();
            imports.0.insert((*name).to_owned(), used);
        }
        imports
    }

    /// Returns all files that `from` imports, directly or through other files.
    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut pending = vec![from];
        while let Some(file) = pending.pop() {
            for next in self.0.get(file).into_iter().flatten() {
                if reached.insert(next.as_str()) {
                    pending.push(next);
                }
            }
        }
        reached
    }

    /// Returns the groups of files that import each other in a cycle.
    fn cycles(&self) -> BTreeSet<Vec<&str>> {
        self.0
            .keys()
            .filter_map(|file| {
                let reached = self.reachable(file);
                let is_mutual = |other: &&str| self.reachable(other).contains(file.as_str());
                reached.contains(file.as_str()).then(|| {
                    let cycle = reached.iter().copied().filter(is_mutual);
                    cycle.collect()
                })
            })
            .collect()
    }

    /// Returns the imports that lead to an earlier folder of `folders`.
    fn upward(&self, module: &str, folders: &[&str]) -> Vec<String> {
        let layer = |file: &str| {
            let rest = file.strip_prefix(module).unwrap_or(file);
            let folder = match rest.trim_start_matches('/').split_once('/') {
                Some((folder, _)) => folder,
                None => "",
            };
            folders.iter().position(|known| *known == folder)
        };
        let mut upward = Vec::new();
        for (file, used) in &self.0 {
            let Some(own) = layer(file) else {
                upward.push(format!("{file} is in a folder without a layer"));
                continue;
            };
            for other in used {
                if layer(other).is_some_and(|other| other < own) {
                    upward.push(format!("{file} imports {other}"));
                }
            }
        }
        upward
    }
}

fn module_path(file: &str) -> ModulePath {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    stem.split('/').map(str::to_owned).collect()
}

/// Returns the file of the innermost module on a path.
fn resolve<'a>(path: &[String], modules: &BTreeMap<ModulePath, &'a str>) -> Option<&'a str> {
    (1..=path.len())
        .rev()
        .find_map(|length| modules.get(&path[..length]).copied())
}

/// Returns the absolute paths in the `code` of module `own`: paths that begin with
/// `crate`, `super` or `self`, with a module that the file declares, or with an imported
/// module.
fn imported_paths(
    code: &str,
    own: &[String],
    modules: &BTreeMap<ModulePath, &str>,
) -> Vec<ModulePath> {
    let parent = &own[..own.len() - 1];
    let mut paths = Vec::new();
    for (start, base) in [("crate::", &[][..]), ("super::", parent), ("self::", own)] {
        for rest in occurrences(code, start) {
            tree(rest, base, &mut paths);
        }
    }
    let is_module = |path: &&ModulePath| modules.contains_key(*path);
    let declared = modules
        .keys()
        .filter(|path| path.len() == own.len() + 1 && path.starts_with(own));
    let named: BTreeSet<ModulePath> = declared
        .chain(paths.iter().filter(is_module))
        .cloned()
        .collect();
    for base in named {
        let Some(name) = base.last() else { continue };
        for rest in occurrences(code, &format!("{name}::")) {
            tree(rest, &base, &mut paths);
        }
    }
    paths
}

/// Returns the text after each place where `start` begins a separate path.
fn occurrences<'a>(code: &'a str, start: &str) -> impl Iterator<Item = &'a str> {
    code.match_indices(start).filter_map(|(at, found)| {
        let before = &code[..at];
        // The text is part of a longer path, or of a visibility.
        let is_other = before.ends_with("(in ")
            || before
                .chars()
                .next_back()
                .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
        (!is_other).then(|| &code[at + found.len()..])
    })
}

/// Adds the paths of the `use` tree, or the path, at the beginning of `text`. Returns the
/// text after it.
fn tree<'a>(text: &'a str, base: &[String], paths: &mut Vec<ModulePath>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            match rest.strip_prefix('}') {
                Some(after) => return after,
                None if rest.is_empty() => return rest,
                None => rest = tree(rest, base, paths).trim_start(),
            }
            // Skips the alias, because the rest of the tree does not use it.
            if let Some(alias) = rest.strip_prefix("as ") {
                rest = &alias[word(alias.trim_start()).len()..];
            }
            rest = rest.trim_start().trim_start_matches(',');
        }
    }
    let name = word(text);
    if name.is_empty() {
        // A glob imports from the module before it.
        if text.starts_with('*') {
            paths.push(base.to_vec());
        }
        return text.get(1..).unwrap_or_default();
    }
    let rest = &text[name.len()..];
    let path = match name.as_str() {
        "self" => base.to_vec(),
        "super" => base[..base.len().saturating_sub(1)].to_vec(),
        _ => [base, std::slice::from_ref(&name)].concat(),
    };
    match rest.strip_prefix("::") {
        Some(inner) if !inner.starts_with('<') => tree(inner, &path, paths),
        _ => {
            paths.push(path);
            rest
        }
    }
}

/// Returns the files of one entry of the table. The names are paths below the sources.
fn files_of(module: &str) -> Vec<Source> {
    if module.contains('/') {
        // The programs in `bin` are separate entries of the table.
        let mut files = sources(&root().join(module));
        files.retain(|source| !source.name.starts_with("bin/"));
        return files;
    }
    let belongs = |name: &str| {
        let first = name.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first) == module
    };
    program()
        .into_iter()
        .filter(|source| belongs(&source.name))
        .collect()
}

fn imports_of(module: &str) -> Imports {
    let files = files_of(module);
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|source| (source.name.as_str(), source.code.as_str()))
        .collect();
    assert!(!files.is_empty(), "{module} has no files");
    Imports::read(&files)
}

#[test]
fn files_of_a_layered_module_import_each_other_in_no_cycle() {
    for (module, _) in LAYERED {
        let imports = imports_of(module);
        let cycles: Vec<String> = imports
            .cycles()
            .iter()
            .map(|cycle| format!("{} files: {}", cycle.len(), cycle.join(" ")))
            .collect();
        assert!(
            cycles.is_empty(),
            "import cycles in {module}:\n{}",
            cycles.join("\n")
        );
    }
}

#[test]
fn all_modules_with_a_folder_are_layered() {
    for source in program() {
        if let Some((name, _)) = source.name.split_once('/') {
            let is_known = LAYERED.iter().any(|(module, _)| *module == name);
            assert!(is_known, "{name} is not in LAYERED");
        }
    }
}

#[test]
fn folders_of_a_layered_module_import_from_lower_ones_only() {
    for (module, folders) in LAYERED {
        let upward = imports_of(module).upward(module, folders);
        assert!(upward.is_empty(), "{}", upward.join("\n"));
    }
}

#[test]
fn a_cycle_is_found_in_whatever_form_it_is_imported() {
    let files = [
        ("net/mod.rs", "pub mod server;\npub mod codec;"),
        ("net/server.rs", "use super::codec::{Codec, frame::Frame};"),
        ("net/codec/mod.rs", "mod frame;\nuse frame::Frame as F;"),
        ("net/codec/frame.rs", "use crate::net::{buffer as b};"),
        ("net/buffer.rs", "fn f() { crate::net::server::g() }"),
        ("net/client.rs", "use super::{server, buffer::{self}};"),
    ];
    let imports = Imports::read(&files);
    let cycle = vec![
        "net/buffer.rs",
        "net/codec/frame.rs",
        "net/codec/mod.rs",
        "net/server.rs",
    ];
    assert_eq!(imports.cycles(), BTreeSet::from([cycle]));
    let used = |file: &str| {
        let used = imports.0[file].iter();
        used.map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(
        used("net/server.rs"),
        ["net/codec/frame.rs", "net/codec/mod.rs"]
    );
    assert_eq!(used("net/codec/mod.rs"), ["net/codec/frame.rs"]);
    assert_eq!(used("net/client.rs"), ["net/buffer.rs", "net/server.rs"]);
    assert!(used("net/mod.rs").is_empty());
}

#[test]
fn a_module_that_is_imported_by_name_is_followed() {
    let files = [
        ("net/mod.rs", ""),
        (
            "net/server.rs",
            "use super::codec;\nfn f() { codec::frame::read() }",
        ),
        ("net/codec/mod.rs", "pub mod frame;"),
        ("net/codec/frame.rs", "use super::super::server::Limits;"),
    ];
    let cycle = vec!["net/codec/frame.rs", "net/server.rs"];
    assert_eq!(Imports::read(&files).cycles(), BTreeSet::from([cycle]));
}

#[test]
fn files_without_a_cycle_pass() {
    let files = [
        ("net/mod.rs", "pub mod server;"),
        (
            "net/server.rs",
            "use super::codec::Codec;\nuse super::buffer;",
        ),
        (
            "net/codec.rs",
            "pub(in crate::net) use super::buffer::Buffer;",
        ),
        ("net/buffer.rs", "use crate::clock;\nuse std::net::server;"),
    ];
    assert!(Imports::read(&files).cycles().is_empty());
}

#[test]
fn an_import_from_a_higher_folder_is_found() {
    let files = [
        ("net/mod.rs", "pub mod server;\npub mod codec;"),
        ("net/listener.rs", "use super::codec::frame::Frame;"),
        (
            "net/codec/frame.rs",
            "use crate::net::server::state::State;",
        ),
        (
            "net/server/state.rs",
            "use crate::net::codec::frame::Frame;",
        ),
        ("net/tools/trace.rs", ""),
    ];
    let upward = Imports::read(&files).upward("net", &["", "server", "codec"]);
    assert_eq!(
        upward,
        [
            "net/codec/frame.rs imports net/server/state.rs",
            "net/tools/trace.rs is in a folder without a layer",
        ]
    );
}
