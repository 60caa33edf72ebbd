//! The files of an authority's directory, and how several of them change together.
//!
//! A file imports only from those after it:
//!
//! - `recovery`: the directory's lock, and the completion of interrupted changes
//! - `unsettled`: rotations that an earlier version did not complete
//! - `transaction`: several files that change together or not at all
//! - `layout`: the paths of the files
//! - `certificates`: reads certificate files
//! - `error`: why an operation of an authority failed

pub(crate) mod certificates;
pub(crate) mod error;
pub(crate) mod layout;
mod recovery;
pub(crate) mod transaction;
mod unsettled;
