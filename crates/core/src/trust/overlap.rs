//! Finds bundles that must not be accepted together.
//!
//! A path must belong to one trust domain, and a name must have one authority. Both are lost if two
//! bundles share an anchor or may certify the same name.

use std::collections::HashMap;
use std::sync::Arc;

use super::bundle::TrustBundle;

/// Two bundles that must not be accepted together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientTrustError {
    /// Two bundles contain the same anchor, so that a path would belong to both.
    #[error(
        "trust domains {0} and {1} share a root certificate; each root belongs to exactly one trust domain"
    )]
    SharedAnchor(String, String),
    /// The authorities of both bundles may certify the same name.
    #[error("trust domains {0} and {1} may both vouch for {2}; their vouches_for must not overlap")]
    Overlap(String, String, String),
}

/// Checks that no two bundles share an anchor or may certify the same names.
///
/// # Errors
/// Names the first two that do.
pub fn check_overlap(bundles: &[Arc<TrustBundle>]) -> Result<(), ClientTrustError> {
    let mut owners: HashMap<(&[u8], &[u8]), &TrustBundle> = HashMap::new();
    for bundle in bundles {
        for key in bundle.anchor_keys() {
            if let Some(other) = owners.insert(key, bundle)
                && other.name != bundle.name
            {
                return Err(ClientTrustError::SharedAnchor(
                    other.name.to_string(),
                    bundle.name.to_string(),
                ));
            }
        }
    }
    for (index, bundle) in bundles.iter().enumerate() {
        for other in bundles.iter().take(index) {
            for pattern in &bundle.vouches_for {
                if let Some(both) = other
                    .vouches_for
                    .iter()
                    .find(|theirs| pattern.overlaps(theirs))
                {
                    return Err(ClientTrustError::Overlap(
                        other.name.to_string(),
                        bundle.name.to_string(),
                        format!("{both} and {pattern}"),
                    ));
                }
            }
        }
    }
    Ok(())
}
