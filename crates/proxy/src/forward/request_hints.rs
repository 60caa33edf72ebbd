//! `RequestHints`: header fields that change how a request is forwarded. These fields are valid for
//! one hop only. The gateway reads them before `strip_request` removes them, and then writes its
//! own fields for the service.

use std::sync::Arc;
use std::time::Duration;

use http::header::{EXPECT, TE, TRAILER};
use http::{HeaderMap, HeaderValue, request};

use crate::connection::request_body::RequestBody;
use crate::upstream::HttpProtocol;
use crate::wire::expect_continue::Expectation;
use crate::wire::headers::{self, RequestTrailers};

/// The hop-by-hop hints of one request.
pub(crate) struct RequestHints {
    /// The caller uses gRPC over HTTP/2. The caller's streams may pause, and the caller itself
    /// enforces a deadline.
    pub(crate) grpc: bool,
    /// The timeout of the gRPC caller, from `grpc-timeout`.
    pub(crate) deadline: Option<Duration>,
    /// The caller accepts trailers (RFC 9110 section 10.1.4).
    accepts_trailers: bool,
    /// The trailer names that the caller declared. The gateway may later remove some of them.
    declared_trailers: Option<HeaderMap>,
    /// The caller waits for a 100 (Continue) before it sends its body.
    expects_continue: bool,
}

impl RequestHints {
    /// Reads the hints of a request.
    pub(crate) fn read(parts: &request::Parts) -> Self {
        let headers = &parts.headers;
        let grpc = parts.version == http::Version::HTTP_2 && headers::is_grpc(headers);
        Self {
            grpc,
            deadline: grpc.then(|| grpc_timeout(headers)).flatten(),
            accepts_trailers: headers::lists(headers, &TE, "trailers"),
            declared_trailers: headers::declared_trailers(headers),
            expects_continue: parts.version == http::Version::HTTP_11
                && headers::lists(headers, &EXPECT, "100-continue"),
        }
    }

    /// Writes the gateway's own hop-by-hop fields into the forwarded request, as the hints require.
    pub(crate) fn apply(
        &self,
        parts: &mut request::Parts,
        protocol: HttpProtocol,
        trailers: &RequestTrailers,
    ) {
        // gRPC services require `TE: trailers`, which proves that no proxy removes trailers.
        if self.accepts_trailers && protocol == HttpProtocol::Http2 {
            parts
                .headers
                .insert(TE, HeaderValue::from_static("trailers"));
        }
        let declared = self.declared_trailers.clone().and_then(|mut declared| {
            trailers.strip(&mut declared);
            headers::trailer_field(&declared)
        });
        if let Some(declared) = declared {
            parts.headers.insert(TRAILER, declared);
        }
    }

    /// Asks an HTTP/1.1 service for a 100 (Continue), if the caller waits for one and the caller's
    /// body has not been read yet. Otherwise returns `None`.
    pub(crate) fn expectation(
        &self,
        parts: &mut request::Parts,
        protocol: HttpProtocol,
        body: &mut RequestBody,
    ) -> Option<Arc<Expectation>> {
        let asks =
            self.expects_continue && protocol == HttpProtocol::Http1 && body.is_still_to_come();
        asks.then(|| {
            let expectation = Arc::new(Expectation::default());
            body.wait_for(&expectation);
            let value = HeaderValue::from_static("100-continue");
            parts.headers.insert(EXPECT, value);
            expectation
        })
    }
}

/// Parses a `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_grpc_are_read_strictly() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(value).unwrap());
            grpc_timeout(&headers)
        };
        for (value, milliseconds) in [
            ("1H", 3_600_000),
            ("2M", 120_000),
            ("10S", 10_000),
            ("99999999m", 99_999_999),
            ("5000u", 5),
            ("7000000n", 7),
            ("0S", 0),
        ] {
            assert_eq!(
                read(value),
                Some(Duration::from_millis(milliseconds)),
                "{value}"
            );
        }
        for value in [
            "",
            "S",
            "10",
            "10s",
            "-1S",
            "+1S",
            "1.5S",
            "999999999S",
            "1 S",
            "\u{e9}",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
