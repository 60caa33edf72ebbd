//! `IssueRequest`: a request for a leaf, with names, profile, lifetime, and the paths of its files.
//!
//! A PKCS#10 request is converted to this type. Only its key and its names are used, never its
//! usages.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::lifetime::Lifetime;
use super::names::SubjectNames;
use super::profile::CertificateProfile;
use crate::identity::SpiffeId;
use crate::store::{SafeName, UnsafeName};

/// Returns the label for the files of a leaf that an operator calls `name`. For a SPIFFE ID, it is
/// the last segment of the path. Otherwise it is `name`, in which a leading `*.` becomes
/// `_wildcard.` and each colon of an IPv6 address becomes `_`.
///
/// # Errors
/// If the label is not a safe file name.
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

/// A request for a leaf, and where its files are written.
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
    /// Creates a request for a leaf with these names. By default, its files are `issued/LABEL.pem`
    /// and `issued/LABEL.key` in the authority's directory.
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

    /// Sets the profile. By default, the leaf has the built-in profile that fits the names.
    #[must_use]
    pub fn profile(mut self, profile: CertificateProfile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// Sets the lifetime. By default, the leaf has the lifetime of its profile.
    #[must_use]
    pub const fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Sets the files to `PREFIX.pem` and `PREFIX.key`. By default, the files are in `issued/` of
    /// the authority's directory.
    #[must_use]
    pub fn out(mut self, prefix: impl Into<PathBuf>) -> Self {
        self.out = Some(prefix.into());
        self
    }

    /// Sets whether existing files of the leaf are replaced. By default, an existing file is an
    /// error.
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
