//! `countersign pki inspect https://…`: shows the certificates that a server presents, and what it
//! requires of clients.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls_pki_types::ServerName;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Name};

use crate::cli::common::output::CliError;
use crate::cli::common::recording_verifier::{self, Recorder};
use crate::identity::LeafFacts;
use crate::identity::leaf::rfc4514;
use crate::identity::text::printable;
use crate::pki::inspect::{Item, chain};
use crate::pki::lint::{Finding, Severity};
use crate::pki::signing::names::carries;

/// Maximum time for connecting and the TLS handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// The certificates and settings that a server presented.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    connection: Connection,
    pub(super) items: Vec<Item>,
}

#[derive(Debug, Serialize)]
struct Connection {
    address: String,
    /// `None` if the server aborted the handshake, for example because it requires a client
    /// certificate.
    tls_version: Option<String>,
    alpn: Option<String>,
    certificate_requested: bool,
    acceptable_issuers: Vec<String>,
}

/// Connects to a server. Returns the server's certificates and settings.
pub(super) fn look(url: &str) -> Result<Server, CliError> {
    let usage = |what: &str| CliError::usage(format!("{}: {what}", printable(url)));
    let parsed: Uri = url
        .parse()
        .map_err(|_| usage("write https://HOST or https://HOST:PORT"))?;
    let host = parsed
        .host()
        .map(|host| host.trim_start_matches('[').trim_end_matches(']'))
        .ok_or_else(|| usage("it names no host"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| usage("the host is malformed"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::failed)?;
    let port = parsed.port_u16().unwrap_or(443);
    let seen = Arc::new(Recorder::default());
    let connection = runtime
        .block_on(async {
            tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(host, port, name, &seen)).await
        })
        .map_err(|_| CliError::failed(format!("{url}: nothing came within 15 seconds")))?
        .map_err(|error| CliError::failed(format!("{url}: {error}")))?;
    let presented = std::mem::take(&mut seen.recorded().chain);
    if presented.is_empty() {
        return Err(CliError::failed(format!(
            "{url}: the server presented no certificate; does it speak TLS there?"
        )));
    }
    let mut items = chain(&presented);
    for item in &mut items {
        item.lints.extend(out_of_time(item));
    }
    let is_for_host = presented
        .first()
        .and_then(|leaf| LeafFacts::read(leaf).ok())
        .is_some_and(|facts| carries(&facts, host));
    if let Some(leaf) = items.first_mut().filter(|_| !is_for_host) {
        leaf.lints.push(Finding {
            severity: Severity::Error,
            lint: "other-name",
            message: format!("it does not carry the name {}", printable(host)),
            reference: "RFC 9525 section 6",
        });
    }
    Ok(Server { connection, items })
}

/// Returns a finding if a certificate that the server presents is outside its validity period.
fn out_of_time(item: &Item) -> Option<Finding> {
    let status = item.content.get("status").and_then(Value::as_str)?;
    (status != "in its time").then(|| Finding {
        severity: Severity::Error,
        lint: "out-of-time",
        message: format!("it is in service and {status}"),
        reference: "RFC 5280 section 4.1.2.5",
    })
}

async fn shake_hands(
    host: &str,
    port: u16,
    name: ServerName<'static>,
    seen: &Arc<Recorder>,
) -> Result<Connection, String> {
    let mut config =
        recording_verifier::config(seen, None, None).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("no connection: {error}"))?;
    let address = stream
        .peer_addr()
        .map_err(|error| error.to_string())?
        .to_string();
    let shaken = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    // The server may have aborted the handshake because it requires a client certificate. Its own
    // certificate was then already recorded.
    let session = shaken.as_ref().ok().map(|stream| stream.get_ref().1);
    let recorded = seen.recorded();
    let text = |bytes: &[u8]| printable(&String::from_utf8_lossy(bytes));
    Ok(Connection {
        address,
        tls_version: session
            .and_then(|session| session.protocol_version())
            .map(|version| format!("{version:?}").replace("TLSv1_", "TLS 1.")),
        alpn: session
            .and_then(|session| session.alpn_protocol())
            .map(text),
        certificate_requested: recorded.issuers.is_some(),
        acceptable_issuers: recorded
            .issuers
            .iter()
            .flatten()
            .map(|der| match X509Name::from_der(der) {
                Ok((_, name)) => printable(&rfc4514(&name)),
                Err(_) => "a name that cannot be read".to_owned(),
            })
            .collect(),
    })
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection {
            address,
            tls_version,
            alpn,
            certificate_requested,
            acceptable_issuers,
        } = &self.connection;
        write!(formatter, "connected to {address}")?;
        match tls_version {
            Some(version) => write!(formatter, ", {version}")?,
            None => formatter.write_str(", which ended the handshake")?,
        }
        if let Some(alpn) = alpn {
            write!(formatter, ", {alpn}")?;
        }
        if !certificate_requested {
            return writeln!(formatter, "\nasks for no client certificate");
        }
        formatter.write_str("\nasks for a client certificate issued by:")?;
        if acceptable_issuers.is_empty() {
            formatter.write_str("\n  anybody")?;
        }
        for issuer in acceptable_issuers {
            write!(formatter, "\n  {issuer}")?;
        }
        writeln!(formatter)
    }
}
