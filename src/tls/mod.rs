//! TLS towards callers: credentials, per-name configurations, the client
//! certificate verifier, session tickets; and TLS towards services.

pub mod client;
pub mod credentials;
pub mod server;
pub mod tickets;
pub mod verifier;

pub use client::{ClientTls, ClientTlsConfig, ClientTlsError, TlsConnectError};
pub use credentials::{Credentials, CredentialsError};
pub use server::{
    ClientCertificate, PLAIN_HTTP_ANSWER, ServerEntry, ServerEntryConfig, ServerNames,
    ServerNamesError,
};
pub use tickets::{Session, TicketPolicy, TicketSource};
pub use verifier::HandshakeNotes;
