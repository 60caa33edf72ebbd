//! `countersign pki issue`: issues certificates with new keys.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::authority::{open, profile, with_remedy};
use crate::assertion::{AssertionSettings, WANTED_PATH};
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::input;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::identity::text::shell;
use crate::pki::signing::request::label_for;
use crate::pki::{
    AuthorityName, CertificateProfile, IssueRequest, Issued, Lifetime, Pki, PkiError, RequestError,
    SubjectNames,
};

/// Maximum number of bytes of a file with a list of names.
const MAX_FILE: u64 = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  countersign pki issue spiffe://example.org/ns/shop/sa/checkout --dir certs
  countersign pki issue gateway --dir certs --profile server --dns localhost --ip 127.0.0.1
  countersign pki issue checkout --dir certs --spiffe /ns/shop/sa/checkout --lifetime 7d
  countersign pki issue alice --dir certs --email alice@example.org --out /run/alice/tls
  countersign pki issue --from callers.txt --dir certs --lifetime 7d

Writes PREFIX.pem (the leaf, then the intermediate) and PREFIX.key (mode 0600). PREFIX is
DIR/issued/NAME; for a SPIFFE ID the last segment of its path counts as NAME.

A NAME that is a SPIFFE ID, a host name or an IP address becomes the certificate's name when
no other is given. Names of different types can be combined; a SPIFFE ID stands alone among
URIs and must belong to the authority's trust domain.

Without --profile the names decide: SPIFFE IDs, host names and addresses get `peer` (client
and server), wildcards `server`, mail addresses and other URIs `client`. A certificate with a
SPIFFE ID carries both usages always, as X509-SVID demands. DIR/profiles.toml changes these
profiles and adds others: see countersign pki profiles.

--from reads one NAME per line; empty lines and lines that begin with # do not count. Names of
the list that have a live certificate in its place already are skipped, so a run that was
stopped is continued by repeating it.";

/// Arguments of `countersign pki issue`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IssueArgs {
    /// The name of the certificate's holder; the file names are made from it.
    #[arg(required_unless_present = "from")]
    name: Option<String>,
    /// Issue a certificate for each line of LIST, or of standard input with `-`.
    #[arg(
        long,
        value_name = "LIST",
        conflicts_with_all = ["name", "spiffe", "dns", "ip", "email", "uri", "out"],
    )]
    from: Option<PathBuf>,
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What the certificate is for: client, server, peer, or a profile of DIR/profiles.toml
    /// [default: what its names can be used for].
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// A SPIFFE ID, or its path in the authority's trust domain.
    #[arg(long, value_name = "ID|/PATH", help_heading = "Names")]
    spiffe: Option<String>,
    /// A host name; with --profile server also a wildcard such as `*.example.org`.
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    dns: Vec<String>,
    /// An IP address.
    #[arg(long, value_name = "ADDRESS", help_heading = "Names")]
    ip: Vec<String>,
    /// A mail address.
    #[arg(long, value_name = "ADDRESS", help_heading = "Names")]
    email: Vec<String>,
    /// A URI.
    #[arg(long, value_name = "URI", help_heading = "Names")]
    uri: Vec<String>,
    /// How long the certificate is valid, such as 90m, 24h or 7d [default: what the profile says,
    /// 24h; at most 825d].
    #[arg(long, value_name = "TIME")]
    lifetime: Option<Lifetime>,
    /// Write PREFIX.pem and PREFIX.key instead of DIR/issued/NAME.{pem,key}.
    #[arg(long, value_name = "PREFIX")]
    out: Option<PathBuf>,
    /// Replace existing files.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) fn run(args: &IssueArgs, output: Output) -> Result<Exit, CliError> {
    match (&args.from, &args.name) {
        (Some(list), _) => issue_list(list, args, output),
        (None, Some(name)) => issue_one(name, args, output),
        (None, None) => Err(CliError::usage("give a NAME or --from LIST")),
    }
}

fn issue_list(list: &Path, args: &IssueArgs, output: Output) -> Result<Exit, CliError> {
    let mut pki = open(&args.dir)?;
    let profile = chosen(args, &pki)?;
    let content = input::read(list, MAX_FILE)?;
    let text = str::from_utf8(&content)
        .map_err(|error| CliError::usage(format!("{} is not text: {error}", list.display())))?;
    let mut requests = Vec::new();
    // Checks all lines first, so that a command that must fail does not ask for a passphrase.
    for (index, line) in text.lines().enumerate() {
        let name = line.trim();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        let request = listed(name, args, profile.as_ref()).and_then(|request| {
            pki.check_names(&request)
                .map_err(|error| error.to_string())?;
            Ok(request)
        });
        let request = request.map_err(|error| {
            CliError::usage(format!("{} line {}: {error}", list.display(), index + 1))
        })?;
        requests.push((request, name));
    }
    let longest = requests.iter().map(|(_, name)| name);
    if let Some(note) = longest
        .max_by_key(|name| name.len())
        .and_then(|name| long_name_note(name))
    {
        output.note(format_args!("note: {note}"));
    }
    let requests: Vec<IssueRequest> = requests.into_iter().map(|(request, _)| request).collect();
    let issuer = pki.issuer();
    args.passphrase.unlock(&mut pki, issuer)?;
    let shows_progress = io::stderr().is_terminal() && !output.is_json();
    let started = Instant::now();
    let mut is_first = true;
    let done = pki
        .issue_many(&requests, &mut |done| {
            if shows_progress {
                let percent = (done.issued + done.skipped) * 100 / done.total.max(1);
                let text = format!(
                    "{percent:3} %  {} issued, {} skipped, of {}",
                    done.issued, done.skipped, done.total
                );
                output.progress(is_first, text);
                is_first = false;
            }
        })
        .map_err(|error| with_remedy(error, "--force replaces it"))?;
    let seconds = started.elapsed().as_secs_f64();
    output.json(&json!({
        "total": done.total,
        "issued": done.issued,
        "skipped": done.skipped,
        "seconds": seconds,
        "directory": absolute(&pki.layout().directory().join("issued")),
    }));
    output.say(format_args!(
        "Issued {} certificates in {seconds:.1} seconds, skipped {} that were there: {}",
        done.issued,
        done.skipped,
        pki.layout().directory().join("issued").display(),
    ));
    Ok(Exit::Done)
}

/// Creates the request for one line of a list.
fn listed(
    name: &str,
    args: &IssueArgs,
    profile: Option<&CertificateProfile>,
) -> Result<IssueRequest, String> {
    let label = label_for(name).map_err(|error| error.to_string())?;
    let names = SubjectNames::new()
        .or_name(name)
        .map_err(|error| error.to_string())?;
    Ok(with_options(IssueRequest::new(label, names), args, profile))
}

fn chosen(args: &IssueArgs, pki: &Pki) -> Result<Option<CertificateProfile>, CliError> {
    let name = args.profile.as_deref();
    name.map(|name| profile(pki, name)).transpose()
}

fn with_options(
    request: IssueRequest,
    args: &IssueArgs,
    profile: Option<&CertificateProfile>,
) -> IssueRequest {
    let mut request = request.overwrite(args.force);
    if let Some(profile) = profile {
        request = request.profile(profile.clone());
    }
    if let Some(lifetime) = args.lifetime {
        request = request.lifetime(lifetime);
    }
    request
}

fn issue_one(name: &str, args: &IssueArgs, output: Output) -> Result<Exit, CliError> {
    let label = label_for(name).map_err(|error| {
        CliError::usage(format!(
            "{error}; give a plain NAME, and the certificate's names with \
             --spiffe, --dns, --ip, --email or --uri"
        ))
    })?;
    let mut pki = open(&args.dir)?;
    let profile = chosen(args, &pki)?;
    let names = names(name, args, &pki).map_err(PkiError::from)?;
    let mut request = with_options(IssueRequest::new(label, names), args, profile.as_ref());
    if let Some(prefix) = &args.out {
        request = request.out(prefix);
    }
    let remedy = |error| {
        with_remedy(
            error,
            "--out PREFIX writes elsewhere, --force replaces it (the earlier certificate \
             stays valid until it expires or is revoked)",
        )
    };
    // Checks the request first, so that a command that must fail does not ask for a passphrase.
    pki.check(&request).map_err(remedy)?;
    let issuer = pki.issuer();
    args.passphrase.unlock(&mut pki, issuer)?;
    let mut issued = pki.issue(&request).map_err(remedy)?;
    issued.notes.extend(long_name_note(issued.identity()));
    report(&issued, &pki, args, output);
    Ok(Exit::Done)
}

/// Returns a note if assertions about this caller leave little room for the path of a request.
pub(super) fn long_name_note(identity: &str) -> Option<String> {
    let room = AssertionSettings::default_path_room(identity.len());
    (room < WANTED_PATH).then(|| {
        format!(
            "the name has {} bytes; by default, assertions about it have room for a path of {room} \
             bytes only: gateways need a larger max_size in [assertion], at most 7KiB",
            identity.len()
        )
    })
}

fn names(name: &str, args: &IssueArgs, pki: &Pki) -> Result<SubjectNames, RequestError> {
    let mut names = SubjectNames::new();
    if let Some(text) = &args.spiffe {
        names = names.spiffe_text(text, pki.trust_domain())?;
    }
    for uri in &args.uri {
        names = names.uri(uri)?;
    }
    for host in &args.dns {
        names = names.dns(host)?;
    }
    for address in &args.ip {
        names = names.ip_text(address)?;
    }
    for address in &args.email {
        names = names.email(address)?;
    }
    names.or_name(name)
}

fn report(issued: &Issued, pki: &Pki, args: &IssueArgs, output: Output) {
    output.json(&json!({
        "certificate": absolute(&issued.certificate),
        "key": absolute(&issued.key),
        "trust": absolute(&pki.layout().trust()),
        "identity": issued.identity(),
        "names": issued.names,
        "profile": issued.profile.name(),
        "usages": issued.usages.words(),
        "serial": issued.serial,
        "x5t#S256": issued.thumbprint,
        "not_before": clock::rfc3339(issued.not_before),
        "not_after": clock::rfc3339(issued.not_after),
        "notes": issued.notes,
    }));
    let certificate = shell(&issued.certificate);
    let key = shell(&issued.key);
    let next = if issued.usages.client && args.profile.as_deref() != Some("server") {
        format!(
            "Next, call a gateway with it:\n  curl --cert {certificate} --key {key} --cacert {} \
             https://localhost:8443/",
            shell(&pki.layout().trust())
        )
    } else {
        format!(
            "Next, under [listener] in countersign.toml:\n  certificate = {:?}\n  private_key = {:?}",
            issued.certificate, issued.key
        )
    };
    output.say(format_args!(
        "\
Issued a certificate for {identity}.

  names        {names}
  profile      {profile} ({usages})
  valid until  {until}
  certificate  {certificate}  {content}
  private key  {key}  mode 0600, not encrypted
  serial       {serial}

{next}",
        identity = issued.identity(),
        names = issued.names.join(", "),
        profile = issued.profile,
        usages = issued.usages.words().join(" and "),
        until = moment(issued.not_after),
        content = match pki.issuer() {
            AuthorityName::Intermediate => "leaf, then intermediate",
            AuthorityName::Root => "the leaf alone: the root issued it",
        },
        serial = issued.serial,
    ));
    if !output.is_json() {
        for note in &issued.notes {
            output.note(format_args!("note: {note}"));
        }
    }
}
