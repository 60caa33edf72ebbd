//! [`Starter`]: the first configuration file, with comments, which `countersign init` writes.
//!
//! The template is in this crate because a test compares it with the table of known keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::document::url::HttpUrl;
use crate::identity::TrustDomain;
use crate::identity::pattern::HostPattern;

const LISTENER_PORT: u16 = 8443;
const PUBLIC_PORT: u16 = 9080;

/// The reason why a [`Starter`] cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StarterError(String);

/// The values that `countersign init` inserts into the template: trust domain, names and addresses.
#[derive(Debug, Clone)]
pub struct Starter {
    trust_domain: TrustDomain,
    host: String,
    upstream: String,
    plaintext: bool,
    caller: String,
}

impl Starter {
    /// Creates the first configuration of a gateway for one `caller` and one service. `host` is the
    /// gateway's name or IP address. `upstream` is the service's URL `http://HOST:PORT`.
    ///
    /// # Errors
    /// If `host` or `upstream` is invalid.
    pub fn new(
        trust_domain: &TrustDomain,
        host: &str,
        upstream: &str,
        caller: &str,
    ) -> Result<Self, StarterError> {
        let refuse = |what: &str, why: &str| StarterError(format!("{what}: {why}"));
        let host = match HostPattern::parse(host) {
            Ok(HostPattern::Exact(host)) => host.into(),
            Ok(HostPattern::Wildcard(_)) => {
                return Err(refuse(host, "name one host, without wildcard"));
            }
            Err(error) => return Err(refuse(host, &error.to_string())),
        };
        let upstream = upstream.strip_suffix('/').unwrap_or(upstream);
        let url = HttpUrl::parse(upstream).map_err(|why| refuse(upstream, why))?;
        if url.https {
            return Err(refuse(
                upstream,
                "for TLS, start from an http URL and set endpoints and roots of [[upstream]] in the written file",
            ));
        }
        if !url.path.is_empty() {
            return Err(refuse(
                upstream,
                "leave the path out: that of the request is forwarded",
            ));
        }
        Ok(Self {
            trust_domain: trust_domain.clone(),
            host,
            upstream: upstream.to_owned(),
            plaintext: !url.is_loopback(),
            caller: caller.to_owned(),
        })
    }

    /// Returns the gateway's name or IP address in its normal form.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether requests to the service cross the network without TLS. True if the service is on
    /// another machine.
    #[must_use]
    pub const fn plaintext(&self) -> bool {
        self.plaintext
    }

    /// Returns the URL to which callers connect.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_with(LISTENER_PORT)
    }

    /// Returns the issuer of assertions, which is the URL of the public listener.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.url_with(PUBLIC_PORT)
    }

    fn url_with(&self, port: u16) -> String {
        if self.host.contains(':') {
            format!("https://[{}]:{port}", self.host)
        } else {
            format!("https://{}:{port}", self.host)
        }
    }

    /// Returns the address to listen on. If the host is a loopback address or `localhost`, the
    /// address accepts connections only from this machine.
    fn address(&self, port: u16) -> SocketAddr {
        let ip = match self.host.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() => ip,
            Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            Err(_) if self.host == "localhost" => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, port)
    }

    /// Returns the text of the configuration file. The file expects certificates and keys in
    /// `certs/`.
    #[must_use]
    pub fn render(&self) -> String {
        let allow_plaintext = if self.plaintext {
            "allow_plaintext = true                # requests cross the network in the clear"
        } else {
            "# allow_plaintext = true              # for endpoints beyond this machine"
        };
        let (domain, upstream) = (&self.trust_domain, &self.upstream);
        let (issuer, caller) = (self.issuer(), &self.caller);
        let (address, public) = (self.address(LISTENER_PORT), self.address(PUBLIC_PORT));
        format!(
            r##"# Countersign. Paths are relative to this file; lines that begin with "# key ="
# show what else can be said, with the default. After a change: countersign check

# Where callers connect, and the certificate they see.
[listener]
address = "{address}"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
# client_certificate = "required"     # "optional": routes decide

# Whose certificates are believed, and for which names. Any number of these.
# The lists of revoked certificates run out: countersign pki crl signs new ones.
[[trust_domain]]
name = "{domain}"
roots = ["certs/trust.pem"]
crls = ["certs/crl/*.crl"]
# revocation = "hard"                 # "soft": allow when in doubt · "off"
# vouches_for = ["spiffe://{domain}/**"]
# identity_from = ["spiffe"]          # also "uri", "dns", "email", "ip", "upn"

# What services are told about a caller: a signed assertion with each request.
# Services demand exactly this issuer, and fetch the keys below it.
[assertion]
issuer = "{issuer}"
keys = "certs/signing"
# algorithm = "ES256"                 # or "EdDSA"
# lifetime = "30s"
# header = "Countersign-Assertion"

# For services: the keys that verify assertions. Read-only, no client certificate.
[public]
address = "{public}"
# tls = "listener"                    # the certificate of [listener]; or "off"
# serve = ["keys", "health"]          # also "metrics"

# For operators on this machine. The address is read-only: health, metrics, keys. The socket,
# which only the gateway's user can open, is for countersign status, reload, drain and deny.
[admin]
address = "127.0.0.1:9901"
socket = "admin.sock"
# operators = []                      # callers who may do the same from other machines

# Callers and certificates that are refused at once, whatever their authority says:
# countersign deny add --identity {caller}
[deny_list]
file = "deny.json"

# A service behind the gateway. Any number of these.
[[upstream]]
name = "service"
endpoints = ["{upstream}"]
{allow_plaintext}
# connect_timeout = "5s"
# first_byte_timeout = "1m"

# Who may send what where. What no route allows is refused; the most specific
# route decides, wherever it stands in this file.
[[route]]
name = "service"
paths = ["/**"]
callers = ["{caller}"]
upstream = "service"
audience = "service"                  # what the service demands as audience
# hosts = ["orders.example.org"]      # default: any
# methods = ["GET", "POST"]           # default: any
# except = []                         # callers who may not
# binding = "request"                 # "caller": re-usable for any request

# The audit log: one JSON document a line. It grows: rotate it. Rename the file, for example by
# logrotate without copytruncate, and the gateway begins a new one; it needs no signal.
[audit]
file = "audit.jsonl"                  # without it: standard output

# Bounds on everything.
# [limits]
# connections = 10000
# body_size = "64MiB"                 # default: no bound
# drain_timeout = "30s"
"##
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starter(host: &str, upstream: &str) -> Result<Starter, StarterError> {
        let domain = TrustDomain::parse("example.org").unwrap();
        Starter::new(&domain, host, upstream, "spiffe://example.org/client")
    }

    #[test]
    fn listens_as_widely_as_the_host_needs() {
        for (host, address) in [
            ("localhost", "127.0.0.1:8443"),
            ("127.0.0.1", "127.0.0.1:8443"),
            ("::1", "[::1]:8443"),
            ("[::1]", "[::1]:8443"),
            ("gateway.example.org", "0.0.0.0:8443"),
            ("10.0.0.1", "0.0.0.0:8443"),
            ("fd00::1", "[::]:8443"),
        ] {
            let starter = starter(host, "http://127.0.0.1:9001").unwrap();
            assert_eq!(
                starter.address(LISTENER_PORT).to_string(),
                address,
                "{host}"
            );
        }
        let v6 = starter("::1", "http://127.0.0.1:9001").unwrap();
        assert_eq!(v6.url(), "https://[::1]:8443");
        assert_eq!(v6.issuer(), "https://[::1]:9080");
    }

    #[test]
    fn refuses_what_is_no_host_or_upstream() {
        for (host, upstream) in [
            ("", "http://127.0.0.1:1"),
            ("*.example.org", "http://127.0.0.1:1"),
            ("a b", "http://127.0.0.1:1"),
            ("a\"b", "http://127.0.0.1:1"),
            ("a", "https://127.0.0.1:1"),
            ("a", "127.0.0.1:1"),
            ("a", "http://127.0.0.1:1/x"),
            ("a", "http://a\"b"),
        ] {
            assert!(starter(host, upstream).is_err(), "{host} {upstream}");
        }
        assert!(!starter("a", "http://127.0.0.1:1/").unwrap().plaintext());
        assert!(starter("a", "http://service:1").unwrap().plaintext());
    }

    #[test]
    fn what_is_commented_out_is_known_and_shows_the_defaults() {
        let text = starter("localhost", "http://127.0.0.1:1").unwrap().render();
        let mut title = "";
        for line in text.lines() {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let section = crate::document::raw::SECTIONS
                .sections
                .iter()
                .find(|s| s.title == bare);
            if let Some(section) = section {
                title = section.title;
                continue;
            }
            let Some((key, _)) = bare.split_once(" = ") else {
                continue;
            };
            if key.contains(' ') {
                continue;
            }
            let section = crate::document::raw::SECTIONS
                .sections
                .iter()
                .find(|s| s.title == title)
                .unwrap();
            assert!(
                section.keys.iter().any(|(known, _)| *known == key),
                "{title} {key}"
            );
        }
    }
}
