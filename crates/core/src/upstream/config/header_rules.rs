//! `HeaderRules`: select which header fields and trailers of a caller's request a service gets. The
//! rules of an upstream apply in addition to the rules that hold for all services.

use http::{HeaderMap, HeaderName};

use super::forgeable::{is_spelling_of_pattern, removed_by_default};

/// Fields that an allow-list never removes, because without them the message would be invalid or
/// would have another meaning.
pub const ALWAYS_PASSED: [&str; 21] = [
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "via",
];

/// Fields that the gateway itself writes. The field for the assertion is not in the list, because
/// the name of this field is configurable.
const WRITTEN: [&str; 10] = [
    "authorization",
    "client-cert",
    "client-cert-chain",
    "countersign-*",
    "forwarded",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Hop-by-hop fields, and fields that contain the framing or the host of a message.
const OF_THE_CONNECTION: [&str; 15] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// How the gateway handles the `traceparent` and `tracestate` of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceContext {
    /// Continues a valid trace. Without a valid trace, starts a new trace.
    #[default]
    Continue,
    /// Always starts a new trace.
    Restart,
    /// Passes the caller's fields on unchanged.
    Off,
}

/// The name of a field, or a prefix of field names that ends with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPattern(Box<str>);

impl FieldPattern {
    /// Parses the name of a field, or a prefix of names followed by `*`.
    ///
    /// # Errors
    /// Returns a text that tells the operator what to write instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let start = text.strip_suffix('*').unwrap_or(text);
        if start.is_empty() && !text.is_empty() {
            return Err("this would be every field; write how their names start: \"X-Team-*\"");
        }
        HeaderName::from_bytes(start.as_bytes())
            .ok()
            .filter(|_| !start.contains('*'))
            .map(|_| Self(text.to_ascii_lowercase().into()))
            .ok_or("write a name, for example \"X-Team\", or how names start: \"X-Team-*\"")
    }

    /// Returns the pattern as it was configured, in lower case.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches the field name `name`. A pattern with `*` matches all names that
    /// start with its prefix.
    fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == &*self.0,
        }
    }

    /// Whether there is a field name that this pattern and the pattern `other` both match.
    fn overlaps(&self, other: &str) -> bool {
        let (own, others) = (self.0.trim_end_matches('*'), other.trim_end_matches('*'));
        is_spelling_of_pattern(own, other) || is_spelling_of_pattern(others, &self.0)
    }

    /// Returns the first field of the gateway that the pattern matches. The gateway's fields are
    /// those in `WRITTEN` and `private`. `private` contains the fields for assertions and API keys.
    /// Returns `None` if the pattern matches none of these fields.
    #[must_use]
    pub fn of_the_gateway<'a>(&self, private: &'a [HeaderName]) -> Option<&'a str> {
        let private = private.iter().map(HeaderName::as_str);
        WRITTEN
            .into_iter()
            .chain(private)
            .find(|field| self.overlaps(field))
    }

    /// Returns the first field in `OF_THE_CONNECTION` that the pattern matches. Returns `None` if
    /// the pattern matches none of these fields.
    #[must_use]
    pub fn of_the_connection(&self) -> Option<&'static str> {
        OF_THE_CONNECTION
            .into_iter()
            .find(|field| self.overlaps(field))
    }

    /// Whether all names that the pattern matches are removed by default.
    #[must_use]
    pub fn is_removed_by_default(&self) -> bool {
        let start = self.0.trim_end_matches('*');
        removed_by_default().any(|removed| {
            is_spelling_of_pattern(start, removed)
                && (removed.ends_with('*') || !self.0.ends_with('*'))
        })
    }
}

/// The header rules of one upstream.
#[derive(Debug, Clone, Default)]
pub struct HeaderRules {
    /// The allow-list: if set, only these fields and [`ALWAYS_PASSED`] are passed on.
    pub pass: Option<Vec<FieldPattern>>,
    /// Fields that are never passed on, in any spelling.
    pub remove: Vec<FieldPattern>,
    /// Fields that are passed on although the gateway removes them by default. Other spellings of
    /// their names are still removed.
    pub keep: Vec<FieldPattern>,
    /// How `traceparent` and `tracestate` are handled. Unless the value is `Off`, both fields pass
    /// even if they are not in the allow-list.
    pub trace: TraceContext,
}

impl HeaderRules {
    /// Whether the rules keep at least one field that is removed by default.
    #[must_use]
    pub const fn keeps_any(&self) -> bool {
        !self.keep.is_empty()
    }

    /// Applies the rules to the fields of a request. `set_aside` contains the fields that the
    /// gateway has removed by default. If the rules keep such a field, it is added to `headers`
    /// again.
    pub fn apply(&self, headers: &mut HeaderMap, set_aside: &HeaderMap) {
        if self.pass.is_some() || !self.remove.is_empty() {
            let removed: Vec<HeaderName> = headers
                .keys()
                .filter(|name| !self.passes(name.as_str()))
                .cloned()
                .collect();
            for name in removed {
                headers.remove(name);
            }
        }
        if !self.keeps_any() {
            return;
        }
        for name in set_aside.keys().filter(|name| self.keeps(name.as_str())) {
            for value in set_aside.get_all(name) {
                headers.append(name, value.clone());
            }
        }
    }

    /// Whether the rules keep the field `name`. `name` must be a field that is removed by default.
    #[must_use]
    pub fn keeps(&self, name: &str) -> bool {
        self.keep.iter().any(|kept| kept.matches(name)) && !self.removes(name)
    }

    /// Whether the rules pass the field `name`. `name` must be a field that is not removed by
    /// default.
    #[must_use]
    pub fn passes(&self, name: &str) -> bool {
        !self.removes(name)
            && self.pass.as_ref().is_none_or(|pass| {
                ALWAYS_PASSED.contains(&name)
                    || self.trace != TraceContext::Off
                        && matches!(name, "traceparent" | "tracestate")
                    || pass.iter().any(|passed| passed.matches(name))
            })
    }

    fn removes(&self, name: &str) -> bool {
        self.remove
            .iter()
            .any(|removed| is_spelling_of_pattern(name, removed.as_str()))
    }
}
