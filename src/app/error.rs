//! `AppError`: why the gateway could not start or could not continue.

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
        /// The purpose of the listener, as the message names it.
        what: &'static str,
        /// The address that cannot be bound.
        address: SocketAddr,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The operators' socket cannot be created.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The directory for callers' certificate chains (`[audit] chains`) cannot be used.
    #[error("cannot keep chains in {} ([audit] chains): {error}", path.display())]
    Chains {
        /// The path of the directory.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The deny list's file cannot be read or created.
    #[error(transparent)]
    DenyList(#[from] DenyListError),
    /// The audit log cannot be written.
    #[error("cannot write the audit log {}: {error}", path.display())]
    Audit {
        /// The path of the audit log.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The keys of a token issuer that has `required_at_start` cannot be fetched.
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
    /// Any other error of the operating system.
    #[error("{0}")]
    System(#[from] io::Error),
}
