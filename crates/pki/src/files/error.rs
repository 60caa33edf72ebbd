//! `PkiError`: why an operation of an authority failed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::directory_lock::LockError;
use crate::identity::text::{shell, shell_with, shell_word};
use crate::pem::PemError;
use crate::records::inventory::InventoryError;
use crate::records::state::StateError;
use crate::signing::error::AuthorityError;
use crate::signing::lifetime::Lifetime;
use crate::signing::names::RequestError;
use crate::signing::revocation_list::MAX_LIFETIME;
use crate::signing::signatory::{AuthorityName, Generation};
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
        .0.display(), shell(.0)
    )]
    NoAuthority(PathBuf),
    /// The directory contains private keys of an authority, but no `pki.toml`.
    #[error(
        "the authority in {} is incomplete: its pki.toml is missing; restore it from a backup, or \
         begin anew with pki init --force",
        .0.display()
    )]
    Incomplete(PathBuf),
    /// An intermediate was requested, but the authority was not completed with the signed
    /// certificate yet.
    #[error(
        "the authority in {} waits for its intermediate: have pending/intermediate.csr signed by the \
         root, and complete it with: countersign pki init --dir {} --trust-domain NAME \
         --intermediate-cert FILE --ca-cert ROOT",
        .0.display(), shell(.0)
    )]
    Pending(PathBuf),
    /// A request for an intermediate is still pending, and a new key would replace its key.
    #[error(
        "{} has not come back signed yet; give the certificate with --intermediate-cert, or make \
         another request, with another key, with --force",
        .0.display()
    )]
    RequestPending(PathBuf),
    /// The operation needs the key of a requested intermediate, but `pending/` contains none.
    #[error(
        "there is no request in {}/pending: the key of an intermediate that is signed elsewhere is \
         made there by --intermediate-csr FILE",
        .0.display()
    )]
    NoRequest(PathBuf),
    /// The private key of the root is needed, but it is not in the directory.
    #[error(
        "the private key of the root is elsewhere: there is no {}. If it is yours, put it there for \
         this command; otherwise {}",
        .0.join("root.key").display(), need_of_root(*.1)
    )]
    NoRootKey(PathBuf, RootTask),
    /// The operation needs an intermediate, but the root of this authority signs leaves itself.
    #[error(
        "this authority has no intermediate; its root issues. Replace the root: countersign pki \
         rotate prepare --dir {}",
        shell(.0)
    )]
    NoIntermediate(PathBuf),
    /// The directory already contains an authority.
    #[error(
        "{} holds an authority already; with --force it is replaced, and nothing it issued \
         is trusted any longer",
        .0.display()
    )]
    AuthorityExists(PathBuf),
    /// A certificate or another result would be written to a path that belongs to an authority.
    #[error(
        "{} belongs to the authority in {}, and nothing else is ever written there; write \
         elsewhere, for example with --out {}/issued/NAME",
        .path.display(), .directory.display(), .directory.display()
    )]
    OwnFile {
        /// The path of the file.
        path: PathBuf,
        /// The directory of the authority.
        directory: PathBuf,
    },
    /// The authority for test certificates would replace an authority that `pki fixtures` has not
    /// made.
    #[error(
        "{} holds an authority that pki fixtures did not make, and is not replaced; choose another \
         directory with --out",
        .0.display()
    )]
    NotOfFixtures(PathBuf),
    /// The authority's files do not belong together.
    #[error("{} does not belong here: {why}", .path.display())]
    Disagree {
        /// The path of the file.
        path: PathBuf,
        /// What does not fit together, in words.
        why: String,
    },
    /// A file is not valid PEM, or contains other blocks than expected.
    #[error("{}; {}", .error.in_file(.path.display()), .error.remedy_for(shell_with(path)))]
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
    #[error(
        "the inventory knows no certificate with serial number {0}; if this authority issued it and \
         the inventory has lost it, revoke it with --unrecorded"
    )]
    UnknownSerial(String),
    /// A retired intermediate has signed the certificate with this serial number. The root of the
    /// intermediate is still trusted.
    #[error(
        "the certificate with serial number {serial} was issued by an intermediate that is retired, \
         and no list of it is signed any more; revoke that intermediate: countersign pki revoke \
         --cert {} --dir {}",
        shell(.intermediate),
        shell(.directory)
    )]
    IssuerRetired {
        /// The serial number in hexadecimal.
        serial: String,
        /// The certificate of the retired intermediate.
        intermediate: PathBuf,
        /// The authority's directory.
        directory: PathBuf,
    },
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
        .error.in_file(.path.display()), shell(directory)
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
    /// A change of the authority is not complete, and this user may not complete it.
    #[error(
        "a change of the authority in {} has not ended, and this user may not complete it; run a \
         command as the owner of the directory, such as: countersign pki list --dir {}",
        .0.display(), shell(.0)
    )]
    Unsettled(PathBuf),
    /// A rotation is already in progress. The value is the earlier generation.
    #[error(
        "generation {} of the authority is not retired yet; see: countersign pki rotate status",
        .0.number()
    )]
    RotationUnderWay(Generation),
    /// There is no earlier generation that could be retired.
    #[error("there is no earlier generation; begin with: countersign pki rotate prepare")]
    NothingToRetire,
    /// The earlier intermediate cannot be retired, because its root stays trusted and has not revoked
    /// it.
    #[error(
        "the earlier intermediate is not revoked, and its root stays trusted: without its list, \
         gateways could accept certificates that it revokes. {}; or retire it with --force, and its \
         last list stays published",
        revoke_earlier(.directory, *.is_root_here)
    )]
    EarlierNotRevoked {
        /// The directory of the authority.
        directory: PathBuf,
        /// Whether the key of the root is in the directory.
        is_root_here: bool,
    },
    /// The earlier generation cannot be retired, because some of its certificates are live and were
    /// not renewed. A certificate is live if it is neither revoked nor expired.
    #[error(
        "{live} live certificates depend on the earlier generation, {renewed} of them renewed; renew \
         the others (countersign pki rotate status lists them), or retire it with --force and have \
         them refused"
    )]
    StillInUse {
        /// Number of live certificates that the earlier generation has signed.
        live: u64,
        /// Number of these certificates whose files already contain a newer certificate.
        renewed: u64,
    },
    /// The certificate was signed from a request, so only its holder has the private key. The
    /// renewal needs a new request.
    #[error(
        "{} was signed from a request: its private key is with its holder, who makes a new request, \
         for example with: openssl req -new -key KEY -subj / -addext {} -out \
         NEW.csr. Then sign it with: countersign pki renew {} --dir {} --csr NEW.csr",
        .certificate.display(), shell_word(&format!("subjectAltName={names}")), shell(certificate),
        shell(directory)
    )]
    NeedsRequest {
        /// The path of the certificate file.
        certificate: PathBuf,
        /// The directory of the authority.
        directory: PathBuf,
        /// The names of the certificate, as the value of subjectAltName for `openssl req`.
        names: String,
    },
    /// A request would give the certificate a new key, although its current key is in the key file.
    #[error(
        "{} is the key of {}, which is renewed without --csr; sign a request for another key with \
         countersign pki sign",
        .key.display(), .certificate.display()
    )]
    KeyIsHere {
        /// The path of the certificate file.
        certificate: PathBuf,
        /// The path of the key file.
        key: PathBuf,
    },
    /// A request for a renewal asks for other names than the certificate has.
    #[error(
        "the request asks for {asked}, and {} is for {before}; a renewal has the same names. For \
         others: countersign pki sign",
        .certificate.display()
    )]
    OtherNames {
        /// The path of the certificate file.
        certificate: PathBuf,
        /// The names of the certificate.
        before: String,
        /// The names in the request.
        asked: String,
    },
    /// The requested CRL number is lower than the next CRL number, or too high.
    #[error(
        "the next list of the {} needs a number from {next} to {}, not {asked}: gateways refuse a \
         list whose number goes back",
        .authority.as_str(), i64::MAX
    )]
    ListNumber {
        /// The authority that would sign the list.
        authority: AuthorityName,
        /// The lowest CRL number that is allowed.
        next: u64,
        /// The requested CRL number.
        asked: u64,
    },
    /// Two leaves of one run would be written to the same file.
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

/// What the key of a root is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootTask {
    /// To sign a revocation list.
    List,
    /// To sign an intermediate.
    Intermediate,
}

/// Returns advice if the root's key is elsewhere: what must be signed there, and the command that
/// reads the result.
const fn need_of_root(task: RootTask) -> &'static str {
    match task {
        RootTask::List => {
            "have its list signed where the key is, and take it with: countersign pki crl --root-crl \
             FILE"
        }
        RootTask::Intermediate => {
            "make a request with: countersign pki rotate prepare --intermediate-csr FILE"
        }
    }
}

fn revoke_earlier(directory: &Path, is_root_here: bool) -> String {
    let dir = shell(directory);
    if is_root_here {
        let certificate = shell(&directory.join("earlier/intermediate.pem"));
        format!("Revoke it with: countersign pki revoke --dir {dir} --cert {certificate}")
    } else {
        format!(
            "Have the root revoke it where its key is, and take the list with: countersign pki crl \
             --dir {dir} --root-crl FILE"
        )
    }
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
                | Self::OwnFile { .. }
                | Self::NoRequest(_)
                | Self::NoIntermediate(_)
                | Self::NeedsRequest { .. }
                | Self::KeyIsHere { .. }
                | Self::OtherNames { .. }
                | Self::ListNumber { .. }
                | Self::NotOfFixtures(_)
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

    /// Whether the directory cannot be locked because this user may not write to it.
    pub(crate) fn is_denied_lock(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Lock(LockError::Io { error, .. })) if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            )
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
