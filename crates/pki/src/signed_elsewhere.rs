//! Reads an intermediate that a root outside this directory has signed, and checks it with the
//! verifier of gateways.
//!
//! The key of the intermediate is in `pending/`. The holder of the root's key has got the request
//! and has signed the certificate. The certificate is used only after all checks have passed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::Layout;
use super::root_lists::RootList;
use super::signing::authority::CertificateAuthority;
use super::signing::authority_certificate::AuthorityCertificate;
use super::signing::error::AuthorityError;
use super::signing::revocation_list::{self, RevocationList};
use super::signing::signatory::AuthorityName;
use super::store::{self, key};
use crate::identity::TrustDomain;
use crate::pem;
use crate::reason::ReasonCode;
use crate::secret::Secret;
use crate::trust::{PathPurpose, PathTrust};

/// An intermediate that was signed elsewhere, from a request of [`super::Pki`].
#[derive(Debug, Clone)]
pub struct SignedIntermediate {
    /// The file with the intermediate's certificate, in PEM.
    pub certificate: PathBuf,
    /// The file with the root's certificate, in PEM. If `None`, the current root is used.
    pub root: Option<PathBuf>,
    /// The file with the root's revocation list. If `None`, an operator can publish the list later.
    pub root_list: Option<PathBuf>,
    /// The passphrase of the intermediate's private key, if the key is encrypted.
    pub passphrase: Option<Secret>,
}

/// Root and intermediate, after all checks.
pub(super) struct Checked {
    pub(super) root: AuthorityCertificate,
    pub(super) intermediate: CertificateAuthority,
    pub(super) root_list: Option<RootList>,
}

/// Reads the certificates and the pending key, and checks that gateways will accept leaves of the
/// intermediate.
pub(super) fn read(
    layout: &Layout,
    domain: &TrustDomain,
    signed: &SignedIntermediate,
    present: Option<&AuthorityCertificate>,
    now: i64,
) -> Result<Checked, PkiError> {
    let key_file = layout.pending().key(AuthorityName::Intermediate);
    if !key_file.exists() {
        return Err(PkiError::NoRequest(layout.directory().to_owned()));
    }
    let (root, root_file) = match (&signed.root, present) {
        (Some(path), _) => (read_root(path, domain)?, path.clone()),
        (None, Some(root)) => (root.clone(), layout.certificate(AuthorityName::Root)),
        (None, None) => return Err(PkiError::NoRequest(layout.directory().to_owned())),
    };
    let path = &signed.certificate;
    let certificate = read_authority(path, domain)?;
    if !root.has_signed(certificate.der()) {
        return Err(PkiError::Disagree {
            path: path.clone(),
            why: format!(
                "{} has not signed it; its issuer is {}, and the root has to sign the intermediate \
                 itself",
                root_file.display(),
                certificate.facts().issuer
            ),
        });
    }
    if certificate.is_confusable_with(&root) {
        return Err(PkiError::Disagree {
            path: path.clone(),
            why: format!(
                "the intermediate has the name, the key or the key identifier of {}; have the root \
                 sign it with another",
                root_file.display()
            ),
        });
    }
    let failed = || PkiError::authority(path);
    root.check_time(now)
        .map_err(PkiError::authority(&root_file))?;
    certificate.check_time(now).map_err(failed())?;
    let key = key::read(&key_file, signed.passphrase.as_ref())?;
    let intermediate =
        CertificateAuthority::join(certificate, key).map_err(|error| match error {
            AuthorityError::KeyMismatch => PkiError::Disagree {
                path: path.clone(),
                why: format!(
                    "it is not for the key in {}; have {} signed",
                    key_file.display(),
                    layout.pending().intermediate_request().display()
                ),
            },
            error => PkiError::authority(path)(error),
        })?;
    let root_list = match &signed.root_list {
        None => None,
        Some(list) => Some(RootList::read(list, &root, now)?),
    };
    check(&root, &intermediate, root_list.as_ref(), now).map_err(failed())?;
    Ok(Checked {
        root,
        intermediate,
        root_list,
    })
}

/// Removes the request and the key in `pending/`. Returns the path of the key if it could not be
/// removed.
///
/// This is no error: the key was already written to its final path, and the intermediate is in use.
pub(super) fn discard_request(layout: &Layout) -> Option<PathBuf> {
    let key = layout.pending().key(AuthorityName::Intermediate);
    let removed = store::remove_directory(layout.pending().directory());
    // Other files of the request may stay. They are not secret.
    (removed.is_err() && key.try_exists().unwrap_or(true)).then_some(key)
}

/// Verifies a trial leaf of the intermediate as gateways do.
fn check(
    root: &AuthorityCertificate,
    intermediate: &CertificateAuthority,
    root_list: Option<&RootList>,
    now: i64,
) -> Result<(), AuthorityError> {
    let trial = intermediate.sign_trial(now)?;
    let own = RevocationList {
        number: 1,
        this_update: now,
        lifetime: revocation_list::default_lifetime(true),
        entries: Vec::new(),
    };
    let unreadable = |error: pem::PemError| AuthorityError::Unreadable(error.to_string());
    let lists = match root_list {
        None => None,
        Some(list) => {
            let own = intermediate.sign_list(&own, now)?;
            let mut lists = pem::revocation_lists(list.pem.as_bytes()).map_err(unreadable)?;
            lists.extend(pem::revocation_lists(own.as_bytes()).map_err(unreadable)?);
            Some(lists)
        }
    };
    let path = vec![intermediate.certificate().der().clone()];
    verify(root, path, lists.as_deref(), &trial, now)
        .map_err(|(reason, detail)| AuthorityError::Refused { reason, detail })
}

/// Verifies a leaf for TLS clients, as gateways do.
pub(super) fn verify(
    root: &AuthorityCertificate,
    intermediates: Vec<CertificateDer<'static>>,
    lists: Option<&[CertificateRevocationListDer<'_>]>,
    leaf: &CertificateDer<'_>,
    now: i64,
) -> Result<(), (ReasonCode, String)> {
    verify_for(root, intermediates, lists, leaf, PathPurpose::Client, now)
}

/// Verifies a leaf for a purpose, as gateways do.
pub(super) fn verify_for(
    root: &AuthorityCertificate,
    intermediates: Vec<CertificateDer<'static>>,
    lists: Option<&[CertificateRevocationListDer<'_>]>,
    leaf: &CertificateDer<'_>,
    purpose: PathPurpose,
    now: i64,
) -> Result<(), (ReasonCode, String)> {
    let roots = [root.der().clone()];
    let trust = PathTrust::new(&roots, intermediates, lists, purpose);
    if let Some((_, why)) = trust.unusable_roots().first() {
        return Err((ReasonCode::UnknownIssuer, format!("the root: {why}")));
    }
    let seconds = Duration::from_secs(u64::try_from(now).unwrap_or_default());
    trust
        .verify(leaf, UnixTime::since_unix_epoch(seconds))
        .map(|_| ())
}

/// Reads a root that another program has made. Returns an error if the certificate is no root, or
/// belongs to another trust domain.
pub(super) fn read_root(
    path: &Path,
    domain: &TrustDomain,
) -> Result<AuthorityCertificate, PkiError> {
    let certificate = read_authority(path, domain)?;
    if !certificate.is_root() {
        return Err(PkiError::Disagree {
            path: path.to_owned(),
            why: "it is not a root; gateways trust roots only, so import the root that signed it"
                .to_owned(),
        });
    }
    Ok(certificate)
}

fn read_authority(path: &Path, domain: &TrustDomain) -> Result<AuthorityCertificate, PkiError> {
    let mut read = certificates::read_named(path)?.into_iter();
    let (Some(der), None) = (read.next(), read.next()) else {
        return Err(PkiError::unreadable(path, "it must hold one certificate"));
    };
    let certificate =
        AuthorityCertificate::read_for(der, Some(domain)).map_err(PkiError::authority(path))?;
    if certificate.trust_domain() != domain {
        return Err(PkiError::Disagree {
            path: path.to_owned(),
            why: format!("it belongs to trust domain {}", certificate.trust_domain()),
        });
    }
    Ok(certificate)
}
