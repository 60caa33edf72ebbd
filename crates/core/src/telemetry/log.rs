//! Logs messages to standard error: lines of text for people, or JSON documents for programs.

use std::borrow::Cow;
use std::env::VarError;
use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::identity::text::{printable_json, printable_lines};

/// The environment variable that selects messages.
const VARIABLE: &str = "COUNTERSIGN_LOG";

/// Options that determine which messages are logged, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// The default level. It applies to modules for which `COUNTERSIGN_LOG` sets no level.
    level: LevelFilter,
    json: bool,
    quiet: bool,
}

impl LogOptions {
    /// Logs messages of the levels `info`, `warn` and `error`.
    pub const INFORMATIVE: Self = Self::at(LevelFilter::INFO);
    /// Logs warnings and errors.
    pub const WARNINGS: Self = Self::at(LevelFilter::WARN);

    const fn at(level: LevelFilter) -> Self {
        Self {
            level,
            json: false,
            quiet: false,
        }
    }

    /// Sets whether each message is logged as a JSON document on one line, instead of text.
    #[must_use]
    pub const fn json(mut self, json: bool) -> Self {
        self.json = json;
        self
    }

    /// Sets whether only errors are logged. `COUNTERSIGN_LOG` cannot select further messages then.
    #[must_use]
    pub const fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }
}

/// The error for an invalid value of `COUNTERSIGN_LOG`. Contains the invalid part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "COUNTERSIGN_LOG selects no messages by {0:?}: use one of the levels off, error, warn, info, \
     debug and trace, or levels of parts of the program, such as info,h2=debug"
)]
pub struct LogFilterError(String);

/// Starts logging to standard error. `COUNTERSIGN_LOG` selects the messages. Its value is a list,
/// separated by commas. Each part is a level, or has the form `TARGET=LEVEL`, where the target is
/// the path of a module.
///
/// # Errors
/// Returns an error if the value of `COUNTERSIGN_LOG` has another form.
pub fn start(options: LogOptions) -> Result<(), LogFilterError> {
    let value = match std::env::var(VARIABLE) {
        Ok(value) => value,
        Err(VarError::NotPresent) => String::new(),
        Err(VarError::NotUnicode(value)) => {
            return Err(LogFilterError(value.to_string_lossy().into_owned()));
        }
    };
    let filter = filter(&value, options.level)?;
    let layer = if options.json {
        json_layer(std::io::stderr)
    } else {
        let is_terminal = std::io::stderr().is_terminal();
        let format = Format::default().with_target(false);
        tracing_subscriber::fmt::layer::<Registry>()
            .with_writer(std::io::stderr)
            .with_ansi(is_terminal)
            .event_format(EachLine(format.with_ansi(is_terminal)))
            .boxed()
    };
    let most = match options.quiet {
        true => LevelFilter::ERROR,
        false => LevelFilter::TRACE,
    };
    // The result is ignored, because a test may have started logging before.
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .with(most)
        .try_init();
    Ok(())
}

/// Returns the layer that writes each message as a JSON document on one line.
fn json_layer<W>(writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer::<Registry>()
        .with_target(false)
        .with_writer(writer)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .map_event_format(PrintableJson)
        .boxed()
}

/// Parses a filter. The levels are checked here, because `EnvFilter` would treat a misspelt level
/// as the name of a module. It would then log only messages of this module.
fn filter(value: &str, default: LevelFilter) -> Result<EnvFilter, LogFilterError> {
    let parts = value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    // The first directive is the default level. It applies to all modules that no other directive
    // names.
    let mut directives = default.to_string();
    for part in parts {
        let (target, level) = match part.rsplit_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, part),
        };
        let is_level = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        if !is_level || !target.is_none_or(is_target) {
            return Err(LogFilterError(part.to_owned()));
        }
        directives.push(',');
        directives.push_str(part);
    }
    EnvFilter::builder()
        .parse(directives)
        .map_err(|_| LogFilterError(value.to_owned()))
}

/// Returns whether a text has the form of a module path.
fn is_target(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
    !text.is_empty() && text.bytes().all(allowed)
}

/// Formats messages that have several lines, for example errors of a configuration. Repeats time
/// and level on each line, because programs that read single lines need the level of each line.
struct EachLine(Format<Full>);

impl<S, N> FormatEvent<S, N> for EachLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        // The formatter itself escapes ESC and other control characters in values. ESC is left for
        // its colours.
        let pieces: Vec<_> = text.split('\x1b').map(printable_lines).collect();
        let text = pieces.join("\x1b");
        writer.write_str(&with_prefix(&text, event.metadata().level().as_str()))
    }
}

/// Formats messages as JSON documents that contain no characters which control a terminal or change
/// the direction of text.
struct PrintableJson<F>(F);

impl<S, N, F> FormatEvent<S, N> for PrintableJson<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        writer.write_str(&printable_json(&text))
    }
}

/// Inserts the time and the level of the first line at the beginning of all other lines.
fn with_prefix<'a>(text: &'a str, level: &str) -> Cow<'a, str> {
    /// The escape sequence that ends the colour of the level on a terminal.
    const RESET: &str = "\x1b[0m";

    let message = text.trim_end_matches('\n');
    let Some((time, rest)) = message.split_once(level) else {
        return Cow::Borrowed(text);
    };
    if !message.contains('\n') {
        return Cow::Borrowed(text);
    }
    let reset = if rest.starts_with(RESET) { RESET } else { "" };
    let mut lines = message.lines();
    let mut all = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        all.push_str(&format!("\n{time}{level}{reset} {line}"));
    }
    all.push('\n');
    Cow::Owned(all)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::identity::text::is_printable;

    #[test]
    fn a_filter_is_levels_and_nothing_else() {
        let read = |value: &str| {
            filter(value, LevelFilter::INFO).map(|filter| {
                let text = filter.to_string();
                let mut parts: Vec<_> = text.split(',').map(str::to_owned).collect();
                parts.sort();
                parts.join(",")
            })
        };
        for (value, expected) in [
            ("", "info"),
            ("debug", "debug"),
            ("WARN", "warn"),
            (" error ,", "error"),
            ("h2=debug", "h2=debug,info"),
            (
                "warn,countersign::proxy=trace",
                "countersign::proxy=trace,warn",
            ),
        ] {
            assert_eq!(read(value).as_deref(), Ok(expected), "{value:?}");
        }
        for value in [
            "typo",
            "inof",
            "info,typo",
            "h2",
            "h2=",
            "=info",
            "h2=loud",
            "[span]=info",
            "info;h2=debug",
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains("off, error, warn, info, debug and trace"));
        }
    }

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_documents_contain_no_control_characters() {
        let output = Output::default();
        let writer = output.clone();
        let layer = json_layer(move || writer.clone());
        let evil = "\u{1b}[2J\u{7f}\u{85}\u{9b}31m\u{202e}\u{2066}\u{200b}é";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(name = evil, error = ?evil, "message {evil}");
            tracing::warn!("next");
        });
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text:?}");
        assert!(lines.iter().all(|line| is_printable(line)), "{text:?}");
        let read: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(read["name"], evil);
        assert_eq!(read["message"], format!("message {evil}"));
    }

    #[test]
    fn each_line_of_a_message_has_the_prefix() {
        for (text, expected) in [
            ("T INFO one\n", "T INFO one\n"),
            (
                "T INFO one\ntwo\n\n  three\n",
                "T INFO one\nT INFO two\nT INFO \nT INFO   three\n",
            ),
            (
                "T \x1b[31mINFO\x1b[0m one\ntwo\n",
                "T \x1b[31mINFO\x1b[0m one\nT \x1b[31mINFO\x1b[0m two\n",
            ),
        ] {
            assert_eq!(with_prefix(text, "INFO"), expected);
        }
    }
}
