//! A request for a leaf: names, profile, lifetime, and the paths of its files.
//!
//! Requests in PKCS#10 form belong here too: they may contribute a key and
//! names, never usages.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::lifetime::Lifetime;
use super::names::SubjectNames;
use super::profile::CertificateProfile;
use crate::identity::SpiffeId;
use crate::store::{SafeName, UnsafeName};

/// Returns the label of the files of a certificate for NAME: NAME itself if it is a safe file name,
/// the last path segment of a SPIFFE ID, `_wildcard.` for a leading `*.`, and an IPv6 address with
/// `_` for each colon.
///
/// # Errors
/// When that is no safe file name.
pub fn label_for(name: &str) -> Result<SafeName, UnsafeName> {
    let component = if SpiffeId::is_claimed_by(name) {
        name.rsplit_once('/')
            .map_or(name, |(_, last)| last)
            .to_owned()
    } else if let Some(parent) = name.strip_prefix("*.") {
        format!("_wildcard.{parent}")
    } else if name.parse::<Ipv6Addr>().is_ok() {
        name.replace(':', "_")
    } else {
        name.to_owned()
    };
    component.parse()
}

/// A leaf to be issued with a new key.
#[derive(Debug, Clone)]
pub struct IssueRequest {
    pub(crate) label: SafeName,
    pub(crate) names: SubjectNames,
    pub(crate) profile: Option<CertificateProfile>,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) overwrite: bool,
}

impl IssueRequest {
    /// Creates a request for a leaf with these names, stored as `DIR/issued/LABEL.{pem,key}`.
    #[must_use]
    pub const fn new(label: SafeName, names: SubjectNames) -> Self {
        Self {
            label,
            names,
            profile: None,
            lifetime: None,
            out: None,
            overwrite: false,
        }
    }

    /// Sets the profile. By default it is the one that fits the names.
    #[must_use]
    pub fn profile(mut self, profile: CertificateProfile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// Sets the lifetime. By default it is that of the profile.
    #[must_use]
    pub const fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Writes the files to `PREFIX.pem` and `PREFIX.key` instead of `DIR/issued`.
    #[must_use]
    pub fn out(mut self, prefix: impl Into<PathBuf>) -> Self {
        self.out = Some(prefix.into());
        self
    }

    /// Sets whether files of an earlier certificate are replaced.
    #[must_use]
    pub const fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_one_safe_component() {
        for (name, label) in [
            ("gateway", "gateway"),
            ("a.example.org", "a.example.org"),
            ("spiffe://example.org/ns/shop/sa/checkout", "checkout"),
            ("*.example.org", "_wildcard.example.org"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "__1"),
            ("alice@example.org", "alice@example.org"),
        ] {
            assert_eq!(label_for(name).unwrap().as_str(), label);
        }
        for name in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "/a",
            "a\0",
            "-a",
            ".a",
            "a b",
            "a\\b",
            "é",
            "spiffe://example.org/..",
            "spiffe://example.org/.a",
        ] {
            assert!(label_for(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn labels_stay_in_their_directory(text in ".{0,60}") {
            if let Ok(label) = label_for(&text) {
                let path = std::path::Path::new("issued").join(label.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("issued")));
                prop_assert_eq!(
                    path.file_name().and_then(|name| name.to_str()),
                    Some(label.as_str())
                );
            }
        }
    }
}
