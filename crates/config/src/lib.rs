//! The configuration file: reading it and building what it describes.
//!
//! Domain modules own their types and know nothing of the file; only this module knows both. It
//! never opens a socket and never writes a file.
//!
//! On top:
//!
//! - `load`: loads a configuration with everything that it names
//! - `running`: the configuration in service, and loads of its material
//! - `default_path`: the default paths of the configuration file
//! - `socket`: the operators' socket alone, also of a file that does not load
//! - `profiles`: `profiles.toml` of an authority, with the same machinery
//! - `template`: the first file, for `countersign init`
//!
//! Below, from top to bottom; a folder imports only from those after it:
//!
//! - `resolve`: what the values mean together; builds the domain types
//! - `material`: reads certificates, keys and lists, as units that take effect as a whole
//! - `document`: the file as it is written, and the one table of known keys
//! - `diagnostics`: every error with file, line, caret and remedy; all at once

use countersign_core::{
    assertion, authn, clock, crl_fetch, crypto, descriptors, file_read, file_stamp, http_client,
    identity, pem, policy, route, secret, snapshot, tls, trust, upstream,
};
use countersign_pki as pki;

mod default_path;
mod diagnostics;
mod document;
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
pub use load::{Loaded, inspect, inspect_with, load, load_after};
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
