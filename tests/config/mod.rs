//! `countersign check` and `countersign init`, as operators use them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{BINARY, Run};

mod host;
mod secrets;

/// Runs a command. `check` does not look at this machine, whose ports other tests may use.
fn countersign(directory: &Path, arguments: &[&str]) -> Run {
    let more = (arguments.first() == Some(&"check")).then_some("--files-only");
    Run::of(
        Command::new(BINARY)
            .args(arguments)
            .args(more)
            .current_dir(directory)
            .env_remove("COUNTERSIGN_CONFIG"),
    )
}

const INIT: [&str; 8] = [
    "init",
    "--trust-domain",
    "example.org",
    "--host",
    "localhost",
    "--upstream",
    "http://127.0.0.1:9001",
    "--no-passphrase",
];

/// Returns a directory with the files that `countersign init` creates.
fn initialized() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let run = countersign(directory.path(), &INIT);
    assert_eq!(run.code, 0, "{run:?}");
    directory
}

/// Replaces one text in the configuration.
fn change(directory: &TempDir, from: &str, to: &str) {
    let file = directory.path().join("countersign.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    assert!(text.contains(from), "{from}");
    fs::write(&file, text.replacen(from, to, 1)).expect("a configuration");
}

#[test]
fn init_makes_what_check_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let run = countersign(directory.path(), &INIT);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stderr, "");
    let said = &run.stdout;
    for part in [
        "countersign serve --config",
        "curl --cacert",
        "--cert ./certs/issued/client.pem",
        "--key ./certs/issued/client.key",
        "https://localhost:8443/",
        "spiffe://example.org/client",
        "countersign pki crl",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    let run = countersign(directory.path(), &["check"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stderr, "");
    let said = &run.stdout;
    for part in [
        "is good.",
        "listener 127.0.0.1:8443",
        "issuer   https://localhost:9080",
        "trust domain example.org",
        "root  CN=",
        "next due 20",
        "revocation hard (chain)",
        "spiffe://example.org/client",
        "service, audience service, per request",
        "CREDENTIALS",
        "certificate",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
}

#[test]
fn init_keeps_private_files_private() {
    let directory = initialized();
    for name in [
        "root.key",
        "intermediate.key",
        "issued/gateway.key",
        "issued/client.key",
    ] {
        let file = directory.path().join("certs").join(name);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn init_names_its_files_for_machines() {
    let directory = tempfile::tempdir().unwrap();
    let mut arguments = INIT.to_vec();
    arguments.extend(["a gateway", "--json"]);
    let run = countersign(directory.path(), &arguments);
    assert_eq!(run.code, 0, "{run:?}");
    let document = run.json();
    for member in [
        "config",
        "ca",
        "server_cert",
        "server_key",
        "client_cert",
        "client_key",
        "dir",
    ] {
        let path = Path::new(document[member].as_str().unwrap());
        assert!(path.is_absolute() && path.exists(), "{member}: {path:?}");
    }
    assert_eq!(document["client"], "spiffe://example.org/client");
    assert_eq!(document["gateway"], "https://localhost:8443");
    assert_eq!(document["keys_encrypted"], false);
}

#[test]
fn init_does_not_overwrite_without_force() {
    let directory = initialized();
    let file = directory.path().join("countersign.toml");
    let root = directory.path().join("certs/root.pem");
    let signing = || {
        let listed = fs::read_dir(directory.path().join("certs/signing")).unwrap();
        let mut names: Vec<_> = listed.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (before, keys) = (fs::read(&root).unwrap(), signing());
    let run = countersign(directory.path(), &INIT);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("--force replaces it"), "{}", run.stderr);
    fs::remove_file(&file).unwrap();
    let run = countersign(directory.path(), &INIT);
    assert_eq!(run.code, 1, "the authority alone stands in the way");
    assert_eq!(fs::read(&root).unwrap(), before);
    let mut arguments = INIT.to_vec();
    arguments.push("--force");
    let run = countersign(directory.path(), &arguments);
    assert_eq!(run.code, 0, "{run:?}");
    assert_ne!(fs::read(&root).unwrap(), before);
    assert_eq!(
        signing(),
        keys,
        "services know the signing keys, so they stay"
    );
    let run = countersign(directory.path(), &["check"]);
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn init_refuses_what_could_not_work_before_it_makes_anything() {
    for (at, value, part) in [
        (2, "Example.org", "lower-case"),
        (4, "*.example.org", "name one host"),
        (4, "a b", "not a host name"),
        (6, "https://127.0.0.1:9001", "start from an http URL"),
        (6, "127.0.0.1:9001", "must begin with"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut arguments = INIT.to_vec();
        arguments[at] = value;
        let run = countersign(directory.path(), &arguments);
        assert_eq!(run.code, 2, "{value}");
        assert!(run.stderr.contains(part), "{}", run.stderr);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
    // There is no terminal on which the program could ask for a passphrase.
    let directory = tempfile::tempdir().unwrap();
    let run = countersign(directory.path(), &INIT[..7]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("--no-passphrase"), "{}", run.stderr);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn init_for_other_hosts_makes_files_that_check_accepts() {
    for (host, upstream, warned) in [
        ("gateway.example.org", "http://127.0.0.1:9001", false),
        ("10.1.2.3", "http://service.internal:80", true),
        ("::1", "http://[::1]:9001/", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut arguments = INIT.to_vec();
        (arguments[4], arguments[6]) = (host, upstream);
        let run = countersign(directory.path(), &arguments);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(
            run.stderr.contains("in the clear"),
            warned,
            "{}",
            run.stderr
        );
        let run = countersign(directory.path(), &["check", "--json"]);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(run.json()["warnings"], Value::Array(Vec::new()));
    }
}

#[test]
fn check_finds_the_file_in_its_usual_places() {
    let directory = initialized();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = directory.path().join("countersign.toml");
    let run = countersign(
        elsewhere.path(),
        &["check", "--config", file.to_str().unwrap()],
    );
    assert_eq!(run.code, 0, "{run:?}");
    let run = Run::of(
        Command::new(BINARY)
            .arg("check")
            .current_dir(elsewhere.path())
            .env("COUNTERSIGN_CONFIG", &file),
    );
    assert_eq!(run.code, 0, "{run:?}");
    if !Path::new("/etc/countersign/countersign.toml").exists() {
        let run = countersign(elsewhere.path(), &["check"]);
        assert_eq!(run.code, 2);
        for part in [
            "$COUNTERSIGN_CONFIG",
            "./countersign.toml",
            "/etc/countersign",
        ] {
            assert!(run.stderr.contains(part), "{}", run.stderr);
        }
    }
    let run = countersign(elsewhere.path(), &["check", "--config", "nowhere.toml"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("nowhere.toml"), "{}", run.stderr);
}

#[test]
fn check_reports_every_error_at_once() {
    let directory = initialized();
    change(
        &directory,
        "address = \"127.0.0.1:8443\"",
        "adress = \"127.0.0.1:8443\"",
    );
    change(&directory, "certs/trust.pem", "certs/missing.pem");
    change(
        &directory,
        "upstream = \"service\"",
        "upstream = \"servcie\"",
    );
    let run = countersign(directory.path(), &["check"]);
    assert_eq!(run.code, 2);
    assert_eq!(run.stdout, "");
    let said = &run.stderr;
    for part in [
        "the configuration has 4 errors",
        "unknown key `adress` in [listener]",
        "did you mean `address`?",
        "./countersign.toml:6:1",
        "^^^^^^",
        "certs/missing.pem: No such file",
        "did you mean \"service\"?",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    assert!(!said.contains('\u{1b}'), "colours in a pipe");

    let run = countersign(directory.path(), &["check", "--json"]);
    assert_eq!(run.code, 2);
    let document = run.json();
    assert_eq!(document["ok"], false);
    let errors = document["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 4);
    for error in errors {
        for member in ["file", "line", "column", "message", "help"] {
            assert!(!error[member].is_null(), "{member}: {error}");
        }
    }
}

#[test]
fn check_describes_the_configuration_for_machines() {
    let directory = initialized();
    let run = countersign(directory.path(), &["check", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let document = run.json();
    assert_eq!(document["ok"], true);
    assert_eq!(document["listener"], "127.0.0.1:8443");
    let domain = &document["trust_domains"][0];
    assert_eq!(domain["name"], "example.org");
    assert_eq!(domain["revocation"], "hard");
    assert_eq!(domain["revocation_lists"].as_array().unwrap().len(), 2);
    assert!(
        domain["roots"][0]["not_after"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let route = &document["routes"][0];
    assert_eq!(route["callers"][0], "spiffe://example.org/client");
    assert_eq!(route["binding"], "request");
    let files = document["files"].as_array().unwrap();
    assert!(files.len() >= 7, "{files:?}");
}

#[test]
fn check_shows_warnings_and_still_succeeds() {
    let directory = initialized();
    let key = directory.path().join("certs/issued/gateway.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let run = countersign(directory.path(), &["check"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("warning: "), "{}", run.stderr);
    assert!(run.stderr.contains("chmod 600 "), "{}", run.stderr);
    assert!(run.stdout.contains("with 1 warning."), "{}", run.stdout);
    let run = countersign(directory.path(), &["check", "--quiet"]);
    assert_eq!((run.stdout, run.stderr), (String::new(), String::new()));
}

#[test]
fn serve_refuses_what_check_refuses() {
    let directory = initialized();
    change(
        &directory,
        "roots = [\"certs/trust.pem\"]",
        "roots = [\"certs/root.key\"]",
    );
    for command in ["check", "serve"] {
        let run = countersign(directory.path(), &[command]);
        assert_eq!(run.code, 2, "{command}");
        let said = &run.stderr;
        assert!(
            said.contains("a private key must not stand among trusted material"),
            "{said}"
        );
        assert!(said.contains("countersign.toml:"), "{said}");
    }
}

/// If a URL contains a password, the error message must not contain the password. People copy the
/// output of `check`, and the output of a reload is logged.
#[test]
fn a_password_in_a_url_is_not_repeated() {
    for url in [
        "http://gateway:hunter2@127.0.0.1:9001",
        "http://:hunter2/x@127.0.0.1:9001",
        "http://127.0.0.1:9001/?user=gateway&pass=hunter2",
    ] {
        let directory = initialized();
        change(&directory, "http://127.0.0.1:9001", url);
        for arguments in [&["check"][..], &["check", "--json"], &["serve"]] {
            let run = countersign(directory.path(), arguments);
            assert_eq!(run.code, 2, "{url}");
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(said.contains("endpoint"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}

/// Returns the commands in a text that `init` has printed, as lines for a shell.
fn commands(said: &str, begin: &str) -> Vec<String> {
    let lines: Vec<String> = said
        .lines()
        .filter_map(|line| line.strip_prefix("  countersign "))
        .filter(|line| line.starts_with(begin))
        .map(|line| format!("'{BINARY}' {line}"))
        .collect();
    assert!(!lines.is_empty(), "{said}");
    lines
}

fn shell(directory: &Path, line: &str) -> Run {
    Run::of(
        Command::new("sh")
            .args(["-c", line])
            .current_dir(directory)
            .env_remove("COUNTERSIGN_CONFIG")
            .env("CA_PASS", "correct horse")
            .stdin(std::process::Stdio::null()),
    )
}

/// The commands that init prints for regular renewals also work in a job that gets no input.
#[test]
fn the_renewals_that_init_names_work_with_the_passphrase_given() {
    for option in [
        ["--passphrase-file", "my pass"],
        ["--passphrase-env", "CA_PASS"],
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("my pass"), "correct horse\n").unwrap();
        let arguments = [&INIT[..7], &option].concat();
        let line = format!(
            "'{BINARY}' {}",
            arguments.join(" ").replace("my pass", "'my pass'")
        );
        let said = shell(directory.path(), &line).done().stdout;
        let list = directory.path().join("certs/crl/intermediate.crl");
        let leaf = directory.path().join("certs/issued/gateway.pem");
        let before = [&list, &leaf].map(|path| fs::read(path).unwrap());
        for line in commands(&said, "pki ") {
            // Nothing is due yet; as if it were.
            let line = line.replace("--if-expiring 50%", "--if-expiring 100%");
            shell(directory.path(), &line).done();
        }
        let after = [&list, &leaf].map(|path| fs::read(path).unwrap());
        assert!(before[0] != after[0] && before[1] != after[1]);
        countersign(directory.path(), &["check"]).done();
    }
    // pki init says the same for its own commands.
    let directory = tempfile::tempdir().unwrap();
    let arguments = "pki init --dir certs --trust-domain example.org --passphrase-env CA_PASS";
    let said = shell(directory.path(), &format!("'{BINARY}' {arguments}"))
        .done()
        .stdout;
    for line in commands(&said, "pki ") {
        if !line.contains("--every") {
            shell(directory.path(), &line).done();
        }
    }
}

/// Who is called at night has what is needed: the state, and a way to lock a caller out.
#[tokio::test]
async fn the_first_gateway_can_be_operated() {
    let directory = tempfile::tempdir().unwrap();
    let said = countersign(directory.path(), &INIT).done().stdout;
    for port in ["8443", "9080", "9901"] {
        let [from, to] = [port, "0"].map(|port| format!("address = \"127.0.0.1:{port}\""));
        change(&directory, &from, &to);
    }
    let config = directory.path().join("countersign.toml");
    let mut serve = tokio::process::Command::new(BINARY)
        .args(["serve", "--config"])
        .arg(&config)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let status = commands(&said, "status").remove(0);
    let answers = async || shell(directory.path(), &status).code == 0;
    countersign_testkit::until("the gateway's socket", answers).await;
    let deny = commands(&said, "deny").remove(0);
    shell(directory.path(), &deny).done();
    let list = countersign(directory.path(), &["deny", "list", "--json"])
        .done()
        .json();
    assert_eq!(
        list["deny_list"][0]["target"]["identity"],
        "spiffe://example.org/client"
    );
    assert!(directory.path().join("deny.json").exists());
    assert!(directory.path().join("audit.jsonl").exists());
    // `explain` names the entry that refuses the caller.
    let explain = commands(&said, "explain").remove(0);
    shell(directory.path(), &explain).ended(3, "");
    serve.kill().await.unwrap();
}
