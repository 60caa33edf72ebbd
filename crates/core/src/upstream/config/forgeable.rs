//! Names of request fields that services trust, because services expect that only a gateway or
//! proxy writes these fields. The gateway removes such a field from a caller's request, unless the
//! upstream is configured to keep the field.
//!
//! Many servers read `_` or `.` as `-`. When this module compares names, every character that is
//! neither a letter nor a digit therefore counts as a hyphen.

/// Whether the field `name` is removed by default. Every character that is neither a letter nor a
/// digit counts as a hyphen: `x_real.ip` is `x-real-ip`. `name` must be in lower case, as all names
/// of a [`http::HeaderMap`] are.
#[must_use]
pub fn is_forgeable(name: &str) -> bool {
    candidates(name.as_bytes())
        .iter()
        .any(|pattern| is_spelling_of_pattern(name, pattern))
}

/// Returns the names of all header fields that are removed from requests by default. A `*` at the
/// end of a name matches any suffix.
pub fn removed_by_default() -> impl Iterator<Item = &'static str> {
    let first = (b'a'..=b'z').map(|first| [first, b'-', b'-']);
    let third = (b'a'..=b'z').map(|third| [b'x', b'-', third]);
    first
        .chain(third)
        .flat_map(|start| candidates(&start).iter().copied())
}

/// Returns the patterns that can match `name`. These are the patterns with the same first
/// character, or with the same third character if `name` starts with `x-`. This lookup must be
/// fast, because it runs for every field of every request.
const fn candidates(name: &[u8]) -> &'static [&'static str] {
    match name {
        [b'c', ..] => &[
            "cf-access-*",
            "cf-connecting-ip",
            "client-cert*",
            "countersign-*",
        ],
        // Daphne reads from this field under which path an application is mounted.
        [b'd', ..] => &["daphne-root-path"],
        [b'f', ..] => &["fastly-client-ip", "forwarded"],
        // gunicorn copies fields of these names to the variables `SCRIPT_NAME` and `PATH_INFO`. An
        // application could then route a request to another path than the permitted path. A CGI
        // program gets the field `Proxy` as the environment variable HTTP_PROXY. HTTP clients read
        // this variable as the address of their proxy.
        [b'p', ..] => &["path-info", "proxy", "proxy-client-ip"],
        [b'r', ..] => &[
            "remote-email",
            "remote-groups",
            "remote-name",
            "remote-user",
        ],
        [b's', ..] => &["script-name", "ssl-cert", "ssl-client*"],
        [b't', ..] => &["true-client-ip", "txn-token"],
        [b'w', ..] => &["wimse-token", "wl-proxy-*", "workload-identity-token"],
        [b'x', _, third, ..] => match third {
            b'a' => &[
                "x-amzn-mtls-*",
                "x-amzn-oidc-*",
                "x-arr-clientcert",
                "x-appengine-*",
                "x-auth-request-*",
                "x-azure-clientip",
                "x-azure-socketip",
            ],
            b'c' => &[
                "x-client-cert*",
                "x-client-dn*",
                "x-client-ip",
                "x-client-san*",
                "x-client-verify*",
                "x-cluster-client-ip",
                "x-consumer-*",
            ],
            b'e' => &["x-envoy-*"],
            b'f' => &["x-forwarded", "x-forwarded-*"],
            b'g' => &["x-goog-authenticated-user-*", "x-goog-iap-*"],
            b'h' => &["x-http-method", "x-http-method-override"],
            b'm' => &["x-method-override", "x-ms-client-principal*"],
            b'o' => &["x-original-host", "x-original-uri", "x-original-url"],
            b'p' => &["x-pomerium-*"],
            b'r' => &["x-real-ip", "x-remote-*", "x-request-id", "x-rewrite-url"],
            b's' => &["x-script-name", "x-spiffe*", "x-ssl-*"],
            b't' => &["x-tls-client*"],
            b'w' => &["x-webauth-user"],
            _ => &[],
        },
        _ => &[],
    }
}

/// Whether a server may read the field name `name` as the name `wanted`. Both names must be in
/// lower case.
#[must_use]
pub fn is_spelling_of(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len() && starts_with_spelling_of(name, wanted)
}

/// Whether a server may read the field name `name` as a name that `pattern` matches.
#[must_use]
pub fn is_spelling_of_pattern(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => starts_with_spelling_of(name, prefix),
        None => is_spelling_of(name, pattern),
    }
}

fn starts_with_spelling_of(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(a, b)| a == b || !(a.is_ascii_alphanumeric() || b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_is_recognised() {
        for name in [
            "countersign-assertion",
            "countersign_assertion",
            "countersign.reason",
            "client_cert_chain",
            "client-certificate",
            "x_forwarded_for",
            "x-forwarded_client-cert",
            "x-forwarded",
            "forwarded",
            "x_rewrite.url",
            "x!http~method|override",
            "x-ssl-client-s-dn",
            "ssl_client_cert",
            "proxy",
            "script_name",
            "path_info",
            "daphne-root-path",
        ] {
            assert!(is_forgeable(name), "{name}");
        }
        for name in [
            "client",
            "content-type",
            "cookie",
            "from",
            "forwarded-",
            "proxy-status",
            "remote-users",
            "x",
            "x-",
            "x-custom",
            "x-forwarde",
            "x-request-id-2",
        ] {
            assert!(!is_forgeable(name), "{name}");
        }
    }

    #[test]
    fn the_lookup_by_characters_finds_every_pattern() {
        for pattern in removed_by_default() {
            assert!(is_forgeable(&pattern.replace('*', "z")), "{pattern}");
            assert!(is_forgeable(pattern.trim_end_matches('*')), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_match_equals_the_plain_one(
            pattern in proptest::sample::select(removed_by_default().collect::<Vec<_>>()),
            separator in "[-_.!~|+]",
            rest in "[a-z0-9_.-]{0,80}",
            cut in 0_usize..40,
        ) {
            let start = pattern.trim_end_matches('*').replace('-', &separator);
            let start = start.get(..start.len().saturating_sub(cut)).unwrap_or(&start);
            let name = format!("{start}{rest}");
            let canonical: String = name
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            let plain = removed_by_default().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => canonical.starts_with(prefix),
                None => canonical == pattern,
            });
            prop_assert_eq!(is_forgeable(&name), plain, "{}", name);
        }
    }
}
