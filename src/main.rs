//! The `countersign` program: parse arguments, run the command, exit.

use std::process::ExitCode;

use clap::Parser as _;
use countersign::cli;

fn main() -> ExitCode {
    cli::run(&cli::Cli::parse()).into()
}
