//! `ResponseLimits`: the limits of the head of a service's response.

use http::{HeaderMap, Version};

/// The size in bytes that is added to the name and value of each field. In HTTP/2, RFC 9113 section
/// 6.5.2 defines it. In HTTP/1.1, it is the size of the colon and the CRLF, because whitespace
/// around the value is optional.
const OVERHEAD_H2: usize = 32;
const OVERHEAD_HTTP1: usize = 3;
/// The number of fields that hyper accepts by default. hyper parses heads faster if its default is
/// not set explicitly.
const HYPER_FIELDS: usize = 100;

/// The limits of the head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseLimits {
    /// Maximum size of the head in bytes.
    pub header_bytes: u32,
    /// Maximum number of header fields.
    pub header_fields: usize,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_fields: HYPER_FIELDS,
        }
    }
}

impl ResponseLimits {
    /// Returns the maximum size of a head in bytes.
    #[must_use]
    pub fn max_bytes(self) -> usize {
        usize::try_from(self.header_bytes).unwrap_or(usize::MAX)
    }

    /// Returns the maximum number of header fields if it must be set in hyper. Returns `None` if it
    /// is equal to hyper's default.
    pub(in crate::upstream) fn fields_for_hyper(self) -> Option<usize> {
        (self.header_fields != HYPER_FIELDS).then_some(self.header_fields)
    }

    /// Describes how a head exceeds a limit. Returns `None` if the head exceeds no limit. In a
    /// message, the text follows the name of the upstream.
    #[must_use]
    pub fn describe_excess(self, version: Version, headers: &HeaderMap) -> Option<String> {
        if headers.len() > self.header_fields {
            return Some(format!(
                "gave a head of more than {} fields (response_header_fields)",
                self.header_fields
            ));
        }
        let overhead = match version {
            Version::HTTP_2 => OVERHEAD_H2,
            _ => OVERHEAD_HTTP1,
        };
        let size: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + overhead)
            .sum();
        (size > self.max_bytes()).then(|| {
            format!(
                "gave a head of more than {} bytes (response_header_size)",
                self.header_bytes
            )
        })
    }

    /// Describes a head in HTTP/1.1 that hyper has rejected because it exceeds one of the limits.
    #[must_use]
    pub fn describe_rejected(self) -> String {
        format!(
            "gave a head of more than {} fields (response_header_fields) or {} bytes \
             (response_header_size)",
            self.header_fields, self.header_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn both_limits_apply_to_both_protocols() {
        let limits = ResponseLimits {
            header_bytes: 80,
            header_fields: 2,
        };
        let mut headers = HeaderMap::new();
        let excess = |headers: &HeaderMap| {
            [Version::HTTP_11, Version::HTTP_2].map(|version| {
                let excess = limits.describe_excess(version, headers)?;
                excess
                    .contains("response_header_size")
                    .then_some("size")
                    .or(Some("fields"))
            })
        };
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        assert_eq!(excess(&headers), [None, None]);
        headers.append("x-a", HeaderValue::from_static("3"));
        assert_eq!(excess(&headers), [Some("fields"), Some("fields")]);
        headers.clear();
        // The size is 3 bytes for the name, the value, and 3 (HTTP/1.1) or 32 (HTTP/2) bytes of
        // overhead.
        for (length, expected) in [
            (45, [None, None]),
            (46, [None, Some("size")]),
            (74, [None, Some("size")]),
            (75, [Some("size"), Some("size")]),
        ] {
            let value = HeaderValue::from_str(&"v".repeat(length)).unwrap();
            headers.insert("x-a", value);
            assert_eq!(excess(&headers), expected, "{length}");
        }
    }
}
