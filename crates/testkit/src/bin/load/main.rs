//! A small load generator for `scripts/bench`. It measures keep-alive and h2 requests, full
//! and resumed handshakes, large bodies, a fixed request rate, and idle connections.
//!
//! The program connects only to loopback addresses, and limits the time and the number of all
//! operations. It prints its results as one line of JSON: latencies, and the CPU time of the
//! measured processes.
//!
//! ```text
//! load pki DIR [ROOTS [ENTRIES LISTS]]
//!     writes PEM certificates and keys, ROOTS further roots, one CRL of the root,
//!     and LISTS CRLs of the intermediate with ENTRIES entries each
//! load upstream [COUNT]
//!     serves plain HTTP/1.1 on COUNT ports until standard input ends
//! load run --kind KIND --to A:P --pki DIR [...]
//!     makes one measurement; KIND is h1, h2, handshake or resumed
//! load idle --to A:P --pki DIR --connections N
//!     opens connections, prints a line, and holds them until standard input ends
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose result is what it prints"
)]

mod measure;
mod options;
mod run;
mod tls;
mod upstream;
mod wire;

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use countersign_testkit::{Crl, Leaf, TestCa};

use crate::options::Options;

/// The result of an operation. Errors are only printed, so their type does not matter.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The host name that the server certificate, the TLS server name and the requests contain.
pub(crate) const HOST: &str = "gw.example.org";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let outcome = match command.as_str() {
        "pki" => match arguments.next() {
            Some(directory) => pki(Path::new(&directory), arguments),
            None => Err("pki: name a directory".into()),
        },
        "upstream" => number(arguments.next(), 1).and_then(upstream::serve),
        "run" => Options::parse(arguments).and_then(|options| run::run(&options)),
        "idle" => Options::parse(arguments).and_then(|options| run::idle(&options)),
        _ => Err("commands: pki, upstream, run, idle; the source's first lines say more".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load {command}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: Option<String>, default: usize) -> Outcome<usize> {
    Ok(text.map_or(Ok(default), |text| text.parse())?)
}

/// Writes a root, an intermediate, a server certificate and a client certificate, all with P-256
/// keys. `counts` contains ROOTS, ENTRIES and LISTS, as described at the start of this file.
fn pki(directory: &Path, mut counts: impl Iterator<Item = String>) -> Outcome<()> {
    let roots = number(counts.next(), 0)?;
    let (entries, lists) = (number(counts.next(), 0)?, number(counts.next(), 0)?);
    std::fs::create_dir_all(directory)?;
    let ca = TestCa::new("example.org");
    let server = ca.server(&[HOST]);
    let client = ca.issue(Leaf::with_uri(&ca.spiffe("/ns/bench/sa/client")).common_name("client"));
    let chain_and_key = format!("{}{}", server.chain_pem(), server.key_pem());
    for (name, content) in [
        ("root.pem", ca.root().pem()),
        ("server.pem", server.chain_pem()),
        ("server.key", server.key_pem()),
        ("server-all.pem", chain_and_key),
        ("client.pem", client.chain_pem()),
        ("client.key", client.key_pem()),
    ] {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(directory.join(name))?
            .write_all(content.as_bytes())?;
    }
    for other in 0..roots {
        let ca = TestCa::new(&format!("domain-{other}.example"));
        std::fs::write(directory.join(format!("root-{other}.pem")), ca.root().pem())?;
    }
    if lists > 0 {
        let list = Crl::new().signed_by(ca.root());
        std::fs::write(directory.join("root.crl"), list)?;
    }
    for list in 1..=u8::try_from(lists)? {
        // The serial numbers contain the number of the CRL, so that no two CRLs revoke the same
        // certificate.
        let revoked = (0..u32::try_from(entries)?).fold(Crl::new().number(list), |crl, entry| {
            crl.revoke(&[&[0x51, list][..], &[0x52; 10], &entry.to_be_bytes()].concat())
        });
        let octets = revoked.signed_by(ca.intermediate());
        std::fs::write(directory.join(format!("issuing-{list}.crl")), octets)?;
    }
    Ok(())
}
