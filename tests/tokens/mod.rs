//! `countersign token` and `countersign api-key` as a person or a script meets
//! them, and the published cases for signed tokens through the real binary.

mod api_key;
mod conformance;
mod verify;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A finished run of the program.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Fails the test unless the answer was "no", for this reason.
    #[track_caller]
    fn refused(&self, code: &str) {
        assert_eq!(self.code, 3, "{}{}", self.stdout, self.stderr);
        let expected = format!("countersign: {code}: ");
        assert!(self.stderr.starts_with(&expected), "{}", self.stderr);
    }
}

/// Runs `countersign` with these arguments and this standard input.
fn countersign(arguments: &[&str], input: Option<&[u8]>) -> Run {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    if let Some(input) = input {
        // A program that does not want it may have ended already.
        let _ = stdin.write_all(input);
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let run = Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    run
}

/// A directory with files of the test's own.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
