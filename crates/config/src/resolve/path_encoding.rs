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

/// Warns if a request can select a route with `path_encoding`, while a service that reads the path
/// otherwise sees a path of another route, which is for other callers.
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
        let neighbour = others
            .filter(|other| other.name != route.name && other.rule != route.rule)
            .filter(|other| shares_a_host(route, other))
            .find_map(|other| Some((other, confused_paths(route, other)?)));
        let Some((other, (mine, theirs))) = neighbour else {
            continue;
        };
        context.warn(
            Diagnostic::new(
                said.place.clone(),
                format!(
                    "{mine} of this route also matches paths that a service may read as {theirs}, \
                     which route {:?} allows to other callers",
                    other.name
                ),
            )
            .label(format!(
                "\"{}\" applies to these paths too",
                said.value.word()
            ))
            .help(
                "make sure that the service splits the path before it decodes it and keeps empty \
                 segments, give both routes the same callers, or give this route longer paths",
            ),
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

/// Returns a pattern of `route` and a pattern of `other` that one path can match, depending on how
/// it is read.
fn confused_paths<'a>(
    route: &'a Route,
    other: &'a Route,
) -> Option<(&'a PathPattern, &'a PathPattern)> {
    route.paths.iter().find_map(|mine| {
        let theirs = other.paths.iter();
        let mut theirs = theirs.filter(|theirs| can_be_confused(mine, theirs));
        theirs.next().map(|theirs| (mine, theirs))
    })
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
