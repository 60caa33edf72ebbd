//! `Listeners`: the bound sockets of a gateway that does not serve requests yet.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::AppError;
use crate::admin::AdminSocket;
use crate::file_access;
use crate::proxy::listener;

/// The addresses of the gateway's open listeners.
#[derive(Debug, Clone, Serialize)]
pub struct Addresses {
    /// The address of the mTLS listener.
    pub listener: SocketAddr,
    /// The address of the public listener, if there is one.
    pub public: Option<SocketAddr>,
    /// The address of the operators' listener, if there is one.
    pub admin: Option<SocketAddr>,
    /// The path of the operators' private socket, if there is one.
    pub socket: Option<PathBuf>,
}

/// The bound sockets of a gateway that does not serve requests yet.
#[derive(Debug)]
pub struct Listeners {
    pub(super) listener: std::net::TcpListener,
    pub(super) public: Option<std::net::TcpListener>,
    pub(super) admin: Option<std::net::TcpListener>,
    pub(super) socket: Option<AdminSocket>,
    pub(super) addresses: Addresses,
}

impl Listeners {
    /// Binds all addresses of a configuration.
    ///
    /// # Errors
    /// The error names the first address that cannot be bound.
    pub fn bind(
        listener: SocketAddr,
        public: Option<SocketAddr>,
        admin: Option<SocketAddr>,
    ) -> Result<Self, AppError> {
        let bind = |what: &'static str, address: SocketAddr| {
            listener::bind(address)
                .and_then(|bound| Ok((bound.local_addr()?, bound)))
                .map_err(|error| AppError::Bind {
                    what,
                    address,
                    error,
                })
        };
        let (listener_address, listener) = bind("[listener]", listener)?;
        let public = public
            .map(|address| bind("[public]", address))
            .transpose()?;
        let admin = admin.map(|address| bind("[admin]", address)).transpose()?;
        let addresses = Addresses {
            listener: listener_address,
            public: public.as_ref().map(|(address, _)| *address),
            admin: admin.as_ref().map(|(address, _)| *address),
            socket: None,
        };
        Ok(Self {
            listener,
            public: public.map(|(_, socket)| socket),
            admin: admin.map(|(_, socket)| socket),
            socket: None,
            addresses,
        })
    }

    /// Adds the operators' private socket. Call this only after `bind`: if `bind` succeeded, no
    /// other gateway runs with this configuration, and the socket file of an ended gateway may be
    /// replaced.
    ///
    /// # Errors
    /// If the socket cannot be created.
    pub fn with_socket(mut self, path: Option<&Path>) -> Result<Self, AppError> {
        self.socket = path.map(AdminSocket::bind).transpose()?;
        self.addresses.socket = path.map(Path::to_owned);
        Ok(self)
    }

    /// Returns the bound addresses. If a configured port is 0, they contain the port that the
    /// operating system has chosen.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }
}

/// Writes the addresses to a file atomically, so that a process that waits for the file never reads
/// an incomplete one.
///
/// # Errors
/// If the directory cannot be written.
pub fn write_ready_file(path: &Path, addresses: &Addresses) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(file_access::parent(path))?;
    serde_json::to_writer(&mut file, addresses)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
