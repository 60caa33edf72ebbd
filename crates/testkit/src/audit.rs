//! The audit file of a gateway under test.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::in_time;

/// Reads the audit log of one gateway.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns all lines that the gateway has written so far. A line without its line end is
    /// left out, because the gateway may still be writing it.
    ///
    /// # Panics
    /// If a line is not JSON.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        complete
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("audit line is not JSON: {error}: {line}"))
            })
            .collect()
    }

    /// Returns the whole file as text.
    #[must_use]
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// Returns the lines for which `matches` is true.
    #[must_use]
    pub fn matching(&self, matches: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.lines()
            .into_iter()
            .filter(|line| matches(line))
            .collect()
    }

    /// Returns the first line for which `matches` is true, and waits up to 5 seconds for it.
    /// Reads the file repeatedly, because another process writes it. `what` describes the line
    /// in the error message.
    ///
    /// # Panics
    /// If no line matches within 5 seconds. The message shows all lines.
    pub async fn line(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.at_least(1, what, matches).await.remove(0)
    }

    /// Returns the lines for which `matches` is true, and waits up to 5 seconds until there are
    /// `count` of them.
    ///
    /// # Panics
    /// If there are fewer matching lines after 5 seconds.
    pub async fn at_least(
        &self,
        count: usize,
        what: &str,
        matches: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let wait = async {
            loop {
                let found = self.matching(&matches);
                if found.len() >= count {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(5), wait).await {
            Ok(found) => found,
            Err(_) => panic!(
                "{count} audit lines expected ({what}), in the file:\n{}",
                self.text()
            ),
        }
    }

    /// Returns the audit line of a handshake that was refused with this reason. Waits for the
    /// line.
    pub async fn handshake(&self, reason: &str) -> Value {
        in_time(
            "an audit line",
            self.line(&format!("handshake {reason}"), |line| {
                line["event"] == "handshake" && line["reason"] == reason
            }),
        )
        .await
    }

    /// Returns the audit line of a request with this path. Waits for the line.
    pub async fn request(&self, path: &str) -> Value {
        in_time(
            "an audit line",
            self.line(&format!("request {path}"), |line| {
                line["event"] == "request" && line["path"] == path
            }),
        )
        .await
    }
}
