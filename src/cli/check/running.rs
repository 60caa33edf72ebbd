//! Asks the gateway that runs with the configuration, if there is one, which addresses it has.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::cli::common::admin_client::{AdminEndpoint, exchange_over};
use crate::config::{self, RunningGateway};

/// Maximum time until the gateway responds.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The result of asking the gateway that runs with the configuration.
pub(super) struct Found {
    pub(super) state: RunningGateway,
    pub(super) pid: Option<u64>,
}

impl Found {
    const fn of(state: RunningGateway) -> Self {
        Self { state, pid: None }
    }

    /// Returns the note that a gateway runs with this configuration.
    pub(super) fn note(&self) -> Option<String> {
        let RunningGateway::At(addresses) = &self.state else {
            return None;
        };
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let pid = self
            .pid
            .map_or_else(String::new, |pid| format!(", process {pid}"));
        Some(format!(
            "note: a gateway runs with this configuration{pid}, and listens on {}",
            addresses.join(", ")
        ))
    }
}

/// Requests the status of the gateway over the operators' socket that the configuration names.
pub(super) fn ask(config: &Path) -> Found {
    let Ok(socket) = config::admin_socket(config) else {
        return Found::of(RunningGateway::Unknown);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let asked = runtime.ok().and_then(|runtime| {
        // A gateway that hangs takes no connections, so connecting has the same timeout.
        runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask_over(socket)).await.ok() })
    });
    asked.unwrap_or(Found::of(RunningGateway::Unknown))
}

async fn ask_over(socket: PathBuf) -> Found {
    let stream = match UnixStream::connect(&socket).await {
        Ok(stream) => stream,
        Err(error) => {
            return Found::of(match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => RunningGateway::None,
                _ => RunningGateway::Unknown,
            });
        }
    };
    let endpoint = AdminEndpoint::Socket(socket);
    match exchange_over(&endpoint, stream, (Method::GET, "/status", None)).await {
        Ok((StatusCode::OK, said)) => Found {
            state: RunningGateway::At(addresses(&said)),
            pid: said.get("pid").and_then(Value::as_u64),
        },
        _ => Found::of(RunningGateway::Unknown),
    }
}

fn addresses(said: &Value) -> Vec<std::net::SocketAddr> {
    let within = |name: &str| said.get("addresses")?.get(name)?.as_str()?.parse().ok();
    ["listener", "public", "admin"]
        .into_iter()
        .filter_map(within)
        .collect()
}
