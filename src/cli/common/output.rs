//! The output of commands, and their exit codes.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;

use serde::Serialize;

use crate::identity::text::{printable_json, printable_lines};

/// The outcome of a command. The numbers are stable, because scripts use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: the command succeeded, or its result is "yes".
    Done,
    /// 1: the command failed.
    Failed,
    /// 2: the arguments or the configuration are invalid.
    Usage,
    /// 3: the result is "no", for example invalid, denied or expiring.
    No,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::No => 3,
        })
    }
}

/// The reason why a command failed.
#[derive(Debug)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// The description of the error, with file, key and how to fix it. It may have several lines.
    pub message: String,
    /// Whether the message has colours, and no other escape sequences.
    is_coloured: bool,
}

impl CliError {
    fn new(exit: Exit, message: &impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
            is_coloured: false,
        }
    }

    /// Creates an error with exit code 1.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, &message)
    }

    /// Creates an error with exit code 2.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, &message)
    }

    /// Creates an error with exit code 2 and a message with colours. The message must not contain
    /// other control characters, because it is printed as it is.
    pub fn coloured_usage(message: impl fmt::Display) -> Self {
        Self {
            is_coloured: true,
            ..Self::usage(message)
        }
    }

    /// Creates an error with exit code 3.
    pub fn no(message: impl fmt::Display) -> Self {
        Self::new(Exit::No, &message)
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

/// Prints the output of a command as `--json` and `--quiet` require.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// Creates the output for one run of the program.
    #[must_use]
    pub const fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether the output must be a JSON document instead of text.
    #[must_use]
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Whether only errors may be printed.
    #[must_use]
    pub const fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints text for people on standard output. Prints nothing with `--json` or `--quiet`.
    pub fn say(self, text: impl fmt::Display) {
        if !self.json && !self.quiet {
            Self::line(&text);
        }
    }

    /// Prints the command's result as JSON on standard output. Prints nothing without `--json`.
    pub fn json(self, document: &impl Serialize) {
        if self.json
            && let Ok(text) = serde_json::to_string(document)
        {
            Self::raw_line(&printable_json(&text));
        }
    }

    /// Prints a result that is one list and may be too long for memory. Writes the document
    /// `{"NAME": […]}` item by item.
    #[must_use]
    pub fn list(self, name: &'static str) -> List {
        List {
            out: io::BufWriter::new(io::stdout().lock()),
            name,
            count: 0,
        }
    }

    /// Prints the command's result on standard output, independent of the flags.
    pub fn result(self, text: impl fmt::Display) {
        Self::line(&text);
    }

    /// Prints a remark on standard error. Prints nothing with `--quiet`.
    pub fn note(self, text: impl fmt::Display) {
        if !self.quiet {
            Self::error_line(&text);
        }
    }

    /// Prints a remark that shows progress on a terminal, in the place of the last remark. If
    /// `is_first` is true, no remark is replaced.
    pub fn progress(self, is_first: bool, text: impl fmt::Display) {
        if !self.quiet {
            // Moves the cursor up and erases the line.
            let up = if is_first { "" } else { "\x1b[1A\x1b[2K" };
            let text = text.to_string();
            let _ = writeln!(io::stderr().lock(), "{up}{}", printable_lines(&text));
        }
    }

    /// Prints the reason of the result "no" on standard error, even with `--quiet`.
    pub fn verdict(self, text: impl fmt::Display) {
        Self::error_line(&text);
    }

    /// Prints an error on standard error, even with `--quiet`.
    pub fn error(self, error: &CliError) {
        let message = match error.is_coloured {
            true => Cow::Borrowed(error.message.as_str()),
            false => printable_lines(&error.message),
        };
        let _ = writeln!(io::stderr().lock(), "countersign: {message}");
    }

    fn error_line(text: &dyn fmt::Display) {
        let text = text.to_string();
        let _ = writeln!(io::stderr().lock(), "{}", printable_lines(&text));
    }

    /// Prints text. Escapes control characters, because names and other texts in it may come from
    /// peers and files.
    fn line(text: &dyn fmt::Display) {
        Self::raw_line(&printable_lines(&text.to_string()));
    }

    /// Prints a line. Ignores write errors, because a closed pipe must not cause a panic.
    fn raw_line(text: &str) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{text}");
        let _ = stdout.flush();
    }
}

/// A JSON document with one list that is being written ([`Output::list`]).
#[derive(Debug)]
pub struct List {
    out: io::BufWriter<io::StdoutLock<'static>>,
    name: &'static str,
    count: u64,
}

impl List {
    /// Adds an item. Returns `Break` if the reader has closed the pipe.
    pub fn item(&mut self, item: &impl Serialize) -> ControlFlow<()> {
        let begin = if self.count == 0 {
            self.out.write_all(self.head().as_bytes())
        } else {
            self.out.write_all(b",")
        };
        self.count = self.count.saturating_add(1);
        let mut item = || {
            let text = serde_json::to_string(item)?;
            self.out.write_all(printable_json(&text).as_bytes())
        };
        match begin.and_then(|()| item()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Completes the document. Returns whether it has any items.
    pub fn end(mut self) -> bool {
        if self.count == 0 {
            let head = self.head();
            let _ = self.out.write_all(head.as_bytes());
        }
        let _ = self.out.write_all(b"]}\n");
        let _ = self.out.flush();
        self.count > 0
    }

    fn head(&self) -> String {
        format!("{{\"{}\":[", self.name)
    }
}
