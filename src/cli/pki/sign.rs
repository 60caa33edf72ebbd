//! `countersign pki sign`: signs a certificate request.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::authority::{open, profile, with_remedy};
use super::issue::long_name_note;
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::input;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::identity::text::printable;
use crate::pki::signing::request::label_for;
use crate::pki::store::SafeName;
use crate::pki::{IssueRequest, Lifetime, Pki, SigningRequest, SigningRequestError};

/// Maximum number of bytes of a file with a certificate request.
const MAX_FILE: u64 = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  countersign pki sign checkout.csr --dir certs --profile client
  countersign pki sign checkout.csr --dir certs --expect spiffe://example.org/ns/shop/sa/checkout
  openssl req -new -key k.pem -subj / -addext subjectAltName=URI:spiffe://example.org/a |
    countersign pki sign - --dir certs --profile peer --out certs/issued/a

Only the key and the names come from the request, after its signature has been checked. Usages,
lifetime and everything else come from the profile; what else was asked for is reported.
Refused with the gateway's reason code: CA:TRUE, a signature that does not verify, a weak key,
names of another trust domain, malformed names. --expect says which names you mean to certify, and
refuses a request with others (exit code 3).

Writes PREFIX.pem (the leaf, then the intermediate). PREFIX is DIR/issued/NAME, with NAME the
request's file name without its ending, or for standard input its first name.";

/// Arguments of `countersign pki sign`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SignArgs {
    /// The request in PEM or DER form; `-` is standard input.
    #[arg(value_name = "CSR")]
    request: PathBuf,
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What the certificate is for: client, server, peer, or a profile of DIR/profiles.toml
    /// [default: what its names can be used for].
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Sign only if the request has exactly this name, or these names if given several times: a
    /// SPIFFE ID or its path, a host name, mailto:ADDRESS, ip:ADDRESS or another URI.
    #[arg(long, value_name = "ID")]
    expect: Vec<String>,
    /// How long the certificate is valid, such as 90m, 24h or 7d [default: what the profile says,
    /// 24h; at most 825d].
    #[arg(long, value_name = "TIME")]
    lifetime: Option<Lifetime>,
    /// Write PREFIX.pem instead of DIR/issued/NAME.pem.
    #[arg(long, value_name = "PREFIX")]
    out: Option<PathBuf>,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) fn run(args: &SignArgs, output: Output) -> Result<Exit, CliError> {
    let mut pki = open(&args.dir)?;
    let signing = read_request(&args.request)?;
    check_expected(args, &pki, &signing)?;
    let mut request =
        IssueRequest::new(label(args, &signing)?, signing.names().clone()).overwrite(args.force);
    if let Some(name) = &args.profile {
        request = request.profile(profile(&pki, name)?);
    }
    if let Some(lifetime) = args.lifetime {
        request = request.lifetime(lifetime);
    }
    if let Some(prefix) = &args.out {
        request = request.out(prefix);
    }
    let remedy = |error| with_remedy(error, "--out PREFIX writes elsewhere, --force replaces it");
    pki.check_signing(&request).map_err(remedy)?;
    let issuer = pki.issuer();
    args.passphrase.unlock(&mut pki, issuer)?;
    let mut issued = pki.sign(&signing, &request).map_err(remedy)?;
    issued.notes.extend(long_name_note(issued.identity()));
    output.json(&json!({
        "certificate": absolute(&issued.certificate),
        "trust": absolute(&pki.layout().trust()),
        "identity": issued.identity(),
        "names": issued.names,
        "profile": issued.profile.name(),
        "usages": issued.usages.words(),
        "serial": issued.serial,
        "x5t#S256": issued.thumbprint,
        "not_before": clock::rfc3339(issued.not_before),
        "not_after": clock::rfc3339(issued.not_after),
        "ignored": signing.ignored(),
        "notes": issued.notes,
    }));
    output.say(format_args!(
        "\
Signed a certificate for {}.

  names        {}
  profile      {} ({})
  valid until  {}
  certificate  {}  leaf, then intermediate
  serial       {}",
        issued.identity(),
        issued.names.join(", "),
        issued.profile,
        issued.usages.words().join(" and "),
        moment(issued.not_after),
        issued.certificate.display(),
        issued.serial,
    ));
    if !output.is_json() {
        for note in &issued.notes {
            output.note(format_args!("note: {note}"));
        }
    }
    Ok(Exit::Done)
}

/// Reads a request from a file, or from standard input for `-`.
pub(super) fn read_request(path: &Path) -> Result<SigningRequest, CliError> {
    SigningRequest::read(&input::read(path, MAX_FILE)?).map_err(|error| match error {
        SigningRequestError::Refused(error) => CliError::usage(error),
        SigningRequestError::Unreadable(_) => {
            CliError::usage(format!("{}: {error}", path.display()))
        }
    })
}

/// Refuses a request for other names than the operator expects.
fn check_expected(args: &SignArgs, pki: &Pki, signing: &SigningRequest) -> Result<(), CliError> {
    if args.expect.is_empty() {
        return Ok(());
    }
    let mut expected: Vec<String> = args.expect.iter().map(|id| pki.printed_name(id)).collect();
    let mut asked: Vec<String> = signing.names().iter().map(ToString::to_string).collect();
    expected.sort();
    expected.dedup();
    asked.sort();
    asked.dedup();
    if expected == asked {
        return Ok(());
    }
    Err(CliError::no(format!(
        "{} asks for {}, not for {}; nothing was signed",
        input::name(&args.request),
        match asked.is_empty() {
            true => "no name".to_owned(),
            false => printable(&asked.join(", ")),
        },
        printable(&expected.join(", ")),
    )))
}

fn label(args: &SignArgs, signing: &SigningRequest) -> Result<SafeName, CliError> {
    let from_file = (args.request != Path::new("-"))
        .then(|| args.request.file_stem().and_then(|stem| stem.to_str()))
        .flatten()
        .and_then(|stem| label_for(stem).ok());
    let from_prefix = || {
        let name = args.out.as_ref()?.file_name()?.to_str()?;
        label_for(name).ok()
    };
    let from_names = || {
        let name = signing.names().iter().next()?.to_string();
        let plain = name.strip_prefix("dns:").unwrap_or(&name);
        label_for(plain).ok()
    };
    from_file
        .or_else(from_prefix)
        .or_else(from_names)
        .ok_or_else(|| CliError::usage("the request gives no file name; use --out PREFIX"))
}
