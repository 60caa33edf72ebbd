//! The grammar of a request's host and path. Values that the gateway and the service could read
//! differently are rejected.

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

/// Checks a path, and returns it percent-decoded, for matching against routes.
///
/// Rejects dot segments in any encoding, an encoded slash or backslash, a backslash, control
/// characters, and bytes outside ASCII. Also rejects incomplete and double percent-encodings, and
/// empty segments. Only the last segment may be empty.
///
/// # Errors
/// Returns a `malformed-request` denial that names the violated rule.
pub fn checked_path(path: &str) -> Result<Cow<'_, str>, Denial> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(malformed("the path does not begin with a slash"));
    };
    if path.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
        return Err(malformed(
            "the path has characters that must be percent-encoded",
        ));
    }
    if path.contains('\\') {
        return Err(malformed("the path has a backslash"));
    }
    let decoded = if path.contains('%') {
        Cow::Owned(decode(path)?)
    } else {
        Cow::Borrowed(path)
    };
    // The path is split as bytes, because this is faster. In UTF-8 the bytes `/` and `;` occur in
    // no other character.
    let mut segments = decoded
        .as_bytes()
        .split(|byte| *byte == b'/')
        .skip(1)
        .peekable();
    debug_assert_eq!(rest.split('/').count(), decoded.split('/').count() - 1);
    while let Some(segment) = segments.next() {
        // Some servers remove the `;parameters` of a segment before they resolve dot segments. The
        // segment is therefore checked without its parameters.
        let mut parts = segment.split(|byte| *byte == b';');
        let bare = parts.next().unwrap_or_default();
        if matches!(bare, b"." | b"..") {
            return Err(malformed("the path has a '.' or '..' segment"));
        }
        if bare.is_empty() && segments.peek().is_some() {
            return Err(malformed("the path has an empty segment"));
        }
        if bare.is_empty() && !segment.is_empty() {
            return Err(malformed("the path has a segment of parameters alone"));
        }
    }
    Ok(decoded)
}

fn decode(path: &str) -> Result<String, Denial> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let value = bytes
            .next()
            .zip(bytes.next())
            .and_then(|(high, low)| Some(hex_value(high)? << 4 | hex_value(low)?))
            .ok_or_else(|| malformed("the path has an incomplete percent-encoding"))?;
        match value {
            b'/' => return Err(malformed("the path has an encoded slash")),
            b'\\' => return Err(malformed("the path has an encoded backslash")),
            0..=0x1f | 0x7f => return Err(malformed("the path has an encoded control character")),
            value => decoded.push(value),
        }
    }
    // Double percent-encodings are rejected, because a service that decodes the path twice would
    // use a different path.
    let twice = decoded.windows(3).any(|window| {
        matches!(window, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
    });
    if twice {
        return Err(malformed("the path is percent-encoded twice"));
    }
    String::from_utf8(decoded).map_err(|_| malformed("the path is not UTF-8 once decoded"))
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Returns the path without the `;parameters` of each segment, because some servers remove them.
/// Returns `None` if there are no parameters.
#[must_use]
pub fn without_parameters(decoded: &str) -> Option<String> {
    decoded.contains(';').then(|| {
        decoded
            .split('/')
            .map(|segment| segment.split(';').next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("/")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        for path in [
            "",
            "a",
            "/../a",
            "/a/..",
            "/a/.",
            "/./a",
            "//a",
            "/a//b",
            "/%2e%2e/a",
            "/a/%2E./b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0a",
            "/a\u{7f}",
            "/a b",
            "/é",
            "/%",
            "/%2",
            "/%zz",
            "/a%252fb",
            "/..;/a",
            "/;/a",
            "/a/.;x=y/b",
            "/%ff",
            "/;x",
        ] {
            assert!(checked_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn ordinary_paths_pass() {
        for (path, decoded) in [
            ("/", "/"),
            ("/orders/7", "/orders/7"),
            ("/orders/", "/orders/"),
            ("/caf%C3%A9", "/café"),
            ("/%61dmin", "/admin"),
            ("/a;b=c/d", "/a;b=c/d"),
            ("/...", "/..."),
            ("/a@b:c,d=e+f!", "/a@b:c,d=e+f!"),
            ("/100%25", "/100%"),
        ] {
            assert_eq!(checked_path(path).unwrap(), decoded);
        }
        assert_eq!(
            without_parameters("/admin;x/y").as_deref(),
            Some("/admin/y")
        );
        assert_eq!(without_parameters("/admin"), None);
    }

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
        fn an_accepted_path_has_no_hidden_structure(path in "/[a-z./%;0-9A-F\\\\]{0,24}") {
            if let Ok(decoded) = checked_path(&path) {
                prop_assert_eq!(decoded.matches('/').count(), path.matches('/').count());
                prop_assert!(!decoded.split('/').any(|s| s == ".." || s == "."));
                prop_assert!(!decoded.contains('\\'));
            }
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = checked_path(&text);
            let _ = normalized_host(&text);
        }
    }
}
