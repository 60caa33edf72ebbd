//! `FileAccess`: who may use a file. A file that replaces another one keeps owner, group and
//! mode, so that the programs which read it still can.
//!
//! A command that root runs would otherwise leave root's files where another user's were.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, fchown};
use std::path::Path;

/// The bits of a mode by which others than owner and group may read.
const WORLD_READABLE: u32 = 0o004;
/// The bits of a mode that concern others than owner and group.
const FOR_ALL: u32 = 0o007;
/// The bits of a mode that concern the group.
const OF_GROUP: u32 = 0o070;

/// The owner, group and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileAccess {
    owner: u32,
    group: u32,
    mode: u32,
}

impl FileAccess {
    /// Returns the access to the regular file at a path. None if there is none.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        match path.metadata() {
            Ok(found) if found.is_file() => Ok(Some(Self {
                owner: found.uid(),
                group: found.gid(),
                mode: found.mode() & 0o777,
            })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the access that root gives to a new file in another user's directory. None for other
    /// users, and in a directory of root's own.
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

    /// Limits it to what a secret may have: at most its owner may write, and its group read. If it
    /// was for everybody, somebody has opened it up, and it is closed again.
    #[must_use]
    pub const fn private(self) -> Self {
        let mode = match self.mode & FOR_ALL {
            0 => (self.mode & 0o640) | 0o400,
            _ => 0o600,
        };
        Self { mode, ..self }
    }

    /// Limits it to what a file without secrets may have: not everybody may write.
    #[must_use]
    pub const fn public(self) -> Self {
        Self {
            mode: (self.mode & 0o775) | 0o400,
            ..self
        }
    }

    /// Gives this access to a new file.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] with a remedy if this user cannot give the file to its
    /// owner or group, and somebody would lose access.
    pub fn give_to(self, file: &File) -> io::Result<()> {
        let own = file.metadata()?;
        let mut mode = self.mode;
        if (own.uid(), own.gid()) != (self.owner, self.group)
            && let Err(error) = fchown(file, Some(self.owner), Some(self.group))
        {
            if error.kind() != io::ErrorKind::PermissionDenied {
                return Err(error);
            }
            // A member of a group may give away files to it.
            let has_group = own.gid() == self.group || fchown(file, None, Some(self.group)).is_ok();
            let has_owner = own.uid() == self.owner;
            let is_harmless = mode & WORLD_READABLE != 0;
            if !is_harmless && !(has_owner && (has_group || mode & OF_GROUP == 0)) {
                return Err(self.refused());
            }
            if !has_group {
                // The group of this process gets nothing that everybody has not.
                mode = (mode & !OF_GROUP) | ((mode << 3) & mode & OF_GROUP);
            }
        }
        // After the owner: a change of the owner may clear bits of the mode.
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

/// Gives a directory that root has just created in another user's directory to that user.
///
/// # Errors
/// If the system refuses.
pub fn inherit_directory(created: &Path, parent: &Path) -> io::Result<()> {
    match FileAccess::inherited(parent, 0o755) {
        Some(access) => chown(created, Some(access.owner), Some(access.group)),
        None => Ok(()),
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
}
