//! The file of the audit log: opens it, and notices that it was replaced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::descriptors::open_with_spare;

/// Appends a line break if the log ends with an incomplete line, because a process was killed while
/// it wrote. Without a line break, the next line would become part of the incomplete line.
fn end_last_line(path: &Path, mut file: &File) -> io::Result<()> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else {
        return Ok(());
    };
    // The log is open for appending only, so it is opened a second time to read its last byte. If
    // the byte cannot be read, no line break is added.
    let mut byte = [b'\n'];
    let is_read = open_with_spare(|| File::open(path))
        .and_then(|reader| reader.read_exact_at(&mut byte, last))
        .is_ok();
    if is_read && byte != *b"\n" {
        file.write_all(b"\n")?;
        tracing::warn!(file = %path.display(), "the last line of the audit log was not complete");
    }
    Ok(())
}

/// Opens the log for appending. Creates it if it does not exist, and ends an incomplete last line.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = opened(path, true)?;
    if file.metadata()?.file_type().is_file()
        && let Err(error) = end_last_line(path, &file)
    {
        // The error is only logged, because a full disk must not prevent the gateway from starting.
        tracing::error!(%error, "the last line of the audit log could not be ended");
    }
    Ok(file)
}

/// Checks that the log could be opened. Creates and changes nothing.
///
/// # Errors
/// If the file cannot be opened for appending. If it does not exist, returns
/// [`io::ErrorKind::NotFound`]: a start would create it.
pub fn check(path: &Path) -> io::Result<()> {
    // Standard output is not opened by its path (see `AuditWriter::to_file`).
    if path == Path::new("/dev/stdout") {
        return Ok(());
    }
    opened(path, false).map(drop)
}

fn opened(path: &Path, create: bool) -> io::Result<File> {
    let refused = |what: &str| {
        io::Error::other(format!(
            "it is {what}; leave [audit] file out to write to standard output, and pipe that"
        ))
    };
    // Without this flag, opening a named pipe that has no reader would block.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = open_with_spare(|| {
        OpenOptions::new()
            .append(true)
            .create(create)
            .mode(0o640)
            .custom_flags(nonblocking)
            .open(path)
    });
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Err(refused("a socket, or a named pipe without a reader"));
        }
        opened => opened?,
    };
    let file_type = file.metadata()?.file_type();
    // A pipe is accepted only under `/dev` or `/proc`, where it is a standard stream of this
    // process. The program that started the gateway reads such a pipe.
    let is_stream = path.starts_with("/dev") || path.starts_with("/proc");
    if file_type.is_fifo() && !is_stream {
        return Err(refused("a named pipe"));
    }
    Ok(file)
}

/// Whether the path still names the open file. After a rotation, the path names another file or
/// none.
pub(super) fn is_same_file(path: &Path, file: &File) -> bool {
    match (path.metadata(), file.metadata()) {
        (Ok(named), Ok(held)) => named.ino() == held.ino() && named.dev() == held.dev(),
        _ => false,
    }
}
