//! Certificates and private keys as commands are given them: PEM or DER, a file or `-`.

use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::input;
use super::output::CliError;
use crate::pem::{self, PemError};

/// Most bytes of a file with certificates.
const MAX_FILE: u64 = 1 << 20;

/// The certificates of a file that holds nothing else, in its order; at least one.
pub(in crate::cli) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CliError> {
    read_certificates(path, MAX_FILE, pem::certificates)
}

/// The certificates of a file that may hold their private key too, in its order;
/// at least one.
pub(in crate::cli) fn certificates_beside_key(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CliError> {
    read_certificates(path, MAX_FILE, pem::certificates_beside_key)
}

/// Reads certificates by `in_pem`, or one in DER, of a file of at most `max` bytes.
pub(in crate::cli) fn read_certificates(
    path: &Path,
    max: u64,
    in_pem: impl FnOnce(&[u8]) -> Result<Vec<CertificateDer<'static>>, PemError>,
) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let content = input::read(path, max)?;
    if pem::is_der(&content) {
        return Ok(vec![CertificateDer::from(content)]);
    }
    in_pem(&content).map_err(|error| damaged(path, &error))
}

/// A private key without passphrase, of a file that may hold its certificates too.
pub(in crate::cli) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CliError> {
    pem::private_key(&Zeroizing::new(input::read(path, MAX_FILE)?))
        .map_err(|error| damaged(path, &error))
}

/// Names the file, the line and the remedy of a PEM error.
pub(in crate::cli) fn damaged(path: &Path, error: &PemError) -> CliError {
    let file = input::name(path);
    CliError::usage(format!("{}; {}", error.in_file(file), error.remedy()))
}
