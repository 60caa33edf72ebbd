//! `Layout`: the paths of an authority's files.
//!
//! The names are part of the interface: gateways and scripts read them.

use std::path::{Path, PathBuf};

use super::error::PkiError;
use crate::signing::request::IssueRequest;
use crate::signing::signatory::AuthorityName;

/// The subject of a transaction, which determines the name of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The authority's own files. The listed steps are final.
    Authority,
    /// Keys and certificates of leaves. The listed steps are final if the inventory contains the
    /// leaves.
    Leaves,
}

/// The paths below an authority's directory.
#[derive(Debug, Clone)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// Creates the layout below `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Returns the directory of the authority.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the path of `root.pem` or `intermediate.pem`.
    #[must_use]
    pub fn certificate(&self, authority: AuthorityName) -> PathBuf {
        self.directory.join(format!("{}.pem", authority.as_str()))
    }

    /// Returns the path of `root.key` or `intermediate.key`.
    #[must_use]
    pub fn key(&self, authority: AuthorityName) -> PathBuf {
        self.directory.join(format!("{}.key", authority.as_str()))
    }

    /// Returns the path of `crl/root.crl` or `crl/intermediate.crl`.
    #[must_use]
    pub fn crl(&self, authority: AuthorityName) -> PathBuf {
        self.crls().join(format!("{}.crl", authority.as_str()))
    }

    /// `crl/`: the revocation lists.
    pub(crate) fn crls(&self) -> PathBuf {
        self.directory.join("crl")
    }

    /// `trust.pem`: every trusted root.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.directory.join("trust.pem")
    }

    /// `earlier/`: the generation before the present one, until it is retired.
    #[must_use]
    pub fn earlier(&self) -> Self {
        Self::new(self.directory.join("earlier"))
    }

    /// `next/`: the directory in which earlier versions made a new generation.
    pub(crate) fn next(&self) -> Self {
        Self::new(self.directory.join("next"))
    }

    /// `retired/`: one directory for each generation that was retired.
    pub(crate) fn retired(&self) -> PathBuf {
        self.directory.join("retired")
    }

    /// Returns the path `issued/LABEL`, to which `.pem` and `.key` are added.
    #[must_use]
    pub fn issued(&self, label: &str) -> PathBuf {
        self.directory.join("issued").join(label)
    }

    /// Whether a process is changing the authority's files, or was killed while it did.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.has_transaction(Scope::Authority) || self.next().directory().exists()
    }

    pub(super) fn has_transaction(&self, scope: Scope) -> bool {
        self.transaction(scope).symlink_metadata().is_ok()
    }

    /// Returns the path of the file of a transaction that is under way.
    pub(crate) fn transaction(&self, scope: Scope) -> PathBuf {
        self.directory.join(match scope {
            Scope::Authority => ".transaction",
            Scope::Leaves => ".transaction-leaves",
        })
    }

    /// Returns the paths of the certificate and the key of a leaf.
    pub(crate) fn leaf_files(
        &self,
        request: &IssueRequest,
    ) -> Result<(PathBuf, PathBuf), PkiError> {
        let prefix = match &request.out {
            Some(prefix) => prefix.clone(),
            None => self.issued(request.label.as_str()),
        };
        Ok((with_suffix(&prefix, ".pem")?, with_suffix(&prefix, ".key")?))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("pki.toml")
    }

    /// `profiles.toml`: the certificate profiles that an operator has written.
    #[must_use]
    pub fn profiles(&self) -> PathBuf {
        self.directory.join("profiles.toml")
    }

    /// `inventory.db`: every certificate that was signed.
    #[must_use]
    pub fn inventory(&self) -> PathBuf {
        self.directory.join("inventory.db")
    }

    /// Returns the path of the file in which earlier versions kept their records.
    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.join("issued.jsonl")
    }

    pub(crate) fn all_fixed_files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.state(), self.trust()];
        for authority in AuthorityName::ALL {
            files.extend([
                self.key(authority),
                self.certificate(authority),
                self.crl(authority),
            ]);
        }
        files
    }
}

/// Adds a suffix to the last component, which may contain dots.
fn with_suffix(prefix: &Path, suffix: &str) -> Result<PathBuf, PkiError> {
    match prefix.file_name() {
        Some(name) if !prefix.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            let mut name = name.to_owned();
            name.push(suffix);
            Ok(prefix.with_file_name(name))
        }
        _ => Err(PkiError::NoFileName(prefix.to_owned())),
    }
}
