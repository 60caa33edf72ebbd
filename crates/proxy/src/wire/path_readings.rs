//! Selects a route in such a way that a service cannot read the path as one of a route for others.
//!
//! A service may decode `%2F`, decode twice, remove `;parameters` or merge slashes, although it
//! should not. If one of these readings selects a route for other callers, the request is refused.
//! A strict path has only two readings: with its parameters and without.

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
    if let Some(bare) = without_parameters(path) {
        // Some servers remove path parameters (`;name=value`) before they match a path, and other
        // servers do not. Such paths are usual, so they are checked on all routes.
        let same = match (&selected, &routes.select(host, &bare, method)) {
            (Selected::Route(a), Selected::Route(b)) => Arc::ptr_eq(a, b),
            (Selected::Nothing, Selected::Nothing) => true,
            _ => false,
        };
        if !same {
            return Err(malformed(
                "the path's parameters after ';' make it ambiguous which route it means",
            ));
        }
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

/// Returns the paths that a service may see instead of `path`.
fn readings(path: &str) -> Vec<String> {
    let slashes = path.replace("%2F", "/");
    // In the text of a path, encoded slashes and bytes that are not UTF-8 are the only
    // percent-encodings of the path itself. All others were encoded twice.
    let all = text_of(&decoded_leniently(path.as_bytes())).replace('\\', "/");
    let mut readings = Vec::new();
    for decoded in [path, &slashes, &all] {
        let bare = without_parameters(decoded);
        for text in [Some(decoded), bare.as_deref()].into_iter().flatten() {
            readings.push(text.to_owned());
            readings.push(with_merged_slashes(text));
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
