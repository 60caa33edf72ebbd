//! Patterns of paths and of hosts.

use std::fmt;
use std::net::IpAddr;

use super::caller::normalized_dns;

/// The reason why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(pub String);

pub(super) fn refuse<T>(message: impl Into<String>) -> Result<T, PatternError> {
    Err(PatternError(message.into()))
}

/// One segment of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A segment without wildcard. It matches only an equal segment.
    Literal(Box<str>),
    /// `*`: exactly one segment that is not empty.
    Any,
}

/// A pattern over `/`-separated segments, as in `/orders/*/items/**`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    segments: Vec<Segment>,
    and_below: bool,
}

impl PathPattern {
    /// Parses a path pattern, which must begin with `/`.
    ///
    /// # Errors
    /// If the pattern does not begin with `/`. If `**` is not at the end. If a segment other than
    /// the last is empty, or a segment is `.` or `..`. If a segment contains a character that is
    /// not allowed, or `*` together with other characters.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let Some(rest) = text.strip_prefix('/') else {
            return refuse("a path pattern begins with '/'");
        };
        let mut parts: Vec<&str> = rest.split('/').collect();
        let and_below = parts.last() == Some(&"**");
        if and_below {
            parts.pop();
        }
        let last = parts.len().saturating_sub(1);
        let segments = parts
            .iter()
            .enumerate()
            .map(|(index, part)| parse_segment(part, !and_below && index == last))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            segments,
            and_below,
        })
    }

    /// Returns the segments of the pattern, without a final `/**`.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the pattern ends with `/**`, so that it matches all paths that begin with its
    /// segments and a slash.
    #[must_use]
    pub const fn and_below(&self) -> bool {
        self.and_below
    }

    /// Whether the pattern has no wildcard, so that it matches exactly one path.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.and_below && !self.segments.contains(&Segment::Any)
    }

    /// Whether the pattern matches a path. The path must begin with a slash.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut given = rest.split('/');
        for segment in &self.segments {
            let Some(part) = given.next() else {
                return false;
            };
            match segment {
                Segment::Literal(literal) if **literal == *part => {}
                Segment::Any if !part.is_empty() => {}
                _ => return false,
            }
        }
        given.next().is_some() == self.and_below
    }

    /// Whether there is a path that both patterns match.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let shared = self
            .segments
            .iter()
            .zip(&other.segments)
            .all(|pair| match pair {
                (Segment::Literal(a), Segment::Literal(b)) => a == b,
                (Segment::Any, Segment::Literal(literal))
                | (Segment::Literal(literal), Segment::Any) => !literal.is_empty(),
                (Segment::Any, Segment::Any) => true,
            });
        let (mine, theirs) = (self.segments.len(), other.segments.len());
        shared
            && match (self.and_below, other.and_below) {
                (false, false) => mine == theirs,
                (true, false) => theirs > mine,
                (false, true) => mine > theirs,
                (true, true) => true,
            }
    }
}

fn parse_segment(part: &str, is_last: bool) -> Result<Segment, PatternError> {
    match part {
        "*" => Ok(Segment::Any),
        "" if !is_last => refuse("a path pattern has no empty segment"),
        "." | ".." => refuse("a path pattern has no '.' or '..' segment"),
        _ if part.contains('*') => refuse(format!(
            "'*' stands for one whole segment and '**' only at the end, so {part:?} is not a segment"
        )),
        _ if part
            .bytes()
            .any(|b| b <= b' ' || b == 0x7f || b"\\?#%".contains(&b)) =>
        {
            refuse(format!(
                "a path pattern is a plain path without query, '%', '\\' or spaces, unlike {part:?}"
            ))
        }
        _ => Ok(Segment::Literal(part.into())),
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(formatter, "/{literal}")?,
                Segment::Any => formatter.write_str("/*")?,
            }
        }
        if self.and_below {
            formatter.write_str("/**")?;
        }
        Ok(())
    }
}

/// A pattern of hosts: one host name, one IP address, or `*.` and a host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One host name in lower case without trailing dot, or one IP address.
    Exact(Box<str>),
    /// `*.SUFFIX`: matches one label, followed by a dot and this suffix.
    Wildcard(Box<str>),
}

impl HostPattern {
    /// Parses a host pattern.
    ///
    /// # Errors
    /// If the text is not a host name, an IP address, or `*.` followed by a host name.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if let Some(suffix) = text.strip_prefix("*.") {
            return match normalized_dns(suffix) {
                Some(suffix) => Ok(Self::Wildcard(suffix.into())),
                None => refuse(format!("{suffix:?} is not a host name")),
            };
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Exact(address.to_string().into()));
        }
        match normalized_dns(text) {
            Some(name) => Ok(Self::Exact(name.into())),
            None if text.contains('*') => {
                refuse("'*' stands for one whole left-most label, as in *.example.org")
            }
            None => refuse(format!("{text:?} is not a host name or IP address")),
        }
    }

    /// Whether the pattern matches a host. The host must be in lower case without trailing dot.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == &**suffix),
        }
    }

    /// Whether there is a host that both patterns match.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), pattern) | (pattern, Self::Exact(name)) => pattern.matches(name),
            (Self::Wildcard(a), Self::Wildcard(b)) => a == b,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => formatter.write_str(name),
            Self::Wildcard(suffix) => write!(formatter, "*.{suffix}"),
        }
    }
}
