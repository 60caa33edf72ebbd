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

/// Why an operation of an authority failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A private key could not be read or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The authority's records could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The inventory could not be read or written.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The gateway would refuse such a leaf.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The authority of a certificate file cannot sign.
    #[error("{}: {error}", .path.display())]
    Authority {
        /// The authority's certificate file.
        path: PathBuf,
        /// Why.
        error: AuthorityError,
    },
    /// The directory holds no authority.
    #[error(
        "there is no authority in {}; create one with: countersign pki init --dir {} --trust-domain NAME",
        .0.display(), .0.display()
    )]
    NoAuthority(PathBuf),
    /// The directory has keys of an authority, but no `pki.toml`.
    #[error(
        "the authority in {} is incomplete: its pki.toml is missing; restore it from a backup, or \
         begin anew with pki init --force",
        .0.display()
    )]
    Incomplete(PathBuf),
    /// The directory holds an authority already.
    #[error(
        "{} holds an authority already; with --force it is replaced, and nothing it issued \
         is trusted any longer",
        .0.display()
    )]
    AuthorityExists(PathBuf),
    /// The authority's files do not belong together.
    #[error("{} does not belong here: {why}", .path.display())]
    Disagree {
        /// The file.
        path: PathBuf,
        /// The contradiction that was found.
        why: String,
    },
    /// A file is no PEM file of the expected kind.
    #[error("{}; {}", .error.in_file(.path.display()), .error.remedy())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why the content cannot be read.
        error: PemError,
    },
    /// A certificate file cannot be parsed.
    #[error("cannot read {}: {why}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why the certificate cannot be parsed.
        why: String,
    },
    /// A certificate was not signed by this authority.
    #[error("the certificate in {} was not issued by this authority", .0.display())]
    NotIssuedHere(PathBuf),
    /// A serial number that this authority never issued.
    #[error("this authority issued no certificate with serial number {0}")]
    UnknownSerial(String),
    /// No live certificate carries this name.
    #[error(
        "no live certificate of this authority carries the name {0}; see: countersign pki list"
    )]
    UnknownName(String),
    /// Several live certificates carry this name.
    #[error(
        "{} live certificates carry the name {name}; revoke all of them with --all, those of before a \
         time with --issued-before, or one of them with --serial:{}",
        .candidates.len(), lines(.candidates)
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// A line for each certificate.
        candidates: Vec<String>,
    },
    /// A text that is no serial number.
    #[error("{0:?} is not a serial number: at most 20 bytes in hexadecimal")]
    MalformedSerial(String),
    /// The intermediate is revoked, so that its certificates would be refused everywhere.
    #[error("the intermediate {} is revoked; its certificates would be refused", .0.display())]
    IntermediateRevoked(PathBuf),
    /// A list in which a root revokes itself proves nothing.
    #[error(
        "a root cannot be revoked by a list; remove it from the gateways' trusted roots instead"
    )]
    RootCannotBeRevoked,
    /// A list would be valid for too long.
    #[error("a list lifetime of {} is too long: at most {}", .0, MAX_LIFETIME)]
    ListLifetime(Lifetime),
    /// A list file that must be kept is damaged.
    #[error(
        "{}; sign its lists again: countersign pki crl --dir {}",
        .error.in_file(.path.display()), .directory.display()
    )]
    DamagedList {
        /// The file.
        path: PathBuf,
        /// Why the content cannot be read.
        error: PemError,
        /// The authority's directory.
        directory: PathBuf,
    },
    /// The authority was rotated while this process worked with it.
    #[error("the authority in {} was rotated meanwhile; try again", .0.display())]
    Rotated(PathBuf),
    /// A rotation is under way already.
    #[error(
        "generation {} of the authority is not retired yet; see: countersign pki rotate status",
        .0.number()
    )]
    RotationUnderWay(Generation),
    /// No earlier generation exists.
    #[error("there is no earlier generation; begin with: countersign pki rotate prepare")]
    NothingToRetire,
    /// Live certificates depend on the earlier generation.
    #[error(
        "{0} live certificates depend on the earlier generation; renew them (countersign pki \
         rotate status lists them), or retire it with --force and have them refused"
    )]
    StillInUse(u64),
    /// Two leaves of a list would have the same files.
    #[error("two entries of the list would be written to {}", .0.display())]
    Twice(PathBuf),
    /// A certificate file whose name says nothing about its key's.
    #[error("{} is not called PREFIX.pem; say where to put the new one with --out PREFIX", .0.display())]
    NotPem(PathBuf),
    /// A prefix for files that names none.
    #[error("{} names no file; give a prefix such as certs/issued/gateway", .0.display())]
    NoFileName(PathBuf),
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

impl PkiError {
    /// Whether the caller requested something impossible. False if an operation failed.
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
