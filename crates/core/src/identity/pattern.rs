//! Patterns of caller names. Those of paths and hosts have the same syntax.
//!
//! `*` matches exactly one segment of a path, one left-most DNS label, or one local part of a mail
//! address. `/**` at the end matches a slash and everything after it, which may be empty. There are
//! no other wildcards. A pattern of caller names has a type, and matches only names of this type.

use std::fmt;
use std::net::IpAddr;

use super::caller::CallerName;
use super::path_and_host::refuse;
pub use super::path_and_host::{HostPattern, PathPattern, PatternError, Segment};
use super::trust_domain::TrustDomain;

/// A pattern of caller names. Except `*`, it matches only names of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityPattern {
    /// `*`: any authenticated caller.
    AnyCaller,
    /// `spiffe://DOMAIN/PATH`. Without a path, the pattern matches only the SPIFFE ID of the trust
    /// domain itself.
    Spiffe {
        /// The trust domain, which cannot contain a wildcard.
        trust_domain: TrustDomain,
        /// The pattern of the path. `None` if the pattern has no path.
        path: Option<PathPattern>,
    },
    /// `dns:NAME` or `dns:*.NAME`: a DNS name, or all names with one more label.
    Dns(HostPattern),
    /// `mailto:LOCAL@DOMAIN`, or `mailto:*@DOMAIN` for any local part.
    Email {
        /// The local part. `None` matches any local part.
        local: Option<Box<str>>,
        /// The domain in lower case.
        domain: Box<str>,
    },
    /// `upn:NAME@REALM`, or `upn:*@REALM` for any name.
    Upn {
        /// The name in lower case. `None` matches any name.
        name: Option<Box<str>>,
        /// The realm in lower case.
        realm: Box<str>,
    },
    /// `ip:ADDRESS` or `ip:NETWORK/BITS`: one IP address, or all addresses of a network.
    Ip(ipnet::IpNet),
    /// `uri:URI`. The path may contain wildcards if the URI has an authority.
    Uri {
        /// The scheme and the authority, for example `https://example.org`. If `path` is `None`,
        /// the whole URI, which the pattern matches exactly.
        prefix: Box<str>,
        /// The pattern of the path, if the URI has an authority and a path.
        path: Option<PathPattern>,
    },
    /// `api-key:NAME`, or `api-key:*` for any API key.
    ApiKey(Option<Box<str>>),
    /// `client:ISSUER/CLIENT_ID`, or `client:ISSUER/*` for any client of one issuer.
    Client {
        /// The issuer's name in the configuration.
        issuer: Box<str>,
        /// The client identifier. `None` matches any client.
        client: Option<Box<str>>,
    },
}

impl IdentityPattern {
    /// Parses a pattern of caller names.
    ///
    /// # Errors
    /// If the text does not begin with a known type, or if the rest is not a valid pattern of this
    /// type.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::AnyCaller);
        }
        if let Some(rest) = text.strip_prefix("spiffe://") {
            return parse_spiffe(rest);
        }
        if let Some(name) = text.strip_prefix("dns:") {
            return match HostPattern::parse(name)? {
                HostPattern::Exact(name) if name.parse::<IpAddr>().is_ok() => {
                    refuse("an IP address is written ip:ADDRESS")
                }
                pattern => Ok(Self::Dns(pattern)),
            };
        }
        if let Some(address) = text.strip_prefix("mailto:") {
            return parse_email(address);
        }
        if let Some(name) = text.strip_prefix("upn:") {
            return parse_upn(name);
        }
        if let Some(network) = text.strip_prefix("ip:") {
            let parsed = network
                .parse::<ipnet::IpNet>()
                .or_else(|_| network.parse::<IpAddr>().map(ipnet::IpNet::from));
            return match parsed {
                Ok(network) if network.trunc() == network => Ok(Self::Ip(network)),
                Ok(network) => refuse(format!(
                    "the address has bits outside its network; write ip:{}",
                    network.trunc()
                )),
                Err(_) => refuse(format!("{network:?} is not an IP address or network")),
            };
        }
        if let Some(uri) = text.strip_prefix("uri:") {
            return parse_uri(uri);
        }
        if let Some(name) = text.strip_prefix("api-key:") {
            return parse_api_key(name);
        }
        if let Some(client) = text.strip_prefix("client:") {
            return parse_client(client);
        }
        refuse(format!(
            "{text:?} does not say its type: begin with spiffe://, dns:, mailto:, upn:, ip:, uri:, api-key: or client:, or write \"*\" for any authenticated caller"
        ))
    }

    /// Whether the pattern matches a caller's name.
    #[must_use]
    pub fn matches(&self, caller: &CallerName) -> bool {
        match (self, caller) {
            (Self::AnyCaller, _) => true,
            (Self::Spiffe { trust_domain, path }, CallerName::Spiffe(id)) => {
                id.trust_domain() == trust_domain
                    && match path {
                        Some(pattern) => pattern.matches(id.path()),
                        None => id.path().is_empty(),
                    }
            }
            (Self::Dns(pattern), CallerName::Dns(name)) => pattern.matches(name),
            (Self::Email { local, domain }, CallerName::Email(address)) => {
                is_at(address, local.as_deref(), domain)
            }
            (Self::Upn { name, realm }, CallerName::Upn(upn)) => is_at(upn, name.as_deref(), realm),
            (Self::Ip(network), CallerName::Ip(address)) => network.contains(address),
            (Self::Uri { prefix, path }, CallerName::Uri(uri)) => {
                uri_matches(prefix, path.as_ref(), uri)
            }
            (Self::ApiKey(wanted), CallerName::ApiKey(name)) => {
                wanted.as_deref().is_none_or(|wanted| wanted == &**name)
            }
            (Self::Client { issuer, client }, CallerName::Client(name)) => {
                name.split_once('/').is_some_and(|(by, id)| {
                    by == &**issuer && client.as_deref().is_none_or(|client| client == id)
                })
            }
            _ => false,
        }
    }

    /// Whether there is a caller name that both patterns match.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::AnyCaller, _) | (_, Self::AnyCaller) => true,
            (
                Self::Spiffe { trust_domain, path },
                Self::Spiffe {
                    trust_domain: other_domain,
                    path: other_path,
                },
            ) => trust_domain == other_domain && paths_overlap(path.as_ref(), other_path.as_ref()),
            (Self::Dns(a), Self::Dns(b)) => a.overlaps(b),
            (
                Self::Email { local, domain },
                Self::Email {
                    local: other_local,
                    domain: other_domain,
                },
            ) => {
                domain == other_domain
                    && (local.is_none() || other_local.is_none() || local == other_local)
            }
            (
                Self::Upn { name, realm },
                Self::Upn {
                    name: other,
                    realm: other_realm,
                },
            ) => realm == other_realm && (name.is_none() || other.is_none() || name == other),
            (Self::Ip(a), Self::Ip(b)) => a.contains(b) || b.contains(a),
            (
                Self::Uri { prefix, path },
                Self::Uri {
                    prefix: other_prefix,
                    path: other_path,
                },
            ) => match (path, other_path) {
                (Some(path), Some(other)) => prefix == other_prefix && path.overlaps(other),
                // A pattern whose path is `None` matches exactly one URI, which is its prefix.
                (None, other) => uri_matches(other_prefix, other.as_ref(), prefix),
                (path, None) => uri_matches(prefix, path.as_ref(), other_prefix),
            },
            (Self::ApiKey(a), Self::ApiKey(b)) => a.is_none() || b.is_none() || a == b,
            (
                Self::Client { issuer, client },
                Self::Client {
                    issuer: other_issuer,
                    client: other,
                },
            ) => issuer == other_issuer && (client.is_none() || other.is_none() || client == other),
            _ => false,
        }
    }

    /// Whether the pattern matches exactly one caller name.
    #[must_use]
    pub fn names_one(&self) -> bool {
        match self {
            Self::AnyCaller => false,
            Self::Spiffe { path, .. } | Self::Uri { path, .. } => {
                path.as_ref().is_none_or(PathPattern::is_exact)
            }
            Self::Dns(pattern) => matches!(pattern, HostPattern::Exact(_)),
            Self::Email { local, .. } => local.is_some(),
            Self::Upn { name, .. } => name.is_some(),
            Self::Ip(network) => network.prefix_len() == network.max_prefix_len(),
            Self::ApiKey(name) => name.is_some(),
            Self::Client { client, .. } => client.is_some(),
        }
    }

    /// Returns the trust domain of a SPIFFE pattern, and `None` for patterns of other types.
    #[must_use]
    pub const fn spiffe_trust_domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::Spiffe { trust_domain, .. } => Some(trust_domain),
            _ => None,
        }
    }
}

/// Whether a name is `LOCAL@DOMAIN`. `None` stands for any local part.
fn is_at(name: &str, local: Option<&str>, domain: &str) -> bool {
    name.rsplit_once('@')
        .is_some_and(|(own, host)| host == domain && local.is_none_or(|local| local == own))
}

fn uri_matches(prefix: &str, path: Option<&PathPattern>, uri: &str) -> bool {
    match path {
        None => prefix == uri,
        Some(pattern) => uri
            .strip_prefix(prefix)
            .is_some_and(|path| !path.contains(['?', '#']) && pattern.matches(path)),
    }
}

fn paths_overlap(a: Option<&PathPattern>, b: Option<&PathPattern>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.overlaps(b),
        (None, None) => true,
        _ => false,
    }
}

fn parse_spiffe(rest: &str) -> Result<IdentityPattern, PatternError> {
    let (domain, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let trust_domain = TrustDomain::parse(domain).map_err(|error| {
        PatternError(if domain.contains('*') {
            "the trust domain of a SPIFFE pattern is literal; list the domains one by one".into()
        } else {
            error.to_string()
        })
    })?;
    let path = match path {
        "" => None,
        path => {
            let pattern = PathPattern::parse(path)?;
            let segment_is_valid = |segment: &Segment| match segment {
                Segment::Any => true,
                Segment::Literal(text) => {
                    !text.is_empty()
                        && text
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                }
            };
            if !pattern.segments().iter().all(segment_is_valid) {
                return refuse(
                    "a SPIFFE path has only letters, digits, '.', '-' and '_', and no trailing slash",
                );
            }
            Some(pattern)
        }
    };
    Ok(IdentityPattern::Spiffe { trust_domain, path })
}

fn parse_email(address: &str) -> Result<IdentityPattern, PatternError> {
    let Some((local, domain)) = address.split_once('@') else {
        return refuse("write mailto:LOCAL@DOMAIN, or mailto:*@DOMAIN for a whole domain");
    };
    let literal = if local == "*" { "any" } else { local };
    let CallerName::Email(parsed) = CallerName::from_email(&format!("{literal}@{domain}"))
        .map_err(|error| PatternError(error.to_string()))?
    else {
        return refuse("this is not a mail address");
    };
    let domain = parsed
        .rsplit_once('@')
        .map(|(_, domain)| domain)
        .unwrap_or_default()
        .into();
    Ok(IdentityPattern::Email {
        local: (local != "*").then(|| local.into()),
        domain,
    })
}

fn parse_upn(text: &str) -> Result<IdentityPattern, PatternError> {
    let Some((name, realm)) = text.split_once('@') else {
        return refuse("write upn:NAME@REALM, or upn:*@REALM for a whole realm");
    };
    let literal = if name == "*" { "any" } else { name };
    let parsed = CallerName::from_upn(&format!("{literal}@{realm}"))
        .map_err(|error| PatternError(error.to_string()))?;
    let CallerName::Upn(parsed) = parsed else {
        return refuse("this is not a user principal name");
    };
    let (literal, realm) = parsed.rsplit_once('@').unwrap_or_default();
    Ok(IdentityPattern::Upn {
        name: (name != "*").then(|| literal.into()),
        realm: realm.into(),
    })
}

fn parse_api_key(name: &str) -> Result<IdentityPattern, PatternError> {
    if name == "*" {
        return Ok(IdentityPattern::ApiKey(None));
    }
    match CallerName::from_api_key(name) {
        Ok(_) => Ok(IdentityPattern::ApiKey(Some(name.into()))),
        Err(error) => refuse(error.to_string()),
    }
}

fn parse_client(text: &str) -> Result<IdentityPattern, PatternError> {
    let Some((issuer, client)) = text.split_once('/') else {
        return refuse("write client:ISSUER/CLIENT_ID, or client:ISSUER/* for any client of its");
    };
    let literal = if client == "*" { "any" } else { client };
    match CallerName::from_client(issuer, literal) {
        Ok(_) if literal.contains('*') => {
            refuse("'*' stands for any client, and for no part of one")
        }
        Ok(_) => Ok(IdentityPattern::Client {
            issuer: issuer.into(),
            client: (client != "*").then(|| client.into()),
        }),
        Err(error) => refuse(error.to_string()),
    }
}

fn parse_uri(uri: &str) -> Result<IdentityPattern, PatternError> {
    let literal = uri.replace('*', "x");
    match CallerName::from_uri(&literal) {
        Ok(CallerName::Uri(_)) => {}
        Ok(_) => return refuse("a SPIFFE ID is written spiffe://…, without uri:"),
        Err(error) => return refuse(error.to_string()),
    }
    let after_scheme = uri.find("://").map(|position| position + 3);
    let path_start = after_scheme.and_then(|start| {
        uri.get(start..)
            .and_then(|rest| rest.find('/'))
            .map(|slash| start + slash)
    });
    match path_start {
        Some(start) if uri.contains('*') => {
            let (prefix, path) = uri.split_at(start);
            if prefix.contains('*') {
                return refuse("'*' may stand only in the path of a URI");
            }
            Ok(IdentityPattern::Uri {
                prefix: prefix.into(),
                path: Some(PathPattern::parse(path)?),
            })
        }
        _ if uri.contains('*') => {
            refuse("'*' may stand only in the path of a URI with an authority")
        }
        _ => Ok(IdentityPattern::Uri {
            prefix: uri.into(),
            path: None,
        }),
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path_text =
            |path: &Option<PathPattern>| path.as_ref().map(ToString::to_string).unwrap_or_default();
        match self {
            Self::AnyCaller => formatter.write_str("*"),
            Self::Spiffe { trust_domain, path } => {
                write!(formatter, "spiffe://{trust_domain}{}", path_text(path))
            }
            Self::Dns(pattern) => write!(formatter, "dns:{pattern}"),
            Self::Email { local, domain } => {
                write!(
                    formatter,
                    "mailto:{}@{domain}",
                    local.as_deref().unwrap_or("*")
                )
            }
            Self::Upn { name, realm } => {
                write!(formatter, "upn:{}@{realm}", name.as_deref().unwrap_or("*"))
            }
            Self::Ip(network) => write!(formatter, "ip:{network}"),
            Self::Uri { prefix, path } => write!(formatter, "uri:{prefix}{}", path_text(path)),
            Self::ApiKey(name) => {
                write!(formatter, "api-key:{}", name.as_deref().unwrap_or("*"))
            }
            Self::Client { issuer, client } => {
                let client = client.as_deref().unwrap_or("*");
                write!(formatter, "client:{issuer}/{client}")
            }
        }
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
