//! `FileAccess`: the owner, group and mode of a file. A file that replaces another file gets the
//! same owner, group and mode. So the programs that could read the old file can read the new file.
//!
//! Without this module, a command that root runs would replace another user's file by a file that
//! belongs to root.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// The mode bit that allows all users to read.
const WORLD_READABLE: u32 = 0o004;
/// The mode bits for users who are neither the owner nor in the group.
const FOR_ALL: u32 = 0o007;
/// The mode bits for the group.
const OF_GROUP: u32 = 0o070;
/// The mode bits that allow the group and other users to write. These users can create files in
/// such a directory, even at a path at which this program will later write a file.
const SHARED_WRITE: u32 = 0o022;
/// The name of the extended attribute that contains a POSIX access control list.
const ACCESS_CONTROL_LIST: &str = "system.posix_acl_access";

/// The owner, group and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileAccess {
    owner: u32,
    group: u32,
    mode: u32,
}

impl FileAccess {
    /// Returns the owner, group and mode of the regular file at `path`. Returns `None` if there is
    /// no regular file at this path.
    ///
    /// # Errors
    /// Returns the error of the operating system if the file cannot be examined.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        match path.metadata() {
            Ok(found) if found.is_file() => {
                let mut mode = found.mode() & 0o777;
                if has_access_control_list(path)? {
                    // With an access control list, the group bits of the mode are the mask of the
                    // list, and not the rights of the group. The list is not copied, so the group
                    // gets no rights.
                    mode &= !OF_GROUP;
                }
                Ok(Some(Self {
                    owner: found.uid(),
                    group: found.gid(),
                    mode,
                }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the owner, group and mode of a secret file that a new file will replace. Returns
    /// `None` if there is no regular file at `path`.
    ///
    /// # Errors
    /// Returns the same errors as [`Self::of`]. Also returns [`io::ErrorKind::PermissionDenied`]
    /// with a remedy if another user may have created the file in order to own the new secret. This
    /// is possible if users other than the directory's owner can write to the directory. It is not
    /// possible if the file belongs to this user or to the directory's owner.
    pub fn of_secret(path: &Path) -> io::Result<Option<Self>> {
        let Some(access) = Self::of(path)? else {
            return Ok(None);
        };
        let directory = parent(path).metadata()?;
        let is_shared = directory.mode() & SHARED_WRITE != 0;
        let own = rustix::process::geteuid().as_raw();
        let is_trusted = [own, directory.uid()].contains(&access.owner);
        if is_shared && !is_trusted {
            let owner = access.owner;
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "it belongs to user {owner}, who would own the new secret, and the directory is \
                     open for other users to write: remove the file, give it to the directory's \
                     owner, or close the directory (chmod go-w)"
                ),
            ));
        }
        Ok(Some(access))
    }

    /// Returns the access for a new file that root creates in the directory of another user: the
    /// owner and group of the directory, and `mode`. Returns `None` if this process does not run as
    /// root, if root owns the directory, or if the directory cannot be examined.
    #[must_use]
    pub fn inherited(directory: &Path, mode: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let found = directory.metadata().ok()?;
        (found.uid() != 0).then_some(Self {
            owner: found.uid(),
            group: found.gid(),
            mode,
        })
    }

    /// Limits the access to what is allowed for a secret: the owner may read and write, and the
    /// group may read. If other users had any access, the mode becomes 0600, because that access is
    /// assumed to be a mistake.
    #[must_use]
    pub const fn private(self) -> Self {
        let mode = match self.mode & FOR_ALL {
            0 => (self.mode & 0o640) | 0o400,
            _ => 0o600,
        };
        Self { mode, ..self }
    }

    /// Limits the access to what is allowed for a file without secrets: only the owner and the
    /// group may write.
    #[must_use]
    pub const fn public(self) -> Self {
        Self {
            mode: (self.mode & 0o775) | 0o400,
            ..self
        }
    }

    /// Gives this owner, group and mode to a new file.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::PermissionDenied`] with a remedy if this user cannot set the owner
    /// or group, and the owner or a group member would lose access. Otherwise returns the error of
    /// the operating system.
    pub fn give_to(self, file: &File) -> io::Result<()> {
        let own = file.metadata()?;
        let mut mode = self.mode;
        if (own.uid(), own.gid()) != (self.owner, self.group)
            && let Err(error) = fchown(file, Some(self.owner), Some(self.group))
        {
            if error.kind() != io::ErrorKind::PermissionDenied {
                return Err(error);
            }
            // A user may give a file to a group if the user owns the file and is a member of the
            // group.
            let has_group = own.gid() == self.group || fchown(file, None, Some(self.group)).is_ok();
            let has_owner = own.uid() == self.owner;
            let is_harmless = mode & WORLD_READABLE != 0;
            if !is_harmless && !(has_owner && (has_group || mode & OF_GROUP == 0)) {
                return Err(self.refused());
            }
            if !has_group {
                // The file keeps the group of this process. This group gets only those rights that
                // all users have.
                mode = (mode & !OF_GROUP) | ((mode << 3) & mode & OF_GROUP);
            }
        }
        // The mode is set after the owner, because a change of the owner may clear bits of the
        // mode.
        if file.metadata()?.mode() & 0o777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    fn refused(self) -> io::Error {
        let Self { owner, group, mode } = self;
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "it belongs to user {owner} and group {group} with mode {mode:04o}, and this user \
                 cannot make a file that does: programs that read it no longer could. Run the \
                 command as root, or as that user and a member of that group (sudo -u '#{owner}' \
                 -g '#{group}')"
            ),
        )
    }
}

/// Returns the directory that contains the file at `path`. For a bare file name, this is `.`.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Creates a directory. A directory that root creates in another user's directory belongs to that
/// user.
///
/// The other user can replace any part of the path by a symbolic link at any time. Root therefore
/// opens the parent directory only once and follows no link below it. Root changes the owner only
/// of a directory that still belongs to root.
///
/// # Errors
/// Returns the error of the operating system.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return std::fs::create_dir(path);
    };
    if !rustix::process::geteuid().is_root() {
        return std::fs::create_dir(path);
    }
    let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent(path), directory, Mode::empty())?;
    let parent = File::from(parent);
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777))?;
    let owner = parent.metadata()?;
    if owner.uid() == 0 {
        return Ok(());
    }
    let flags = directory | OFlags::NOFOLLOW;
    let created = File::from(rustix::fs::openat(&parent, name, flags, Mode::empty())?);
    if created.metadata()?.uid() == 0 {
        fchown(&created, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Returns user and group of the owner of a directory. If the directory does not exist, returns those
/// that it gets from [`create_directory`]. Returns `None` if no directory above it can be read.
#[must_use]
pub fn directory_owner(path: &Path) -> Option<(u32, u32)> {
    let path = std::path::absolute(path).ok()?;
    let user = rustix::process::geteuid();
    if !user.is_root() && !path.exists() {
        return Some((user.as_raw(), rustix::process::getegid().as_raw()));
    }
    let found = path.ancestors().find_map(|path| path.metadata().ok())?;
    Some((found.uid(), found.gid()))
}

/// Whether a file has a POSIX access control list. A list that contains only the rights in the mode
/// does not count, because the system does not store it.
fn has_access_control_list(path: &Path) -> io::Result<bool> {
    match rustix::fs::getxattr_query(path, ACCESS_CONTROL_LIST) {
        Ok(length) => Ok(length > 0),
        // The file has none, or its file system has no access control lists.
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mode(mode: u32) -> FileAccess {
        FileAccess {
            owner: 0,
            group: 0,
            mode,
        }
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        for (path, expected) in [("a/b", "a"), ("/a", "/"), ("./a", "."), ("a", ".")] {
            assert_eq!(parent(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn secrets_are_not_for_everybody() {
        for (mode, private, public) in [
            (0o600, 0o600, 0o600),
            (0o640, 0o640, 0o640),
            (0o440, 0o440, 0o440),
            (0o644, 0o600, 0o644),
            (0o666, 0o600, 0o664),
            (0o000, 0o400, 0o400),
        ] {
            assert_eq!(with_mode(mode).private().mode, private, "{mode:o}");
            assert_eq!(with_mode(mode).public().mode, public, "{mode:o}");
        }
    }

    #[test]
    fn a_mode_is_given_to_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("a"), "").unwrap();
        std::fs::set_permissions(path("a"), Permissions::from_mode(0o440)).unwrap();
        let access = FileAccess::of(&path("a")).unwrap().unwrap();
        access.give_to(&File::create(path("b")).unwrap()).unwrap();
        assert_eq!(FileAccess::of(&path("b")).unwrap(), Some(access));
        assert_eq!(FileAccess::of(&path("c")).unwrap(), None);
        assert_eq!(FileAccess::of(directory.path()).unwrap(), None);
    }

    #[test]
    fn the_refusal_says_who_can_do_it() {
        let error = with_mode(0o640).refused().to_string();
        assert!(
            error.contains("mode 0640") && error.contains("sudo -u '#0'"),
            "{error}"
        );
    }

    #[test]
    fn rights_of_an_access_control_list_are_not_taken_for_those_of_the_group() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "").unwrap();
        // Entries of the list (acl(5)): the owner may read and write, user 33 may read, and the
        // group has no rights. The mode shows the mask (read) as the rights of the group, so the
        // mode is 0640.
        let entries: [(u16, u16, u32); 5] = [
            (1, 6, u32::MAX),
            (2, 4, 33),
            (4, 0, u32::MAX),
            (0x10, 4, u32::MAX),
            (0x20, 0, u32::MAX),
        ];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let set = rustix::fs::setxattr(
            &path,
            ACCESS_CONTROL_LIST,
            &list,
            rustix::fs::XattrFlags::empty(),
        );
        if !countersign_testkit::skipped::machine("access control lists", set.is_ok()) {
            return;
        }
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(FileAccess::of(&path).unwrap().unwrap().mode, 0o600);
    }
}
