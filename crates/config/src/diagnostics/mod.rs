//! Errors and warnings about a configuration file, with their places in the file, and their output.
//!
//! [`Diagnostics`] collects errors and warnings while the file is read and resolved. If there are
//! errors, the result is [`ConfigErrors`]. This module does not depend on the meaning of any key.
//!
//! - `suggest`: finds the known word that is most similar to an unknown one
//! - `redact`: replaces secrets in the text of the file and in messages

mod redact;
pub(crate) mod suggest;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use redact::Redaction;

use crate::identity::text::{is_printable, printable_lines};

/// A range of byte positions in the configuration file.
pub(crate) type Span = Range<usize>;

/// An error or a warning about the configuration.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    message: String,
    place: Option<Span>,
    label: String,
    also: Option<(Span, String)>,
    help: Option<String>,
}

impl Diagnostic {
    /// Creates a diagnostic. `message` describes the problem. `place` is the position in the file
    /// of the text that causes the problem.
    pub(crate) fn new(place: Span, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            place: Some(place),
            label: String::new(),
            also: None,
            help: None,
        }
    }

    /// Creates a diagnostic about the file as a whole.
    pub(crate) fn whole(message: impl Into<String>) -> Self {
        Self {
            place: None,
            ..Self::new(0..0, message)
        }
    }

    /// Sets a short text that the output shows beside the caret (`^`) under the faulty text.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds a second place in the file that belongs to the problem, for example the first use of a
    /// name that occurs twice.
    pub(crate) fn also(mut self, place: Span, label: impl Into<String>) -> Self {
        self.also = Some((place, label.into()));
        self
    }

    /// Sets the text that says how to fix the problem.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Returns the description of the problem in one sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the text that says how to fix the problem, if there is one.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.help.as_deref()
    }

    fn groups<'a>(&'a self, level: Level<'a>, path: &'a str, source: &'a str) -> Vec<Group<'a>> {
        let title = level.primary_title(printable_lines(&self.message));
        let mut group = match &self.place {
            None => Group::with_title(title).element(annotate_snippets::Origin::path(path)),
            Some(place) => {
                let primary = AnnotationKind::Primary.span(clamped(place, source));
                let primary = if self.label.is_empty() {
                    primary
                } else {
                    primary.label(printable_lines(&self.label))
                };
                let mut snippet = Snippet::source(source).path(path).annotation(primary);
                if let Some((place, label)) = &self.also {
                    snippet = snippet.annotation(
                        AnnotationKind::Context
                            .span(clamped(place, source))
                            .label(printable_lines(label)),
                    );
                }
                title.element(snippet)
            }
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(printable_lines(help)));
        }
        vec![group]
    }

    /// Returns the diagnostic without the secrets of the file.
    fn redacted(self, redaction: &Redaction) -> Self {
        let shown = |text: &String| redaction.message(text);
        Self {
            message: shown(&self.message),
            label: shown(&self.label),
            also: self.also.map(|(place, label)| (place, shown(&label))),
            help: self.help.as_ref().map(shown),
            place: self.place,
        }
    }

    /// Returns the diagnostic on one line, without the secrets of the file.
    pub(crate) fn one_line(&self, path: &Path, source: &str) -> String {
        let shown = self.clone().redacted(&Redaction::of(source));
        shown.as_one_line(path, source)
    }

    fn as_one_line(&self, path: &Path, source: &str) -> String {
        let mut text = path.display().to_string();
        if let Some((line, _)) = self.line_and_column(source) {
            text.push_str(&format!(":{line}"));
        }
        text.push_str(&format!(": {}", self.message));
        if let Some(help) = &self.help {
            text.push_str(&format!("; {help}"));
        }
        text
    }

    /// Returns the line and the column of the diagnostic's place, both counted from 1. The column
    /// counts characters, not bytes. Returns `None` if the diagnostic is about the whole file.
    fn line_and_column(&self, source: &str) -> Option<(usize, usize)> {
        let place = clamped(self.place.as_ref()?, source);
        let before = source.get(..place.start)?;
        let line = before.matches('\n').count() + 1;
        let start_of_line = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(start_of_line..)?.chars().count() + 1;
        Some((line, column))
    }
}

/// Replaces characters that could control a terminal or change the direction of text. The
/// replacements have the same number of bytes, so all positions stay valid.
fn without_hazards(source: &str) -> String {
    let mut shown = String::with_capacity(source.len());
    let mut characters = source.chars().peekable();
    while let Some(character) = characters.next() {
        let is_kept = match character {
            '\n' | '\t' => true,
            '\r' => characters.peek() == Some(&'\n'),
            other => is_printable(other.encode_utf8(&mut [0; 4])),
        };
        match character.len_utf8() {
            _ if is_kept => shown.push(character),
            1 => shown.push('?'),
            2 => shown.push('\u{bf}'),
            3 => shown.push('\u{fffd}'),
            _ => shown.push_str("\u{fffd}?"),
        }
    }
    shown
}

/// Moves the ends of a place to character boundaries within the text. The renderer of the messages
/// requires this.
fn clamped(place: &Span, source: &str) -> Span {
    let on_boundary = |mut index: usize| {
        index = index.min(source.len());
        while !source.is_char_boundary(index) {
            index -= 1;
        }
        index
    };
    let start = on_boundary(place.start);
    start..on_boundary(place.end).max(start)
}

const CONFIGURATION: &str = "the configuration";

/// All errors in a configuration file.
///
/// `Display` prints each error with file, line, caret (`^`) and remedy, without colours.
#[derive(Debug, Clone)]
pub struct ConfigErrors {
    /// The kind of file that the errors are about, for messages.
    what: &'static str,
    path: PathBuf,
    source: String,
    errors: Vec<Diagnostic>,
}

/// One error as separate fields, for output that programs read (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorRecord {
    /// The path of the configuration file.
    pub file: String,
    /// The line in the file, starting at 1. `None` if the error is about the whole file.
    pub line: Option<usize>,
    /// The column in characters, starting at 1. `None` if the error is about the whole file.
    pub column: Option<usize>,
    /// The description of the problem.
    pub message: String,
    /// The text that says how to fix the problem, if there is one.
    pub help: Option<String>,
}

impl ConfigErrors {
    /// Creates the errors for a file that could not be read as text.
    pub(crate) fn whole(path: &Path, error: Diagnostic) -> Self {
        Self {
            what: CONFIGURATION,
            path: path.to_owned(),
            source: String::new(),
            errors: vec![error],
        }
    }

    /// Sets the kind of file that the errors are about, for example [`CONFIGURATION`].
    pub(crate) const fn of(mut self, what: &'static str) -> Self {
        self.what = what;
        self
    }

    /// Returns the path of the configuration file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the errors in the order of the file. There is at least one.
    #[must_use]
    pub fn errors(&self) -> &[Diagnostic] {
        &self.errors
    }

    /// Returns the errors as separate fields, for output that programs read (JSON).
    #[must_use]
    pub fn records(&self) -> Vec<ErrorRecord> {
        self.errors
            .iter()
            .map(|error| {
                let place = error.line_and_column(&self.source);
                ErrorRecord {
                    file: self.path.display().to_string(),
                    line: place.map(|(line, _)| line),
                    column: place.map(|(_, column)| column),
                    message: error.message.clone(),
                    help: error.help.clone(),
                }
            })
            .collect()
    }

    /// Renders all errors with file, line, caret (`^`) and remedy. `colour` adds colours for a
    /// terminal.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let path = self.path.display().to_string();
        let path = printable_lines(&path);
        let shown: Vec<String> = self
            .errors
            .iter()
            .map(|error| renderer.render(&error.groups(Level::ERROR, &path, &self.source)))
            .collect();
        let count = match self.errors.len() {
            1 => "1 error".to_owned(),
            several => format!("{several} errors"),
        };
        format!("{} has {count}\n\n{}", self.what, shown.join("\n\n"))
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects errors and warnings while a file is read.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds an error to those that were found before.
    pub(crate) fn error(&mut self, error: Diagnostic) {
        self.errors.push(error);
    }

    /// Adds a warning to those that were found before.
    pub(crate) fn warn(&mut self, warning: Diagnostic) {
        self.warnings.push(warning);
    }

    /// Returns the number of errors that were added until now.
    pub(crate) const fn error_count(&self) -> usize {
        self.errors.len()
    }

    /// Returns the number of warnings that were added until now.
    pub(crate) const fn warning_count(&self) -> usize {
        self.warnings.len()
    }

    /// Returns the warnings that were added after the first `count` warnings.
    pub(crate) fn warnings_from(&self, count: usize) -> Vec<Diagnostic> {
        self.warnings.get(count..).unwrap_or_default().to_vec()
    }

    /// Removes and returns the errors that were added after the first `count` errors.
    pub(crate) fn take_errors_from(&mut self, count: usize) -> Vec<Diagnostic> {
        self.errors.split_off(count.min(self.errors.len()))
    }

    /// Whether any error was added.
    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Returns the errors in the order of their positions in the file. `source` is the text of the
    /// file.
    pub(crate) fn into_errors(mut self, path: &Path, source: &str) -> ConfigErrors {
        self.errors.sort_by_key(start);
        let redaction = Redaction::of(source);
        let errors = self.errors.into_iter();
        ConfigErrors {
            what: CONFIGURATION,
            path: path.to_owned(),
            errors: errors.map(|error| error.redacted(&redaction)).collect(),
            source: without_hazards(&redaction.into_shown()),
        }
    }

    /// Returns the warnings in the order of their positions in the file, one line for each.
    pub(crate) fn warnings(&mut self, path: &Path, source: &str) -> Vec<String> {
        self.warnings.sort_by_key(start);
        self.warnings
            .iter()
            .map(|warning| warning.one_line(path, source))
            .collect()
    }
}

/// Returns the byte position by which diagnostics are sorted. Diagnostics about the whole file come
/// last.
fn start(diagnostic: &Diagnostic) -> usize {
    diagnostic
        .place
        .as_ref()
        .map_or(usize::MAX, |place| place.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(source: &str, error: Diagnostic) -> ConfigErrors {
        let mut diagnostics = Diagnostics::default();
        diagnostics.error(error);
        diagnostics.into_errors(Path::new("a.toml"), source)
    }

    #[test]
    fn shows_file_line_caret_and_remedy() {
        let error = Diagnostic::new(6..9, "this is wrong")
            .label("here")
            .help("write 12");
        let text = errors("first\nabc = 1\n", error).to_string();
        for part in [
            "error: this is wrong",
            "a.toml:2:1",
            "abc = 1",
            "^^^ here",
            "help: write 12",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn colours_only_on_demand() {
        let error = Diagnostic::new(0..1, "this is wrong");
        assert!(errors("abc", error).render(true).contains('\u{1b}'));
    }

    #[test]
    fn the_source_is_shown_without_hazards_and_with_its_positions() {
        let evil = "a\u{7f}\u{1b}\r\u{9b}\u{202e}\u{e0041}b\r\n\té";
        let shown = without_hazards(evil);
        assert_eq!(shown, "a???\u{bf}\u{fffd}\u{fffd}?b\r\n\té");
        assert_eq!(shown.len(), evil.len());
        let at = evil.find('b').unwrap();
        let coloured = errors(evil, Diagnostic::new(at..at + 1, "bad\u{9b}")).render(true);
        let text = coloured.replace("\u{1b}[", "");
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }

    #[test]
    fn places_beyond_the_end_or_inside_a_character_do_no_harm() {
        for place in [0..100, 50..60, 1..2, 4..4] {
            let error = Diagnostic::new(place, "x").also(70..80, "y");
            assert!(errors("é = ü", error).to_string().contains("a.toml"));
        }
        assert!(
            errors("", Diagnostic::new(0..0, "x"))
                .to_string()
                .contains("a.toml:1")
        );
    }

    #[test]
    fn records_count_lines_and_characters_from_one() {
        let record = errors("a\nü = 1", Diagnostic::new(5..6, "x")).records();
        assert_eq!(
            record.first().map(|r| (r.line, r.column)),
            Some((Some(2), Some(3)))
        );
    }

    #[test]
    fn warnings_are_one_line_each() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.warn(Diagnostic::new(2..3, "second"));
        diagnostics.warn(Diagnostic::new(0..1, "first").help("mend it"));
        assert_eq!(
            diagnostics.warnings(Path::new("a.toml"), "a\nb"),
            ["a.toml:1: first; mend it", "a.toml:2: second"]
        );
    }
}
