//! Reads certificates and CRLs from files. [`crate::pem`] parses the PEM text. This module adds the
//! place in the configuration to each error.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::context::Context;
use crate::diagnostics::{Diagnostic, Span};
use crate::document::value::At;
use crate::identity::text::{printable, shell_with};
use crate::pem::PemError;
use crate::trust::unusable_key;

/// A certificate or CRL, with the file that contains it and the place in the configuration that
/// names the file.
#[derive(Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) path: PathBuf,
    pub(super) place: Span,
}

impl<T> Found<T> {
    /// Separates the value from its file and place.
    pub(super) fn split(self) -> (T, Found<()>) {
        let origin = Found {
            value: (),
            path: self.path,
            place: self.place,
        };
        (self.value, origin)
    }
}

/// Reads all files that the entries in `files` name, with the function `read`. Returns `None` if
/// one of the files is invalid.
pub(super) fn material<T>(
    files: &[At<String>],
    context: &mut Context<'_>,
    read: fn(&At<String>, &Path, &mut Context<'_>) -> Option<Vec<T>>,
) -> Option<Vec<Found<T>>> {
    let mut all = Some(Vec::new());
    for written in files {
        let Some(paths) = context.files.expand(written, context.diagnostics) else {
            all = None;
            continue;
        };
        for path in paths {
            match (read(written, &path, context), &mut all) {
                (Some(values), Some(all)) => all.extend(values.into_iter().map(|value| Found {
                    value,
                    path: path.clone(),
                    place: written.place.clone(),
                })),
                _ => all = None,
            }
        }
    }
    all
}

/// Reads a PEM file that contains only certificates.
pub(super) fn certificates(
    written: &At<String>,
    path: &Path,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = context.files.read(written, path, context.diagnostics)?;
    crate::pem::certificates(&bytes)
        .map_err(|error| context.error(damaged(written, path, &error)))
        .ok()
}

/// Reads a PEM file of root certificates of servers. Warns about roots that cannot be used.
pub(super) fn roots(
    written: &At<String>,
    path: &Path,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let roots = certificates(written, path, context)?;
    for why in roots.iter().filter_map(|root| unusable_key(root)) {
        let what = format!(
            "has a root certificate that cannot be used: {}",
            printable(&why)
        );
        context.warn(about(written, path, &what).help(
            "remove it, or use an authority with a key of P-256, P-384, Ed25519 or RSA (2048 to 8192 \
             bits)",
        ));
    }
    Some(roots)
}

/// Reads a file of CRLs: one or more CRLs in PEM, or one CRL in DER.
pub(super) fn revocation_lists(
    written: &At<String>,
    path: &Path,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let bytes = context.files.read(written, path, context.diagnostics)?;
    lists_of(written, path, &bytes, context)
}

/// Reads the CRLs in `bytes`, which are the content of a file or URL.
pub(super) fn lists_of(
    written: &At<String>,
    path: &Path,
    bytes: &[u8],
    context: &mut Context<'_>,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    crate::pem::revocation_lists(bytes)
        .map_err(|error| context.error(damaged(written, path, &error)))
        .ok()
}

/// Creates the error for a damaged PEM file, with the file, the line and how to fix it.
pub(super) fn damaged(written: &At<String>, path: &Path, error: &PemError) -> Diagnostic {
    Diagnostic::new(written.place.clone(), error.in_file(path.display()))
        .label("this file")
        .help(error.remedy_for(shell_with(path)))
}

/// Creates an error about the content of a file.
pub(super) fn about(written: &At<String>, path: &Path, what: &str) -> Diagnostic {
    Diagnostic::new(written.place.clone(), format!("{} {what}", path.display())).label("this file")
}
