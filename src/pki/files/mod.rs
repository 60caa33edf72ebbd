//! The files of an authority's directory, and how several of them change together.
//!
//! A file imports only from those after it:
//!
//! - `recovery`: the directory's lock, and what its holder completes first
//! - `unsettled`: rotations that an earlier version did not complete
//! - `transaction`: several files that change together or not at all
//! - `layout`: which file is where
//! - `certificates`: reads certificate files
//! - `error`: why an authority did not do what it was asked to

pub(in crate::pki) mod certificates;
pub(in crate::pki) mod error;
pub(in crate::pki) mod layout;
mod recovery;
pub(in crate::pki) mod transaction;
mod unsettled;
