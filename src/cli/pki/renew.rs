//! `countersign pki renew`: renews a certificate once when it is due, or repeatedly.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::authority::open;
use super::hook;
use super::times::now;
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::pki::renewing::is_due;
use crate::pki::{Issued, Lifetime, Remaining};
use crate::secret::Secret;

const EXAMPLES: &str = "\
Examples:
  countersign pki renew certs/issued/checkout.pem --dir certs
  countersign pki renew certs/issued/checkout.pem --dir certs --if-expiring 33%
  countersign pki renew certs/issued/gateway.pem --dir certs --every 1h --exec 'systemctl reload gw'

Issues a certificate with the same names, usages and lifetime and a new key, in place of
PREFIX.pem and PREFIX.key (the key first). The earlier certificate stays valid until it expires
or is revoked. A new key means a new thumbprint: tokens bound to the earlier certificate
(RFC 8705) have to be fetched anew; --keep-key does not change that.

With --every, looks again after each interval, give or take a tenth, and no later than the renewal
is due; keeps going when an attempt fails. --exec runs a shell command after each renewal, with
COUNTERSIGN_CERTIFICATE and COUNTERSIGN_KEY set; with --every, one that fails is run again at the
next look.";

/// By default, a certificate is renewed when this part of its lifetime remains.
const DEFAULT_REMAINING: Remaining = Remaining::Percent(33);

/// Arguments of `countersign pki renew`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RenewArgs {
    /// The certificate to renew, PREFIX.pem.
    #[arg(value_name = "CERT")]
    certificate: PathBuf,
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Only when less than this is left, such as 33% or 8h [default with --every: 33%].
    #[arg(long, value_name = "PART|TIME")]
    if_expiring: Option<Remaining>,
    /// Keep the key in PREFIX.key.
    #[arg(long, conflicts_with = "out")]
    keep_key: bool,
    /// For this long instead of the lifetime of the present certificate.
    #[arg(long, value_name = "TIME")]
    lifetime: Option<Lifetime>,
    /// Write PREFIX.pem and PREFIX.key instead of replacing the present files.
    #[arg(long, value_name = "PREFIX", conflicts_with = "every")]
    out: Option<PathBuf>,
    /// Keep running, and look again after each TIME.
    #[arg(long, value_name = "TIME")]
    every: Option<Lifetime>,
    /// Run this shell command after a renewal.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// The result of one check of the certificate.
enum Look {
    NotDue { due_at: i64 },
    Renewed(Box<Issued>),
}

pub(super) fn run(args: &RenewArgs, output: Output) -> Result<Exit, CliError> {
    let mut passphrase = None;
    let Some(interval) = args.every else {
        if let (Look::Renewed(issued), Some(command)) = (
            look(args, args.if_expiring, &mut passphrase, output)?,
            &args.exec,
        ) {
            call(command, &issued).map_err(|error| {
                CliError::failed(format!("the certificate is renewed, but {error}"))
            })?;
        }
        return Ok(Exit::Done);
    };
    let remaining = args.if_expiring.unwrap_or(DEFAULT_REMAINING);
    let mut has_begun = false;
    // The last renewed certificate if its `--exec` command has not succeeded yet.
    let mut owed: Option<Box<Issued>> = None;
    loop {
        let mut wait = interval;
        match look(args, Some(remaining), &mut passphrase, output) {
            Ok(Look::NotDue { due_at }) => wait = wait.min(until(due_at)),
            Ok(Look::Renewed(issued)) => owed = Some(issued),
            // Invalid arguments end the command at the first check, because waiting cannot correct
            // them. A later error may be temporary, for example while a file is being replaced.
            Err(error) if error.exit == Exit::Usage && !has_begun => return Err(error),
            Err(error) => output.error(&error),
        }
        has_begun = true;
        if let (Some(command), Some(issued)) = (&args.exec, &owed) {
            match call(command, issued) {
                Ok(()) => owed = None,
                Err(error) => output.error(&CliError::failed(error)),
            }
        }
        hook::sleep_about(wait);
    }
}

fn call(command: &str, issued: &Issued) -> Result<(), String> {
    let environment = [
        ("COUNTERSIGN_CERTIFICATE", issued.certificate.clone()),
        ("COUNTERSIGN_KEY", issued.key.clone()),
    ];
    hook::run(command, &environment)
}

/// Returns the time until `moment`.
fn until(moment: i64) -> Lifetime {
    Lifetime::from_seconds(moment.saturating_sub(now()))
}

/// Checks the certificate once, and renews it if it is due. Opens the authority each time, because
/// a rotation may have changed it.
fn look(
    args: &RenewArgs,
    remaining: Option<Remaining>,
    passphrase: &mut Option<Secret>,
    output: Output,
) -> Result<Look, CliError> {
    let mut pki = open(&args.dir)?;
    let mut renewal = pki.renewal(&args.certificate)?;
    if let Some(remaining) = remaining {
        let due = renewal.due_at(remaining);
        if !is_due(due) {
            output.json(&json!({
                "renewed": false,
                "certificate": absolute(&args.certificate),
                "serial": renewal.serial,
                "due_at": clock::rfc3339(due),
                "not_after": clock::rfc3339(renewal.not_after),
            }));
            output.say(format_args!("Not due yet: renewed from {}.", moment(due)));
            return Ok(Look::NotDue { due_at: due });
        }
    }
    if let Some(lifetime) = args.lifetime {
        renewal = renewal.lifetime(lifetime);
    }
    if let Some(prefix) = &args.out {
        renewal = renewal.out(prefix, false);
    }
    if let Some(secret) = passphrase.as_ref() {
        pki.set_passphrase(secret.clone());
    }
    let issuer = pki.issuer();
    args.passphrase.unlock(&mut pki, issuer)?;
    let issued = pki.renew(&renewal, args.keep_key)?;
    *passphrase = pki.passphrase().cloned();
    output.json(&json!({
        "renewed": true,
        "certificate": absolute(&issued.certificate),
        "key": absolute(&issued.key),
        "identity": issued.identity(),
        "names": issued.names,
        "profile": issued.profile.name(),
        "replaces": renewal.serial,
        "serial": issued.serial,
        "x5t#S256": issued.thumbprint,
        "not_before": clock::rfc3339(issued.not_before),
        "not_after": clock::rfc3339(issued.not_after),
    }));
    output.say(format_args!(
        "Renewed {} until {}.\n  certificate  {}\n  private key  {}{}\n  serial       {} (earlier: {})",
        issued.identity(),
        moment(issued.not_after),
        issued.certificate.display(),
        issued.key.display(),
        if args.keep_key { "  unchanged" } else { "  new" },
        issued.serial,
        renewal.serial,
    ));
    Ok(Look::Renewed(Box::new(issued)))
}
