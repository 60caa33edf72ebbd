//! The audit log: one JSON line for each request and each failed handshake.
//!
//! An `AuditRecord` enqueues its line when it is dropped, so that a cancelled request has a line
//! too. Each worker has a buffer for its lines, and a writer thread writes the buffers to the log.
//! A request therefore never waits for a disk, or for a lock that another worker holds. Queries,
//! credentials and tokens are never recorded.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::audit_file::{is_same_file, open};
use super::audit_health::AuditHealth;
use crate::clock;

/// Time for which the writer thread collects lines before it writes them together.
const GATHER: Duration = Duration::from_millis(10);
/// Maximum size in bytes of a worker's buffer. Reached only if the writer thread cannot write.
const MAX_BUFFERED: usize = 16 * 1024 * 1024;

/// Maximum time for writing the lines that remain when the process ends.
const LAST_LINES: Duration = Duration::from_secs(5);

/// The pause after an attempt to write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Maximum number of bytes that an empty buffer keeps allocated.
const MAX_SPARE: usize = 256 * 1024;

/// Receives the audit lines of one worker.
#[derive(Debug, Clone)]
pub struct AuditSink {
    shard: Arc<Shard>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shard {
    buffer: Mutex<String>,
}

#[derive(Debug)]
struct Shared {
    pending: AtomicBool,
    stop: AtomicBool,
    health: Arc<AuditHealth>,
    writer: Thread,
}

/// Owns the thread that writes the audit log. When this value is dropped, the remaining lines are
/// written.
#[derive(Debug)]
pub struct AuditWriter {
    shared: Arc<Shared>,
    shards: Arc<Mutex<Vec<Arc<Shard>>>>,
    thread: Option<JoinHandle<()>>,
}

/// The destination of audit lines.
enum Output {
    Stdout,
    File { path: PathBuf, file: File },
}

impl AuditWriter {
    /// Creates a writer to standard output.
    ///
    /// # Errors
    /// Returns an error if no thread can be started.
    pub fn to_stdout() -> io::Result<Self> {
        Self::start(Output::Stdout)
    }

    /// Creates a writer that appends to a file. A new file gets the mode 0640. If the file is
    /// renamed or removed, the writer opens `path` again, so that log rotation needs no signal.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        // Standard output may be a pipe. Opening it by its path would create a second writing end
        // of the pipe.
        if path == Path::new("/dev/stdout") {
            return Self::to_stdout();
        }
        let file = open(path)?;
        Self::start(Output::File {
            path: path.to_owned(),
            file,
        })
    }

    fn start(mut output: Output) -> io::Result<Self> {
        let health = Arc::new(AuditHealth::of(match &output {
            Output::Stdout => None,
            Output::File { path, .. } => Some(path.clone()),
        }));
        let shards: Arc<Mutex<Vec<Arc<Shard>>>> = Arc::default();
        let (send, receive) = std::sync::mpsc::channel::<Arc<Shared>>();
        let mine = Arc::clone(&shards);
        let thread = thread::Builder::new().name("audit".into()).spawn(move || {
            if let Ok(shared) = receive.recv() {
                write_until_stopped(&shared, &mine, &mut output);
            }
        })?;
        let shared = Arc::new(Shared {
            pending: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            health,
            writer: thread.thread().clone(),
        });
        send.send(Arc::clone(&shared))
            .map_err(|_| io::Error::other("the audit writer did not start"))?;
        Ok(Self {
            shared,
            shards,
            thread: Some(thread),
        })
    }

    /// Returns whether lines can be written, and how many were.
    #[must_use]
    pub fn health(&self) -> &Arc<AuditHealth> {
        &self.shared.health
    }

    /// Creates a sink with its own buffer, for one worker.
    #[must_use]
    pub fn sink(&self) -> AuditSink {
        let shard = Arc::new(Shard::default());
        lock(&self.shards).push(Arc::clone(&shard));
        AuditSink {
            shard,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.writer.unpark();
        if let Some(thread) = self.thread.take() {
            // The wait has a timeout, because a pipe without a reader, or a disk that hangs, must
            // not prevent the process from ending.
            let began = Instant::now();
            while !thread.is_finished() && began.elapsed() < LAST_LINES {
                thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                let seconds = LAST_LINES.as_secs();
                tracing::error!(
                    "the audit log took no more lines within {seconds} s: the last ones are lost"
                );
            }
        }
    }
}

impl AuditSink {
    /// Enqueues one line.
    pub fn write(&self, line: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(line) {
            self.append(|buffer| buffer.push_str(&line));
        }
    }

    /// Enqueues one line. `line` must append the text of the line to the string that it gets,
    /// without a line break.
    pub(super) fn append(&self, line: impl FnOnce(&mut String)) {
        let mut buffer = lock(&self.shard.buffer);
        if buffer.len() > MAX_BUFFERED {
            drop(buffer);
            self.shared.health.record_lost(1);
            return;
        }
        line(&mut buffer);
        buffer.push('\n');
        drop(buffer);
        if !self.shared.pending.swap(true, Ordering::AcqRel) {
            self.shared.writer.unpark();
        }
    }
}

/// Locks a buffer. Ignores poisoning, because after a panic the buffer contains at most one
/// incomplete line.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_until_stopped(shared: &Shared, shards: &Mutex<Vec<Arc<Shard>>>, output: &mut Output) {
    let mut lines = PendingLines::default();
    // An empty string that the writer thread swaps with a worker's buffer, so that both strings
    // keep their allocated memory.
    let mut spare = String::new();
    loop {
        let stopping = shared.stop.load(Ordering::SeqCst);
        if !stopping && !shared.pending.load(Ordering::Acquire) {
            thread::park();
            continue;
        }
        if !stopping {
            thread::park_timeout(GATHER);
        }
        shared.pending.store(false, Ordering::Release);
        for shard in lock(shards).iter() {
            std::mem::swap(&mut *lock(&shard.buffer), &mut spare);
            lines.batch.bytes.extend_from_slice(spare.as_bytes());
            spare.clear();
            spare.shrink_to(MAX_SPARE);
        }
        if !lines.write_all(&shared.health, |batch| output.write(batch)) && !stopping {
            // The lines that were not written stay in `lines`. Another attempt to write them
            // follows after a pause.
            thread::park_timeout(RETRY);
            shared.pending.store(true, Ordering::Release);
            continue;
        }
        if stopping {
            return;
        }
    }
}

/// The lines that the writer thread has to write.
#[derive(Debug, Default)]
struct PendingLines {
    batch: Batch,
    /// A line of the type `gap` that was written in part. Otherwise empty.
    gap: Batch,
    /// Number of lost lines that the line in `gap` reports.
    reported: u64,
}

impl PendingLines {
    /// Writes the batch, followed by a line with the number of lines that were lost earlier. `write`
    /// writes a batch to the log. Returns whether everything was written.
    fn write_all(
        &mut self,
        health: &AuditHealth,
        mut write: impl FnMut(&mut Batch) -> io::Result<()>,
    ) -> bool {
        // The rest of an incomplete line has to follow its beginning at once.
        let is_complete = self.gap.is_empty() || self.write_gap(health, &mut write);
        // An empty batch says nothing about the log. Only after a failure that left no line is it
        // used to try the log again.
        let has_work = !self.batch.is_empty() || (health.has_failure() && health.unreported() == 0);
        if !is_complete || (has_work && record(health, &mut self.batch, &mut write).is_err()) {
            if self.batch.bytes.len() > MAX_BUFFERED {
                health.record_lost(self.batch.drop_unwritten());
            }
            return false;
        }
        let lost = health.unreported();
        if lost == 0 {
            return true;
        }
        let gap = Gap {
            time: timestamp(clock::since_epoch()),
            event: "gap",
            lost,
        };
        if let Ok(line) = serde_json::to_string(&gap) {
            self.gap.bytes.extend_from_slice(line.as_bytes());
            self.gap.bytes.push(b'\n');
            self.reported = lost;
        }
        self.write_gap(health, &mut write)
    }

    /// Writes the line in `gap`. The lost lines count as reported only when the whole line is in
    /// the log.
    fn write_gap(
        &mut self,
        health: &AuditHealth,
        write: &mut impl FnMut(&mut Batch) -> io::Result<()>,
    ) -> bool {
        let is_written = record(health, &mut self.gap, write).is_ok();
        if self.gap.is_empty() {
            health.record_reported(std::mem::take(&mut self.reported));
        } else if self.gap.written == 0 {
            // The next attempt writes a new line, because more lines may be lost until then.
            self.gap.bytes.clear();
            self.reported = 0;
        }
        is_written
    }
}

/// Writes a batch, and records the outcome and the number of written lines.
fn record(
    health: &AuditHealth,
    batch: &mut Batch,
    write: &mut impl FnMut(&mut Batch) -> io::Result<()>,
) -> io::Result<()> {
    health.writing(|| {
        let before = batch.line_count();
        let outcome = write(batch);
        (before.saturating_sub(batch.line_count()), outcome)
    })
}

/// Lines that are being written to the log. After an error, writing continues at the first byte
/// that was not written.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Number of bytes at the start of `bytes` that were already written.
    written: usize,
}

impl Batch {
    const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes all bytes. After an error, keeps the lines that were not written completely.
    fn write_to(&mut self, writer: &mut impl Write) -> io::Result<()> {
        loop {
            let rest = self.bytes.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                self.bytes.clear();
                self.written = 0;
                return writer.flush();
            }
            match writer.write(rest) {
                Ok(0) => {
                    self.drop_written_lines();
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.drop_written_lines();
                    return Err(error);
                }
            }
        }
    }

    /// Removes lines that were written completely. Keeps the whole of a line that was written in
    /// part, because the writer may open another file, which needs the complete line.
    fn drop_written_lines(&mut self) {
        let written = self.bytes.get(..self.written).unwrap_or_default();
        let lines = written
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        self.bytes.drain(..lines);
        self.written -= lines;
    }

    /// Returns the number of lines that were not written completely.
    fn line_count(&self) -> u64 {
        let rest = self.bytes.get(self.written..).unwrap_or_default();
        let count = rest.iter().filter(|byte| **byte == b'\n').count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Discards all lines that were not written, and returns their number. If a line was written in
    /// part, keeps the rest of this line.
    fn drop_unwritten(&mut self) -> u64 {
        let before = self.line_count();
        let rest = self.bytes.get(self.written..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n');
        match end {
            Some(end) if self.written > 0 => self.bytes.truncate(self.written + end + 1),
            _ => self.bytes.clear(),
        }
        self.written = self.written.min(self.bytes.len());
        before.saturating_sub(self.line_count())
    }
}

impl Output {
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        match self {
            Self::Stdout => batch.write_to(&mut io::stdout().lock()),
            Self::File { path, file } => {
                if !is_same_file(path, file) {
                    *file = open(path)?;
                    batch.written = 0;
                }
                batch.write_to(file)
            }
        }
    }
}

/// Appends the text that [`timestamp`] returns, in quotation marks. Each thread keeps the formatted
/// text of the last second, and formats the time again only when the second changes.
pub(super) fn push_timestamp(line: &mut String, since_epoch: Duration) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since_epoch.as_secs() || text.is_empty() {
            *second = since_epoch.as_secs();
            *text = timestamp(Duration::from_secs(*second));
        }
        // The text before the milliseconds, including the dot.
        let whole = text.get(..text.len().saturating_sub(4)).unwrap_or_default();
        line.push('"');
        line.push_str(whole);
        push_three_digits(line, since_epoch.subsec_millis());
        line.push_str("Z\"");
    });
}

/// Appends the last three decimal digits of a number.
pub(super) fn push_three_digits(line: &mut String, number: u32) {
    for place in [100, 10, 1] {
        line.push(char::from_digit(number / place % 10, 10).unwrap_or('0'));
    }
}

/// The facts about a caller that are known when a line is written.
#[derive(Debug, Default, Serialize)]
pub struct AuditCaller {
    /// The caller's name. Absent if no name was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The trust domain of the caller's identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The serial number of the leaf certificate, in lower-case hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The SHA-256 hash of the leaf certificate (`x5t#S256`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbprint: Option<String>,
}

/// The audit line that reports lost lines. Lines are lost if the log cannot be written for a long
/// time.
#[derive(Debug, Serialize)]
struct Gap {
    time: String,
    event: &'static str,
    lost: u64,
}

/// The audit line of a failed handshake.
#[derive(Debug, Serialize)]
pub struct HandshakeFailure<'a> {
    /// When the handshake failed, in RFC 3339 format with milliseconds.
    pub time: String,
    /// Always `handshake`.
    pub event: &'static str,
    /// Always `refused`.
    pub decision: &'static str,
    /// The identifier of the connection.
    pub connection_id: &'a str,
    /// The address and port of the peer.
    pub peer: String,
    /// The address of the load balancer that sent the peer's address. Absent if the peer connected
    /// directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The TLS server name of the handshake.
    pub sni: Option<String>,
    /// The reason code.
    pub reason: &'static str,
    /// The details of the reason.
    pub detail: String,
    /// The name of the TLS alert that was sent, if any.
    pub alert: Option<&'static str>,
    /// The subject of the presented leaf certificate (RFC 4514).
    pub subject: Option<String>,
    /// The names in the leaf certificate.
    pub sans: Option<String>,
    /// The serial number of the leaf certificate, in lower-case hexadecimal.
    pub serial: Option<String>,
    /// The issuer of the leaf certificate (RFC 4514).
    pub issuer: Option<String>,
    /// The SHA-256 hash of the leaf certificate (`x5t#S256`).
    pub thumbprint: Option<String>,
    /// Whether the peer has proven possession of the leaf's private key.
    pub possession_proven: bool,
    /// Whether the handshake resumed an earlier TLS session whose chain is no longer valid.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// The identifier of the presented chain, if chains are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Arc<str>>,
    /// The time since the connection was accepted, in milliseconds.
    pub duration_ms: f64,
}

/// Formats a time in RFC 3339, in UTC and with milliseconds.
#[must_use]
pub fn timestamp(since_epoch: Duration) -> String {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let whole = clock::rfc3339(seconds);
    match whole.strip_suffix('Z') {
        Some(without_zone) => format!("{without_zone}.{:03}Z", since_epoch.subsec_millis()),
        None => whole,
    }
}

#[cfg(test)]
mod tests;
