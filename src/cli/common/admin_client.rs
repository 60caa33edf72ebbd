//! Sends one HTTP request to a running gateway: to its private socket, or to its `[admin]`
//! listener, without TLS or over mutual TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::certificate_files::{certificates, certificates_beside_key, private_key};
use super::output::CliError;
use crate::crypto;
use crate::identity::text::{printable, printable_within};
use crate::tls::complete_key;

/// Maximum time until a response. A reload may have to read many files.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum number of bytes of a response.
const MAX_RESPONSE: usize = 16 << 20;

/// The endpoint at which a gateway serves operators.
#[derive(Debug)]
pub(in crate::cli) enum AdminEndpoint {
    /// The path of the gateway's private socket.
    Socket(PathBuf),
    /// Host and port of the gateway's read-only `[admin]` listener on loopback.
    Listener(Authority),
    /// The gateway's `[admin]` listener for operators with certificates.
    Operators {
        /// The host and port of the listener.
        authority: Authority,
        /// The TLS configuration: the roots for the gateway's certificate, and the operator's
        /// certificate.
        tls: Arc<ClientConfig>,
    },
}

/// The files of an operator's certificate and of the roots for the gateway's certificate.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Credential<'a> {
    /// The operator's certificate, followed by its intermediates.
    pub(in crate::cli) cert: &'a Path,
    /// The private key of the operator's certificate.
    pub(in crate::cli) key: &'a Path,
    /// The roots for the gateway's certificate.
    pub(in crate::cli) cacert: &'a Path,
}

impl AdminEndpoint {
    /// Parses the path of a socket, or an `http` or `https` URL without a path. `https` needs a
    /// credential.
    pub(in crate::cli) fn parse(
        text: &str,
        credential: Option<Credential<'_>>,
    ) -> Result<Self, CliError> {
        if let Some(rest) = text.strip_prefix("https://") {
            let authority = authority(text, rest)?;
            let Some(credential) = credential else {
                return Err(CliError::usage(format_args!(
                    "{text}: operators are let in by certificate: add yours, its private key, and \
                     the roots of the gateway's"
                )));
            };
            let tls = Arc::new(credential.client()?);
            return Ok(Self::Operators { authority, tls });
        }
        match text.strip_prefix("http://") {
            None => Ok(Self::Socket(PathBuf::from(text))),
            Some(rest) => authority(text, rest).map(Self::Listener),
        }
    }
}

/// Returns the host and port of a URL. `rest` is the URL without its scheme.
fn authority(text: &str, rest: &str) -> Result<Authority, CliError> {
    match rest.trim_end_matches('/').parse::<Authority>() {
        Ok(authority) if authority.port().is_some() => Ok(authority),
        _ => Err(CliError::usage(format_args!(
            "{text}: write https://HOST:PORT, http://HOST:PORT, or the path of a socket"
        ))),
    }
}

impl Credential<'_> {
    fn client(&self) -> Result<ClientConfig, CliError> {
        let named = |file: &Path, error: &dyn std::fmt::Display| {
            CliError::usage(format_args!("{}: {error}", file.display()))
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(self.cacert)? {
            roots
                .add(root)
                .map_err(|error| named(self.cacert, &error))?;
        }
        let key = private_key(self.key)?;
        let chain = certificates_beside_key(self.cert)?;
        let key = complete_key(key, chain.first());
        let mut client = ClientConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()
            .map_err(CliError::failed)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| named(self.cert, &error))?;
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}

impl std::fmt::Display for AdminEndpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(formatter, "{}", path.display()),
            Self::Listener(authority) => write!(formatter, "http://{authority}"),
            Self::Operators { authority, .. } => write!(formatter, "https://{authority}"),
        }
    }
}

/// Sends one request to a gateway.
pub(in crate::cli) async fn exchange(
    endpoint: &AdminEndpoint,
    method: Method,
    path: &str,
    document: Option<&Value>,
) -> Result<(StatusCode, Value), CliError> {
    let request = (method, path, document);
    match endpoint {
        AdminEndpoint::Socket(socket) => {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|error| unreachable(socket, &error))?;
            exchange_over(endpoint, stream, request).await
        }
        AdminEndpoint::Listener(authority) => {
            let stream = connect(endpoint, authority).await?;
            converse(endpoint, stream, authority.as_str(), request).await
        }
        AdminEndpoint::Operators { authority, tls } => {
            let stream = connect(endpoint, authority).await?;
            let host = authority.host();
            let host = host
                .strip_prefix('[')
                .and_then(|h| h.strip_suffix(']'))
                .unwrap_or(host);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| CliError::usage(format_args!("{endpoint}: {error}")))?;
            let stream = TlsConnector::from(Arc::clone(tls))
                .connect(name, stream)
                .await
                .map_err(|error| no_response(endpoint, &error))?;
            converse(endpoint, stream, authority.as_str(), request).await
        }
    }
}

/// Sends one request to a gateway over a connection to its private socket.
pub(in crate::cli) async fn exchange_over(
    endpoint: &AdminEndpoint,
    stream: UnixStream,
    request: (Method, &str, Option<&Value>),
) -> Result<(StatusCode, Value), CliError> {
    converse(endpoint, stream, "localhost", request).await
}

async fn connect(endpoint: &AdminEndpoint, authority: &Authority) -> Result<TcpStream, CliError> {
    TcpStream::connect(authority.as_str())
        .await
        .map_err(|error| CliError::failed(format_args!("{endpoint}: {error}")))
}

/// Creates the error for a request that got no response. If the gateway has refused the TLS
/// handshake, the exit code of the error is 3.
fn no_response(endpoint: &AdminEndpoint, error: &(dyn std::error::Error + 'static)) -> CliError {
    let mut causes = std::iter::successors(Some(error), |error| {
        match error.downcast_ref::<io::Error>() {
            // `io::Error::source` skips the wrapped error itself, so `get_ref` is used.
            Some(outer) => outer
                .get_ref()
                .map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        }
    });
    let alert = causes.find_map(|cause| match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    });
    match alert {
        Some(alert) => CliError::no(format_args!(
            "{endpoint}: the gateway refuses this certificate (TLS alert {alert:?}); its log says why"
        )),
        None => CliError::failed(format_args!(
            "{endpoint}: the gateway did not answer properly: {}",
            whole(error)
        )),
    }
}

/// Formats an error together with its causes.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

async fn converse(
    endpoint: &AdminEndpoint,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    (method, path, document): (Method, &str, Option<&Value>),
) -> Result<(StatusCode, Value), CliError> {
    let broken = |error: &(dyn std::error::Error + 'static)| no_response(endpoint, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(document.map_or_else(Bytes::new, |document| {
            Bytes::from(document.to_string())
        })))
        .map_err(|error| broken(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| broken(&error))?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_RESPONSE)
        .collect()
        .await
        .map_err(|error| broken(&*error))?
        .to_bytes();
    let document: Value = serde_json::from_slice(&body).map_err(|error| broken(&error))?;
    match parts.headers.get("countersign-reason") {
        // The gateway sets this field if it refuses the operator. It does not set it if only this
        // request fails.
        Some(reason) => {
            let detail = document.get("detail").and_then(Value::as_str);
            Err(CliError::no(format_args!(
                "{endpoint}: {}: {}",
                printable(reason.to_str().unwrap_or_default()),
                printable_within(detail.unwrap_or_default(), 1024)
            )))
        }
        None => Ok((parts.status, document)),
    }
}

/// Explains why the socket cannot be reached.
fn unreachable(socket: &Path, error: &io::Error) -> CliError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such socket: is the gateway running, with [admin] socket in this \
             configuration?"
        }
        io::ErrorKind::ConnectionRefused => {
            "no process listens there: the gateway has ended without taking its socket away"
        }
        io::ErrorKind::PermissionDenied => {
            "the socket is private: run this as the user that the gateway runs as, or as root"
        }
        _ => "the gateway cannot be reached",
    };
    CliError::failed(format_args!("{}: {hint} ({error})", socket.display()))
}

/// Sends one request and waits for the response. The body is `document` as JSON, or empty.
pub(in crate::cli) fn ask(
    endpoint: &AdminEndpoint,
    method: Method,
    path: &str,
    document: Option<&Value>,
) -> Result<(StatusCode, Value), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::failed)?;
    runtime.block_on(async {
        match tokio::time::timeout(RESPONSE_TIMEOUT, exchange(endpoint, method, path, document))
            .await
        {
            Ok(response) => response,
            Err(_) => Err(CliError::failed(format_args!(
                "{endpoint}: no answer within {} seconds",
                RESPONSE_TIMEOUT.as_secs()
            ))),
        }
    })
}

/// Returns a text member of a document. Returns an empty text if it is absent.
pub(in crate::cli) fn text<'v>(document: &'v Value, key: &str) -> &'v str {
    document.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Formats a member of a document so that it is safe to print on a terminal. A missing member gives
/// `none`.
pub(in crate::cli) fn shown(document: &Value, key: &str) -> String {
    match document.get(key) {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => printable_within(text, 1024),
        Some(other) => printable_within(&other.to_string(), 1024),
    }
}

/// Returns the items of a list member of a document.
pub(in crate::cli) fn items<'v>(document: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    document
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
