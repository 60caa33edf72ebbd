//! The grammar of a request's host. A host that the gateway and the service could read differently
//! is refused.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::policy::Denial;
use crate::reason::ReasonCode;

fn malformed(detail: &'static str) -> Denial {
    Denial::new(ReasonCode::MalformedRequest, detail)
}

/// Normalizes the host of an authority. The result is in lower case, without port and trailing dot,
/// and without the brackets of an IPv6 address.
///
/// # Errors
/// Returns a denial if the authority is empty, has userinfo or a malformed port, or has characters
/// that are not allowed in a host.
pub fn normalized_host(authority: &str) -> Result<Cow<'_, str>, Denial> {
    let bad = || malformed("the request's host is malformed");
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(bad)?;
        check_port(port)?;
        let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
        return Ok(Cow::Owned(address.to_string()));
    }
    let (host, port) = match authority.find(':') {
        Some(colon) => authority.split_at(colon),
        None => (authority, ""),
    };
    check_port(port)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let empty_label = |host: &str| {
        let mut labels = host.as_bytes().split(|byte| *byte == b'.');
        labels.any(<[u8]>::is_empty)
    };
    if empty_label(host) || !host.bytes().all(allowed) {
        return Err(bad());
    }
    Ok(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

fn check_port(port: &str) -> Result<(), Denial> {
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some("") => Ok(()),
        // The digits of the port are checked separately, because `parse` also accepts a sign.
        Some(digits)
            if digits.len() <= 5
                && digits.bytes().all(|b| b.is_ascii_digit())
                && digits.parse::<u16>().is_ok() =>
        {
            Ok(())
        }
        _ => Err(malformed("the request's port is malformed")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_are_normalized() {
        assert_eq!(
            normalized_host("Orders.Example.ORG.:8443").unwrap(),
            "orders.example.org"
        );
        assert_eq!(normalized_host("[::1]:80").unwrap(), "::1");
        assert_eq!(normalized_host("127.0.0.1").unwrap(), "127.0.0.1");
        for bad in [
            "", ".", ":80", "a:b", "a:123456", "a:65536", "a:99999", "a:+80", "u@a", "[::1",
            "a..b", "a/b", "a:1:2",
        ] {
            assert!(normalized_host(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = normalized_host(&text);
        }
    }
}
