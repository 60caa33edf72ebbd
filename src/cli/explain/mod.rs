//! `countersign explain`: explains, without a running gateway, how the gateway would decide about a
//! caller and a request.
//!
//! The command itself decides nothing. It opens connections only to the issuer of a token.
//!
//! - `replay`: repeats a past decision of the audit log
//! - `judge`: runs the gateway's stages on a question
//! - `handshake`: the steps of a TLS connection
//! - `inventory_lookup`: finds the certificate in an authority's inventory
//! - `answer`: the steps and the result of an explanation

mod answer;
mod handshake;
mod inventory_lookup;
mod judge;
mod replay;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use http::{HeaderValue, Method, Uri};
use serde_json::json;

use self::answer::{Answer, Explanation, Question};
use self::inventory_lookup::InventoryLookup;
use crate::authn::{Field, Presented};
use crate::cli::check;
use crate::cli::common::config_loading::{self, LoadError};
use crate::cli::common::format::absolute;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::token_file::read_token;
use crate::cli::common::{certificate_files, input};
use crate::config;

/// Arguments of `countersign explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign explain --cert client.pem
  countersign explain --audit audit.jsonl --request-id jTx0aKqX3bC1lm2n4o5p6q
  countersign explain --cert client.pem --url https://orders.example.org/orders/7
  countersign explain --cert client.pem --url https://orders.example.org/orders -X POST --json
  countersign explain --cert client.pem --token token.jwt --url https://orders.example.org/orders
  countersign explain --cert client.pem --pki certs

Runs the gateway's own code on the configuration as it is on disk, and prints each step with
its verdict. Without --url it ends with the handshake, under the default entry of [listener].
Whether the caller holds the private key, rate limits, API keys and the service behind are not
looked at. With --token the issuer's keys are fetched where they are not in a file, and it is
asked about the token where the route says so: the only connections this command opens.
With --pki an authority's inventory says what it knows of the certificate, and whether it is
revoked there although the gateway does not know that yet.
Exit code 0: allowed. 3: refused. 2: bad usage or configuration.")]
pub struct ExplainArgs {
    /// The certificate that the caller presents, followed by its intermediates: PEM, or one
    /// certificate in DER; - for standard input.
    #[arg(long, value_name = "CHAIN", required_unless_present = "audit")]
    cert: Option<PathBuf>,
    /// Explain a past decision that this audit log records, instead of --cert and --url. The chain
    /// must have been kept ([audit] chains). The current configuration decides.
    #[arg(long, value_name = "FILE", requires = "request_id", conflicts_with_all = ["cert", "url"])]
    audit: Option<PathBuf>,
    /// The past decision: the id of the request, or the connection id of a refused handshake.
    #[arg(
        long,
        value_name = "ID",
        requires = "audit",
        allow_hyphen_values = true
    )]
    request_id: Option<String>,
    /// The URL that the caller requests.
    #[arg(long, value_name = "URL")]
    url: Option<Uri>,
    /// The method of the request.
    #[arg(
        long,
        short = 'X',
        value_name = "METHOD",
        default_value = "GET",
        requires = "url"
    )]
    method: Method,
    /// The file with the caller's access token; - for standard input.
    #[arg(long, value_name = "FILE", requires = "url")]
    token: Option<PathBuf>,
    /// The directory of the authority that issued the certificate. The command shows the
    /// certificate's entry in the authority's inventory.
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// The configuration file [default: $COUNTERSIGN_CONFIG, ./countersign.toml,
    /// /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs `countersign explain`.
pub(crate) fn run(args: &ExplainArgs, output: Output) -> Result<Exit, CliError> {
    let files = [args.cert.as_deref(), args.token.as_deref()];
    input::check_one_stdin(files.into_iter().flatten())?;
    let path = config::path(args.config.as_deref()).map_err(CliError::usage)?;
    let presented = match args.token.as_deref() {
        Some(file) => Presented {
            authorization: authorization(&read_token(file)?)?,
            api_key: Field::Absent,
        },
        None => Presented::default(),
    };
    let (loaded, inventory) = config_loading::inspect(&path).map_err(|error| match error {
        LoadError::Refused(errors) => check::refusal(&errors),
        error => error.into(),
    })?;
    let past = match (&args.audit, &args.request_id) {
        (Some(log), Some(id)) => Some(replay::find(log, id, &loaded)?),
        _ => None,
    };
    let chain = match (&past, &args.cert) {
        (Some(past), _) => past.chain.clone(),
        (None, Some(file)) => certificate_files::certificates_beside_key(file)?,
        (None, None) => Vec::new(),
    };
    let known = args
        .pki
        .as_ref()
        .map(|dir| InventoryLookup::look_up(dir, &chain));
    let known = known.transpose()?;
    let asked = past.as_ref().map(|past| (past.url.as_ref(), &past.method));
    let (url, method) = asked.unwrap_or((args.url.as_ref(), &args.method));
    let question = Question {
        chain: &chain,
        url: url.map(checked_url).transpose()?,
        method,
        presented: &presented,
        handshake_only: past.as_ref().is_some_and(|past| !past.is_request),
    };
    let explanation = judge::explain(&loaded.snapshot, &inventory, &question);
    let answer = &explanation.answer;
    if let Some(past) = &past {
        output.say(format_args!("{}\nNow:\n", replay::verdict(&past.line)));
    }
    output.say(report(&explanation));
    if let (Some(known), Some(dir)) = (&known, &args.pki) {
        output.say(known.line(dir));
        let reason = match answer {
            Answer::Refused { reason, .. } => Some(*reason),
            _ => None,
        };
        if let Some(warning) = known.warning(reason) {
            output.note(format_args!("warning: {warning}"));
        }
    }
    output.json(&json!({
        "allowed": answer.is_allowed(),
        "config": absolute(&path),
        "then": past.as_ref().map(|past| &past.line),
        "method": url.is_some().then(|| method.as_str()),
        "url": url.map(ToString::to_string),
        "steps": explanation.steps,
        "claims": explanation.claims,
        "inventory": known.as_ref().map(InventoryLookup::document),
        "answer": answer,
    }));
    match answer {
        Answer::Refused { reason, detail, .. } => {
            output.verdict(format_args!("{reason}: {detail}"));
            Ok(Exit::No)
        }
        _ => Ok(Exit::Done),
    }
}

/// Creates the `Authorization` field that callers would send with a token.
fn authorization(token: &str) -> Result<Field, CliError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| CliError::usage("the token has characters that no header field carries"))?;
    value.set_sensitive(true);
    Ok(Field::One(value))
}

/// Refuses URLs whose scheme is not `https`, because callers always use TLS.
fn checked_url(url: &Uri) -> Result<&Uri, CliError> {
    match (url.scheme_str(), url.authority()) {
        (Some("https"), Some(_)) => Ok(url),
        _ => Err(CliError::usage(format_args!(
            "{url}: write the whole URL, https://HOST/PATH"
        ))),
    }
}

fn report(explanation: &Explanation) -> String {
    let mut text = String::new();
    for step in &explanation.steps {
        let _ = writeln!(
            text,
            "{:<8} {:<12} {}",
            step.verdict.as_str(),
            step.name,
            step.detail
        );
        for line in &step.more {
            let _ = writeln!(text, "{:21} {line}", "");
        }
    }
    if let Some(claims) = &explanation.claims
        && let Ok(pretty) = serde_json::to_string_pretty(claims)
    {
        let _ = writeln!(text, "\nThe assertion would say:\n{pretty}");
    }
    let _ = write!(text, "\n{}", answer(&explanation.answer));
    text
}

fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Connected => {
            "The handshake succeeds. Give --url to see what a request is answered.".to_owned()
        }
        Answer::Forwarded { upstream } => {
            format!("Allowed: the request goes to {upstream}, whose answer the caller gets.")
        }
        Answer::Here { status } => format!("Allowed: the gateway itself answers {status}."),
        Answer::Refused {
            status,
            alert,
            reason,
            hint,
            mender,
            ..
        } => {
            let gets = match (status, alert) {
                (_, Some(alert)) => format!(
                    "The handshake fails with TLS alert {} ({})",
                    alert.number, alert.name
                ),
                (Some(status), None) => format!("The caller gets {status}"),
                (None, None) => "The handshake ends".to_owned(),
            };
            format!("{gets}, {reason}.\nWhat helps ({mender}): {hint}")
        }
    }
}
