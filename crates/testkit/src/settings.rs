//! The configuration of a gateway under test, as TOML text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use crate::ca::TestCa;
use crate::credentials::{Credentials, write_private};

/// Builds the configuration file of a gateway.
///
/// In the default configuration, the listener requires client certificates. There is one
/// trust domain, with the root of the given authority and without revocation checks. The
/// signing keys are ES256. There are public and admin listeners, but no routes.
#[derive(Debug, Clone)]
pub struct Settings {
    tables: BTreeMap<&'static str, BTreeMap<String, String>>,
    trust_domains: Vec<String>,
    sections: String,
    algorithm: &'static str,
    log: Option<&'static str>,
    arguments: &'static [&'static str],
    server: Credentials,
    root_file: String,
    domain: String,
}

/// Returns `text` as a quoted TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

impl Settings {
    /// Creates the default configuration for callers of this authority.
    #[must_use]
    pub fn new(ca: &TestCa) -> Self {
        let domain = ca.domain();
        let names = [
            format!("orders.{domain}"),
            format!("*.{domain}"),
            "localhost".to_owned(),
        ];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut settings = Self {
            tables: BTreeMap::new(),
            trust_domains: Vec::new(),
            sections: String::new(),
            algorithm: "ES256",
            log: None,
            arguments: &[],
            server: ca.server(&names),
            root_file: ca.root_file().display().to_string(),
            domain: domain.to_owned(),
        };
        for (table, key, value) in [
            ("listener", "address", "\"127.0.0.1:0\""),
            ("listener", "client_certificate", "\"required\""),
            (
                "assertion",
                "issuer",
                "\"https://gateway.example.org:9080\"",
            ),
            ("public", "address", "\"127.0.0.1:0\""),
            ("public", "tls", "\"off\""),
            ("public", "serve", "[\"keys\", \"health\"]"),
            ("admin", "address", "\"127.0.0.1:0\""),
            ("runtime", "workers", "2"),
        ] {
            settings = settings.set(table, key, value);
        }
        settings
    }

    /// Sets a key of a table, for example of `[listener]`. `value` is in TOML syntax.
    #[must_use]
    pub fn set(mut self, table: &'static str, key: &str, value: &str) -> Self {
        self.tables
            .entry(table)
            .or_default()
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// Makes client certificates optional at the listener. Each route then decides whether it
    /// requires one.
    #[must_use]
    pub fn optional_certificates(self) -> Self {
        self.set("listener", "client_certificate", "\"optional\"")
    }

    /// Sets the signing algorithm: `ES256` or `EdDSA`.
    #[must_use]
    pub fn algorithm(mut self, algorithm: &'static str) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Sets the log filter of the gateway process (`COUNTERSIGN_LOG`), for example `trace`.
    #[must_use]
    pub const fn log(mut self, filter: &'static str) -> Self {
        self.log = Some(filter);
        self
    }

    /// Starts the gateway with further arguments.
    #[must_use]
    pub const fn arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    pub(crate) const fn further_arguments(&self) -> &'static [&'static str] {
        self.arguments
    }

    pub(crate) const fn log_filter(&self) -> Option<&'static str> {
        self.log
    }

    /// Returns the signing algorithm.
    #[must_use]
    pub const fn signing_algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// Sets the server certificate of the listener.
    #[must_use]
    pub fn server(mut self, server: &Credentials) -> Self {
        self.server = server.clone();
        self
    }

    /// Adds a trust domain. The first call replaces the default trust domain. `body` is the
    /// content of one `[[trust_domain]]` table.
    #[must_use]
    pub fn trust_domain(mut self, body: &str) -> Self {
        self.trust_domains.push(body.to_owned());
        self
    }

    /// Adds a trust domain for an authority. `more` contains further keys of its
    /// `[[trust_domain]]` table.
    #[must_use]
    pub fn trust(self, ca: &TestCa, more: &str) -> Self {
        let body = format!(
            "name = {}\nroots = [{}]\n{more}",
            quoted(ca.domain()),
            quoted(&ca.root_file().display().to_string())
        );
        self.trust_domain(&body)
    }

    /// Adds an upstream with one endpoint.
    #[must_use]
    pub fn upstream(self, name: &str, address: SocketAddr) -> Self {
        self.upstream_with(name, address, "")
    }

    /// Adds an upstream with one endpoint. `more` contains further keys of its `[[upstream]]`
    /// table.
    #[must_use]
    pub fn upstream_with(self, name: &str, address: SocketAddr, more: &str) -> Self {
        self.section(&format!(
            "[[upstream]]\nname = {}\nendpoints = [\"http://{address}\"]\n{more}",
            quoted(name)
        ))
    }

    /// Adds an upstream with these endpoints (URLs). `more` contains further keys of its
    /// `[[upstream]]` table.
    #[must_use]
    pub fn upstream_at(self, name: &str, endpoints: &[String], more: &str) -> Self {
        let endpoints: Vec<String> = endpoints.iter().map(|url| quoted(url)).collect();
        self.section(&format!(
            "[[upstream]]\nname = {}\nendpoints = [{}]\n{more}",
            quoted(name),
            endpoints.join(", ")
        ))
    }

    /// Adds a route to an upstream. The audience is the name of the upstream, unless `body`
    /// sets another audience. `body` contains the other keys of the route.
    #[must_use]
    pub fn route(self, name: &str, upstream: &str, body: &str) -> Self {
        let said = |line: &str| line.trim_start().starts_with("audience");
        let audience = if body.lines().any(said) {
            String::new()
        } else {
            format!("audience = {}\n", quoted(upstream))
        };
        self.section(&format!(
            "[[route]]\nname = {}\nupstream = {}\n{audience}{body}",
            quoted(name),
            quoted(upstream)
        ))
    }

    /// Adds an upstream with this address, and one route to it for every host, path, method and
    /// authenticated caller.
    #[must_use]
    pub fn everything_to(self, address: SocketAddr) -> Self {
        self.upstream("orders", address).route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\n",
        )
    }

    /// Adds any TOML text at the end of the configuration.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        self.sections.push('\n');
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    /// Adds a `[[server_name]]` entry for `names` with the certificate `server`. `more` contains
    /// further keys of the entry.
    ///
    /// The certificate files are written to `directory`.
    #[must_use]
    pub fn server_name(
        self,
        directory: &Path,
        names: &[&str],
        server: &Credentials,
        more: &str,
    ) -> Self {
        let file = names[0].replace('*', "any");
        let certificate = directory.join(format!("{file}.pem"));
        let key = directory.join(format!("{file}.key"));
        write_private(&certificate, server.chain_pem().as_bytes());
        write_private(&key, server.key_pem().as_bytes());
        let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        self.section(&format!(
            "[[server_name]]\nnames = [{}]\ncertificate = {}\nprivate_key = {}\n{more}",
            names.join(", "),
            quoted(&certificate.display().to_string()),
            quoted(&key.display().to_string()),
        ))
    }

    /// Writes the certificate and the key of the listener into `directory`, and returns the
    /// whole configuration as TOML text.
    pub(crate) fn render(&self, directory: &Path) -> String {
        let path = |name: &str| directory.join(name);
        write_private(&path("gateway.pem"), self.server.chain_pem().as_bytes());
        write_private(&path("gateway.key"), self.server.key_pem().as_bytes());
        let file = |name: &str| quoted(&path(name).display().to_string());
        let mut tables = self.tables.clone();
        for (table, key, value) in [
            ("listener", "certificate", file("gateway.pem")),
            ("listener", "private_key", file("gateway.key")),
            ("assertion", "algorithm", quoted(self.algorithm)),
            ("assertion", "keys", file("signing")),
            ("audit", "file", file("audit.jsonl")),
        ] {
            tables
                .entry(table)
                .or_default()
                .entry(key.to_owned())
                .or_insert(value);
        }
        let mut text = String::new();
        for (table, keys) in tables {
            let _ = writeln!(text, "[{table}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
            text.push('\n');
        }
        let default = [format!(
            "name = {}\nroots = [{}]\nrevocation = \"off\"",
            quoted(&self.domain),
            quoted(&self.root_file)
        )];
        let domains = if self.trust_domains.is_empty() {
            &default[..]
        } else {
            &self.trust_domains
        };
        for body in domains {
            let _ = writeln!(text, "[[trust_domain]]\n{body}\n");
        }
        text.push_str(&self.sections);
        text
    }
}
