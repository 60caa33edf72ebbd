//! `countersign pki verify`: verifies one chain by the listener's path rules, offline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::common::certificate_files::{damaged, read_certificates};
use crate::cli::common::format::moment;
use crate::cli::common::input;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::clock;
use crate::identity::LeafFacts;
use crate::identity::text::{hex, printable};
use crate::pem;
use crate::pki::Lifetime;
use crate::pki::signing::names::carries;
use crate::reason::ReasonCode;
use crate::trust::{CrlNumber, CrlRules, PathPurpose, PathTrust};

const EXAMPLES: &str = "\
Examples:
  countersign pki verify --purpose client --roots certs/trust.pem \\
      --intermediates certs/intermediate.pem certs/issued/checkout.pem
  countersign pki verify --purpose client --roots certs/trust.pem \\
      --crl certs/crl/root.crl --crl certs/crl/intermediate.crl certs/issued/checkout.pem
  countersign pki verify --purpose server --roots roots.pem --time 2026-01-31T12:00:00Z -
  countersign pki verify --purpose server --roots roots.pem --name orders.example.org server.pem

The rules are the listener's, without identity and policy. The first certificate of LEAF is
verified; the others of that file serve as intermediates. Without --crl revocation is not
checked; with it, the leaf and every intermediate of the path need a current list, and every list
that is given has to be one that can be used: a delta or indirect list, for example, cannot.
--crl-number and --crl-max-age accept the lists that a gateway accepts with crl_number and max_age
in [[trust_domain]].
Exit code 0: the path holds. 3: it does not, and standard error begins with the reason.";

/// Maximum number of bytes of a file with certificates.
const MAX_CERTIFICATE_FILE: u64 = 64 << 20;
/// Maximum number of bytes of a file with CRLs.
const MAX_LIST_FILE: u64 = 512 << 20;

/// Arguments of `countersign pki verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct VerifyArgs {
    /// What the leaf is used for.
    #[arg(long, value_enum)]
    purpose: Purpose,
    /// Trusted roots, PEM or DER.
    #[arg(long, value_name = "FILE")]
    roots: PathBuf,
    /// Certificates that may be between leaf and root in the path, PEM or DER.
    #[arg(long, value_name = "FILE")]
    intermediates: Option<PathBuf>,
    /// Revocation lists, PEM or DER; may be given several times.
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// Whether a revocation list must have a CRL number.
    #[arg(long, value_enum, value_name = "WORD", default_value = "required")]
    crl_number: Number,
    /// How long a list without nextUpdate may be used after its thisUpdate [default: not at all].
    #[arg(long, value_name = "TIME")]
    crl_max_age: Option<Lifetime>,
    /// The leaf must carry this name: a host name, an address, a SPIFFE ID, mailto:ADDRESS or
    /// another URI.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The moment to verify for: seconds since 1970, or RFC 3339 [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<u64>,
    /// The leaf, PEM or DER; `-` reads standard input.
    #[arg(value_name = "LEAF")]
    leaf: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Purpose {
    /// A TLS client.
    Client,
    /// A TLS server.
    Server,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Number {
    /// A list without a number is refused.
    Required,
    /// A list may have no number.
    Optional,
}

fn parse_time(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "neither seconds since 1970 nor RFC 3339 (2026-01-31T12:00:00Z)".to_owned())?;
    u64::try_from(moment.unix_timestamp()).map_err(|_| "it is before 1970".to_owned())
}

pub(super) fn run(args: &VerifyArgs, output: Output) -> Result<Exit, CliError> {
    check_stdin(args)?;
    let mut chain = leaf_and_intermediates(&args.leaf)?.into_iter();
    let leaf = chain
        .next()
        .ok_or_else(|| CliError::usage("there is no certificate to verify"))?;
    let mut intermediates: Vec<_> = chain.collect();
    let roots = read_certificates(&args.roots, MAX_CERTIFICATE_FILE, pem::certificates)?;
    if let Some(path) = &args.intermediates {
        intermediates.extend(read_certificates(
            path,
            MAX_CERTIFICATE_FILE,
            pem::certificates,
        )?);
    }
    let mut lists = Vec::new();
    let mut files: Vec<&Path> = Vec::new();
    for path in &args.crl {
        lists.extend(revocation_lists(path)?);
        files.resize(lists.len(), path);
    }
    let purpose = match args.purpose {
        Purpose::Client => PathPurpose::Client,
        Purpose::Server => PathPurpose::Server,
    };
    let lists = (!args.crl.is_empty()).then_some(lists.as_slice());
    let lists = lists.map(|lists| (lists, crl_rules(args)));
    let trust = PathTrust::with_crl_rules(&roots, intermediates, lists, purpose);
    let seconds = args.time.unwrap_or_else(clock::unix_now);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let unusable = unusable(&trust, &args.roots, &files);
    let verified = trust.verify(&leaf, now).map_err(|error| match error {
        // The revocation status is unknown, probably because a CRL cannot be used. The detail then
        // describes that CRL.
        (ReasonCode::RevocationUnknown, detail) => {
            let why = unusable_crls(&trust, &files).next();
            (ReasonCode::RevocationUnknown, why.unwrap_or(detail))
        }
        other => other,
    });
    let verified = verified.and_then(|verified| {
        match args.name.as_deref().filter(|name| !is_for(&leaf, name)) {
            None => Ok(verified),
            Some(name) => Err((
                ReasonCode::NoIdentity,
                format!("the leaf does not carry the name {}", printable(name)),
            )),
        }
    });
    match verified {
        Ok(verified) => {
            remark(&trust, &unusable, output);
            output.json(&json!({
                "valid": true,
                "purpose": purpose.as_str(),
                "certificates": verified.length,
                "anchor": hex(&verified.anchor),
                "not_after": clock::rfc3339(verified.not_after),
                "revocation": verified.revocation.as_str(),
                "unusable": unusable,
            }));
            output.say(format_args!(
                "The path holds: {} certificates, until {}, revocation {}.",
                verified.length,
                moment(verified.not_after),
                verified.revocation.as_str()
            ));
            Ok(Exit::Done)
        }
        Err((reason, detail)) => {
            output.json(&json!({
                "valid": false,
                "purpose": purpose.as_str(),
                "reason": reason,
                "detail": detail,
                "unusable": unusable,
            }));
            // The reason code comes first, followed by a colon, so that scripts can find it.
            output.verdict(format_args!("{reason}: {detail}"));
            let others: Vec<String> = unusable.into_iter().filter(|why| *why != detail).collect();
            remark(&trust, &others, output);
            Ok(Exit::No)
        }
    }
}

fn crl_rules(args: &VerifyArgs) -> CrlRules {
    CrlRules {
        number: match args.crl_number {
            Number::Required => CrlNumber::Required,
            Number::Optional => CrlNumber::Optional,
        },
        max_age: args
            .crl_max_age
            .map(|age| Duration::from_secs(u64::try_from(age.as_seconds()).unwrap_or_default())),
    }
}

fn check_stdin(args: &VerifyArgs) -> Result<(), CliError> {
    let files = [&args.leaf, &args.roots]
        .into_iter()
        .chain(&args.intermediates)
        .chain(&args.crl);
    input::check_one_stdin(files.map(PathBuf::as_path))
}

fn is_for(leaf: &CertificateDer<'_>, name: &str) -> bool {
    LeafFacts::read(leaf).is_ok_and(|facts| carries(&facts, name))
}

/// Returns a description of each root and CRL that cannot be used, with the reason.
fn unusable(trust: &PathTrust, roots: &Path, files: &[&Path]) -> Vec<String> {
    let roots = trust.unusable_roots().iter().map(|(position, why)| {
        let file = roots.display();
        format!(
            "{file}: root certificate {} is left out: {why}",
            position + 1
        )
    });
    roots.chain(unusable_crls(trust, files)).collect()
}

fn unusable_crls<'a>(
    trust: &'a PathTrust,
    files: &'a [&'a Path],
) -> impl Iterator<Item = String> + 'a {
    trust.unusable_crls().iter().map(|(position, why)| {
        let file = files.get(*position).map(|file| file.display());
        format!(
            "{}: a revocation list cannot be used: {why}; {}",
            file.map(|file| file.to_string()).unwrap_or_default(),
            why.remedy()
        )
    })
}

fn remark(trust: &PathTrust, unusable: &[String], output: Output) {
    for unusable in unusable {
        output.note(format_args!("note: {unusable}"));
    }
    for alarm in trust.alarms() {
        output.note(format_args!("note: {alarm}"));
    }
}

/// Reads the leaf certificate and its intermediates. The file may also contain the leaf's private
/// key.
fn leaf_and_intermediates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CliError> {
    read_certificates(path, MAX_CERTIFICATE_FILE, pem::certificates_beside_key)
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, CliError> {
    let content = input::read(path, MAX_LIST_FILE)?;
    pem::revocation_lists(&content).map_err(|error| damaged(path, &error))
}
