//! `UpgradeProtocol`: a protocol to which a connection may be upgraded.

/// Protocols that carry further HTTP requests. The gateway does not allow them, because it could
/// not check those requests.
const REFUSED: [&str; 4] = ["h2c", "h2", "http", "tls"];

/// The name of a protocol in the `Upgrade` field (RFC 9110 section 7.8), in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeProtocol(Box<str>);

/// The reason why a text in the configuration is not the name of an allowed protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeProtocolError {
    /// The text is not a valid protocol name.
    #[error("write a name, or name/version, for example \"websocket\"")]
    Malformed,
    /// The protocol carries further HTTP requests, so it is not allowed.
    #[error("HTTP and TLS cannot be tunnelled: their requests would pass the gateway's checks by")]
    CarriesRequests,
}

impl UpgradeProtocol {
    /// The name of the protocol WebSocket.
    pub const WEBSOCKET: &str = "websocket";

    /// Parses the name of a protocol.
    ///
    /// # Errors
    /// Returns [`UpgradeProtocolError`] if the text is not a valid name, or if the protocol carries
    /// HTTP requests.
    pub fn parse(text: &str) -> Result<Self, UpgradeProtocolError> {
        let mut parts = text.split('/');
        let is_name = parts.clone().count() <= 2 && parts.clone().all(is_token);
        let name = parts.next().unwrap_or_default();
        if !is_name {
            return Err(UpgradeProtocolError::Malformed);
        }
        if carries_requests(name) {
            return Err(UpgradeProtocolError::CarriesRequests);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// Whether `name` is the name of this protocol. Case does not matter.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name)
    }
}

/// Whether the protocol with the name `name` carries further HTTP requests.
#[must_use]
pub fn carries_requests(name: &str) -> bool {
    REFUSED.iter().any(|other| name.eq_ignore_ascii_case(other))
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case() {
        let websocket = UpgradeProtocol::parse("WebSocket").unwrap();
        assert!(websocket.is("websocket") && websocket.is("WEBSOCKET"));
        assert!(!websocket.is("websocket/13"));
        assert!(UpgradeProtocol::parse("foo/2").unwrap().is("Foo/2"));
    }

    #[test]
    fn protocols_that_carry_requests_are_no_tunnels() {
        for text in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0"] {
            let error = UpgradeProtocol::parse(text).unwrap_err();
            assert_eq!(error, UpgradeProtocolError::CarriesRequests, "{text}");
        }
        for text in ["", "a b", "a,b", "a/", "/1", "a/1/2", "caf\u{e9}"] {
            let error = UpgradeProtocol::parse(text).unwrap_err();
            assert_eq!(error, UpgradeProtocolError::Malformed, "{text:?}");
        }
    }
}
