//! TLS towards callers: credentials, per-name configurations, the client
//! certificate verifier, session tickets; and TLS towards services.
//!
//! A file imports only from those after it:
//!
//! - `client`: TLS from the gateway to a service
//! - `server`: per-name configurations, and the selection by name
//! - `caller_verifier`: rustls' verifier of client certificates
//! - `tickets`: makes and opens session tickets
//! - `handshake_notes`: the findings of one handshake
//! - `session`: the content of a ticket
//! - `client_certificate`: whether callers must present one
//! - `credentials`: a certificate chain of the gateway with its key

mod caller_verifier;
pub mod client;
mod client_certificate;
pub mod credentials;
pub mod handshake_notes;
pub mod server;
mod session;
pub mod tickets;

pub use client::{ClientTls, ClientTlsConfig, ClientTlsError, TlsConnectError};
pub use client_certificate::ClientCertificate;
pub use credentials::{Credentials, CredentialsError};
pub use handshake_notes::HandshakeNotes;
pub use server::{
    PLAIN_HTTP_ANSWER, ServerEntry, ServerEntryConfig, ServerNames, ServerNamesError,
};
pub use session::Session;
pub use tickets::{TicketPolicy, TicketSource};
