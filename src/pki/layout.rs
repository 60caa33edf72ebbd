//! `Layout`: which file of an authority is where.
//!
//! The names are part of the interface: gateways and scripts read them.

use std::path::{Path, PathBuf};

use super::PkiError;
use super::request::IssueRequest;
use super::state::AuthorityName;
use super::store::{self, Lock, StoreError};

/// The paths below an authority's directory.
#[derive(Debug, Clone)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// The layout below `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `root.pem` or `intermediate.pem`.
    #[must_use]
    pub fn certificate(&self, authority: AuthorityName) -> PathBuf {
        self.directory.join(format!("{}.pem", authority.as_str()))
    }

    /// `root.key` or `intermediate.key`.
    #[must_use]
    pub fn key(&self, authority: AuthorityName) -> PathBuf {
        self.directory.join(format!("{}.key", authority.as_str()))
    }

    /// `crl/root.crl` or `crl/intermediate.crl`.
    #[must_use]
    pub fn crl(&self, authority: AuthorityName) -> PathBuf {
        self.directory
            .join("crl")
            .join(format!("{}.crl", authority.as_str()))
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

    /// `next/`: a generation that is being made.
    pub(super) fn next(&self) -> Self {
        Self::new(self.directory.join("next"))
    }

    /// `retired/`: one directory for each generation that was retired.
    pub(super) fn retired(&self) -> PathBuf {
        self.directory.join("retired")
    }

    /// `issued/LABEL`, to which `.pem` and `.key` are added.
    #[must_use]
    pub fn issued(&self, label: &str) -> PathBuf {
        self.directory.join("issued").join(label)
    }

    /// Takes the directory for this process alone, and tidies it up.
    pub(super) fn lock(&self) -> Result<Lock, StoreError> {
        let lock = Lock::acquire(&self.directory)?;
        for directory in ["", "issued", "crl"] {
            store::sweep(&self.directory.join(directory));
        }
        Ok(lock)
    }

    /// Certificate and key file of a leaf.
    pub(super) fn leaf_files(
        &self,
        request: &IssueRequest,
    ) -> Result<(PathBuf, PathBuf), PkiError> {
        let prefix = match &request.out {
            Some(prefix) => prefix.clone(),
            None => self.issued(request.label.as_str()),
        };
        Ok((with_suffix(&prefix, ".pem")?, with_suffix(&prefix, ".key")?))
    }

    pub(super) fn state(&self) -> PathBuf {
        self.directory.join("pki.toml")
    }

    /// `profiles.toml`: what an operator says certificates are like.
    #[must_use]
    pub fn profiles(&self) -> PathBuf {
        self.directory.join("profiles.toml")
    }

    /// `inventory.db`: every certificate that was signed.
    #[must_use]
    pub fn inventory(&self) -> PathBuf {
        self.directory.join("inventory.db")
    }

    /// Where earlier versions kept their records.
    pub(super) fn journal(&self) -> PathBuf {
        self.directory.join("issued.jsonl")
    }

    pub(super) fn all_fixed_files(&self) -> Vec<PathBuf> {
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

/// Adds a suffix to the last component, whatever dots it has.
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
