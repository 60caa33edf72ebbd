//! The names of a leaf, each checked according to its type.
//!
//! The parsers of [`crate::identity`] parse the names. So the authority issues no name that the
//! gateway refuses as malformed. `name_rules` decides under which profile a leaf is issued.

use std::fmt;
use std::net::IpAddr;

use rcgen::SanType;

use crate::identity::caller::normalized_dns;
use crate::identity::text::printable;
use crate::identity::{CallerName, LeafFacts, SpiffeId, TrustDomain};
use crate::reason::ReasonCode;

/// Maximum number of names in one leaf. The gateway accepts only small certificate chains.
pub const MAX_NAMES: usize = 64;

/// The error for a request whose leaf the gateway would refuse. Contains the gateway's reason code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct RequestError {
    /// The reason code with which the gateway would refuse the leaf.
    pub reason: ReasonCode,
    /// A message with the wrong name or key, what is wrong with it, and how to fix it.
    pub message: String,
}

impl RequestError {
    fn malformed(kind: &str, name: &str, why: impl fmt::Display) -> Self {
        Self {
            reason: ReasonCode::MalformedIdentity,
            message: format!("{kind} {:?}: {why}", printable(name)),
        }
    }

    pub(crate) fn new(reason: ReasonCode, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// One subject alternative name of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// A name by which the gateway can identify a caller.
    Caller(CallerName),
    /// The DNS name `*.example.org`, stored as `example.org`. It is only for servers, because it
    /// cannot identify a caller.
    WildcardDns(String),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller(name) => name.fmt(formatter),
            Self::WildcardDns(parent) => write!(formatter, "dns:*.{parent}"),
        }
    }
}

/// The subject alternative names of one leaf. Each name is well-formed, and no name occurs twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectNames(pub(super) Vec<SubjectName>);

impl SubjectNames {
    /// Creates an empty set of names.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a SPIFFE ID.
    #[must_use]
    pub fn spiffe(self, id: SpiffeId) -> Self {
        self.with(SubjectName::Caller(CallerName::Spiffe(id)))
    }

    /// Adds a SPIFFE ID in text form. The text is a full SPIFFE ID, or only its path. With only a
    /// path, the SPIFFE ID is in the trust domain `domain`.
    ///
    /// # Errors
    /// If the text is not a well-formed SPIFFE ID.
    pub fn spiffe_text(self, text: &str, domain: &TrustDomain) -> Result<Self, RequestError> {
        let full = if text.starts_with('/') {
            format!("spiffe://{domain}{text}")
        } else {
            text.to_owned()
        };
        SpiffeId::parse(&full)
            .map(|id| self.spiffe(id))
            .map_err(|error| RequestError::malformed("SPIFFE ID", text, error))
    }

    /// Adds a URI. If it is a SPIFFE ID, adds it as SPIFFE ID.
    ///
    /// # Errors
    /// If the URI is not well-formed. If its scheme is reserved, because it would print like
    /// another type of name.
    pub fn uri(self, uri: &str) -> Result<Self, RequestError> {
        CallerName::from_uri(uri)
            .map(|name| self.with(SubjectName::Caller(name)))
            .map_err(|error| RequestError::malformed("URI", uri, error))
    }

    /// Adds a DNS name, or a wildcard such as `*.example.org`.
    ///
    /// # Errors
    /// If the text is not a host name. An IP address is refused too, because clients compare
    /// addresses only with iPAddress names (RFC 9525 section 6.5).
    pub fn dns(self, name: &str) -> Result<Self, RequestError> {
        if name.parse::<IpAddr>().is_ok() {
            return Err(RequestError::malformed(
                "DNS name",
                name,
                "this is an IP address; use --ip",
            ));
        }
        if let Some(parent) = name.strip_prefix("*.") {
            // A wildcard below a top-level domain is refused, because it would match the names of
            // many organizations.
            return match normalized_dns(parent) {
                Some(parent) if parent.contains('.') => {
                    Ok(self.with(SubjectName::WildcardDns(parent)))
                }
                _ => Err(RequestError::malformed(
                    "DNS name",
                    name,
                    "a wildcard stands before a host name of at least two labels",
                )),
            };
        }
        CallerName::from_dns(name)
            .map(|name| self.with(SubjectName::Caller(name)))
            .map_err(|error| RequestError::malformed("DNS name", name, error))
    }

    /// Adds an IP address.
    #[must_use]
    pub fn ip(self, address: IpAddr) -> Self {
        self.with(SubjectName::Caller(CallerName::Ip(address)))
    }

    /// Adds an IP address in text form.
    ///
    /// # Errors
    /// If the text is not an IPv4 or IPv6 address.
    pub fn ip_text(self, text: &str) -> Result<Self, RequestError> {
        text.parse()
            .map(|address| self.ip(address))
            .map_err(|_| RequestError::malformed("IP address", text, "it is not an address"))
    }

    /// Adds a mail address.
    ///
    /// # Errors
    /// If the text is not a plain `local@domain`.
    pub fn email(self, address: &str) -> Result<Self, RequestError> {
        CallerName::from_email(address)
            .map(|name| self.with(SubjectName::Caller(name)))
            .map_err(|error| RequestError::malformed("mail address", address, error))
    }

    /// Returns the names of a leaf that an operator calls `name`. If `self` is empty, `name` must
    /// be a SPIFFE ID, an IP address or a host name, and becomes the only name. If `name` is a
    /// SPIFFE ID, it is always added.
    ///
    /// # Errors
    /// If `name` is a malformed SPIFFE ID, or another SPIFFE ID than the one in `self`. If `self`
    /// is empty and `name` is neither a SPIFFE ID, an address nor a host name.
    pub fn or_name(self, name: &str) -> Result<Self, RequestError> {
        if SpiffeId::is_claimed_by(name) {
            let id = SpiffeId::parse(name)
                .map_err(|error| RequestError::malformed("SPIFFE ID", name, error))?;
            return match self.spiffe_id() {
                Some(given) if *given != id => Err(RequestError::new(
                    ReasonCode::AmbiguousIdentity,
                    format!("{id} and {given} cannot stand in one certificate"),
                )),
                _ => Ok(Self(Vec::new()).spiffe(id).and(self)),
            };
        }
        if !self.is_empty() {
            return Ok(self);
        }
        if let Ok(address) = name.parse() {
            return Ok(self.ip(address));
        }
        self.dns(name).map_err(|_| {
            RequestError::new(
                ReasonCode::NoIdentity,
                format!(
                    "{:?} is neither a SPIFFE ID nor a host name; say what to issue for with \
                     --spiffe, --dns, --ip, --email or --uri",
                    printable(name)
                ),
            )
        })
    }

    /// Iterates over the names. A SPIFFE ID from [`Self::or_name`] comes first, then the others in
    /// the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &SubjectName> {
        self.0.iter()
    }

    /// Whether there are no names.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the SPIFFE ID, if one of the names is a SPIFFE ID.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.0.iter().find_map(|name| match name {
            SubjectName::Caller(name) => name.spiffe_id(),
            SubjectName::WildcardDns(_) => None,
        })
    }

    /// Returns the names in the type of rcgen, which encodes the certificate.
    pub(crate) fn to_san_types(&self) -> Result<Vec<SanType>, rcgen::Error> {
        self.0
            .iter()
            .map(|name| {
                Ok(match name {
                    SubjectName::Caller(CallerName::Spiffe(id)) => {
                        SanType::URI(id.as_str().try_into()?)
                    }
                    SubjectName::Caller(CallerName::Uri(uri)) => SanType::URI((&**uri).try_into()?),
                    SubjectName::Caller(CallerName::Dns(name)) => {
                        SanType::DnsName((&**name).try_into()?)
                    }
                    SubjectName::Caller(CallerName::Email(address)) => {
                        SanType::Rfc822Name((&**address).try_into()?)
                    }
                    SubjectName::Caller(CallerName::Ip(address)) => SanType::IpAddress(*address),
                    // This cannot happen, because no function adds such a name to a leaf.
                    SubjectName::Caller(
                        CallerName::Upn(_) | CallerName::ApiKey(_) | CallerName::Client(_),
                    ) => {
                        return Err(rcgen::Error::InvalidNameType);
                    }
                    SubjectName::WildcardDns(parent) => {
                        SanType::DnsName(format!("*.{parent}").try_into()?)
                    }
                })
            })
            .collect()
    }

    fn and(self, others: Self) -> Self {
        others.0.into_iter().fold(self, Self::with)
    }

    fn with(mut self, name: SubjectName) -> Self {
        if !self.0.contains(&name) {
            self.0.push(name);
        }
        self
    }
}

/// Whether a leaf contains a name, compared as a TLS client compares names (RFC 9525 section 6).
/// `name` is a host name or an address, `dns:NAME`, `mailto:ADDRESS`, `upn:NAME@REALM`,
/// `ip:ADDRESS`, a SPIFFE ID or another URI. Ignores the common name.
#[must_use]
pub fn carries(facts: &LeafFacts, name: &str) -> bool {
    let sans = &facts.sans;
    if let Some(address) = name.strip_prefix("mailto:") {
        return sans.email.iter().any(|carried| carried == address);
    }
    if let Some(name) = name.strip_prefix("upn:") {
        let wanted = CallerName::from_upn(name);
        return wanted.is_ok()
            && sans
                .upn
                .iter()
                .any(|carried| CallerName::from_upn(carried) == wanted);
    }
    let bare = name.strip_prefix("ip:").unwrap_or(name);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return sans.ip.contains(&address);
    }
    let host = name.strip_prefix("dns:").unwrap_or(name);
    if host.contains(':') {
        return sans.uri.iter().any(|carried| carried == host);
    }
    let Some(host) = normalized_dns(host) else {
        return false;
    };
    sans.dns.iter().any(|carried| {
        match carried.strip_prefix("*.").map(normalized_dns) {
            // A wildcard matches exactly one label, so `host` without its first label must be equal
            // to the part after `*.`.
            Some(parent) => host
                .split_once('.')
                .is_some_and(|(_, above)| parent.as_deref() == Some(above)),
            None => normalized_dns(carried).as_ref() == Some(&host),
        }
    })
}

#[cfg(test)]
#[path = "names/tests.rs"]
mod tests;
