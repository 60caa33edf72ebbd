//! Human-readable logs on standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. The variable `COUNTERSIGN_LOG` selects the messages, in the
/// syntax of `tracing-subscriber`'s `EnvFilter`. The default is `info`.
pub fn start() {
    start_at("info");
}

/// Same as [`start`], but the default is `warn`.
pub fn start_quietly() {
    start_at("warn");
}

fn start_at(default: &str) {
    let filter =
        EnvFilter::try_from_env("COUNTERSIGN_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .try_init();
}
