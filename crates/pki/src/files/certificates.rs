//! Certificate files: reading those of an authority, and naming the file that is
//! wrong.

use std::path::Path;

use rustls_pki_types::CertificateDer;

use super::error::PkiError;
use crate::pem::{self, PemError};
use crate::store;

/// Reads the certificates of a PEM file of the authority's that holds nothing else; at
/// least one.
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    pem::certificates(&store::read(path)?).map_err(damaged(path))
}

/// Reads the certificates of a PEM file that may hold their private key too; at least one.
pub(crate) fn read_beside_key(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    pem::certificates_beside_key(&store::read(path)?).map_err(damaged(path))
}

/// Like [`read_beside_key`], of a file that an operator named; see [`store::read_named`].
pub(crate) fn read_named(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    pem::certificates_beside_key(&store::read_named(path)?).map_err(damaged(path))
}

/// Names the file of a PEM error.
pub(crate) fn damaged(path: &Path) -> impl FnOnce(PemError) -> PkiError {
    let path = path.to_owned();
    move |error| PkiError::Pem { path, error }
}

/// Encodes one certificate as PEM.
pub(crate) fn pem(der: &CertificateDer<'_>) -> String {
    pem::encode_certificate(der)
}
