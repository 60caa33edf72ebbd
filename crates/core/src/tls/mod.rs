//! TLS with callers: credentials, configurations per server name, the verifier for client
//! certificates, and session tickets. Also TLS from the gateway to services.
//!
//! Each file imports only from files below it in this list:
//!
//! - `client`: TLS from the gateway to a service
//! - `server`: per-name configurations, and the selection by name
//! - `caller_verifier`: rustls' verifier of client certificates
//! - `authority_names`: the names of authorities that the gateway sends to callers
//! - `tickets`: makes and opens session tickets
//! - `handshake_notes`: the findings of one handshake
//! - `session`: the content of a ticket
//! - `client_certificate`: whether callers must present a certificate
//! - `own_certificate`: how long the gateway's certificates are valid
//! - `credentials`: a certificate chain of the gateway with its key

mod authority_names;
mod caller_verifier;
pub mod client;
mod client_certificate;
pub mod credentials;
pub mod handshake_notes;
mod own_certificate;
pub mod server;
mod session;
pub mod tickets;

pub use authority_names::{AuthorityNames, MAX_AUTHORITY_NAMES};
pub use client::{ClientTls, ClientTlsConfig, ClientTlsError, TlsConnectError};
pub use client_certificate::ClientCertificate;
pub use credentials::{Credentials, CredentialsError, complete_key};
pub use handshake_notes::HandshakeNotes;
pub use own_certificate::{CertificateOwner, LifeLeft, OwnCertificate};
pub use server::{
    PLAIN_HTTP_ANSWER, ServerEntry, ServerEntryConfig, ServerNames, ServerNamesError,
};
pub use session::Session;
pub use tickets::{TicketPolicy, TicketSource};
