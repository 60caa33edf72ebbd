//! Reads whole files safely: only regular files, up to a maximum size, and without waiting for a
//! writer.
//!
//! The program runs unattended. If the path of a key file points to a named pipe, a read could
//! block without limit. A device could return an endless stream of bytes. Checking the path before
//! the file is opened is not enough, because the file may be replaced after the check. The path is
//! therefore opened without blocking, and then the opened file is checked. Symbolic links are
//! followed, because mounted secrets are links.

use std::fmt;
use std::fs::{File, FileType, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use crate::descriptors::open_with_spare;

/// The content and the permission bits of a private file.
pub struct PrivateFile {
    /// The content. It is wiped on drop.
    pub content: Zeroizing<Vec<u8>>,
    /// The permission bits of the file that was read. They are stored here, because another file
    /// may be at the path later.
    pub mode: u32,
}

impl fmt::Debug for PrivateFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content is secret and never printed.
        formatter
            .debug_struct("PrivateFile")
            .field("mode", &format_args!("{:04o}", self.mode))
            .finish_non_exhaustive()
    }
}

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// Returns [`io::ErrorKind::FileTooLarge`] if the file is larger than `max`. Returns
/// [`io::ErrorKind::IsADirectory`] or [`io::ErrorKind::InvalidInput`] if it is not a regular file.
/// Otherwise returns the error from the system. Error messages do not contain the path, because the
/// calling function adds the path and the purpose of the file.
pub fn read_regular(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open_regular(path)?;
    let mut content = Vec::new();
    read_to_end(file, &metadata, max, &mut content)?;
    Ok(content)
}

/// Reads a regular file of at most `max` bytes that contains a secret.
///
/// # Errors
/// Returns the same errors as [`read_regular`].
pub fn read_private(path: &Path, max: u64) -> io::Result<PrivateFile> {
    let (file, metadata) = open_regular(path)?;
    // The buffer is wiped even if the read fails.
    let mut content = Zeroizing::new(Vec::new());
    read_to_end(file, &metadata, max, &mut content)?;
    Ok(PrivateFile {
        content,
        mode: metadata.permissions().mode() & 0o7777,
    })
}

/// Reads at most `max` bytes of a file that was named on the command line. The file may also be a
/// pipe, because shells pass the output of a command as a pipe. If a pipe has no writer, it counts
/// as empty. If it has a writer, the function waits for the data.
///
/// # Errors
/// Returns the same errors as [`read_regular`], but reads pipes and devices without an error.
pub fn read_named(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    if metadata.is_file() || metadata.is_dir() {
        require_regular(metadata.file_type())?;
    } else {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    }
    let mut content = Vec::new();
    read_to_end(file, &metadata, max, &mut content)?;
    Ok(content)
}

/// Opens a regular file for reading, and returns it with its metadata.
///
/// # Errors
/// Returns the same errors as [`read_regular`], except for the error about the size.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let (file, metadata) = open(path)?;
    require_regular(metadata.file_type())?;
    Ok((file, metadata))
}

/// Opens a file of any type without blocking.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // With NONBLOCK, opening a pipe without a writer does not block. The flag has no effect on
    // regular files. With NOCTTY, an opened terminal does not become the controlling terminal of
    // this process.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let open = || rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let file = File::from(open_with_spare(|| open().map_err(io::Error::from))?);
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Returns an error if `file_type` is not the type of a regular file. The error names the type.
///
/// # Errors
/// Returns [`io::ErrorKind::IsADirectory`] for a directory, otherwise
/// [`io::ErrorKind::InvalidInput`].
pub fn require_regular(file_type: FileType) -> io::Result<()> {
    let what = if file_type.is_file() {
        return Ok(());
    } else if file_type.is_dir() {
        let message = "it is a directory, not a regular file";
        return Err(io::Error::new(io::ErrorKind::IsADirectory, message));
    } else if file_type.is_symlink() {
        "a symbolic link"
    } else if file_type.is_fifo() {
        "a named pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    let message = format!("it is {what}, not a regular file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Returns whether an error of this module means that there is no regular file at the path. In this
/// case, an operator must put a regular file there.
#[must_use]
pub fn is_not_regular(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput
    )
}

/// Reads a file to its end. The file may be longer than the size that the system reports. For files
/// in /proc this size is 0, and other files may grow during the read.
fn read_to_end(file: File, metadata: &Metadata, max: u64, content: &mut Vec<u8>) -> io::Result<()> {
    let too_large = || {
        let message = format!("it is larger than {max} bytes");
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    if metadata.len() > max {
        return Err(too_large());
    }
    // Reserves memory for the whole file at the beginning, because a buffer that grows would leave
    // copies of a secret in memory. One more byte is reserved, so that the end of the file can be
    // detected without growing the buffer.
    let expected = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    content
        .try_reserve_exact(expected.saturating_add(1))
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    file.take(max.saturating_add(1)).read_to_end(content)?;
    if content.len() as u64 > max {
        return Err(too_large());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Returns the error that `read_regular` returns for a path. The file is read in a new thread.
    /// If the read blocks, the test fails after a timeout.
    fn refusal(path: &Path, max: u64) -> io::Error {
        let (said, hears) = mpsc::channel();
        let path = path.to_owned();
        std::thread::spawn(move || said.send(read_regular(&path, max)));
        let answer = hears.recv_timeout(Duration::from_secs(60));
        answer.expect("reading it does not end").unwrap_err()
    }

    #[test]
    fn a_pipe_without_a_writer_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let link = directory.path().join("link");
        symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link] {
            let error = refusal(path, 10);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(error.to_string(), "it is a named pipe, not a regular file");
        }
    }

    #[test]
    fn a_pipe_that_an_operator_named_is_read_if_somebody_writes_to_it() {
        use std::io::Write as _;
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(read_named(&pipe, 10).unwrap(), b"");
        // The pipe is opened for reading and writing, because opening it only for writing would
        // wait for a reader.
        let mut options = std::fs::OpenOptions::new();
        let mut writer = options.read(true).write(true).open(&pipe).unwrap();
        writer.write_all(b"123").unwrap();
        let reader = std::thread::spawn(move || read_named(&pipe, 10));
        writer.write_all(b"45").unwrap();
        drop(writer);
        let read = reader.join().unwrap().unwrap();
        // The writer may have ended before the pipe was opened. In this case the pipe counts as
        // empty.
        assert!(read.is_empty() || read == b"12345", "{read:?}");
        let path = directory.path().join("a");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_named(&path, 5).unwrap(), b"12345");
        assert_eq!(
            read_named(&path, 4).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        assert_eq!(
            read_named(Path::new("/dev/zero"), 4).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        assert_eq!(
            read_named(directory.path(), 4).unwrap_err().kind(),
            io::ErrorKind::IsADirectory
        );
    }

    #[test]
    fn devices_directories_and_sockets_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink("/dev/zero", &link).unwrap();
        for path in [Path::new("/dev/zero"), &link] {
            let error = refusal(path, u64::MAX);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("a device"), "{error}");
        }
        let error = refusal(directory.path(), 10);
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert!(error.to_string().contains("a directory"), "{error}");
        // open(2) fails for the path of a socket, so `read_regular` returns the system's error.
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        refusal(&socket, 10);
    }

    #[test]
    fn the_size_is_bounded_whatever_the_system_says_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_regular(&path, 5).unwrap(), b"12345");
        assert_eq!(read_regular(&path, u64::MAX).unwrap(), b"12345");
        let error = refusal(&path, 4);
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "it is larger than 4 bytes");
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_regular(&path, 0).unwrap(), b"");
        // The system reports the size 0 for files in /proc.
        #[cfg(target_os = "linux")]
        {
            let status = Path::new("/proc/self/status");
            assert!(!read_regular(status, 1 << 20).unwrap().is_empty());
            assert_eq!(refusal(status, 4).kind(), io::ErrorKind::FileTooLarge);
        }
    }

    #[test]
    fn what_fails_while_it_is_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        assert_eq!(refusal(&path, 10).kind(), io::ErrorKind::NotFound);
        // A regular file whose first page cannot be read. The error is EIO.
        #[cfg(target_os = "linux")]
        {
            symlink("/proc/self/mem", &path).unwrap();
            let error = refusal(&path, 10);
            let eio = rustix::io::Errno::IO.raw_os_error();
            assert_eq!(error.raw_os_error(), Some(eio), "{error}");
        }
    }

    #[test]
    fn a_secret_comes_with_the_mode_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        std::fs::write(&path, "secret").unwrap();
        for mode in [0o600, 0o640] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
            let read = read_private(&path, 10).unwrap();
            assert_eq!((read.content.as_slice(), read.mode), (&b"secret"[..], mode));
        }
        let shown = format!("{:?}", read_private(&path, 10).unwrap());
        assert_eq!(shown, "PrivateFile { mode: 0640, .. }");
        assert!(read_private(&path, 5).is_err());
        assert!(read_private(directory.path(), 5).is_err());
    }
}
