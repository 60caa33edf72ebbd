//! `ResponseFraming`: accepts a service's response only if its end is unambiguous (RFC 9112 section
//! 6, RFC 9110 section 8.6). This check is needed because a caller may parse responses more or less
//! strictly than the gateway.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};

use super::head::content_length;
use super::upload_progress::UploadProgress;

/// The reason why a response is rejected. The text is the second half of a sentence that begins
/// with the upstream's name.
#[derive(Debug)]
pub(crate) struct ResponseFramingError(pub(crate) &'static str);

/// How the gateway must handle an accepted response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseFraming {
    content_length: ContentLength,
    /// The connection must not be used for another request.
    pub(crate) prevents_reuse: bool,
    /// True if the status allows no content (RFC 9110 section 6.4.1). If true, the service's
    /// content is not sent to the caller.
    pub(crate) has_no_content: bool,
}

/// How the gateway must change the `Content-Length` field of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContentLength {
    /// The field is canonical or absent and needs no change.
    Keep,
    /// Replace the field, or several equal fields, by one field with this value.
    Set(u64),
    /// Remove the field (RFC 9110 section 8.6).
    Remove,
}

/// Checks a response, and makes its `Content-Length` a single canonical field.
pub(crate) fn accept<B>(
    response: &mut Response<B>,
    upload: &UploadProgress,
) -> Result<ResponseFraming, ResponseFramingError> {
    let version = response.version();
    // If hyper assumes that the service uses HTTP/1.0, hyper omits the request body without an
    // error.
    if version != Version::HTTP_2 && upload.was_omitted() {
        return Err(ResponseFramingError(
            "was not sent the body that the request has",
        ));
    }
    let framing = check(version, response.status(), response.headers())?;
    framing.apply(response.headers_mut());
    Ok(framing)
}

/// Checks the head of a final response, or of a response that switches protocols.
fn check(
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<ResponseFraming, ResponseFramingError> {
    let mut length = None;
    let mut is_canonical = true;
    let mut chunked = false;
    for (name, value) in headers {
        if *name == CONTENT_LENGTH {
            for item in value.as_bytes().split(|byte| *byte == b',') {
                let item = item.trim_ascii();
                let parsed = content_length(item)
                    .ok_or(ResponseFramingError("gave a length that is not a number"))?;
                is_canonical &= length.is_none() && is_only_spelling(item, value);
                if length.is_some_and(|known| known != parsed) {
                    return Err(ResponseFramingError("gave two lengths for one answer"));
                }
                length = Some(parsed);
            }
        } else if *name == TRANSFER_ENCODING {
            if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(ResponseFramingError(
                    "used a transfer coding other than chunked",
                ));
            }
            chunked = true;
        }
    }
    if chunked && length.is_some() {
        return Err(ResponseFramingError(
            "gave its answer both a length and a transfer coding",
        ));
    }
    if chunked && version != Version::HTTP_11 {
        return Err(ResponseFramingError(
            "used a transfer coding, which only HTTP/1.1 has",
        ));
    }
    let forbids_length = status == StatusCode::NO_CONTENT || status.is_informational();
    let has_no_content = forbids_length || status == StatusCode::NOT_MODIFIED;
    // In a 304, Content-Length does not announce content. Its value is the length of the response
    // that the caller has cached.
    let announces_content = chunked || (forbids_length && length.is_some_and(|length| length > 0));
    Ok(ResponseFraming {
        content_length: match length {
            Some(_) if forbids_length => ContentLength::Remove,
            Some(length) if !is_canonical => ContentLength::Set(length),
            _ => ContentLength::Keep,
        },
        // A connection to an HTTP/1.0 service is not reused, because such a service does not
        // understand a chunked request. A response may also announce content although its status
        // allows none. The connection is then not reused, because the gateway would read the
        // content as the next response.
        prevents_reuse: version == Version::HTTP_10 || (has_no_content && announces_content),
        has_no_content,
    })
}

/// Returns whether the field value `value` consists only of the number `item`, and `item` has no
/// leading zeros.
fn is_only_spelling(item: &[u8], value: &HeaderValue) -> bool {
    item.len() == value.len() && (item.len() == 1 || !item.starts_with(b"0"))
}

impl ResponseFraming {
    fn apply(self, headers: &mut HeaderMap) {
        match self.content_length {
            ContentLength::Keep => {}
            ContentLength::Set(length) => {
                headers.insert(CONTENT_LENGTH, length.into());
            }
            ContentLength::Remove => {
                headers.remove(CONTENT_LENGTH);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn length(value: &str) -> (&str, &str) {
        ("content-length", value)
    }

    fn coding(value: &str) -> (&str, &str) {
        ("transfer-encoding", value)
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for fields in [
            &[length("2"), coding("chunked")][..],
            &[coding("chunked"), length("0")],
            &[coding("gzip, chunked")],
            &[coding("chunked, identity")],
            &[coding("identity")],
            &[coding("gzip")],
            &[coding("")],
            &[coding("chunked;a=b")],
            &[coding("chunked,")],
            &[coding("chunked"), coding("chunked")],
            &[coding("gzip"), coding("chunked")],
            &[length("2, 3")],
            &[length("2"), length("3")],
            &[length("2,2"), length("3")],
            &[length("2,")],
            &[length("")],
            &[length("+2")],
            &[length("-2")],
            &[length("0x2")],
            &[length("2 2")],
            &[length("2;2")],
            &[length("99999999999999999999")],
        ] {
            for status in [200, 204, 304, 500, 101] {
                let status = StatusCode::from_u16(status).unwrap();
                for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                    let checked = check(version, status, &headers(fields));
                    assert!(checked.is_err(), "{version:?} {status} {fields:?}");
                }
            }
        }
        let chunked = headers(&[coding("chunked")]);
        assert!(check(Version::HTTP_10, StatusCode::OK, &chunked).is_err());
        assert!(check(Version::HTTP_2, StatusCode::OK, &chunked).is_err());
    }

    #[test]
    fn what_has_one_reading_has_one_length() {
        for (fields, becomes) in [
            (&[][..], None),
            (&[coding("chunked")][..], None),
            (&[coding("ChunKed")], None),
            (&[length("2")], Some("2")),
            (&[length("0")], Some("0")),
            (&[length("2, 2")], Some("2")),
            (&[length("2,2,2")], Some("2")),
            (&[length("2"), length("2")], Some("2")),
            (&[length("02")], Some("2")),
            (&[length("00")], Some("0")),
            (&[length("2"), length("02")], Some("2")),
        ] {
            let mut headers = headers(fields);
            let accepted = check(Version::HTTP_11, StatusCode::OK, &headers).unwrap();
            accepted.apply(&mut headers);
            let all: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(all, becomes.into_iter().collect::<Vec<_>>(), "{fields:?}");
            assert!(!accepted.prevents_reuse && !accepted.has_no_content);
        }
    }

    #[test]
    fn responses_without_content_announce_none() {
        for (status, fields, left, prevents_reuse) in [
            (204, &[length("0")][..], 0, false),
            (204, &[length("4")][..], 0, true),
            (204, &[coding("chunked")], 0, true),
            (204, &[], 0, false),
            (304, &[length("4")], 1, false),
            (304, &[length("4, 4")], 1, false),
            (304, &[coding("chunked")], 0, true),
            (101, &[length("0")], 0, false),
        ] {
            let mut headers = headers(fields);
            let status = StatusCode::from_u16(status).unwrap();
            let accepted = check(Version::HTTP_11, status, &headers).unwrap();
            accepted.apply(&mut headers);
            assert!(accepted.has_no_content, "{status} {fields:?}");
            assert_eq!(
                accepted.prevents_reuse, prevents_reuse,
                "{status} {fields:?}"
            );
            let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
            assert_eq!(lengths, left, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_connection_to_a_service_of_http_1_0_serves_once() {
        let headers = headers(&[("connection", "keep-alive"), length("2")]);
        let checked = |version| {
            check(version, StatusCode::OK, &headers)
                .unwrap()
                .prevents_reuse
        };
        assert!(checked(Version::HTTP_10));
        assert!(!checked(Version::HTTP_11));
        assert!(!checked(Version::HTTP_2));
    }

    proptest! {
        /// Every accepted response has at most one framing field: one canonical Content-Length, or
        /// one Transfer-Encoding with the value chunked.
        #[test]
        fn an_accepted_response_has_one_framing(
            fields in proptest::collection::vec(
                prop_oneof![
                    "[0-9, +]{0,5}".prop_map(|value| ("content-length", value)),
                    "[2, 0]{0,4}".prop_map(|value| ("content-length", value)),
                    "(chunked|gzip|, ?|identity|CHUNKED){1,3}"
                        .prop_map(|value| ("transfer-encoding", value)),
                ],
                0..4,
            ),
            status in prop_oneof![Just(200_u16), Just(204), Just(304), Just(404)],
        ) {
            let pairs: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut headers = headers(&pairs);
            let status = StatusCode::from_u16(status).unwrap();
            if let Ok(accepted) = check(Version::HTTP_11, status, &headers) {
                accepted.apply(&mut headers);
                let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
                let codings: Vec<_> = headers.get_all(TRANSFER_ENCODING).iter().collect();
                prop_assert!(lengths.len() + codings.len() <= 1);
                for length in lengths {
                    let length = length.to_str().unwrap();
                    prop_assert_eq!(length.parse::<u64>().unwrap().to_string(), length);
                }
                for coding in codings {
                    prop_assert!(coding.to_str().unwrap().eq_ignore_ascii_case("chunked"));
                }
            }
        }
    }
}
