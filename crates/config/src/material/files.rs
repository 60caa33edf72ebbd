//! Reads the files that a configuration names, and records their paths and stamps. A stamp shows
//! whether a file has changed ([`FileStamp`]).
//!
//! Relative paths start at the directory of the configuration file. Each error names the file, the
//! key that names it, and how to fix the problem. `resolve` decides what the content means.

use std::collections::HashSet;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::descriptors::open_with_spare;
use crate::diagnostics::{ConfigErrors, Diagnostic, Diagnostics};
use crate::document::value::At;
use crate::file_read::read_regular;
use crate::file_stamp::{FileStamp, FileStamps};
use crate::secret::Secret;

/// Maximum size of a configuration file in bytes.
const MAX_CONFIGURATION: u64 = 16 << 20;
/// Maximum size in bytes of each file that the configuration names. A CRL with a million entries
/// has about 40 MB.
const MAX_FILE: u64 = 256 << 20;

/// Reads the text of the configuration file.
pub(crate) fn read_configuration(path: &Path, access: &Access) -> Result<String, ConfigErrors> {
    let refuse = |message: String, help: &str| {
        ConfigErrors::whole(path, Diagnostic::whole(message).help(help))
    };
    let content = access.ask(path, |path| read_regular(path, MAX_CONFIGURATION));
    let bytes = content.map_err(|error| {
        refuse(
            format!("cannot read the configuration file: {error}"),
            "name another one with --config FILE, or make one with: countersign init",
        )
    })?;
    String::from_utf8(bytes).map_err(|_| {
        refuse(
            "the configuration file is not UTF-8 text".to_owned(),
            "save it as UTF-8; it is a TOML file",
        )
    })
}

/// The file that a load is reading now, so that another thread can report it. Clones share the
/// value.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Option<PathBuf>>>);

impl Progress {
    /// Returns the file or directory that is being read now, if any.
    #[must_use]
    pub fn reading(&self) -> Option<PathBuf> {
        self.current().clone()
    }

    /// Runs `read`. While `read` runs, [`Self::reading`] returns `path`.
    pub fn during<T>(&self, path: &Path, read: impl FnOnce() -> T) -> T {
        *self.current() = Some(path.to_owned());
        let outcome = read();
        *self.current() = None;
        outcome
    }

    fn current(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum time for an operation on one file if [`Access::unanswered`] is set.
const FILE_TIMEOUT: Duration = Duration::from_millis(250);

/// The files whose file system has not responded to an operation yet. While a file is in this set,
/// no other operation on the file starts. So at most one thread waits for each file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unanswered(Arc<Mutex<HashSet<PathBuf>>>);

impl Unanswered {
    /// Runs the operation `ask` on a separate thread, and waits at most [`FILE_TIMEOUT`] for its
    /// result. After the timeout, the thread continues to wait for the file system.
    fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        ask: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let silent = || {
            let message = "its file system does not answer";
            io::Error::new(io::ErrorKind::TimedOut, message)
        };
        if !self.paths().insert(path.to_owned()) {
            return Err(silent());
        }
        let (answer, answered) = mpsc::channel();
        let (all, own) = (self.clone(), path.to_owned());
        let thread = thread::Builder::new().name("file".to_owned());
        let started = thread.spawn(move || {
            let outcome = ask(&own);
            all.paths().remove(&own);
            let _ = answer.send(outcome);
        });
        if let Err(error) = started {
            self.paths().remove(path);
            return Err(error);
        }
        answered
            .recv_timeout(FILE_TIMEOUT)
            .unwrap_or_else(|_| Err(silent()))
    }

    fn paths(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a load accesses files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// Shows which file is being read.
    pub(crate) progress: Progress,
    /// If set, each file operation has a timeout ([`FILE_TIMEOUT`]), so one slow file system does
    /// not delay other files.
    pub(crate) unanswered: Option<Unanswered>,
}

impl Access {
    fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        ask: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.progress.during(path, || match &self.unanswered {
            Some(unanswered) => unanswered.ask(path, ask),
            None => ask(path),
        })
    }

    /// Returns the stamp of a file. Returns `None` if the file does not exist, or if there is a
    /// timeout and the file system does not respond within it.
    pub(crate) fn stamp(&self, path: &Path) -> Option<FileStamp> {
        self.ask(path, |path| Ok(FileStamp::at(path)))
            .ok()
            .flatten()
    }
}

/// Reads the files that a configuration names. Records the path and the stamp of each file.
#[derive(Debug)]
pub(crate) struct Files {
    base: PathBuf,
    seen: Vec<(PathBuf, Option<FileStamp>)>,
    access: Access,
    system_failure: bool,
}

impl Files {
    /// Creates a reader of files. Relative paths start at the directory of the file
    /// `configuration`. `stamp` is the stamp of the configuration file, taken before that file was
    /// read.
    pub(crate) fn beside(
        (configuration, stamp): (&Path, Option<FileStamp>),
        access: Access,
    ) -> Self {
        let base = configuration.parent().map(Path::to_owned);
        Self {
            base: base.unwrap_or_default(),
            seen: vec![(configuration.to_owned(), stamp)],
            access,
            system_failure: false,
        }
    }

    /// Returns the files that were read and the directories that were listed, with their stamps.
    /// The stamps were taken before the files were read. So a change during the read is detected
    /// afterwards.
    pub(crate) fn into_seen(self) -> (Vec<PathBuf>, FileStamps) {
        let mut paths = Vec::with_capacity(self.seen.len());
        let mut stamps = FileStamps::new();
        for (path, stamp) in self.seen {
            if let Entry::Vacant(place) = stamps.entry(path) {
                paths.push(place.key().clone());
                place.insert(stamp);
            }
        }
        (paths, stamps)
    }

    /// Returns the number of files that were recorded until now. [`Self::stamps_since`] accepts it.
    pub(crate) const fn mark(&self) -> usize {
        self.seen.len()
    }

    /// Returns the stamps of the files that were recorded after [`Self::mark`] returned `mark`.
    pub(crate) fn stamps_since(&self, mark: usize) -> FileStamps {
        let mut stamps = FileStamps::new();
        for (path, stamp) in self.seen.get(mark..).unwrap_or_default() {
            stamps.entry(path.clone()).or_insert_with(|| stamp.clone());
        }
        stamps
    }

    /// Whether the operating system failed to read a file or to list a directory, for example
    /// because of too few descriptors. A missing file does not count.
    pub(crate) const fn has_system_failure(&self) -> bool {
        self.system_failure
    }

    /// Records a failure of the operating system. Ignores errors that are mistakes of the operator,
    /// for example a missing file.
    pub(crate) fn note_failure(&mut self, error: &io::Error) {
        self.system_failure |= is_system_failure(error);
    }

    /// Returns the path of a file that the configuration names as `written`. A relative path starts
    /// at the directory of the configuration file.
    pub(crate) fn locate(&self, written: &str) -> PathBuf {
        self.base.join(written)
    }

    /// Records the path and the current stamp of a file or directory that another module reads
    /// afterwards.
    pub(crate) fn remember(&mut self, path: &Path) {
        let stamp = self.access.stamp(path);
        self.seen.push((path.to_owned(), stamp));
    }

    /// Runs `read`, a function of another module that reads the file or directory `path`. While
    /// `read` runs, [`Progress`] shows `path`.
    pub(crate) fn reading<T>(&self, path: &Path, read: impl FnOnce() -> T) -> T {
        self.access.progress.during(path, read)
    }

    /// Reads the file `path`, which the configuration names as `written`. Refuses an empty file.
    pub(crate) fn read(
        &mut self,
        written: &At<String>,
        path: &Path,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<u8>> {
        self.remember(path);
        let content = self.access.ask(path, |path| read_regular(path, MAX_FILE));
        match content {
            Ok(bytes) if bytes.is_empty() => {
                diagnostics.error(
                    Diagnostic::new(
                        written.place.clone(),
                        format!("{} is empty", path.display()),
                    )
                    .label("this file")
                    .help("write the file again, or name another one"),
                );
                None
            }
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.note_failure(&error);
                let remedy = match error.kind() {
                    io::ErrorKind::NotFound => {
                        "check the path; relative paths start at the directory of the configuration file"
                    }
                    io::ErrorKind::PermissionDenied => "let the user that runs countersign read it",
                    _ => "name a readable file",
                };
                diagnostics.error(
                    Diagnostic::new(
                        written.place.clone(),
                        format!("cannot read {}: {error}", path.display()),
                    )
                    .label("this file")
                    .help(remedy),
                );
                None
            }
        }
    }

    /// Reads a file with a private key or another secret. Warns if users other than the file's
    /// owner have any permission for it.
    pub(crate) fn read_private(
        &mut self,
        written: &At<String>,
        path: &Path,
        diagnostics: &mut Diagnostics,
    ) -> Option<Secret> {
        let bytes = self.read(written, path, diagnostics).map(Secret::new)?;
        let mode = self.access.ask(path, |path| {
            fs::metadata(path).map(|metadata| metadata.permissions().mode())
        });
        let open_to_others = mode.is_ok_and(|mode| mode & 0o077 != 0);
        if open_to_others {
            diagnostics.warn(
                Diagnostic::new(
                    written.place.clone(),
                    format!(
                        "others than its owner may read the private key {}",
                        path.display()
                    ),
                )
                .help(format!("chmod 600 {}", path.display())),
            );
        }
        Some(bytes)
    }

    /// Returns the files that an entry of the configuration names. Without `*`, this is one path.
    /// With `*` in the file name, these are all matching files of the directory, sorted by name.
    pub(crate) fn expand(
        &mut self,
        written: &At<String>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<PathBuf>> {
        let path = self.locate(&written.value);
        if !written.value.contains('*') {
            return Some(vec![path]);
        }
        let refuse = |message: String, help: &str| {
            Diagnostic::new(written.place.clone(), message).help(help)
        };
        let (directory, pattern) = match (path.parent(), path.file_name().and_then(|n| n.to_str()))
        {
            (Some(directory), Some(pattern)) if !directory.to_string_lossy().contains('*') => {
                (directory, pattern)
            }
            _ => {
                diagnostics.error(refuse(
                    "'*' may stand in the file name only".to_owned(),
                    "name the directories one by one",
                ));
                return None;
            }
        };
        self.remember(directory);
        let wanted = pattern.to_owned();
        let listed = self
            .access
            .ask(directory, move |directory| matching(directory, &wanted));
        match listed {
            Err(error) => {
                self.note_failure(&error);
                diagnostics.error(refuse(
                    format!("cannot list {}: {error}", directory.display()),
                    "check the path; relative paths start at the directory of the configuration file",
                ));
                None
            }
            Ok(found) if found.is_empty() => {
                diagnostics.error(refuse(
                    format!("no file matches {}", path.display()),
                    "put the files there, or leave the pattern out",
                ));
                None
            }
            Ok(found) => Some(found),
        }
    }
}

/// Whether the operating system failed, for example because of too few descriptors. Returns false
/// if the operator made a mistake: the file is missing, not accessible or has an invalid name.
fn is_system_failure(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidFilename, IsADirectory, NotADirectory, NotFound, OutOfMemory, PermissionDenied,
        TimedOut,
    };
    (error.raw_os_error().is_some() || matches!(error.kind(), OutOfMemory | TimedOut))
        && !matches!(
            error.kind(),
            NotFound | PermissionDenied | NotADirectory | IsADirectory | InvalidFilename
        )
}

fn matching(directory: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let listed = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    for entry in open_with_spare(|| fs::read_dir(listed))? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = directory.join(name);
        // Hidden files are skipped, because editors and mounted volumes use them as working copies.
        // If it is unknown whether a path is a directory, the path stays in the list. Reading it
        // then reports the error.
        if !name.starts_with('.') && glob(pattern, name) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file name matches a pattern. `*` matches any sequence of characters, including the
/// empty sequence.
fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(tail) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run() {
        for (pattern, name, matches) in [
            ("*.crl", "a.crl", true),
            ("*.crl", ".crl", true),
            ("*.crl", "a.crl.bak", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*", "x", true),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
    }
}
