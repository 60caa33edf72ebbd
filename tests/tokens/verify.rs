//! `countersign token verify`: files, output and exit codes.

use countersign_testkit::{Idp, TestCa, sha256};
use serde_json::json;

use super::text;
use crate::support::{Files, TOKEN_ISSUER, base64url, countersign, now};

fn claims(certificate: Option<&[u8]>) -> serde_json::Value {
    let mut claims = json!({
        "iss": TOKEN_ISSUER, "aud": ["orders"], "sub": "alice", "client_id": "app",
        "iat": now(), "exp": now() + 60, "jti": "1", "scope": "orders:read",
    });
    if let Some(der) = certificate {
        claims["cnf"] = json!({"x5t#S256": base64url(&sha256(der))});
    }
    claims
}

#[test]
fn a_bound_token_needs_its_certificate() {
    let files = Files::new();
    let ca = TestCa::new("example.org");
    let (mine, other) = (ca.client("/ns/shop/sa/a"), ca.client("/ns/shop/sa/b"));
    let key = countersign_testkit::idp::TokenKey::new("one");
    let jwks = files.write("keys.json", Idp::key_set(&[&key]).to_string());
    let token = files.write("token", key.sign(&claims(Some(mine.leaf()))));
    let my_cert = files.write("mine.pem", mine.chain_pem());
    let other_cert = files.write("other.der", other.leaf());
    let verify = |cert: Option<&std::path::Path>, audience: &str| {
        let mut arguments = vec!["token", "verify", "--json", "--jwks", text(&jwks)];
        arguments.extend(["--issuer", TOKEN_ISSUER, "--audience", audience]);
        if let Some(cert) = cert {
            arguments.extend(["--cert", text(cert)]);
        }
        arguments.push(text(&token));
        countersign(&arguments, "")
    };
    let good = verify(Some(&my_cert), "orders");
    assert_eq!(good.code, 0, "{}", good.stderr);
    let document = good.json();
    assert_eq!(document["bound"], true);
    assert_eq!(document["token"]["sub"], "alice");
    assert!(document["token"]["ath"].is_string());
    verify(None, "orders").says_no("token-binding-mismatch");
    verify(Some(&other_cert), "orders").says_no("token-binding-mismatch");
    let audience = verify(Some(&my_cert), "payments");
    audience.says_no("token-audience");
    assert_eq!(audience.json()["code"], "token-audience");
}

#[test]
fn a_token_comes_from_standard_input_too() {
    let files = Files::new();
    let key = countersign_testkit::idp::TokenKey::new("one");
    let jwks = files.write("keys.json", Idp::key_set(&[&key]).to_string());
    let token = key.sign(&claims(None));
    let base = ["token", "verify", "--jwks", text(&jwks)];
    let run = |more: &[&str], token: &str| countersign(&[&base[..], more].concat(), token);
    assert_eq!(run(&["-"], &token).code, 0);
    assert_eq!(run(&["-"], &format!("{token}\n")).code, 0);
    run(&["-"], &format!("{token}\n\n")).says_no("token-malformed");
    run(&["-"], &format!(" {token}")).says_no("token-malformed");
    run(&["-"], "").says_no("token-malformed");
    run(&["-"], &"a".repeat(100_000)).says_no("token-malformed");
    assert_eq!(run(&["--algorithm", "ES256", "-"], &token).code, 0);
    run(&["--algorithm", "EdDSA", "-"], &token).says_no("token-algorithm");
    run(&["--algorithm", "HS256", "-"], &token).says_no("token-algorithm");
    // A certificate-bound token must not be accepted as an unbound token if `--cert` is missing.
    run(&["--issuer", "x", "--audience", "orders", "-"], &token).says_no("token-issuer");
}

#[test]
fn unreadable_files_are_bad_usage() {
    let files = Files::new();
    let key = countersign_testkit::idp::TokenKey::new("one");
    let jwks = files.write("keys.json", Idp::key_set(&[&key]).to_string());
    let html = files.write("keys.html", "<html>");
    let token = files.write("token", key.sign(&claims(None)));
    let missing = files.write("x", "").with_file_name("missing");
    for arguments in [
        vec!["--jwks", text(&missing), text(&token)],
        vec!["--jwks", text(&html), text(&token)],
        vec!["--jwks", text(&jwks), text(&missing)],
        vec![
            "--jwks",
            text(&jwks),
            "--issuer",
            TOKEN_ISSUER,
            text(&token),
        ],
        vec!["--jwks", text(&jwks), "--audience", "orders", text(&token)],
        vec![
            "--jwks",
            text(&jwks),
            "--issuer",
            TOKEN_ISSUER,
            "--audience",
            "a",
            "--cert",
            text(&html),
            text(&token),
        ],
        vec![text(&token)],
    ] {
        let run = countersign(&[&["token", "verify"][..], &arguments].concat(), "");
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}
