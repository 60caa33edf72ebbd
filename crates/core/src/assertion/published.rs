//! The documents that the gateway publishes about its keys: the key set and the metadata.
//!
//! The documents are kept in memory until the set of published keys or the settings change. Each
//! document has an entity tag, so that consumers can ask whether the document has changed. The
//! module `admin` serves the documents.

use std::sync::{Arc, Mutex, PoisonError};

use countersign_verify::claims::TYP;
use countersign_verify::jose::base64url_encode;
use serde_json::json;

use super::key_ring::{SigningKey, SigningKeyRing};
use super::signer::AssertionSettings;
use super::signing_key::jwk_set;
use crate::crypto;

/// Path of the key set, relative to the issuer's URL.
pub const JWKS_PATH: &str = "/.well-known/jwks.json";
/// Path of the metadata (RFC 8414 section 3).
pub const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";
/// Path at which OpenID Connect libraries look for the same metadata.
pub const OPENID_METADATA_PATH: &str = "/.well-known/openid-configuration";

/// One JSON document with its entity tag.
#[derive(Debug)]
pub struct Document {
    /// The JSON text.
    pub body: String,
    /// A strong entity tag, in quotes (RFC 9110 section 8.8.3).
    pub etag: String,
}

/// The documents for one set of published keys.
#[derive(Debug)]
pub struct Documents {
    /// The key set as a JWK Set.
    pub jwks: Arc<Document>,
    /// The metadata of the gateway, in the form of authorization server metadata (RFC 8414).
    pub metadata: Arc<Document>,
    /// The identifiers of the published keys. These identifiers, `issuer` and `header` together
    /// determine the content of the documents.
    kids: Vec<String>,
    issuer: String,
    header: String,
}

/// A cache of the documents. Creates new documents when their content must change.
#[derive(Debug, Default)]
pub struct Published {
    kept: Mutex<Option<Arc<Documents>>>,
}

impl Published {
    /// Creates an empty cache of documents.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the documents for these settings and for the keys published at `now` (seconds since
    /// the Unix epoch).
    #[must_use]
    pub fn documents(
        &self,
        settings: &AssertionSettings,
        ring: &SigningKeyRing,
        now: u64,
    ) -> Arc<Documents> {
        // A poisoned lock is safe to use, because the documents are always replaced as a whole.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(documents) if documents.are_of(settings, ring, now) => Arc::clone(documents),
            _ => {
                let documents = Arc::new(Documents::new(settings, ring, now));
                *kept = Some(Arc::clone(&documents));
                documents
            }
        }
    }
}

impl Documents {
    fn new(settings: &AssertionSettings, ring: &SigningKeyRing, now: u64) -> Self {
        let keys: Vec<&SigningKey> = ring.published(now).map(Arc::as_ref).collect();
        let base = settings.issuer.trim_end_matches('/');
        let metadata = json!({
            "issuer": settings.issuer,
            "jwks_uri": format!("{base}{JWKS_PATH}"),
            // RFC 8414 requires this member, although the gateway issues no tokens.
            "response_types_supported": ["none"],
            "countersign_header": canonical_field_name(settings.header.as_str()),
            "countersign_typ": TYP,
        });
        Self {
            kids: keys.iter().map(|key| key.kid().to_owned()).collect(),
            jwks: Arc::new(Document::new(jwk_set(keys).to_string())),
            metadata: Arc::new(Document::new(metadata.to_string())),
            issuer: settings.issuer.clone(),
            header: settings.header.as_str().to_owned(),
        }
    }

    /// Whether the documents are up to date for `settings` and for the keys that are published at
    /// `now`. The keys are compared by their thumbprints, which are hashes of the public keys.
    fn are_of(&self, settings: &AssertionSettings, ring: &SigningKeyRing, now: u64) -> bool {
        self.issuer == settings.issuer
            && self.header == settings.header.as_str()
            && ring
                .published(now)
                .map(|key| key.kid())
                .eq(self.kids.iter().map(String::as_str))
    }
}

impl Document {
    fn new(body: String) -> Self {
        let digest = crypto::sha256(body.as_bytes());
        Self {
            etag: format!("\"{}\"", base64url_encode(&digest)),
            body,
        }
    }
}

/// Returns the usual spelling of a field name: `Countersign-Assertion` for `countersign-assertion`.
fn canonical_field_name(name: &str) -> String {
    let mut at_start = true;
    name.chars()
        .map(|character| {
            let written = if at_start {
                character.to_ascii_uppercase()
            } else {
                character
            };
            at_start = character == '-';
            written
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::key_directory::{PUBLISH_AHEAD, add};
    use super::super::key_record::RETIREMENT_SECONDS;
    use super::super::key_ring::SigningAlgorithm;
    use super::*;

    const START: u64 = 1_770_000_000;

    fn settings(issuer: &str) -> AssertionSettings {
        AssertionSettings {
            issuer: issuer.to_owned(),
            header: http::HeaderName::from_static("countersign-assertion"),
            lifetime: Duration::from_secs(30),
            max_size: crate::assertion::DEFAULT_MAX_SIZE,
        }
    }

    #[test]
    fn metadata_leads_to_the_key_set() {
        let directory = tempfile::tempdir().unwrap();
        add(directory.path(), None, PUBLISH_AHEAD, START).unwrap();
        let ring = SigningKeyRing::load(directory.path(), SigningAlgorithm::Es256).unwrap();
        let documents =
            Published::new().documents(&settings("https://gateway.example.org:9080"), &ring, START);
        let metadata: serde_json::Value = serde_json::from_str(&documents.metadata.body).unwrap();
        assert_eq!(
            metadata,
            json!({
                "issuer": "https://gateway.example.org:9080",
                "jwks_uri": "https://gateway.example.org:9080/.well-known/jwks.json",
                "response_types_supported": ["none"],
                "countersign_header": "Countersign-Assertion",
                "countersign_typ": "countersign+jwt",
            })
        );
        assert_eq!(documents.jwks.body, ring.jwks(START));
        assert!(documents.jwks.etag.starts_with('"') && documents.jwks.etag.ends_with('"'));
    }

    #[test]
    fn documents_are_kept_until_the_published_keys_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        add(path, None, PUBLISH_AHEAD, START).unwrap();
        add(path, None, PUBLISH_AHEAD, START).unwrap();
        let ring = SigningKeyRing::load(path, SigningAlgorithm::Es256).unwrap();
        let published = Published::new();
        let settings_a = settings("https://a");
        let first = published.documents(&settings_a, &ring, START);
        let takeover = START + 3600;
        let same = published.documents(&settings_a, &ring, takeover);
        assert!(Arc::ptr_eq(&first, &same));
        let end = takeover + RETIREMENT_SECONDS;
        let fewer = published.documents(&settings_a, &ring, end);
        assert_ne!(fewer.jwks.etag, first.jwks.etag);
        assert_eq!(fewer.metadata.etag, first.metadata.etag);
        let other = published.documents(&settings("https://b"), &ring, end);
        assert_ne!(other.metadata.etag, fewer.metadata.etag);
        assert_eq!(other.jwks.etag, fewer.jwks.etag);
    }
}
