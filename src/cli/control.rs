//! `countersign status`, `reload` and `drain`: a running gateway, through its
//! private socket, or from afar with an operator's certificate.
//!
//! One HTTP request each. What is done is the gateway's business; this file asks
//! and prints.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::{Method, StatusCode};
use serde_json::Value;

use super::door::{Credential, Door, exchange};
use super::{CliError, Exit, Output};
use crate::config;
use crate::identity::text::printable_within;

/// How long an answer may take: a reload may have much to read.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the gateway is.
#[derive(Debug, Args)]
pub(super) struct At {
    /// The gateway's configuration file [default: $COUNTERSIGN_CONFIG,
    /// ./countersign.toml, /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "admin"])]
    config: Option<PathBuf>,
    /// The gateway's socket [default: what [admin] in the configuration says]
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    socket: Option<PathBuf>,
    /// Its [admin] listener instead, https://HOST:PORT, for an operator's certificate
    #[arg(
        long,
        value_name = "URL",
        requires_all = ["operator_cert", "operator_key", "operator_cacert"],
    )]
    admin: Option<String>,
}

/// An operator's certificate.
#[derive(Debug, Args)]
struct Files {
    /// With --admin: the operator's certificate, then its intermediates (PEM)
    #[arg(
        id = "operator_cert",
        long = "cert",
        value_name = "FILE",
        requires = "admin"
    )]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(
        id = "operator_key",
        long = "key",
        value_name = "FILE",
        requires = "admin"
    )]
    key: Option<PathBuf>,
    /// The roots that the gateway's certificate must lead to (PEM)
    #[arg(
        id = "operator_cacert",
        long = "cacert",
        value_name = "FILE",
        requires = "admin"
    )]
    cacert: Option<PathBuf>,
}

/// The same, beside a `--cert` of another meaning.
#[derive(Debug, Args)]
pub(super) struct AdminFiles {
    /// The operator's certificate, then its intermediates (PEM)
    #[arg(
        id = "operator_cert",
        long = "admin-cert",
        value_name = "FILE",
        requires_all = ["operator_key", "operator_cacert"],
    )]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(
        id = "operator_key",
        long = "admin-key",
        value_name = "FILE",
        requires = "operator_cert"
    )]
    key: Option<PathBuf>,
    /// The roots that the gateway's certificate must lead to (PEM)
    #[arg(
        id = "operator_cacert",
        long = "admin-cacert",
        value_name = "FILE",
        requires = "operator_cert"
    )]
    cacert: Option<PathBuf>,
}

impl AdminFiles {
    /// All of them, where they are given.
    pub(super) fn credential(&self) -> Option<Credential<'_>> {
        credential(&self.cert, &self.key, &self.cacert)
    }
}

fn credential<'a>(
    cert: &'a Option<PathBuf>,
    key: &'a Option<PathBuf>,
    cacert: &'a Option<PathBuf>,
) -> Option<Credential<'a>> {
    Some(Credential {
        cert: cert.as_deref()?,
        key: key.as_deref()?,
        cacert: cacert.as_deref()?,
    })
}

/// Where the gateway is, and as whom it is asked.
#[derive(Debug, Args)]
pub(super) struct Place {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    files: Files,
}

impl Place {
    /// The way in.
    pub(super) fn door(&self) -> Result<Door, CliError> {
        let files = &self.files;
        self.at
            .door(credential(&files.cert, &files.key, &files.cacert))
    }
}

impl At {
    /// The way in.
    pub(super) fn door(&self, credential: Option<Credential<'_>>) -> Result<Door, CliError> {
        if let Some(url) = &self.admin {
            if !url.starts_with("https://") {
                return Err(CliError::usage(format_args!(
                    "--admin {url}: operators are let in at https://HOST:PORT"
                )));
            }
            return Door::parse(url, credential);
        }
        // Another gateway is meant than the one whose socket is here.
        if credential.is_some() {
            return Err(CliError::usage(
                "an operator's certificate goes with --admin https://HOST:PORT",
            ));
        }
        if let Some(socket) = &self.socket {
            return Ok(Door::Socket(socket.clone()));
        }
        let config = config::path(self.config.as_deref()).map_err(CliError::usage)?;
        config::admin_socket(&config)
            .map(Door::Socket)
            .map_err(CliError::usage)
    }
}

/// Arguments of `countersign status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign status
  countersign status --config /etc/countersign/countersign.toml
  countersign status --socket /run/countersign/admin.sock --json
  countersign status --admin https://gateway.example.org:9901 --cert me.pem --key me.key --cacert root.pem

Needs [admin] socket in the configuration, and the gateway's own user (or root); or, with
--admin, a certificate whose identity is among [admin] operators.
Exit code 0: ready. 3: starting, draining, or with problems to look at; or the gateway refuses
this operator. 1: not reachable.")]
pub struct StatusArgs {
    #[command(flatten)]
    place: Place,
}

/// Arguments of `countersign reload`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign reload
  countersign reload --socket /run/countersign/admin.sock
  countersign reload --admin https://gateway.example.org:9901 --cert me.pem --key me.key --cacert root.pem

Everything is loaded again: configuration, certificates, keys, revocation lists. All good, or
the old state stays and the errors are printed. Many at once become one.
Exit code 0: in service. 2: refused. 3: the gateway refuses this operator. 1: not reachable.")]
pub struct ReloadArgs {
    #[command(flatten)]
    place: Place,
}

/// Arguments of `countersign drain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign drain
  countersign drain --socket /run/countersign/admin.sock
  countersign drain --admin https://gateway.example.org:9901 --cert me.pem --key me.key --cacert root.pem

As SIGTERM: readiness turns to draining, nothing new is accepted, connections finish within
drain_timeout, and the process ends with exit code 0. Does not wait for that.")]
pub struct DrainArgs {
    #[command(flatten)]
    place: Place,
}

/// Runs `countersign status`.
pub(crate) fn status(args: &StatusArgs, output: Output) -> Result<Exit, CliError> {
    let (_, said) = ask(&args.place.door()?, Method::GET, "/status", None)?;
    output.json(&said);
    output.say(report(&said));
    let problems = said.get("problems").and_then(Value::as_array);
    let well = text(&said, "readiness") == "ready" && problems.is_none_or(Vec::is_empty);
    Ok(if well { Exit::Done } else { Exit::No })
}

/// Runs `countersign reload`.
pub(crate) fn reload(args: &ReloadArgs, output: Output) -> Result<Exit, CliError> {
    let (status, said) = ask(&args.place.door()?, Method::POST, "/reload", None)?;
    output.json(&said);
    match status {
        StatusCode::OK => {
            output.say(format_args!(
                "Reloaded: generation {} is in service.",
                shown(&said, "generation")
            ));
            Ok(Exit::Done)
        }
        StatusCode::UNPROCESSABLE_ENTITY => Err(CliError::usage(format_args!(
            "not reloaded, the old configuration stays:\n{}",
            text(&said, "error")
        ))),
        _ => Err(CliError::failed(text(&said, "error"))),
    }
}

/// Runs `countersign drain`.
pub(crate) fn drain(args: &DrainArgs, output: Output) -> Result<Exit, CliError> {
    let (status, said) = ask(&args.place.door()?, Method::POST, "/drain", None)?;
    if status != StatusCode::ACCEPTED {
        return Err(CliError::failed(text(&said, "error")));
    }
    output.json(&said);
    output.say(format_args!(
        "Draining: {} connections are open; the gateway ends when they have.",
        shown(&said, "connections")
    ));
    Ok(Exit::Done)
}

pub(super) fn text<'v>(document: &'v Value, key: &str) -> &'v str {
    document.get(key).and_then(Value::as_str).unwrap_or("")
}

/// A value for a person, safe on a terminal.
pub(super) fn shown(document: &Value, key: &str) -> String {
    match document.get(key) {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => printable_within(text, 1024),
        Some(other) => printable_within(&other.to_string(), 1024),
    }
}

pub(super) fn items<'v>(document: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    document
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn report(said: &Value) -> String {
    let empty = Value::Null;
    let within = |key: &str| said.get(key).unwrap_or(&empty);
    let (addresses, reloads) = (within("addresses"), within("reloads"));
    let mut report = format!(
        "countersign {} ({}), process {}, {}\n\
         running since {}, generation {} ({} reloads, {} refused)\n\
         listener {}, public {}, admin {}\n\
         connections {} of {}; {} routes, {} upstreams\n\
         descriptors {}: {} for connections to services",
        shown(said, "version"),
        shown(said, "crypto_provider"),
        shown(said, "pid"),
        shown(said, "readiness"),
        shown(said, "started_at"),
        shown(said, "generation"),
        shown(reloads, "ok"),
        shown(reloads, "refused"),
        shown(addresses, "listener"),
        shown(addresses, "public"),
        shown(addresses, "admin"),
        shown(said, "connections"),
        shown(said, "connections_limit"),
        shown(said, "routes"),
        shown(said, "upstreams"),
        shown(within("descriptors"), "limit"),
        shown(within("descriptors"), "services"),
    );
    if let Some(busiest) = said.get("busiest_address").filter(|one| one.is_object()) {
        let _ = write!(
            report,
            "\n{} of {} handshakes in the last minute came from {}, for several callers: {}",
            shown(busiest, "handshakes"),
            shown(busiest, "of"),
            shown(busiest, "address"),
            shown(busiest, "remedy"),
        );
    }
    for domain in items(said, "trust_domains") {
        let name = shown(domain, "name");
        let _ = write!(
            report,
            "\ntrust domain {name}, revocation {}",
            shown(domain, "revocation")
        );
        for root in items(domain, "roots") {
            let root = root.as_str().unwrap_or_default();
            let _ = write!(report, "\n  root {}", printable_within(root, 1024));
        }
        for list in items(domain, "lists") {
            let _ = write!(
                report,
                "\n  list {} of {}: {}, {} revoked, next due {}",
                shown(list, "number"),
                shown(list, "issuer"),
                shown(list, "freshness"),
                shown(list, "entries"),
                shown(list, "next_update"),
            );
        }
    }
    if let Some(count) = said.get("denied").and_then(Value::as_u64) {
        let _ = write!(report, "\ndeny list: {count} entries");
    }
    for problem in items(said, "problems") {
        let (code, detail) = (shown(problem, "code"), shown(problem, "detail"));
        let _ = write!(report, "\nPROBLEM {code}: {detail}");
        if problem.get("since").is_some() {
            let _ = write!(report, "\n  since {}", shown(problem, "since"));
        }
        if problem.get("command").is_some() {
            let _ = write!(report, "\n  try: {}", shown(problem, "command"));
        }
    }
    report
}

/// One request and its answer; with a document where there is one to send.
pub(super) fn ask(
    door: &Door,
    method: Method,
    path: &str,
    document: Option<&Value>,
) -> Result<(StatusCode, Value), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::failed)?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, exchange(door, method, path, document)).await {
            Ok(answered) => answered,
            Err(_) => Err(CliError::failed(format_args!(
                "{door}: no answer within {} seconds",
                PATIENCE.as_secs()
            ))),
        }
    })
}
