//! The files that a configuration names, and the units that are built from them.
//!
//! - `units`: files that are read and take effect together
//! - `inventory`: a summary, for `countersign check`
//! - `files`: reads files, and remembers which

pub(in crate::config) mod files;
pub(in crate::config) mod inventory;
pub(in crate::config) mod units;
