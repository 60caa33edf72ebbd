//! `pki revoke --wait`: asks gateways until a new CRL is in effect at each of them. Reports how
//! many connections were closed, and after what time.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::cli::common::admin_client::{AdminEndpoint, Credential, exchange};
use crate::cli::common::output::{CliError, Output};
use crate::identity::text::printable;
use crate::pki::SignedCrl;

/// The interval between two requests to a gateway.
const LOOK: Duration = Duration::from_millis(50);
/// Maximum time after a gateway has loaded a CRL until it has closed the connections that the CRL
/// forbids.
const PROMISE: Duration = Duration::from_secs(1);
/// Maximum time until a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The gateways to wait for, with their state before the revocation.
pub(super) struct Watch {
    runtime: tokio::runtime::Runtime,
    gateways: Vec<Gateway>,
}

struct Gateway {
    endpoint: AdminEndpoint,
    /// Number of connections that the gateway had closed because of revocations before this one.
    /// `None` if the gateway did not respond.
    before: Option<u64>,
}

/// The outcome at one gateway.
#[derive(Debug, Serialize)]
pub(super) struct Obeyed {
    gateway: String,
    /// Whether the CRLs are in service at the gateway.
    pub(super) in_service: bool,
    /// Time from the publication of the CRLs until the gateway had loaded them, in milliseconds.
    in_service_after_ms: Option<u64>,
    /// Number of connections that were closed because their certificate is revoked.
    connections_closed: Option<u64>,
    /// Time from loading the CRLs until the last connection with a revoked certificate was closed,
    /// in milliseconds.
    closed_within_ms: Option<u64>,
    /// The reason why the outcome is unknown.
    error: Option<String>,
    /// The gateway's problems with files that do not take effect, with commands that help.
    problems: Vec<String>,
}

impl Watch {
    /// Asks the gateways for their state before the revocation. If a gateway does not respond,
    /// prints a note and continues.
    pub(super) fn begin(
        places: &[String],
        credential: Option<Credential<'_>>,
        output: Output,
    ) -> Result<Option<Self>, CliError> {
        if places.is_empty() {
            return Ok(None);
        }
        let endpoints = places
            .iter()
            .map(|place| AdminEndpoint::parse(place, credential))
            .collect::<Result<Vec<_>, _>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CliError::failed)?;
        let mut gateways = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let before = match runtime.block_on(ask(&endpoint)) {
                Ok(said) => cut_so_far(&said),
                Err(error) => {
                    output.note(format_args!("note: {error}"));
                    None
                }
            };
            gateways.push(Gateway { endpoint, before });
        }
        Ok(Some(Self { runtime, gateways }))
    }

    /// Waits until every gateway has loaded these CRLs and has closed the connections that they
    /// forbid.
    pub(super) fn finish(self, lists: &[SignedCrl], timeout: Duration) -> Vec<Obeyed> {
        let published = Instant::now();
        self.runtime.block_on(async {
            let watched: Vec<_> = self
                .gateways
                .into_iter()
                .map(|gateway| {
                    let lists = lists.to_vec();
                    tokio::spawn(async move { gateway.obeys(&lists, published, timeout).await })
                })
                .collect();
            let mut obeyed = Vec::with_capacity(watched.len());
            for gateway in watched {
                obeyed.extend(gateway.await);
            }
            obeyed
        })
    }
}

impl Gateway {
    async fn obeys(&self, lists: &[SignedCrl], published: Instant, timeout: Duration) -> Obeyed {
        let mut obeyed = Obeyed {
            gateway: self.endpoint.to_string(),
            in_service: false,
            in_service_after_ms: None,
            connections_closed: None,
            closed_within_ms: None,
            error: None,
            problems: Vec::new(),
        };
        // First waits until the gateway has loaded the CRLs.
        loop {
            let answer = ask(&self.endpoint).await;
            if let Ok(said) = &answer {
                obeyed.problems = problems(said);
            }
            let missing = match answer {
                Ok(said) => lists.iter().find(|list| !has(&said, list)).map(|list| {
                    format!(
                        "it does not have list {} of {}; do its `crls` name {}?",
                        list.number,
                        list.issuer,
                        list.path.display()
                    )
                }),
                Err(error) => Some(error),
            };
            let Some(missing) = missing else { break };
            if published.elapsed() >= timeout {
                obeyed.error = Some(missing);
                return obeyed;
            }
            tokio::time::sleep(LOOK).await;
        }
        obeyed.in_service = true;
        obeyed.in_service_after_ms = Some(milliseconds(published.elapsed()));
        // Then waits until the gateway has closed connections, which may take a second.
        tokio::time::sleep(PROMISE).await;
        match ask(&self.endpoint).await {
            Ok(said) => {
                let closed = cut_so_far(&said)
                    .zip(self.before)
                    .map(|(now, before)| now.saturating_sub(before));
                obeyed.connections_closed = closed;
                if closed.is_some_and(|closed| closed > 0) {
                    obeyed.closed_within_ms = number(&said, "/connections_cut/last_ms")
                        .zip(number(&said, "/in_service_since_ms"))
                        .map(|(last, since)| last.saturating_sub(since));
                }
            }
            Err(error) => obeyed.error = Some(error),
        }
        obeyed
    }
}

/// Formats the outcome on one line, followed by the problems.
impl std::fmt::Display for Obeyed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = printable(&self.gateway);
        if let Some(after) = self.in_service_after_ms {
            let _ = write!(line, ": obeys after {after} ms");
        }
        match (self.connections_closed, self.closed_within_ms) {
            (Some(closed), Some(within)) => {
                let _ = write!(
                    line,
                    ", closed {closed} connections within {within} ms of that"
                );
            }
            (Some(_), None) => line.push_str(", and had no connection to close"),
            (None, _) => {}
        }
        if let Some(error) = &self.error {
            let _ = write!(line, ": {}", printable(error));
        }
        for problem in &self.problems {
            let _ = write!(line, "\n  {}", printable(problem));
        }
        formatter.write_str(&line)
    }
}

async fn ask(endpoint: &AdminEndpoint) -> Result<Value, String> {
    let answer = exchange(endpoint, Method::GET, "/revocation", None);
    match tokio::time::timeout(RESPONSE_TIMEOUT, answer).await {
        Ok(Ok((StatusCode::OK, said))) => Ok(said),
        Ok(Ok((status, _))) => Err(format!(
            "{endpoint}: answered {status}; is it the operators' listener ([admin]) of a gateway?"
        )),
        Ok(Err(error)) => Err(error.message),
        Err(_) => Err(format!(
            "{endpoint}: no answer within {} s",
            RESPONSE_TIMEOUT.as_secs()
        )),
    }
}

/// Whether a gateway has loaded this CRL, or a later CRL of the same issuer.
fn has(said: &Value, wanted: &SignedCrl) -> bool {
    let issuer = printable(&wanted.issuer);
    let domains = said.get("trust_domains").and_then(Value::as_array);
    domains
        .into_iter()
        .flatten()
        .filter_map(|domain| domain.get("lists")?.as_array())
        .flatten()
        .any(|list| {
            let text = |key| list.get(key).and_then(Value::as_str);
            text("issuer") == Some(&*issuer)
                && text("number")
                    .and_then(|number| u64::from_str_radix(number, 16).ok())
                    .is_some_and(|number| number >= wanted.number)
        })
}

/// Returns a gateway's problems with files that do not take effect.
fn problems(said: &Value) -> Vec<String> {
    let problems = said.get("problems").and_then(Value::as_array);
    let line = |problem: &Value| {
        let text = |key| problem.get(key).and_then(Value::as_str);
        let mut line = format!("{}: {}", text("code")?, text("detail")?);
        if let Some(command) = text("command") {
            let _ = write!(line, "; try: {command}");
        }
        Some(line)
    };
    problems.into_iter().flatten().filter_map(line).collect()
}

fn cut_so_far(said: &Value) -> Option<u64> {
    number(said, "/connections_cut/revoked")
}

fn number(said: &Value, pointer: &str) -> Option<u64> {
    said.pointer(pointer).and_then(Value::as_u64)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
