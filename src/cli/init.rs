//! `countersign init`: creates all files that a first gateway needs, in one directory.
//!
//! It creates an authority, certificates for the gateway and for one caller, a signing key, and a
//! commented configuration. [`crate::pki`], [`crate::assertion`] and [`crate::config`] define the
//! content of the files. This file defines the order.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::common::format::{absolute, moment};
use super::common::output::{CliError, Exit, Output};
use super::common::passphrase::PassphraseArgs;
use crate::assertion::{SigningAlgorithm, SigningKeyRing, key_directory};
use crate::clock;
use crate::config::{self, Starter};
use crate::identity::TrustDomain;
use crate::identity::text::shell;
use crate::pki::{
    CertificateProfile, IssueRequest, Issued, KeyProtection, Lifetime, Pki, PkiError, SubjectNames,
    export,
};

const EXAMPLES: &str = "\
Examples:
  countersign init --trust-domain example.org --host localhost --upstream http://127.0.0.1:9001
  countersign init gateway --trust-domain example.org --host gateway.example.org \\
      --upstream http://127.0.0.1:9001 --no-passphrase

Makes DIR/countersign.toml and DIR/certs: an authority of your own, a certificate for HOST, one
for a first caller (spiffe://NAME/client), and the key that signs assertions.";

/// The lifetime of the certificates. It is equal to the lifetime of the authority's revocation
/// list, so that both must be renewed at the same time.
const LIFETIME: Lifetime = Lifetime::days(7);

/// Arguments of `countersign init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// The directory for the files; created if it does not exist.
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The trust domain of the callers, such as example.org.
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    /// The host name or IP address that callers use to reach the gateway.
    #[arg(long, value_name = "HOST")]
    host: String,
    /// The service behind the gateway: http://HOST:PORT.
    #[arg(long, value_name = "URL")]
    upstream: String,
    /// Write the authority's keys unencrypted, protected only by their file mode.
    #[arg(
        long,
        help_heading = "Passphrase",
        conflicts_with_all = ["passphrase_file", "passphrase_env", "passphrase_fd"],
    )]
    no_passphrase: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Replace existing files. Certificates of the old authority are then no longer trusted.
    #[arg(long)]
    force: bool,
}

/// Runs `countersign init`.
pub(crate) fn run(args: &InitArgs, output: Output) -> Result<Exit, CliError> {
    let caller = format!("spiffe://{}/client", args.trust_domain);
    let starter = Starter::new(&args.trust_domain, &args.host, &args.upstream, &caller)
        .map_err(CliError::usage)?;
    let certs = args.dir.join("certs");
    let file = args.dir.join("countersign.toml");
    // Checks whether the files may be written before the user must type a passphrase.
    if !args.force {
        refuse_existing(&file)?;
        Pki::check_absent(&certs).map_err(with_remedy)?;
    }
    let protection = if args.no_passphrase {
        KeyProtection::Plain
    } else {
        KeyProtection::passphrase(args.passphrase.choose()?).map_err(PkiError::from)?
    };
    fs::create_dir_all(&args.dir).map_err(|error| cannot_write(&args.dir, &error))?;
    let create = if args.force {
        Pki::replace
    } else {
        Pki::create
    };
    let mut pki = create(&certs, &args.trust_domain, &protection).map_err(with_remedy)?;
    let server = issue(
        &mut pki,
        "gateway",
        server_names(starter.host())?,
        Some(CertificateProfile::SERVER),
        args.force,
    )?;
    let names = SubjectNames::new()
        .spiffe_text(&caller, &args.trust_domain)
        .map_err(PkiError::from)?;
    let client = issue(&mut pki, "client", names, None, args.force)?;
    signing_key(&certs.join("signing"), args.force)?;
    // The configuration is written last, and in one step. If the process is killed earlier, each
    // other file is complete or absent, and no gateway uses it yet. The user can start again with
    // --force.
    export::write(&file, starter.render().as_bytes(), false, args.force).map_err(with_remedy)?;
    let loaded = config::load(&file).map_err(|errors| {
        CliError::failed(format_args!("the files were made but do not fit: {errors}"))
    })?;
    for warning in &loaded.warnings {
        output.note(format_args!("warning: {warning}"));
    }
    if starter.plaintext() {
        output.note(format_args!(
            "warning: {} is not on this machine; requests to it cross the network in the clear",
            args.upstream
        ));
    }
    report(args, &pki, &starter, &file, &server, &client, output);
    Ok(Exit::Done)
}

/// Returns the names of the gateway's certificate. If `host` means this machine, the certificate
/// contains all local names, because callers may use any of them.
fn server_names(host: &str) -> Result<SubjectNames, PkiError> {
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let names = if local {
        SubjectNames::new()
            .dns("localhost")?
            .ip_text("127.0.0.1")?
            .ip_text("::1")?
    } else {
        SubjectNames::new()
    };
    Ok(match host.parse::<IpAddr>() {
        Ok(ip) => names.ip(ip),
        Err(_) => names.dns(host)?,
    })
}

fn issue(
    pki: &mut Pki,
    label: &str,
    names: SubjectNames,
    profile: Option<CertificateProfile>,
    force: bool,
) -> Result<Issued, CliError> {
    let label = label.parse().map_err(CliError::failed)?;
    let mut request = IssueRequest::new(label, names)
        .lifetime(LIFETIME)
        .overwrite(force);
    if let Some(profile) = profile {
        request = request.profile(profile);
    }
    pki.issue(&request).map_err(with_remedy)
}

/// Creates the signing key. Even with `force`, keeps an existing key, because services may already
/// know it.
fn signing_key(directory: &Path, force: bool) -> Result<(), CliError> {
    let algorithm = SigningAlgorithm::Es256;
    if force && SigningKeyRing::load(directory, algorithm).is_ok() {
        return Ok(());
    }
    key_directory::generate(directory, algorithm, clock::unix_now())?;
    Ok(())
}

fn refuse_existing(file: &Path) -> Result<(), CliError> {
    if file.symlink_metadata().is_ok() {
        return Err(CliError::failed(format_args!(
            "{} exists already; --force replaces it",
            file.display()
        )));
    }
    Ok(())
}

fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(format_args!("cannot write {}: {error}", path.display()))
}

fn with_remedy(error: PkiError) -> CliError {
    use crate::pki::{KeyError, StoreError};
    match error {
        PkiError::Store(StoreError::Exists(_))
        | PkiError::Key(KeyError::Store(StoreError::Exists(_))) => {
            CliError::failed(format_args!("{error}; --force replaces it"))
        }
        error => error.into(),
    }
}

fn report(
    args: &InitArgs,
    pki: &Pki,
    starter: &Starter,
    file: &Path,
    server: &Issued,
    client: &Issued,
    output: Output,
) {
    let trust = pki.layout().trust();
    output.json(&json!({
        "dir": absolute(&args.dir),
        "config": absolute(file),
        "trust_domain": args.trust_domain.as_str(),
        "ca": absolute(&trust),
        "server_cert": absolute(&server.certificate),
        "server_key": absolute(&server.key),
        "client_cert": absolute(&client.certificate),
        "client_key": absolute(&client.key),
        "client": client.identity(),
        "signing_keys": absolute(&args.dir.join("certs/signing")),
        "keys_encrypted": !args.no_passphrase,
        "gateway": starter.url(),
        "issuer": starter.issuer(),
    }));
    let dir = shell(pki.layout().directory());
    output.say(format_args!(
        "\
Made a gateway for trust domain {domain}.

  configuration    {file}
  authority        {certs}  (trusted root: {trust})
  gateway          {server}  for {host}, until {server_until}
  first caller     {client}  for {caller}, until {client_until}
  signing key      {signing}

Next:
  countersign serve --config {config}
  curl --cacert {ca} --cert {cert} --key {key} {url}/

Certificates and revocation lists are valid for 7 days. Renew them each day, from cron or by timers
(--timer of pki renew). The gateway reads them by itself:
  countersign pki crl --dir {dir} --issuer intermediate{option}
  countersign pki renew --all --dir {dir} --if-expiring 50%{option}

When something is wrong:
  countersign status --config {config}
  countersign deny add --config {config} --identity {caller}
  countersign explain --config {config} --cert {cert}",
        domain = args.trust_domain,
        file = file.display(),
        certs = pki.layout().directory().display(),
        trust = trust.display(),
        server = server.certificate.display(),
        host = starter.host(),
        server_until = moment(server.not_after),
        client = client.certificate.display(),
        caller = client.identity(),
        client_until = moment(client.not_after),
        signing = args.dir.join("certs/signing").display(),
        config = shell(file),
        ca = shell(&trust),
        cert = shell(&client.certificate),
        key = shell(&client.key),
        url = starter.url(),
        option = args.passphrase.repeated(),
    ));
}
