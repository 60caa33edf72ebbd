//! Certificate chains as commands are given them: PEM or DER, a file or `-`.

use std::io::Read as _;
use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::CliError;
use crate::pem::{self, PemError};

/// Most octets of a file with certificates.
const MAX_OCTETS: u64 = 1 << 20;

/// A file's content, or standard input's for `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let named = |error: std::io::Error| CliError::usage(format!("{}: {error}", path.display()));
    let mut content = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_OCTETS + 1)
            .read_to_end(&mut content)
            .map_err(|error| CliError::usage(format!("standard input: {error}")))?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_OCTETS + 1).read_to_end(&mut content))
            .map_err(named)?;
    }
    if content.len() as u64 > MAX_OCTETS {
        return Err(CliError::usage(format!(
            "{}: it is larger than 1 MiB",
            path.display()
        )));
    }
    Ok(content)
}

/// The certificates of a file that holds nothing else, in its order; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CliError> {
    read_certificates(path, pem::certificates)
}

/// The certificates of a file that may hold their private key too, in its order;
/// at least one.
pub(super) fn certificates_beside_key(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CliError> {
    read_certificates(path, pem::certificates_beside_key)
}

fn read_certificates(
    path: &Path,
    in_pem: impl FnOnce(&[u8]) -> Result<Vec<CertificateDer<'static>>, PemError>,
) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let content = read(path)?;
    if pem::is_der(&content) {
        return Ok(vec![CertificateDer::from(content)]);
    }
    in_pem(&content).map_err(|error| damaged(path, &error))
}

/// A private key without passphrase, of a file that may hold its certificates too.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CliError> {
    pem::private_key(&Zeroizing::new(read(path)?)).map_err(|error| damaged(path, &error))
}

/// Names the file, the line and the remedy of a PEM error.
pub(super) fn damaged(path: &Path, error: &PemError) -> CliError {
    let file = match path.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    CliError::usage(format!("{}; {}", error.in_file(file), error.remedy()))
}
