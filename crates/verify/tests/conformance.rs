//! Runs the JWS and JWK test cases of Project Wycheproof.
//!
//! The data is not part of the repository. If it is missing, the tests are skipped; see
//! [`countersign_testkit::skipped`].

use countersign_testkit::skipped::corpus;
use countersign_verify::jose::{JwkSet, verify_signature};
use serde_json::{Value, json};

/// The numbers of valid cases that this crate refuses. In the cases 346 and 350, the algorithm of
/// the token is not the `alg` of the key. The cases 347 and 351 use P-521.
const REFUSED: [u64; 4] = [346, 347, 350, 351];

/// Returns the key set of a test group. If the group has no public keys, parses its symmetric keys,
/// which the key set must ignore.
fn keys_of(group: &Value) -> JwkSet {
    let keys = group.get("public").unwrap_or(&group["private"]);
    let set = match keys.get("keys") {
        Some(_) => keys.clone(),
        None => json!({"keys": [keys]}),
    };
    JwkSet::from_json(set.to_string().as_bytes()).unwrap()
}

/// Runs all cases of `file`. Returns the numbers of accepted and refused cases.
fn check(file: &str) -> Option<(usize, usize)> {
    let text = std::fs::read(corpus("jws")?.join(file)).unwrap();
    let suite: Value = serde_json::from_slice(&text).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in suite["testGroups"].as_array().unwrap() {
        let keys = keys_of(group);
        for case in group["tests"].as_array().unwrap() {
            let number = case["tcId"].as_u64().unwrap();
            // A token in JSON serialization is an object. The text of the object is not a compact
            // JWS, so it must be refused.
            let token = match &case["jws"] {
                Value::String(token) => token.clone(),
                other => other.to_string(),
            };
            let asymmetric = group.get("public").is_some();
            let wanted = case["result"] == "valid"
                && asymmetric
                && cfg!(feature = "all-algorithms")
                && !(file.contains("signature") && REFUSED.contains(&number));
            let outcome = verify_signature(&token, &keys);
            if case["result"] != "valid" {
                assert!(outcome.is_err(), "{file} {number} {}", case["comment"]);
            }
            if wanted {
                assert!(
                    outcome.is_ok(),
                    "{file} {number} {} {outcome:?}",
                    case["comment"]
                );
                accepted += 1;
            } else if cfg!(feature = "all-algorithms") {
                assert!(outcome.is_err(), "{file} {number} {}", case["comment"]);
                refused += 1;
            }
        }
    }
    Some((accepted, refused))
}

#[test]
fn wycheproof_signatures() {
    let counts = check("json_web_signature_test.json");
    if cfg!(feature = "all-algorithms") {
        assert!(
            counts.is_none_or(|counts| counts == (32, 369)),
            "{counts:?}"
        );
    }
}

#[test]
fn wycheproof_keys() {
    let counts = check("json_web_key_test.json");
    if cfg!(feature = "all-algorithms") {
        assert!(counts.is_none_or(|counts| counts == (1, 25)), "{counts:?}");
    }
}
