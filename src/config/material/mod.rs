//! The files that a configuration names, and what is built from them as a whole.
//!
//! - `units`: what is read from disk and takes effect as a whole
//! - `inventory`: what was found, for `countersign check`
//! - `files`: reads files, and remembers which

pub(in crate::config) mod files;
pub(in crate::config) mod inventory;
pub(in crate::config) mod units;
