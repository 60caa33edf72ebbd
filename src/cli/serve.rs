//! `countersign serve`: runs the gateway.

use std::path::PathBuf;

use clap::Args;

use super::common::config_loading;
use super::common::output::{CliError, Exit, Output};
use crate::app::{self, AppError, Listeners};
use crate::config;
use crate::telemetry::log::{self, LogOptions};

/// Arguments of `countersign serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign serve
  countersign serve --config /etc/countersign/countersign.toml

Logs go to standard error, audit lines to standard output or the file in [audit].
--json logs one JSON document per line, --quiet errors only. COUNTERSIGN_LOG is off,
error, warn, info, debug or trace, or has levels for parts: COUNTERSIGN_LOG=info,h2=debug.
SIGTERM and Ctrl-C let requests finish.")]
pub struct ServeArgs {
    /// The configuration file [default: $COUNTERSIGN_CONFIG, ./countersign.toml,
    /// /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the addresses as JSON to this file when all listeners are open.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// Runs `countersign serve`.
pub(crate) fn run(args: &ServeArgs, output: Output) -> Result<Exit, CliError> {
    let options = LogOptions::INFORMATIVE
        .json(output.is_json())
        .quiet(output.is_quiet());
    log::start(options).map_err(CliError::usage)?;
    match serve(args) {
        // A program that reads the log learns from it why the gateway ended.
        Err(error) if output.is_json() => {
            tracing::error!("{}", error.message);
            Ok(error.exit)
        }
        ended => ended,
    }
}

fn serve(args: &ServeArgs) -> Result<Exit, CliError> {
    let path = match &args.config {
        Some(path) => path.clone(),
        None => config::default_path().map_err(CliError::usage)?,
    };
    let (loaded, _) = config_loading::inspect(&path)?;
    tracing::info!(config = %path.display(), "configuration loaded");
    let ready = |addresses: &app::Addresses| match &args.ready_file {
        Some(file) => app::write_ready_file(file, addresses).map_err(AppError::System),
        None => Ok(()),
    };
    let settings = &loaded.settings;
    let listeners = Listeners::bind(
        settings.address,
        settings.public.as_ref().map(|public| public.address),
        settings.admin.as_ref().map(|admin| admin.address),
    )
    .and_then(|listeners| {
        let admin = settings.admin.as_ref();
        listeners.with_socket(admin.and_then(|admin| admin.socket.as_deref()))
    })
    .map_err(CliError::failed)?;
    app::serve(loaded, listeners, ready).map_err(CliError::failed)?;
    Ok(Exit::Done)
}
