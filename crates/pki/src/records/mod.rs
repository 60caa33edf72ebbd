//! The records of an authority.
//!
//! - `state`: `pki.toml`: list numbers and revoked certificates
//! - `inventory`: `inventory.db`: every certificate that was signed

pub mod inventory;
pub mod state;
