//! Runs `countersign` and other programs, and checks their results.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::BINARY;

/// The result of a program that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `countersign` with these arguments and this standard input.
pub(crate) fn countersign(arguments: &[&str], input: impl AsRef<[u8]>) -> Run {
    Run::with_input(Command::new(BINARY).args(arguments), input)
}

/// Copies the program. Another process writes the copy: while a file is open for writing, it cannot
/// be executed, and a process that another test starts inherits open files for a moment.
pub(crate) fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(BINARY).arg(to).status();
    assert!(copied.unwrap().success(), "{}", to.display());
}

impl Run {
    /// Runs a command to its end. The command has no standard input, unless the test set one.
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// Runs a command to its end, while the async tasks of the test continue.
    pub(crate) async fn of_async(command: &mut tokio::process::Command) -> Self {
        Self::from(command.output().await.unwrap())
    }

    /// Runs a command. The test fails if the command does not end within a minute.
    #[track_caller]
    pub(crate) fn in_time(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let id = child.id().to_string();
        let (said, hears) = mpsc::channel();
        std::thread::spawn(move || said.send(child.wait_with_output()));
        match hears.recv_timeout(Duration::from_secs(60)) {
            Ok(output) => Self::from(output.unwrap()),
            Err(_) => {
                Command::new("kill").args(["-9", &id]).status().unwrap();
                panic!("{command:?} does not end");
            }
        }
    }

    pub(crate) fn with_input(command: &mut Command, input: impl AsRef<[u8]>) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The error is ignored, because a program that refuses its arguments ends without
        // reading its input.
        let _ = stdin.write_all(input.as_ref());
        drop(stdin);
        Self::from(child.wait_with_output().unwrap())
    }

    /// Fails the test unless the program ended with exit code 0.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the program ended with exit code `code` and wrote `words` to
    /// standard error.
    #[track_caller]
    pub(crate) fn ended(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(words), "{words:?} in: {}", self.stderr);
        self
    }

    /// Same as [`Run::ended`]. Also fails the test if the program wrote to standard output.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &str) -> Self {
        let run = self.ended(code, words);
        assert_eq!(run.stdout, "");
        run
    }

    /// Fails the test unless the program ended with exit code 3 and gave this reason.
    #[track_caller]
    pub(crate) fn says_no(&self, reason: &str) {
        assert_eq!(self.code, 3, "{self:?}");
        let expected = format!("countersign: {reason}: ");
        assert!(self.stderr.starts_with(&expected), "{self:?}");
    }

    /// Returns standard output as JSON. It must be exactly one line.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Run {
    /// Takes the result of a program. The test fails if the program panicked.
    #[track_caller]
    fn from(output: Output) -> Self {
        let run = Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        run
    }
}
