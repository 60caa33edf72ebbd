//! `FileStamp`: the `stat` data of a file. It shows whether the file has changed.
//!
//! No content is read. Links are followed, so that atomic renames and replaced
//! symbolic links are noticed on every kind of file system. If a file system hangs,
//! it blocks the calling thread. Never call this on a thread of a runtime.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::descriptors::open_with_spare;

/// The state of one file or directory when its stamp was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// The time of the last status change. It also changes if a program restores an
    /// old modification time, as archive programs do, and if permissions or the
    /// owner change: an unreadable file may be readable now.
    changed: (i64, i64),
    /// The names in a directory. Empty for a file.
    names: Vec<OsString>,
}

/// The stamps of several paths; `None` for a path at which there is no file.
pub type FileStamps = BTreeMap<PathBuf, Option<FileStamp>>;

impl FileStamp {
    /// Takes the stamp of a file or directory; `None` if there is none. Of a
    /// directory only the names are recorded, so that the growth of a log file in it
    /// is not a change.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let is_directory = metadata.is_dir();
        let mut names: Vec<OsString> = match is_directory {
            true => open_with_spare(|| fs::read_dir(path))
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
            changed: match is_directory {
                true => (0, 0),
                false => (metadata.ctime(), metadata.ctime_nsec()),
            },
            names,
        })
    }
}

/// Takes the stamps of the same files again.
#[must_use]
pub fn take_again(stamps: &FileStamps) -> FileStamps {
    stamps
        .keys()
        .map(|path| (path.clone(), FileStamp::at(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_at(files: &[PathBuf]) -> FileStamps {
        take_again(&files.iter().map(|path| (path.clone(), None)).collect())
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
        assert_eq!(take_again(&before), before);

        fs::write(directory.path().join("log"), "x").unwrap();
        assert_eq!(look_at(&watched), before);

        fs::write(directory.path().join("b"), "1").unwrap();
        fs::rename(directory.path().join("b"), &file).unwrap();
        let renamed = look_at(&watched);
        assert_ne!(renamed, before);

        // A file that became readable, and a file whose modification time was set to
        // an earlier time.
        let mut permissions = fs::metadata(&file).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        fs::set_permissions(&file, permissions).unwrap();
        let permitted = look_at(&watched);
        assert_ne!(permitted, renamed);
        fs::write(&file, "2").unwrap();
        let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_times(times)
            .unwrap();
        let set_back = look_at(&watched);
        fs::write(&file, "3").unwrap();
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_times(times)
            .unwrap();
        assert_ne!(look_at(&watched), set_back);
        let renamed = look_at(&watched);

        fs::write(lists.join("new.crl"), "x").unwrap();
        assert_ne!(look_at(&watched), renamed);

        // Kubernetes replaces a mounted volume like this: a link to a directory
        // changes.
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
