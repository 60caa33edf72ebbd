//! The files that a configuration names, and the units that are built from them.
//!
//! - `units`: a unit is a set of files that are read and take effect together
//! - `inventory`: a summary of certificates and CRLs, for `countersign check`
//! - `files`: reads files, and records their paths and stamps

pub(crate) mod files;
pub(crate) mod inventory;
pub(crate) mod units;
