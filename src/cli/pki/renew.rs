//! `countersign pki renew`: once, when due, or again and again.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::open;
use super::passphrase::PassphraseArgs;
use super::words::{absolute, moment};
use crate::cli::{CliError, Exit, Output};
use crate::pki::renewing::is_due;
use crate::pki::{Issued, Lifetime, Remaining};
use crate::secret::Secret;
use crate::{clock, crypto};

const EXAMPLES: &str = "\
Examples:
  countersign pki renew certs/issued/checkout.pem --dir certs
  countersign pki renew certs/issued/checkout.pem --dir certs --if-expiring 33%
  countersign pki renew certs/issued/gateway.pem --dir certs --every 1h --exec 'systemctl reload gw'

Issues a certificate with the same names, usages and lifetime and a new key, in place of
PREFIX.pem and PREFIX.key (the key first). The earlier certificate stays valid until it expires
or is revoked. A new key means a new thumbprint: tokens bound to the earlier certificate
(RFC 8705) have to be fetched anew; --keep-key does not change that.

With --every, looks again after each interval, give or take a tenth, and keeps going when an
attempt fails. --exec runs a shell command after each renewal, with COUNTERSIGN_CERTIFICATE and
COUNTERSIGN_KEY set.";

/// Renewed when a third of its life is left, unless told otherwise.
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

pub(super) fn run(args: &RenewArgs, output: Output) -> Result<Exit, CliError> {
    let mut passphrase = None;
    let Some(interval) = args.every else {
        return once(args, args.if_expiring, &mut passphrase, output);
    };
    let remaining = args.if_expiring.unwrap_or(DEFAULT_REMAINING);
    loop {
        match once(args, Some(remaining), &mut passphrase, output) {
            Ok(_) => {}
            // What cannot get better by waiting ends the loop.
            Err(error) if error.exit == Exit::Usage => return Err(error),
            Err(error) => output.error(&error),
        }
        std::thread::sleep(jittered(interval));
    }
}

/// One look at the certificate, and its renewal where that is due. The authority
/// is opened each time, since it may have been rotated.
fn once(
    args: &RenewArgs,
    remaining: Option<Remaining>,
    passphrase: &mut Option<Secret>,
    output: Output,
) -> Result<Exit, CliError> {
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
            return Ok(Exit::Done);
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
    args.exec
        .as_deref()
        .map_or(Ok(Exit::Done), |command| run_hook(command, &issued))
}

fn run_hook(command: &str, issued: &Issued) -> Result<Exit, CliError> {
    let status = Command::new("sh")
        .args(["-c", command])
        .env("COUNTERSIGN_CERTIFICATE", &issued.certificate)
        .env("COUNTERSIGN_KEY", &issued.key)
        .status()
        .map_err(|error| CliError::failed(format!("cannot run {command:?}: {error}")))?;
    if status.success() {
        Ok(Exit::Done)
    } else {
        Err(CliError::failed(format!(
            "the certificate is renewed, but {command:?} failed: {status}"
        )))
    }
}

/// Up to a tenth earlier or later, so that a fleet does not come all at once.
fn jittered(interval: Lifetime) -> Duration {
    let whole = Duration::from_secs(u64::try_from(interval.as_seconds()).unwrap_or(1));
    let [random] = crypto::random::<1>().unwrap_or_default();
    // 0.9 to 1.1 of the interval.
    whole.mul_f64(0.9 + f64::from(random) / 255.0 * 0.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        for _ in 0..100 {
            let slept = jittered("100s".parse().unwrap()).as_secs_f64();
            assert!((90.0..=110.0).contains(&slept), "{slept}");
        }
    }
}
