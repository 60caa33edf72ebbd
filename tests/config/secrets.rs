//! Secrets that were pasted into the configuration: no message repeats them. People copy the output
//! of `check`, and the output of a reload is logged and sent to operators.

use super::{change, countersign, initialized};

const BODY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdeadbeefdeadbeef";

/// Runs the commands that load the configuration. Each must refuse it, and name the line.
fn refused(directory: &tempfile::TempDir, secrets: &[&str]) -> String {
    let mut all = String::new();
    for arguments in [&["check"][..], &["check", "--json"], &["serve"]] {
        let run = countersign(directory.path(), arguments);
        assert_eq!(run.code, 2, "{run:?}");
        let said = format!("{}{}", run.stdout, run.stderr);
        for secret in secrets {
            assert!(!said.contains(secret), "{secret} in:\n{said}");
        }
        all.push_str(&said);
    }
    assert!(all.contains("countersign.toml"), "{all}");
    all
}

#[test]
fn a_private_key_pasted_in_place_of_its_path_is_not_repeated() {
    for pem in [
        format!("\"\"\"\n-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----\n\"\"\""),
        format!("\"-----BEGIN EC PRIVATE KEY-----\\n{BODY}\\n-----END EC PRIVATE KEY-----\""),
        format!("'-----BEGIN PRIVATE KEY----- {BODY} -----END PRIVATE KEY-----'"),
    ] {
        for (key, from) in [
            ("private_key", "\"certs/issued/gateway.key\""),
            ("certificate", "\"certs/issued/gateway.pem\""),
            ("roots", "\"certs/trust.pem\""),
        ] {
            let directory = initialized();
            change(&directory, from, &pem);
            let said = refused(&directory, &[BODY]);
            assert!(
                said.contains("the content of a file, and not its name"),
                "{key}: {said}"
            );
        }
    }
}

#[test]
fn keys_that_are_unknown_or_misplaced_do_not_show_their_secrets() {
    for line in [
        "password = \"hunter2\"",
        "passphrase = 'hunter2'",
        "client_secret = \"hunter2\"",
        "token = \"hunter2\"",
        "api_key_hash = \"hunter2\"",
        "signing_key_passphrase = [\"hunter2\"]",
    ] {
        let directory = initialized();
        let with = format!("[listener]\n{line}\n");
        change(&directory, "[listener]\n", &with);
        let said = refused(&directory, &["hunter2"]);
        assert!(said.contains("unknown key"), "{said}");
    }
}

/// The excerpt of a syntax error shows the line, and the file cannot be parsed.
#[test]
fn a_syntax_error_does_not_show_the_secret_on_its_line() {
    for line in [
        "password = hunter2".to_owned(),
        "password = \"hunter2".to_owned(),
        "password: \"hunter2\"".to_owned(),
        "password = \"x\"hunter2\"".to_owned(),
        format!("private_key = -----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----"),
        format!("anything = {BODY}"),
    ] {
        let directory = initialized();
        let with = format!("[listener]\n{line}\n");
        change(&directory, "[listener]\n", &with);
        let said = refused(&directory, &["hunter2", BODY]);
        assert!(said.contains("syntax: "), "{said}");
    }
}

#[test]
fn the_path_of_a_missing_key_is_shown() {
    let directory = initialized();
    change(
        &directory,
        "certs/issued/gateway.key",
        "certs/issued/gone.key",
    );
    let said = refused(&directory, &[]);
    assert!(
        said.contains("private_key = \"certs/issued/gone.key\""),
        "{said}"
    );
    assert!(
        said.contains("certs/issued/gone.key: No such file"),
        "{said}"
    );
}
