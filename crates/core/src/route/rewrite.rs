//! `PathRewrite`: the only change of a path that a route can make.
//!
//! The first segments of the path are replaced with other segments. The path changes after the
//! policy decision and before signing, so that the assertion contains the path that the service
//! receives. The rest of the path does not change.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use http::uri::PathAndQuery;

use crate::identity::pattern::{PathPattern, Segment};

/// Replaces the first segments of a path with other segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRewrite {
    from: Vec<Box<str>>,
    /// The text that replaces the segments `from`, without a trailing slash. If empty, the segments
    /// are removed.
    to: Box<str>,
}

/// The reason why `from` and `to` are not a valid rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// `from` cannot be the start of a path.
    #[error("`from` is not the beginning of a path")]
    From,
    /// `to` cannot be the start of a path.
    #[error("`to` is not the beginning of a path")]
    To,
}

impl PathRewrite {
    /// Creates a rewrite that replaces the segments `from` with the segments `to`. `"/"` means no
    /// segments.
    ///
    /// # Errors
    /// Returns an error if `from` or `to` has an empty segment, a dot segment or a trailing slash.
    /// Also refuses characters that other programs might interpret differently.
    pub fn new(from: &str, to: &str) -> Result<Self, RewriteError> {
        let from = plain_segments(from).ok_or(RewriteError::From)?;
        plain_segments(to).ok_or(RewriteError::To)?;
        Ok(Self {
            from: from.into_iter().map(Into::into).collect(),
            to: to.strip_suffix('/').unwrap_or(to).into(),
        })
    }

    /// Whether all paths that `pattern` matches start with the segments `from`.
    #[must_use]
    pub fn covers(&self, pattern: &PathPattern) -> bool {
        let mut segments = pattern.segments().iter();
        self.from.iter().all(
            |wanted| matches!(segments.next(), Some(Segment::Literal(found)) if found == wanted),
        )
    }

    /// Returns the rewritten path with the unchanged query. The path of `target` must match a
    /// pattern for which [`Self::covers`] is true. Returns `None` if the path has fewer segments
    /// than `from`, so that it matches no such pattern.
    #[must_use]
    pub fn apply(&self, target: &PathAndQuery) -> Option<PathAndQuery> {
        let mut rest = target.path();
        for _ in &self.from {
            let segment = rest.strip_prefix('/')?;
            rest = segment.find('/').map_or("", |end| {
                // `find` returns a character boundary, so `get` cannot fail.
                segment.get(end..).unwrap_or_default()
            });
        }
        let mut text = String::with_capacity(self.to.len() + target.as_str().len() + 1);
        text.push_str(&self.to);
        text.push_str(rest);
        if text.is_empty() {
            text.push('/');
        }
        if let Some(query) = target.query() {
            let _ = write!(text, "?{query}");
        }
        PathAndQuery::from_maybe_shared(Bytes::from(text)).ok()
    }
}

impl fmt::Display for PathRewrite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root_of = |path: String| {
            if path.is_empty() {
                "/".to_owned()
            } else {
                path
            }
        };
        let from: String = self
            .from
            .iter()
            .map(|segment| format!("/{segment}"))
            .collect();
        write!(
            formatter,
            "{} becomes {}",
            root_of(from),
            root_of(self.to.to_string())
        )
    }
}

/// Returns the segments of an absolute path. Returns `None` for a path that [`PathRewrite::new`]
/// would refuse.
fn plain_segments(path: &str) -> Option<Vec<&str>> {
    let rest = path.strip_prefix('/')?;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let is_plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'@' | b':')
    };
    rest.split('/')
        .map(|segment| {
            let plain = !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain);
            plain.then_some(segment)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(from: &str, to: &str, path: &str) -> String {
        let rewrite = PathRewrite::new(from, to).unwrap();
        let target = PathAndQuery::try_from(path).unwrap();
        rewrite.apply(&target).unwrap().to_string()
    }

    #[test]
    fn the_beginning_is_exchanged_by_segments() {
        for (from, to, path, forwarded) in [
            ("/api", "/", "/api", "/"),
            ("/api", "/", "/api/", "/"),
            ("/api", "/", "/api/x", "/x"),
            ("/api", "/", "/%61pi/x%20y?a=/api", "/x%20y?a=/api"),
            ("/api/v1", "/v2", "/api/v1/orders/7?", "/v2/orders/7?"),
            ("/api/v1", "/v2/shop", "/api/v1", "/v2/shop"),
            ("/", "/v1", "/orders", "/v1/orders"),
            ("/", "/v1", "/", "/v1/"),
            ("/", "/", "/a/b/", "/a/b/"),
        ] {
            assert_eq!(applied(from, to, path), forwarded, "{from} {to} {path}");
        }
    }

    #[test]
    fn it_says_what_it_does() {
        let rewrite = PathRewrite::new("/api/v1", "/").unwrap();
        assert_eq!(rewrite.to_string(), "/api/v1 becomes /");
    }

    #[test]
    fn what_would_be_ambiguous_is_no_rewrite() {
        for bad in [
            "", "api", "/api/", "//", "/a//b", "/.", "/a/..", "/a%2fb", "/a;b", "/a?b", "/a#b",
            "/a b", "/é", "/a\\b", "/*", "/**",
        ] {
            assert_eq!(PathRewrite::new(bad, "/"), Err(RewriteError::From), "{bad}");
            assert_eq!(PathRewrite::new("/", bad), Err(RewriteError::To), "{bad}");
        }
    }

    #[test]
    fn a_pattern_is_covered_when_all_it_matches_is() {
        let rewrite = PathRewrite::new("/api/v1", "/").unwrap();
        for (pattern, covered) in [
            ("/api/v1", true),
            ("/api/v1/**", true),
            ("/api/v1/*/x", true),
            ("/api/**", false),
            ("/api/*", false),
            ("/**", false),
            ("/api", false),
            ("/api/v2/**", false),
        ] {
            let parsed = PathPattern::parse(pattern).unwrap();
            assert_eq!(rewrite.covers(&parsed), covered, "{pattern}");
        }
    }

    proptest! {
        /// A rewrite must not create an empty segment or a dot segment, and must not change any
        /// byte after the replaced segments.
        #[test]
        fn only_the_beginning_changes(
            from in "(/[a-z.]{1,3}x){0,3}",
            to in "(/[a-z.]{1,3}y){0,3}",
            rest in "(/[a-z0-9%;=.~-]{1,4}z){0,3}/?",
            query in proptest::option::of("[a-z=&/.]{0,8}"),
        ) {
            let root = |text: String| if text.is_empty() { "/".to_owned() } else { text };
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            let path = root(format!("{from}{rest}"));
            let rewrite = PathRewrite::new(&root(from.clone()), &root(to.clone())).unwrap();
            let target = PathAndQuery::try_from(format!("{path}{query}").as_str()).unwrap();
            let forwarded = rewrite.apply(&target).unwrap();
            let expected = if from.is_empty() { format!("{to}{path}") } else { format!("{to}{rest}") };
            prop_assert_eq!(forwarded.as_str(), format!("{}{query}", root(expected)));
            let inner = forwarded.path().strip_prefix('/').unwrap();
            let segments: Vec<&str> = inner.split('/').collect();
            for (index, segment) in segments.iter().enumerate() {
                prop_assert!(!matches!(*segment, "." | ".."));
                prop_assert!(!segment.is_empty() || index + 1 == segments.len());
            }
        }
    }
}
