//! `PathError`: why a path, or a certificate in it, is not accepted.

use crate::reason::ReasonCode;

/// The reason code, and the details in a sentence.
pub type PathError = (ReasonCode, String);
