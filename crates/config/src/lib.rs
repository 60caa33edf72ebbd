//! Reads the configuration file, and builds the types that the gateway runs with.
//!
//! These types belong to other crates, which know nothing about the file. This crate accepts no
//! connection and never writes a file.
//!
//! Files:
//!
//! - `load`: loads a configuration with all files that it names
//! - `host`: checks what the gateway needs from this machine to start, for example free addresses
//! - `running`: the configuration in service, and loads of its certificates, keys and CRLs
//! - `default_path`: the default paths of the configuration file
//! - `socket`: reads only the path of the operators' socket, even if the rest of the file is
//!   invalid
//! - `profiles`: reads `profiles.toml`, the certificate profiles of an authority
//! - `template`: the first configuration, for `countersign init`
//!
//! Folders, which the files above use. Each folder imports only from folders below it in this list:
//!
//! - `resolve`: decides what the values mean together, and builds the types of other modules
//! - `material`: reads certificates, keys and CRLs, as units that take effect as a whole
//! - `document`: the file as it is written, and the table of all known keys
//! - `diagnostics`: collects all errors, each with file, line, caret (`^`) and remedy

use countersign_core::{
    assertion, authn, clock, crl_fetch, crypto, descriptors, file_access, file_read, file_stamp,
    http_client, identity, pem, policy, route, secret, snapshot, telemetry, tls, trust, upstream,
};
use countersign_pki as pki;

mod default_path;
mod diagnostics;
mod document;
mod host;
mod load;
mod material;
mod profiles;
mod resolve;
mod running;
mod socket;
mod template;

pub use default_path::{DEFAULT_PATHS, NoConfiguration, PATH_VARIABLE, default_path, path};
pub use diagnostics::{ConfigErrors, Diagnostic, ErrorRecord};
pub use document::quantity;
pub use host::RunningGateway;
pub use load::{Loaded, inspect, inspect_on_host, inspect_with, load, load_after};
pub use material::files::Progress;
pub use material::inventory::{
    CertificateSummary, CrlSummary, Inventory, ServerNameSummary, TrustDomainSummary,
};
pub use material::units::UnitKey;
pub use profiles::profiles;
pub use running::{LoadedUnit, Running, UnitError};
pub use socket::{AdminSocketError, admin_socket};
pub use template::{Starter, StarterError};

#[cfg(test)]
mod tests;
