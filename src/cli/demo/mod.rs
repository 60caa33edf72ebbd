//! `countersign demo`: runs a temporary gateway with everything that it needs.
//!
//! The command creates a private authority, certificates and a signing key in a temporary
//! directory. It writes a configuration as an operator would. It then runs the real gateway in
//! front of an echo service that verifies assertions.
//!
//! - `echo`: the service of the demo

mod echo;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use countersign_verify::AssertionVerifier;
use serde::Serialize;

use self::echo::Echo;
use crate::app::{self, Listeners};
use crate::assertion::{SigningAlgorithm, key_directory};
use crate::cli::common::output::{CliError, Exit, Output};
use crate::identity::TrustDomain;
use crate::pki::{CertificateProfile, IssueRequest, Issued, KeyProtection, Pki, SubjectNames};
use crate::telemetry::log::{self, LogOptions};
use crate::{clock, config};

const TRUST_DOMAIN: &str = "example.org";
const ALLOWED: &str = "spiffe://example.org/ns/demo/sa/client";
const INTRUDER: &str = "spiffe://example.org/ns/demo/sa/intruder";
const AUDIENCE: &str = "echo";

/// Arguments of `countersign demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign demo                      try the printed curl lines in another terminal
  countersign demo --dir ./demo         keep the files
  countersign demo --json --listen 127.0.0.1:0 --admin 127.0.0.1:0 --public 127.0.0.1:0

Ctrl-C ends everything and removes the temporary directory.")]
pub struct DemoArgs {
    /// Write the files to this directory and keep them, instead of using a temporary directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The address for callers; port 0 selects a free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The address for operators; port 0 selects a free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// The address from which services fetch keys; port 0 selects a free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9080")]
    public: SocketAddr,
}

/// The addresses and files of the demo. `--json` prints them on one line.
#[derive(Debug, Serialize)]
struct Ready {
    gateway: String,
    ca: PathBuf,
    client_cert: PathBuf,
    client_key: PathBuf,
    intruder_cert: PathBuf,
    intruder_key: PathBuf,
    public: String,
    admin: String,
    jwks: String,
    issuer: String,
    audience: &'static str,
    config: PathBuf,
    dir: PathBuf,
}

/// Runs `countersign demo`.
pub(crate) fn run(args: &DemoArgs, output: Output) -> Result<Exit, CliError> {
    let options = LogOptions::WARNINGS.quiet(output.is_quiet());
    log::start(options).map_err(CliError::usage)?;
    for address in [args.listen, args.admin, args.public] {
        if !address.ip().is_loopback() {
            output.note(format_args!(
                "warning: {address} is reachable from other machines; the demo's keys are throw-away ones"
            ));
        }
    }
    let place = Place::make(args.dir.as_deref())?;
    let listeners = Listeners::bind(args.listen, Some(args.public), Some(args.admin))
        .map_err(CliError::failed)?;
    let echo = Echo::bind().map_err(CliError::failed)?;
    let ready = prepare(&place.path, &listeners, echo.address())?;
    let loaded = config::load(&ready.config).map_err(CliError::failed)?;
    let verifier = AssertionVerifier::builder()
        .issuer(&ready.issuer)
        .audience(AUDIENCE)
        .jwks_json(loaded.snapshot.signer.keys().jwks(clock::unix_now()))
        .build()
        .map_err(CliError::failed)?;
    echo.serve(verifier).map_err(CliError::failed)?;
    let announce = |_: &app::Addresses| {
        output.json(&ready);
        output.say(instructions(&ready));
        Ok(())
    };
    app::serve(loaded, listeners, announce).map_err(CliError::failed)?;
    if place.is_temporary() {
        output.say(format_args!("\nremoved {}", ready.dir.display()));
    }
    Ok(Exit::Done)
}

/// The directory of the demo. It is removed on drop, unless the user has chosen it.
struct Place {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn make(asked_for: Option<&Path>) -> Result<Self, CliError> {
        let failed = |path: &Path, error: std::io::Error| {
            CliError::failed(format_args!("{}: {error}", path.display()))
        };
        if let Some(path) = asked_for {
            fs::create_dir_all(path).map_err(|error| failed(path, error))?;
            return Ok(Self {
                path: path.canonicalize().map_err(|error| failed(path, error))?,
                temporary: None,
            });
        }
        let directory = tempfile::Builder::new()
            .prefix("countersign-demo-")
            .tempdir()
            .map_err(|error| failed(&std::env::temp_dir(), error))?;
        Ok(Self {
            path: directory
                .path()
                .canonicalize()
                .map_err(|error| failed(directory.path(), error))?,
            temporary: Some(directory),
        })
    }

    const fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

/// Creates all files of the demo and returns their paths.
fn prepare(
    directory: &Path,
    listeners: &Listeners,
    service: SocketAddr,
) -> Result<Ready, CliError> {
    let addresses = listeners.addresses();
    let (Some(public), Some(admin)) = (addresses.public, addresses.admin) else {
        return Err(CliError::failed(
            "the demo has a public and an admin listener",
        ));
    };
    let domain = TrustDomain::parse(TRUST_DOMAIN).map_err(CliError::failed)?;
    let certs = directory.join("certs");
    if Pki::check_absent(&certs).is_err() {
        return Err(CliError::failed(format_args!(
            "{} holds an earlier demo or another authority; remove it or choose another directory",
            certs.display()
        )));
    }
    let mut pki = Pki::create(&certs, &domain, &KeyProtection::Plain).map_err(CliError::failed)?;
    let local = SubjectNames::new()
        .dns("localhost")
        .and_then(|names| names.ip_text("127.0.0.1"))
        .and_then(|names| names.ip_text("::1"))
        .map_err(CliError::failed)?;
    issue(&mut pki, "gateway", local, Some(CertificateProfile::SERVER))?;
    let client = issue_spiffe(&mut pki, "client", ALLOWED)?;
    let intruder = issue_spiffe(&mut pki, "intruder", INTRUDER)?;
    key_directory::generate(
        &certs.join("signing"),
        SigningAlgorithm::Es256,
        clock::unix_now(),
    )
    .map_err(CliError::failed)?;
    let issuer = format!("http://{}", host_and_port(public));
    let file = directory.join("countersign.toml");
    let text = configuration(&addresses, &issuer, service);
    fs::write(&file, text)
        .map_err(|error| CliError::failed(format_args!("{}: {error}", file.display())))?;
    Ok(Ready {
        gateway: format!("https://localhost:{}", addresses.listener.port()),
        ca: pki.layout().trust(),
        client_cert: client.certificate,
        client_key: client.key,
        intruder_cert: intruder.certificate,
        intruder_key: intruder.key,
        public: issuer.clone(),
        admin: format!("http://{}", host_and_port(admin)),
        jwks: format!("{issuer}/.well-known/jwks.json"),
        issuer,
        audience: AUDIENCE,
        config: file,
        dir: directory.to_owned(),
    })
}

fn issue_spiffe(pki: &mut Pki, label: &str, id: &str) -> Result<Issued, CliError> {
    let domain = pki.trust_domain().clone();
    let names = SubjectNames::new()
        .spiffe_text(id, &domain)
        .map_err(CliError::failed)?;
    issue(pki, label, names, None)
}

fn issue(
    pki: &mut Pki,
    label: &str,
    names: SubjectNames,
    profile: Option<CertificateProfile>,
) -> Result<Issued, CliError> {
    let label = label.parse().map_err(CliError::failed)?;
    let request = IssueRequest::new(label, names);
    let request = match profile {
        Some(profile) => request.profile(profile),
        None => request,
    };
    pki.issue(&request).map_err(CliError::failed)
}

/// Formats host and port for clients. Replaces an unspecified address such as 0.0.0.0 by loopback,
/// because clients cannot connect to it.
fn host_and_port(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    }
}

fn configuration(addresses: &app::Addresses, issuer: &str, service: SocketAddr) -> String {
    let listener = addresses.listener;
    let public = addresses.public.map(|a| a.to_string()).unwrap_or_default();
    let admin = addresses.admin.map(|a| a.to_string()).unwrap_or_default();
    format!(
        r#"# Made by `countersign demo`. Paths are relative to this file.

[listener]
address = "{listener}"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
client_certificate = "required"

[[trust_domain]]
name = "{TRUST_DOMAIN}"
roots = ["certs/trust.pem"]
crls = ["certs/crl/*.crl"]
revocation = "hard"

[assertion]
issuer = "{issuer}"
keys = "certs/signing"

[public]
address = "{public}"
tls = "off"
serve = ["keys", "health"]

[admin]
address = "{admin}"

[audit]
file = "audit.log"

[[upstream]]
name = "echo"
endpoints = ["http://{service}"]

[[route]]
name = "echo"
paths = ["/**"]
callers = ["{ALLOWED}"]
upstream = "echo"
audience = "{AUDIENCE}"
"#
    )
}

fn instructions(ready: &Ready) -> String {
    let curl = format!("curl --cacert {}", ready.ca.display());
    let with = |certificate: &Path, key: &Path| {
        format!("--cert {} --key {}", certificate.display(), key.display())
    };
    let client = with(&ready.client_cert, &ready.client_key);
    let intruder = with(&ready.intruder_cert, &ready.intruder_key);
    let gateway = &ready.gateway;
    format!(
        "\
A gateway is running at {gateway}, in front of a service that
verifies each assertion and echoes what it received. Try, in another terminal:

An allowed caller. Look at \"claims\": the service knows who asked for what.

  {curl} {client} '{gateway}/hello?x=1'

Another identity: 403, with the reason.

  {curl} {intruder} {gateway}/hello

No certificate: the handshake fails with an alert that says so.

  {curl} {gateway}/hello

A forged identity header: the service never sees it.

  {curl} {client} -H 'Countersign-Assertion: forged' -H 'X-Forwarded-Client-Cert: By=me' {gateway}/hello

The keys a service verifies with, the gateway's health, and the audit log:

  curl {jwks}
  curl {admin}/readyz
  tail -f {dir}/audit.log

Files are in {dir}
Press Ctrl-C to stop.",
        jwks = ready.jwks,
        admin = ready.admin,
        dir = ready.dir.display(),
    )
}
