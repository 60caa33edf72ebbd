//! Checks that no two trust bundles can accept the same caller.
//!
//! A path must belong to exactly one trust domain, and only one trust domain may certify a name.
//! Both rules would be broken if two bundles had the same root or could certify the same name.

use std::collections::HashMap;
use std::sync::Arc;

use super::bundle::TrustBundle;

/// The reason why two bundles must not be accepted for the same server name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientTrustError {
    /// Two bundles have the same root (subject and key), so a path to this root would belong to
    /// both trust domains.
    #[error(
        "trust domains {0} and {1} share a root certificate; each root belongs to exactly one trust domain"
    )]
    SharedAnchor(String, String),
    /// The authorities of both bundles may certify the same name.
    #[error("trust domains {0} and {1} may both vouch for {2}; their vouches_for must not overlap")]
    Overlap(String, String, String),
}

/// Checks that no two bundles have the same root or may certify the same name.
///
/// # Errors
/// The first conflict that is found, with the names of both trust domains.
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
