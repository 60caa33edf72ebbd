//! Arguments that select a running gateway, and the operator's certificate.

use std::path::PathBuf;

use clap::Args;

use super::admin_client::{AdminEndpoint, Credential};
use super::output::CliError;
use crate::config;

/// Where the gateway is.
#[derive(Debug, Args)]
pub(in crate::cli) struct LocationArgs {
    /// The gateway's configuration file [default: $COUNTERSIGN_CONFIG,
    /// ./countersign.toml, /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "admin"])]
    config: Option<PathBuf>,
    /// The gateway's socket [default: what [admin] in the configuration says]
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    socket: Option<PathBuf>,
    /// Its [admin] listener instead, https://HOST:PORT, for an operator's certificate
    #[arg(
        long,
        value_name = "URL",
        requires_all = ["operator_cert", "operator_key", "operator_cacert"],
    )]
    admin: Option<String>,
}

/// An operator's certificate.
#[derive(Debug, Args)]
struct OperatorCertArgs {
    /// With --admin: the operator's certificate, then its intermediates (PEM)
    #[arg(
        id = "operator_cert",
        long = "cert",
        value_name = "FILE",
        requires = "admin"
    )]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(
        id = "operator_key",
        long = "key",
        value_name = "FILE",
        requires = "admin"
    )]
    key: Option<PathBuf>,
    /// The roots that the gateway's certificate must lead to (PEM)
    #[arg(
        id = "operator_cacert",
        long = "cacert",
        value_name = "FILE",
        requires = "admin"
    )]
    cacert: Option<PathBuf>,
}

/// The same, beside a `--cert` of another meaning.
#[derive(Debug, Args)]
pub(in crate::cli) struct AdminCertArgs {
    /// The operator's certificate, then its intermediates (PEM)
    #[arg(
        id = "operator_cert",
        long = "admin-cert",
        value_name = "FILE",
        requires_all = ["operator_key", "operator_cacert"],
    )]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(
        id = "operator_key",
        long = "admin-key",
        value_name = "FILE",
        requires = "operator_cert"
    )]
    key: Option<PathBuf>,
    /// The roots that the gateway's certificate must lead to (PEM)
    #[arg(
        id = "operator_cacert",
        long = "admin-cacert",
        value_name = "FILE",
        requires = "operator_cert"
    )]
    cacert: Option<PathBuf>,
}

impl AdminCertArgs {
    /// Returns the files of the operator's certificate, if the arguments name them.
    pub(in crate::cli) fn credential(&self) -> Option<Credential<'_>> {
        credential(&self.cert, &self.key, &self.cacert)
    }
}

fn credential<'a>(
    cert: &'a Option<PathBuf>,
    key: &'a Option<PathBuf>,
    cacert: &'a Option<PathBuf>,
) -> Option<Credential<'a>> {
    Some(Credential {
        cert: cert.as_deref()?,
        key: key.as_deref()?,
        cacert: cacert.as_deref()?,
    })
}

/// Where the gateway is, and the operator's certificate.
#[derive(Debug, Args)]
pub(in crate::cli) struct GatewayArgs {
    #[command(flatten)]
    location: LocationArgs,
    #[command(flatten)]
    files: OperatorCertArgs,
}

impl GatewayArgs {
    /// Returns the endpoint to which requests are sent.
    pub(in crate::cli) fn endpoint(&self) -> Result<AdminEndpoint, CliError> {
        let files = &self.files;
        self.location
            .endpoint(credential(&files.cert, &files.key, &files.cacert))
    }
}

impl LocationArgs {
    /// Returns the endpoint to which requests are sent.
    pub(in crate::cli) fn endpoint(
        &self,
        credential: Option<Credential<'_>>,
    ) -> Result<AdminEndpoint, CliError> {
        if let Some(url) = &self.admin {
            if !url.starts_with("https://") {
                return Err(CliError::usage(format_args!(
                    "--admin {url}: operators are let in at https://HOST:PORT"
                )));
            }
            return AdminEndpoint::parse(url, credential);
        }
        // An operator's certificate is useful only with --admin, because the private socket does
        // not need one.
        if credential.is_some() {
            return Err(CliError::usage(
                "an operator's certificate goes with --admin https://HOST:PORT",
            ));
        }
        if let Some(socket) = &self.socket {
            return Ok(AdminEndpoint::Socket(socket.clone()));
        }
        let config = config::path(self.config.as_deref()).map_err(CliError::usage)?;
        config::admin_socket(&config)
            .map(AdminEndpoint::Socket)
            .map_err(CliError::usage)
    }
}
