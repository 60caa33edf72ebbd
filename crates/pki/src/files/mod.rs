//! The files of an authority's directory, and changes of several files in one transaction.
//!
//! Each file imports only from files below it in this list:
//!
//! - `recovery`: the directory's lock, and the completion of interrupted changes
//! - `unsettled`: rotations that an earlier version did not complete
//! - `transaction`: several files that change together or not at all
//! - `own`: the files that only the authority itself writes
//! - `layout`: the paths of the files
//! - `certificates`: reads certificate files
//! - `error`: why an operation of an authority failed

pub(crate) mod certificates;
pub(crate) mod error;
pub(crate) mod layout;
pub(crate) mod own;
mod recovery;
pub(crate) mod transaction;
mod unsettled;
