//! `countersign api-key`: creates API keys for callers that have no certificate.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::json;

use super::common::output::{CliError, Exit, Output};
use crate::authn::api_key::{self, MIN_HMAC_KEY};
use crate::identity::caller::{PLAIN_NAME_FORM, is_plain_name};
use crate::pki::Lifetime;
use crate::secret::{Existing, Secret, write_private};
use crate::{clock, crypto};

/// Arguments of `countersign api-key`.
#[derive(Debug, Args)]
pub struct ApiKeyArgs {
    #[command(subcommand)]
    command: ApiKeyCommand,
}

#[derive(Debug, Subcommand)]
enum ApiKeyCommand {
    /// Make an API key and print it once.
    New(NewArgs),
}

const EXAMPLES: &str = "\
Examples:
  countersign api-key new batch --hmac-key certs/api-keys.hmac --expires 90d
  countersign api-key new batch --hmac-key certs/api-keys.hmac --route orders --network 10.0.0.0/8

The first line is the key: hand it to the caller, it cannot be shown again. The rest belongs into
countersign.toml and gives no key away. The HMAC key file is made when it is not there (mode
0600); every key made with it needs it for ever.";

/// Arguments of `countersign api-key new`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct NewArgs {
    /// The caller's name; the caller acts as `api-key:NAME`.
    name: String,
    /// The gateway's HMAC key for API keys; created if it does not exist.
    #[arg(long, value_name = "FILE")]
    hmac_key: PathBuf,
    /// How long the key is valid, such as 24h or 90d [default: until it is removed].
    #[arg(long, value_name = "TIME")]
    expires: Option<Lifetime>,
    /// A route for which the key is valid; may be repeated [default: all routes that accept API
    /// keys].
    #[arg(long, value_name = "ROUTE")]
    route: Vec<String>,
    /// A network that must contain the caller's address; may be repeated [default: all networks].
    #[arg(long, value_name = "CIDR")]
    network: Vec<IpNet>,
    /// A network from which the TCP connection must come, for example the network of a load
    /// balancer; may be repeated [default: all networks].
    #[arg(long, value_name = "CIDR")]
    connection_network: Vec<IpNet>,
}

/// Runs `countersign api-key`.
pub(crate) fn run(args: &ApiKeyArgs, output: Output) -> Result<Exit, CliError> {
    match &args.command {
        ApiKeyCommand::New(args) => new(args, output),
    }
}

fn new(args: &NewArgs, output: Output) -> Result<Exit, CliError> {
    if !is_plain_name(&args.name) {
        return Err(CliError::usage(format_args!(
            "{:?} is not a name: expected {PLAIN_NAME_FORM}",
            args.name
        )));
    }
    let hmac_key = hmac_key(&args.hmac_key)?;
    let made = api_key::generate(hmac_key.expose()).map_err(CliError::failed)?;
    let key = std::str::from_utf8(made.key.expose()).map_err(CliError::failed)?;
    let expires = args.expires.map(|lifetime| {
        let seconds = u64::try_from(lifetime.as_seconds()).unwrap_or(0);
        let end = clock::unix_now().saturating_add(seconds);
        clock::rfc3339(i64::try_from(end).unwrap_or(i64::MAX))
    });
    output.json(&json!({
        "name": args.name, "id": made.id, "key": key, "hash": made.digest.to_string(),
        "expires": expires, "routes": args.route,
        "networks": args.network.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "connection_networks": args.connection_network.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }));
    if !output.is_json() {
        output.result(key);
    }
    output.say(entry(args, &made, expires.as_deref()));
    Ok(Exit::Done)
}

/// Formats the `[[api_key]]` entry for the configuration.
fn entry(args: &NewArgs, made: &api_key::NewKey, expires: Option<&str>) -> String {
    let quoted = |text: &str| format!("{text:?}");
    let list = |texts: Vec<String>| texts.join(", ");
    let mut lines = vec![
        String::new(),
        "[[api_key]]".to_owned(),
        format!("name = {}", quoted(&args.name)),
        format!("id = {}", quoted(&made.id)),
        format!("hash = {}", quoted(&made.digest.to_string())),
    ];
    if let Some(expires) = expires {
        lines.push(format!("expires = {}", quoted(expires)));
    }
    if !args.route.is_empty() {
        let routes = args.route.iter().map(|route| quoted(route)).collect();
        lines.push(format!("routes = [{}]", list(routes)));
    }
    for (key, networks) in [
        ("networks", &args.network),
        ("connection_networks", &args.connection_network),
    ] {
        if !networks.is_empty() {
            let networks = networks.iter().map(|net| quoted(&net.to_string()));
            lines.push(format!("{key} = [{}]", list(networks.collect())));
        }
    }
    lines.join("\n")
}

/// Reads the HMAC key, or creates it if the file does not exist.
fn hmac_key(path: &Path) -> Result<Secret, CliError> {
    match std::fs::read(path) {
        Ok(key) if key.len() < MIN_HMAC_KEY => Err(CliError::usage(format_args!(
            "{} is no HMAC key: it has fewer than {MIN_HMAC_KEY} bytes",
            path.display()
        ))),
        Ok(key) => Ok(Secret::new(key)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = crypto::random::<MIN_HMAC_KEY>().map_err(CliError::failed)?;
            write_private(path, &key, Existing::Refuse).map_err(|error| {
                CliError::failed(format_args!("cannot write {}: {error}", path.display()))
            })?;
            Ok(Secret::new(key.to_vec()))
        }
        Err(error) => Err(CliError::usage(format_args!(
            "cannot read {}: {error}",
            path.display()
        ))),
    }
}
