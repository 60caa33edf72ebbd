//! `countersign pki`: certificates and revocation lists from a private authority.
//!
//! One file per group of verbs. They turn arguments into calls of
//! [`crate::pki`], and results into text and JSON; what may be issued is decided
//! there.

mod export;
mod fixtures;
mod hook;
mod init;
mod inspect;
mod issue;
pub(in crate::cli) mod list;
mod live;
pub(in crate::cli) mod passphrase;
mod profiles;
mod renew;
mod revoke;
mod rotate;
mod sign;
mod verify;
mod wait;
mod words;

use std::path::Path;

use clap::{Args, Subcommand};

use super::{CliError, Exit, Output};
use crate::config;
use crate::pki::{CertificateProfile, Pki, PkiError, StoreError};

/// Arguments of `countersign pki`.
#[derive(Debug, Args)]
pub struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make a root, an intermediate and their revocation lists.
    Init(init::InitArgs),
    /// Issue a certificate with a new key.
    Issue(issue::IssueArgs),
    /// Sign a PKCS#10 request: its key and names, the profile's usages.
    Sign(sign::SignArgs),
    /// Issue a certificate again, with a new key.
    Renew(renew::RenewArgs),
    /// List what was issued.
    List(list::ListArgs),
    /// List what certificates can be issued under.
    Profiles(profiles::ProfilesArgs),
    /// Revoke a certificate and publish the list that says so.
    Revoke(revoke::RevokeArgs),
    /// Sign revocation lists anew, before they run out.
    Crl(revoke::CrlArgs),
    /// Replace root and intermediate in stages, with both trusted in between.
    Rotate(rotate::RotateArgs),
    /// Show what a certificate, request, list, PKCS#12 file or key set says, with lints.
    Inspect(inspect::InspectArgs),
    /// Write a certificate or the trusted roots in another form.
    Export(export::ExportArgs),
    /// Verify a certificate by the listener's path rules, offline.
    Verify(verify::VerifyArgs),
    /// Make broken certificates for testing, and say what to expect of each.
    Fixtures(fixtures::FixturesArgs),
}

/// Runs `countersign pki`.
pub(crate) fn run(args: &PkiArgs, output: Output) -> Result<Exit, CliError> {
    match &args.command {
        PkiCommand::Init(args) => init::run(args, output),
        PkiCommand::Issue(args) => issue::run(args, output),
        PkiCommand::Sign(args) => sign::run(args, output),
        PkiCommand::Renew(args) => renew::run(args, output),
        PkiCommand::List(args) => list::run(args, output),
        PkiCommand::Profiles(args) => profiles::run(args, output),
        PkiCommand::Revoke(args) => revoke::revoke(args, output),
        PkiCommand::Crl(args) => revoke::crl(args, output),
        PkiCommand::Rotate(args) => rotate::run(args, output),
        PkiCommand::Inspect(args) => inspect::run(args, output),
        PkiCommand::Export(args) => export::run(args, output),
        PkiCommand::Verify(args) => verify::run(args, output),
        PkiCommand::Fixtures(args) => fixtures::run(args, output),
    }
}

/// The authority in a directory, with the profiles that stand beside it.
fn open(dir: &Path) -> Result<Pki, CliError> {
    let mut pki = Pki::open(dir)?;
    let profiles =
        config::profiles(&pki.layout().profiles(), pki.trust_domain()).map_err(CliError::usage)?;
    pki.set_profiles(profiles);
    Ok(pki)
}

/// The profile that leaves are to be issued under.
fn profile(pki: &Pki, name: &str) -> Result<CertificateProfile, CliError> {
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

/// Adds the remedy to "exists already".
fn with_remedy(error: PkiError, remedy: &str) -> CliError {
    match error {
        PkiError::Store(StoreError::Exists(_))
        | PkiError::Key(crate::pki::KeyError::Store(StoreError::Exists(_))) => {
            CliError::failed(format!("{error}; {remedy}"))
        }
        error => error.into(),
    }
}
