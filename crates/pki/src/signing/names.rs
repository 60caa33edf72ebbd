//! The names of a leaf, each parsed and checked by type.
//!
//! Names go through the parsers of [`crate::identity`], so that nothing is
//! issued that the gateway would call malformed. Which profile they are issued
//! under is decided in `name_rules`.

use std::fmt;
use std::net::IpAddr;

use rcgen::SanType;

use crate::identity::caller::normalized_dns;
use crate::identity::text::printable;
use crate::identity::{CallerName, LeafFacts, SpiffeId, TrustDomain};
use crate::reason::ReasonCode;

/// Maximum number of subject alternative names in one certificate; chains must stay small.
pub const MAX_NAMES: usize = 64;

/// A leaf that the gateway would refuse is not issued; with the gateway's reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct RequestError {
    /// The reason code with which the gateway would refuse the leaf.
    pub reason: ReasonCode,
    /// The name, the problem with it, and the remedy.
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

/// One subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// A name that can name a caller.
    Caller(CallerName),
    /// `*.example.org`: for servers only, since it names no caller. Without `*.`.
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

/// The subject alternative names of one leaf, each well-formed, none twice.
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

    /// Adds a SPIFFE ID written in full, or as a `/path` below `domain`.
    ///
    /// # Errors
    /// When it is not a well-formed SPIFFE ID.
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

    /// Adds a URI, which may be a SPIFFE ID.
    ///
    /// # Errors
    /// When it is not well-formed or could pass for another type of name.
    pub fn uri(self, uri: &str) -> Result<Self, RequestError> {
        CallerName::from_uri(uri)
            .map(|name| self.with(SubjectName::Caller(name)))
            .map_err(|error| RequestError::malformed("URI", uri, error))
    }

    /// Adds a DNS name, or a wildcard such as `*.example.org`.
    ///
    /// # Errors
    /// When it is not a host name. IP addresses are refused here: a client
    /// compares them with iPAddress names only (RFC 9525 section 6.5).
    pub fn dns(self, name: &str) -> Result<Self, RequestError> {
        if name.parse::<IpAddr>().is_ok() {
            return Err(RequestError::malformed(
                "DNS name",
                name,
                "this is an IP address; use --ip",
            ));
        }
        if let Some(parent) = name.strip_prefix("*.") {
            // A wildcard for a single label would cover every host of a top-level domain.
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
    /// When it is not an IPv4 or IPv6 address.
    pub fn ip_text(self, text: &str) -> Result<Self, RequestError> {
        text.parse()
            .map(|address| self.ip(address))
            .map_err(|_| RequestError::malformed("IP address", text, "it is not an address"))
    }

    /// Adds a mail address.
    ///
    /// # Errors
    /// When it is not a plain `local@domain`.
    pub fn email(self, address: &str) -> Result<Self, RequestError> {
        CallerName::from_email(address)
            .map(|name| self.with(SubjectName::Caller(name)))
            .map_err(|error| RequestError::malformed("mail address", address, error))
    }

    /// Returns the names for a certificate of NAME: the given names, or NAME itself if it is an
    /// address or host name and none is given. A NAME that is a SPIFFE ID is always included.
    ///
    /// # Errors
    /// When NAME is a malformed SPIFFE ID or contradicts the given one, or when
    /// no name is given and NAME cannot be one.
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

    /// Iterates over the names in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &SubjectName> {
        self.0.iter()
    }

    /// Whether there are no names.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the SPIFFE ID among the names.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.0.iter().find_map(|name| match name {
            SubjectName::Caller(name) => name.spiffe_id(),
            SubjectName::WildcardDns(_) => None,
        })
    }

    /// Returns the names in the form the encoder takes.
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
                    // Unreachable, because no type of SAN carries such a name.
                    SubjectName::Caller(CallerName::ApiKey(_) | CallerName::Client(_)) => {
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

/// Whether a leaf carries a name, compared as a connecting client does it (RFC 9525 section 6): a
/// host name or address, `dns:NAME`, `mailto:ADDRESS`, `ip:ADDRESS`, a SPIFFE ID or another URI. A
/// common name never counts.
#[must_use]
pub fn carries(facts: &LeafFacts, name: &str) -> bool {
    let sans = &facts.sans;
    if let Some(address) = name.strip_prefix("mailto:") {
        return sans.email.iter().any(|carried| carried == address);
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
            // The wildcard is one whole label.
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
