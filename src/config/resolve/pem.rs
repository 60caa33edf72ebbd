//! Certificates and revocation lists out of the files that hold them.
//!
//! A file is taken whole or refused: a block of another kind, or a damaged one,
//! is never skipped, because what is skipped would silently not be trusted or
//! not be revoked.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::Context;
use crate::config::diagnostics::{Diagnostic, Span};
use crate::config::files::pem_labels;
use crate::config::value::At;
use crate::identity::text::printable;

const CERTIFICATE: &str = "CERTIFICATE";
const REVOCATION_LIST: &str = "X509 CRL";

/// A certificate or list and where it came from.
#[derive(Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) path: PathBuf,
    pub(super) place: Span,
}

impl<T> Found<T> {
    /// The value, and where it came from.
    pub(super) fn split(self) -> (T, Found<()>) {
        let origin = Found {
            value: (),
            path: self.path,
            place: self.place,
        };
        (self.value, origin)
    }
}

/// Reads all files that are written; `None` when one is bad.
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

/// Reads a PEM file of certificates only.
pub(super) fn certificates(
    written: &At<String>,
    path: &Path,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = context.files.read(written, path, context.diagnostics)?;
    let labels = pem_labels(&bytes);
    if labels.is_empty() {
        let remedy = if bytes.starts_with(&[0x30]) {
            "convert it: openssl x509 -inform DER -in FILE -out FILE.pem"
        } else {
            "name a file with -----BEGIN CERTIFICATE----- blocks"
        };
        context.error(about(written, path, "holds no PEM certificate").help(remedy));
        return None;
    }
    blocks(written, path, &bytes, &labels, CERTIFICATE, context)
}

/// Reads a file of revocation lists: PEM with one or more, or one in DER.
pub(super) fn revocation_lists(
    written: &At<String>,
    path: &Path,
    context: &mut Context<'_>,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let bytes = context.files.read(written, path, context.diagnostics)?;
    lists_of(written, path, &bytes, context)
}

/// The revocation lists in the content of a file or URL.
pub(super) fn lists_of(
    written: &At<String>,
    path: &Path,
    bytes: &[u8],
    context: &mut Context<'_>,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    // A SEQUENCE in the long form, as all lists are: no text begins so.
    let labels = match bytes {
        [0x30, length, ..] if *length >= 0x80 => Vec::new(),
        _ => pem_labels(bytes),
    };
    if labels.is_empty() && bytes.starts_with(&[0x30]) {
        return Some(vec![bytes.to_vec().into()]);
    }
    if labels.is_empty() {
        context.error(
            about(written, path, "holds no revocation list")
                .help("name a file with -----BEGIN X509 CRL----- blocks, or a DER file"),
        );
        return None;
    }
    blocks(written, path, bytes, &labels, REVOCATION_LIST, context)
}

fn blocks<T: PemObject>(
    written: &At<String>,
    path: &Path,
    bytes: &[u8],
    labels: &[String],
    wanted: &str,
    context: &mut Context<'_>,
) -> Option<Vec<T>> {
    if let Some(other) = labels.iter().find(|label| *label != wanted) {
        let other = printable(other);
        let mut error = about(
            written,
            path,
            &format!("holds a {other} block; only {wanted} blocks belong here"),
        );
        if other.ends_with("PRIVATE KEY") {
            error = error.help(
                "a private key must not stand among trusted material: remove it from this file, \
                 and replace the key if others could read it",
            );
        } else {
            error = error.help(format!("move the {other} block to a file of its own"));
        }
        context.error(error);
        return None;
    }
    let read: Result<Vec<T>, _> = T::pem_slice_iter(bytes).collect();
    match read {
        Ok(read) if read.len() == labels.len() => Some(read),
        outcome => {
            let why = match outcome {
                Ok(_) => "a block is cut off or its lines are damaged".to_owned(),
                Err(error) => error.to_string(),
            };
            context.error(
                about(written, path, &format!("is damaged: {}", printable(&why)))
                    .help("copy the file again, whole"),
            );
            None
        }
    }
}

/// An error about the content of a file.
pub(super) fn about(written: &At<String>, path: &Path, what: &str) -> Diagnostic {
    Diagnostic::new(written.place.clone(), format!("{} {what}", path.display())).label("this file")
}
