//! The command line. Commands turn arguments into calls of other modules. They must not decide
//! anything themselves. Results go to standard output, and all other messages to standard error.
//!
//! - `api_key`: creates API keys
//! - `assertion`: verifies or shows an assertion
//! - `control`: `status`, `reload` and `drain` of a running gateway
//! - `deny`: changes and lists the deny list of a running gateway
//! - `init`: creates certificates, a signing key and a configuration
//! - `keys`: creates, rotates and lists the keys that sign assertions
//! - `reasons`: explains reason codes
//! - `serve`: runs the gateway
//! - `token`: verifies access tokens
//!
//! Below, from top to bottom; a module imports only from the modules below it:
//!
//! - `explain`: explains how the gateway would decide about a caller and a request
//! - `check`: loads a configuration without serving
//! - `pki`: manages a private authority, its certificates and its CRLs
//! - `probe`: connects as a caller, and shows the server's behaviour
//! - `demo`: runs a temporary gateway with everything that it needs
//! - `common`: parts that several commands share

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "help texts write sections of the configuration in brackets"
)]

pub mod api_key;
pub mod assertion;
pub mod check;
mod common;
pub mod control;
pub mod demo;
pub mod deny;
pub mod explain;
pub mod init;
pub mod keys;
pub mod pki;
pub mod probe;
pub mod reasons;
pub mod serve;
pub mod token;

use clap::{Parser, Subcommand};

use self::common::output::{Exit, Output};

/// A mutual-TLS identity gateway: callers prove who they are with a
/// certificate, services get a signed assertion about every request.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    long_version = crate::crypto::VERSION,
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
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a temporary gateway with everything that it needs.
    Demo(demo::DemoArgs),
    /// Make certificates, a signing key and a commented configuration.
    Init(init::InitArgs),
    /// Run the gateway.
    Serve(serve::ServeArgs),
    /// Load a configuration with all files that it names, without serving.
    Check(check::CheckArgs),
    /// Explain what the gateway would do with a caller and a request, and why.
    Explain(explain::ExplainArgs),
    /// Show the state of a running gateway.
    Status(control::StatusArgs),
    /// Make a running gateway load its configuration again.
    Reload(control::ReloadArgs),
    /// Make a running gateway finish its connections and stop.
    Drain(control::DrainArgs),
    /// Refuse callers or certificates at once, through a running gateway.
    Deny(deny::DenyArgs),
    /// Connect as a caller, and show what the server requests and responds.
    Probe(probe::ProbeArgs),
    /// Issue certificates and revocation lists from a private authority.
    Pki(pki::PkiArgs),
    /// Make, rotate and list the keys that sign assertions.
    Keys(keys::KeysArgs),
    /// Verify or show an assertion.
    Assertion(assertion::AssertionArgs),
    /// Make API keys for callers that have no certificate.
    ApiKey(api_key::ApiKeyArgs),
    /// Verify access tokens.
    Token(token::TokenArgs),
    /// Explain the gateway's reason codes.
    Reasons(reasons::ReasonsArgs),
}

/// Runs the command line. Returns the exit code of the process.
#[must_use]
pub fn run(cli: &Cli) -> Exit {
    let output = Output::new(cli.json, cli.quiet);
    let result = match &cli.command {
        Command::Demo(args) => demo::run(args, output),
        Command::Init(args) => init::run(args, output),
        Command::Serve(args) => serve::run(args, output),
        Command::Check(args) => check::run(args, output),
        Command::Explain(args) => explain::run(args, output),
        Command::Probe(args) => probe::run(args, output),
        Command::Status(args) => control::status(args, output),
        Command::Reload(args) => control::reload(args, output),
        Command::Drain(args) => control::drain(args, output),
        Command::Deny(args) => deny::run(args, output),
        Command::Pki(args) => pki::run(args, output),
        Command::Keys(args) => keys::run(args, output),
        Command::Assertion(args) => assertion::run(args, output),
        Command::ApiKey(args) => api_key::run(args, output),
        Command::Token(args) => token::run(args, output),
        Command::Reasons(args) => reasons::run(args, output),
    };
    match result {
        Ok(exit) => exit,
        Err(error) => {
            output.error(&error);
            error.exit
        }
    }
}
