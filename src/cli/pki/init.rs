//! `countersign pki init`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::passphrase::PassphraseArgs;
use super::with_remedy;
use super::words::{absolute, moment, shell};
use crate::cli::{CliError, Exit, Output};
use crate::clock;
use crate::identity::TrustDomain;
use crate::pki::{AuthorityName, KeyProtection, Pki, PkiError, revocation};

const EXAMPLES: &str = "\
Examples:
  countersign pki init --dir certs --trust-domain example.org
  countersign pki init --dir certs --trust-domain example.org --passphrase-file ca.pass
  countersign pki init --dir certs --trust-domain example.org --no-passphrase

Makes DIR/root.pem (P-256, 10 years), DIR/intermediate.pem (5 years) and their .key files,
DIR/trust.pem (every trusted root), DIR/crl/root.crl (good for a year) and
DIR/crl/intermediate.crl (good for 7 days; sign it anew with: countersign pki crl).";

/// Arguments of `countersign pki init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InitArgs {
    /// The authority's directory; made where it is not there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The trust domain the authority vouches for, such as example.org.
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    /// Write the private keys unencrypted, protected by their file mode alone.
    #[arg(
        long,
        help_heading = "Passphrase",
        conflicts_with_all = ["passphrase_file", "passphrase_env", "passphrase_fd"],
    )]
    no_passphrase: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Replace an authority that is there; nothing it issued is trusted any longer.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &InitArgs, output: Output) -> Result<Exit, CliError> {
    let remedy = |error| with_remedy(error, "--force replaces it");
    // Before asking for a passphrase: is there room?
    if !args.force {
        Pki::check_absent(&args.dir).map_err(remedy)?;
    }
    let protection = if args.no_passphrase {
        KeyProtection::Plain
    } else {
        KeyProtection::passphrase(args.passphrase.choose()?).map_err(PkiError::from)?
    };
    let create = if args.force {
        Pki::replace
    } else {
        Pki::create
    };
    let pki = create(&args.dir, &args.trust_domain, &protection).map_err(remedy)?;
    report(&pki, args, output);
    Ok(Exit::Done)
}

fn report(pki: &Pki, args: &InitArgs, output: Output) {
    let layout = pki.layout();
    let entry = |name: AuthorityName| {
        let facts = pki.authority(name).facts();
        json!({
            "certificate": absolute(&layout.certificate(name)),
            "key": absolute(&layout.key(name)),
            "crl": absolute(&layout.crl(name)),
            "subject": facts.subject,
            "serial": facts.serial_hex(),
            "not_before": clock::rfc3339(facts.not_before),
            "not_after": clock::rfc3339(facts.not_after),
        })
    };
    output.json(&json!({
        "dir": absolute(layout.directory()),
        "trust_domain": pki.trust_domain().as_str(),
        "trust": absolute(&layout.trust()),
        "keys_encrypted": !args.no_passphrase,
        "root": entry(AuthorityName::Root),
        "intermediate": entry(AuthorityName::Intermediate),
    }));
    let until = |name: AuthorityName| moment(pki.authority(name).facts().not_after);
    let keys = if args.no_passphrase {
        "not encrypted: whoever reads them can issue certificates"
    } else {
        "encrypted with your passphrase"
    };
    let dir = shell(&args.dir);
    output.say(format_args!(
        "\
Made a certificate authority for trust domain {domain}.

  root          {root}  until {root_until}
  intermediate  {intermediate}  until {intermediate_until}
  trusted roots {trust}  for gateways, services and clients
  revocation    {root_crl}  good for {root_list}
                {intermediate_crl}  good for {intermediate_list}
  private keys  beside the certificates, mode 0600, {keys}

Next, a certificate for a gateway and one for a caller:
  countersign pki issue localhost --dir {dir} --profile server --dns localhost --ip 127.0.0.1
  countersign pki issue spiffe://{domain}/ns/default/sa/client --dir {dir}
Sign the revocation lists anew within {intermediate_list}:
  countersign pki crl --dir {dir} --issuer intermediate",
        domain = pki.trust_domain(),
        root = layout.certificate(AuthorityName::Root).display(),
        root_until = until(AuthorityName::Root),
        intermediate = layout.certificate(AuthorityName::Intermediate).display(),
        intermediate_until = until(AuthorityName::Intermediate),
        trust = layout.trust().display(),
        root_crl = layout.crl(AuthorityName::Root).display(),
        root_list = revocation::default_lifetime(AuthorityName::Root),
        intermediate_crl = layout.crl(AuthorityName::Intermediate).display(),
        intermediate_list = revocation::default_lifetime(AuthorityName::Intermediate),
    ));
}
