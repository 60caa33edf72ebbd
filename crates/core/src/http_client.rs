//! Outbound HTTP to identity providers and CRL servers. Requests have limits, servers are verified,
//! and only configured URLs are used.
//!
//! The client follows no redirects and uses no proxies or cookies. The time of a request and the
//! size of a response are limited, whatever the server does. No part of a token becomes part of a
//! URL. The URLs come from the configuration, or from the provider's metadata if they have the same
//! origin as the configured URL.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::Scheme;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::ResolvesClientCert;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;

use crate::crypto;

/// Maximum size of a JSON document in bytes.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Maximum number of exchanges with one provider at the same time. An exchange counts until it
/// ends, even if no code waits for its response any more.
pub(crate) const MAX_EXCHANGES: usize = 64;

/// Maximum time that a new exchange waits while [`MAX_EXCHANGES`] other exchanges are running.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(250);

/// Timeout of a connection attempt to one address of a provider.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of a client: trusted authorities, client certificate and timeout.
#[derive(Clone)]
pub struct ClientSettings {
    /// The certificate authorities that may issue the server's certificate.
    pub roots: Arc<RootCertStore>,
    /// The gateway's own certificate, if the provider requires one (RFC 8705 section 2).
    pub certificate: Option<Arc<dyn ResolvesClientCert>>,
    /// Timeout of a whole exchange, from connecting to the last byte of the response.
    pub timeout: Duration,
}

/// The reason why there is no usable response. The error never contains parts of the request or
/// response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The connection, its TLS handshake, or the exchange failed.
    #[error("it cannot be reached")]
    Unreachable,
    /// The exchange took longer than the configured timeout.
    #[error("it does not answer in time")]
    TimedOut,
    /// The response is larger than the client accepts.
    #[error("its answer has more octets than are read")]
    TooLarge,
    /// The status is not 200. The client does not follow redirects.
    #[error("it answers with status {0}")]
    Status(u16),
    /// The response is not JSON according to its content type or its content.
    #[error("its answer is not the JSON document that was asked for")]
    NotJson,
    /// The metadata contain another issuer than the configured issuer, or URLs on another origin.
    #[error("its metadata do not fit the configured issuer")]
    Metadata,
    /// Too many exchanges were running. The request has waited for `QUEUE_TIMEOUT`, and was not
    /// sent.
    #[error("too many questions to it are under way")]
    Busy,
}

/// The error for settings with which no client can be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TLS to the identity provider cannot be set up: {0}")]
pub struct SettingsError(String);

/// The error for a URL that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an absolute https URL (http only to loopback) without user and fragment")]
pub struct UrlError;

/// A response with status 200 and a JSON document.
#[derive(Debug)]
pub(crate) struct JsonResponse {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A client for one identity provider.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    /// The runtime on which exchanges run. If no runtime is set, an exchange runs on the runtime of
    /// the code that starts the exchange.
    runtime: Arc<OnceLock<tokio::runtime::Handle>>,
    /// Limits the number of exchanges: an exchange takes one permit.
    turns: Arc<Semaphore>,
}

impl HttpClient {
    /// Creates a client with the settings `settings`.
    ///
    /// # Errors
    /// Returns [`SettingsError`] if rustls rejects the settings.
    pub fn new(settings: &ClientSettings) -> Result<Self, SettingsError> {
        let tls = ClientConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| SettingsError(error.to_string()))?
            .with_root_certificates(Arc::clone(&settings.roots));
        let tls = match &settings.certificate {
            Some(certificate) => tls.with_client_cert_resolver(Arc::clone(certificate)),
            None => tls.with_no_client_auth(),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(8)
            .build(connector);
        Ok(Self {
            client,
            timeout: settings.timeout,
            runtime: Arc::default(),
            turns: Arc::new(Semaphore::new(MAX_EXCHANGES)),
        })
    }

    /// Runs all later exchanges, and the connections that they leave open, on `runtime`.
    pub fn run_on(&self, runtime: &tokio::runtime::Handle) {
        let _ = self.runtime.set(runtime.clone());
    }

    /// Sends a request and reads the JSON document in the response. `held` is kept until the
    /// exchange has ended, and then dropped.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        held: impl Send + 'static,
    ) -> Result<JsonResponse, FetchError> {
        // If `runtime` is set and this future is dropped, the exchange still continues on that
        // runtime. The permit therefore belongs to the exchange. So the semaphore limits
        // exchanges, and not calls of this function.
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = tokio::time::timeout(QUEUE_TIMEOUT.min(self.timeout), turn).await;
        let Ok(Ok(turn)) = turn else {
            return Err(FetchError::Busy);
        };
        let (client, timeout) = (self.client.clone(), self.timeout);
        let exchange = Box::pin(async move {
            let answered = tokio::time::timeout(timeout, Self::exchange(client, request)).await;
            drop((turn, held));
            answered
        });
        let answered = match self.runtime.get() {
            // If the runtime shuts down, its tasks end too, and `await` returns an error.
            Some(runtime) => match runtime.spawn(exchange).await {
                Ok(answered) => answered,
                Err(_) => return Err(FetchError::Unreachable),
            },
            None => exchange.await,
        };
        answered.unwrap_or(Err(FetchError::TimedOut))
    }

    /// Fetches a document of any type, up to `max_bytes` bytes.
    pub(crate) async fn fetch(&self, url: &Uri, max_bytes: usize) -> Result<Bytes, FetchError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = url.clone();
        let exchange = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|_| FetchError::Unreachable)?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status().as_u16()));
            }
            read(response.into_body(), max_bytes).await
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or(Err(FetchError::TimedOut))
    }

    async fn exchange(
        client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<JsonResponse, FetchError> {
        let response = client
            .request(request)
            .await
            .map_err(|_| FetchError::Unreachable)?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(FetchError::Status(head.status.as_u16()));
        }
        if !is_json(&head.headers) {
            return Err(FetchError::NotJson);
        }
        Ok(JsonResponse {
            headers: head.headers,
            body: read(body, MAX_RESPONSE_BYTES).await?,
        })
    }
}

async fn read(body: Incoming, max_bytes: usize) -> Result<Bytes, FetchError> {
    match Limited::new(body, max_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
        Err(_) => Err(FetchError::Unreachable),
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HttpClient")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientSettings")
            .field("roots", &self.roots.len())
            .field("certificate", &self.certificate.is_some())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Returns whether the content type is `application/json`, or has the suffix `+json` (RFC 6839).
fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|media_type| media_type.trim().to_ascii_lowercase())
        .is_some_and(|media_type| media_type == "application/json" || media_type.ends_with("+json"))
}

/// Parses a URL of the configuration. The URL must use `https`, or `http` to a loopback address.
///
/// # Errors
/// Returns [`UrlError`] for any other URL.
pub fn checked_url(url: &str) -> Result<Uri, UrlError> {
    if url.contains('#') {
        return Err(UrlError);
    }
    let url: Uri = url.parse().map_err(|_| UrlError)?;
    let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
        return Err(UrlError);
    };
    let allowed =
        *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && is_loopback(authority.host()));
    if allowed && !authority.as_str().contains('@') && !authority.host().is_empty() {
        Ok(url)
    } else {
        Err(UrlError)
    }
}

/// Returns whether two URLs have the same scheme, host and port.
pub(crate) fn same_origin(left: &Uri, right: &Uri) -> bool {
    let port = |url: &Uri| {
        let default = if url.scheme() == Some(&Scheme::HTTPS) {
            443
        } else {
            80
        };
        url.port_u16().unwrap_or(default)
    };
    let same_host = match (left.host(), right.host()) {
        (Some(left), Some(right)) => left.eq_ignore_ascii_case(right),
        _ => false,
    };
    same_host && left.scheme() == right.scheme() && port(left) == port(right)
}

fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || literal.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
        || literal.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_or_loopback() {
        for good in [
            "https://idp.example.org/keys?v=1",
            "http://127.0.0.1:9/keys",
            "http://[::1]/keys",
            "http://localhost/keys",
        ] {
            assert!(checked_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/keys",
            "idp.example.org",
            "http://idp.example.org/keys",
            "http://localhost.example.org/",
            "http://10.0.0.1/",
            "ftp://localhost/",
            "file:///keys",
            "https://user@idp.example.org/",
            "https://idp.example.org/#a",
        ] {
            assert_eq!(checked_url(bad), Err(UrlError), "{bad}");
        }
    }

    #[test]
    fn origins_are_compared_with_their_ports() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a.example/x", "https://A.example:443/y"));
        assert!(!same("https://a.example/", "https://a.example:8443/"));
        assert!(!same("https://a.example/", "http://a.example/"));
        assert!(!same("https://a.example/", "https://b.example/"));
    }
}
