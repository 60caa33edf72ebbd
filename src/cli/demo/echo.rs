//! The demo's service: verifies the assertion, and returns the request that it received.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use countersign_verify::{AssertionVerifier, RequestParts, claims, only_assertion};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// Maximum number of bytes of a body that are returned.
const MAX_BODY: usize = 64 * 1024;

/// An echo service that has bound a port, but does not serve yet.
pub(super) struct Echo {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl Echo {
    /// Binds a free port on the loopback interface.
    pub(super) fn bind() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests on a separate thread until the process ends.
    pub(super) fn serve(self, verifier: AssertionVerifier) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = self.listener;
        std::thread::Builder::new()
            .name("echo".into())
            .spawn(move || runtime.block_on(accept(listener, Arc::new(verifier))))?;
        Ok(())
    }
}

async fn accept(listener: std::net::TcpListener, verifier: Arc<AssertionVerifier>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let verifier = Arc::clone(&verifier);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&verifier)));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    verifier: Arc<AssertionVerifier>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or_else(|| parts.uri.to_string(), ToString::to_string);
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let raw = only_assertion(
        parts
            .headers
            .get_all(claims::HEADER_LOWERCASE)
            .iter()
            .map(http::HeaderValue::as_bytes),
    );
    let verified = raw.and_then(|token| {
        let about = RequestParts::new(parts.method.as_str(), host, &target)
            .map_err(|_| countersign_verify::VerifyError::RequestUnclear)?;
        verifier.verify(token, &about)
    });
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let lines: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    let document = json!({
        "method": parts.method.as_str(),
        "path": target,
        "headers": by_name(&parts.headers),
        "header_lines": lines,
        "body": String::from_utf8_lossy(&body),
        "assertion": raw.ok(),
        "verified": verified.is_ok(),
        "error": verified.as_ref().err().map(|error| error.code()),
        "claims": verified.ok(),
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{document:#}\n"))));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// Returns each field name with its value. If a field has several values, returns them as a list.
fn by_name(headers: &HeaderMap) -> Map<String, Value> {
    headers
        .keys()
        .map(|name| {
            let mut values: Vec<Value> = headers
                .get_all(name)
                .iter()
                .map(|value| {
                    String::from_utf8_lossy(value.as_bytes())
                        .into_owned()
                        .into()
                })
                .collect();
            let value = match values.len() {
                1 => values.remove(0),
                _ => Value::Array(values),
            };
            (name.as_str().to_owned(), value)
        })
        .collect()
}
