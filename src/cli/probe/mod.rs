//! `countersign probe`: shows the caller's side of a connection, step by step.
//!
//! The command connects as a caller would. It shows what the server presents and requests, how the
//! server refuses or responds, and how to fix problems. It does not read the gateway's
//! configuration, so it works with any server.
//!
//! - `connect`: connects once and records the server's behaviour
//! - `question`: the request that is sent

mod connect;
mod question;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use http::Uri;

use self::connect::{Findings, ProbeError};
use self::question::QuestionArgs;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::{certificate_files, input};

/// Arguments of `countersign probe`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign probe https://orders.example.org/orders/7 --cert client.pem --key client.key
  countersign probe https://orders.example.org:8443/.well-known/countersign/whoami \\
      --cert client.pem --key client.key --cacert gateway-root.pem
  countersign probe https://orders.example.org/orders --cert client.pem --key client.key \\
      -X PUT -H 'Content-Type: application/json' -d @order.json --token token.jwt
  countersign probe https://orders.example.org/open --resolve orders.example.org:443:10.0.0.7

Sends one request: GET, or POST with -d. Without --cert it is a caller without certificate. Without
--cacert the server's certificate is shown and not verified.
Exit code 0: the gateway let the request pass. 3: refused, or the server is not to be trusted.
1: no connection.")]
pub struct ProbeArgs {
    /// The URL to request.
    #[arg(value_name = "URL")]
    url: Uri,
    /// The client certificate, followed by its intermediates (PEM) [default: no certificate].
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of the client certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The root certificates with which the server's certificate is verified (PEM).
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    #[command(flatten)]
    question: QuestionArgs,
}

/// Runs `countersign probe`.
pub(crate) fn run(args: &ProbeArgs, output: Output) -> Result<Exit, CliError> {
    let files = [&args.cert, &args.key, &args.cacert];
    let files = files.into_iter().flatten().map(PathBuf::as_path);
    input::check_one_stdin(files.chain(args.question.files()))?;
    let roots = args
        .cacert
        .as_deref()
        .map(certificate_files::certificates)
        .transpose()?;
    let credentials = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            let chain = certificate_files::certificates_beside_key(cert)?;
            let key = certificate_files::private_key(key)?;
            Some(connect::credentials(chain, key).map_err(CliError::usage)?)
        }
        _ => None,
    };
    let question = args.question.question(&args.url)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::failed)?;
    let findings = runtime
        .block_on(connect::probe(&question, credentials, roots))
        .map_err(|error| match error {
            ProbeError::Usage(_) => CliError::usage(error),
            ProbeError::Unreachable(_) | ProbeError::Silent(_) => CliError::failed(error),
        })?;
    output.json(&findings);
    output.say(report(&findings));
    Ok(if findings.ok { Exit::Done } else { Exit::No })
}

fn report(findings: &Findings) -> String {
    let mut text = format!("connected to {}\n", findings.address);
    for (position, certificate) in findings.server.chain.iter().enumerate() {
        let _ = writeln!(
            text,
            "server {}. {} [{}] until {}",
            position + 1,
            certificate.subject,
            certificate.names,
            certificate.not_after
        );
    }
    let _ = match (findings.server.verified, &findings.server.error) {
        (Some(true), _) => writeln!(text, "the server's certificate holds"),
        (Some(false), error) => writeln!(
            text,
            "THE SERVER'S CERTIFICATE DOES NOT HOLD: {}",
            error.as_deref().unwrap_or_default()
        ),
        (None, _) if findings.server.chain.is_empty() => Ok(()),
        (None, _) => writeln!(
            text,
            "the server's certificate was not verified; give --cacert"
        ),
    };
    if let Some(version) = &findings.tls_version {
        let alpn = findings.alpn.as_deref().unwrap_or("none");
        let _ = writeln!(text, "{version}, application protocol {alpn}");
    }
    if findings.certificate_requested {
        let _ = writeln!(text, "it asked for a client certificate, issued by:");
        for issuer in &findings.acceptable_issuers {
            let _ = writeln!(text, "  {issuer}");
        }
        let _ = match findings.issued_by_acceptable {
            Some(true) => writeln!(text, "your chain leads to one of them"),
            Some(false) => writeln!(text, "YOUR CHAIN LEADS TO NONE OF THEM"),
            None if findings.acceptable_issuers.is_empty() => writeln!(text, "  anybody"),
            None => writeln!(text, "you presented no certificate"),
        };
    } else {
        let _ = writeln!(text, "it asked for no client certificate");
    }
    for note in &findings.notes {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(alert) = &findings.alert {
        let _ = writeln!(
            text,
            "refused with TLS alert {} ({})",
            alert.number, alert.name
        );
    }
    if let Some(answer) = &findings.answer {
        let _ = write!(text, "answered {}", answer.status);
        let _ = match &answer.reason {
            Some(reason) => writeln!(text, " by the gateway: {reason}"),
            None => writeln!(text, " without a reason of the gateway: the request passed"),
        };
        if let Some(id) = &answer.request_id {
            let _ = writeln!(text, "request id {id}, for the operator's audit log");
        }
    }
    match findings.candidates.len() {
        0 | 1 => {}
        _ => {
            let _ = writeln!(text, "one of these is the reason:");
        }
    }
    for candidate in &findings.candidates {
        let _ = writeln!(
            text,
            "  {}: {}\n    {}",
            candidate.code, candidate.title, candidate.hint
        );
    }
    text.push_str(if findings.ok { "passed" } else { "refused" });
    text
}
