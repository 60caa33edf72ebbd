//! Certificate chains as commands are given them: PEM or DER, a file or `-`.

use std::io::Read as _;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::CliError;

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

/// The certificates of a file, in its order; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let content = read(path)?;
    // DER of a certificate begins with a SEQUENCE in the long form.
    if matches!(content.as_slice(), [0x30, length, ..] if *length >= 0x80) {
        return Ok(vec![CertificateDer::from(content)]);
    }
    let found = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
    if found.is_empty() {
        return Err(CliError::usage(format!(
            "{}: there is no certificate in it",
            path.display()
        )));
    }
    Ok(found)
}
