//! Certificate files: PEM in and out.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::PkiError;
use super::store;

/// Reads every certificate of a PEM file of the authority's; at least one.
pub(super) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    parse(path, &store::read(path)?)
}

/// Reads every certificate of a PEM file that an operator named; see
/// [`store::read_named`].
pub(super) fn read_named(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    parse(path, &store::read_named(path)?)
}

fn parse(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let certificates = CertificateDer::pem_slice_iter(content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PkiError::unreadable(path, error))?;
    if certificates.is_empty() {
        return Err(PkiError::unreadable(path, "it holds no PEM certificate"));
    }
    Ok(certificates)
}

/// One certificate as PEM (RFC 7468 section 5).
pub(super) fn pem(der: &CertificateDer<'_>) -> String {
    pem_block("CERTIFICATE", der)
}

/// One PEM block.
pub(super) fn pem_block(label: &str, der: &[u8]) -> String {
    use base64ct::{Base64, Encoding as _};
    let body = Base64::encode_string(der);
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 60);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for (index, character) in body.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
