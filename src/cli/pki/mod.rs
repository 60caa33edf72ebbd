//! `countersign pki`: manages a private authority, its certificates and its CRLs.
//!
//! These files call [`crate::pki`] and print results as text or JSON. [`crate::pki`] decides what
//! may be issued.
//!
//! - `init`: creates a root, an intermediate and their CRLs
//! - `issue`, `renew`, `renew_all`, `sign`: issue certificates
//! - `revoke`: revokes certificates, and signs new CRLs
//! - `rotate`: replaces root and intermediate
//! - `list`, `profiles`: show issued certificates, and the profiles for new ones
//! - `inspect`, `live`: show the content of a file, or the certificates of a running server
//! - `export`: writes a certificate or the trusted roots in another form
//! - `verify`: verifies a chain, offline
//! - `fixtures`: creates broken certificates for tests
//! - `wait`: waits until a revocation is in effect at gateways
//! - `hook`: runs a command after a file was replaced
//! - `authority`: opens an authority
//! - `timer`: systemd units that run a command again and again
//! - `times`: parses times in arguments

mod authority;
mod export;
mod fixtures;
mod hook;
mod init;
mod inspect;
mod issue;
pub(in crate::cli) mod list;
mod live;
mod profiles;
mod renew;
mod renew_all;
mod revoke;
mod rotate;
mod sign;
mod timer;
mod times;
mod verify;
mod wait;

use clap::{Args, Subcommand};

use super::common::output::{CliError, Exit, Output};

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
    /// Sign a PKCS#10 request: key and names come from the request, usages from the profile.
    Sign(sign::SignArgs),
    /// Issue a certificate again, with a new key.
    Renew(renew::RenewArgs),
    /// List issued certificates.
    List(list::ListArgs),
    /// List the profiles under which certificates can be issued.
    Profiles(profiles::ProfilesArgs),
    /// Revoke a certificate and publish a new revocation list.
    Revoke(revoke::RevokeArgs),
    /// Sign revocation lists again, before they expire.
    Crl(revoke::CrlArgs),
    /// Replace root and intermediate in stages, while the old and the new ones are trusted.
    Rotate(rotate::RotateArgs),
    /// Show the content of a certificate, request, list, PKCS#12 file or key set, with lints.
    Inspect(inspect::InspectArgs),
    /// Write a certificate or the trusted roots in another form.
    Export(export::ExportArgs),
    /// Verify a certificate by the listener's path rules, offline.
    Verify(verify::VerifyArgs),
    /// Make broken certificates for testing, and describe what to expect of each.
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
