//! `countersign pki init`: creates an authority.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};
use serde_json::json;

use super::authority::with_remedy;
use super::timer::{PASSPHRASE, Timer, check_existing, unit_word};
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::config;
use crate::identity::TrustDomain;
use crate::identity::text::shell;
use crate::pki::{
    AuthorityName, AuthorityOptions, ExistingRoot, IntermediateRequest, KeyAlgorithm,
    KeyProtection, Layout, Lifetime, Pki, PkiError, RootSource, SignedIntermediate,
};

const EXAMPLES: &str = "\
Examples:
  countersign pki init --dir certs --trust-domain example.org
  countersign pki init --dir certs --trust-domain example.org --passphrase-file ca.pass
  countersign pki init --dir certs --trust-domain example.org --no-passphrase
  countersign pki init --dir certs --trust-domain example.org --key-type p384 --timer
  countersign pki init --dir certs --trust-domain example.org --root-only
  countersign pki init --dir certs --trust-domain example.org --ca-cert root.pem --ca-key root.key
  countersign pki init --dir certs --trust-domain example.org --intermediate-csr intermediate.csr
  countersign pki init --dir certs --trust-domain example.org --intermediate-cert intermediate.pem \
      --ca-cert root.pem --ca-crl root.crl

Makes DIR/root.pem (P-256, 10 years), DIR/intermediate.pem (5 years) and their .key files,
DIR/trust.pem (every trusted root), DIR/crl/root.crl (good for a year) and
DIR/crl/intermediate.crl (valid for 7 days; sign it again with: countersign pki crl).

With --ca-cert and --ca-key, the root is one there is: it is copied to DIR, and a new intermediate
is made below it. Refused: a key of another certificate, a certificate that is no root, a subject
that the encoder would not repeat exactly (nothing would chain to it). --ca-crl is the last list that
the root has published, if there is one: the lists that are signed here continue its number and
revocations.

If the root's key is offline or belongs to others, --intermediate-csr makes only the intermediate's
key, and a request. Have the root sign it, for example with OpenSSL 3:
  openssl x509 -req -in intermediate.csr -CA root.pem -CAkey root.key -CAcreateserial -days 1826 \
      -copy_extensions copy -out intermediate.pem
--intermediate-cert completes the authority with the result, if gateways would accept its
certificates; DIR then holds no root key. --ca-crl is the root's list, without which gateways accept
callers only with revocation_depth = \"leaf\"; later ones are taken with pki crl --root-crl.

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
#[command(
    after_help = EXAMPLES,
    group = ArgGroup::new("root_use").args(["ca_key", "intermediate_cert"]),
)]
pub(super) struct InitArgs {
    /// The authority's directory; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The trust domain of the authority, such as example.org.
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
    /// How long the root is valid [default and limit: 3652d].
    #[arg(long, value_name = "TIME", conflicts_with = "ca_cert")]
    root_lifetime: Option<Lifetime>,
    /// How long the intermediate is valid [default: 1826d; at most 3652d].
    #[arg(long, value_name = "TIME")]
    intermediate_lifetime: Option<Lifetime>,
    /// How many authorities may follow below the root, one after another [default: 1].
    #[arg(long, value_name = "N", conflicts_with = "ca_cert",
        value_parser = clap::value_parser!(u8).range(1..=8))]
    path_length: Option<u8>,
    /// Use this root instead of making a new one.
    #[arg(long, value_name = "FILE", requires = "root_use")]
    ca_cert: Option<PathBuf>,
    /// The private key of --ca-cert: PKCS#8, plain or encrypted with the same passphrase.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,
    /// Make only the key of the intermediate, and write a request for the root to sign to FILE.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "root_only", "root_lifetime", "intermediate_lifetime", "path_length", "ca_cert", "timer",
        "intermediate_cert",
    ])]
    intermediate_csr: Option<PathBuf>,
    /// Complete the authority with the certificate that the root --ca-cert has signed.
    #[arg(long, value_name = "FILE", requires = "ca_cert", conflicts_with_all = [
        "root_only", "key_type", "intermediate_lifetime", "force",
    ])]
    intermediate_cert: Option<PathBuf>,
    /// The last revocation list of --ca-cert that was signed elsewhere. With --ca-key, its number and
    /// revocations are continued here.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_crl: Option<PathBuf>,
    /// Not supported: limit the authority to a host name. The error says why.
    #[arg(long, value_name = "NAME")]
    permit_dns: Vec<String>,
    /// Not supported: limit the authority to addresses. The error says why.
    #[arg(long, value_name = "CIDR")]
    permit_ip: Vec<String>,
    /// Also write systemd units to DIR that sign the issuer's revocation list again each day.
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
    let is_elsewhere = args.intermediate_csr.is_some() || args.intermediate_cert.is_some();
    let remedy = |error| match error {
        PkiError::AuthorityExists(dir) if is_elsewhere => CliError::usage(format!(
            "{} holds an authority already; its next intermediate is requested by: countersign pki \
             rotate prepare --dir {} --intermediate-csr FILE",
            dir.display(),
            shell(&dir)
        )),
        error => with_remedy(error, "--force replaces it"),
    };
    // Checks for an existing authority first, so that a command that must fail does not ask for a
    // passphrase.
    if !args.force {
        Pki::check_absent(&args.dir).map_err(remedy)?;
    }
    let profiles = config::profiles(&Layout::new(&args.dir).profiles(), &args.trust_domain)
        .map_err(CliError::usage)?;
    let protection = protection(args)?;
    if let Some(out) = &args.intermediate_csr {
        let request = IntermediateRequest {
            out: out.clone(),
            algorithm: args.key_type.map(Into::into),
            overwrite: args.force,
        };
        let (dir, domain) = (&args.dir, &args.trust_domain);
        Pki::request_intermediate(dir, domain, &profiles, &protection, &request).map_err(remedy)?;
        let command = format!(
            "countersign pki init --dir {} --trust-domain {domain}{}",
            shell(dir),
            args.passphrase.repeated()
        );
        report_request(&args.dir, out, &command, &protection, output);
        return Ok(Exit::Done);
    }
    let file = protection.secret().map(|_| args.passphrase.file());
    let file = file.map(|file| file.unwrap_or(Path::new(PASSPHRASE)));
    let timer = timer(args, file);
    let units = match args.timer {
        true => timer.units(&args.dir).to_vec(),
        false => Vec::new(),
    };
    if args.timer {
        timer.check()?;
    }
    if !args.force {
        check_existing(&units)?;
    }
    let options = AuthorityOptions {
        algorithm: args.key_type.map(Into::into),
        root_only: args.root_only,
        profiles,
        root_lifetime: args.root_lifetime,
        intermediate_lifetime: args.intermediate_lifetime,
        path_length: args.path_length,
        root: root_source(args, &protection),
        beside: units,
        overwrite: args.force,
        protection,
    };
    let pki = Pki::create_as(&args.dir, &args.trust_domain, &options).map_err(remedy)?;
    if args.timer {
        output.note(format_args!("note: {}", timer.enabling(&args.dir)));
    }
    report(&pki, args, output);
    notes_on_root(&pki, args, output);
    Ok(Exit::Done)
}

/// Returns how the keys are protected. The key of a requested intermediate keeps its protection.
/// But if it is not encrypted and the operator gives a passphrase, the key is encrypted.
fn protection(args: &InitArgs) -> Result<KeyProtection, CliError> {
    if args.intermediate_cert.is_some() {
        let is_sealed = Pki::is_request_sealed(&args.dir)?;
        if is_sealed && args.no_passphrase {
            return Err(CliError::usage(
                "the key of the requested intermediate is encrypted and stays so; give its \
                 passphrase instead of --no-passphrase",
            ));
        }
        if !is_sealed && !args.passphrase.is_given() {
            return Ok(KeyProtection::Plain);
        }
        let passphrase = args.passphrase.open(&Pki::request_key(&args.dir))?;
        return Ok(KeyProtection::passphrase(passphrase).map_err(PkiError::from)?);
    }
    if args.no_passphrase {
        return Ok(KeyProtection::Plain);
    }
    Ok(KeyProtection::passphrase(args.passphrase.choose()?).map_err(PkiError::from)?)
}

fn root_source(args: &InitArgs, protection: &KeyProtection) -> RootSource {
    let passphrase = protection.secret().cloned();
    match (&args.ca_cert, &args.ca_key, &args.intermediate_cert) {
        (Some(certificate), Some(key), _) => RootSource::Existing(ExistingRoot {
            certificate: certificate.clone(),
            key: key.clone(),
            passphrase,
            root_list: args.ca_crl.clone(),
        }),
        (root, None, Some(certificate)) => RootSource::SignedElsewhere(SignedIntermediate {
            certificate: certificate.clone(),
            root: root.clone(),
            root_list: args.ca_crl.clone(),
            passphrase,
        }),
        _ => RootSource::New,
    }
}

/// Prints what the operator must do after a request for an intermediate was made. `command` is the
/// command for the next step, without the options for the certificates.
pub(super) fn report_request(
    dir: &Path,
    out: &Path,
    command: &str,
    protection: &KeyProtection,
    output: Output,
) {
    let key = Pki::request_key(dir);
    output.json(&json!({
        "dir": absolute(dir),
        "request": absolute(out),
        "key": absolute(&key),
        "keys_encrypted": protection.secret().is_some(),
    }));
    output.say(format_args!(
        "\
Made the key of an intermediate, and a request for it.

  request  {request}
  key      {key}  mode 0600, stays here

Have the root sign the request, where its key is. With OpenSSL 3, which also keeps the extensions:
  openssl x509 -req -in {file} -CA root.pem -CAkey root.key -CAcreateserial -days 1826 \\
      -copy_extensions copy -out intermediate.pem
Then, with the root's certificate and, if there is one, its revocation list (--ca-crl):
  {command} \\
      --intermediate-cert intermediate.pem --ca-cert root.pem",
        request = out.display(),
        key = key.display(),
        file = shell(out),
    ));
}

/// Prints a note if the root's revocation list is not in the directory. The root signs the list
/// where its key is.
pub(super) fn note_root_list(pki: &Pki, output: Output) {
    if !matches!(pki.has_root_list(), Ok(true)) {
        output.note(format_args!(
            "note: {} contains no list of the root, which is signed where its key is. Take it with: \
             countersign pki crl --dir {} --root-crl FILE. Until then, gateways with revocation = \
             \"hard\" refuse all callers, unless revocation_depth = \"leaf\"",
            pki.layout().crl(AuthorityName::Root).display(),
            shell(pki.layout().directory())
        ));
    }
}

/// Prints what the operator may have forgotten about a root of another program.
fn notes_on_root(pki: &Pki, args: &InitArgs, output: Output) {
    note_root_list(pki, output);
    if args.ca_key.is_some() && args.ca_crl.is_none() {
        note_first_list(output);
    }
    if args.intermediate_cert.is_some() {
        notes_on_requested(pki, output);
    }
}

/// Prints a note that an imported root may have published lists before.
pub(super) fn note_first_list(output: Output) {
    output.note(
        "note: the root's list has number 1 and revokes nothing. If the root has published lists \
         before, begin again with the last one (--ca-crl): gateways refuse a list whose number goes \
         back, and what was revoked would be accepted again",
    );
}

/// Prints what the operator must know about an intermediate that was signed elsewhere: whether it may
/// sign further authorities, and whether a copy of its key could not be removed.
pub(super) fn notes_on_requested(pki: &Pki, output: Output) {
    if let Some(key) = pki.leftover_key() {
        output.note(format_args!(
            "note: {} could not be removed. It is a copy of the intermediate's private key, and no \
             longer needed. Remove it: rm -r {}",
            key.display(),
            shell(pki.layout().pending().directory())
        ));
    }
    if !pki.authority(AuthorityName::Intermediate).has_path_length() {
        output.note(
            "note: the intermediate has no path length (pathLen), so its key can make further \
             authorities. The request asks for pathLen 0",
        );
    }
}

/// Returns the systemd units that sign the issuer's CRL every day. A CRL is valid for seven days by
/// default.
fn timer<'a>(args: &'a InitArgs, passphrase: Option<&'a Path>) -> Timer<'a> {
    Timer {
        name: "countersign-crl",
        service: "Sign the revocation list again",
        timer: "Keep the revocation list fresh",
        dir: &args.dir,
        command: crl_command(args),
        schedule: ["daily", "1h"],
        passphrase,
    }
}

fn crl_command(args: &InitArgs) -> String {
    let issuer = match args.root_only {
        true => AuthorityName::Root,
        false => AuthorityName::Intermediate,
    };
    let dir = unit_word(&absolute(&args.dir));
    format!("pki crl --dir {dir} --issuer {}", issuer.as_str())
}

fn report(pki: &Pki, args: &InitArgs, output: Output) {
    let layout = pki.layout();
    // If the root's key is elsewhere, the directory contains no `root.key`, and may contain no list
    // of the root.
    let present = |path: &Path| path.exists().then(|| absolute(path));
    let entry = |name: AuthorityName| {
        let facts = pki.authority(name).facts();
        json!({
            "certificate": absolute(&layout.certificate(name)),
            "key": present(&layout.key(name)),
            "crl": present(&layout.crl(name)),
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
        "keys_encrypted": pki.passphrase().is_some(),
        "root": entry(AuthorityName::Root),
        "intermediate": match pki.issuer() {
            AuthorityName::Intermediate => entry(AuthorityName::Intermediate),
            AuthorityName::Root => serde_json::Value::Null,
        },
    }));
    let keys = if pki.passphrase().is_none() {
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
        if !list.exists() {
            continue;
        }
        let lifetime = match args.intermediate_cert.is_some() && *name == AuthorityName::Root {
            true => "signed elsewhere".to_owned(),
            false => format!("valid for {}", pki.crl_lifetime(*name)),
        };
        let _ = write!(lists, "\n  {title:13} {}  {lifetime}", list.display());
    }
    output.say(format_args!(
        "\
Made a certificate authority for trust domain {domain}.
{files}
  trusted roots {trust}  for gateways, services and clients{lists}
  private keys  beside the certificates, mode 0600, {keys}

Next, a certificate for a gateway and one for a caller:
  countersign pki issue localhost --dir {dir} --profile server --dns localhost --ip 127.0.0.1{option}
  countersign pki issue spiffe://{domain}/ns/default/sa/client --dir {dir}{option}
Sign the revocation lists anew within {lifetime}, by a timer or by a process that keeps running:
  countersign pki crl --dir {dir} --issuer {issuer}{option}
  countersign pki crl --dir {dir} --issuer {issuer} --every 24h{option}",
        option = args.passphrase.repeated(),
        domain = pki.trust_domain(),
        trust = layout.trust().display(),
        lifetime = pki.crl_lifetime(pki.issuer()),
        issuer = pki.issuer().as_str(),
    ));
}
