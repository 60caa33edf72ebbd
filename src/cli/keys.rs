//! `countersign keys`: manages the keys that sign assertions.
//!
//! The commands call [`crate::assertion::key_directory`] and print results as text or JSON. That
//! module decides when a key signs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde_json::json;

use super::common::format::{absolute, moment};
use super::common::output::{CliError, Exit, Output};
use crate::assertion::key_directory::{self, ListedKey};
use crate::assertion::key_record::KeyState;
use crate::assertion::{KeyRingError, SigningAlgorithm};
use crate::clock;
use crate::identity::text::{printable, shell};
use crate::pki::Lifetime;

/// Arguments of `countersign keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key: the first key signs at once, a further key after it was published.
    Generate(NewKeyArgs),
    /// Make the key that follows the current one.
    Rotate(NewKeyArgs),
    /// Withdraw a key at once.
    Revoke(RevokeArgs),
    /// List the keys and their current states.
    List(ListArgs),
    /// Print the key set that the gateway publishes now.
    Jwks(JwksArgs),
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  countersign keys generate --dir certs/signing
  countersign keys generate --dir certs/signing --algorithm EdDSA
  countersign keys rotate --dir certs/signing --active-in 2h

Writes DIR/KID.key (PKCS#8, mode 0600) and DIR/ring.json. A running gateway publishes a new
key when it reloads, and begins to sign with it when its time has come; the key before stays
published for 65 minutes and 30 seconds longer. Keys of the algorithm that [assertion] does
not name are published and do not sign.";

const REVOKE_EXAMPLES: &str = "\
Examples:
  countersign keys revoke NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs --dir certs/signing

The key is no longer published and its private half is removed. A running gateway follows when
it reloads; services follow when they fetch the key set again, after 5 minutes at most.";

const LIST_EXAMPLES: &str = "\
Examples:
  countersign keys list --dir certs/signing
  countersign keys list --dir certs/signing --json";

const JWKS_EXAMPLES: &str = "\
Examples:
  countersign keys jwks --dir certs/signing > jwks.json
  countersign keys jwks --dir certs/signing | countersign assertion verify token.txt \\
      --jwks - --issuer https://gateway.example.org:9080 --audience orders";

#[derive(Debug, Args)]
#[command(after_help = GENERATE_EXAMPLES)]
struct NewKeyArgs {
    /// The directory of the keys; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The signature algorithm of the key [default: that of the newest key, or ES256 without keys]
    #[arg(long, value_name = "ALGORITHM", value_parser = algorithm())]
    algorithm: Option<SigningAlgorithm>,
    /// How long the key is published before it signs, if it is not the first key; at least 15m.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    active_in: Lifetime,
}

#[derive(Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
struct RevokeArgs {
    /// The key's identifier, as `keys list` shows it.
    #[arg(value_name = "KID", allow_hyphen_values = true)]
    kid: String,
    /// The directory of the keys.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Revoke the key even if it is the only one, so that nothing can be signed.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
struct ListArgs {
    /// The directory of the keys.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = JWKS_EXAMPLES)]
struct JwksArgs {
    /// The directory of the keys.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

fn algorithm() -> impl TypedValueParser<Value = SigningAlgorithm> {
    PossibleValuesParser::new(SigningAlgorithm::ALL.map(SigningAlgorithm::as_str))
        .try_map(|name| SigningAlgorithm::parse(&name).ok_or("not an algorithm"))
}

impl From<KeyRingError> for CliError {
    fn from(error: KeyRingError) -> Self {
        match error {
            KeyRingError::PublishAhead | KeyRingError::UnknownKey { .. } => Self::usage(error),
            error => Self::failed(error),
        }
    }
}

/// Runs `countersign keys`.
pub(crate) fn run(args: &KeysArgs, output: Output) -> Result<Exit, CliError> {
    match &args.command {
        KeysCommand::Generate(args) => generate(args, output),
        KeysCommand::Rotate(args) => {
            // `rotate` requires that the directory already has keys.
            key_directory::list(&args.dir, clock::unix_now())?;
            generate(args, output)
        }
        KeysCommand::Revoke(args) => revoke(args, output),
        KeysCommand::List(args) => list(args, output),
        KeysCommand::Jwks(args) => jwks(args, output),
    }
}

fn generate(args: &NewKeyArgs, output: Output) -> Result<Exit, CliError> {
    let active_in = Duration::from_secs(args.active_in.as_seconds().unsigned_abs());
    let now = clock::unix_now();
    let key = key_directory::add(&args.dir, args.algorithm, active_in, now)?;
    let file = args.dir.join(format!("{}.key", key.record.kid));
    let (from, remark) = match key.state {
        KeyState::Next => (
            moment(signed(key.record.active_from)),
            "A running gateway publishes it when it reloads.".to_owned(),
        ),
        _ => (
            "now on".to_owned(),
            format!(
                "The gateway finds it with [assertion] keys = {:?}.",
                args.dir.to_string_lossy()
            ),
        ),
    };
    output.say(format_args!(
        "Made an {} key that signs from {from}.\n  kid   {}\n  file  {}\n{remark}\n\
         Next: countersign keys list --dir {}",
        key.record.algorithm,
        key.record.kid,
        file.display(),
        shell(&args.dir),
    ));
    let mut document = listed(&key);
    if let Some(members) = document.as_object_mut() {
        members.insert("file".to_owned(), json!(absolute(&file)));
    }
    output.json(&document);
    Ok(Exit::Done)
}

fn revoke(args: &RevokeArgs, output: Output) -> Result<Exit, CliError> {
    let now = clock::unix_now();
    let revoked = key_directory::revoke(&args.dir, &args.kid, args.force, now)?;
    let mut text = format!("Revoked {}.", printable(&args.kid));
    if let Some(successor) = &revoked.successor {
        let _ = write!(text, "\nFrom now on {successor} signs.");
    }
    let _ = write!(text, "\nA running gateway follows when it reloads.");
    output.say(text);
    output.json(&json!({ "kid": args.kid, "successor": revoked.successor }));
    Ok(Exit::Done)
}

fn list(args: &ListArgs, output: Output) -> Result<Exit, CliError> {
    let keys = key_directory::list(&args.dir, clock::unix_now())?;
    if output.is_json() {
        let keys: Vec<_> = keys.iter().map(listed).collect();
        output.json(&json!({ "keys": keys }));
    } else {
        output.result(table(&args.dir, &keys));
    }
    Ok(Exit::Done)
}

fn jwks(args: &JwksArgs, output: Output) -> Result<Exit, CliError> {
    output.result(key_directory::jwks(&args.dir, clock::unix_now())?);
    Ok(Exit::Done)
}

fn listed(key: &ListedKey) -> serde_json::Value {
    let mut document = json!(key);
    if let Some(members) = document.as_object_mut() {
        members.insert("published".to_owned(), json!(key.state.is_published()));
    }
    document
}

fn table(directory: &Path, keys: &[ListedKey]) -> String {
    if keys.is_empty() {
        return format!("{} has no keys.", directory.display());
    }
    let mut text = format!("{:<43}  {:<9}  {:<8}  WHEN", "KID", "ALGORITHM", "STATE");
    for key in keys {
        let record = &key.record;
        let when = match key.state {
            KeyState::Next => format!("signs from {}", moment(signed(record.active_from))),
            KeyState::Current => format!("signs since {}", moment(signed(record.active_from))),
            KeyState::Retiring => match key.published_until {
                Some(end) => format!("published until {}", moment(signed(end))),
                None => String::new(),
            },
            KeyState::Expired => match record.retired_at.or(key.published_until) {
                Some(end) => format!("expired {}", moment(signed(end))),
                None => String::new(),
            },
            KeyState::Revoked => match record.revoked_at {
                Some(at) => format!("revoked {}", moment(signed(at))),
                None => String::new(),
            },
        };
        let _ = write!(
            text,
            "\n{:<43}  {:<9}  {:<8}  {when}",
            record.kid,
            record.algorithm.as_str(),
            key.state.as_str(),
        );
    }
    text
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
