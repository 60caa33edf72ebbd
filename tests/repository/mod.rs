//! The repository must contain no private keys, and its documents must agree with the code.

pub(crate) mod audit_members;
mod map;
mod metrics;
mod profiles;
mod verify_examples;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the files under version control. Without git, returns all files outside of build
/// folders.
fn files(root: &Path) -> Vec<PathBuf> {
    let tracked = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output();
    match tracked {
        Ok(output) if output.status.success() && root.join(".git").exists() => output
            .stdout
            .split(|octet| *octet == 0)
            .filter(|name| !name.is_empty())
            .map(|name| root.join(String::from_utf8_lossy(name).as_ref()))
            .filter(|path| path.is_file())
            .collect(),
        _ => {
            let mut found = Vec::new();
            walk(root, &mut found);
            found
        }
    }
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if !["target", ".git", "node_modules"]
                .iter()
                .any(|skipped| name == *skipped)
            {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// Returns whether a text contains a PEM private key: a BEGIN line and then base64. A test that
/// contains only the BEGIN line is allowed.
fn holds_private_key(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let begins = line.starts_with("-----BEGIN ") && line.ends_with("PRIVATE KEY-----");
        if begins
            && lines.next().is_some_and(|next| {
                next.len() >= 40
                    && next
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
            })
        {
            return true;
        }
    }
    false
}

#[test]
fn no_private_key_is_committed() {
    let root = crate::support::root();
    let files = files(&root);
    assert!(files.len() > 20, "only {} files were found", files.len());
    for path in files {
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let is_key_file = extension
            .as_deref()
            .is_some_and(|e| ["key", "p12", "pfx", "jks"].contains(&e));
        assert!(!is_key_file, "{} looks like a key file", path.display());
        let content = std::fs::read(&path).unwrap();
        assert!(
            !holds_private_key(&String::from_utf8_lossy(&content)),
            "{} holds a private key",
            path.display()
        );
    }
}

#[test]
fn a_key_is_recognised() {
    let line = "A".repeat(64);
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        assert!(holds_private_key(&format!(
            "x\n-----BEGIN {label}-----\n{line}\n-----END {label}-----\n"
        )));
    }
    assert!(!holds_private_key("-----BEGIN PRIVATE KEY-----\n"));
}
