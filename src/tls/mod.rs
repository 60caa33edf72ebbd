//! TLS towards callers: credentials, per-name configurations, the client
//! certificate verifier; and TLS towards services.

pub mod client;
pub mod credentials;
pub mod server;
pub mod verifier;

pub use client::{ClientTls, ClientTlsConfig, ClientTlsError, TlsConnectError};
pub use credentials::{Credentials, CredentialsError};
pub use server::{
    ClientCertificate, ServerEntry, ServerEntryConfig, ServerNames, ServerNamesError,
};
pub use verifier::HandshakeNotes;
