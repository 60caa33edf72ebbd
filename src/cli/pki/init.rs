//! `countersign pki init`: creates an authority.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::authority::with_remedy;
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::config;
use crate::identity::TrustDomain;
use crate::identity::text::shell;
use crate::pki::{
    AuthorityName, AuthorityOptions, ExistingRoot, KeyAlgorithm, KeyProtection, Layout, Lifetime,
    Pki, PkiError,
};

const EXAMPLES: &str = "\
Examples:
  countersign pki init --dir certs --trust-domain example.org
  countersign pki init --dir certs --trust-domain example.org --passphrase-file ca.pass
  countersign pki init --dir certs --trust-domain example.org --no-passphrase
  countersign pki init --dir certs --trust-domain example.org --key-type p384 --timer
  countersign pki init --dir certs --trust-domain example.org --root-only
  countersign pki init --dir certs --trust-domain example.org --ca-cert root.pem --ca-key root.key

Makes DIR/root.pem (P-256, 10 years), DIR/intermediate.pem (5 years) and their .key files,
DIR/trust.pem (every trusted root), DIR/crl/root.crl (good for a year) and
DIR/crl/intermediate.crl (good for 7 days; sign it anew with: countersign pki crl).

With --ca-cert and --ca-key, the root is one there is: it is copied to DIR, and a new intermediate
is made below it. Refused: a key of another certificate, a certificate that is no root, a subject
that the encoder would not repeat exactly (nothing would chain to it).

With --root-only there is no intermediate: one key less to keep, and no way to keep the root's
elsewhere. A DIR/profiles.toml that is there already says what the intermediate is like.

RSA keys are made where countersign is built with the feature aws-lc-rs; any build takes an RSA
root with --ca-cert.";

/// The reason why constraints are refused for a SPIFFE trust domain.
const NO_CONSTRAINTS: &str = "an authority of a SPIFFE trust domain takes no name constraints: \
    constraints on host names and addresses do not limit SPIFFE IDs, and under a constraint on URIs \
    rustls refuses every SPIFFE ID. Say in the gateway's configuration what the trust domain may \
    vouch for: vouches_for";

/// The kind of the authority's keys.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum KeyType {
    /// ECDSA on P-256: fast everywhere.
    P256,
    /// ECDSA on P-384: many times slower to verify.
    P384,
    /// Ed25519: not in every TLS stack.
    Ed25519,
    /// RSA with 2048 bits; only where countersign is built with aws-lc-rs.
    Rsa2048,
    /// RSA with 3072 bits; only where countersign is built with aws-lc-rs.
    Rsa3072,
    /// RSA with 4096 bits; only where countersign is built with aws-lc-rs.
    Rsa4096,
}

impl From<KeyType> for KeyAlgorithm {
    fn from(key_type: KeyType) -> Self {
        match key_type {
            KeyType::P256 => Self::P256,
            KeyType::P384 => Self::P384,
            KeyType::Ed25519 => Self::Ed25519,
            KeyType::Rsa2048 => Self::Rsa2048,
            KeyType::Rsa3072 => Self::Rsa3072,
            KeyType::Rsa4096 => Self::Rsa4096,
        }
    }
}

/// Arguments of `countersign pki init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InitArgs {
    /// The authority's directory; created if it does not exist.
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
    /// The kind of the authority's keys [default: p256, unless profile intermediate of
    /// DIR/profiles.toml says otherwise].
    #[arg(long, value_enum, value_name = "TYPE")]
    key_type: Option<KeyType>,
    /// Make no intermediate: the root signs certificates itself.
    #[arg(long, conflicts_with_all = ["intermediate_lifetime", "path_length"])]
    root_only: bool,
    /// How long the root is good for [default and limit: 3652d].
    #[arg(long, value_name = "TIME", conflicts_with = "ca_cert")]
    root_lifetime: Option<Lifetime>,
    /// How long the intermediate is good for [default: 1826d; at most 3652d].
    #[arg(long, value_name = "TIME")]
    intermediate_lifetime: Option<Lifetime>,
    /// How many authorities may follow below the root, one after another [default: 1].
    #[arg(long, value_name = "N", conflicts_with = "ca_cert",
        value_parser = clap::value_parser!(u8).range(1..=8))]
    path_length: Option<u8>,
    /// Take this root instead of making one.
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_cert: Option<PathBuf>,
    /// The private key of --ca-cert: PKCS#8, plain or sealed with the same passphrase.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,
    /// Limit the authority to a host name; refused, with the reason.
    #[arg(long, value_name = "NAME")]
    permit_dns: Vec<String>,
    /// Limit the authority to addresses; refused, with the reason.
    #[arg(long, value_name = "CIDR")]
    permit_ip: Vec<String>,
    /// Also write systemd units to DIR that sign the issuer's list anew each day.
    #[arg(long)]
    timer: bool,
    /// Replace an existing authority. Certificates that it issued are then no longer trusted.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &InitArgs, output: Output) -> Result<Exit, CliError> {
    if !args.permit_dns.is_empty() || !args.permit_ip.is_empty() {
        return Err(CliError::usage(NO_CONSTRAINTS));
    }
    let remedy = |error| with_remedy(error, "--force replaces it");
    // Checks before it asks for a passphrase whether the files may be written.
    if !args.force {
        Pki::check_absent(&args.dir).map_err(remedy)?;
    }
    let protection = if args.no_passphrase {
        KeyProtection::Plain
    } else {
        KeyProtection::passphrase(args.passphrase.choose()?).map_err(PkiError::from)?
    };
    let import = args.ca_cert.as_ref().zip(args.ca_key.as_ref());
    let options = AuthorityOptions {
        algorithm: args.key_type.map(Into::into),
        root_only: args.root_only,
        profiles: config::profiles(&Layout::new(&args.dir).profiles(), &args.trust_domain)
            .map_err(CliError::usage)?,
        root_lifetime: args.root_lifetime,
        intermediate_lifetime: args.intermediate_lifetime,
        path_length: args.path_length,
        import: import.map(|(certificate, key)| ExistingRoot {
            certificate: certificate.clone(),
            key: key.clone(),
            passphrase: match &protection {
                KeyProtection::Plain => None,
                KeyProtection::Passphrase(secret) => Some(secret.clone()),
            },
        }),
        beside: match args.timer {
            true => timer_units(args),
            false => Vec::new(),
        },
        overwrite: args.force,
        protection,
    };
    let pki = Pki::create_as(&args.dir, &args.trust_domain, &options).map_err(remedy)?;
    if args.timer {
        output.note(format_args!(
            "note: {0}/countersign-crl.{{service,timer}} are written; enable them with: systemctl \
             enable --now $(realpath {0}/countersign-crl.service {0}/countersign-crl.timer)",
            shell(&args.dir)
        ));
    }
    report(&pki, args, output);
    Ok(Exit::Done)
}

/// Returns the path and the content of each systemd unit that signs the issuer's CRL every day. A
/// CRL is valid for seven days by default.
fn timer_units(args: &InitArgs) -> Vec<(PathBuf, String)> {
    let dir = &args.dir;
    let issuer = match args.root_only {
        true => AuthorityName::Root,
        false => AuthorityName::Intermediate,
    };
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("countersign"));
    let (credential, option) = if !args.no_passphrase {
        (
            "# Put the passphrase there, readable for root only.\n\
             LoadCredential=passphrase:/etc/countersign/ca.pass\n",
            " --passphrase-file %d/passphrase",
        )
    } else {
        ("", "")
    };
    let service = format!(
        "[Unit]\nDescription=Sign the revocation list of {domain_dir} anew\n\n\
         [Service]\nType=oneshot\n{credential}\
         ExecStart={program} pki crl --dir {dir} --issuer {issuer}{option}\n",
        issuer = issuer.as_str(),
        domain_dir = unit_word(&absolute(dir)),
        program = unit_word(&program.to_string_lossy()),
        dir = unit_word(&absolute(dir)),
    );
    let timer = "[Unit]\nDescription=Keep the revocation list fresh\n\n\
        [Timer]\nOnCalendar=daily\nRandomizedDelaySec=1h\nPersistent=true\n\n\
        [Install]\nWantedBy=timers.target\n";
    vec![
        (dir.join("countersign-crl.service"), service),
        (dir.join("countersign-crl.timer"), timer.to_owned()),
    ]
}

/// Quotes a text as one word of a unit file (systemd.syntax(7)).
fn unit_word(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
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
        "intermediate": match pki.issuer() {
            AuthorityName::Intermediate => entry(AuthorityName::Intermediate),
            AuthorityName::Root => serde_json::Value::Null,
        },
    }));
    let keys = if args.no_passphrase {
        "not encrypted: whoever reads them can issue certificates"
    } else {
        "encrypted with your passphrase"
    };
    let dir = shell(&args.dir);
    let mut files = String::new();
    let mut lists = String::new();
    for name in pki.authorities() {
        let word = name.as_str();
        let until = moment(pki.authority(*name).facts().not_after);
        let certificate = layout.certificate(*name);
        let _ = write!(
            files,
            "\n  {word:13} {}  until {until}",
            certificate.display()
        );
        let title = if lists.is_empty() { "revocation" } else { "" };
        let list = layout.crl(*name);
        let lifetime = pki.crl_lifetime(*name);
        let _ = write!(
            lists,
            "\n  {title:13} {}  good for {lifetime}",
            list.display()
        );
    }
    output.say(format_args!(
        "\
Made a certificate authority for trust domain {domain}.
{files}
  trusted roots {trust}  for gateways, services and clients{lists}
  private keys  beside the certificates, mode 0600, {keys}

Next, a certificate for a gateway and one for a caller:
  countersign pki issue localhost --dir {dir} --profile server --dns localhost --ip 127.0.0.1
  countersign pki issue spiffe://{domain}/ns/default/sa/client --dir {dir}
Sign the revocation lists anew within {lifetime}, by a timer or by a process that keeps running:
  countersign pki crl --dir {dir} --issuer {issuer}
  countersign pki crl --dir {dir} --issuer {issuer} --every 24h",
        domain = pki.trust_domain(),
        trust = layout.trust().display(),
        lifetime = pki.crl_lifetime(pki.issuer()),
        issuer = pki.issuer().as_str(),
    ));
}
