//! `countersign pki`: certificates and revocation lists from a private authority.

use clap::Args;

use super::{CliError, Exit, Output};

/// Arguments of `countersign pki`.
#[derive(Debug, Args)]
pub struct PkiArgs {}

/// Runs `countersign pki`.
pub(crate) fn run(_args: &PkiArgs, _output: Output) -> Result<Exit, CliError> {
    Ok(Exit::Done)
}
