//! `Layout`: the paths of an authority's files.
//!
//! Gateways and operators' scripts read these files, so the paths must stay the same.

use std::path::{Path, PathBuf};

use super::error::PkiError;
use crate::signing::request::IssueRequest;
use crate::signing::signatory::AuthorityName;

/// The group of files that a transaction changes. Each scope has a separate file that describes its
/// transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The authority's own files. Such a transaction is committed as soon as its file contains the
    /// steps.
    Authority,
    /// The keys and certificates of leaves. Such a transaction is committed when the inventory has
    /// recorded the leaves.
    Leaves,
}

/// The paths of an authority's files below its directory.
#[derive(Debug, Clone)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// Returns the paths below `directory`.
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

    /// Returns the path of `crl/`, the directory with the revocation lists.
    pub(crate) fn crls(&self) -> PathBuf {
        self.directory.join("crl")
    }

    /// Returns the path of `trust.pem`, which contains all trusted roots.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.directory.join("trust.pem")
    }

    /// Returns the paths below `earlier/`, which contains the earlier generation during a rotation.
    #[must_use]
    pub fn earlier(&self) -> Self {
        Self::new(self.directory.join("earlier"))
    }

    /// Returns the paths below `next/`, in which old versions of this program prepared a rotation.
    pub(crate) fn next(&self) -> Self {
        Self::new(self.directory.join("next"))
    }

    /// Returns the paths below `pending/`. The directory contains the key and the request of an
    /// intermediate that another program has not signed yet.
    #[must_use]
    pub fn pending(&self) -> Self {
        Self::new(self.directory.join("pending"))
    }

    /// Returns the path of `intermediate.csr`, the request for an intermediate.
    pub(crate) fn intermediate_request(&self) -> PathBuf {
        self.directory.join("intermediate.csr")
    }

    /// Returns the path of `retired/`, which contains one directory for each retired generation.
    pub(crate) fn retired(&self) -> PathBuf {
        self.directory.join("retired")
    }

    /// Returns the path prefix `issued/LABEL` for the files of a leaf. The suffixes `.pem` and
    /// `.key` are added to it.
    #[must_use]
    pub fn issued(&self, label: &str) -> PathBuf {
        self.directory.join("issued").join(label)
    }

    /// Whether a process is changing the authority's own files, or was killed before the change was
    /// complete.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.has_transaction(Scope::Authority) || self.next().directory().exists()
    }

    pub(super) fn has_transaction(&self, scope: Scope) -> bool {
        self.transaction(scope).symlink_metadata().is_ok()
    }

    /// Returns the path of the file that describes a transaction. The file exists only during the
    /// transaction.
    pub(crate) fn transaction(&self, scope: Scope) -> PathBuf {
        self.directory.join(match scope {
            Scope::Authority => ".transaction",
            Scope::Leaves => ".transaction-leaves",
        })
    }

    /// Returns the paths of the certificate file and the key file of a requested leaf.
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

    /// Returns the path of `profiles.toml`, which contains the operator's certificate profiles.
    #[must_use]
    pub fn profiles(&self) -> PathBuf {
        self.directory.join("profiles.toml")
    }

    /// Returns the path of `inventory.db`, which records every signed certificate.
    #[must_use]
    pub fn inventory(&self) -> PathBuf {
        self.directory.join("inventory.db")
    }

    /// Returns the path of `.lock`. The process that holds the lock on this file may change the
    /// directory.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.directory.join(".lock")
    }

    /// Returns the path of `issued.jsonl`, in which old versions of this program recorded
    /// certificates.
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

/// Returns the path `prefix` with `suffix` added to its file name. Unlike an extension, the suffix
/// does not replace a part of the name after a dot.
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
