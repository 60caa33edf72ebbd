//! Selects a route in such a way that a service cannot read the path as one of a route for others.
//!
//! A service may decode `%2F`, decode twice, remove `;parameters`, merge slashes, or take an encoded
//! `?` or `#` for the end of the path, although it should not. If one of these readings selects a
//! route for other callers, the request is refused. A strict path is read in three ways: as it is,
//! without its parameters, and up to an encoded `?` or `#`.

use std::sync::Arc;

use http::Method;

use super::path::{decoded_leniently, malformed, require, text_of, without_parameters};
use crate::policy::Denial;
use crate::route::{PathEncodings, RouteTable, Selected};

/// Selects the route of a path that [`super::path::checked_path`] has accepted: `path` is its text
/// and `forms` are its forms.
///
/// # Errors
/// Returns a `malformed-request` denial if the route does not allow the form of the path, or if a
/// service could read the path as one of a route for others.
pub fn select<'r>(
    routes: &'r RouteTable,
    host: &str,
    path: &str,
    forms: PathEncodings,
    method: &Method,
) -> Result<Selected<'r>, Denial> {
    let selected = routes.select(host, path, method);
    // Some servers remove path parameters (`;name=value`) before they match a path, and other
    // servers do not. Such paths are usual, so they are checked on all routes.
    if let Some(bare) = without_parameters(path)
        && !is_same(&selected, &routes.select(host, &bare, method))
    {
        return Err(malformed(
            "the path's parameters after ';' make it ambiguous which route it means",
        ));
    }
    // A proxy between gateway and service may forward the decoded path. Its query then begins at
    // what was encoded.
    if let Some(cut) = up_to_query(path)
        && !is_same(&selected, &routes.select(host, cut, method))
    {
        return Err(malformed(
            "an encoded '?' or '#' makes it ambiguous which route the path means",
        ));
    }
    // The form of the path has no influence on which route is selected: a request never falls
    // through to another route that would allow it.
    require(
        forms,
        match &selected {
            Selected::Route(route) => route.path_encoding,
            _ => PathEncodings::STRICT,
        },
    )?;
    if let Selected::Route(route) = &selected
        && !forms.is_strict()
    {
        for reading in readings(path) {
            let admits_alike = match routes.select(host, &reading, method) {
                Selected::Route(other) => route.admits_alike(other),
                _ => false,
            };
            if !admits_alike {
                return Err(malformed(
                    "a service could read the path as one of another route",
                ));
            }
        }
    }
    Ok(selected)
}

fn is_same(selected: &Selected<'_>, other: &Selected<'_>) -> bool {
    match (selected, other) {
        (Selected::Route(a), Selected::Route(b)) => Arc::ptr_eq(a, b),
        (Selected::MethodNotAllowed(a), Selected::MethodNotAllowed(b)) => a == b,
        (Selected::Nothing, Selected::Nothing) => true,
        _ => false,
    }
}

/// Returns the part of a decoded path before the first `?` or `#`. Returns `None` if it has neither.
fn up_to_query(path: &str) -> Option<&str> {
    path.split_once(['?', '#']).map(|(before, _)| before)
}

/// Returns the paths that a service may see instead of `path`.
fn readings(path: &str) -> Vec<String> {
    let slashes = path.replace("%2F", "/");
    // In the text of a path, encoded slashes and bytes that are not UTF-8 are the only
    // percent-encodings of the path itself. All others were encoded twice.
    let all = text_of(&decoded_leniently(path.as_bytes())).replace('\\', "/");
    let mut readings = Vec::new();
    for decoded in [path, &slashes, &all] {
        let bare = without_parameters(decoded);
        let whole = [Some(decoded), bare.as_deref()].into_iter().flatten();
        for text in whole
            .flat_map(|text| [Some(text), up_to_query(text)])
            .flatten()
        {
            readings.push(text.to_owned());
            readings.push(with_merged_slashes(text));
        }
    }
    // Some services drop bytes that are not UTF-8, and others read the path in Latin-1.
    let raw = decoded_leniently(slashes.as_bytes());
    if std::str::from_utf8(&raw).is_err() {
        let valid: String = raw.utf8_chunks().map(|chunk| chunk.valid()).collect();
        let latin: String = raw.iter().copied().map(char::from).collect();
        for text in [valid, latin] {
            readings.push(with_merged_slashes(&text));
            readings.push(text);
        }
    }
    readings.retain(|reading| reading != path);
    readings.dedup();
    readings
}

fn with_merged_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::super::path::checked_path;
    use super::*;

    #[test]
    fn a_path_is_read_in_all_ways_that_services_have() {
        for (path, expected) in [
            ("/%2Fadmin/x", &["//admin/x", "/admin/x"][..]),
            ("//admin/x", &["/admin/x"]),
            ("/a%252Fb", &["/a/b"]),
            ("/a%255cb", &["/a/b"]),
            ("/%2561dmin", &["/admin"]),
            ("/a;x%2Fb", &["/a;x/b", "/a/b", "/a"]),
            ("/a%253Bx%2Fb", &["/a%3Bx/b", "/a;x/b", "/a/b"]),
            ("/%c3%25a9", &["/é"]),
            ("/%ff//", &["/%FF/"]),
            ("/admin%253Fx", &["/admin"]),
            ("/adm%ffin/x", &["/admin/x"]),
            ("/b%25fcro/x", &["/büro/x", "/bro/x"]),
            ("/a%2Fb%23x", &["/a/b"]),
        ] {
            let checked = checked_path(path).unwrap();
            let readings = readings(&checked.text);
            for reading in expected {
                assert!(
                    readings.iter().any(|found| found == reading),
                    "{path}: {readings:?}"
                );
            }
        }
    }
}
