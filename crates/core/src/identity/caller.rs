//! `CallerName`: the name of a caller. Each name has one type and one printed form.
//!
//! The printed form is the `sub` of an assertion, and patterns are compared with it. Two names of
//! different types never have the same printed form. The parsers refuse, as malformed, a name that
//! would break this rule.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::spiffe_id::SpiffeId;

/// The types of subject alternative names (SAN) that can name a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameType {
    /// A URI SAN that is a SPIFFE ID.
    Spiffe,
    /// Any other URI SAN.
    Uri,
    /// A dNSName SAN.
    Dns,
    /// An rfc822Name SAN.
    Email,
    /// An iPAddress SAN.
    Ip,
    /// An otherName SAN with a user principal name, as Active Directory's authorities issue it.
    Upn,
}

impl NameType {
    /// All types, in the order in which the documentation lists them.
    pub const ALL: [Self; 6] = [
        Self::Spiffe,
        Self::Uri,
        Self::Dns,
        Self::Email,
        Self::Ip,
        Self::Upn,
    ];

    /// Returns the word that stands for this type in the configuration key `identity_from`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spiffe => "spiffe",
            Self::Uri => "uri",
            Self::Dns => "dns",
            Self::Email => "email",
            Self::Ip => "ip",
            Self::Upn => "upn",
        }
    }
}

/// The name of a caller. `Display` prints it in the form of an assertion's `sub`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallerName {
    /// A SPIFFE ID, printed without changes.
    Spiffe(SpiffeId),
    /// Another URI, printed without changes.
    Uri(Arc<str>),
    /// A DNS name in lower case without trailing dot, printed `dns:NAME`.
    Dns(Arc<str>),
    /// A mail address with lower-case domain, printed `mailto:ADDRESS`.
    Email(Arc<str>),
    /// An IP address, printed `ip:ADDRESS`.
    Ip(IpAddr),
    /// A user principal name in lower case, printed `upn:NAME@REALM`.
    Upn(Arc<str>),
    /// The name of an API key, printed `api-key:NAME`. No certificate contains a name of this type.
    ApiKey(Arc<str>),
    /// A client of a token issuer, printed `client:ISSUER/CLIENT_ID`. `ISSUER` is the issuer's name
    /// in the configuration. No certificate contains a name of this type.
    Client(Arc<str>),
}

/// The reason why a text cannot be the name of a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedName(pub String);

/// URI schemes that a caller's URI must not have, because it would then print like a name of
/// another type.
const RESERVED_SCHEMES: [&str; 6] = ["dns", "mailto", "ip", "upn", "api-key", "client"];

impl CallerName {
    /// Returns the type of the subject alternative name that contained the name. Returns `None` for
    /// names that no certificate can contain: API keys and clients.
    #[must_use]
    pub const fn name_type(&self) -> Option<NameType> {
        match self {
            Self::Spiffe(_) => Some(NameType::Spiffe),
            Self::Uri(_) => Some(NameType::Uri),
            Self::Dns(_) => Some(NameType::Dns),
            Self::Email(_) => Some(NameType::Email),
            Self::Ip(_) => Some(NameType::Ip),
            Self::Upn(_) => Some(NameType::Upn),
            Self::ApiKey(_) | Self::Client(_) => None,
        }
    }

    /// Creates the name of the caller with this API key. `name` is the name of the key in the
    /// configuration.
    ///
    /// # Errors
    /// If [`is_plain_name`] refuses `name`.
    pub fn from_api_key(name: &str) -> Result<Self, MalformedName> {
        if is_plain_name(name) {
            Ok(Self::ApiKey(name.into()))
        } else {
            Err(MalformedName(format!(
                "{name:?} is no name of an API key: expected {PLAIN_NAME_FORM}"
            )))
        }
    }

    /// Creates the name of a client of a token issuer. `issuer` is the issuer's name in the
    /// configuration.
    ///
    /// # Errors
    /// If [`is_plain_name`] refuses `issuer`. If the client identifier is empty, longer than 512
    /// bytes, or contains other characters than visible ASCII (RFC 6749 appendix A.1, without
    /// spaces).
    pub fn from_client(issuer: &str, client_id: &str) -> Result<Self, MalformedName> {
        let good = (1..=512).contains(&client_id.len())
            && client_id.bytes().all(|octet| octet.is_ascii_graphic());
        // The issuer's name contains no slash, so the first slash always separates the two parts.
        if is_plain_name(issuer) && good {
            Ok(Self::Client(format!("{issuer}/{client_id}").into()))
        } else {
            Err(MalformedName(
                "the client identifier is empty, too long, or has other than visible ASCII characters"
                    .into(),
            ))
        }
    }

    /// Parses the printed form of a name, for example from an audit line or a deny entry.
    ///
    /// # Errors
    /// If the text is not the printed form of a name.
    pub fn from_printed(text: &str) -> Result<Self, MalformedName> {
        match text.split_once(':') {
            Some(("dns", name)) => Self::from_dns(name),
            Some(("mailto", address)) => Self::from_email(address),
            Some(("upn", name)) => Self::from_upn(name),
            Some(("ip", address)) => address
                .parse()
                .map(Self::Ip)
                .map_err(|_| MalformedName("after ip: comes an address".into())),
            Some(("api-key", name)) => Self::from_api_key(name),
            Some(("client", name)) => {
                let (issuer, client_id) = name.split_once('/').unwrap_or((name, ""));
                Self::from_client(issuer, client_id)
            }
            _ => Self::from_uri(text),
        }
    }

    /// Parses a URI SAN. If the scheme is `spiffe`, the URI must be a valid SPIFFE ID.
    ///
    /// # Errors
    /// If the URI is a malformed SPIFFE ID, is too long, has no scheme or a reserved scheme, or
    /// contains characters that RFC 3986 does not allow.
    pub fn from_uri(uri: &str) -> Result<Self, MalformedName> {
        if SpiffeId::is_claimed_by(uri) {
            return SpiffeId::parse(uri)
                .map(Self::Spiffe)
                .map_err(|error| MalformedName(error.to_string()));
        }
        if uri.len() > super::spiffe_id::MAX_LENGTH {
            return Err(MalformedName("a URI name has at most 2048 bytes".into()));
        }
        let Some((scheme, rest)) = uri.split_once(':') else {
            return Err(MalformedName("a URI name needs a scheme".into()));
        };
        let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !scheme_is_valid || rest.is_empty() {
            return Err(MalformedName(
                "the URI has no valid scheme or no content".into(),
            ));
        }
        if RESERVED_SCHEMES
            .iter()
            .any(|reserved| reserved.eq_ignore_ascii_case(scheme))
        {
            return Err(MalformedName(format!(
                "a URI with scheme {} could pass for another type of name",
                scheme.to_ascii_lowercase()
            )));
        }
        if !rest.bytes().all(is_uri_octet) {
            return Err(MalformedName(
                "the URI has characters that RFC 3986 does not allow".into(),
            ));
        }
        Ok(Self::Uri(uri.into()))
    }

    /// Parses a dNSName SAN.
    ///
    /// # Errors
    /// If the name is not a host name with only letters, digits and hyphens (RFC 1123). A wildcard
    /// is refused, because it matches many hosts.
    pub fn from_dns(name: &str) -> Result<Self, MalformedName> {
        if name.contains('*') {
            return Err(MalformedName(
                "a wildcard DNS name stands for many hosts and cannot name a caller".into(),
            ));
        }
        normalized_dns(name)
            .map(|name| Self::Dns(name.into()))
            .ok_or_else(|| MalformedName("the DNS name is not a well-formed host name".into()))
    }

    /// Parses an rfc822Name SAN (RFC 5280 section 4.2.1.6): `local@domain`.
    ///
    /// # Errors
    /// If the text is not one mail address in ASCII without quotes or comments.
    pub fn from_email(address: &str) -> Result<Self, MalformedName> {
        let malformed = || MalformedName("the mail address is not a plain local@domain".into());
        let (local, domain) = plain_address(address).ok_or_else(malformed)?;
        Ok(Self::Email(format!("{local}@{domain}").into()))
    }

    /// Parses a user principal name ([MS-ADTS] section 5.1.1.1.1): `name@realm`. Active Directory
    /// does not distinguish upper and lower case, so the name is converted to lower case. A rule for
    /// `upn:alice@…` therefore also applies to `Alice@…`.
    ///
    /// # Errors
    /// Returns an error unless the text consists of a name, one `@` and a realm. The name must be
    /// ASCII, without quotation marks and white space.
    pub fn from_upn(text: &str) -> Result<Self, MalformedName> {
        let malformed =
            || MalformedName("the user principal name (UPN) is not a plain name@realm".into());
        let (name, realm) = plain_address(text)
            .filter(|_| !text.ends_with('.'))
            .ok_or_else(malformed)?;
        let name = name.to_ascii_lowercase();
        Ok(Self::Upn(format!("{name}@{realm}").into()))
    }

    /// Returns the SPIFFE ID if the name is a SPIFFE ID.
    #[must_use]
    pub const fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Spiffe(id) => Some(id),
            _ => None,
        }
    }
}

/// Splits `local@domain` in ASCII without quotes or comments. The domain gets lower case.
fn plain_address(address: &str) -> Option<(&str, String)> {
    let (local, domain) = address.split_once('@')?;
    let local_is_plain = (1..=64).contains(&local.len())
        && local
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'+-/=?^_`{|}~.".contains(&b));
    local_is_plain.then_some((local, normalized_dns(domain)?))
}

/// Describes the names that [`is_plain_name`] accepts, for error messages.
pub const PLAIN_NAME_FORM: &str = "up to 64 letters, digits, `-`, `_` and `.`";

/// Whether a text can be the name of an API key or of a token issuer. Such names occur in the names
/// of callers, so only a few characters are allowed.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet))
}

/// Converts a host name to lower case and removes a trailing dot. Returns `None` if a label has
/// other characters than letters, digits and hyphens.
#[must_use]
pub fn normalized_dns(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > 253 {
        return None;
    }
    let label_is_valid = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.split('.')
        .all(label_is_valid)
        .then(|| name.to_ascii_lowercase())
}

/// Whether RFC 3986 allows this byte in a URI after the scheme: unreserved characters, reserved
/// characters and `%`.
const fn is_uri_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(
            octet,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'/'
                | b'?'
                | b'#'
                | b'['
                | b']'
                | b'@'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b'%'
        )
}

impl fmt::Display for CallerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => write!(formatter, "{id}"),
            Self::Uri(uri) => formatter.write_str(uri),
            Self::Dns(name) => write!(formatter, "dns:{name}"),
            Self::Email(address) => write!(formatter, "mailto:{address}"),
            Self::Ip(address) => write!(formatter, "ip:{address}"),
            Self::Upn(name) => write!(formatter, "upn:{name}"),
            Self::ApiKey(name) => write!(formatter, "api-key:{name}"),
            Self::Client(client) => write!(formatter, "client:{client}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_printed_name_is_read_back() {
        for text in [
            "spiffe://example.org/ns/shop",
            "https://example.org/a",
            "dns:a.example.org",
            "mailto:a@example.org",
            "ip:2001:db8::1",
            "api-key:batch",
            "client:corporate/web/1",
            "upn:alice@corp.example.org",
        ] {
            let name = CallerName::from_printed(text).unwrap();
            assert_eq!(name.to_string(), text);
        }
        for text in ["", "a", "ip:a", "client:corporate", "dns:"] {
            assert!(CallerName::from_printed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_passes_for_another_type() {
        for uri in [
            "dns:alice",
            "DNS:alice",
            "mailto:a@b",
            "ip:10.0.0.1",
            "upn:a@b",
            "UPN:a@b",
            "api-key:x",
            "client:a/b",
        ] {
            assert!(CallerName::from_uri(uri).is_err(), "{uri}");
        }
        assert!(CallerName::from_uri("SPIFFE://example.org/a").is_err());
        assert!(CallerName::from_uri("urn:example:a").is_ok());
        assert!(CallerName::from_uri("https://a/b\0").is_err());
        assert!(CallerName::from_uri("nothing").is_err());
    }

    #[test]
    fn callers_without_certificate_have_names_of_their_own() {
        let name = |name: Result<CallerName, MalformedName>| name.unwrap().to_string();
        assert_eq!(name(CallerName::from_api_key("batch")), "api-key:batch");
        assert_eq!(
            name(CallerName::from_client("corporate", "https://app/1")),
            "client:corporate/https://app/1"
        );
        for bad in ["", "a b", "a/b", "é", "a\n"] {
            assert!(CallerName::from_api_key(bad).is_err(), "{bad:?}");
            assert!(CallerName::from_client(bad, "app").is_err(), "{bad:?}");
        }
        for bad in ["", "a b", "é", "a\n", "\u{202e}"] {
            assert!(CallerName::from_client("a", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn dns_names_are_normalized_and_wildcards_refused() {
        assert_eq!(
            CallerName::from_dns("A.Example.ORG.").unwrap().to_string(),
            "dns:a.example.org"
        );
        for bad in [
            "*.example.org",
            "",
            ".",
            "a..b",
            "-a.b",
            "a\0.b",
            "a b",
            "é.org",
        ] {
            assert!(CallerName::from_dns(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mail_addresses_keep_the_local_part() {
        assert_eq!(
            CallerName::from_email("Al.Ice@Example.ORG")
                .unwrap()
                .to_string(),
            "mailto:Al.Ice@example.org"
        );
        for bad in [
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c.d",
            "*@example.org",
            "\"x\"@y",
        ] {
            assert!(CallerName::from_email(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn user_principal_names_have_lower_case() {
        let name = |text| CallerName::from_upn(text).map(|name| name.to_string());
        assert_eq!(
            name("Al.Ice@CORP.Example.ORG").unwrap(),
            "upn:al.ice@corp.example.org"
        );
        assert_eq!(name("host$@corp.test").unwrap(), "upn:host$@corp.test");
        let long = format!("{}@corp.test", "a".repeat(65));
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c.d",
            "*@corp.test",
            "\u{e9}@corp.test",
            "a\\b@corp.test",
            "a@corp.test.",
            "a@corp_test.",
            "a\0@corp.test",
            "upn:a@b:c",
            &long,
        ] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,60}") {
            let _ = CallerName::from_uri(&text);
            let _ = CallerName::from_dns(&text);
            let _ = CallerName::from_email(&text);
            let _ = CallerName::from_upn(&text);
        }
    }
}
