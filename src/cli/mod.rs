//! The command line: one file per command, one table of exit codes.
//!
//! Commands print results on standard output and everything else on standard
//! error. They turn arguments into calls of the modules below and must not
//! decide anything those modules decide.

pub mod output;
mod pki;

use clap::{Parser, Subcommand};

pub use output::{CliError, Exit, Output};

/// A mutual-TLS identity gateway: callers prove who they are with a
/// certificate, services get a signed assertion about every request.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors only.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Issue certificates and revocation lists from a private authority.
    Pki(pki::PkiArgs),
}

/// Runs the command line and says how the process should end.
#[must_use]
pub fn run(cli: &Cli) -> Exit {
    let output = Output::new(cli.json, cli.quiet);
    let result = match &cli.command {
        Command::Pki(args) => pki::run(args, output),
    };
    match result {
        Ok(exit) => exit,
        Err(error) => {
            output.error(&error);
            error.exit
        }
    }
}
