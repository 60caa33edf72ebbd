//! Requests and answers as tests see them.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::protocol::{ConnectError, Protocol};

/// Why there is no complete answer.
#[derive(Debug)]
pub enum CallError {
    /// There was no connection.
    Connect(ConnectError),
    /// The server ended the connection with this alert.
    Alert(rustls::AlertDescription),
    /// The answer broke off or was malformed.
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

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailer fields, where there were any.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// A header field's value; the test fails where the field stands twice.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().expect("a printable value");
        assert!(values.next().is_none(), "{name} stands twice");
        Some(value)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.status, self.body))
    }

    /// All values of a header field that an [`Echo`](crate::Echo) received.
    #[must_use]
    pub fn received(&self, name: &str) -> Vec<String> {
        received(&self.json())
            .into_iter()
            .filter(|(received, _)| received.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// Names of all header fields that an [`Echo`](crate::Echo) received.
    #[must_use]
    pub fn received_names(&self) -> Vec<String> {
        received(&self.json())
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    /// The reason the gateway gives, where it answered itself.
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

/// Reads a whole answer.
///
/// # Errors
/// When its body breaks off.
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

/// A `GET` request for a path.
///
/// # Panics
/// When the path is not one the `http` crate accepts.
#[must_use]
pub fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).expect("a request")
}

/// Names the host if the request does not: `Host` in HTTP/1.1, the
/// authority in HTTP/2.
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
