//! [`HttpUrl`]: the plain `http` and `https` URLs that a configuration may contain.
//!
//! The rules are stricter than those of browsers: a URL must have no user, query, fragment or
//! trailing slash.

use std::net::IpAddr;

/// The parts of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    pub(crate) https: bool,
    /// The host, without the brackets of an IPv6 address.
    pub(crate) host: String,
    /// The port. `None` if the URL contains no port.
    pub(crate) written_port: Option<u16>,
    /// The path. It is empty or starts with a slash.
    pub(crate) path: String,
}

impl HttpUrl {
    /// Parses a URL. The error describes what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        // This check comes first, because `http::Uri` removes a fragment without an error.
        if text.contains(['?', '#']) {
            return Err("it must have no query and no fragment");
        }
        let (https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err("it must begin with https:// or http://"),
        };
        if rest.ends_with('/') {
            return Err("it must not end with a slash");
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err("it must not name a user");
        }
        let authority: http::uri::Authority = authority
            .parse()
            .map_err(|_| "it has no valid host name or port")?;
        let written_port = authority.port_u16();
        let host = authority.host();
        // For "host:" and for ports above 65535, `http::Uri` reports no error and no port. In both
        // cases, the text differs from `as_written`, so the comparison below detects the mistake.
        let as_written = match written_port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        if host.is_empty() || authority.as_str() != as_written || written_port == Some(0) {
            return Err("it has no valid host name or port");
        }
        if !path.is_empty() && path.parse::<http::uri::PathAndQuery>().is_err() {
            return Err("its path has characters that must be encoded");
        }
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Ok(Self {
            https,
            host: host.to_ascii_lowercase(),
            written_port,
            path: path.to_owned(),
        })
    }

    /// Returns the port of the URL. If none is written, returns 443 for `https` and 80 for `http`.
    pub(crate) fn port(&self) -> u16 {
        self.written_port
            .unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Whether the host is `localhost` or a loopback address. Connections to it never leave this
    /// machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let url = HttpUrl::parse("https://Gateway.example.org:9080").unwrap();
        assert_eq!(
            (url.https, &*url.host, url.port()),
            (true, "gateway.example.org", 9080)
        );
        let url = HttpUrl::parse("http://[::1]:80/a/b").unwrap();
        assert_eq!((&*url.host, url.port(), &*url.path), ("::1", 80, "/a/b"));
        assert!(url.is_loopback());
        assert_eq!(HttpUrl::parse("http://localhost").unwrap().port(), 80);
        assert_eq!(HttpUrl::parse("https://a").unwrap().port(), 443);
        assert!(!HttpUrl::parse("https://a").unwrap().is_loopback());
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "a",
            "a:1",
            "ftp://a",
            "HTTPS://a",
            "https://",
            "https://a/",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "https://u:p@a",
            "https://a:",
            "https://a:x",
            "https://a:99999",
            "https://a:0",
            "https://a b",
            "https://:80",
            "https://a/ b",
            "//a",
        ] {
            assert!(HttpUrl::parse(text).is_err(), "{text:?}");
        }
    }
}
