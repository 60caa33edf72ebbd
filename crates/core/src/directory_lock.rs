//! `DirectoryLock`: makes sure that only one process at a time changes a directory.
//!
//! Only the owner may open the lock file, `DIR/.lock`. If other users could open the file, they
//! could hold the lock and prevent an operator from revoking a certificate. The file therefore has
//! mode 0600, and a mode that allows more is corrected. A process waits for the lock only until a
//! timeout.

use std::fmt;
use std::fs::{File, Metadata, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::file_access::{self, FileAccess};
use crate::file_read::require_regular;
use crate::kill_point::kill_point;

/// Maximum time to wait until another process has released the lock.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two attempts to take the lock.
const INTERVAL: Duration = Duration::from_millis(20);
/// The mode of the lock file.
const PRIVATE: u32 = 0o600;

/// The reason why a directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is something at the lock file's path, but it is not a regular file.
    #[error(
        "cannot lock {}: {error}; remove it, and the next command makes a new one",
        .path.display()
    )]
    NotRegular {
        /// The path of the lock file.
        path: PathBuf,
        /// The error, which names the type of the file.
        error: io::Error,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot {act} {}: {error}", .path.display())]
    Io {
        /// The operation that failed, as a verb for the message.
        act: &'static str,
        /// The path of the lock file.
        path: PathBuf,
        /// The error from the system.
        error: io::Error,
    },
    /// Another process held the lock until the timeout.
    #[error(
        "{} is locked by {holder}, and still was after {} seconds; try again when it is done, or \
         end it",
        .path.display(), .waited.as_secs()
    )]
    Busy {
        /// The path of the lock file.
        path: PathBuf,
        /// The process that holds the lock.
        holder: Holder,
        /// How long this process has waited for the lock.
        waited: Duration,
    },
}

/// The process that holds a lock, if the system reports this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The process ID and, if the process still runs, the name of its program.
    Process(u32, Option<String>),
    /// The system does not report which process holds the lock.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(id, Some(program)) => write!(formatter, "process {id} ({program})"),
            Self::Process(id, None) => write!(formatter, "process {id}"),
            Self::Unknown => formatter.write_str("another process (fuser shows which)"),
        }
    }
}

/// The lock of a directory. The lock is released on drop.
#[derive(Debug)]
pub struct DirectoryLock {
    /// The open lock file. When it is closed, the operating system releases the lock, even if the
    /// process is killed.
    file: File,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // The file is unlocked explicitly, because another copy of the open file would keep the
        // lock. If another thread starts a child process at this moment, the child has such a copy
        // until it runs its program.
        let _ = self.file.unlock();
    }
}

impl DirectoryLock {
    /// Waits for the lock, at most for `TIMEOUT`.
    ///
    /// # Errors
    /// Returns an error if another process holds the lock until the timeout, or if the lock file
    /// cannot be used.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        Self::acquire_within(directory, TIMEOUT)
    }

    /// Takes the lock if no other process holds it.
    ///
    /// # Errors
    /// Returns the same errors as [`Self::acquire`].
    pub fn try_acquire(directory: &Path) -> Result<Self, LockError> {
        Self::acquire_within(directory, Duration::ZERO)
    }

    fn acquire_within(directory: &Path, timeout: Duration) -> Result<Self, LockError> {
        let path = directory.join(".lock");
        let (file, metadata) = open(&path)?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file }),
                Err(TryLockError::WouldBlock) if begin.elapsed() < timeout => {
                    std::thread::sleep(INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Busy {
                        holder: holder(&metadata),
                        path,
                        waited: timeout,
                    });
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            }
        }
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LockError {
    let path = path.to_owned();
    move |error| LockError::Io { act, path, error }
}

/// Opens the lock file, or creates it. Opens only a regular file. A link could point to any file,
/// and opening a pipe or a device may block or have side effects.
fn open(path: &Path) -> Result<(File, Metadata), LockError> {
    let not_regular = |error| LockError::NotRegular {
        path: path.to_owned(),
        error,
    };
    // The type of the file is checked before the file is opened, because the error of a failed open
    // does not name the type.
    match path.symlink_metadata() {
        Ok(found) => require_regular(found.file_type()).map_err(not_regular)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at", path)(error)),
    }
    kill_point();
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC
        | OFlags::NOCTTY;
    let mode = Mode::from_raw_mode(PRIVATE);
    let open = |flags| rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, mode));
    let file = match open(flags | OFlags::EXCL) {
        // If root creates the lock file in another user's directory, that user could not open it.
        // So root gives the file to that user.
        Ok(created) => {
            let created = File::from(created);
            if let Some(access) = FileAccess::inherited(file_access::parent(path), PRIVATE) {
                access
                    .give_to(&created)
                    .map_err(failed("give away", path))?;
            }
            created
        }
        Err(error) if error == Errno::EXIST => {
            File::from(open(flags).map_err(|error| failed("open", path)(error.into()))?)
        }
        Err(error) => return Err(failed("open", path)(error.into())),
    };
    let metadata = file.metadata().map_err(failed("look at", path))?;
    // The type is checked again, because the file may have been replaced after the first check.
    require_regular(metadata.file_type()).map_err(not_regular)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        match file.set_permissions(Permissions::from_mode(PRIVATE)) {
            // These errors are ignored. If the file belongs to another user, that user can hold the
            // lock whatever the mode is. On a read-only file system, the mode cannot be changed.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) => {}
            changed => changed.map_err(failed("change the mode of", path))?,
        }
    }
    Ok((file, metadata))
}

/// Returns the process that holds the lock. Only Linux reports this process.
#[cfg(target_os = "linux")]
fn holder(lock_file: &Metadata) -> Holder {
    use crate::file_read::read_regular;

    const MOST: u64 = 16 * 1024 * 1024;
    let read = |path: &str| {
        let content = read_regular(Path::new(path), MOST).ok()?;
        String::from_utf8(content).ok()
    };
    let device = (
        rustix::fs::major(lock_file.dev()),
        rustix::fs::minor(lock_file.dev()),
    );
    let Some(id) = read("/proc/locks").and_then(|locks| holder_in(&locks, device, lock_file.ino()))
    else {
        return Holder::Unknown;
    };
    let program = read(&format!("/proc/{id}/comm"))
        .map(|name| name.trim().chars().filter(|c| !c.is_control()).collect());
    Holder::Process(id, program)
}

#[cfg(not(target_os = "linux"))]
const fn holder(_: &Metadata) -> Holder {
    Holder::Unknown
}

/// Finds the process that holds a file's lock in `/proc/locks` (proc_locks(5)). A line looks like
/// this:
///
/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`
///
/// The line of a waiting process has an arrow after the first number. A process of another PID
/// namespace has the ID 0.
#[cfg(target_os = "linux")]
fn holder_in(locks: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let place = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let is_held = words.next() == Some("FLOCK");
            let id = words.nth(2)?.parse::<u32>().ok()?;
            let is_here = words.next() == Some(&place);
            (is_held && is_here && id != 0).then_some(id)
        })
        .next()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    fn refusal(directory: &Path) -> String {
        DirectoryLock::acquire_within(directory, Duration::ZERO)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn one_holds_the_lock_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let counter = directory.path().join("counter");
        std::fs::write(&counter, "0").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _lock = DirectoryLock::acquire(directory.path()).unwrap();
                    let count: u32 = std::fs::read_to_string(&counter).unwrap().parse().unwrap();
                    std::thread::yield_now();
                    std::fs::write(&counter, (count + 1).to_string()).unwrap();
                });
            }
        });
        assert_eq!(std::fs::read_to_string(&counter).unwrap(), "8");
    }

    #[test]
    fn the_lock_file_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        drop(DirectoryLock::try_acquire(directory.path()).unwrap());
        assert_eq!(mode(&path), 0o600);
        for wider in [0o644, 0o666, 0o640, 0o602] {
            std::fs::set_permissions(&path, Permissions::from_mode(wider)).unwrap();
            drop(DirectoryLock::try_acquire(directory.path()).unwrap());
            assert_eq!(mode(&path), 0o600, "{wider:o}");
        }
    }

    #[test]
    fn a_lock_that_stays_held_is_an_error_that_names_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        let held = DirectoryLock::try_acquire(directory.path()).unwrap();
        let said = refusal(directory.path());
        let place = path.display().to_string();
        assert!(
            said.starts_with(&format!("{place} is locked by ")),
            "{said}"
        );
        assert!(
            said.ends_with("try again when it is done, or end it"),
            "{said}"
        );
        drop(held);
        drop(DirectoryLock::try_acquire(directory.path()).unwrap());
        // Any program that can open the lock file can hold the lock.
        let elsewhere = File::open(&path).unwrap();
        elsewhere.lock().unwrap();
        assert!(refusal(directory.path()).contains("is locked by"));
        elsewhere.unlock().unwrap();
        drop(DirectoryLock::try_acquire(directory.path()).unwrap());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_holder_is_found_in_the_list_of_locks() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 17 fe:00:5678 0 EOF
2: FLOCK  ADVISORY  WRITE 18 fe:01:5678 0 EOF
3: FLOCK  ADVISORY  WRITE 19 fe:00:5679 0 EOF
4: FLOCK  ADVISORY  WRITE 20 fe:00:5678 0 EOF
4: -> FLOCK  ADVISORY  WRITE 21 fe:00:5678 0 EOF
nonsense
";
        assert_eq!(holder_in(locks, (0xfe, 0), 5678), Some(20));
        assert_eq!(holder_in(locks, (0xfe, 0), 1), None);
        let hidden = "1: FLOCK  ADVISORY  WRITE 0 08:01:9 0 EOF\n";
        assert_eq!(holder_in(hidden, (8, 1), 9), None);
        let named = Holder::Process(20, Some("flock".to_owned()));
        assert_eq!(named.to_string(), "process 20 (flock)");
    }

    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        // A child process has such a copy of the open file until it runs its program.
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        DirectoryLock::try_acquire(directory.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        let elsewhere = directory.path().join("elsewhere");
        let put = |what: &str| match what {
            "a named pipe" => {
                let made = Command::new("mkfifo").arg(&path).status().unwrap();
                assert!(made.success());
            }
            "a directory" => std::fs::create_dir(&path).unwrap(),
            _ => symlink(&elsewhere, &path).unwrap(),
        };
        for what in ["a named pipe", "a directory", "a symbolic link"] {
            put(what);
            let said = refusal(directory.path());
            let place = path.display().to_string();
            assert!(said.contains(&format!("{place}: it is {what}")), "{said}");
            assert!(said.contains("remove it"), "{said}");
            if what == "a named pipe" {
                // The result must be the same if the pipe has a reader.
                let mut options = std::fs::OpenOptions::new();
                let flags = OFlags::NONBLOCK.bits().cast_signed();
                let _reader = options.read(true).custom_flags(flags).open(&path).unwrap();
                assert!(refusal(directory.path()).contains(what));
            }
            // The link was not followed: no file was created at its target.
            assert!(!elsewhere.exists());
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
        }
        symlink("/dev/null", &path).unwrap();
        assert!(refusal(directory.path()).contains("a symbolic link"));
        drop(DirectoryLock::try_acquire(tempfile::tempdir().unwrap().path()).unwrap());
    }
}
