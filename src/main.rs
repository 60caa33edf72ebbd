//! The `countersign` program: parse arguments, run the command, exit.

use std::process::ExitCode;

use clap::Parser as _;
use countersign::cli;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(&cli::Cli::parse()).into()
}
