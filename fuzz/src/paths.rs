//! Checks paths and hosts of requests. An accepted path must have the same meaning for every
//! service, however the service decodes or resolves it.

use countersign_proxy::wire::path::{CheckedPath, checked_path};
use countersign_proxy::wire::target::normalized_host;

/// Percent-decodes bytes. Malformed escapes stay unchanged.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| {
            let text = std::str::from_utf8(pair).ok()?;
            let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(text, 16).unwrap())
        });
        match (first, pair) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

/// Returns the path as a service may resolve it: without empty segments, `.` and `..`, and with
/// `\` read as `/`. If `cut_parameters` is true, the parameters of segments (after `;`) are
/// removed too.
fn resolved(path: &str, cut_parameters: bool) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split(['/', '\\']) {
        let segment = match segment.split_once(';') {
            Some((bare, _)) if cut_parameters => bare,
            _ => segment,
        };
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", segments.join("/"))
}

/// Returns the path without the parameters of its segments (after `;`), and otherwise unchanged.
fn without_parameters(path: &str) -> String {
    path.split('/')
        .map(|segment| segment.split(';').next().unwrap())
        .collect::<Vec<_>>()
        .join("/")
}

/// Whether there is a segment `.` or `..`, without its parameters.
fn has_dot_segment(path: &[u8]) -> bool {
    let mut segments = path.split(|byte| matches!(byte, b'/' | b'\\'));
    segments.any(|segment| {
        let bare = segment.split(|byte| *byte == b';').next();
        matches!(bare, Some(b"." | b".."))
    })
}

/// The input is used as a request path and as a host.
pub fn paths(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(path) = checked_path(text) {
        assert_eq!(
            path.text.split('/').count(),
            text.split('/').count(),
            "other segments"
        );
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=2 {
            assert!(!has_dot_segment(&bytes), "dot segment: {text:?}");
            assert!(!bytes.contains(&0), "NUL: {text:?}");
            bytes = decoded(&bytes);
        }
        let twice = decoded(&decoded(text.as_bytes()));
        assert_eq!(decoded(&twice), twice, "encoded three times: {text:?}");
    }
    if let Ok(path) = checked_path(text).and_then(CheckedPath::strict) {
        assert_eq!(
            path.as_bytes(),
            decoded(text.as_bytes()),
            "decoded otherwise"
        );
        assert_eq!(path.as_bytes(), decoded(path.as_bytes()), "decodes twice");
        assert_eq!(resolved(&path, false), *path, "resolves otherwise");
        let bare = without_parameters(&path);
        assert_eq!(
            resolved(&path, true),
            bare,
            "resolves otherwise without parameters"
        );
        assert!(!path.bytes().any(|b| b < 0x20 || b == 0x7f), "{path:?}");
        let segments = text.split('/').count();
        assert_eq!(path.split('/').count(), segments, "other segments");
    }
    if let Ok(host) = normalized_host(text) {
        assert!(!host.is_empty() && !host.ends_with('.'), "{host:?}");
        assert!(!host.bytes().any(|b| b.is_ascii_uppercase()), "{host:?}");
        let again = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_string()
        };
        assert_eq!(normalized_host(&again).ok(), Some(host), "normalised twice");
    }
}
