//! `Loader`: runs each load on a separate thread that no task joins. A thread that hangs in a file
//! system therefore delays neither other loads nor the end of the process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::events::{Change, Done, Event, Proposal};
use super::restart::check_replaces;
use crate::config::{self, Progress, Running, UnitError, UnitKey};
use crate::file_stamp::FileStamp;
use crate::snapshot::{Settings, Snapshot};

/// A file is read only after its stamp has stayed the same for this time, so that a half-written
/// file is not read.
const SETTLE: Duration = Duration::from_millis(20);
/// Maximum number of waits of `SETTLE` for files that keep changing. After that they are read
/// anyway, because nothing must delay a revocation.
const MAX_SETTLING: u32 = 5;

/// The input of a thread that reads one unit.
pub(super) struct UnitJob {
    pub(super) key: UnitKey,
    pub(super) running: Arc<Running>,
    pub(super) previous: Arc<Snapshot>,
    pub(super) configuration: u64,
}

/// Starts threads. Each thread sends its outcome as an event.
pub(super) struct Loader(UnboundedSender<Event>);

impl Loader {
    pub(super) const fn new(events: UnboundedSender<Event>) -> Self {
        Self(events)
    }

    /// Reads a unit after its files have stopped changing.
    pub(super) fn unit(&self, job: UnitJob) -> io::Result<Progress> {
        let progress = Progress::default();
        let reading = progress.clone();
        self.spawn("material", move || {
            let UnitJob {
                key,
                running,
                previous,
                configuration,
            } = job;
            settle(|| running.stamps_now(&key, &reading));
            let loaded = without_panic(|| running.load_unit(&key, &previous, &reading));
            match loaded.unwrap_or_else(|panic| Err(UnitError::panicked(&panic))) {
                Ok((loaded, snapshot)) => Done::Proposed(Box::new(Proposal {
                    change: Change::Unit { key, loaded },
                    configuration,
                    based_on: previous.generation,
                    snapshot,
                })),
                Err(error) => Done::Failed {
                    key,
                    configuration,
                    error,
                },
            }
        })?;
        Ok(progress)
    }

    /// Builds a snapshot without reading files. `running` already contains `change`, which is
    /// passed on in the outcome.
    pub(super) fn assemble(
        &self,
        change: Change,
        running: Running,
        previous: Arc<Snapshot>,
        configuration: u64,
    ) -> io::Result<()> {
        self.spawn("assemble", move || {
            let assembled = without_panic(|| running.assemble(&previous));
            match (assembled, change) {
                (Ok(Ok(snapshot)), change) => Done::Proposed(Box::new(Proposal {
                    change,
                    configuration,
                    based_on: previous.generation,
                    snapshot,
                })),
                (Ok(Err(error)), Change::Unit { key, .. }) => Done::Failed {
                    key,
                    configuration,
                    error: UnitError::of(&error),
                },
                (Err(panic), Change::Unit { key, .. }) => Done::Failed {
                    key,
                    configuration,
                    error: UnitError::panicked(&panic),
                },
                // The suspension will be tried again, because the files still cannot be read.
                (_, Change::Suspension { domain, .. }) => Done::NotSuspended(domain),
            }
        })
    }

    /// Loads the configuration after its file has stopped changing. Checks that the new
    /// configuration can replace the one in service.
    pub(super) fn configuration(
        &self,
        number: u64,
        running: Arc<Running>,
        previous: Arc<Snapshot>,
        settings: Settings,
    ) -> io::Result<Progress> {
        let progress = Progress::default();
        let reading = progress.clone();
        self.spawn("configuration", move || {
            let file = running.path().to_owned();
            let look = || reading.during(&file, || FileStamp::at(&file));
            settle(look);
            // The stamp is taken before the file is read, so that the file watch detects a change
            // during the load.
            let stamp = look();
            let loaded = without_panic(|| {
                let loaded = config::load_after(&running, &previous, &reading).map_err(summary)?;
                check_replaces(&settings, &previous, &loaded, &reading)?;
                Ok(Box::new(loaded))
            });
            let outcome = loaded.unwrap_or_else(|panic| {
                Err(format!("loading it panicked; please report this: {panic}"))
            });
            Done::Configuration {
                number,
                outcome,
                stamp,
            }
        })?;
        Ok(progress)
    }

    fn spawn(&self, name: &str, work: impl FnOnce() -> Done + Send + 'static) -> io::Result<()> {
        let events = self.0.clone();
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            let _ = events.send(Event::Done(Box::new(work())));
        })?;
        Ok(())
    }
}

/// Waits until files stop changing, for at most `MAX_SETTLING` intervals.
fn settle<T: PartialEq>(look: impl Fn() -> T) {
    let mut before = look();
    for _ in 0..MAX_SETTLING {
        std::thread::sleep(SETTLE);
        let now = look();
        if now == before {
            return;
        }
        before = now;
    }
}

/// Formats errors with file and line number. Leaves out the text of the lines, because it may name
/// callers.
fn summary(errors: config::ConfigErrors) -> String {
    tracing::debug!("the configuration cannot be loaded:\n{errors}");
    let one = |error: config::ErrorRecord| match error.line {
        Some(line) => format!("{}:{line}: {}", error.file, error.message),
        None => format!("{}: {}", error.file, error.message),
    };
    errors
        .records()
        .into_iter()
        .map(one)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Runs `work` and returns the message if it panics. The process continues after a panic.
fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        said.unwrap_or_else(|| "no message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_outcome_like_any_other() {
        assert_eq!(without_panic(|| 7), Ok(7));
        let panicked = without_panic(|| -> u8 { panic!("for a test") });
        assert_eq!(panicked, Err("for a test".to_owned()));
    }
}
