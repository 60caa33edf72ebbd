//! Requests and responses, in the form that tests use.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::protocol::{ConnectError, Protocol};

/// Why a request got no complete response.
#[derive(Debug)]
pub enum CallError {
    /// The connection could not be opened.
    Connect(ConnectError),
    /// The server ended the connection with this TLS alert.
    Alert(rustls::AlertDescription),
    /// The response ended early or was malformed.
    Http(hyper::Error),
}

impl CallError {
    pub(crate) fn from_hyper(error: hyper::Error) -> Self {
        let alert = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .and_then(|error| error.get_ref())
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .and_then(|error| match error {
                rustls::Error::AlertReceived(alert) => Some(*alert),
                _ => None,
            });
        alert.map_or(Self::Http(error), Self::Alert)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(formatter, "no connection: {error}"),
            Self::Alert(alert) => write!(formatter, "alert {alert:?}"),
            Self::Http(error) => write!(formatter, "no complete answer: {error:?}"),
        }
    }
}

impl std::error::Error for CallError {}

/// A complete response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trailer fields, if the response had trailers.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// Returns the value of the header field `name` of the response. The test fails if the field
    /// occurs twice.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().expect("a printable value");
        assert!(values.next().is_none(), "{name} stands twice");
        Some(value)
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// If the body is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.status, self.body))
    }

    /// Returns all values of the request header field `name`, as the service received them. Only
    /// for responses of an [`Echo`](crate::Echo), whose body lists the received fields.
    #[must_use]
    pub fn received(&self, name: &str) -> Vec<String> {
        received(&self.json())
            .into_iter()
            .filter(|(received, _)| received.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// Returns the names of all request header fields that the service received. Only for
    /// responses of an [`Echo`](crate::Echo), whose body lists the received fields.
    #[must_use]
    pub fn received_names(&self) -> Vec<String> {
        received(&self.json())
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    /// Returns the gateway's reason code, if the gateway itself made the response.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.header("countersign-reason")
    }
}

fn received(echo: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    echo["headers"]
        .as_array()
        .unwrap_or_else(|| panic!("not an echo: {echo}"))
        .iter()
        .map(|pair| (text(&pair[0]), text(&pair[1])))
        .collect()
}

/// Reads a whole response.
///
/// # Errors
/// If the body ends early.
pub(crate) async fn collect(response: Response<Incoming>) -> Result<Answer, CallError> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(CallError::from_hyper)?;
    let trailers = body.trailers().cloned();
    Ok(Answer {
        status: StatusCode::as_u16(&head.status),
        headers: head.headers,
        body: body.to_bytes(),
        trailers,
    })
}

/// Makes a `GET` request for a path.
///
/// # Panics
/// If the `http` crate does not accept the path.
#[must_use]
pub fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).expect("a request")
}

/// Adds `host` to a request without a host: as `Host` in HTTP/1.1, as the authority of the URL
/// in HTTP/2.
pub(crate) fn with_host(
    mut request: Request<Bytes>,
    host: &str,
    protocol: Protocol,
) -> Request<Bytes> {
    match protocol {
        Protocol::Http1 => {
            if !request.headers().contains_key("host") {
                request
                    .headers_mut()
                    .insert("host", HeaderValue::from_str(host).expect("a host"));
            }
        }
        Protocol::Http2 => {
            if request.uri().authority().is_none() {
                let target = request
                    .uri()
                    .path_and_query()
                    .map_or("/", |target| target.as_str());
                *request.uri_mut() = format!("https://{host}{target}")
                    .parse::<Uri>()
                    .expect("a target");
            }
            *request.version_mut() = http::Version::HTTP_2;
        }
    }
    request
}
