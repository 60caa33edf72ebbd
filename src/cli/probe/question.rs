//! The request that a probe sends, and the address that it connects to.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::cli::common::input;
use crate::cli::common::output::CliError;
use crate::cli::common::token_file::read_token;

/// Maximum number of bytes of a body.
const MAX_BODY: u64 = 64 << 20;

/// The arguments that describe the request. Their letters are those of curl.
#[derive(Debug, Args)]
pub(super) struct QuestionArgs {
    /// The method [default: GET, or POST with -d].
    #[arg(short = 'X', long, value_name = "METHOD")]
    request: Option<Method>,
    /// A header field of the request, such as 'Accept: application/json'.
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<Field>,
    /// The body of the request; @FILE reads it from a file, @- from standard input.
    #[arg(short, long, value_name = "DATA", allow_hyphen_values = true)]
    data: Option<String>,
    /// The file with the access token to send; - for standard input.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// Connect to ADDRESS instead of the addresses of HOST.
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    resolve: Vec<Resolved>,
}

/// A header field.
#[derive(Debug, Clone)]
struct Field(HeaderName, HeaderValue);

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once(':')
            .ok_or("a field is NAME: VALUE, such as Accept: application/json")?;
        let name = name.trim().parse::<HeaderName>();
        let value = value.trim().parse::<HeaderValue>();
        match (name, value) {
            (Ok(name), Ok(value)) => Ok(Self(name, value)),
            (Err(_), _) => Err("the name of the field is malformed".to_owned()),
            (_, Err(_)) => Err("the value has characters that no header field carries".to_owned()),
        }
    }
}

/// An address for a host and port.
#[derive(Debug, Clone)]
struct Resolved {
    host: String,
    port: u16,
    address: IpAddr,
}

impl FromStr for Resolved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write HOST:PORT:ADDRESS, such as orders.example.org:443:10.0.0.7".to_owned();
        let mut parts = text.splitn(3, ':');
        let (Some(host), Some(port), Some(address)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port: port.parse().map_err(|_| form())?,
            address: bare(address).parse().map_err(|_| form())?,
        })
    }
}

/// Removes the brackets of an IPv6 address.
pub(super) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The request of a probe.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) url: Uri,
    pub(super) method: Method,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
    /// The address to connect to. `None` if the host's name must be resolved.
    pub(super) address: Option<SocketAddr>,
}

impl QuestionArgs {
    /// Returns the files that the arguments name, so that the caller of this function can check
    /// that at most one is standard input.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let body = self.data.as_deref().and_then(|data| data.strip_prefix('@'));
        body.map(Path::new).into_iter().chain(self.token.as_deref())
    }

    /// Reads the files, and returns the request for a URL.
    pub(super) fn question(&self, url: &Uri) -> Result<Question, CliError> {
        let mut fields = HeaderMap::new();
        for Field(name, value) in &self.header {
            fields.append(name, value.clone());
        }
        if let Some(file) = &self.token {
            if fields.contains_key(AUTHORIZATION) {
                return Err(CliError::usage(
                    "--token sends the Authorization field; leave out the one of -H",
                ));
            }
            let value = HeaderValue::try_from(format!("Bearer {}", read_token(file)?));
            let value = value.map_err(|_| {
                CliError::usage("the token has characters that no header field carries")
            })?;
            fields.insert(AUTHORIZATION, value);
        }
        let body = match &self.data {
            None => Bytes::new(),
            Some(data) => match data.strip_prefix('@') {
                Some(file) => input::read(Path::new(file), MAX_BODY)?.into(),
                None => data.clone().into(),
            },
        };
        if self.data.is_some() && !fields.contains_key(CONTENT_TYPE) {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            fields.insert(CONTENT_TYPE, form);
        }
        if !fields.contains_key(HOST) {
            let host = url.authority().map_or("", |authority| authority.as_str());
            let host = HeaderValue::try_from(host).map_err(CliError::usage)?;
            fields.insert(HOST, host);
        }
        if !fields.contains_key(USER_AGENT) {
            fields.insert(USER_AGENT, HeaderValue::from_static("countersign-probe"));
        }
        let method = match (&self.request, &self.data) {
            (Some(method), _) => method.clone(),
            (None, Some(_)) => Method::POST,
            (None, None) => Method::GET,
        };
        if method == Method::CONNECT {
            return Err(CliError::usage(
                "a probe opens no tunnels; use another method",
            ));
        }
        Ok(Question {
            address: self.address(url)?,
            url: url.clone(),
            method,
            fields,
            body,
        })
    }

    /// Returns the address that the arguments give for the URL's host and port. An argument for
    /// another host or port is an error, because it would have no effect.
    fn address(&self, url: &Uri) -> Result<Option<SocketAddr>, CliError> {
        let host = bare(url.host().unwrap_or_default()).to_ascii_lowercase();
        let port = url.port_u16().unwrap_or(443);
        let mut found = None;
        for resolved in &self.resolve {
            if (&resolved.host, resolved.port) != (&host, port) {
                return Err(CliError::usage(format!(
                    "--resolve {}:{}:{} has no effect: the probe asks {host}:{port}",
                    resolved.host, resolved.port, resolved.address
                )));
            }
            found.get_or_insert(SocketAddr::new(resolved.address, port));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_have_brackets() {
        let address = |text: &str| text.parse::<Resolved>().map(|one| one.address.to_string());
        assert_eq!(address("A.example:443:10.0.0.7").as_deref(), Ok("10.0.0.7"));
        assert_eq!(address("a:443:[::1]").as_deref(), Ok("::1"));
        assert_eq!(address("a:443:::1").as_deref(), Ok("::1"));
        for text in [
            "",
            "a",
            "a:443",
            "a:x:10.0.0.7",
            "a:443:host",
            "a:99999:::1",
        ] {
            assert!(address(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fields_have_a_name_and_a_value() {
        let field: Field = "Accept:  text/plain ".parse().unwrap();
        assert_eq!(
            (field.0.as_str(), field.1.as_bytes()),
            ("accept", &b"text/plain"[..])
        );
        for text in ["", "Accept", "a b: c", "a: \u{7}"] {
            assert!(text.parse::<Field>().is_err(), "{text:?}");
        }
    }
}
