//! The ways into a running gateway for operators: its private socket and its
//! `[admin]` listener. One HTTP request each.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::uri::Authority;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::CliError;

/// Most octets of an answer.
const MAX_ANSWER: usize = 16 << 20;

/// Where a gateway lets operators in.
#[derive(Debug)]
pub(super) enum Door {
    /// Its private socket.
    Socket(PathBuf),
    /// Its `[admin]` listener, as host and port; for reading only.
    Listener(Authority),
}

impl Door {
    /// A path, or an `http` URL without a path.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err(format!(
                "{text}: operators are served over plain loopback (http://127.0.0.1:PORT) or the socket"
            ));
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Ok(Self::Socket(PathBuf::from(text)));
        };
        match rest.trim_end_matches('/').parse::<Authority>() {
            Ok(authority) if authority.port().is_some() => Ok(Self::Listener(authority)),
            _ => Err(format!(
                "{text}: write http://HOST:PORT, or the path of a socket"
            )),
        }
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(formatter, "{}", path.display()),
            Self::Listener(authority) => write!(formatter, "http://{authority}"),
        }
    }
}

/// Asks a gateway one thing.
pub(super) async fn exchange(
    door: &Door,
    method: Method,
    path: &str,
    document: Option<&Value>,
) -> Result<(StatusCode, Value), CliError> {
    match door {
        Door::Socket(socket) => {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|error| unreachable(socket, &error))?;
            converse(door, stream, "localhost", method, path, document).await
        }
        Door::Listener(authority) => {
            let stream = TcpStream::connect(authority.as_str())
                .await
                .map_err(|error| CliError::failed(format_args!("{door}: {error}")))?;
            converse(door, stream, authority.as_str(), method, path, document).await
        }
    }
}

async fn converse(
    door: &Door,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    method: Method,
    path: &str,
    document: Option<&Value>,
) -> Result<(StatusCode, Value), CliError> {
    let broken = |error: &dyn std::fmt::Display| {
        CliError::failed(format_args!(
            "{door}: the gateway did not answer properly: {error}"
        ))
    };
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
    let body = Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| broken(&error))?
        .to_bytes();
    let document = serde_json::from_slice(&body).map_err(|error| broken(&error))?;
    Ok((parts.status, document))
}

/// What helps when nobody answers.
fn unreachable(socket: &Path, error: &io::Error) -> CliError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such socket: is the gateway running, with [admin] socket in this \
             configuration?"
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there: the gateway has ended without taking its socket away"
        }
        io::ErrorKind::PermissionDenied => {
            "the socket is private: run this as the user that the gateway runs as, or as root"
        }
        _ => "the gateway cannot be reached",
    };
    CliError::failed(format_args!("{}: {hint} ({error})", socket.display()))
}
