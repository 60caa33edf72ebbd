//! The source of the gateway's public keys: a fixed key set, or the URL of a key set
//! with a cache (feature `fetch`).

use std::sync::Arc;

use crate::VerifyError;
use crate::jose::{Header, JwkSet};

/// The source of the gateway's public keys.
#[derive(Debug)]
pub(crate) enum KeySource {
    Static(Arc<JwkSet>),
    #[cfg(feature = "fetch")]
    Remote(Arc<crate::fetch::RemoteKeys>),
}

impl KeySource {
    /// Returns the keys that are available now, without a fetch.
    pub(crate) fn at_hand(&self) -> Result<Arc<JwkSet>, VerifyError> {
        match self {
            Self::Static(keys) => Ok(Arc::clone(keys)),
            #[cfg(feature = "fetch")]
            Self::Remote(remote) => remote.at_hand(),
        }
    }

    /// Returns the keys for a token with this header. Fetches the keys if they are stale,
    /// or if they do not contain the key that the header names.
    pub(crate) async fn for_header(&self, header: &Header) -> Result<Arc<JwkSet>, VerifyError> {
        match self {
            Self::Static(keys) => {
                let _ = header;
                Ok(Arc::clone(keys))
            }
            #[cfg(feature = "fetch")]
            Self::Remote(remote) => remote.for_key(header.key_id().unwrap_or_default()).await,
        }
    }
}
