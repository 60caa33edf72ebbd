//! `countersign pki revoke` and `crl`: revoke certificates and sign CRLs.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::hook;
use super::times::point_in_time;
use super::wait::Watch;
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::gateway_args::AdminCertArgs;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::pki::{
    Among, AuthorityName, Lifetime, Pki, Revocation, RevocationReason, RevocationTarget, Revoked,
    SignedCrl,
};
use crate::secret::Secret;

/// Maximum time until the next attempt after a failure.
const RETRY: Lifetime = Lifetime::hours(1);

const REVOKE_EXAMPLES: &str = "\
Examples:
  countersign pki revoke --dir certs --cert certs/issued/checkout.pem --reason key-compromise
  countersign pki revoke --dir certs --serial 3b1f0c6e5a7d48f2917bc04ad2e86f55
  countersign pki revoke --dir certs --identity spiffe://example.org/ns/shop/sa/checkout
  countersign pki revoke --dir certs --identity /ns/shop/sa/checkout --issued-before 1h
  countersign pki revoke --dir certs --cert checkout.pem --wait /run/countersign/admin.sock
  countersign pki revoke --dir certs --cert checkout.pem --wait http://127.0.0.1:9901
  countersign pki revoke --dir certs --cert checkout.pem --wait https://gw-1:9901 https://gw-2:9901 \
      --admin-cert me.pem --admin-key me.key --admin-cacert root.pem

The inventory has to know the number of --serial: a slip would revoke nothing. If it has lost the
certificate, --unrecorded revokes the number all the same.

A name that several live certificates carry is refused, and they are listed: after a renewal,
revoking by name would hit the new one. --all takes them all, --issued-before those of before a
time (RFC 3339, seconds since the epoch, or a time ago such as 1h).

Writes DIR/crl/*.crl anew at once. Gateways that watch the file act within a second.
Repeating it is harmless.

--wait asks gateways, by their [admin] socket or listener, until each of them has the new list and
has closed the connections that it ends; exit code 1 when one does not within --wait-for. Listeners
with https are asked with an operator's certificate.";

const CRL_EXAMPLES: &str = "\
Examples:
  countersign pki crl --dir certs --issuer intermediate
  countersign pki crl --dir certs --issuer all --lifetime 14d
  countersign pki crl --dir certs --issuer intermediate --every 24h
  countersign pki crl --dir certs --every 24h --exec 'rsync certs/crl/ gateways:crl/'
  countersign pki crl --dir certs --number 4200
  countersign pki crl --dir certs --root-crl root.crl

The root's list is good for a year, the intermediate's for 7 days, unless --lifetime says
otherwise. Run this before they run out: a gateway with revocation = \"hard\" refuses every
certificate once its issuer's list is out of date. During a rotation the earlier generation's
lists are signed as well, into the same files.

--number is for pki.toml from a backup: gateways refuse a list whose number is lower than that of the
list they have. Give one that is higher than that (pki inspect shows it); the next ones follow.

--root-crl publishes a list of the root that was signed where its key is. It is refused if gateways
could not use it, or if it is older than the published one or lacks a revocation. Many authorities
remove expired certificates from their lists: --force forgets what such a list lacks, except
revocations of the intermediates in DIR.

--every keeps running: it signs at once and then after each TIME, give or take a tenth, which has to
be less than half of the lists' lifetime. A failure is reported and tried again sooner. --exec runs a
shell command after each time; one that fails is run again at the next look.";

/// Arguments of `countersign pki revoke`.
#[derive(Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(super) struct RevokeArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Revoke the serial number even if the inventory does not contain it.
    #[arg(long, requires = "serial")]
    unrecorded: bool,
    /// Revoke all live certificates of the identity.
    #[arg(long, requires = "identity", conflicts_with = "issued_before")]
    all: bool,
    /// Revoke the live certificates of the identity that were signed before TIME.
    #[arg(long, value_name = "TIME", requires = "identity", value_parser = point_in_time)]
    issued_before: Option<i64>,
    /// The reason of the revocation.
    #[arg(
        long,
        default_value = "unspecified",
        value_parser = PossibleValuesParser::new(RevocationReason::ALL.iter().map(|r| r.as_str()))
            .try_map(|word| word.parse::<RevocationReason>()),
    )]
    reason: RevocationReason,
    /// Wait until these gateways apply the revocation: sockets, or URLs of [admin] listeners.
    #[arg(long, value_name = "SOCKET|URL", num_args = 1..)]
    wait: Vec<String>,
    /// How long to wait for each gateway.
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "wait")]
    wait_for: Lifetime,
    #[command(flatten)]
    operator: AdminCertArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Serial number in hexadecimal.
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// The certificate in PEM form.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// A name of live certificates: a SPIFFE ID or its path, a host name, dns:NAME, mailto:ADDRESS,
    /// ip:ADDRESS or another URI.
    #[arg(long, value_name = "ID")]
    identity: Option<String>,
}

/// Arguments of `countersign pki crl`.
#[derive(Debug, Args)]
#[command(after_help = CRL_EXAMPLES)]
pub(super) struct CrlArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Whose list to sign [default: all, without the root if its key is kept elsewhere].
    #[arg(long, value_enum)]
    issuer: Option<Issuer>,
    /// How long the lists are valid, such as 7d [default: root 365d, intermediate 7d; 7d for a root
    /// that signs leaves itself].
    #[arg(long, value_name = "TIME")]
    lifetime: Option<Lifetime>,
    /// The CRL number of the lists, higher than the number of the last ones.
    #[arg(long, value_name = "N", conflicts_with = "every")]
    number: Option<u64>,
    /// Publish this list of the root, which was signed elsewhere.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["issuer", "lifetime", "number", "every"])]
    root_crl: Option<PathBuf>,
    /// Publish the list of --root-crl even if it lacks revocations that are recorded.
    #[arg(long, requires = "root_crl")]
    force: bool,
    /// Keep running, and sign again after each TIME.
    #[arg(long, value_name = "TIME")]
    every: Option<Lifetime>,
    /// Run this shell command after signing.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Issuer {
    /// The root, whose list says whether the intermediate is revoked.
    Root,
    /// The intermediate, whose list says which leaves are revoked.
    Intermediate,
    /// Both authorities.
    All,
}

pub(super) fn revoke(args: &RevokeArgs, output: Output) -> Result<Exit, CliError> {
    let mut pki = Pki::open(&args.dir)?;
    let target = target(args, &pki)?;
    // Finds the certificate first, so that a command that must fail does not ask for a passphrase.
    let authority = match pki.find(&target)?.first() {
        Some((signatory, _)) => signatory.name,
        None => pki.issuer(),
    };
    args.passphrase.unlock(&mut pki, authority)?;
    let watch = Watch::begin(&args.wait, args.operator.credential(), output)?;
    let revocation = pki.revoke(&target, args.reason)?;
    let documents: Vec<_> = revocation
        .revoked
        .iter()
        .map(|revoked| {
            json!({
                "serial": revoked.entry.serial,
                "reason": revoked.entry.reason.as_str(),
                "revoked_at": clock::rfc3339(revoked.entry.time),
                "repeated": revoked.repeated,
            })
        })
        .collect();
    let mut document = json!({
        "issuer": authority.as_str(),
        "crl": revocation.crls.first().map(list_document),
        "crls": revocation.crls.iter().map(list_document).collect::<Vec<_>>(),
    });
    // Usually one certificate is revoked. Its fields are then also at the top level, so that
    // programs can read them without a loop.
    if let ([only], Some(fields)) = (documents.as_slice(), document.as_object_mut())
        && let Some(only) = only.as_object()
    {
        fields.extend(only.clone());
    }
    if let Some(fields) = document.as_object_mut() {
        fields.insert("revoked".to_owned(), documents.into());
    }
    say_revoked(&revocation, output);
    let Some(watch) = watch else {
        output.json(&document);
        return Ok(Exit::Done);
    };
    let timeout = Duration::from_secs(u64::try_from(args.wait_for.as_seconds()).unwrap_or(1));
    let obeyed = watch.finish(&revocation.crls, timeout);
    if let Some(fields) = document.as_object_mut() {
        fields.insert("gateways".to_owned(), json!(obeyed));
    }
    output.json(&document);
    for gateway in &obeyed {
        output.say(gateway);
    }
    if obeyed.iter().all(|gateway| gateway.in_service) {
        return Ok(Exit::Done);
    }
    let failed: Vec<_> = obeyed
        .iter()
        .filter(|gateway| !gateway.in_service)
        .map(ToString::to_string)
        .collect();
    Err(CliError::failed(format!(
        "revoked, but not everywhere obeyed: {}",
        failed.join("; ")
    )))
}

fn say_revoked(revocation: &Revocation, output: Output) {
    for Revoked { entry, repeated } in &revocation.revoked {
        if *repeated {
            output.say(format_args!(
                "{} has been revoked since {} ({}).",
                entry.serial,
                clock::rfc3339(entry.time),
                entry.reason
            ));
        } else {
            output.say(format_args!("Revoked {} ({}).", entry.serial, entry.reason));
        }
    }
    for list in &revocation.crls {
        say_list(list, output);
    }
}

fn target(args: &RevokeArgs, pki: &Pki) -> Result<RevocationTarget, CliError> {
    let Target {
        serial,
        cert,
        identity,
    } = &args.target;
    // `--all` and `--issued-before` select among the certificates of an identity. The argument
    // parser does not check that `--identity` is given too.
    if identity.is_none() && (args.all || args.issued_before.is_some()) {
        return Err(CliError::usage(
            "--all and --issued-before go with --identity",
        ));
    }
    // `--unrecorded` needs `--serial`. The argument parser does not check this if there is another
    // target.
    if serial.is_none() && args.unrecorded {
        return Err(CliError::usage("--unrecorded goes with --serial"));
    }
    if let Some(serial) = serial {
        return Ok(match args.unrecorded {
            true => RevocationTarget::UnrecordedSerial(serial.clone()),
            false => RevocationTarget::Serial(serial.clone()),
        });
    }
    if let Some(path) = cert {
        return Ok(RevocationTarget::File(path.clone()));
    }
    let name = identity
        .as_deref()
        .ok_or_else(|| CliError::usage("give --serial, --cert or --identity"))?;
    let among = match args.issued_before {
        Some(time) => Among::IssuedBefore(time),
        None if args.all => Among::All,
        None => Among::Only,
    };
    Ok(RevocationTarget::Name(pki.printed_name(name), among))
}

pub(super) fn crl(args: &CrlArgs, output: Output) -> Result<Exit, CliError> {
    if let Some(path) = &args.root_crl {
        let list = Pki::open(&args.dir)?.publish_root_list(path, args.force)?;
        output.json(&json!({ "crls": [list_document(&list)] }));
        say_list(&list, output);
        if let Some(command) = &args.exec {
            hook::run(command, &environment(args)).map_err(CliError::failed)?;
        }
        return Ok(Exit::Done);
    }
    let mut passphrase = None;
    let Some(every) = args.every else {
        sign_lists(args, &mut passphrase, output)?;
        if let Some(command) = &args.exec {
            hook::run(command, &environment(args)).map_err(CliError::failed)?;
        }
        return Ok(Exit::Done);
    };
    check_interval(args, every)?;
    let (mut has_begun, mut owed) = (false, false);
    loop {
        let (wait, due) = match sign_lists(args, &mut passphrase, output) {
            Ok(()) => (every, true),
            // Invalid arguments end the command at the first run, because waiting cannot correct
            // them. A later error may be temporary, for example while a file is being replaced.
            Err(error) if error.exit == Exit::Usage && !has_begun => return Err(error),
            Err(error) => {
                output.error(&error);
                (every.min(RETRY), false)
            }
        };
        has_begun = true;
        owed |= due;
        if let Some(command) = args.exec.as_ref().filter(|_| owed) {
            match hook::run(command, &environment(args)) {
                Ok(()) => owed = false,
                Err(error) => output.error(&CliError::failed(error)),
            }
        }
        hook::sleep_about(wait);
    }
}

fn environment(args: &CrlArgs) -> [(&'static str, PathBuf); 1] {
    [("COUNTERSIGN_LISTS", args.dir.join("crl"))]
}

/// Checks that the interval `every` is so short that each CRL is signed again before it expires,
/// even if one attempt fails.
fn check_interval(args: &CrlArgs, every: Lifetime) -> Result<(), CliError> {
    let pki = Pki::open(&args.dir)?;
    let authorities = chosen(args, &pki, Output::new(false, true))?;
    let lifetime = |name: &AuthorityName| args.lifetime.unwrap_or_else(|| pki.crl_lifetime(*name));
    let shortest = authorities.iter().map(lifetime).min();
    if shortest.is_some_and(|shortest| every.as_seconds() > shortest.as_seconds() / 2) {
        return Err(CliError::usage(format!(
            "--every {every} is more than half of the lists' lifetime: they would run out when \
             signing fails once; sign more often, or give a longer --lifetime"
        )));
    }
    Ok(())
}

/// Signs the CRLs. Opens the authority each time, because a rotation of the authority may have
/// replaced its keys.
fn sign_lists(
    args: &CrlArgs,
    passphrase: &mut Option<Secret>,
    output: Output,
) -> Result<(), CliError> {
    let mut pki = Pki::open(&args.dir)?;
    if let Some(secret) = passphrase.as_ref() {
        pki.set_passphrase(secret.clone());
    }
    let authorities = chosen(args, &pki, output)?;
    if let Some(number) = args.number {
        for authority in authorities {
            pki.check_crl_number(*authority, number)?;
        }
    }
    let mut lists = Vec::with_capacity(authorities.len());
    // Signs one CRL after the other. If the process is killed, each CRL is either the old or the
    // new one.
    for authority in authorities {
        args.passphrase.unlock(&mut pki, *authority)?;
        lists.extend(pki.sign_numbered_crls(*authority, args.lifetime, args.number)?);
    }
    *passphrase = pki.passphrase().cloned();
    output.json(&json!({ "crls": lists.iter().map(list_document).collect::<Vec<_>>() }));
    for list in &lists {
        say_list(list, output);
    }
    Ok(())
}

fn chosen(args: &CrlArgs, pki: &Pki, output: Output) -> Result<&'static [AuthorityName], CliError> {
    let root_is_here = pki.layout().key(AuthorityName::Root).exists();
    Ok(match args.issuer {
        Some(Issuer::Root) => &[AuthorityName::Root],
        Some(Issuer::Intermediate) if pki.issuer() == AuthorityName::Root => {
            return Err(CliError::usage(
                "this authority has no intermediate; its root issues: --issuer root",
            ));
        }
        Some(Issuer::Intermediate) => &[AuthorityName::Intermediate],
        None if !root_is_here && pki.issuer() == AuthorityName::Intermediate => {
            output.note("note: the root's key is not here; its list stays as it is");
            &[AuthorityName::Intermediate]
        }
        Some(Issuer::All) | None => pki.authorities(),
    })
}

fn list_document(list: &SignedCrl) -> serde_json::Value {
    json!({
        "issuer": list.authority.as_str(),
        "generation": list.generation.number(),
        "path": absolute(&list.path),
        "number": list.number,
        "this_update": clock::rfc3339(list.this_update),
        "next_update": clock::rfc3339(list.next_update),
        "entries": list.entries,
    })
}

fn say_list(list: &SignedCrl, output: Output) {
    output.say(format_args!(
        "{}: list number {} with {} revoked, next update {}",
        list.path.display(),
        list.number,
        list.entries,
        moment(list.next_update)
    ));
}
