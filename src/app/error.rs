//! `AppError`: why the gateway could not start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::admin::SocketError;
use crate::http_client::FetchError;
use crate::trust::DenyListError;

/// The reason why the gateway could not start, or could not continue.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({what}): {error}")]
    Bind {
        /// The listener that the address is for.
        what: &'static str,
        /// The address that cannot be bound.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The operators' socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Chains cannot be kept.
    #[error("cannot keep chains in {} ([audit] chains): {error}", path.display())]
    Chains {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The deny list's file cannot be read or made.
    #[error(transparent)]
    DenyList(#[from] DenyListError),
    /// The audit log cannot be written.
    #[error("cannot write the audit log {}: {error}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The keys of an issuer that is required at start cannot be fetched.
    #[error(
        "the keys of token issuer {name} cannot be fetched: {error}; \
         mend that, or remove required_at_start"
    )]
    TokenIssuer {
        /// The issuer's name in the configuration.
        name: String,
        /// The reason why the keys cannot be fetched.
        error: FetchError,
    },
    /// The system refused something else.
    #[error("{0}")]
    System(#[from] io::Error),
}
