//! Makes GET requests with limits on time and size. TLS certificates are verified, and
//! redirects are not followed.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AGE, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::jose::MAX_JWK_SET_BYTES;
use crate::{BuildError, FetchProblem, crypto};

/// The timeout of one request, from connecting to the last byte of the response body.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of a connection attempt to one IP address of the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of seconds for which a response is fresh if it has no `max-age`.
const DEFAULT_FRESHNESS: u64 = 300;

/// The minimum and the maximum freshness of a response, in seconds.
const FRESHNESS: std::ops::RangeInclusive<u64> = 60..=24 * 60 * 60;

/// An HTTP client for one server.
pub(super) struct HttpClient(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

/// A successful response. `fresh_for` is the number of seconds for which the response is fresh.
pub(super) enum Answer {
    NotModified {
        fresh_for: u64,
    },
    Body {
        octets: Bytes,
        entity_tag: Option<HeaderValue>,
        fresh_for: u64,
    },
}

impl HttpClient {
    /// Creates a client that trusts `root_certificates` (PEM), or the root certificates of
    /// the operating system if `root_certificates` is `None`.
    pub(super) fn new(url: &Uri, root_certificates: Option<&[u8]>) -> Result<Self, BuildError> {
        let roots = match root_certificates {
            Some(pem) => roots_from_pem(pem)?,
            // Plain HTTP needs no root certificates, and a container may have none.
            None if url.scheme_str() == Some("http") => RootCertStore::empty(),
            None => system_roots()?,
        };
        let tls = ClientConfig::builder_with_provider(crypto::tls_provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| BuildError::RootCertificates(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // Fetches are usually minutes apart. An idle connection would therefore not be used
        // again.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self(client))
    }

    pub(super) async fn get(
        &self,
        url: &Uri,
        entity_tag: Option<&HeaderValue>,
    ) -> Result<Answer, FetchProblem> {
        tokio::time::timeout(TIMEOUT, self.get_without_timeout(url, entity_tag))
            .await
            .unwrap_or(Err(FetchProblem::TimedOut))
    }

    async fn get_without_timeout(
        &self,
        url: &Uri,
        entity_tag: Option<&HeaderValue>,
    ) -> Result<Answer, FetchProblem> {
        let mut request =
            Request::get(url.clone()).header(ACCEPT, "application/jwk-set+json, application/json");
        if let Some(entity_tag) = entity_tag {
            request = request.header(IF_NONE_MATCH, entity_tag);
        }
        let request = request
            .body(Empty::new())
            .map_err(|_| FetchProblem::Unreachable)?;
        let response = self
            .0
            .request(request)
            .await
            .map_err(|_| FetchProblem::Unreachable)?;
        let (head, body) = response.into_parts();
        let fresh_for = freshness(&head.headers);
        match head.status {
            StatusCode::NOT_MODIFIED if entity_tag.is_some() => {
                Ok(Answer::NotModified { fresh_for })
            }
            StatusCode::OK => {
                let octets = Limited::new(body, MAX_JWK_SET_BYTES)
                    .collect()
                    .await
                    .map_err(|error| {
                        if error.is::<LengthLimitError>() {
                            FetchProblem::TooLarge
                        } else {
                            FetchProblem::Unreachable
                        }
                    })?
                    .to_bytes();
                Ok(Answer::Body {
                    octets,
                    entity_tag: head.headers.get(ETAG).cloned(),
                    fresh_for,
                })
            }
            // A redirect is an error too, because keys come only from the configured URL.
            status => Err(FetchProblem::Status(status.as_u16())),
        }
    }
}

/// Returns for how many seconds a private cache may use a response (RFC 9111 section 4.2.1),
/// within [`FRESHNESS`].
pub(super) fn freshness(headers: &HeaderMap) -> u64 {
    let mut seconds = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" || directive.starts_with("no-cache") {
                return *FRESHNESS.start();
            }
            if let Some(age) = directive.strip_prefix("max-age=") {
                seconds = age.trim_matches('"').parse::<u64>().ok();
            }
        }
    }
    let age = headers
        .get(AGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    seconds
        .unwrap_or(DEFAULT_FRESHNESS)
        .saturating_sub(age)
        .clamp(*FRESHNESS.start(), *FRESHNESS.end())
}

fn roots_from_pem(pem: &[u8]) -> Result<RootCertStore, BuildError> {
    // Some editors write a UTF-8 byte order mark at the start of a file.
    let pem = pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem);
    let mut roots = RootCertStore::empty();
    let mut read = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|error| BuildError::RootCertificates(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| BuildError::RootCertificates(error.to_string()))?;
        read += 1;
    }
    // The PEM reader ignores blocks of other types, and blocks that do not begin at the
    // start of a line. Without this check, an ignored root certificate would cause
    // failing fetches with no clear reason.
    let begun = count(pem, b"-BEGIN ");
    if read != begun {
        return Err(BuildError::RootCertificates(format!(
            "of {begun} PEM blocks {read} can be read as certificates; each has to begin its line \
             with -----BEGIN CERTIFICATE-----"
        )));
    }
    non_empty(roots, "the PEM text has no certificate")
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len())
        .filter(|window| *window == part)
        .count()
}

/// Returns the root certificates of the system. Unreadable certificates are ignored.
fn system_roots() -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    non_empty(
        roots,
        "the system has none; give them with root_certificates",
    )
}

fn non_empty(roots: RootCertStore, problem: &str) -> Result<RootCertStore, BuildError> {
    if roots.is_empty() {
        return Err(BuildError::RootCertificates(problem.to_owned()));
    }
    Ok(roots)
}
