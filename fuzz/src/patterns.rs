//! Checks patterns of paths, hosts and callers. Path matching must agree with a simple
//! implementation of the grammar. Overlap checks must agree with matching, and printing with
//! parsing.

use countersign_core::identity::caller::CallerName;
use countersign_core::identity::pattern::{HostPattern, IdentityPattern, PathPattern};

/// Returns whether the path segments `given` match the segments of `pattern`. This is a simple
/// and slow implementation of the grammar, for comparison.
fn matches(pattern: &[&str], given: &[&str]) -> bool {
    match (pattern.split_first(), given.split_first()) {
        (Some((&"**", [])), Some(_)) => true,
        (Some((&"*", rest)), Some((first, others))) => !first.is_empty() && matches(rest, others),
        (Some((literal, rest)), Some((first, others))) => literal == first && matches(rest, others),
        (None, None) => true,
        _ => false,
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
}

fn paths(first: &str, second: &str, given: &str) {
    let Ok(pattern) = PathPattern::parse(first) else {
        return;
    };
    assert_eq!(
        PathPattern::parse(&pattern.to_string()).as_ref(),
        Ok(&pattern)
    );
    if given.starts_with('/') {
        let expected = matches(&segments(first), &segments(given));
        assert_eq!(pattern.matches(given), expected, "{first} and {given}");
    } else {
        assert!(!pattern.matches(given));
    }
    if let Ok(other) = PathPattern::parse(second) {
        assert_eq!(pattern.overlaps(&other), other.overlaps(&pattern));
        if pattern.matches(given) && other.matches(given) {
            assert!(pattern.overlaps(&other), "{first} and {second} at {given}");
        }
    }
}

fn hosts(first: &str, second: &str, given: &str) {
    let Ok(pattern) = HostPattern::parse(first) else {
        return;
    };
    assert_eq!(
        HostPattern::parse(&pattern.to_string()).as_ref(),
        Ok(&pattern)
    );
    if let Ok(other) = HostPattern::parse(second) {
        assert_eq!(pattern.overlaps(&other), other.overlaps(&pattern));
        if pattern.matches(given) && other.matches(given) {
            assert!(pattern.overlaps(&other), "{first} and {second} at {given}");
        }
    }
}

fn identities(first: &str, second: &str, given: &str) {
    let Ok(pattern) = IdentityPattern::parse(first) else {
        return;
    };
    assert_eq!(
        IdentityPattern::parse(&pattern.to_string()).as_ref(),
        Ok(&pattern)
    );
    let callers: Vec<CallerName> = [
        CallerName::from_uri(given).ok(),
        CallerName::from_dns(given).ok(),
        CallerName::from_email(given).ok(),
    ]
    .into_iter()
    .flatten()
    .collect();
    for caller in &callers {
        if let Ok(other) = IdentityPattern::parse(second) {
            assert_eq!(pattern.overlaps(&other), other.overlaps(&pattern));
            if pattern.matches(caller) && other.matches(caller) {
                assert!(pattern.overlaps(&other), "{first} and {second} at {caller}");
            }
        }
    }
}

/// The first two lines of the input are patterns. The third line is the value to match.
pub fn patterns(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    let second = lines.next().unwrap_or_default();
    let given = lines.next().unwrap_or_default();
    paths(first, second, given);
    hosts(first, second, given);
    identities(first, second, given);
}
