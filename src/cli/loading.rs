//! Loading the configuration for a command: a file system that does not answer ends the
//! command with its file's name, instead of holding it up for ever.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::CliError;
use crate::config::{self, ConfigErrors, Inventory, Loaded, Progress};

/// How often it is looked after the load.
const LOOK: Duration = Duration::from_millis(100);
/// For so long one file may be read.
const LONGEST_READ: Duration = Duration::from_secs(5);

/// Why a configuration is not loaded.
pub(super) enum LoadError {
    /// Everything that is wrong with it.
    Refused(ConfigErrors),
    /// A file does not answer, or the system is short of something.
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

/// Loads a configuration with everything it names.
///
/// # Errors
/// When something is wrong with it, or a file does not answer.
pub(super) fn inspect(path: &Path) -> Result<(Loaded, Inventory), LoadError> {
    let progress = Progress::default();
    let (done, outcome) = mpsc::channel();
    let (file, reading) = (path.to_owned(), progress.clone());
    let thread = std::thread::Builder::new().name("configuration".to_owned());
    thread
        .spawn(move || {
            let _ = done.send(config::inspect_with(&file, &reading));
        })
        .map_err(|error| LoadError::NotRead(CliError::failed(error)))?;
    let mut current = (None, Instant::now());
    loop {
        match outcome.recv_timeout(LOOK) {
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
            && current.1.elapsed() >= LONGEST_READ
        {
            return Err(LoadError::NotRead(CliError::usage(format_args!(
                "reading {} has not ended for {} seconds: its file system does not answer; \
                 mount it again, or name another file in {}",
                file.display(),
                LONGEST_READ.as_secs(),
                path.display()
            ))));
        }
    }
}
