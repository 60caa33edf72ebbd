//! The files of one module: no imports in a circle, and folders in layers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, root, sources, word};

/// Modules whose files are checked, each with its folders from top to bottom; `""` stands
/// for the files above all folders. A folder imports from those after it only.
const LAYERED: &[(&str, &[&str])] = &[(
    "proxy",
    &[
        "",
        "response",
        "forward",
        "stages",
        "connection",
        "wire",
        "task",
    ],
)];

/// Path of a module below the crate, as `["proxy", "wire", "head"]`.
type ModulePath = Vec<String>;

/// Which files of a module import which others. Files are named by their path below `src`.
#[derive(Debug, Default)]
struct Imports(BTreeMap<String, BTreeSet<String>>);

impl Imports {
    /// Reads the imports of a module's files: pairs of a path below `src` and the code.
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

    /// All files that `from` imports, directly or through others.
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

    /// Groups of files that import each other in a circle.
    fn circles(&self) -> BTreeSet<Vec<&str>> {
        self.0
            .keys()
            .filter_map(|file| {
                let reached = self.reachable(file);
                let is_mutual = |other: &&str| self.reachable(other).contains(file.as_str());
                reached.contains(file.as_str()).then(|| {
                    let circle = reached.iter().copied().filter(is_mutual);
                    circle.collect()
                })
            })
            .collect()
    }

    /// Imports that do not lead to the same or to a later folder of `folders`.
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

/// The file of the innermost module on a path.
fn resolve<'a>(path: &[String], modules: &BTreeMap<ModulePath, &'a str>) -> Option<&'a str> {
    (1..=path.len())
        .rev()
        .find_map(|length| modules.get(&path[..length]).copied())
}

/// Absolute paths that `code` of module `own` names: those that begin with `crate`,
/// `super` or `self`, with a module declared in the file, or with one that is imported by
/// name.
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

/// What follows each place where `start` begins a path of its own.
fn occurrences<'a>(code: &'a str, start: &str) -> impl Iterator<Item = &'a str> {
    code.match_indices(start).filter_map(|(at, found)| {
        let before = &code[..at];
        // Part of a longer path, or a visibility.
        let is_other = before.ends_with("(in ")
            || before
                .chars()
                .next_back()
                .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
        (!is_other).then(|| &code[at + found.len()..])
    })
}

/// Adds the paths of a `use` tree, or the one path, that `text` begins with; returns what
/// follows it.
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
            // An alias, which no path of this tree begins with.
            if let Some(alias) = rest.strip_prefix("as ") {
                rest = &alias[word(alias.trim_start()).len()..];
            }
            rest = rest.trim_start().trim_start_matches(',');
        }
    }
    let name = word(text);
    if name.is_empty() {
        // A glob, or the end of the input.
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

/// The files of one top-level module, named by their path below `src`.
fn files_of(module: &str) -> Vec<Source> {
    let belongs = |name: &str| {
        let first = name.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first) == module
    };
    sources(&root().join("src"))
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
fn files_of_a_layered_module_do_not_import_each_other_in_a_circle() {
    for (module, _) in LAYERED {
        let imports = imports_of(module);
        let circles = imports.circles();
        let texts: Vec<String> = circles
            .iter()
            .map(|circle| format!("{} files: {}", circle.len(), circle.join(" ")))
            .collect();
        assert!(
            texts.is_empty(),
            "files of {module} import each other in a circle:\n{}",
            texts.join("\n")
        );
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
fn a_circle_is_found_in_whatever_form_it_is_imported() {
    let files = [
        ("house/mod.rs", "pub mod attic;\npub mod hall;"),
        ("house/attic.rs", "use super::hall::{Door, stairs::Step};"),
        ("house/hall/mod.rs", "mod stairs;\nuse stairs::Step as S;"),
        ("house/hall/stairs.rs", "use crate::house::{cellar as c};"),
        ("house/cellar.rs", "fn f() { crate::house::attic::g() }"),
        ("house/shed.rs", "use super::{attic, cellar::{self}};"),
    ];
    let imports = Imports::read(&files);
    let circle = vec![
        "house/attic.rs",
        "house/cellar.rs",
        "house/hall/mod.rs",
        "house/hall/stairs.rs",
    ];
    assert_eq!(imports.circles(), BTreeSet::from([circle]));
    let used = |file: &str| {
        imports.0[file]
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        used("house/attic.rs"),
        ["house/hall/mod.rs", "house/hall/stairs.rs"]
    );
    assert_eq!(used("house/hall/mod.rs"), ["house/hall/stairs.rs"]);
    assert_eq!(used("house/shed.rs"), ["house/attic.rs", "house/cellar.rs"]);
    assert!(used("house/mod.rs").is_empty());
}

#[test]
fn a_module_that_is_imported_by_name_is_followed() {
    let files = [
        ("house/mod.rs", ""),
        (
            "house/attic.rs",
            "use super::hall;\nfn f() { hall::stairs::up() }",
        ),
        ("house/hall/mod.rs", "pub mod stairs;"),
        ("house/hall/stairs.rs", "use super::super::attic::Window;"),
    ];
    let circle = vec!["house/attic.rs", "house/hall/stairs.rs"];
    assert_eq!(Imports::read(&files).circles(), BTreeSet::from([circle]));
}

#[test]
fn an_import_from_a_higher_folder_is_found() {
    let files = [
        ("house/mod.rs", "pub mod attic;\npub mod hall;"),
        ("house/door.rs", "use super::hall::stairs::Step;"),
        (
            "house/hall/stairs.rs",
            "use crate::house::attic::beam::Wood;",
        ),
        (
            "house/attic/beam.rs",
            "use crate::house::hall::stairs::Step;",
        ),
        ("house/shed/rake.rs", ""),
    ];
    let upward = Imports::read(&files).upward("house", &["", "attic", "hall"]);
    assert_eq!(
        upward,
        [
            "house/hall/stairs.rs imports house/attic/beam.rs",
            "house/shed/rake.rs is in a folder without a layer",
        ]
    );
}
