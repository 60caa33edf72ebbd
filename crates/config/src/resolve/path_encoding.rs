//! `path_encoding` of `[[route]]`: which unusual forms of paths a route accepts.

use super::context::Context;
use crate::diagnostics::Diagnostic;
use crate::document::raw::RouteSection;
use crate::document::value::{At, Words as _};
use crate::identity::pattern::{PathPattern, Segment};
use crate::route::{PathEncoding, PathEncodings, Route};

/// Reads the forms that a route accepts.
pub(super) fn path_encoding(section: &RouteSection, context: &mut Context<'_>) -> PathEncodings {
    let items = words(section);
    let strict = items
        .iter()
        .find(|item| item.value == PathEncoding::Strict && items.len() > 1);
    if let Some(strict) = strict {
        context.error(
            Diagnostic::new(
                strict.place.clone(),
                "a path cannot be strict and have another form too",
            )
            .help("remove \"strict\", or the others"),
        );
    }
    items.iter().map(|item| item.value).collect()
}

fn words(section: &RouteSection) -> &[At<PathEncoding>] {
    section
        .path_encoding
        .value()
        .map_or(&[], |words| words.0.as_slice())
}

/// Maximum number of routes that one warning names.
const MAX_NEIGHBOURS: usize = 5;

/// Warns that the gateway refuses paths of a route with `path_encoding` which a service could read
/// as paths of other routes.
pub(super) fn warn_of_neighbours(
    sections: &[RouteSection],
    routes: &[Option<Route>],
    context: &mut Context<'_>,
) {
    for (section, route) in sections.iter().zip(routes) {
        let Some(route) = route
            .as_ref()
            .filter(|route| !route.path_encoding.is_strict())
        else {
            continue;
        };
        let Some(said) = words(section).first() else {
            continue;
        };
        let others = routes.iter().flatten();
        let neighbours: Vec<String> = others
            .filter(|other| !route.admits_alike(other) && shares_a_host(route, other))
            .filter_map(|other| {
                let theirs = confused_path(route, other)?;
                Some(format!("{theirs} of route {:?}", other.name))
            })
            .collect();
        if neighbours.is_empty() {
            continue;
        }
        let mut named = neighbours
            .iter()
            .take(MAX_NEIGHBOURS)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if let Some(more @ 1..) = neighbours.len().checked_sub(MAX_NEIGHBOURS) {
            named.push_str(&format!(" and {more} more"));
        }
        context.warn(
            Diagnostic::new(
                said.place.clone(),
                format!("paths of this route that can be read as {named} are refused"),
            )
            .label(format!(
                "\"{}\" makes two readings possible",
                said.value.word()
            ))
            .help("give both routes the same callers, credentials and methods, or separate their paths"),
        );
    }
}

fn shares_a_host(one: &Route, other: &Route) -> bool {
    one.hosts.is_empty()
        || other.hosts.is_empty()
        || one
            .hosts
            .iter()
            .any(|host| other.hosts.iter().any(|theirs| host.overlaps(theirs)))
}

/// Returns a pattern of `other` that a path of `route` can match, depending on how it is read.
fn confused_path<'a>(route: &Route, other: &'a Route) -> Option<&'a PathPattern> {
    let mut theirs = other.paths.iter();
    theirs.find(|theirs| route.paths.iter().any(|mine| can_be_confused(mine, theirs)))
}

/// Whether a path that `mine` matches can be read as one that `theirs` matches. Only wildcards
/// match a segment that contains an encoded slash, and only `/**` matches an empty segment. The
/// segments before the first wildcard are read the same in any case.
fn can_be_confused(mine: &PathPattern, theirs: &PathPattern) -> bool {
    if mine.is_exact() {
        return false;
    }
    let fixed = mine.segments().iter();
    let fixed = fixed.take_while(|segment| matches!(segment, Segment::Literal(_)));
    let mut theirs_segments = theirs.segments().iter();
    for segment in fixed {
        match theirs_segments.next() {
            Some(Segment::Any) => {}
            Some(literal) if literal == segment => {}
            Some(_) => return false,
            None => return theirs.and_below(),
        }
    }
    theirs_segments.next().is_some() || theirs.and_below()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_one_path_can_match_in_two_readings() {
        for (mine, theirs, confused) in [
            ("/**", "/admin/**", true),
            ("/**", "/admin", true),
            ("/admin/**", "/**", true),
            ("/files/*", "/files/a/b", true),
            ("/files/**", "/files/private/**", true),
            ("/api/*/x", "/api/**", true),
            ("/api/*/x", "/*/a/b", true),
            ("/files/**", "/admin/**", false),
            ("/files/**", "/file/**", false),
            ("/files/a", "/files/**", false),
            ("/files/**", "/files", false),
        ] {
            let parse = |text: &str| PathPattern::parse(text).unwrap();
            assert_eq!(
                can_be_confused(&parse(mine), &parse(theirs)),
                confused,
                "{mine} {theirs}"
            );
        }
    }
}
