//! What a test needs and a machine may lack: published test data, other programs.
//!
//! A test that lacks something passes and leaves a note, because the harness shows a
//! test's output only when the test fails. The last test target of a run
//! (`what_was_skipped`) calls [`print_summary`], which counts the notes in one line.
//!
//! Every check also removes the note of an earlier run when it finds what it looks for,
//! so the notes need no clean-up: after a run of all tests they are exactly what that
//! run lacked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the folder of published test data.
const CORPORA: &str = "COUNTERSIGN_CONFORMANCE";
/// Where that data is otherwise, relative to the repository.
const DEFAULT_CORPORA: &str = "../shared/conformance";
/// `1` makes absent test data a failure.
const REQUIRE_CORPORA: &str = "COUNTERSIGN_REQUIRE_CONFORMANCE";
/// `1` makes an absent program a failure.
const REQUIRE_TOOLS: &str = "COUNTERSIGN_REQUIRE_TOOLS";

/// What can be absent; the order is that of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Corpus,
    Tool,
    /// Something the operating system does not offer, which no installation changes.
    Machine,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Corpus, Self::Tool, Self::Machine];

    /// Begins the names of its notes.
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

/// The folder of the published test data `name`, or `None` with a note that it is
/// absent.
///
/// # Panics
/// When it is absent and `COUNTERSIGN_REQUIRE_CONFORMANCE=1`.
#[must_use]
pub fn corpus(name: &str) -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // A relative path would otherwise depend on the package whose tests run.
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

/// Whether the program `name` runs with this argument and succeeds; notes it if not.
///
/// # Panics
/// When it does not and `COUNTERSIGN_REQUIRE_TOOLS=1`.
#[must_use]
pub fn has_tool(name: &str, version_argument: &str) -> bool {
    let output = Command::new(name)
        .arg(version_argument)
        .stdin(Stdio::null())
        .output();
    tool(name, output.is_ok_and(|output| output.status.success()))
}

/// Passes on whether the program or library `name` was found, and notes it if not.
///
/// # Panics
/// When it was not and `COUNTERSIGN_REQUIRE_TOOLS=1`.
pub fn tool(name: &str, present: bool) -> bool {
    assert!(
        present || !is_set(REQUIRE_TOOLS),
        "{REQUIRE_TOOLS}=1, but {name} is not there"
    );
    record(Kind::Tool, name, present);
    present
}

/// Passes on whether the operating system offers `name`, and notes it if not. That is
/// never a failure, because it cannot be installed.
pub fn machine(name: &str, possible: bool) -> bool {
    record(Kind::Machine, name, possible);
    possible
}

/// Prints what the tests so far have lacked, in one line.
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

/// The line for notes of these names.
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

/// Where notes are: beside the folder of the test executables, so that each build
/// directory has its own.
fn folder() -> PathBuf {
    let executable = std::env::current_exe().expect("the path of this executable");
    let executables = executable.parent().expect("a folder of executables");
    executables.join("../skipped")
}

fn record(kind: Kind, name: &str, present: bool) {
    let folder = folder();
    let note = folder.join(format!("{}{name}", kind.prefix()).replace('/', "-"));
    if present {
        // Most often there is none.
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
