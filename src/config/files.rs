//! Reading the files a configuration names, and remembering which they are.
//!
//! Relative paths start at the directory of the configuration file. Every
//! failure names the file, the key that names it, and what to do. What the
//! content means is decided in [`super::resolve`].

use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::diagnostics::{ConfigErrors, Diagnostic, Diagnostics};
use super::value::At;
use crate::look::{Look, Looks};
use crate::secret::Secret;

/// Reads the configuration file itself.
pub(super) fn read_configuration(path: &Path) -> Result<String, ConfigErrors> {
    let refuse = |message: String, help: &str| {
        ConfigErrors::whole(path, Diagnostic::whole(message).help(help))
    };
    let bytes = fs::read(path).map_err(|error| {
        refuse(
            format!("cannot read the configuration file: {error}"),
            "name another one with --config FILE, or make one with: countersign init",
        )
    })?;
    String::from_utf8(bytes).map_err(|_| {
        refuse(
            "the configuration file is not UTF-8 text".to_owned(),
            "save it as UTF-8; it is a TOML file",
        )
    })
}

/// Reads files and remembers which.
#[derive(Debug)]
pub(super) struct Files {
    base: PathBuf,
    seen: Vec<(PathBuf, Option<Look>)>,
}

impl Files {
    /// Relative paths start where the configuration file is, which looked so
    /// before it was read.
    pub(super) fn beside(configuration: &Path, look: Option<Look>) -> Self {
        let base = configuration.parent().map(Path::to_owned);
        Self {
            base: base.unwrap_or_default(),
            seen: vec![(configuration.to_owned(), look)],
        }
    }

    /// Files read so far, and directories whose content was listed; and what they
    /// looked like before that, so that a change meanwhile is noticed.
    pub(super) fn into_seen(self) -> (Vec<PathBuf>, Looks) {
        let mut paths = Vec::with_capacity(self.seen.len());
        let mut looks = Looks::new();
        for (path, look) in self.seen {
            if let Entry::Vacant(place) = looks.entry(path) {
                paths.push(place.key().clone());
                place.insert(look);
            }
        }
        (paths, looks)
    }

    /// Where a written path leads.
    pub(super) fn locate(&self, written: &str) -> PathBuf {
        self.base.join(written)
    }

    /// Remembers a file or directory that somebody else is about to read.
    pub(super) fn remember(&mut self, path: &Path) {
        self.seen.push((path.to_owned(), Look::at(path)));
    }

    /// Reads a file.
    pub(super) fn read(
        &mut self,
        written: &At<String>,
        path: &Path,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<u8>> {
        self.remember(path);
        match read_regular(path) {
            Ok(bytes) if bytes.is_empty() => {
                diagnostics.error(
                    Diagnostic::new(
                        written.place.clone(),
                        format!("{} is empty", path.display()),
                    )
                    .label("this file")
                    .help("write the file again, or name another one"),
                );
                None
            }
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::NotFound => {
                        "check the path; relative paths start at the directory of the configuration file"
                    }
                    io::ErrorKind::PermissionDenied => "let the user that runs countersign read it",
                    _ => "name a readable file",
                };
                diagnostics.error(
                    Diagnostic::new(
                        written.place.clone(),
                        format!("cannot read {}: {error}", path.display()),
                    )
                    .label("this file")
                    .help(remedy),
                );
                None
            }
        }
    }

    /// Reads a private key file; warns when others than its owner can read it.
    pub(super) fn read_private(
        &mut self,
        written: &At<String>,
        path: &Path,
        diagnostics: &mut Diagnostics,
    ) -> Option<Secret> {
        let bytes = self.read(written, path, diagnostics).map(Secret::new)?;
        let open_to_others = fs::metadata(path)
            .map(|metadata| metadata.permissions().mode() & 0o077 != 0)
            .unwrap_or(false);
        if open_to_others {
            diagnostics.warn(
                Diagnostic::new(
                    written.place.clone(),
                    format!(
                        "others than its owner may read the private key {}",
                        path.display()
                    ),
                )
                .help(format!("chmod 600 {}", path.display())),
            );
        }
        Some(bytes)
    }

    /// The files a written path stands for: itself, or with `*` in the file
    /// name every file of the directory that matches, in alphabetical order.
    pub(super) fn expand(
        &mut self,
        written: &At<String>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<PathBuf>> {
        let path = self.locate(&written.value);
        if !written.value.contains('*') {
            return Some(vec![path]);
        }
        let refuse = |message: String, help: &str| {
            Diagnostic::new(written.place.clone(), message).help(help)
        };
        let (directory, pattern) = match (path.parent(), path.file_name().and_then(|n| n.to_str()))
        {
            (Some(directory), Some(pattern)) if !directory.to_string_lossy().contains('*') => {
                (directory, pattern)
            }
            _ => {
                diagnostics.error(refuse(
                    "'*' may stand in the file name only".to_owned(),
                    "name the directories one by one",
                ));
                return None;
            }
        };
        self.remember(directory);
        match matching(directory, pattern) {
            Err(error) => {
                diagnostics.error(refuse(
                    format!("cannot list {}: {error}", directory.display()),
                    "check the path; relative paths start at the directory of the configuration file",
                ));
                None
            }
            Ok(found) if found.is_empty() => {
                diagnostics.error(refuse(
                    format!("no file matches {}", path.display()),
                    "put the files there, or leave the pattern out",
                ));
                None
            }
            Ok(found) => Some(found),
        }
    }
}

/// A device or pipe could block or never end.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() {
            "it is a directory"
        } else {
            "it is not a regular file"
        };
        return Err(io::Error::other(what));
    }
    fs::read(path)
}

fn matching(directory: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let listed = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    for entry in fs::read_dir(listed)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = directory.join(name);
        // Hidden names are working copies of editors and of mounted volumes.
        if !name.starts_with('.') && glob(pattern, name) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name matches a pattern in which `*` is any run of characters.
fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(tail) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(tail)
}

/// The labels of the PEM blocks in a file, for example `CERTIFICATE`.
pub(super) fn pem_labels(bytes: &[u8]) -> Vec<String> {
    // Octet by octet: what is read may be megabytes of something else.
    bytes
        .split(|octet| *octet == b'\n')
        .filter_map(|line| {
            let label = line
                .trim_ascii()
                .strip_prefix(b"-----BEGIN ")?
                .strip_suffix(b"-----")?;
            Some(String::from_utf8_lossy(label).into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run() {
        for (pattern, name, matches) in [
            ("*.crl", "a.crl", true),
            ("*.crl", ".crl", true),
            ("*.crl", "a.crl.bak", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*", "x", true),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn labels_of_blocks_are_found() {
        let text = b"Bag\n-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\n";
        assert_eq!(pem_labels(text), ["CERTIFICATE", "EC PRIVATE KEY"]);
        assert!(pem_labels(&[0x30, 0x82, 0xff]).is_empty());
    }
}
