//! What files look like from outside, to notice that they have changed.
//!
//! Nothing is read. Following links, it sees atomic renames and swapped symbolic
//! links on every kind of file system.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Names in a directory; empty for a file.
    names: Vec<OsString>,
}

/// Several of them; none where there is nothing.
pub type Looks = BTreeMap<PathBuf, Option<Look>>;

impl Look {
    /// Of a directory names are what matters: a log written into it changes
    /// neither them nor anything that is read. None where there is nothing.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let is_directory = metadata.is_dir();
        let mut names: Vec<OsString> = match is_directory {
            true => fs::read_dir(path)
                .ok()?
                .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
                .collect(),
            false => Vec::new(),
        };
        names.sort();
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: if is_directory { 0 } else { metadata.len() },
            modified: match is_directory {
                true => (0, 0),
                false => (metadata.mtime(), metadata.mtime_nsec()),
            },
            names,
        })
    }
}

/// Looks at the same files again.
#[must_use]
pub fn again(looks: &Looks) -> Looks {
    looks
        .keys()
        .map(|path| (path.clone(), Look::at(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_at(files: &[PathBuf]) -> Looks {
        again(&files.iter().map(|path| (path.clone(), None)).collect())
    }

    #[test]
    fn sees_renames_links_and_new_names_but_not_logs() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        let lists = directory.path().join("lists");
        fs::create_dir(&lists).unwrap();
        fs::write(&file, "1").unwrap();
        let watched = [file.clone(), lists.clone()];
        let before = look_at(&watched);
        assert_eq!(again(&before), before);

        fs::write(directory.path().join("log"), "x").unwrap();
        assert_eq!(look_at(&watched), before);

        fs::write(directory.path().join("b"), "1").unwrap();
        fs::rename(directory.path().join("b"), &file).unwrap();
        let renamed = look_at(&watched);
        assert_ne!(renamed, before);

        fs::write(lists.join("new.crl"), "x").unwrap();
        assert_ne!(look_at(&watched), renamed);

        // As Kubernetes swaps a mounted volume: a link to a directory changes.
        for name in ["one", "two"] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("f"), "same").unwrap();
        }
        let link = directory.path().join("..data");
        std::os::unix::fs::symlink("one", &link).unwrap();
        let watched = [link.join("f")];
        let before = look_at(&watched);
        let swapped = directory.path().join("tmp");
        std::os::unix::fs::symlink("two", &swapped).unwrap();
        fs::rename(&swapped, &link).unwrap();
        assert_ne!(look_at(&watched), before);
    }
}
