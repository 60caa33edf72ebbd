//! Reads certificates and private keys that are arguments of commands. The input is PEM or DER,
//! from a file or from standard input (`-`).

use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::input;
use super::output::CliError;
use crate::identity::text::shell_with;
use crate::pem::{self, PemError};

/// Maximum number of bytes of a file with certificates.
const MAX_FILE: u64 = 1 << 20;

/// Reads the certificates of a file that contains only certificates. Keeps their order, and
/// requires at least one.
pub(in crate::cli) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CliError> {
    read_certificates(path, MAX_FILE, pem::certificates)
}

/// Reads the certificates of a file that may also contain a private key. Keeps their order, and
/// requires at least one.
pub(in crate::cli) fn certificates_beside_key(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CliError> {
    read_certificates(path, MAX_FILE, pem::certificates_beside_key)
}

/// Reads a file of at most `max` bytes. The content is either PEM, which `in_pem` parses, or one
/// certificate in DER.
pub(in crate::cli) fn read_certificates(
    path: &Path,
    max: u64,
    in_pem: impl FnOnce(&[u8]) -> Result<Vec<CertificateDer<'static>>, PemError>,
) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let content = input::read(path, max)?;
    if pem::may_be_certificate(&content) {
        return Ok(vec![CertificateDer::from(content)]);
    }
    in_pem(&content).map_err(|error| damaged(path, &error))
}

/// Reads a private key without a passphrase. The file may also contain certificates.
pub(in crate::cli) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CliError> {
    pem::private_key(&Zeroizing::new(input::read(path, MAX_FILE)?))
        .map_err(|error| damaged(path, &error))
}

/// Formats a PEM error with the file, the line and how to fix it.
pub(in crate::cli) fn damaged(path: &Path, error: &PemError) -> CliError {
    let file = input::name(path);
    let remedy = error.remedy_for(shell_with(path));
    CliError::usage(format!("{}; {remedy}", error.in_file(file)))
}
