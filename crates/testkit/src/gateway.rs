//! Starts, observes and stops the gateway binary.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::audit::AuditLog;
use crate::client::Client;
use crate::in_time;
use crate::settings::Settings;

/// The error if the gateway process ended before it was ready.
#[derive(Debug)]
pub struct StartFailure {
    /// The exit status of the process.
    pub status: ExitStatus,
    /// The text that the process wrote to standard error.
    pub stderr: String,
}

impl fmt::Display for StartFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the gateway ended with {}:\n{}",
            self.status, self.stderr
        )
    }
}

impl std::error::Error for StartFailure {}

/// A running gateway. Dropping this value kills the process.
pub struct Gateway {
    child: Child,
    directory: TempDir,
    listener: SocketAddr,
    public: SocketAddr,
    admin: SocketAddr,
    stderr: Arc<Mutex<String>>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Gateway")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts `binary` with this configuration and waits until it is ready.
    ///
    /// # Panics
    /// If the gateway does not start.
    pub async fn start(binary: &str, settings: &Settings) -> Self {
        match Self::try_start(binary, settings).await {
            Ok(gateway) => gateway,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// Starts `binary` with this configuration, and waits until the process is ready or has
    /// ended.
    ///
    /// # Errors
    /// If the process ends before it is ready.
    ///
    /// # Panics
    /// If the process neither is ready nor ends before the deadline, or if no signing key can
    /// be made.
    pub async fn try_start(binary: &str, settings: &Settings) -> Result<Self, StartFailure> {
        let directory = TempDir::with_prefix("countersign-gateway-").expect("a directory");
        let at = |name: &str| directory.path().join(name);
        generate_keys(binary, &at("signing"), settings.signing_algorithm()).await;
        let config = at("countersign.toml");
        std::fs::write(&config, settings.render(directory.path())).expect("a configuration");
        let ready = at("ready.json");
        let mut command = Command::new(binary);
        command
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--ready-file")
            .arg(&ready)
            .args(settings.further_arguments())
            .current_dir(directory.path())
            .env_remove("COUNTERSIGN_CONFIG")
            .env_remove("COUNTERSIGN_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(filter) = settings.log_filter() {
            command.env("COUNTERSIGN_LOG", filter);
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{binary}: {error}"));
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = child.stderr.take().expect("standard error is piped");
        let reader = tokio::spawn(copy_lines(lines, Arc::clone(&stderr)));

        let outcome = in_time("the gateway's start", async {
            loop {
                if let Ok(text) = std::fs::read_to_string(&ready) {
                    return Ok(serde_json::from_str::<Value>(&text).expect("the ready file"));
                }
                if let Some(status) = child.try_wait().expect("the process's state") {
                    return Err(status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let addresses = match outcome {
            Ok(addresses) => addresses,
            Err(status) => {
                let _ = reader.await;
                let stderr = stderr.lock().expect("a lock").clone();
                return Err(StartFailure { status, stderr });
            }
        };
        let address = |name: &str| {
            addresses[name]
                .as_str()
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| panic!("no {name} address in {addresses}"))
        };
        Ok(Self {
            child,
            listener: address("listener"),
            public: address("public"),
            admin: address("admin"),
            directory,
            stderr,
        })
    }

    /// Returns the address to which callers connect.
    #[must_use]
    pub const fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// Returns the address of the public listener, which serves the key set and the health
    /// checks.
    #[must_use]
    pub const fn public(&self) -> SocketAddr {
        self.public
    }

    /// Returns the address of the admin listener, which operators use.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the process id.
    ///
    /// # Panics
    /// If the process has ended, and [`Gateway::ended`] or [`Gateway::is_running`] has noticed
    /// it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("a running process")
    }

    /// Returns a client that sends requests for `host` to the gateway. The client has no
    /// certificate.
    #[must_use]
    pub fn client(&self, host: &str) -> Client {
        Client::new(self.listener, host)
    }

    /// Returns the gateway's directory, with configuration, keys and audit log.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path of the configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory().join("countersign.toml")
    }

    /// Returns the audit log.
    #[must_use]
    pub fn audit(&self) -> AuditLog {
        AuditLog::new(self.directory().join("audit.jsonl"))
    }

    /// Returns the text that the process has written to standard error since its start.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("a lock").clone()
    }

    /// Sends the process SIGTERM, so that it shuts down. Does not wait for the end of the
    /// process.
    ///
    /// # Panics
    /// If the signal cannot be sent.
    pub async fn terminate(&self) {
        let pid = self.child.id().expect("a running process").to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(status.is_ok_and(|status| status.success()), "kill {pid}");
    }

    /// Waits until the process ends.
    ///
    /// # Panics
    /// If the process does not end before the deadline.
    pub async fn ended(&mut self) -> ExitStatus {
        in_time("the gateway's end", self.child.wait())
            .await
            .expect("the process's end")
    }

    /// Returns whether the process is still running.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns the key set (JSON) that the public listener serves.
    ///
    /// # Panics
    /// If the request for the key set fails.
    pub async fn jwks(&self) -> String {
        let answer = plain(self.public, "GET", "/.well-known/jwks.json", &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }
}

/// A response over HTTP without TLS.
#[derive(Debug, Clone)]
pub struct PlainAnswer {
    /// The status code.
    pub status: u16,
    /// The header fields, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl PlainAnswer {
    /// Returns the value of the first field with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// If the body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends one request over HTTP without TLS, for the public and admin listeners. `Host` is
/// `address`, unless `headers` contains another `Host`.
///
/// # Panics
/// If no response arrives.
pub async fn plain(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> PlainAnswer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let octets = in_time("a plain answer", async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head.as_bytes()).await?;
        let mut octets = Vec::new();
        stream.read_to_end(&mut octets).await?;
        std::io::Result::Ok(octets)
    })
    .await
    .unwrap_or_else(|error| panic!("{method} http://{address}{path}: {error}"));
    let text = String::from_utf8_lossy(&octets);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {head:?}"));
    PlainAnswer {
        status,
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}

async fn generate_keys(binary: &str, directory: &Path, algorithm: &str) {
    let output = Command::new(binary)
        .args(["keys", "generate", "--algorithm", algorithm, "--dir"])
        .arg(directory)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| panic!("{binary}: {error}"));
    assert!(
        output.status.success(),
        "keys generate: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn copy_lines(from: tokio::process::ChildStderr, to: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut text = to.lock().expect("a lock");
        text.push_str(&line);
        text.push('\n');
    }
}
