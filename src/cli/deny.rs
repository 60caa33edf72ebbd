//! `countersign deny add | list | remove`: reads and changes the deny list of a running gateway.
//! The request uses the private socket, or the network with an operator's certificate.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::common::admin_client::{ask, items, shown, text};
use super::common::certificate_files;
use super::common::format::moment;
use super::common::gateway_args::{AdminCertArgs, GatewayArgs, LocationArgs};
use super::common::output::{CliError, Exit, Output};
use crate::admin::NewDenyEntry;
use crate::clock;
use crate::crypto;
use crate::identity::text::hex;
use crate::pki::Lifetime;
use crate::trust::DenyTarget;

/// Arguments of `countersign deny`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign deny add --identity spiffe://example.org/ns/shop/sa/checkout --reason \"key on a laptop that was stolen\"
  countersign deny add --serial 4c0500a1 --issuer \"CN=example.org intermediate\" --for 24h
  countersign deny add --cert client.pem
  countersign deny add --identity api-key:nightly-batch --reason \"key in a public repository\"
  countersign deny list
  countersign deny remove 0a1b2c3d4e5f6071
  countersign deny list --admin https://gateway.example.org:9901 --cert me.pem --key me.key --cacert root.pem
  countersign deny add --identity dns:a.example.org --admin https://gateway.example.org:9901 \\
      --admin-cert me.pem --admin-key me.key --admin-cacert root.pem

Needs [deny_list] and [admin] socket in the configuration, and the gateway's own user (or root); or,
with --admin, a certificate whose identity is among [admin] operators.
An entry is on disk and counts when the command ends; open connections of those it refuses are
cut within a second.")]
pub struct DenyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Refuse a caller or a certificate from now on.
    Add(AddArgs),
    /// List the entries that are in force.
    List(ListArgs),
    /// Remove an entry.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign deny add --identity dns:build.example.org --reason \"left the company\"
  countersign deny add --thumbprint A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0 --for 7d

--cert names the certificate to refuse: with --admin, the operator's own is --admin-cert.
Exit code 0: it counts. 2: the entry means nothing, or there is no [deny_list]. 3: the gateway
refuses this operator. 1: not reachable, or the file cannot be written; then nothing has changed.")]
struct AddArgs {
    #[command(flatten)]
    at: LocationArgs,
    #[command(flatten)]
    operator: AdminCertArgs,
    #[command(flatten)]
    target: Target,
    /// The issuer of the certificate of --serial, in the form of audit lines (RFC 4514).
    #[arg(long, value_name = "NAME", requires = "serial")]
    issuer: Option<String>,
    /// The reason; shown in the list and in audit lines, not to the caller.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// How long the entry is in force, such as 24h or 7d [default: until it is removed].
    #[arg(long, value_name = "DURATION")]
    r#for: Option<Lifetime>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Every certificate of this caller. The name has the form of assertions and audit lines:
    /// api-key:NAME for an API key, client:ISSUER/CLIENT_ID for a client of a token issuer.
    #[arg(long, value_name = "ID")]
    identity: Option<String>,
    /// One certificate, leaf or intermediate, by its serial number; needs --issuer.
    #[arg(long, value_name = "HEX", requires = "issuer")]
    serial: Option<String>,
    /// One certificate by its SHA-256 hash: hexadecimal, or x5t#S256 as in audit lines.
    #[arg(long, value_name = "HASH", allow_hyphen_values = true)]
    thumbprint: Option<String>,
    /// The first certificate of a file, by its SHA-256 hash; - for standard input.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign deny list
  countersign deny list --json")]
struct ListArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign deny remove 0a1b2c3d4e5f6071

Exit code 0: removed. 3: there is no such entry.")]
struct RemoveArgs {
    /// The entry's id, as `countersign deny list` shows it.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// Runs `countersign deny`.
pub(crate) fn run(args: &DenyArgs, output: Output) -> Result<Exit, CliError> {
    match &args.command {
        Command::Add(args) => add(args, output),
        Command::List(args) => list(args, output),
        Command::Remove(args) => remove(args, output),
    }
}

fn add(args: &AddArgs, output: Output) -> Result<Exit, CliError> {
    let now = clock::certificate_now();
    let denial = NewDenyEntry {
        target: args.target.read(args.issuer.as_deref())?,
        reason: args.reason.clone(),
        expires_at: args
            .r#for
            .map(|lifetime| now.saturating_add(lifetime.as_seconds())),
    };
    let document = json!(denial);
    let endpoint = args.at.endpoint(args.operator.credential())?;
    let (status, said) = ask(&endpoint, Method::POST, "/deny", Some(&document))?;
    match status {
        StatusCode::CREATED => {}
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {
            return Err(CliError::usage(text(&said, "error")));
        }
        _ => return Err(CliError::failed(text(&said, "error"))),
    }
    output.json(&said);
    output.say(format_args!(
        "Denied: {}.\nTo take it back: countersign deny remove {}",
        target(&said),
        shown(&said, "id")
    ));
    if said.get("seen") == Some(&Value::Bool(false)) {
        output.note(
            "note: no caller of that name was seen lately, and no API key has it. Audit lines \
             have the names of callers.",
        );
    }
    Ok(Exit::Done)
}

impl Target {
    fn read(&self, issuer: Option<&str>) -> Result<DenyTarget, CliError> {
        if let Some(identity) = &self.identity {
            return Ok(DenyTarget::Identity {
                identity: identity.clone(),
            });
        }
        if let Some(thumbprint) = &self.thumbprint {
            return Ok(DenyTarget::Thumbprint {
                thumbprint: thumbprint.clone(),
            });
        }
        if let Some(file) = &self.cert {
            let certificates = certificate_files::certificates_beside_key(file)?;
            let first = certificates.first().map(|der| crypto::sha256(der));
            return Ok(DenyTarget::Thumbprint {
                thumbprint: hex(&first.unwrap_or_default()),
            });
        }
        match (&self.serial, issuer) {
            (Some(serial), Some(issuer)) => Ok(DenyTarget::Serial {
                serial: serial.clone(),
                issuer: issuer.to_owned(),
            }),
            _ => Err(CliError::usage(
                "say who: --identity, --serial with --issuer, --thumbprint or --cert",
            )),
        }
    }
}

fn list(args: &ListArgs, output: Output) -> Result<Exit, CliError> {
    let (status, said) = ask(&args.gateway.endpoint()?, Method::GET, "/deny", None)?;
    if status == StatusCode::CONFLICT {
        return Err(CliError::usage(text(&said, "error")));
    }
    output.json(&said);
    if items(&said, "deny_list").next().is_none() {
        output.say("Nobody is denied.");
        return Ok(Exit::Done);
    }
    let mut lines = String::new();
    for entry in items(&said, "deny_list") {
        let _ = write!(lines, "{}  {}", shown(entry, "id"), target(entry));
        if let Some(end) = entry.get("expires_at").and_then(Value::as_i64) {
            let _ = write!(lines, ", until {}", moment(end));
        }
        if !text(entry, "reason").is_empty() {
            let _ = write!(lines, ": {}", shown(entry, "reason"));
        }
        lines.push('\n');
    }
    output.say(lines.trim_end());
    Ok(Exit::Done)
}

fn remove(args: &RemoveArgs, output: Output) -> Result<Exit, CliError> {
    let well_formed = !args.id.is_empty() && args.id.bytes().all(|b| b.is_ascii_alphanumeric());
    if !well_formed {
        return Err(CliError::usage(
            "an entry's id has letters and digits only; countersign deny list shows them",
        ));
    }
    let path = format!("/deny/{}", args.id);
    let (status, said) = ask(&args.gateway.endpoint()?, Method::DELETE, &path, None)?;
    match status {
        StatusCode::OK => {
            output.json(&said);
            output.say("Removed.");
            Ok(Exit::Done)
        }
        StatusCode::NOT_FOUND => Err(CliError::no(text(&said, "error"))),
        StatusCode::CONFLICT => Err(CliError::usage(text(&said, "error"))),
        _ => Err(CliError::failed(text(&said, "error"))),
    }
}

/// Describes in words which callers or certificates an entry refuses.
fn target(entry: &Value) -> String {
    let target = entry.get("target").unwrap_or(&Value::Null);
    if target.get("identity").is_some() {
        return shown(target, "identity");
    }
    if target.get("thumbprint").is_some() {
        return format!(
            "the certificate with SHA-256 {}",
            shown(target, "thumbprint")
        );
    }
    format!(
        "serial number {} of {}",
        shown(target, "serial"),
        shown(target, "issuer")
    )
}
