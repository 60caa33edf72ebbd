//! The audit file of a gateway under test.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::in_time;

/// Reads the audit lines of one gateway.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// All complete lines so far.
    ///
    /// # Panics
    /// When a line is not JSON.
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

    /// The whole file.
    #[must_use]
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// The lines that match.
    #[must_use]
    pub fn matching(&self, matches: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.lines()
            .into_iter()
            .filter(|line| matches(line))
            .collect()
    }

    /// Waits for a line that matches; the writer is another process, so the
    /// file has to be looked at again and again.
    ///
    /// # Panics
    /// When none appears in time; the message shows the lines there are.
    pub async fn line(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.at_least(1, what, matches).await.remove(0)
    }

    /// Waits for this many matching lines.
    ///
    /// # Panics
    /// When they do not appear in time.
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

    /// Waits for the line of a refused handshake with this reason.
    pub async fn handshake(&self, reason: &str) -> Value {
        in_time(
            "an audit line",
            self.line(&format!("handshake {reason}"), |line| {
                line["event"] == "handshake" && line["reason"] == reason
            }),
        )
        .await
    }

    /// Waits for the line of a request with this path.
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
