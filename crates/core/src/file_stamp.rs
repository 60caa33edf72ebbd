//! `FileStamp`: data that `stat` returns for a file. If two stamps of a file differ, the file has
//! changed.
//!
//! Taking a stamp does not read the file's content. It follows links, so that atomic renames and
//! replaced symbolic links are noticed on every file system. If a file system hangs, the calling
//! thread blocks. Never take a stamp on a thread that runs tasks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::descriptors::open_with_spare;

/// The state of a file or directory when the stamp was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// The time of the last status change (ctime). It changes even if a program writes the file and
    /// sets the modification time back, as archive programs do. It also changes if the permissions
    /// or the owner change, because an unreadable file may then become readable.
    changed: (i64, i64),
    /// The sorted names in a directory. Empty for a file.
    names: Vec<OsString>,
}

/// The stamp of each of several paths. `None` if there is no file at the path.
pub type FileStamps = BTreeMap<PathBuf, Option<FileStamp>>;

impl FileStamp {
    /// Takes the stamp of the file or directory at `path`. Returns `None` if there is none, or if
    /// it cannot be read. The stamp of a directory contains only the names in the directory. A log
    /// file that grows in the directory therefore does not change the directory's stamp.
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

/// Takes new stamps of the paths in `stamps`.
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

        // The stamp changes if the permissions change, and if the content changes but the
        // modification time is set back.
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

        // Kubernetes updates a mounted volume by replacing a link to a directory, as this test
        // does.
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
