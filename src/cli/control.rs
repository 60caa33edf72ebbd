//! `countersign status`, `reload` and `drain`: each sends one request to a running gateway. The
//! request uses the private socket, or the network with an operator's certificate.

use std::fmt::Write as _;

use clap::Args;
use http::{Method, StatusCode};
use serde_json::Value;

use super::common::admin_client::{ask, items, shown, text};
use super::common::gateway_args::GatewayArgs;
use super::common::output::{CliError, Exit, Output};
use crate::identity::text::printable_within;

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
    gateway: GatewayArgs,
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
    gateway: GatewayArgs,
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
    gateway: GatewayArgs,
}

/// Runs `countersign status`.
pub(crate) fn status(args: &StatusArgs, output: Output) -> Result<Exit, CliError> {
    let (_, said) = ask(&args.gateway.endpoint()?, Method::GET, "/status", None)?;
    output.json(&said);
    output.say(report(&said));
    let problems = said.get("problems").and_then(Value::as_array);
    let well = text(&said, "readiness") == "ready" && problems.is_none_or(Vec::is_empty);
    Ok(if well { Exit::Done } else { Exit::No })
}

/// Runs `countersign reload`.
pub(crate) fn reload(args: &ReloadArgs, output: Output) -> Result<Exit, CliError> {
    let (status, said) = ask(&args.gateway.endpoint()?, Method::POST, "/reload", None)?;
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
    let (status, said) = ask(&args.gateway.endpoint()?, Method::POST, "/drain", None)?;
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

fn push_audit_and_endpoints(text: &mut String, said: &Value) {
    if let Some(audit) = said.get("audit").filter(|audit| audit.is_object()) {
        let _ = write!(
            text,
            "\naudit log: {} lines written, {} lost",
            shown(audit, "written"),
            shown(audit, "lost"),
        );
    }
    for endpoint in items(said, "endpoints") {
        if endpoint.get("up").and_then(Value::as_bool) == Some(false) {
            let _ = write!(
                text,
                "\nupstream {}: {} is down since {}",
                shown(endpoint, "upstream"),
                shown(endpoint, "endpoint"),
                shown(endpoint, "down_since"),
            );
        }
    }
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
                match list.get("number") {
                    None | Some(Value::Null) => "without number".to_owned(),
                    Some(_) => shown(list, "number"),
                },
                shown(list, "issuer"),
                shown(list, "freshness"),
                shown(list, "entries"),
                shown(list, "next_update"),
            );
        }
    }
    push_audit_and_endpoints(&mut report, said);
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
