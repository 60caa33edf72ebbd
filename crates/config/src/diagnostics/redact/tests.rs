//! Tests which texts of a configuration file are hidden.

use super::*;

const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";

#[test]
fn secrets_are_hidden_whatever_is_wrong_with_the_file() {
    for text in [
        "password = \"hunter2\"",
        "password = 'hunter2'",
        "password = hunter2",
        "password = \"hunter2",
        "password: \"hunter2\"",
        "redis.password = \"hunter2\"",
        "\"password\" = \"hunter2\"",
        "url = { password = \"hunter2\", x = 1 }",
        "authorization = \"hunter2\"",
        "signing_key = \"hunter2\"",
        "access-key = 'hunter2'",
        "password.value = \"hunter2\"",
        "x = { secret . \"a b\".c = \"hunter2\" }",
        "\"password\".'value' = 'hunter2'",
        "token.password = \"hunter2\"",
        "client_secret = \"\"\"\nhunter2\n\"\"\"",
        "tokens = [\n  \"a\",\n  \"hunter2\",\n]",
        "password = \"a\"hunter2\"",
        "password = \"a\\\"hunter2\"",
        "secret_file = \"hunter2\"",
        "private_key = \"hunter2\"",
        "passphrase = == hunter2",
        "[api_key]\nhash = \"hunter2\"",
        "endpoint = \"https://user:hunter2@host/\"",
        "endpoint = \"https://user:it's-hunter2@host/\"",
        "endpoint = \"https://user:my hunter2@host/\"",
        "tokens = [[\"a\"], [\"hunter2\"]]",
        "tokens = [\"a]b\", \"hunter2\"]",
        "tokens = [ # see [1]\n  \"hunter2\"]",
        "tokens = [\"hunter2",
        "x = \"-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----\"",
        "x = \"\"\"\n-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\"\"\"",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nhunter2\n",
    ] {
        let redaction = Redaction::of(text);
        assert!(!redaction.shown.contains("hunter2"), "{}", redaction.shown);
        assert_eq!(redaction.shown.len(), text.len());
        let message = redaction.message("cannot read /etc/x/hunter2: no such file");
        // In a URL, user and password together are one secret, so the password alone is not
        // hidden. This is safe, because messages do not repeat a part of a URL.
        assert!(
            text.contains("://") || !message.contains("hunter2"),
            "{text}: {message}"
        );
    }
    for text in [
        format!("certificate = \"{KEY}\""),
        format!("name = {KEY}"),
        "x = \"eyJhbGciOiJFUzI1NiJ9eyJpc3MiOiJodHRwczovL2lkcC\"".to_owned(),
        "x = \"ck_0123456789abcdef_abcdefghijABCDEFGHIJ0123456789abcdefghijABC\"".to_owned(),
        "x = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"".to_owned(),
    ] {
        let shown = Redaction::of(&text).into_shown();
        assert!(
            shown.contains("********************************"),
            "{shown}"
        );
    }
}

#[test]
fn what_is_not_secret_is_shown() {
    for text in [
        "private_key = \"certs/issued/gateway.key\"",
        "encryption_key = \"keys/encryption.pem\"",
        "public_key = \"hunter2\"",
        "service_public_key = \"hunter2\"",
        "token.issuer = \"corporate\"",
        "roots = [\"secret.pem\", \"other = 1\"]",
        "hmac_key = \"/etc/countersign/hmac\"",
        "secret_file = \"fleet.secret\"",
        "forward_token = true",
        "pass_headers = [\"x-request-id\"]",
        "callers = [\"api-key:batch\", \"token:corporate:*\"]",
        "token = { issuer = \"corporate\", scopes = [\"orders:read\"] }",
        "callers = [\"spiffe://example.org/ns/shop-production-eu-west-1a/sa/checkout\"]",
        "roots = [\"/tmp/.tmpAbC12x/certs/issued/intermediates/gateway\"]",
        "crls = [\"/tmp/countersign-authority-x3glRIF9/issuing.crl\"]",
        "issuer = \"https://gateway.example.org:9080\"",
        "[[api_key]]\nname = \"batch\"",
    ] {
        assert_eq!(Redaction::of(text).into_shown(), text);
    }
}

#[test]
fn messages_lose_the_part_of_a_secret_that_they_have() {
    let redaction = Redaction::of(&format!("x = \"{KEY}\"\npin = \"123\""));
    let part = KEY.get(..40).unwrap_or_default();
    let message = redaction.message(&format!("cannot use {part}…, nor `123`, on line 123"));
    assert!(!message.contains("MIGH"), "{message}");
    assert!(message.ends_with("…, nor `***`, on line 123"), "{message}");
}

#[test]
fn messages_lose_secrets_whose_escape_sequences_were_replaced() {
    for (text, message) in [
        ("password = \"hun\\\\ter2\"", "no `hun\\ter2`"),
        ("password = \"hun\\\\ter2\"", "no \"hun\\\\ter2\""),
        ("password = \"hunt\\\"er2\"", "no `hunt\"er2`"),
        ("password = 'hunter2\\'", "no `hunter2\\`"),
        ("password = \"hun\\u0074er2\"", "no `hunter2`"),
        ("password = \"hun\\x74er2\"", "no `hunter2`"),
        ("password = \"\\U00000068unter2\"", "no `hunter2`"),
        ("password = \"hunter2\\u0007\"", "no \"hunter2\\u{7}\""),
        (
            "password = \"\"\"hunter2\\\n  hunter2\"\"\"",
            "no hunter2hunter2",
        ),
    ] {
        let shown = Redaction::of(text).message(message);
        let letters = shown.trim_start_matches("no ");
        assert!(!letters.contains(['h', 'e', 'r']), "{text}: {shown}");
    }
    for text in [
        "\\",
        "a\\",
        "\\u12",
        "\\u{}",
        "\\ué000",
        "\\UFFFFFFFF",
        "\\q",
    ] {
        assert_eq!(unescaped(text), text);
    }
}

/// A short secret may be a word that messages use for other things.
#[test]
fn short_secrets_are_hidden_only_in_quotation_marks_and_as_files() {
    let redaction = Redaction::of("password_file = \"certs\"");
    for message in [
        "certs/issued/gateway.key: No such file",
        "/etc/countersign/certs/issued/gateway.key: No such file",
        "/etc/countersign/certs.pem: No such file",
        "the certs directory has certs-old",
    ] {
        assert_eq!(redaction.message(message), message);
    }
    for message in [
        "unknown value `certs`",
        "unknown value \"certs\"",
        "/etc/countersign/certs: No such file",
        "cannot read certs: No such file",
        "certs: No such file",
        "cannot read /etc/countersign/certs.",
        "cannot use https://certs@host/",
    ] {
        let shown = redaction.message(message);
        assert!(!shown.contains("certs"), "{shown}");
    }
}

#[test]
fn a_short_password_in_a_url_is_hidden_in_messages() {
    let redaction = Redaction::of("url = \"redis://:pw1@host\"");
    let shown = redaction.message("redis://:pw1@host: connection refused");
    assert_eq!(shown, "redis://****@host: connection refused");
}

#[test]
fn any_text_is_survived() {
    for text in [
        "",
        "=",
        "password",
        "password=",
        "password = \"",
        "password = \"\\",
        "key = [",
        "é = \"ü\"\npassword = \"ü",
        "://@",
        "-----BEGIN ",
        "token = \u{1f600}",
        "secret = '''",
        "secret.",
        "secret.\"",
        "secret.é = 1",
        "password = \"\\",
    ] {
        let shown = Redaction::of(text).into_shown();
        assert!(shown.lines().count() == text.lines().count(), "{text:?}");
    }
}
