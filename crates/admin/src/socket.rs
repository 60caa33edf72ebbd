//! The operators' socket: a file that only the gateway's own user can connect to.
//!
//! A user who can open the file can change how the gateway behaves. The file is therefore private
//! from the moment it exists. `routes` defines the requests that the socket serves.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 256;
const PRIVATE: u32 = 0o600;

/// The reason why the socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another gateway already listens at the path.
    #[error(
        "a running gateway listens at {} already; stop it, or give this one another [admin] socket",
        .0.display()
    )]
    Taken(PathBuf),
    /// The file at the path is not a socket.
    #[error("{} is not a socket; remove it, or choose another [admin] socket", .0.display())]
    NotASocket(PathBuf),
    /// The operating system reported an error.
    #[error("cannot listen at {} ([admin] socket): {error}", path.display())]
    System {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
}

/// A listening socket. When it is dropped, its file is removed.
#[derive(Debug)]
pub struct AdminSocket {
    // Fields are dropped in this order, so the file is removed while this process still listens.
    // While this process listens, no other gateway replaces the file. So the removed file always
    // belongs to this socket.
    place: SocketPlace,
    listener: UnixListener,
}

/// An [`AdminSocket`] that is registered with a tokio runtime.
#[derive(Debug)]
pub struct ServedSocket {
    // Fields are dropped in this order, for the same reason as in [`AdminSocket`].
    _place: SocketPlace,
    listener: tokio::net::UnixListener,
}

/// Removes the file of a socket on drop, unless another file has replaced it.
#[derive(Debug)]
struct SocketPlace {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl AdminSocket {
    /// Listens at `path`. Replaces a socket file at which no process listens any more.
    ///
    /// # Errors
    /// Returns an error if a process listens at `path`, if the file is not a socket, or if the
    /// operating system reports an error.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |error| SocketError::System {
            path: path.to_owned(),
            error,
        };
        make_room(path)?;
        let socket = private_socket().map_err(failed)?;
        let address = socket2::SockAddr::unix(path).map_err(failed)?;
        socket.bind(&address).map_err(failed)?;
        // From here on, `place` removes the socket file if a step fails.
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let place = SocketPlace {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        // Some systems ignore the mode of the socket and use the umask. The mode can still be
        // changed here, because no process can connect before `listen`.
        if metadata.mode() & 0o777 != PRIVATE {
            fs::set_permissions(path, Permissions::from_mode(PRIVATE)).map_err(failed)?;
        }
        socket.listen(BACKLOG).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            listener: OwnedFd::from(socket).into(),
            place,
        })
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Registers the socket with the current tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the runtime refuses the socket.
    pub fn into_served(self) -> io::Result<ServedSocket> {
        Ok(ServedSocket {
            _place: self.place,
            listener: tokio::net::UnixListener::from_std(self.listener)?,
        })
    }
}

impl ServedSocket {
    pub(super) async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode);
        if still_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates a socket whose file will be private. On Linux, the file gets its mode from the socket.
fn private_socket() -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    let file = File::from(OwnedFd::from(socket));
    // Other systems refuse this call. The caller checks the mode of the file later.
    let _ = file.set_permissions(Permissions::from_mode(PRIVATE));
    Ok(OwnedFd::from(file).into())
}

/// Removes the socket file at `path`. Returns an error if a process listens at the socket, or if
/// the file is not a socket.
fn make_room(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::System {
        path: path.to_owned(),
        error,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_private_replaces_a_dead_one_and_takes_its_file_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
        assert!(matches!(
            AdminSocket::bind(&path),
            Err(SocketError::Taken(_))
        ));
        // Simulates a killed process: the file exists, but no process listens.
        let AdminSocket { place, listener } = socket;
        std::mem::forget(place);
        drop(listener);
        let next = AdminSocket::bind(&path).unwrap();
        drop(next);
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            AdminSocket::bind(&path),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
