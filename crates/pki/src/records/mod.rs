//! The records that an authority keeps.
//!
//! - `state`: `pki.toml`: the latest CRL numbers, and the revoked certificates
//! - `inventory`: `inventory.db`: every certificate that was signed

pub mod inventory;
pub mod state;
