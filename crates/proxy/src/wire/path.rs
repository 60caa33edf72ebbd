//! The grammar of a request's path. A path that the gateway and the service could read differently
//! is refused, or accepted only on routes that allow its form.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::route::{PathEncoding, PathEncodings};

/// Stands for an encoded slash while a path is checked. NUL is refused, so it cannot come from the
/// path.
const ENCODED_SLASH: u8 = 0;

pub(super) fn malformed(detail: &'static str) -> Denial {
    Denial::new(ReasonCode::MalformedRequest, detail)
}

/// A path without any form that is refused on all routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPath<'a> {
    /// The percent-decoded path, for matching against routes. It has exactly the slashes of the
    /// received path: an encoded slash stays `%2F`, and a byte that is not UTF-8 stays encoded. No
    /// pattern contains `%`, so only wildcards match these.
    pub text: Cow<'a, str>,
    /// The forms that the route must allow.
    pub forms: PathEncodings,
}

impl<'a> CheckedPath<'a> {
    /// Returns the text of a path that no route needs to allow.
    ///
    /// # Errors
    /// Returns a denial if the path has a form that a route must allow.
    pub fn strict(self) -> Result<Cow<'a, str>, Denial> {
        require(self.forms, PathEncodings::STRICT)?;
        Ok(self.text)
    }
}

/// Checks that a path has only allowed forms.
///
/// # Errors
/// Returns a `malformed-request` denial that names a form that is not allowed.
pub fn require(forms: PathEncodings, allowed: PathEncodings) -> Result<(), Denial> {
    match forms.outside(allowed) {
        None | Some(PathEncoding::Strict) => Ok(()),
        Some(PathEncoding::EncodedSlash) => Err(malformed("the path has an encoded slash")),
        Some(PathEncoding::DoubleEncoding) => Err(malformed("the path is percent-encoded twice")),
        Some(PathEncoding::EmptySegments) => Err(malformed("the path has an empty segment")),
        Some(PathEncoding::NonUtf8) => Err(malformed("the path is not UTF-8 once decoded")),
    }
}

/// Checks a path, and returns it percent-decoded once, with the forms that its route must allow.
///
/// On all routes these are refused: dot segments, also after a second decoding and between encoded
/// slashes or backslashes; backslashes, encoded or not; control characters, also after a second
/// decoding; bytes outside ASCII that are not encoded; incomplete percent-encodings; overlong
/// UTF-8; segments of parameters alone; a percent-encoding in the result of a second decoding;
/// `%uXXXX` in the result of any decoding.
///
/// # Errors
/// Returns a `malformed-request` denial that names the violated rule.
pub fn checked_path(path: &str) -> Result<CheckedPath<'_>, Denial> {
    if !path.starts_with('/') {
        return Err(malformed("the path does not begin with a slash"));
    }
    if path.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
        return Err(malformed(
            "the path has characters that must be percent-encoded",
        ));
    }
    if path.contains('\\') {
        return Err(malformed("the path has a backslash"));
    }
    let mut forms = PathEncodings::STRICT;
    let text = if path.contains('%') {
        Cow::Owned(decoded(path, &mut forms)?)
    } else {
        refuse_dot_segments(path.as_bytes())?;
        Cow::Borrowed(path)
    };
    check_empty_segments(&text, &mut forms)?;
    if forms != PathEncodings::STRICT && path.bytes().any(is_outside_rfc3986) {
        return Err(malformed(
            "the path has an unusual form and characters that must be percent-encoded",
        ));
    }
    Ok(CheckedPath { text, forms })
}

/// Whether RFC 3986 allows a printable character only percent-encoded. Go's `net/url` encodes a path
/// with such a character again, and then an encoded slash of it has become a slash.
const fn is_outside_rfc3986(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// Decodes a path once, and checks what a service would see that decodes it once or twice.
fn decoded(path: &str, forms: &mut PathEncodings) -> Result<String, Denial> {
    let once = decoded_once(path, forms)?;
    refuse_hidden_characters(&once)?;
    refuse_dot_segments(&once)?;
    let twice = decoded_leniently(&once);
    if twice != once {
        forms.insert(PathEncoding::DoubleEncoding);
        if twice.iter().any(|b| is_control(*b) && *b != ENCODED_SLASH)
            || count(&twice, ENCODED_SLASH) != count(&once, ENCODED_SLASH)
        {
            return Err(malformed("the path has an encoded control character"));
        }
        refuse_hidden_characters(&twice)?;
        refuse_dot_segments(&twice)?;
        if decoded_leniently(&twice) != twice {
            return Err(malformed("the path is percent-encoded three times"));
        }
    }
    Ok(match_text(&once, forms))
}

/// Decodes each percent-encoding once. An encoded slash becomes [`ENCODED_SLASH`].
fn decoded_once(path: &str, forms: &mut PathEncodings) -> Result<Vec<u8>, Denial> {
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
            b'/' => {
                forms.insert(PathEncoding::EncodedSlash);
                decoded.push(ENCODED_SLASH);
            }
            b'\\' => return Err(malformed("the path has an encoded backslash")),
            value if is_control(value) => {
                return Err(malformed("the path has an encoded control character"));
            }
            value => decoded.push(value),
        }
    }
    Ok(decoded)
}

/// Decodes each complete percent-encoding of a path that was already decoded once.
pub(super) fn decoded_leniently(once: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(once.len());
    let mut rest = once;
    while let Some((first, after)) = rest.split_first() {
        let pair = match after {
            [high, low, ..] if *first == b'%' => hex_value(*high).zip(hex_value(*low)),
            _ => None,
        };
        match pair {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

/// Returns the text that is matched against routes.
fn match_text(once: &[u8], forms: &mut PathEncodings) -> String {
    if std::str::from_utf8(once).is_err() {
        forms.insert(PathEncoding::NonUtf8);
    }
    text_of(once)
}

/// Returns the text of a decoded path. Bytes that are not UTF-8, and encoded slashes, are written as
/// percent-encodings.
pub(super) fn text_of(once: &[u8]) -> String {
    let mut text = String::with_capacity(once.len());
    for chunk in once.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\0' => text.push_str("%2F"),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Refuses `.` and `..` between slashes, encoded slashes and backslashes. A segment must not be a
/// dot segment without its `;parameters` either, because some servers remove parameters before they
/// resolve dot segments.
fn refuse_dot_segments(path: &[u8]) -> Result<(), Denial> {
    let is_dots = |segment: &[u8]| {
        let bare = segment.split(|byte| *byte == b';').next();
        matches!(bare, Some(b"." | b".."))
    };
    let mut segments = path.split(|byte| matches!(*byte, b'/' | b'\\' | ENCODED_SLASH));
    if segments.any(is_dots) {
        return Err(malformed("the path has a '.' or '..' segment"));
    }
    Ok(())
}

/// Refuses encodings in which careless decoders see a dot or a slash: overlong UTF-8, and `%uXXXX`,
/// which IIS and others have accepted for a UTF-16 unit.
fn refuse_hidden_characters(path: &[u8]) -> Result<(), Denial> {
    let overlong = path.windows(2).any(|pair| {
        matches!(
            pair,
            [
                0xc0 | 0xc1,
                0x80..=0xbf | b'.' | b'/' | b'\\' | ENCODED_SLASH
            ] | [0xe0, 0x80..=0x9f]
                | [0xf0, 0x80..=0x8f]
                | [0xf8, 0x80..=0x87]
                | [0xfc, 0x80..=0x83]
        )
    });
    if overlong {
        return Err(malformed("the path has overlong UTF-8"));
    }
    let unicode_escape = path.windows(6).any(|window| match window {
        [b'%', b'u' | b'U', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        _ => false,
    });
    if unicode_escape {
        return Err(malformed("the path has an encoding of the form '%uXXXX'"));
    }
    Ok(())
}

fn check_empty_segments(text: &str, forms: &mut PathEncodings) -> Result<(), Denial> {
    // The path is split as bytes, because this is faster. In UTF-8 the bytes `/` and `;` occur in
    // no other character.
    let mut segments = text
        .as_bytes()
        .split(|byte| *byte == b'/')
        .skip(1)
        .peekable();
    while let Some(segment) = segments.next() {
        if segment.first() == Some(&b';') {
            return Err(malformed("the path has a segment of parameters alone"));
        }
        if segment.is_empty() && segments.peek().is_some() {
            forms.insert(PathEncoding::EmptySegments);
        }
    }
    Ok(())
}

const fn is_control(byte: u8) -> bool {
    matches!(byte, 0..=0x1f | 0x7f)
}

fn count(bytes: &[u8], wanted: u8) -> usize {
    bytes.iter().filter(|byte| **byte == wanted).count()
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

    /// Paths that are refused on all routes.
    const ALWAYS_REFUSED: [&str; 65] = [
        "",
        "/a%2Fb|",
        "/a%252fb{c",
        "//a\"",
        "/a%ff^",
        "a",
        "/../a",
        "/a/..",
        "/a/.",
        "/./a",
        "//..",
        "/%2e%2e/a",
        "/a/%2E./b",
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
        "/..;/a",
        "/;/a",
        "/a/.;x=y/b",
        "/;x",
        "/a%2f..",
        "/a%2F%2e%2e%2Fb",
        "/..%2fa",
        "/a%2f..;x",
        "/%252e%252e/a",
        "/a/.%252e",
        "/a%252f..",
        "/a%252F%252e%252e%252fb",
        "/a%255c..%255cb",
        "/a/..%253bx",
        "/a%2500",
        "/a%2f%2500",
        "/a%250a",
        "/%c0%ae%c0%ae/b",
        "/a%c0%afb",
        "/a%25c0%25af..",
        "/%e0%80%ae./b",
        "/%f0%80%80%af/b",
        "/%f8%80%80%80%af/b",
        "/%f8%87%bf%bf%bf/b",
        "/%fc%80%80%80%80%ae/b",
        "/%fc%83%bf%bf%bf%bf/b",
        "/a%25fc%2580%2580%2580%2580%25ae",
        "/a%c0.",
        "/a%c1./b",
        "/a%c0/b",
        "/a%c1/b",
        "/a%c0%2e",
        "/a%c0%2fb",
        "/a%c1%2Fb",
        "/a%c0%255cb",
        "/a%25c0%252eb",
        "/a%25252e",
        "/a%2525252fb",
        "/a%2525252e",
        "/a%25u002e%25u002e/b",
        "/a%25U002fb",
        "/a%2525u005cb",
    ];

    #[test]
    fn some_paths_are_refused_on_all_routes() {
        for path in ALWAYS_REFUSED {
            let checked = checked_path(path);
            assert!(checked.is_err(), "{path}: {checked:?}");
        }
    }

    #[test]
    fn other_paths_need_a_route_that_allows_them() {
        use PathEncoding::{DoubleEncoding, EmptySegments, EncodedSlash, NonUtf8};
        for (path, text, needed) in [
            ("/a%2fb", "/a%2Fb", &[EncodedSlash][..]),
            ("/a%2Fb/%2F", "/a%2Fb/%2F", &[EncodedSlash]),
            ("/a%2f", "/a%2F", &[EncodedSlash]),
            ("//a", "//a", &[EmptySegments]),
            ("/a//b", "/a//b", &[EmptySegments]),
            ("/a//", "/a//", &[EmptySegments]),
            ("///", "///", &[EmptySegments]),
            ("/a%252fb", "/a%2fb", &[DoubleEncoding]),
            ("/a%25%32%66b", "/a%2fb", &[DoubleEncoding]),
            ("/a%255cb", "/a%5cb", &[DoubleEncoding]),
            ("/%ff", "/%FF", &[NonUtf8]),
            ("/%c3/%C3%A9", "/%C3/é", &[NonUtf8]),
            (
                "/%2f%252f//%ff",
                "/%2F%2f//%FF",
                &[EncodedSlash, DoubleEncoding, EmptySegments, NonUtf8],
            ),
        ] {
            let checked = checked_path(path).unwrap();
            let forms: PathEncodings = needed.iter().copied().collect();
            assert_eq!((&*checked.text, checked.forms), (text, forms), "{path}");
            assert!(require(forms, forms).is_ok());
            for missing in needed {
                let others = needed.iter().copied().filter(|form| form != missing);
                assert!(require(forms, others.collect()).is_err(), "{path}");
            }
            assert!(checked.strict().is_err(), "{path}");
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
            assert_eq!(checked_path(path).unwrap().strict().unwrap(), decoded);
        }
        assert_eq!(
            without_parameters("/admin;x/y").as_deref(),
            Some("/admin/y")
        );
        assert_eq!(without_parameters("/admin"), None);
    }

    proptest! {
        #[test]
        fn an_accepted_path_has_no_hidden_structure(path in "/[a-z./%;0-9A-F\\\\]{0,24}") {
            if let Ok(checked) = checked_path(&path) {
                let text = &checked.text;
                prop_assert_eq!(text.matches('/').count(), path.matches('/').count());
                prop_assert!(!text.split('/').any(|s| s == ".." || s == "."));
                prop_assert!(!text.contains('\\'));
                if checked.strict().is_ok() {
                    prop_assert!(!path.contains("//"));
                    prop_assert!(!path.to_ascii_lowercase().contains("%2f"));
                }
            }
        }

        #[test]
        fn no_number_of_decodings_up_to_two_makes_a_dot_segment(
            path in "/([a./;]|%2[eEfF5]|%252[eEfF]|%5[cC]|%25){0,10}",
        ) {
            if checked_path(&path).is_ok() {
                let mut bytes = path.into_bytes();
                for _ in 0..=2 {
                    let mut segments = bytes.split(|b| matches!(b, b'/' | b'\\'));
                    let dots = |s: &[u8]| matches!(s.split(|b| *b == b';').next(), Some(b"." | b".."));
                    prop_assert!(!segments.any(dots));
                    bytes = decoded_leniently(&bytes);
                }
            }
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = checked_path(&text);
        }
    }
}
