//! TLS towards callers: credentials, per-name configurations, the client
//! certificate verifier.

pub mod credentials;
pub mod server;
pub mod verifier;

pub use credentials::{Credentials, CredentialsError};
pub use server::{
    ClientCertificate, ServerEntry, ServerEntryConfig, ServerNames, ServerNamesError,
};
pub use verifier::HandshakeNotes;
