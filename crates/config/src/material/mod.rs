//! The files that a configuration names, and the units that are built from them.
//!
//! - `units`: files that are read and take effect together
//! - `inventory`: a summary, for `countersign check`
//! - `files`: reads files, and remembers which

pub(crate) mod files;
pub(crate) mod inventory;
pub(crate) mod units;
