//! `countersign pki rotate`: prepares, shows and completes a rotation of the authority.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;

use super::authority::{open, with_remedy};
use super::init::{KeyType, note_first_list, note_root_list, notes_on_requested, report_request};
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::identity::text::{printable, shell};
use crate::pki::{
    AuthorityCertificate, AuthorityName, Dependent, ExistingRoot, IntermediateRequest,
    KeyProtection, Lifetime, Pki, PkiError, RootSource, RotationOptions, SignedIntermediate,
};

const EXAMPLES: &str = "\
Examples:
  countersign pki rotate prepare --dir certs
  countersign pki rotate status --dir certs
  countersign pki renew certs/issued/checkout.pem --dir certs
  countersign pki rotate retire --dir certs

prepare makes a new root and intermediate; both roots are in DIR/trust.pem from then on, and
new certificates come from the new one. Renew what status lists, then retire the old root.";

const PREPARE_EXAMPLES: &str = "\
Examples:
  countersign pki rotate prepare --dir certs
  countersign pki rotate prepare --dir certs --passphrase-file pass --key-type p384
  countersign pki rotate prepare --dir certs --intermediate-only
  countersign pki rotate prepare --dir certs --intermediate-only --ca-key /media/offline/root.key
  countersign pki rotate prepare --dir certs --ca-cert root-2.pem --ca-key root-2.key
  countersign pki rotate prepare --dir certs --intermediate-csr next.csr
  countersign pki rotate prepare --dir certs --intermediate-cert next.pem --ca-crl root.crl

Hand out DIR/trust.pem to gateways, services and clients before new certificates are issued:
whoever does not know the new root refuses them. DIR/crl/*.crl hold the lists of both
generations. The earlier root and intermediate move to DIR/earlier; new keys are sealed if the
earlier ones are, with the same passphrase. Imported roots are replaced by one made here, unless
one of these options says otherwise.

--intermediate-only makes a new intermediate below the present root. --ca-cert takes a root of
another program. If the root's key is not here, --intermediate-csr makes the key of the next
intermediate and a request; --intermediate-cert continues with what the root has signed, below the
present root or below --ca-cert.";

const STATUS_EXAMPLES: &str = "\
Examples:
  countersign pki rotate status --dir certs
  countersign pki rotate status --dir certs --json

Lists the live certificates that still depend on the earlier generation. \"renewed as SERIAL\": its
files hold a newer certificate already, and only programs that have not loaded that still use it.
Exit code 3 while there are any, 0 when the earlier root can be retired or there is none.";

const RETIRE_EXAMPLES: &str = "\
Examples:
  countersign pki rotate retire --dir certs
  countersign pki rotate retire --dir certs --force

Takes the earlier root out of DIR/trust.pem and moves its generation to DIR/retired. Refused
while live certificates depend on it that were not renewed, or if the root stays and has not revoked
the earlier intermediate. --force retires it in any case; the list of such an intermediate stays. Gateways
refuse the certificates of that generation as soon as they read the new DIR/trust.pem: run it when
every program has loaded its new certificate.";

/// Maximum number of entries in a listing as text.
const PAGE: u32 = 1_000;

/// Arguments of `countersign pki rotate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RotateArgs {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Make a new root and intermediate, and keep the current ones trusted.
    Prepare(Box<PrepareArgs>),
    /// Show which certificates still depend on the earlier generation.
    Status(StatusArgs),
    /// Stop trusting the earlier root.
    Retire(RetireArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = PREPARE_EXAMPLES,
    group = ArgGroup::new("root_use").args(["ca_key", "intermediate_cert"]),
    group = ArgGroup::new("root_of_key").args(["ca_cert", "intermediate_only"]),
)]
struct PrepareArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The kind of the new keys [default: p256, unless profile intermediate says otherwise].
    #[arg(long, value_enum, value_name = "TYPE")]
    key_type: Option<KeyType>,
    /// How long the new root is valid [default and limit: 3652d].
    #[arg(long, value_name = "TIME")]
    root_lifetime: Option<Lifetime>,
    /// How long the new intermediate is valid [default: 1826d; at most 3652d].
    #[arg(long, value_name = "TIME")]
    intermediate_lifetime: Option<Lifetime>,
    /// Keep the current root, and replace only the intermediate.
    #[arg(long, conflicts_with_all = ["ca_cert", "root_lifetime"])]
    intermediate_only: bool,
    /// Use this root instead of making a new one.
    #[arg(
        long,
        value_name = "FILE",
        requires = "root_use",
        conflicts_with = "root_lifetime"
    )]
    ca_cert: Option<PathBuf>,
    /// The private key of --ca-cert, or of the current root with --intermediate-only.
    #[arg(long, value_name = "FILE", requires = "root_of_key")]
    ca_key: Option<PathBuf>,
    /// Make only the key of the next intermediate, and write a request to FILE that the root must
    /// sign.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "root_lifetime", "intermediate_lifetime", "ca_cert", "ca_key", "intermediate_only",
        "intermediate_cert",
    ])]
    intermediate_csr: Option<PathBuf>,
    /// Use this certificate of the requested intermediate, which the root has signed.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "key_type", "root_lifetime", "intermediate_lifetime", "ca_key", "intermediate_only",
    ])]
    intermediate_cert: Option<PathBuf>,
    /// The last revocation list of the root that was signed elsewhere. With --ca-cert and --ca-key, its
    /// number and revocations are continued here.
    #[arg(
        long,
        value_name = "FILE",
        requires = "root_use",
        conflicts_with = "intermediate_only"
    )]
    ca_crl: Option<PathBuf>,
    /// Replace a pending request and its key.
    #[arg(long, requires = "intermediate_csr")]
    force: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
struct StatusArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = RETIRE_EXAMPLES)]
struct RetireArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Has no effect any more: renewed certificates never prevent the retirement.
    #[arg(long, hide = true, conflicts_with = "force")]
    renewed: bool,
    /// Retire the earlier generation even if live certificates depend on it.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &RotateArgs, output: Output) -> Result<Exit, CliError> {
    match &args.step {
        Step::Prepare(args) => prepare(args, output),
        Step::Status(args) => status(args, output),
        Step::Retire(args) => retire(args, output),
    }
}

fn prepare(args: &PrepareArgs, output: Output) -> Result<Exit, CliError> {
    let mut pki = open(&args.dir)?;
    // Checks for a rotation first, so that a command that must fail does not ask for a passphrase.
    if let Some(rotation) = pki.rotation()? {
        return Err(PkiError::RotationUnderWay(rotation.earlier).into());
    }
    let issuer = pki.issuer();
    args.passphrase.unlock(&mut pki, issuer)?;
    if let Some(out) = &args.intermediate_csr {
        return request(args, &mut pki, out, output);
    }
    pki.prepare_rotation(&RotationOptions {
        root: root_source(args, &pki),
        algorithm: args.key_type.map(Into::into),
        root_lifetime: args.root_lifetime,
        intermediate_lifetime: args.intermediate_lifetime,
    })?;
    let rotation = pki.rotation()?.ok_or(PkiError::NothingToRetire)?;
    output.json(&json!({
        "generation": pki.generation().number(),
        "root": authority_document(pki.authority(AuthorityName::Root)),
        "issuer": issuer.as_str(),
        "intermediate": authority_document(pki.authority(issuer)),
        "trust": absolute(&pki.layout().trust()),
        "earlier": absolute(pki.layout().earlier().directory()),
        "dependents": rotation.dependents,
    }));
    output.say(format_args!(
        "\
Generation {number} issues from now on; {trusted}.

  root           {root}  until {root_end}
  issuer         {intermediate}  until {intermediate_end}
  trusted roots  {trust}
  earlier        {earlier}  {dependents} live certificates depend on it

Next, hand out the trusted roots and the lists in {lists}, renew the certificates that
`countersign pki rotate status` lists, then run `countersign pki rotate retire`.",
        number = pki.generation().number(),
        trusted = match pki.keeps_root() {
            true => "the root is the same",
            false => "both roots are trusted",
        },
        root = pki.layout().certificate(AuthorityName::Root).display(),
        root_end = moment(pki.authority(AuthorityName::Root).facts().not_after),
        intermediate = pki.layout().certificate(issuer).display(),
        intermediate_end = moment(pki.authority(issuer).facts().not_after),
        trust = pki.layout().trust().display(),
        earlier = pki.layout().earlier().directory().display(),
        dependents = rotation.dependents,
        lists = pki.layout().directory().join("crl").display(),
    ));
    note_root_list(&pki, output);
    if args.ca_cert.is_some() && args.ca_key.is_some() && args.ca_crl.is_none() && !pki.keeps_root()
    {
        note_first_list(output);
    }
    if args.intermediate_cert.is_some() {
        notes_on_requested(&pki, output);
    }
    Ok(Exit::Done)
}

/// Requests the next intermediate from a root whose key is elsewhere.
fn request(
    args: &PrepareArgs,
    pki: &mut Pki,
    out: &Path,
    output: Output,
) -> Result<Exit, CliError> {
    pki.request_next_intermediate(&IntermediateRequest {
        out: out.to_owned(),
        algorithm: args.key_type.map(Into::into),
        overwrite: args.force,
    })
    .map_err(|error| with_remedy(error, "--force replaces it"))?;
    let option = match pki.passphrase() {
        Some(_) => args.passphrase.repeated(),
        None => String::new(),
    };
    let dir = shell(&args.dir);
    let command = format!("countersign pki rotate prepare --dir {dir}{option}");
    let protection = match pki.passphrase() {
        Some(passphrase) => KeyProtection::Passphrase(passphrase.clone()),
        None => KeyProtection::Plain,
    };
    report_request(&args.dir, out, &command, &protection, output);
    Ok(Exit::Done)
}

fn root_source(args: &PrepareArgs, pki: &Pki) -> RootSource {
    let passphrase = pki.passphrase().cloned();
    if let Some(certificate) = &args.intermediate_cert {
        return RootSource::SignedElsewhere(SignedIntermediate {
            certificate: certificate.clone(),
            root: args.ca_cert.clone(),
            root_list: args.ca_crl.clone(),
            passphrase,
        });
    }
    match (&args.ca_cert, &args.ca_key) {
        (Some(certificate), Some(key)) => RootSource::Existing(ExistingRoot {
            certificate: certificate.clone(),
            key: key.clone(),
            passphrase,
            root_list: args.ca_crl.clone(),
        }),
        (None, key) if args.intermediate_only => RootSource::Present { key: key.clone() },
        _ => RootSource::New,
    }
}

fn status(args: &StatusArgs, output: Output) -> Result<Exit, CliError> {
    let pki = Pki::open(&args.dir)?;
    let generation = pki.generation().number();
    let Some(rotation) = pki.rotation()? else {
        output.json(&json!({ "generation": generation, "earlier": null, "dependents": 0 }));
        output.say(format_args!(
            "Generation {generation} alone is trusted; no rotation is under way."
        ));
        return Ok(Exit::Done);
    };
    let limit = (!output.is_json()).then_some(PAGE);
    let dependents = pki.dependents(limit)?;
    output.json(&json!({
        "generation": generation,
        "earlier": {
            "generation": rotation.earlier.number(),
            "root": authority_document(rotation.root),
            "intermediate": authority_document(rotation.issuer),
        },
        "dependents": rotation.dependents,
        "renewed": rotation.renewed,
        "certificates": dependents.iter().map(document).collect::<Vec<_>>(),
    }));
    if rotation.dependents == 0 {
        output.say(format_args!(
            "No live certificate depends on generation {}; next: countersign pki rotate retire",
            rotation.earlier.number()
        ));
        return Ok(Exit::Done);
    }
    output.say(format_args!(
        "{} live certificates depend on generation {}, {} of them renewed:",
        rotation.dependents,
        rotation.earlier.number(),
        rotation.renewed
    ));
    output.say(table(&dependents));
    if rotation.renewed == rotation.dependents {
        output.say(
            "Once every program has loaded its new certificate: countersign pki rotate retire",
        );
    }
    if rotation.dependents > u64::from(PAGE) && !output.is_json() {
        output.note("there are more: --json lists all of them");
    }
    Ok(Exit::No)
}

fn retire(args: &RetireArgs, output: Output) -> Result<Exit, CliError> {
    let mut pki = Pki::open(&args.dir)?;
    let keeps_root = pki.keeps_root();
    let retired = pki.retire(args.force)?;
    output.json(&json!({
        "generation": pki.generation().number(),
        "retired": retired.generation.number(),
        "directory": absolute(&retired.directory),
        "trust": absolute(&pki.layout().trust()),
        "abandoned": retired.abandoned,
        "keeps_list": retired.keeps_list,
    }));
    if keeps_root {
        output.say(format_args!(
            "\
Generation {} is retired; hand the lists in {} out again. Its root is still trusted. {}.
Its certificates and keys are in {}; destroy the keys.",
            retired.generation.number(),
            pki.layout().directory().join("crl").display(),
            match retired.keeps_list {
                true =>
                    "Its intermediate is not revoked, and \
                     the last list of that stays in crl/intermediate.crl",
                false => "Gateways refuse its certificates, because its intermediate is revoked",
            },
            retired.directory.display(),
        ));
    } else {
        output.say(format_args!(
            "\
Generation {} is no longer in {}; hand that file out again.
Its certificates and keys are in {}; destroy the keys once no program trusts its root.",
            retired.generation.number(),
            pki.layout().trust().display(),
            retired.directory.display(),
        ));
    }
    note_root_list(&pki, output);
    if retired.abandoned > 0 {
        output.note(format_args!(
            "note: {} certificates that have not expired will be refused",
            retired.abandoned
        ));
    }
    Ok(Exit::Done)
}

fn authority_document(authority: &AuthorityCertificate) -> serde_json::Value {
    json!({
        "subject": authority.facts().subject,
        "serial": authority.facts().serial_hex(),
        "not_after": clock::rfc3339(authority.facts().not_after),
    })
}

fn document(Dependent { entry, renewed_as }: &Dependent) -> serde_json::Value {
    json!({
        "id": entry.id,
        "serial": entry.serial,
        "identity": entry.names.first(),
        "names": entry.names,
        "profile": entry.profile,
        "not_after": clock::rfc3339(entry.not_after),
        "certificate": entry.certificate,
        "renewed_as": renewed_as,
    })
}

fn table(dependents: &[Dependent]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["ENDS", "SERIAL", "NAMES", "FILE", "STATE"]);
    for Dependent { entry, renewed_as } in dependents {
        table.add_row([
            moment(entry.not_after),
            entry.serial.clone(),
            printable(&entry.names.join(", ")),
            printable(&entry.certificate.to_string_lossy()),
            match renewed_as {
                Some(serial) => format!("renewed as {serial}"),
                None => "to be renewed".to_owned(),
            },
        ]);
    }
    table
}
