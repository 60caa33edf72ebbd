//! Generates and checks `sdk/vectors/vectors.json`, the test vectors for the packages in all
//! languages.
//!
//! The expected results were written by hand from `docs/assertion.md`. They do not come from the
//! verifier of this crate, so the vectors test this verifier too. With
//! `COUNTERSIGN_WRITE_VECTORS=1`, the tests write the file again.

mod binding;
mod case;
mod claims;
mod form;
mod header;
mod json;
mod key;
mod order;
mod request;
mod signature;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_verify::jose::base64url_decode;
use countersign_verify::{Assertion, RequestParts, Verifier, VerifyError, only_assertion};
use serde::Deserialize;
use serde_json::Value;

use case::{Case, Expect};

/// Error codes that no case can cause, because they need several requests or a key server. Each
/// package has its own tests for these codes.
const NOT_EXPRESSIBLE: [&str; 3] = [
    "assertion-keys-unavailable",
    "assertion-replayed",
    "assertion-replay-cache-full",
];

/// The content of the file `vectors.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    version: u32,
    key_sets: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

fn all_cases() -> Vec<Case> {
    [
        form::cases(),
        json::cases(),
        header::cases(),
        signature::cases(),
        claims::cases(),
        time::cases(),
        binding::cases(),
        request::cases(),
        order::cases(),
    ]
    .concat()
}

/// Returns the text of the file. Each key set and each case is one line.
fn written() -> String {
    let mut out = String::from("{\n\"version\": 1,\n\"key_sets\": {\n");
    let sets = signature::key_sets();
    let sets: Vec<String> = sets
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, set)| format!("\"{name}\": {}", case::text(set)))
        .collect();
    let cases: Vec<String> = all_cases()
        .iter()
        .map(|case| serde_json::to_string(case).unwrap())
        .collect();
    write!(
        out,
        "{}\n}},\n\"cases\": [\n{}\n]\n}}\n",
        sets.join(",\n"),
        cases.join(",\n")
    )
    .unwrap();
    out
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/vectors")
}

fn vectors() -> Vectors {
    serde_json::from_str(&written()).unwrap()
}

#[test]
fn the_vectors_are_those_of_this_generator() {
    let path = folder().join("vectors.json");
    let written = written();
    if std::env::var_os("COUNTERSIGN_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == written,
        "sdk/vectors/vectors.json is out of date: \
         COUNTERSIGN_WRITE_VECTORS=1 cargo test -p countersign-verify the_vectors"
    );
}

fn verifier(case: &Case, key_sets: &BTreeMap<String, Value>) -> Verifier {
    let now = case.now;
    let options = &case.options;
    let mut builder = Verifier::builder()
        .issuer(&options.issuer)
        .audience(&options.audience)
        .jwks_json(key_sets[&case.key_set].to_string())
        .skew(Duration::from_secs(options.skew))
        .path_prefix(options.path_prefix.clone().unwrap_or_default())
        .clock(move || now);
    if let Some(authority) = &options.authority {
        builder = builder.authority(authority);
    }
    if options.allow_caller_binding {
        builder = builder.allow_caller_binding();
    }
    if options.require_body_binding {
        builder = builder.require_body_binding();
    }
    builder.build().unwrap()
}

/// Verifies the assertion of a case with the raw values of the request, as a service without a
/// framework does.
fn verify(case: &Case, verifier: &Verifier) -> Result<Assertion, VerifyError> {
    let token = only_assertion(case.assertions.iter().map(String::as_bytes))?;
    let received = &case.request;
    let request = match received.hosts.as_slice() {
        [host] => RequestParts::new(&received.method, host, &received.target),
        _ => RequestParts::without_authority(&received.method, &received.target),
    };
    let mut request = request.map_err(|_| VerifyError::RequestUnclear)?;
    if let Some(body) = &received.body {
        request = request.with_body(&base64url_decode(body, "body").unwrap());
    }
    verifier.verify(token, &request)
}

/// Returns the request of a case as a request head of the `http` crate. Returns `None` if `http`
/// cannot represent the request.
#[cfg(feature = "tower")]
fn http_head(case: &Case) -> Option<http::request::Parts> {
    let received = &case.request;
    // `http::Uri` removes the fragment of a target, and a request head does not contain the body.
    if received.target.contains('#') || received.body.is_some() {
        return None;
    }
    let mut request = http::Request::builder()
        .method(&*received.method)
        .uri(&*received.target);
    for host in &received.hosts {
        request = request.header(http::header::HOST, host);
    }
    for assertion in &case.assertions {
        request = request.header(countersign_verify::claims::HEADER, assertion);
    }
    let (head, ()) = request.body(()).ok()?.into_parts();
    Some(head)
}

/// Converts an outcome to the form of the expected results.
fn as_expectation(outcome: Result<Assertion, VerifyError>) -> Expect {
    match outcome {
        Ok(assertion) => Expect::Accepted {
            sub: assertion.sub.clone(),
            trust_domain: assertion.authn.trust_domain.clone(),
            request_bound: assertion.is_request_bound(),
            claims: case::sorted(&serde_json::to_value(&assertion).unwrap()),
        },
        Err(error) => Expect::Refused {
            code: error.code().to_owned(),
        },
    }
}

fn assert_agreement(found: impl IntoIterator<Item = (Case, Expect)>) {
    let disagreements: Vec<String> = found
        .into_iter()
        .filter(|(case, found)| *found != case.expect)
        .map(|(case, found)| {
            format!(
                "{}: {}\n  expected {:?}\n  found    {found:?}",
                case.rule, case.name, case.expect
            )
        })
        .collect();
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn the_verifier_agrees_with_all_vectors() {
    let vectors = vectors();
    assert_eq!(vectors.version, 1);
    assert_agreement(vectors.cases.into_iter().map(|case| {
        let outcome = verify(&case, &verifier(&case, &vectors.key_sets));
        (case, as_expectation(outcome))
    }));
}

#[cfg(feature = "tower")]
#[tokio::test]
async fn the_verifier_agrees_with_all_vectors_in_http_requests() {
    let vectors = vectors();
    let mut found = Vec::new();
    for case in vectors.cases {
        if let Some(head) = http_head(&case) {
            let verifier = verifier(&case, &vectors.key_sets);
            let outcome = verifier.verify_http(&head).await;
            found.push((case, as_expectation(outcome)));
        }
    }
    assert!(found.len() > 300, "{}", found.len());
    assert_agreement(found);
}

#[test]
fn the_vectors_cover_all_rules_and_codes() {
    let cases = all_cases();
    let is_accepted = |case: &&Case| matches!(case.expect, Expect::Accepted { .. });
    let accepted = cases.iter().filter(is_accepted).count();
    let refused = cases.len() - accepted;
    assert!(accepted >= 40 && refused >= 120, "{accepted} {refused}");
    let names: BTreeSet<_> = cases.iter().map(|case| (&case.rule, &case.name)).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &cases {
        *rules.entry(&case.rule).or_default() += 1;
    }
    let page = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for (rule, count) in &rules {
        assert!(*count >= 2, "{rule}");
        assert!(
            page.contains(&format!("| `{rule}` |")),
            "{rule} is not in the README"
        );
    }
    let codes: BTreeSet<&str> = cases
        .iter()
        .filter_map(|case| match &case.expect {
            Expect::Refused { code } => Some(code.as_str()),
            Expect::Accepted { .. } => None,
        })
        .collect();
    // The source code of `VerifyError::code` contains all error codes.
    for line in include_str!("../../src/error.rs").lines() {
        let Some((_, rest)) = line.split_once("=> \"assertion-") else {
            continue;
        };
        let code = format!("assertion-{}", rest.trim_end_matches("\","));
        assert!(
            codes.contains(code.as_str()) || NOT_EXPRESSIBLE.contains(&code.as_str()),
            "no case has the code {code}"
        );
        assert!(
            page.contains(&format!("| `{code}` |")),
            "{code} is not in the README"
        );
    }
}
