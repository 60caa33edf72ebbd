//! `countersign pki inspect`: shows the content of a file, or of a running server.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::live;
use crate::cli::common::input;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::identity::text::{printable, printable_within};
use crate::pki::inspect::{Item, inspect, needs_passphrase};
use crate::pki::lint::Severity;

/// Maximum number of bytes of a file. A CRL with several hundred thousand entries is smaller.
const MAX_FILE: u64 = 64 << 20;

/// Maximum number of characters of one value.
const MAX_SHOWN: usize = 4096;

const EXAMPLES: &str = "\
Examples:
  countersign pki inspect certs/issued/checkout.pem
  countersign pki inspect certs/crl/intermediate.crl --json
  openssl s_client -connect localhost:8443 -showcerts </dev/null | countersign pki inspect -
  countersign pki inspect client.p12 --passphrase-file p12.pass
  countersign pki inspect https://orders.example.org:8443

Reads certificates, PKCS#10 requests, revocation lists, PKCS#12 files and key sets, in PEM (also
several in one file) or DER. Nothing is verified: see countersign pki verify. Lints are marked
with ! (forbidden, or refused by gateways) and ? (unwise). Ends with exit code 3 when something
is marked with !.

With a URL the chain is the one that the server presents, whether or not it wants a certificate of
the client; what it asks of clients is shown as well.";

/// Arguments of `countersign pki inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InspectArgs {
    /// What to read: a file, `-` for standard input, or https://HOST[:PORT].
    #[arg(value_name = "FILE|URL")]
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) fn run(args: &InspectArgs, output: Output) -> Result<Exit, CliError> {
    if let Some(url) = args
        .file
        .to_str()
        .filter(|text| text.starts_with("https://"))
    {
        let server = live::look(url)?;
        output.json(&server);
        output.say(&server);
        return Ok(show(&server.items, output));
    }
    let content = input::read(&args.file, MAX_FILE)?;
    let passphrase = needs_passphrase(&content)
        .then(|| args.passphrase.open(&args.file))
        .transpose()?;
    let items = inspect(&content, passphrase.as_ref())
        .map_err(|error| CliError::failed(format!("{}: {error}", args.file.display())))?;
    output.json(&json!({ "items": items }));
    Ok(show(&items, output))
}

/// Prints the items. Returns exit code 3 if any item has an error.
fn show(items: &[Item], output: Output) -> Exit {
    for item in items {
        output.say(text(item));
    }
    let broken = items
        .iter()
        .flat_map(|item| &item.lints)
        .any(|finding| finding.severity == Severity::Error);
    if broken { Exit::No } else { Exit::Done }
}

fn text(item: &Item) -> String {
    let mut text = String::from(item.kind);
    text.push('\n');
    if let Value::Object(members) = &item.content {
        for (name, value) in members {
            line(&mut text, name, value);
        }
    }
    for finding in &item.lints {
        let mark = match finding.severity {
            Severity::Error => '!',
            Severity::Warning => '?',
        };
        let _ = writeln!(text, "  {mark} {}", printable(&finding.to_string()));
    }
    text
}

/// Appends the line `  name            value`. Appends nothing if the value is absent.
fn line(text: &mut String, name: &str, value: &Value) {
    let name = name.replace('_', " ");
    match value {
        Value::Null => {}
        Value::Bool(true) => {
            let _ = writeln!(text, "  {name:14}  yes");
        }
        Value::Bool(false) => {
            let _ = writeln!(text, "  {name:14}  no");
        }
        Value::Array(values) => {
            for value in values {
                let value = match value {
                    Value::Object(members) => members
                        .iter()
                        .filter(|(_, value)| !value.is_null())
                        .map(|(name, value)| format!("{} {}", printable(name), plain(value)))
                        .collect::<Vec<_>>()
                        .join(", "),
                    other => plain(other),
                };
                let _ = writeln!(text, "  {name:14}  {value}");
            }
        }
        other => {
            let _ = writeln!(text, "  {name:14}  {}", plain(other));
        }
    }
}

/// Returns a value as text without control characters. The value may come from the file.
fn plain(value: &Value) -> String {
    match value.as_str() {
        Some(text) => printable_within(text, MAX_SHOWN),
        None => printable_within(&value.to_string(), MAX_SHOWN),
    }
}
