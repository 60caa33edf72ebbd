//! Cases about `iat` and `exp` at each boundary, and about the lifetime.

use super::case::{Case, Draft, ISSUED, NOW, case};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = clocks();
    cases.extend(lifetimes());
    cases
}

fn times(rule: &str, name: impl Into<String>, issued: u64, expires: u64) -> Draft {
    case(rule, name).claim("iat", issued).claim("exp", expires)
}

fn clocks() -> Vec<Case> {
    let mut cases = Vec::new();
    for skew in [0, 5, 10, 30] {
        let at = |name: &str, now: u64| {
            case("time", format!("{name}, with a skew of {skew} s"))
                .skew(skew)
                .now(now)
        };
        cases.extend([
            at("`iat` is the latest time", ISSUED - skew).accepted(),
            at("`iat` is one second too late", ISSUED - skew - 1).refused("not-yet-valid"),
            at("the last second before `exp`", ISSUED + 30 + skew - 1).accepted(),
            at("the second of `exp`", ISSUED + 30 + skew).refused("expired"),
        ]);
    }
    cases.extend([
        case("time", "the default skew, with a clock 10 s behind")
            .now(ISSUED - 10)
            .accepted(),
        case("time", "a clock 29 s behind, with a skew of 10 s")
            .now(ISSUED - 29)
            .refused("not-yet-valid"),
        case("time", "a clock 31 s behind, with a skew of 30 s")
            .skew(30)
            .now(ISSUED - 31)
            .refused("not-yet-valid"),
        case("time", "a day later")
            .now(ISSUED + 86_400)
            .refused("expired"),
        case("time", "a clock at 0").now(0).refused("not-yet-valid"),
        times("time", "`iat` is 0", 0, 30).refused("expired"),
        times(
            "time",
            "`iat` in milliseconds",
            ISSUED * 1000,
            ISSUED * 1000 + 30,
        )
        .refused("not-yet-valid"),
        times(
            "time",
            "`iat` and `exp` near 2^53",
            9_007_199_254_740_000,
            9_007_199_254_740_030,
        )
        .refused("not-yet-valid"),
        times(
            "time",
            "a lifetime of 300 s in its last second",
            NOW - 309,
            NOW - 9,
        )
        .accepted(),
    ]);
    cases
}

fn lifetimes() -> Vec<Case> {
    let rule = "lifetime";
    vec![
        times(rule, "300 s", NOW, NOW + 300).accepted(),
        times(rule, "301 s", NOW, NOW + 301).refused("lifetime"),
        times(rule, "301 s with a skew of 30 s", NOW, NOW + 301)
            .skew(30)
            .refused("lifetime"),
        times(rule, "1 s", NOW, NOW + 1).accepted(),
        times(rule, "1 s, one second later", NOW - 1, NOW).accepted(),
        times(rule, "1 s, one second later, with no skew", NOW - 1, NOW)
            .skew(0)
            .refused("expired"),
        times(rule, "0 s", NOW, NOW).refused("lifetime"),
        times(rule, "`exp` one second before `iat`", NOW, NOW - 1).refused("lifetime"),
        times(rule, "`exp` is 0", NOW, 0).refused("lifetime"),
        times(rule, "a day", NOW, NOW + 86_400).refused("lifetime"),
        times(rule, "since 1970", 0, NOW + 30).refused("lifetime"),
        times(rule, "`exp` in milliseconds", NOW, (NOW + 30) * 1000).refused("lifetime"),
    ]
}
