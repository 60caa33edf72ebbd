//! `PkiError`: why an operation of an authority failed.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::pem::PemError;
use crate::records::inventory::InventoryError;
use crate::records::state::StateError;
use crate::signing::error::AuthorityError;
use crate::signing::lifetime::Lifetime;
use crate::signing::names::RequestError;
use crate::signing::revocation_list::MAX_LIFETIME;
use crate::signing::signatory::Generation;
use crate::store::StoreError;
use crate::store::key::KeyError;

/// The reason why an operation of an authority failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A private key could not be read or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `pki.toml` could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The inventory could not be read or written.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The gateway would refuse the requested leaf.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The authority whose certificate is in this file cannot be used or cannot sign.
    #[error("{}: {error}", .path.display())]
    Authority {
        /// The path of the authority's certificate file.
        path: PathBuf,
        /// The reason why the authority cannot sign.
        error: AuthorityError,
    },
    /// The directory contains no authority.
    #[error(
        "there is no authority in {}; create one with: countersign pki init --dir {} --trust-domain NAME",
        .0.display(), .0.display()
    )]
    NoAuthority(PathBuf),
    /// The directory contains private keys of an authority, but no `pki.toml`.
    #[error(
        "the authority in {} is incomplete: its pki.toml is missing; restore it from a backup, or \
         begin anew with pki init --force",
        .0.display()
    )]
    Incomplete(PathBuf),
    /// The directory already contains an authority.
    #[error(
        "{} holds an authority already; with --force it is replaced, and nothing it issued \
         is trusted any longer",
        .0.display()
    )]
    AuthorityExists(PathBuf),
    /// Two files of the authority do not belong together, for example a root and an intermediate.
    #[error("{} does not belong here: {why}", .path.display())]
    Disagree {
        /// The path of the file.
        path: PathBuf,
        /// What does not fit together, in words.
        why: String,
    },
    /// A file is not valid PEM, or contains other blocks than expected.
    #[error("{}; {}", .error.in_file(.path.display()), .error.remedy())]
    Pem {
        /// The path of the file.
        path: PathBuf,
        /// The reason why the content cannot be read.
        error: PemError,
    },
    /// A file of the authority cannot be parsed.
    #[error("cannot read {}: {why}", .path.display())]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The reason why the file cannot be parsed.
        why: String,
    },
    /// No authority in this directory has signed the certificate in this file.
    #[error("the certificate in {} was not issued by this authority", .0.display())]
    NotIssuedHere(PathBuf),
    /// The inventory contains no certificate with this serial number.
    #[error("this authority issued no certificate with serial number {0}")]
    UnknownSerial(String),
    /// No live certificate has this name. A certificate is live if it is neither revoked nor
    /// expired.
    #[error(
        "no live certificate of this authority carries the name {0}; see: countersign pki list"
    )]
    UnknownName(String),
    /// Several live certificates have this name, so the operator must select one of them. A
    /// certificate is live if it is neither revoked nor expired.
    #[error(
        "{} live certificates carry the name {name}; revoke all of them with --all, those of before a \
         time with --issued-before, or one of them with --serial:{}",
        .candidates.len(), lines(.candidates)
    )]
    Ambiguous {
        /// The name that several certificates have.
        name: String,
        /// One line of text for each of these certificates.
        candidates: Vec<String>,
    },
    /// The text is not a serial number.
    #[error("{0:?} is not a serial number: at most 20 bytes in hexadecimal")]
    MalformedSerial(String),
    /// The intermediate is revoked, so gateways would refuse every leaf that it signs.
    #[error("the intermediate {} is revoked; its certificates would be refused", .0.display())]
    IntermediateRevoked(PathBuf),
    /// A root cannot be revoked, because its own revocation list would have to contain it, and
    /// gateways do not accept a list of a revoked root.
    #[error(
        "a root cannot be revoked by a list; remove it from the gateways' trusted roots instead"
    )]
    RootCannotBeRevoked,
    /// The requested lifetime of a revocation list is too long.
    #[error("a list lifetime of {} is too long: at most {}", .0, MAX_LIFETIME)]
    ListLifetime(Lifetime),
    /// A CRL file is damaged. It must be readable, because it also contains a revocation list of
    /// another generation. That list must not be lost.
    #[error(
        "{}; sign its lists again: countersign pki crl --dir {}",
        .error.in_file(.path.display()), .directory.display()
    )]
    DamagedList {
        /// The path of the file.
        path: PathBuf,
        /// The reason why the content cannot be read.
        error: PemError,
        /// The directory of the authority.
        directory: PathBuf,
    },
    /// Another process has rotated the authority since this process opened it.
    #[error("the authority in {} was rotated meanwhile; try again", .0.display())]
    Rotated(PathBuf),
    /// A rotation cannot start, because this earlier generation is not retired yet.
    #[error(
        "generation {} of the authority is not retired yet; see: countersign pki rotate status",
        .0.number()
    )]
    RotationUnderWay(Generation),
    /// There is no earlier generation that could be retired.
    #[error("there is no earlier generation; begin with: countersign pki rotate prepare")]
    NothingToRetire,
    /// The earlier generation cannot be retired, because it has signed this number of certificates
    /// that are neither revoked nor expired.
    #[error(
        "{0} live certificates depend on the earlier generation; renew them (countersign pki \
         rotate status lists them), or retire it with --force and have them refused"
    )]
    StillInUse(u64),
    /// Two requests of a bulk run would write this certificate file.
    #[error("two entries of the list would be written to {}", .0.display())]
    Twice(PathBuf),
    /// The name of the certificate file does not end with `.pem`, so the name of its key file is
    /// unknown.
    #[error("{} is not called PREFIX.pem; say where to put the new one with --out PREFIX", .0.display())]
    NotPem(PathBuf),
    /// The prefix for the files of a leaf ends with `/`, so it contains no file name.
    #[error("{} names no file; give a prefix such as certs/issued/gateway", .0.display())]
    NoFileName(PathBuf),
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

impl PkiError {
    /// Whether the operator's request caused the error. If not, the files or the system caused it.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Request(_)
                | Self::MalformedSerial(_)
                | Self::ListLifetime(_)
                | Self::NoFileName(_)
                | Self::NotPem(_)
                | Self::Twice(_)
                | Self::Ambiguous { .. }
                | Self::Key(KeyError::EmptyPassphrase | KeyError::PassphraseNeeded(_))
                | Self::Authority {
                    error: AuthorityError::LifetimeTooLong { .. },
                    ..
                }
        )
    }

    pub(crate) fn authority(path: &Path) -> impl FnOnce(AuthorityError) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Authority { path, error }
    }

    pub(crate) fn unreadable(path: &Path, why: impl fmt::Display) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}
