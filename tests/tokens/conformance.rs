//! Runs the JWS and JWK test cases of Project Wycheproof with `countersign token verify`.
//!
//! The data is not part of the repository; see [`countersign_testkit::skipped`]. `crates/verify`
//! tests the library with the same cases.

use countersign_testkit::skipped::corpus;
use serde_json::{Value, json};

use super::text;
use crate::support::{Files, countersign};

/// The numbers of valid cases that are refused. In 346 and 350, the algorithm of the token is not
/// the `alg` of the key. 347 and 351 use P-521.
const REFUSED: [u64; 4] = [346, 347, 350, 351];

/// Runs all cases of `file`. Returns the numbers of accepted and refused cases.
fn check(file: &str) -> Option<(usize, usize)> {
    let suite = std::fs::read(corpus("jws")?.join(file)).unwrap();
    let suite: Value = serde_json::from_slice(&suite).unwrap();
    let files = Files::new();
    let (mut accepted, mut refused) = (0, 0);
    for group in suite["testGroups"].as_array().unwrap() {
        let keys = group.get("public").unwrap_or(&group["private"]);
        let jwks = files.write("keys.json", keys.to_string());
        let symmetric = keys["kty"] == "oct" || keys["keys"][0]["kty"] == "oct";
        for case in group["tests"].as_array().unwrap() {
            let number = case["tcId"].as_u64().unwrap();
            let valid = case["result"] == "valid";
            // A token in JSON serialization is an object. As text, it is not a compact JWS.
            let token = match &case["jws"] {
                Value::String(token) => token.clone(),
                other => other.to_string(),
            };
            let token = files.write("token", token);
            let run = countersign(
                &[
                    "token",
                    "verify",
                    "--json",
                    "--jwks",
                    text(&jwks),
                    text(&token),
                ],
                "",
            );
            let expected = valid && !symmetric && !REFUSED.contains(&number);
            let code = if expected { 0 } else { 3 };
            assert_eq!(run.code, code, "{file} {number}: {}", run.stderr);
            assert_eq!(run.json()["valid"], json!(expected), "{file} {number}");
            if expected {
                accepted += 1;
            } else {
                refused += 1;
            }
        }
    }
    Some((accepted, refused))
}

#[test]
fn published_tokens_are_judged_as_published() {
    if let Some(counts) = check("json_web_signature_test.json") {
        assert_eq!(counts, (32, 369));
    }
}

#[test]
fn published_keys_are_judged_as_published() {
    if let Some(counts) = check("json_web_key_test.json") {
        assert_eq!(counts, (1, 25));
    }
}
