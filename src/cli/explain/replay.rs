//! `countersign explain --audit FILE --request-id ID`: repeats a past decision with the kept
//! certificate chain of the caller.

use std::path::Path;

use http::{Method, Uri};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::check::against::for_each_line;
use crate::cli::common::output::CliError;
use crate::config::Loaded;
use crate::identity::text::printable;
use crate::telemetry::chains::{self, ChainId};

/// The members of an audit line that are needed to repeat its decision.
#[derive(Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    connection_id: Option<String>,
    #[serde(default)]
    sni: Option<String>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    chain: Option<String>,
}

/// A past decision that can be repeated.
pub(super) struct Past {
    /// The complete audit line.
    pub(super) line: Value,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The URL of the request. For a refused handshake, it contains only the host.
    pub(super) url: Option<Uri>,
    pub(super) method: Method,
    /// Whether the line is about a request. If false, it is about a refused handshake.
    pub(super) is_request: bool,
}

/// Finds a decision by its request id. If the handshake was refused, finds it by its connection id.
pub(super) fn find(log: &Path, id: &str, loaded: &Loaded) -> Result<Past, CliError> {
    let Some(directory) = &loaded.settings.audit_chains else {
        return Err(CliError::usage(
            "the configuration keeps no chains, so that no past decision can be replayed; set \
             [audit] chains = \"DIR\"",
        ));
    };
    let mut found: Option<(Line, Value)> = None;
    for_each_line(log, |text| {
        let Ok(line) = serde_json::from_slice::<Line>(text) else {
            return;
        };
        let is_it = match line.event.as_str() {
            "request" => line.request_id.as_deref() == Some(id),
            "handshake" => line.connection_id.as_deref() == Some(id),
            _ => false,
        };
        if is_it && let Ok(whole) = serde_json::from_slice(text) {
            found = Some((line, whole));
        }
    })?;
    let Some((line, whole)) = found else {
        return Err(CliError::usage(format!(
            "{}: there is no request {}, and no refused handshake of a connection of that id",
            log.display(),
            printable(id)
        )));
    };
    let Some(chain) = line.chain.as_deref().and_then(ChainId::parse) else {
        return Err(CliError::usage(format!(
            "{}: no chain was kept of {}: its caller had none, or [audit] chains was not set",
            log.display(),
            printable(id)
        )));
    };
    let kept = chains::read(directory, &chain).map_err(|error| {
        CliError::usage(format!(
            "{}: the chain of {} is not kept any longer: {error}",
            directory.display(),
            printable(id)
        ))
    })?;
    let is_request = line.event == "request";
    let host = match is_request {
        true => line.host.or(line.sni),
        false => line.sni,
    };
    let url = host.and_then(|host| {
        let path = line.path.as_deref().filter(|path| path.starts_with('/'));
        let uri = format!("https://{host}{}", path.unwrap_or("/"));
        uri.parse().ok()
    });
    Ok(Past {
        line: whole,
        chain: kept.chain,
        url,
        method: line
            .method
            .and_then(|method| method.parse().ok())
            .unwrap_or(Method::GET),
        is_request,
    })
}

/// Describes the decision that an audit line records.
pub(super) fn verdict(line: &Value) -> String {
    let word = |key: &str| line.get(key).and_then(Value::as_str).map(printable);
    let decision = word("decision").unwrap_or_default();
    let time = word("time").unwrap_or_default();
    match (word("reason"), word("detail")) {
        (Some(reason), Some(detail)) => format!("At {time}: {decision}, {reason}: {detail}"),
        (Some(reason), None) => format!("At {time}: {decision}, {reason}"),
        _ => format!("At {time}: {decision}"),
    }
}
