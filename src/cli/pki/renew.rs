//! `countersign pki renew`: renews certificates at once, only if they are due, or repeatedly.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::authority::open;
use super::hook;
use super::renew_all::{self, Look, not_due_until, renewed_document};
use super::sign::read_request;
use super::timer::{PASSPHRASE, Timer, check_existing, unit_name_of, unit_word};
use super::times::now;
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::input;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::pki::{Issued, Lifetime, Remaining, export};
use crate::secret::Secret;

const EXAMPLES: &str = "\
Examples:
  countersign pki renew certs/issued/checkout.pem --dir certs
  countersign pki renew certs/issued/checkout.pem --dir certs --if-expiring 33%
  countersign pki renew certs/issued/gateway.pem --dir certs --every 1h --exec 'systemctl reload gw'
  countersign pki renew --all --dir certs --if-expiring 33%
  countersign pki renew certs/issued/batch.pem --dir certs --csr batch-2.csr
  countersign pki renew --all --dir certs --timer
  countersign pki renew certs/issued/gateway.pem --dir certs --exec 'systemctl reload gw' --timer=-

Issues a certificate with the same names, usages and lifetime and a new key, in place of
PREFIX.pem and PREFIX.key (the key first). The earlier certificate stays valid until it expires
or is revoked. A new key means a new thumbprint: tokens bound to the earlier certificate
(RFC 8705) have to be fetched anew; --keep-key does not change that.

A certificate that was signed from a request has its key elsewhere. It is renewed with a new request
of its holder, --csr, for the same names.

--all renews every certificate of the inventory that is in its place, with its key. Those that need
a request are listed; exit code 3 if one of them is due. A failure does not stop the others.

With --every, looks again after each interval, give or take a tenth, and no later than the renewal
is due; keeps going when an attempt fails. --exec runs a shell command after each renewal, with
COUNTERSIGN_CERTIFICATE and COUNTERSIGN_KEY set; with --every, one that fails is run again at the
next look.

--timer renews nothing: it writes a pair of systemd units to DIR, or to another directory
(--timer=DIRECTORY), or prints them (--timer=-). They run this command each hour, for what is due. The
service runs as the owner of DIR. With --passphrase-file, systemd reads that file; otherwise it
expects the passphrase of encrypted keys in /etc/countersign/ca.pass.";

/// By default, a certificate is renewed when this part of its lifetime remains.
const DEFAULT_REMAINING: Remaining = Remaining::Percent(33);

/// Arguments of `countersign pki renew`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RenewArgs {
    /// The certificate to renew, PREFIX.pem.
    #[arg(
        value_name = "CERT",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    certificate: Option<PathBuf>,
    /// Renew every certificate of the inventory.
    #[arg(long, conflicts_with_all = ["keep_key", "out", "csr"])]
    all: bool,
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Renew only if less of the lifetime than this is left, such as 33% or 8h [default with
    /// --every: 33%].
    #[arg(long, value_name = "PART|TIME")]
    if_expiring: Option<Remaining>,
    /// Keep the key in PREFIX.key.
    #[arg(long, conflicts_with = "out")]
    keep_key: bool,
    /// A new request (PKCS#10, PEM or DER) for a certificate that was signed from one; `-` is
    /// standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keep_key", "every"])]
    csr: Option<PathBuf>,
    /// How long the new certificate is valid [default: as long as the current one].
    #[arg(long, value_name = "TIME")]
    lifetime: Option<Lifetime>,
    /// Write PREFIX.pem and PREFIX.key instead of replacing the current files.
    #[arg(long, value_name = "PREFIX", conflicts_with = "every")]
    out: Option<PathBuf>,
    /// Keep running, and check again after each TIME.
    #[arg(long, value_name = "TIME")]
    every: Option<Lifetime>,
    /// Write systemd units that run this command each hour, instead of renewing; `-` prints them
    /// [default: to DIR].
    #[arg(
        long,
        value_name = "DIRECTORY",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = ["every", "csr", "out"],
    )]
    #[expect(clippy::option_option, reason = "an option with an optional value")]
    timer: Option<Option<PathBuf>>,
    /// Replace systemd units that exist already.
    #[arg(long, requires = "timer")]
    force: bool,
    /// Run this shell command after a renewal.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) fn run(args: &RenewArgs, output: Output) -> Result<Exit, CliError> {
    if let Some(place) = &args.timer {
        return write_timer(args, place.as_deref(), output);
    }
    let mut passphrase = None;
    let Some(interval) = args.every else {
        let look = look(args, args.if_expiring, &mut passphrase, output)?;
        if let Some(command) = &args.exec {
            // A failed command must not prevent those of the other renewed certificates.
            let called = look.renewed.iter().map(|issued| call(command, issued));
            let failed: Vec<String> = called
                .filter_map(|called| Some(called.err()?.to_string()))
                .collect();
            if !failed.is_empty() {
                return Err(CliError::failed(format!(
                    "the certificates are renewed, but {}",
                    failed.join("; ")
                )));
            }
        }
        return Ok(look.exit.unwrap_or(Exit::Done));
    };
    let remaining = args.if_expiring.unwrap_or(DEFAULT_REMAINING);
    let mut has_begun = false;
    // The renewed certificates whose hook has not succeeded yet.
    let mut owed: Vec<Issued> = Vec::new();
    loop {
        let mut wait = interval;
        match look(args, Some(remaining), &mut passphrase, output) {
            Ok(look) => {
                if let Some(due_at) = look.due_at {
                    wait = wait.min(until(due_at));
                }
                for issued in look.renewed {
                    owed.retain(|other| other.certificate != issued.certificate);
                    owed.push(issued);
                }
            }
            // Invalid arguments end the command at the first check, because waiting cannot correct
            // them. A later error may be temporary, because files can change.
            Err(error) if error.exit == Exit::Usage && !has_begun => return Err(error),
            Err(error) => output.error(&error),
        }
        has_begun = true;
        if let Some(command) = &args.exec {
            owed.retain(|issued| match call(command, issued) {
                Ok(()) => false,
                Err(error) => {
                    output.error(&CliError::failed(error));
                    true
                }
            });
        }
        hook::sleep_about(wait);
    }
}

/// Writes or prints systemd units that run this command with the same arguments.
fn write_timer(args: &RenewArgs, place: Option<&Path>, output: Output) -> Result<Exit, CliError> {
    let pki = open(&args.dir)?;
    let name = match &args.certificate {
        None => "countersign-renew".to_owned(),
        Some(certificate) => {
            // Checks the certificate now, so that the operator sees an error before the timer
            // starts the service.
            let renewal = pki.renewal(certificate)?;
            pki.check_renewal(&renewal)?;
            format!("countersign-renew-{}", unit_name_of(certificate, &args.dir))
        }
    };
    let is_sealed = pki.needs_passphrase(pki.issuer())?;
    let file = args.passphrase.file().unwrap_or(Path::new(PASSPHRASE));
    let timer = Timer {
        name: &name,
        service: "Renew certificates that are due",
        timer: "Look each hour for certificates that are due",
        dir: &args.dir,
        command: timer_command(args),
        schedule: ["hourly", "5min"],
        passphrase: is_sealed.then_some(file),
    };
    timer.check()?;
    let directory = place.unwrap_or(&args.dir);
    let units = timer.units(directory);
    if place.is_some_and(input::is_stdin) {
        output.json(&json!({
            "service": units[0].1,
            "timer": units[1].1,
        }));
        if !output.is_json() {
            for (path, content) in &units {
                let path = path.file_name().unwrap_or_default().to_string_lossy();
                output.result(format_args!("# {path}\n{content}"));
            }
        }
        return Ok(Exit::Done);
    }
    if !args.force {
        check_existing(&units)?;
    }
    for (path, content) in &units {
        export::write(path, content.as_bytes(), false, true)?;
    }
    output.json(&json!({
        "service": absolute(&units[0].0),
        "timer": absolute(&units[1].0),
    }));
    output.say(timer.enabling(directory));
    Ok(Exit::Done)
}

fn timer_command(args: &RenewArgs) -> String {
    let path = |path: &Path| unit_word(&absolute(path));
    let mut command = match &args.certificate {
        Some(certificate) => format!("pki renew {}", path(certificate)),
        None => "pki renew --all".to_owned(),
    };
    let remaining = args.if_expiring.unwrap_or(DEFAULT_REMAINING).to_string();
    let mut add = |option: &str, value: String| {
        let _ = write!(command, " {option} {value}");
    };
    add("--dir", path(&args.dir));
    add("--if-expiring", unit_word(&remaining));
    if let Some(lifetime) = args.lifetime {
        add("--lifetime", unit_word(&lifetime.to_string()));
    }
    if let Some(hook) = &args.exec {
        add("--exec", unit_word(hook));
    }
    if args.keep_key {
        command.push_str(" --keep-key");
    }
    command
}

fn call(command: &str, issued: &Issued) -> Result<(), String> {
    let environment = [
        ("COUNTERSIGN_CERTIFICATE", issued.certificate.clone()),
        ("COUNTERSIGN_KEY", issued.key.clone()),
    ];
    hook::run(command, &environment)
}

/// Returns the time until `moment`, at least one second. `moment` is in seconds since the Unix
/// epoch.
fn until(moment: i64) -> Lifetime {
    Lifetime::from_seconds(moment.saturating_sub(now()))
}

fn look(
    args: &RenewArgs,
    remaining: Option<Remaining>,
    passphrase: &mut Option<Secret>,
    output: Output,
) -> Result<Look, CliError> {
    match &args.certificate {
        Some(certificate) => look_at(certificate, args, remaining, passphrase, output),
        None => {
            let selection = renew_all::Selection {
                dir: &args.dir,
                remaining,
                lifetime: args.lifetime,
            };
            renew_all::run(&selection, &args.passphrase, passphrase, output)
        }
    }
}

/// Checks the certificate once, and renews it if it is due. The authority is opened each time,
/// because it may have been rotated.
fn look_at(
    certificate: &Path,
    args: &RenewArgs,
    remaining: Option<Remaining>,
    passphrase: &mut Option<Secret>,
    output: Output,
) -> Result<Look, CliError> {
    let mut pki = open(&args.dir)?;
    let mut renewal = pki.renewal(certificate)?;
    if let Some(due) = not_due_until(&renewal, remaining) {
        output.json(&json!({
            "renewed": false,
            "certificate": absolute(certificate),
            "serial": renewal.serial,
            "due_at": clock::rfc3339(due),
            "not_after": clock::rfc3339(renewal.not_after),
        }));
        output.say(format_args!("Not due yet: renewed from {}.", moment(due)));
        return Ok(Look {
            due_at: Some(due),
            ..Look::default()
        });
    }
    if let Some(lifetime) = args.lifetime {
        renewal = renewal.lifetime(lifetime);
    }
    if let Some(prefix) = &args.out {
        renewal = renewal.out(prefix, false);
    }
    let signing = args.csr.as_deref().map(read_request).transpose()?;
    // Checks first whether a request is missing, so that a command that must fail does not ask for
    // a passphrase.
    if signing.is_none() {
        pki.check_renewal(&renewal)?;
    }
    if let Some(secret) = passphrase.as_ref() {
        pki.set_passphrase(secret.clone());
    }
    let issuer = pki.issuer();
    args.passphrase.unlock(&mut pki, issuer)?;
    let issued = match &signing {
        Some(signing) => pki.renew_requested(&renewal, signing)?,
        None => pki.renew(&renewal, args.keep_key)?,
    };
    *passphrase = pki.passphrase().cloned();
    let mut document = renewed_document(&issued, &renewal, signing.is_none());
    if let Some(members) = document.as_object_mut() {
        members.insert("renewed".to_owned(), true.into());
    }
    output.json(&document);
    output.say(format_args!(
        "Renewed {} until {}.\n  certificate  {}\n  private key  {}\n  serial       {} (earlier: {})",
        issued.identity(),
        moment(issued.not_after),
        issued.certificate.display(),
        match (&signing, args.keep_key) {
            (Some(_), _) => "that of the request, with its holder".to_owned(),
            (None, true) => format!("{}  unchanged", issued.key.display()),
            (None, false) => format!("{}  new", issued.key.display()),
        },
        issued.serial,
        renewal.serial,
    ));
    Ok(Look {
        renewed: vec![issued],
        ..Look::default()
    })
}
