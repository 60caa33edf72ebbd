//! What a service's answer has to look like before anything of it is shown: there must
//! be one way only to tell where it ends, whoever reads it (RFC 9112 section 6, RFC 9110
//! section 8.6). A caller may read it with stricter or with laxer eyes than the gateway.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};

use super::head::content_length;
use super::upload_progress::UploadProgress;

/// Why an answer is not shown. What is wrong follows the upstream's name.
pub(crate) type ResponseFramingError = &'static str;

/// What is to be done with an answer that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseFraming {
    length: Length,
    /// Its connection must not be used again.
    pub(crate) is_last: bool,
    /// It has no content, whatever its service sends (RFC 9110 section 6.4.1).
    pub(crate) is_empty: bool,
}

/// What becomes of `Content-Length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// It is there once and as it should be, or not at all.
    Stays,
    /// There has to be one field with this value.
    Becomes(u64),
    /// It means nothing, and must not be sent (RFC 9110 section 8.6).
    Goes,
}

/// Judges an answer to a request that was handed over as far as `upload` says, and gives
/// it the one length that it has.
pub(crate) fn accept<B>(
    response: &mut Response<B>,
    upload: &UploadProgress,
) -> Result<ResponseFraming, ResponseFramingError> {
    let version = response.version();
    // hyper does so without a word where it takes its peer for one of HTTP/1.0.
    if version != Version::HTTP_2 && upload.was_left_out() {
        return Err("was not sent the body that the request has");
    }
    let accepted = judge(version, response.status(), response.headers())?;
    accepted.settle(response.headers_mut());
    Ok(accepted)
}

/// Judges the head of a final answer, or of one that switches protocols.
fn judge(
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<ResponseFraming, ResponseFramingError> {
    let mut length = None;
    let mut as_it_should_be = true;
    let mut chunked = false;
    for (name, value) in headers {
        if *name == CONTENT_LENGTH {
            for item in value.as_bytes().split(|octet| *octet == b',') {
                let item = item.trim_ascii();
                let said = content_length(item).ok_or("gave a length that is not a number")?;
                as_it_should_be &= length.is_none() && is_canonical(item, value);
                if length.is_some_and(|known| known != said) {
                    return Err("gave two lengths for one answer");
                }
                length = Some(said);
            }
        } else if *name == TRANSFER_ENCODING {
            if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err("used a transfer coding other than chunked");
            }
            chunked = true;
        }
    }
    if chunked && length.is_some() {
        return Err("gave its answer both a length and a transfer coding");
    }
    if chunked && version != Version::HTTP_11 {
        return Err("used a transfer coding, which only HTTP/1.1 has");
    }
    let has_none = status == StatusCode::NO_CONTENT || status.is_informational();
    let is_empty = has_none || status == StatusCode::NOT_MODIFIED;
    // A length of 304 is that of the content which the caller has.
    let announces = chunked || (has_none && length.is_some_and(|length| length > 0));
    Ok(ResponseFraming {
        length: match length {
            Some(_) if has_none => Length::Goes,
            Some(length) if !as_it_should_be => Length::Becomes(length),
            _ => Length::Stays,
        },
        // The next request to a service of HTTP/1.0 could not have chunks, and what is
        // announced where nothing may come would pass for another answer.
        is_last: version == Version::HTTP_10 || (is_empty && announces),
        is_empty,
    })
}

/// Whether an item of `value` is all of it, and the only spelling of its number.
fn is_canonical(item: &[u8], value: &HeaderValue) -> bool {
    item.len() == value.len() && (item.len() == 1 || !item.starts_with(b"0"))
}

impl ResponseFraming {
    fn settle(self, headers: &mut HeaderMap) {
        match self.length {
            Length::Stays => {}
            Length::Becomes(length) => {
                headers.insert(CONTENT_LENGTH, length.into());
            }
            Length::Goes => {
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
                    let judged = judge(version, status, &headers(fields));
                    assert!(judged.is_err(), "{version:?} {status} {fields:?}");
                }
            }
        }
        let chunked = headers(&[coding("chunked")]);
        assert!(judge(Version::HTTP_10, StatusCode::OK, &chunked).is_err());
        assert!(judge(Version::HTTP_2, StatusCode::OK, &chunked).is_err());
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
            let accepted = judge(Version::HTTP_11, StatusCode::OK, &headers).unwrap();
            accepted.settle(&mut headers);
            let all: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(all, becomes.into_iter().collect::<Vec<_>>(), "{fields:?}");
            assert!(!accepted.is_last && !accepted.is_empty);
        }
    }

    #[test]
    fn answers_without_content_promise_none() {
        for (status, fields, left, is_last) in [
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
            let accepted = judge(Version::HTTP_11, status, &headers).unwrap();
            accepted.settle(&mut headers);
            assert!(accepted.is_empty, "{status} {fields:?}");
            assert_eq!(accepted.is_last, is_last, "{status} {fields:?}");
            let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
            assert_eq!(lengths, left, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_connection_to_a_service_of_http_1_0_serves_once() {
        let headers = headers(&[("connection", "keep-alive"), length("2")]);
        let judged = |version| judge(version, StatusCode::OK, &headers).unwrap().is_last;
        assert!(judged(Version::HTTP_10));
        assert!(!judged(Version::HTTP_11));
        assert!(!judged(Version::HTTP_2));
    }

    proptest! {
        /// Whatever a service says, its caller sees one plain length, or chunks, or
        /// neither.
        #[test]
        fn an_accepted_answer_has_one_framing(
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
            if let Ok(accepted) = judge(Version::HTTP_11, status, &headers) {
                accepted.settle(&mut headers);
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
