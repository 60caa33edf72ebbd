//! `countersign pki revoke`, `crl` and `list`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::passphrase::PassphraseArgs;
use super::words::{absolute, moment};
use crate::cli::{CliError, Exit, Output};
use crate::clock;
use crate::pki::{AuthorityName, Lifetime, Pki, RevocationReason, RevocationTarget, SignedList};

const REVOKE_EXAMPLES: &str = "\
Examples:
  countersign pki revoke --dir certs --cert certs/issued/checkout.pem --reason key-compromise
  countersign pki revoke --dir certs --serial 3b1f0c6e5a7d48f2917bc04ad2e86f55

Writes DIR/crl/*.crl anew at once. Gateways that watch the file act within a second.
Repeating it is harmless.";

const CRL_EXAMPLES: &str = "\
Examples:
  countersign pki crl --dir certs --issuer intermediate
  countersign pki crl --dir certs --issuer all --lifetime 14d

The root's list is good for a year, the intermediate's for 7 days, unless --lifetime says
otherwise. Run this before they run out: a gateway with revocation = \"hard\" refuses every
certificate once its issuer's list is out of date.";

const LIST_EXAMPLES: &str = "\
Examples:
  countersign pki list --dir certs
  countersign pki list --dir certs --json";

/// Arguments of `countersign pki revoke`.
#[derive(Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(super) struct RevokeArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Why.
    #[arg(
        long,
        default_value = "unspecified",
        value_parser = PossibleValuesParser::new(RevocationReason::ALL.iter().map(|r| r.as_str()))
            .try_map(|word| word.parse::<RevocationReason>()),
    )]
    reason: RevocationReason,
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
}

/// Arguments of `countersign pki crl`.
#[derive(Debug, Args)]
#[command(after_help = CRL_EXAMPLES)]
pub(super) struct CrlArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Whose list to sign [default: all, without the root where its key is kept elsewhere].
    #[arg(long, value_enum)]
    issuer: Option<Issuer>,
    /// How long the lists are good for, such as 7d [default: root 365d, intermediate 7d].
    #[arg(long, value_name = "TIME")]
    lifetime: Option<Lifetime>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Issuer {
    /// The root, whose list says whether the intermediate is revoked.
    Root,
    /// The intermediate, whose list says which leaves are revoked.
    Intermediate,
    /// Both.
    All,
}

/// Arguments of `countersign pki list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn revoke(args: &RevokeArgs, output: Output) -> Result<Exit, CliError> {
    let mut pki = Pki::open(&args.dir)?;
    let target = match (&args.target.serial, &args.target.cert) {
        (Some(serial), _) => RevocationTarget::Serial(serial.clone()),
        (None, Some(path)) => RevocationTarget::File(path.clone()),
        (None, None) => return Err(CliError::usage("give --serial or --cert")),
    };
    // Before asking for a passphrase: is there anything to revoke?
    let (authority, _) = pki.find(&target)?;
    args.passphrase.unlock(&mut pki, authority)?;
    let revocation = pki.revoke(&target, args.reason)?;
    output.json(&json!({
        "serial": revocation.serial,
        "issuer": authority.as_str(),
        "reason": revocation.entry.reason.as_str(),
        "revoked_at": clock::rfc3339(revocation.entry.time),
        "repeated": revocation.repeated,
        "crl": list_document(&revocation.list),
    }));
    if revocation.repeated {
        output.say(format_args!(
            "{} has been revoked since {} ({}).",
            revocation.serial,
            clock::rfc3339(revocation.entry.time),
            revocation.entry.reason
        ));
    } else {
        output.say(format_args!(
            "Revoked {} ({}).",
            revocation.serial, revocation.entry.reason
        ));
    }
    say_list(&revocation.list, output);
    Ok(Exit::Done)
}

pub(super) fn crl(args: &CrlArgs, output: Output) -> Result<Exit, CliError> {
    let mut pki = Pki::open(&args.dir)?;
    let root_is_here = pki.layout().key(AuthorityName::Root).exists();
    let authorities: &[AuthorityName] = match args.issuer {
        Some(Issuer::Root) => &[AuthorityName::Root],
        Some(Issuer::Intermediate) => &[AuthorityName::Intermediate],
        None if !root_is_here => {
            output.note("note: the root's key is not here; its list stays as it is");
            &[AuthorityName::Intermediate]
        }
        Some(Issuer::All) | None => &AuthorityName::ALL,
    };
    let mut lists = Vec::with_capacity(authorities.len());
    for authority in authorities {
        args.passphrase.unlock(&mut pki, *authority)?;
        lists.push(pki.sign_list(*authority, args.lifetime)?);
    }
    output.json(&json!({ "crls": lists.iter().map(list_document).collect::<Vec<_>>() }));
    for list in &lists {
        say_list(list, output);
    }
    Ok(Exit::Done)
}

pub(super) fn list(args: &ListArgs, output: Output) -> Result<Exit, CliError> {
    let pki = Pki::open(&args.dir)?;
    let issued = pki.issued()?;
    let documents: Vec<_> = issued
        .iter()
        .map(|(record, status)| {
            json!({
                "serial": record.serial,
                "status": status.as_str(),
                "identity": record.names.first(),
                "names": record.names,
                "profile": record.profile,
                "not_before": clock::rfc3339(record.not_before),
                "not_after": clock::rfc3339(record.not_after),
                "x5t#S256": record.thumbprint,
                "certificate": record.certificate,
            })
        })
        .collect();
    output.json(&json!({ "certificates": documents }));
    if issued.is_empty() {
        output.say("Nothing has been issued yet.");
    }
    for (record, status) in &issued {
        output.say(format_args!(
            "{serial:32}  {status:7}  {until}  {profile:6}  {names}",
            serial = record.serial,
            status = status.as_str(),
            until = clock::rfc3339(record.not_after),
            profile = record.profile,
            names = record.names.join(", "),
        ));
    }
    Ok(Exit::Done)
}

fn list_document(list: &SignedList) -> serde_json::Value {
    json!({
        "issuer": list.authority.as_str(),
        "path": absolute(&list.path),
        "number": list.number,
        "this_update": clock::rfc3339(list.this_update),
        "next_update": clock::rfc3339(list.next_update),
        "entries": list.entries,
    })
}

fn say_list(list: &SignedList, output: Output) {
    output.say(format_args!(
        "{}: list number {} with {} revoked, next update {}",
        list.path.display(),
        list.number,
        list.entries,
        moment(list.next_update)
    ));
}
