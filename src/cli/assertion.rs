//! `countersign assertion`: verifies an assertion as a service would, or shows its content.
//!
//! The crate `countersign-verify` does the verification. This file reads arguments and files, and
//! prints the result. Assertions come from a file or standard input, because other processes on the
//! machine can see command-line arguments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use countersign_verify::jose::{CompactJws, MAX_TOKEN_BYTES, refuse_duplicate_members};
use countersign_verify::{AssertionVerifier, RequestParts, Verifier, VerifyError};
use serde_json::{Map, Value, json};

use super::common::format::moment;
use super::common::input;
use super::common::output::{CliError, Exit, Output};
use crate::identity::text::{printable, printable_within};
use crate::pki::Lifetime;

/// Maximum number of bytes that are read from a file. Bodies are the largest files.
const MAX_FILE: u64 = 64 << 20;

/// Arguments of `countersign assertion`.
#[derive(Debug, Args)]
pub struct AssertionArgs {
    #[command(subcommand)]
    command: AssertionCommand,
}

#[derive(Debug, Subcommand)]
enum AssertionCommand {
    /// Verify an assertion as a service does.
    Verify(Box<VerifyArgs>),
    /// Show the content of an assertion, without verifying anything.
    Inspect(InspectArgs),
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  countersign assertion verify assertion.txt --jwks jwks.json \\
      --issuer https://gateway.example.org:9080 --audience orders \\
      --method GET --url 'https://orders.example.org/orders/7?full=1'
  countersign assertion verify - --jwks-url https://gateway.example.org:9080/.well-known/jwks.json \\
      --issuer https://gateway.example.org:9080 --audience orders < assertion.txt

Without --method and --url, signature, issuer, audience and time are verified, and the answer
says what was not compared. Exit code 0: valid; 3: not valid, with a code on standard error.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  countersign assertion inspect assertion.txt
  countersign assertion inspect - --json < assertion.txt

Nothing is verified: anybody can write such a text.";

#[derive(Debug, Args)]
#[command(
    after_help = VERIFY_EXAMPLES,
    group = ArgGroup::new("keys").required(true).args(["jwks", "jwks_url"]),
)]
struct VerifyArgs {
    /// The file with the assertion; `-` for standard input.
    #[arg(value_name = "TOKEN-FILE", default_value = "-")]
    token: PathBuf,
    /// The file with the gateway's key set; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// The URL of the gateway's key set: https, or http on loopback.
    #[arg(long, value_name = "URL")]
    jwks_url: Option<String>,
    /// Root certificates for fetching the key set (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "jwks_url")]
    cacert: Option<PathBuf>,
    /// The gateway that must have issued the assertion.
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// The service that the assertion must be for.
    #[arg(long, value_name = "NAME")]
    audience: String,
    /// The method of the request that carried the assertion.
    #[arg(long, short = 'X', value_name = "METHOD", requires = "url")]
    method: Option<String>,
    /// The URL of the request that carried the assertion; the scheme does not matter.
    #[arg(long, value_name = "URL", requires = "method")]
    url: Option<String>,
    /// The file with the body of the request that carried the assertion, to compare with `htb`.
    #[arg(long, value_name = "FILE", requires = "url")]
    body: Option<PathBuf>,
    /// Accept an assertion that is bound to the caller only.
    #[arg(long)]
    allow_caller_binding: bool,
    /// Maximum difference between the clocks; at most 30s.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    skew: Lifetime,
}

#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
struct InspectArgs {
    /// The file with the assertion; `-` for standard input.
    #[arg(value_name = "TOKEN-FILE", default_value = "-")]
    token: PathBuf,
}

/// Runs `countersign assertion`.
pub(crate) fn run(args: &AssertionArgs, output: Output) -> Result<Exit, CliError> {
    match &args.command {
        AssertionCommand::Verify(args) => verify(args, output),
        AssertionCommand::Inspect(args) => inspect(args, output),
    }
}

fn verify(args: &VerifyArgs, output: Output) -> Result<Exit, CliError> {
    let files = [
        Some(&args.token),
        args.jwks.as_ref(),
        args.cacert.as_ref(),
        args.body.as_ref(),
    ];
    input::check_one_stdin(files.into_iter().flatten().map(PathBuf::as_path))?;
    let verifier = verifier(args)?;
    let request = request(args)?;
    let token = read_token(&args.token)?;
    let verified = match &request {
        Some(request) => verifier.verify(&token, request),
        None => verifier.verify_without_request(&token),
    };
    let assertion = match verified {
        Ok(assertion) => assertion,
        Err(error) => return Err(refused(error, output)),
    };
    let mut not_compared = Vec::new();
    if assertion.is_request_bound() && request.is_none() {
        not_compared.extend(["method", "url", "query"]);
    }
    if assertion.htb.is_some() && args.body.is_none() {
        not_compared.push("body");
    }
    output.say(format_args!(
        "valid: {} for {}, until {}",
        printable_within(&assertion.sub, 2048),
        printable(&assertion.aud),
        moment(i64::try_from(assertion.exp).unwrap_or(i64::MAX)),
    ));
    if !assertion.is_request_bound() {
        output.say("It is bound to no request: whoever has it can use it until then.");
    }
    if !not_compared.is_empty() {
        output.say(format_args!(
            "Not compared with a request: {} (give --method, --url and --body).",
            not_compared.join(", ")
        ));
    }
    output.json(&json!({
        "valid": true,
        "not_compared": not_compared,
        "assertion": assertion,
    }));
    Ok(Exit::Done)
}

fn verifier(args: &VerifyArgs) -> Result<AssertionVerifier, CliError> {
    let skew = Duration::from_secs(args.skew.as_seconds().unsigned_abs());
    let mut builder = Verifier::builder()
        .issuer(&args.issuer)
        .audience(&args.audience)
        .skew(skew);
    if args.allow_caller_binding {
        builder = builder.allow_caller_binding();
    }
    if let Some(path) = &args.jwks {
        let keys = String::from_utf8_lossy(&input::read(path, MAX_FILE)?).into_owned();
        builder = builder.jwks_json(keys);
    }
    if let Some(url) = &args.jwks_url {
        builder = builder.jwks_url(url);
    }
    if let Some(path) = &args.cacert {
        builder = builder.root_certificates(input::read(path, MAX_FILE)?);
    }
    let verifier = builder.build().map_err(CliError::usage)?;
    if args.jwks_url.is_some() {
        fetch(&verifier)?;
    }
    Ok(verifier)
}

fn fetch(verifier: &AssertionVerifier) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::failed)?
        .block_on(verifier.fetch_keys())
        .map_err(|error| CliError::failed(format!("cannot fetch the key set: {error}")))
}

fn request(args: &VerifyArgs) -> Result<Option<RequestParts>, CliError> {
    let (Some(method), Some(url)) = (&args.method, &args.url) else {
        return Ok(None);
    };
    let bad_url = || CliError::usage("--url must be like https://HOST/PATH?QUERY");
    // Split without a URL parser. A parser could change the authority or the target, which are
    // compared byte by byte.
    let (_, rest) = url.split_once("://").ok_or_else(bad_url)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end).ok_or_else(bad_url)?;
    if authority.is_empty() {
        return Err(bad_url());
    }
    let target = if target.starts_with('/') {
        target.to_owned()
    } else {
        format!("/{target}")
    };
    let mut request = RequestParts::new(method, authority, &target).map_err(|_| bad_url())?;
    if let Some(path) = &args.body {
        request = request.with_body(&input::read(path, MAX_FILE)?);
    }
    Ok(Some(request))
}

fn refused(error: VerifyError, output: Output) -> CliError {
    output.json(&json!({
        "valid": false,
        "code": error.code(),
        "detail": error.to_string(),
    }));
    CliError::no(format_args!("{}: {error}", error.code()))
}

fn inspect(args: &InspectArgs, output: Output) -> Result<Exit, CliError> {
    let token = read_token(&args.token)?;
    let malformed = |error| refused(VerifyError::Malformed(error), output);
    let jws = CompactJws::parse(&token, MAX_TOKEN_BYTES).map_err(malformed)?;
    let payload = jws.unverified_payload();
    refuse_duplicate_members(payload, "payload").map_err(malformed)?;
    let claims: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|_| refused(VerifyError::Claims, output))?;
    let header = jws.header().members();
    if output.is_json() {
        output.json(&json!({ "verified": false, "header": header, "claims": claims }));
    } else {
        let mut lines = vec![
            "NOT VERIFIED: anybody can write this. See: countersign assertion verify --help"
                .to_owned(),
            String::new(),
            "header".to_owned(),
        ];
        describe("  ", header, &mut lines);
        lines.push("claims".to_owned());
        describe("  ", &claims, &mut lines);
        output.result(lines.join("\n"));
    }
    Ok(Exit::Done)
}

/// Prints one line for each value, indented by its depth. Times are also printed as dates.
fn describe(indent: &str, members: &Map<String, Value>, lines: &mut Vec<String>) {
    for (name, value) in members {
        let safe_name = printable(name);
        match value {
            Value::Object(inner) => {
                lines.push(format!("{indent}{safe_name}"));
                describe(&format!("{indent}  "), inner, lines);
            }
            Value::String(text) => {
                let text = printable_within(text, 2048);
                lines.push(format!("{indent}{safe_name}: {text}"));
            }
            Value::Number(number) if is_time(name) => {
                let words = number.as_i64().map(moment).unwrap_or_default();
                lines.push(format!("{indent}{safe_name}: {number}  {words}"));
            }
            other => {
                let text = printable_within(&other.to_string(), 2048);
                lines.push(format!("{indent}{safe_name}: {text}"));
            }
        }
    }
}

fn is_time(name: &str) -> bool {
    [
        "iat",
        "exp",
        "nbf",
        "not_before",
        "not_after",
        "crl_this_update",
        "at",
    ]
    .contains(&name)
}

fn read_token(path: &Path) -> Result<String, CliError> {
    let content = input::read(path, MAX_FILE)?;
    let text = String::from_utf8_lossy(&content);
    let token = text.trim_ascii();
    if token.is_empty() {
        let name = path.display();
        return Err(CliError::failed(format_args!(
            "{name}: there is no assertion"
        )));
    }
    Ok(token.to_owned())
}
