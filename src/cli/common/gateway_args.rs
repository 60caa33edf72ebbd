//! Arguments that select a running gateway, and the operator's certificate.

use std::path::PathBuf;

use clap::Args;

use super::admin_client::{AdminEndpoint, Credential};
use super::output::CliError;
use crate::config;

/// The arguments that select the gateway.
#[derive(Debug, Args)]
pub(in crate::cli) struct LocationArgs {
    /// The gateway's configuration file [default: $COUNTERSIGN_CONFIG,
    /// ./countersign.toml, /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "admin"])]
    config: Option<PathBuf>,
    /// The path of the gateway's socket [default: the path in [admin] of the configuration]
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    socket: Option<PathBuf>,
    /// The gateway's [admin] listener, https://HOST:PORT, instead of its socket; needs an
    /// operator's certificate
    #[arg(
        long,
        value_name = "URL",
        requires_all = ["operator_cert", "operator_key", "operator_cacert"],
    )]
    admin: Option<String>,
}

/// The arguments that name an operator's certificate.
#[derive(Debug, Args)]
struct OperatorCertArgs {
    /// With --admin: the operator's certificate, followed by its intermediates (PEM)
    #[arg(
        id = "operator_cert",
        long = "cert",
        value_name = "FILE",
        requires = "admin"
    )]
    cert: Option<PathBuf>,
    /// The private key of the operator's certificate (PEM)
    #[arg(
        id = "operator_key",
        long = "key",
        value_name = "FILE",
        requires = "admin"
    )]
    key: Option<PathBuf>,
    /// The root certificates with which the gateway's certificate is verified (PEM)
    #[arg(
        id = "operator_cacert",
        long = "cacert",
        value_name = "FILE",
        requires = "admin"
    )]
    cacert: Option<PathBuf>,
}

/// The arguments that name an operator's certificate, for commands in which `--cert` has another
/// meaning.
#[derive(Debug, Args)]
pub(in crate::cli) struct AdminCertArgs {
    /// The operator's certificate, followed by its intermediates (PEM)
    #[arg(
        id = "operator_cert",
        long = "admin-cert",
        value_name = "FILE",
        requires_all = ["operator_key", "operator_cacert"],
    )]
    cert: Option<PathBuf>,
    /// The private key of the operator's certificate (PEM)
    #[arg(
        id = "operator_key",
        long = "admin-key",
        value_name = "FILE",
        requires = "operator_cert"
    )]
    key: Option<PathBuf>,
    /// The root certificates with which the gateway's certificate is verified (PEM)
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

/// The arguments that select the gateway, and those that name an operator's certificate.
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
