//! Opens an authority, and turns its errors into messages with exit codes.

use std::path::Path;

use crate::cli::common::output::CliError;
use crate::config;
use crate::pki::{CertificateProfile, Pki, PkiError, StoreError};

/// Opens the authority in a directory, with the profiles file of that directory.
pub(super) fn open(dir: &Path) -> Result<Pki, CliError> {
    let mut pki = Pki::open(dir)?;
    let profiles =
        config::profiles(&pki.layout().profiles(), pki.trust_domain()).map_err(CliError::usage)?;
    pki.set_profiles(profiles);
    Ok(pki)
}

/// Finds the profile with this name for issuing leaf certificates.
pub(super) fn profile(pki: &Pki, name: &str) -> Result<CertificateProfile, CliError> {
    let profiles = pki.profiles();
    profiles.leaf(name).cloned().ok_or_else(|| {
        let names: Vec<_> = profiles
            .leaves()
            .iter()
            .map(CertificateProfile::name)
            .collect();
        CliError::usage(format!(
            "there is no profile {name:?}; there are {}. {} adds others",
            names.join(", "),
            pki.layout().profiles().display()
        ))
    })
}

impl From<PkiError> for CliError {
    fn from(error: PkiError) -> Self {
        if error.is_usage() {
            Self::usage(error)
        } else {
            Self::failed(error)
        }
    }
}

/// If the error is that a file already exists, adds `remedy` to its message.
pub(super) fn with_remedy(error: PkiError, remedy: &str) -> CliError {
    match error {
        PkiError::Store(StoreError::Exists(_))
        | PkiError::Key(crate::pki::KeyError::Store(StoreError::Exists(_))) => {
            CliError::failed(format!("{error}; {remedy}"))
        }
        error => error.into(),
    }
}
