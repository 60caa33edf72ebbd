//! Loads the configuration for a command. If a file system hangs, the command fails and names the
//! file.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::output::CliError;
use crate::config::{self, ConfigErrors, Inventory, Loaded, Progress, RunningGateway};

/// The interval at which the progress of the load is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time for reading one file.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a configuration was not loaded.
pub(in crate::cli) enum LoadError {
    /// The configuration has errors.
    Refused(ConfigErrors),
    /// Reading a file hangs, or the operating system lacks a resource.
    NotRead(CliError),
}

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Refused(errors) => Self::usage(errors),
            LoadError::NotRead(error) => error,
        }
    }
}

/// Loads a configuration with all files that it names.
///
/// # Errors
/// If the configuration has errors, or reading a file hangs.
pub(in crate::cli) fn inspect(path: &Path) -> Result<(Loaded, Inventory), LoadError> {
    load(path, config::inspect_with)
}

/// Same as [`inspect`], but also checks this machine, for example whether the addresses of the
/// configuration are free.
///
/// # Errors
/// If the configuration or the machine has errors, or reading a file hangs.
pub(in crate::cli) fn inspect_on_host(
    path: &Path,
    running: RunningGateway,
) -> Result<(Loaded, Inventory), LoadError> {
    load(path, move |path, progress| {
        config::inspect_on_host(path, &running, progress)
    })
}

fn load<F>(path: &Path, read: F) -> Result<(Loaded, Inventory), LoadError>
where
    F: FnOnce(&Path, &Progress) -> Result<(Loaded, Inventory), ConfigErrors> + Send + 'static,
{
    let progress = Progress::default();
    let (done, outcome) = mpsc::channel();
    let (file, reading) = (path.to_owned(), progress.clone());
    let thread = std::thread::Builder::new().name("configuration".to_owned());
    thread
        .spawn(move || {
            let _ = done.send(read(&file, &reading));
        })
        .map_err(|error| LoadError::NotRead(CliError::failed(error)))?;
    let mut current = (None, Instant::now());
    loop {
        match outcome.recv_timeout(CHECK_INTERVAL) {
            Ok(outcome) => return outcome.map_err(LoadError::Refused),
            Err(RecvTimeoutError::Disconnected) => {
                let what = "loading the configuration panicked; please report this";
                return Err(LoadError::NotRead(CliError::failed(what)));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = progress.reading();
        if now != current.0 {
            current = (now, Instant::now());
        } else if let Some(file) = &current.0
            && current.1.elapsed() >= READ_TIMEOUT
        {
            return Err(LoadError::NotRead(CliError::usage(format_args!(
                "reading {} has not ended for {} seconds: its file system does not answer; \
                 mount it again, or name another file in {}",
                file.display(),
                READ_TIMEOUT.as_secs(),
                path.display()
            ))));
        }
    }
}
