//! `countersign pki fixtures`: creates broken certificates for tests.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::authority::with_remedy;
use crate::cli::common::format::absolute;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::pki::{Pki, fixtures};

const EXAMPLES: &str = "\
Examples:
  countersign pki fixtures --dir certs --out target/fixtures
  curl --cert target/fixtures/certificate-expired.pem --key target/fixtures/certificate-expired.key \\
       --cacert certs/trust.pem https://localhost:8443/

Makes a throw-away authority in DIR2/ca for the trust domain of DIR, and signs one certificate
for each way in which a gateway refuses. DIR itself is read only. Each file is named after the
reason code the gateway answers with; DIR2/manifest.json lists file, reason and TLS alert. A
gateway under test needs, for this trust domain,
  roots = [\"DIR2/ca/trust.pem\"]   crls = [\"DIR2/ca/crl/*.crl\"]   revocation = \"hard\"
Never let a gateway in use trust it.";

/// Arguments of `countersign pki fixtures`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct FixturesArgs {
    /// The authority's directory, which names the trust domain.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The directory for the certificates; created if it does not exist.
    #[arg(long, value_name = "DIR2")]
    out: PathBuf,
    /// Replace existing fixtures.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &FixturesArgs, output: Output) -> Result<Exit, CliError> {
    let pki = Pki::open(&args.dir)?;
    let manifest = fixtures::create(pki.trust_domain(), &args.out, args.force)
        .map_err(|error| with_remedy(error, "--force replaces the fixtures"))?;
    output.json(&json!({
        "dir": absolute(&args.out),
        "manifest": absolute(&args.out.join("manifest.json")),
        "trust_domain": manifest.trust_domain,
        "valid_until": manifest.valid_until,
        "fixtures": manifest.fixtures,
    }));
    output.say(format_args!(
        "Made {} certificates in {} for trust domain {}, good until {}.\n",
        manifest.fixtures.len(),
        args.out.display(),
        manifest.trust_domain,
        manifest.valid_until
    ));
    for fixture in &manifest.fixtures {
        output.say(format_args!(
            "  {:38}  {}",
            fixture.certificate, fixture.description
        ));
    }
    output.say("\nWhat to expect of each is in manifest.json.");
    Ok(Exit::Done)
}
