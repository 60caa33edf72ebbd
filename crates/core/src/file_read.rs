//! Reads whole files safely: only regular files, up to a maximum size, and without
//! waiting for a writer.
//!
//! No person watches the program while it runs. If a path that should be a key file
//! is a named pipe, reading could block for ever, and a device could return bytes for
//! ever. Either can replace a file after its path was checked. Therefore the path is
//! first opened without blocking, and then the opened file is checked. Symbolic links
//! are followed, because mounted secrets are links.

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
    /// Wiped when it is dropped.
    pub content: Zeroizing<Vec<u8>>,
    /// The permission bits of the file that was read, not of what is at its path now.
    pub mode: u32,
}

impl fmt::Debug for PrivateFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content is never printed.
        formatter
            .debug_struct("PrivateFile")
            .field("mode", &format_args!("{:04o}", self.mode))
            .finish_non_exhaustive()
    }
}

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] if the file is larger than `max`,
/// [`io::ErrorKind::IsADirectory`] or [`io::ErrorKind::InvalidInput`] if it is not a
/// regular file, otherwise the error of the system. Messages do not contain the path,
/// because callers add it with its purpose.
pub fn read_regular(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open_regular(path)?;
    let mut content = Vec::new();
    read_to_end(file, &metadata, max, &mut content)?;
    Ok(content)
}

/// Reads a regular file of at most `max` bytes that holds a secret.
///
/// # Errors
/// Same as [`read_regular`].
pub fn read_private(path: &Path, max: u64) -> io::Result<PrivateFile> {
    let (file, metadata) = open_regular(path)?;
    // The buffer is wiped also if there is an error.
    let mut content = Zeroizing::new(Vec::new());
    read_to_end(file, &metadata, max, &mut content)?;
    Ok(PrivateFile {
        content,
        mode: metadata.permissions().mode() & 0o7777,
    })
}

/// Reads at most `max` bytes of a file that was named on the command line. It may
/// also be a pipe, because shells pass the output of a command as a pipe. A pipe
/// without a writer is empty. If there is a writer, this waits for it.
///
/// # Errors
/// Same as [`read_regular`], except that pipes and devices are read.
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
/// Same as [`read_regular`], without a limit on the size.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let (file, metadata) = open(path)?;
    require_regular(metadata.file_type())?;
    Ok((file, metadata))
}

/// Opens any type of file without blocking.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // NONBLOCK: to open a pipe without a writer does not block; for regular files the
    // flag has no effect. NOCTTY: a terminal that is opened must not become the
    // controlling terminal of this process.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let open = || rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let file = File::from(open_with_spare(|| open().map_err(io::Error::from))?);
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Refuses everything except regular files. The error says what is there.
///
/// # Errors
/// [`io::ErrorKind::IsADirectory`] for a directory, otherwise
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

/// Whether an error of this module means that the path is not a regular file. Then
/// the remedy is to put a regular file there.
#[must_use]
pub fn is_not_regular(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput
    )
}

/// Reads a file to its end. The size that the system reports is only a hint: files of
/// /proc report 0, and others may grow while they are read.
fn read_to_end(file: File, metadata: &Metadata, max: u64, content: &mut Vec<u8>) -> io::Result<()> {
    let too_large = || {
        let message = format!("it is larger than {max} bytes");
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    if metadata.len() > max {
        return Err(too_large());
    }
    // Reserves enough space for the whole file and for the byte that is read after
    // its end. If the buffer had to grow, copies of a secret would remain in memory.
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

    /// Returns the error of reading a path. A read that blocks is left on its thread,
    /// and the test fails.
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
        // Opened for reading and writing, because that does not wait for a reader.
        let mut options = std::fs::OpenOptions::new();
        let mut writer = options.read(true).write(true).open(&pipe).unwrap();
        writer.write_all(b"123").unwrap();
        let reader = std::thread::spawn(move || read_named(&pipe, 10));
        writer.write_all(b"45").unwrap();
        drop(writer);
        let read = reader.join().unwrap().unwrap();
        // The pipe may have been opened after the writer had ended. Then it is empty.
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
        // The system refuses to open a socket.
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
        // The reported size of this file is 0.
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
        // A regular file whose first page cannot be read: EIO.
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
