//! All arguments that accept a file, or `-` for standard input. The tests make this input
//! unreadable.

mod terminal;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{BINARY, Run};

/// One byte more than the maximum that commands read from a file, except for CRLs.
const TOO_LARGE: u64 = (64 << 20) + 1;

/// The command lines. `@` is the place of the tested file.
const COMMANDS: &[&str] = &[
    "explain --url https://localhost/ --cert @",
    "explain --url https://localhost/ --cert certs/issued/client.pem --token @",
    "probe https://127.0.0.1:1/ --key certs/issued/client.key --cert @",
    "probe https://127.0.0.1:1/ --cert certs/issued/client.pem --key @",
    "probe https://127.0.0.1:1/ --cert certs/issued/client.pem --key certs/issued/client.key \
     --cacert @",
    "status --admin https://127.0.0.1:1 --key certs/issued/client.key --cacert certs/trust.pem \
     --cert @",
    "status --admin https://127.0.0.1:1 --cert certs/issued/client.pem --cacert certs/trust.pem \
     --key @",
    "status --admin https://127.0.0.1:1 --cert certs/issued/client.pem \
     --key certs/issued/client.key --cacert @",
    "reload --admin https://127.0.0.1:1 --key certs/issued/client.key --cacert certs/trust.pem \
     --cert @",
    "drain --admin https://127.0.0.1:1 --key certs/issued/client.key --cacert certs/trust.pem \
     --cert @",
    "deny list --admin https://127.0.0.1:1 --key certs/issued/client.key \
     --cacert certs/trust.pem --cert @",
    "deny add --socket absent --cert @",
    "deny add --identity dns:a.example.org --admin https://127.0.0.1:1 \
     --admin-key certs/issued/client.key --admin-cacert certs/trust.pem --admin-cert @",
    "token purge --admin https://127.0.0.1:1 --key certs/issued/client.key \
     --cacert certs/trust.pem --cert @",
    "token verify token.txt --jwks @",
    "token verify --jwks keys.json @",
    "token verify token.txt --jwks keys.json --issuer https://idp.example.org --audience a \
     --cert @",
    "assertion inspect @",
    "assertion verify --jwks keys.json --issuer https://gw.example.org --audience a @",
    "assertion verify token.txt --issuer https://gw.example.org --audience a --jwks @",
    "assertion verify token.txt --issuer https://gw.example.org --audience a \
     --jwks-url https://127.0.0.1:1/keys --cacert @",
    "assertion verify token.txt --jwks keys.json --issuer https://gw.example.org --audience a \
     --method POST --url https://orders.example.org/ --body @",
    "pki inspect @",
    "pki sign --dir certs @",
    "pki issue --dir certs --from @",
    "pki verify --purpose client --roots certs/trust.pem @",
    "pki verify --purpose client certs/issued/client.pem --roots @",
    "pki verify --purpose client --roots certs/trust.pem certs/issued/client.pem \
     --intermediates @",
    "pki revoke --dir certs --identity spiffe://example.org/client --wait https://127.0.0.1:1 \
     --admin-key certs/issued/client.key --admin-cacert certs/trust.pem --admin-cert @",
    "pki init --trust-domain example.org --dir other --passphrase-file @",
    CRLS,
];

/// This command reads files of up to 512 MiB, which is too large for a test.
const CRLS: &str = "pki verify --purpose client --roots certs/trust.pem \
                    certs/issued/client.pem --crl @";

/// Returns a directory with all files that the command lines name.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let init = "init --trust-domain example.org --host localhost \
                --upstream http://127.0.0.1:9001 --no-passphrase";
    run(path, init, Path::new(""), "").done();
    let keys = run(path, "keys jwks --dir certs/signing", Path::new(""), "").done();
    std::fs::write(path.join("keys.json"), keys.stdout).unwrap();
    std::fs::write(path.join("token.txt"), "a.b.c\n").unwrap();
    let large = File::create(path.join("large")).unwrap();
    large.set_len(TOO_LARGE).unwrap();
    directory
}

/// Runs a command line with `file` in place of `@`.
fn run(directory: &Path, line: &str, file: &Path, input: impl AsRef<[u8]>) -> Run {
    let arguments = line.split_whitespace().map(|word| match word {
        "@" => file.as_os_str(),
        word => word.as_ref(),
    });
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("COUNTERSIGN_CONFIG");
    Run::with_input(&mut command, input)
}

#[test]
fn a_file_that_cannot_be_read_ends_every_command_with_exit_code_2() {
    let directory = directory();
    let path = directory.path();
    for line in COMMANDS {
        for (file, why) in [
            ("missing.file", "No such file"),
            ("certs", "Is a directory"),
        ] {
            let run = run(path, line, Path::new(file), "");
            let said = &run.stderr;
            assert_eq!((run.code, &*run.stdout), (2, ""), "{line} {file}: {said}");
            let said_so = said.contains("cannot read") && said.contains(file) && said.contains(why);
            assert!(said_so, "{line} {file}: {said}");
        }
    }
}

#[test]
fn a_file_that_is_too_large_is_refused_and_not_cut_off() {
    let directory = directory();
    for line in COMMANDS.iter().filter(|line| **line != CRLS) {
        let run = run(directory.path(), line, Path::new("large"), "");
        let said = &run.stderr;
        assert_eq!((run.code, &*run.stdout), (2, ""), "{line}: {said}");
        let said_so = said.contains("large is larger than") || said.contains("is longer than");
        assert!(said_so, "{line}: {said}");
    }
}

#[test]
fn standard_input_has_the_same_limits() {
    let directory = directory();
    let certificate = "probe https://127.0.0.1:1/ --key certs/issued/client.key --cert @";
    let input = vec![b'\n'; (1 << 20) + 1];
    let words = "standard input is larger than 1 MiB";
    run(directory.path(), certificate, Path::new("-"), input).refused(2, words);
    let both = "token verify --jwks - @";
    let words = "only one file can be - (standard input)";
    run(directory.path(), both, Path::new("-"), "").refused(2, words);
}
