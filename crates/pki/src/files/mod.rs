//! The files of an authority's directory, and changes of several files in one transaction.
//!
//! Each file imports only from files below it in this list:
//!
//! - `recovery`: locks the directory and completes interrupted changes
//! - `unsettled`: completes rotations that an old version of this program left incomplete
//! - `transaction`: changes several files completely or not at all
//! - `layout`: the paths of the files
//! - `certificates`: reads certificate files
//! - `error`: why an operation of an authority failed

pub(crate) mod certificates;
pub(crate) mod error;
pub(crate) mod layout;
mod recovery;
pub(crate) mod transaction;
mod unsettled;
