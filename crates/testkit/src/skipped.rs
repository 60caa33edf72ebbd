//! Notes about test data and programs that a machine does not have.
//!
//! If test data or a program is missing, the test that needs it passes and leaves a note in a
//! file. The test harness would not show a message, because it shows a test's output only if the
//! test fails. The last test target of a run (`what_was_skipped`) calls [`print_summary`], which
//! prints one line about all notes.
//!
//! If a check finds the data or the program, it removes the note of an earlier run. After a run
//! of all tests, the notes thus describe this run only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The environment variable that contains the folder of the published test data (corpora).
const CORPORA: &str = "COUNTERSIGN_CONFORMANCE";
/// The folder if [`CORPORA`] is not set, relative to the repository.
const DEFAULT_CORPORA: &str = "../shared/conformance";
/// If this environment variable is `1`, missing test data is a failure.
const REQUIRE_CORPORA: &str = "COUNTERSIGN_REQUIRE_CONFORMANCE";
/// If this environment variable is `1`, a missing program is a failure.
const REQUIRE_TOOLS: &str = "COUNTERSIGN_REQUIRE_TOOLS";

/// The kinds of things that can be missing, in the order of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Corpus,
    Tool,
    /// A feature that the operating system of this machine does not offer. It cannot be
    /// installed.
    Machine,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Corpus, Self::Tool, Self::Machine];

    /// Returns the prefix of the file names of all notes of this kind.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Corpus => "corpus ",
            Self::Tool => "tool ",
            Self::Machine => "machine ",
        }
    }

    fn counted(self, count: usize) -> String {
        match (self, count) {
            (Self::Corpus, 1) => "1 corpus not present".to_owned(),
            (Self::Corpus, _) => format!("{count} corpora not present"),
            (Self::Tool, 1) => "1 tool not installed".to_owned(),
            (Self::Tool, _) => format!("{count} tools not installed"),
            (Self::Machine, _) => format!("{count} not possible on this machine"),
        }
    }
}

/// Returns the folder of the published test data `name`. If the folder is missing, returns
/// `None` and writes a note.
///
/// # Panics
/// If the folder is missing and `COUNTERSIGN_REQUIRE_CONFORMANCE=1`.
#[must_use]
pub fn corpus(name: &str) -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // `join` makes a relative path relative to the repository. Without this, the path would be
    // relative to the working directory, which is different for each package.
    let corpora = std::env::var_os(CORPORA).unwrap_or_else(|| DEFAULT_CORPORA.into());
    let folder = repository.join(corpora).join(name);
    let present = folder.is_dir();
    assert!(
        present || !is_set(REQUIRE_CORPORA),
        "{REQUIRE_CORPORA}=1, but {} is not there",
        folder.display()
    );
    record(Kind::Corpus, name, present);
    present.then_some(folder)
}

/// Returns whether the program `name` is installed: whether it succeeds with this argument.
/// Writes a note if it does not.
///
/// # Panics
/// If the program does not succeed and `COUNTERSIGN_REQUIRE_TOOLS=1`.
#[must_use]
pub fn has_tool(name: &str, version_argument: &str) -> bool {
    let output = Command::new(name)
        .arg(version_argument)
        .stdin(Stdio::null())
        .output();
    tool(name, output.is_ok_and(|output| output.status.success()))
}

/// Returns `present`, and writes a note if the program or library `name` is not present.
///
/// # Panics
/// If `present` is false and `COUNTERSIGN_REQUIRE_TOOLS=1`.
pub fn tool(name: &str, present: bool) -> bool {
    assert!(
        present || !is_set(REQUIRE_TOOLS),
        "{REQUIRE_TOOLS}=1, but {name} is not there"
    );
    record(Kind::Tool, name, present);
    present
}

/// Returns `possible`, and writes a note if the operating system does not offer the feature
/// `name`. A missing feature is never a failure, because it cannot be installed.
pub fn machine(name: &str, possible: bool) -> bool {
    record(Kind::Machine, name, possible);
    possible
}

/// Prints one line that counts and names everything for which there is a note.
#[allow(
    clippy::print_stdout,
    reason = "it is all that the test target that calls it does"
)]
pub fn print_summary() {
    let notes = std::fs::read_dir(folder()).into_iter().flatten();
    let notes = notes
        .flatten()
        .map(|note| note.file_name().to_string_lossy().into_owned());
    println!("{}", summary(&notes.collect()));
}

/// Returns the summary line for notes with these file names.
fn summary(notes: &BTreeSet<String>) -> String {
    let counted: Vec<String> = Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            let names: Vec<&str> = notes
                .iter()
                .filter_map(|note| note.strip_prefix(kind.prefix()))
                .collect();
            let counted = kind.counted(names.len());
            (!names.is_empty()).then(|| format!("{counted} ({})", names.join(", ")))
        })
        .collect();
    if counted.is_empty() {
        "skipped: nothing".to_owned()
    } else {
        format!("skipped: {}", counted.join("; "))
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

/// Returns the folder of the notes. It is beside the folder of the test executables. Therefore
/// each build directory has its own notes.
fn folder() -> PathBuf {
    let executable = std::env::current_exe().expect("the path of this executable");
    let executables = executable.parent().expect("a folder of executables");
    executables.join("../skipped")
}

fn record(kind: Kind, name: &str, present: bool) {
    let folder = folder();
    let note = folder.join(format!("{}{name}", kind.prefix()).replace('/', "-"));
    if present {
        // The error is ignored, because usually there is no note to remove.
        let _ = std::fs::remove_file(note);
    } else {
        std::fs::create_dir_all(&folder).expect("a folder for notes");
        std::fs::write(note, "").expect("a note");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(notes: &[&str]) -> String {
        summary(&notes.iter().map(|note| (*note).to_owned()).collect())
    }

    #[test]
    fn the_summary_counts_each_kind() {
        assert_eq!(line(&[]), "skipped: nothing");
        assert_eq!(
            line(&["corpus limbo", "corpus http1", "corpus jws"]),
            "skipped: 3 corpora not present (http1, jws, limbo)"
        );
        assert_eq!(
            line(&["tool go", "corpus jws", "machine mount namespaces"]),
            "skipped: 1 corpus not present (jws); 1 tool not installed (go); \
             1 not possible on this machine (mount namespaces)"
        );
    }
}
