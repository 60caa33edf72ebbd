//! Calls to gateways by curl, over HTTP/2.

use countersign_testkit::skipped::tool;
use tokio::process::Command;

use super::{HOST, World};

/// Calls one gateway as its allowed caller.
pub(crate) struct Curl {
    /// The arguments of every call.
    common: Vec<String>,
}

impl Curl {
    /// Writes the certificate and key of the caller to files. Returns `None` if curl is not
    /// installed or cannot use HTTP/2, and notes this.
    pub(crate) async fn to(world: &World) -> Option<Self> {
        let version = Command::new("curl").arg("--version").output().await;
        let speaks_h2 =
            version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("HTTP2"));
        if !tool("curl with HTTP/2", speaks_h2) {
            return None;
        }
        let ca = &world.ca;
        let certificate = ca.write("caller.pem", world.caller.chain_pem());
        let key = ca.write("caller.key", world.caller.key_pem());
        let mut common = ["-sS", "--http2", "--max-time", "20", "--connect-to"]
            .map(str::to_owned)
            .to_vec();
        common.push(format!("{HOST}:443:{}", world.gateway.listener()));
        for (option, file) in [
            ("--cacert", ca.root_file()),
            ("--cert", certificate),
            ("--key", key),
        ] {
            common.extend([option.to_owned(), file.to_str().unwrap().to_owned()]);
        }
        Some(Self { common })
    }

    /// Runs curl. Returns what it has written to standard output and standard error.
    pub(crate) async fn run(&self, path: &str, arguments: &[&str]) -> (String, String) {
        let output = Command::new("curl")
            .args(&self.common)
            .args(arguments)
            .arg(format!("https://{HOST}{path}"))
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    }
}
