//! A private certificate authority: profiles, issuing, revocation lists, files.
//!
//! ```text
//! Pki (directory.rs)          an authority in a directory: open
//!  ├─ creating                make one, from nothing or from a root there is
//!  ├─ issuing, bulk           issue leaves, one or many
//!  ├─ renewing                the same again, with a new key
//!  ├─ revoking, lists         revoke, sign lists, list what was issued
//!  ├─ rotating                a new root and intermediate beside the present ones
//!  ├─ fixtures                broken certificates for testers
//!  ├─ inspect, lint, export   what files say, what is unwise about it, other forms
//!  ├─ layout                  which file is where
//!  ├─ CertificateAuthority    signs intermediates, leaves, lists (in memory)
//!  │   └─ CertificateProfile  usages, lifetimes and constraints of each kind
//!  ├─ IssueRequest            what is asked for
//!  │   └─ SubjectNames        typed and checked names
//!  ├─ SigningRequest          key and names of a PKCS#10 request
//!  ├─ RevocationList          entries, numbers, dates
//!  ├─ key                     PKCS#8 files, plain or sealed with a passphrase
//!  ├─ inventory, records      inventory.db: every certificate that was signed
//!  ├─ state                   pki.toml: list numbers, revoked certificates
//!  ├─ transaction             several files that change together or not at all
//!  └─ store                   exclusive, durable files
//! ```
//!
//! For other commands of this program:
//!
//! ```no_run
//! # use std::path::Path;
//! # use countersign::identity::TrustDomain;
//! use countersign::pki::{IssueRequest, KeyProtection, Pki, SubjectNames, CertificateProfile};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let domain = TrustDomain::parse("example.org")?;
//! let mut pki = Pki::create(Path::new("certs"), &domain, &KeyProtection::Plain)?;
//! let names = SubjectNames::new().dns("localhost")?.ip_text("127.0.0.1")?;
//! let gateway = pki.issue(
//!     &IssueRequest::new("gateway".parse()?, names).profile(CertificateProfile::SERVER),
//! )?;
//! let names = SubjectNames::new().spiffe_text("/ns/shop/sa/checkout", &domain)?;
//! let caller = pki.issue(&IssueRequest::new("checkout".parse()?, names))?;
//! assert_eq!(caller.identity(), "spiffe://example.org/ns/shop/sa/checkout");
//! println!("{} {}", gateway.certificate.display(), pki.layout().trust().display());
//! # Ok(())
//! # }
//! ```
//!
//! What the gateway would refuse is refused here with the gateway's reason.
//! This module must not know the configuration, the command line or the network.

pub mod authority;
pub mod bulk;
mod certificates;
pub mod creating;
pub mod csr;
mod der;
pub mod directory;
pub mod export;
pub mod fixtures;
pub mod inspect;
pub mod inventory;
pub mod issuing;
pub mod key;
pub mod layout;
pub mod lifetime;
pub mod lint;
mod lists;
pub mod names;
pub mod profile;
mod records;
pub mod renewing;
pub mod request;
pub mod revocation;
pub mod revoking;
pub mod rotating;
pub mod state;
pub mod store;
mod transaction;
mod unsettled;

#[cfg(test)]
mod kill_tests;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::pem::PemError;

pub use authority::{AuthorityCertificate, AuthorityError, CertificateAuthority};
pub use bulk::BulkProgress;
pub use creating::{AuthorityOptions, ExistingRoot};
pub use csr::{SigningRequest, SigningRequestError};
pub use directory::Pki;
pub use inventory::{Entry, Filter, InventoryError};
pub use issuing::Issued;
pub use key::{KeyAlgorithm, KeyError, KeyProtection};
pub use layout::Layout;
pub use lifetime::Lifetime;
pub use lists::SignedList;
pub use names::{RequestError, SubjectNames};
pub use profile::{CertificateProfile, ProfileRules, Profiles, Usages};
pub use renewing::{Remaining, Renewal};
pub use request::IssueRequest;
pub use revocation::RevocationReason;
pub use revoking::{Among, Revocation, RevocationTarget, Revoked, Status};
pub use rotating::{Retired, Rotation, RotationOptions};
pub use state::{AuthorityName, Generation, RevokedCertificate, Signatory, StateError};
pub use store::{SafeName, StoreError};

/// Why an authority did not do what it was asked to.
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
    /// There are keys of an authority, and nothing that says what they are for.
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
        /// What does not fit.
        why: String,
    },
    /// A file is no PEM file of the expected kind.
    #[error("{}; {}", .error.in_file(.path.display()), .error.remedy())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: PemError,
    },
    /// A certificate file does not read.
    #[error("cannot read {}: {why}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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
    #[error("{0:?} is not a serial number: at most 20 octets in hexadecimal")]
    MalformedSerial(String),
    /// What a revoked intermediate signs is refused everywhere.
    #[error("the intermediate {} is revoked; its certificates would be refused", .0.display())]
    IntermediateRevoked(PathBuf),
    /// Nobody could believe a list in which a root revokes itself.
    #[error(
        "a root cannot be revoked by a list; remove it from the gateways' trusted roots instead"
    )]
    RootCannotBeRevoked,
    /// A list would be valid for too long.
    #[error("a list lifetime of {} is too long: at most {}", .0, revocation::LONGEST)]
    ListLifetime(Lifetime),
    /// A list file that must be kept is damaged.
    #[error(
        "{}; sign its lists again: countersign pki crl --dir {}",
        .error.in_file(.path.display()), .directory.display()
    )]
    DamagedList {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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
    /// There is no earlier generation.
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
    /// Whether the caller asked for something impossible, rather than something
    /// having failed.
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

    fn authority(path: &Path) -> impl FnOnce(AuthorityError) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Authority { path, error }
    }

    fn unreadable(path: &Path, why: impl fmt::Display) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}
