//! `PathError`: why a certificate path, or one certificate of it, is refused.

use crate::reason::ReasonCode;

/// The reason code of a refusal, and a sentence with details.
pub type PathError = (ReasonCode, String);
