//! Reads certificate files. Each error contains the path of the file.

use std::path::Path;

use rustls_pki_types::CertificateDer;

use super::error::PkiError;
use crate::pem::{self, PemError};
use crate::store;

/// Reads a PEM file that contains only certificates. Returns at least one certificate.
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    pem::certificates(&store::read(path)?).map_err(damaged(path))
}

/// Reads the certificates of a PEM file that may also contain a private key. Returns at least one
/// certificate.
pub(crate) fn read_beside_key(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    pem::certificates_beside_key(&store::read(path)?).map_err(damaged(path))
}

/// Same as [`read_beside_key`], for a path that the operator gave. The path may be a pipe.
pub(crate) fn read_named(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    pem::certificates_beside_key(&store::read_named(path)?).map_err(damaged(path))
}

/// Returns a function that makes a [`PkiError`] with the path of the file from a PEM error.
pub(crate) fn damaged(path: &Path) -> impl FnOnce(PemError) -> PkiError {
    let path = path.to_owned();
    move |error| PkiError::Pem { path, error }
}

/// Encodes one certificate as PEM.
pub(crate) fn pem(der: &CertificateDer<'_>) -> String {
    pem::encode_certificate(der)
}
