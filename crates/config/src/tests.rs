//! Tests of whole configuration files through [`load`]: every error has its place and remedy.

#![allow(
    clippy::string_slice,
    clippy::too_many_lines,
    reason = "tables of cases; the texts are the tests' own"
)]

mod credentials;
mod documented;
mod keys;
mod material;
mod meaning;
mod requests;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::default_path::choose_path;
use super::diagnostics::Diagnostics;
use super::*;
use crate::assertion::{SigningAlgorithm, key_directory};
use crate::clock;
use crate::identity::TrustDomain;
use crate::pki::{CertificateProfile, IssueRequest, KeyProtection, Pki, SubjectNames};
use crate::policy::share::Share;
use crate::secret::{Existing, write_private};
use crate::snapshot::{AuditDestination, Limits};
use crate::tls::ClientCertificate;

const LISTENER: &str = r#"[listener]
address = "127.0.0.1:8443"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
"#;
const TRUST: &str = r#"[[trust_domain]]
name = "example.org"
roots = ["certs/trust.pem"]
crls = ["certs/crl/*.crl"]
"#;
const ASSERTION: &str = r#"[assertion]
issuer = "https://gateway.example.org:9080"
keys = "certs/signing"
"#;
const PUBLIC: &str = r#"[public]
address = "0.0.0.0:9080"
"#;
const UPSTREAM: &str = r#"[[upstream]]
name = "orders"
endpoints = ["http://127.0.0.1:9001"]
"#;
const ROUTE: &str = r#"[[route]]
name = "orders"
paths = ["/**"]
callers = ["spiffe://example.org/**"]
upstream = "orders"
audience = "orders"
"#;

/// The public key of RFC 7515 appendix A.3, as a JWK set.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256",
"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
"y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fn whole() -> String {
    [LISTENER, TRUST, ASSERTION, PUBLIC, UPSTREAM, ROUTE].join("\n")
}

/// A temporary directory with an authority's certificates and the files that the test
/// configurations name.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self(directory);
        let mut pki = place.authority("certs", "example.org");
        let names = SubjectNames::new().dns("gateway.example.org").unwrap();
        let request = IssueRequest::new("gateway".parse().unwrap(), names);
        pki.issue(&request.profile(CertificateProfile::SERVER))
            .unwrap();
        let signing = place.path("certs/signing");
        key_directory::generate(&signing, SigningAlgorithm::Es256, clock::unix_now()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn authority(&self, directory: &str, domain: &str) -> Pki {
        let domain = TrustDomain::parse(domain).unwrap();
        Pki::create(&self.path(directory), &domain, &KeyProtection::Plain).unwrap()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn write_private(&self, name: &str, content: impl AsRef<[u8]>) {
        write_private(&self.path(name), content.as_ref(), Existing::Replace).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn load(&self, text: &str) -> Result<Loaded, ConfigErrors> {
        self.write("countersign.toml", text);
        load(&self.path("countersign.toml"))
    }

    fn good(&self, text: &str) -> Loaded {
        match self.load(text) {
            Ok(loaded) => loaded,
            Err(errors) => panic!("{errors}"),
        }
    }

    fn errors(&self, text: &str) -> String {
        match self.load(text) {
            Ok(_) => panic!("no error in:\n{text}"),
            Err(errors) => errors.to_string(),
        }
    }

    /// Checks that the configuration `text` has exactly one error. The error must be at the line
    /// that contains `marker`, contain all `parts` and give help.
    #[track_caller]
    fn refuses(&self, text: &str, marker: &str, parts: &[&str]) {
        let shown = self.errors(text);
        assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
        let line = line_of(text, marker);
        for part in [&format!("countersign.toml:{line}:"), "^"]
            .into_iter()
            .chain(parts.iter().copied())
        {
            assert!(shown.contains(part), "no {part:?} in:\n{shown}");
        }
        assert!(shown.contains("help: "), "no remedy in:\n{shown}");
    }

    #[track_caller]
    fn warns(&self, text: &str, marker: &str, part: &str) {
        let warnings = self.good(text).warnings;
        let place = format!("countersign.toml:{}: ", line_of(text, marker));
        assert!(
            warnings
                .iter()
                .any(|w| w.contains(&place) && w.contains(part)),
            "no {part:?} at {place} in {warnings:#?}"
        );
    }
}

#[track_caller]
fn line_of(text: &str, marker: &str) -> usize {
    let position = text.find(marker).unwrap_or_else(|| panic!("no {marker:?}"));
    text[..position].matches('\n').count() + 1
}

/// Returns the text of [`whole`] with the first `from` replaced by `to`.
#[track_caller]
fn with(from: &str, to: &str) -> String {
    let whole = whole();
    assert!(whole.contains(from), "{from}");
    whole.replacen(from, to, 1)
}

/// Returns the text of [`whole`] with the keys `more` added directly after the line `section`.
fn plus(section: &str, more: &str) -> String {
    with(section, &format!("{section}{more}\n"))
}

#[test]
fn a_small_file_loads_with_the_defaults() {
    let place = Place::new();
    let loaded = place.good(&whole());
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(loaded.settings.address.port(), 8443);
    assert_eq!(loaded.settings.workers, None);
    assert_eq!(loaded.settings.audit, AuditDestination::Stdout);
    assert!(loaded.settings.admin.is_none());
    let public = loaded.settings.public.unwrap();
    assert!(public.tls.is_some() && public.keys && public.health && !public.metrics);
    let snapshot = loaded.snapshot;
    let entry = snapshot.server_names.default_entry().unwrap();
    assert_eq!(entry.client_certificate(), ClientCertificate::Required);
    let settings = snapshot.signer.settings();
    assert_eq!(settings.header, "countersign-assertion");
    assert_eq!(settings.lifetime, Duration::from_secs(30));
    let bundle = snapshot.bundles.first().unwrap();
    assert_eq!(bundle.posture(), trust::RevocationPosture::Hard);
    let vouches: Vec<_> = bundle
        .vouches_for()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(vouches, ["spiffe://example.org/**"]);
    assert_eq!(snapshot.routes.routes().len(), 1);
    let defaults = Limits::default();
    assert_eq!(snapshot.limits.header_bytes, defaults.header_bytes);
    for name in [
        "countersign.toml",
        "certs/trust.pem",
        "certs/crl",
        "certs/crl/root.crl",
        "certs/issued/gateway.key",
        "certs/issued/gateway.pem",
        "certs/signing",
    ] {
        assert!(
            loaded.files.contains(&place.path(name)),
            "{name}: {:?}",
            loaded.files
        );
    }
}

#[test]
fn every_key_can_be_said() {
    let place = Place::new();
    place.write_private("tickets.secret", [7; 32]);
    let text = r#"
[listener]
address = "127.0.0.1:8443"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
client_certificate = "optional"
trust_domains = ["example.org"]
proxy_protocol = ["10.0.0.0/8", "192.0.2.1"]
[[server_name]]
names = ["gateway.example.org"]
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
client_certificate = "required"
trust_domains = ["example.org"]
[tls.tickets]
enabled = true
secret_file = "tickets.secret"
rotation = "30m"
max_age = "24h"
[[trust_domain]]
name = "example.org"
roots = ["certs/trust.pem"]
intermediates = ["certs/intermediate.pem"]
crls = ["certs/crl/root.crl", "certs/crl/intermediate.crl"]
revocation = "hard"
revocation_depth = "leaf"
grace = "1h"
max_unread = "10m"
crl_number = "required"
vouches_for = ["spiffe://example.org/**", "dns:*.example.org"]
identity_from = ["spiffe", "dns"]
[crl_fetch]
roots = ["certs/trust.pem"]
interval = "10m"
timeout = "5s"
size = "64MiB"
directory = "certs"
[deny_list]
file = "deny.json"
[assertion]
issuer = "http://127.0.0.1:9080"
header = "X-Caller"
algorithm = "ES256"
lifetime = "5m"
max_size = "7KiB"
keys = "certs/signing"
[public]
address = "127.0.0.1:9080"
tls = "off"
serve = ["keys", "metrics"]
[admin]
address = "[::1]:9901"
operators = ["spiffe://example.org/ns/ops/*"]
socket = "admin.sock"
[[token_issuer]]
name = "file"
issuer = "https://file.example.org"
audience = ["orders-api"]
format = "jwt"
jwks_file = "keys.json"
algorithms = ["ES256"]
types = ["at+jwt", "jwt"]
certificate_binding = "off"
allow_unbound = true
skew = "0s"
forward_claims = ["tenant"]
timeout = "1s"
remember_accepted = "10s"
remember_refused = "1s"
cache_size = "1MiB"
[[token_issuer]]
name = "remote"
issuer = "https://idp.example.org"
audience = ["orders-api"]
jwks_uri = "https://idp.example.org/keys"
roots = ["certs/trust.pem"]
last_good = "1h"
required_at_start = true
[token_issuer.introspection]
endpoint = "https://idp.example.org/ask"
client_id = "gateway"
authentication = "basic"
secret_file = "secret"
[[token_issuer]]
name = "opaque"
issuer = "https://idp.example.org"
audience = ["orders-api"]
format = "opaque"
roots = ["certs/trust.pem"]
[token_issuer.introspection]
endpoint = "https://idp.example.org/ask"
client_id = "gateway"
authentication = "private-key-jwt"
private_key = "certs/issued/gateway.key"
key_id = "one"
audience = "https://idp.example.org/token"
[[token_issuer]]
name = "mutual"
issuer = "https://idp.example.org"
audience = ["orders-api"]
roots = ["certs/trust.pem"]
[token_issuer.introspection]
endpoint = "https://idp.example.org/ask"
client_id = "gateway"
authentication = "certificate"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
[api_keys]
hmac_key = "api-keys.hmac"
header = "X-Key"
[[api_key]]
name = "batch"
id = "0123456789abcdef"
hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
expires = 2035-01-01T00:00:00Z
routes = ["tokens"]
networks = ["10.0.0.0/8", "::1"]
connection_networks = ["192.0.2.0/24"]
callers = ["spiffe://example.org/batch"]
[[upstream]]
name = "orders"
endpoints = ["http://10.0.0.1:9001", "http://[::1]"]
allow_plaintext = true
host = "orders.internal:80"
forwarded = "both"
trace = "restart"
certificate_headers = ["client-cert", "client-cert-chain", "x-forwarded-client-cert"]
pass_headers = ["X-Team-*", "accept-language"]
remove_headers = ["X-Team-Secret"]
keep_headers = ["X-Envoy-*"]
connect_timeout = "250ms"
first_byte_timeout = "1h"
idle_timeout = "1m30s"
tunnel_idle_timeout = "2h"
stall_timeout = "5m"
total_timeout = "2h"
max_requests = 50
response_header_size = "16KiB"
response_header_fields = 60
max_connections = 40
share = "when-full"
max_pending = 30
dns_refresh = "1m"
health_check = { path = "/healthz?x", interval = "1s", timeout = "500ms", status = [200, 204], healthy = 1, unhealthy = 2 }
retries = 0
retry_budget = 5
[[upstream]]
name = "payments"
endpoints = ["https://payments.internal"]
protocol = "h2"
http1_upgrades = true
balance = "caller"
roots = ["certs/trust.pem"]
server_name = "payments.internal"
identity = "spiffe://example.org/payments"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
[[route]]
name = "orders"
hosts = ["orders.example.org"]
paths = ["/orders", "/orders/**"]
path_encoding = ["allow-encoded-slash", "allow-non-utf8"]
methods = ["GET"]
callers = ["*"]
except = ["spiffe://example.org/bad"]
authenticate = { all = ["certificate"] }
upstream = "orders"
audience = "orders"
binding = "caller"
assertion = "compact"
[[route]]
name = "tokens"
paths = ["/tokens"]
callers = ["client:remote/*", "api-key:batch", "spiffe://example.org/a"]
authenticate = { any = ["certificate", "api-key"] }
forward_token = true
rate_limit = [{ per = "caller", requests = 10, window = "1s" }, { per = "subject", requests = 10, window = "1s" }]
upstream = "orders"
audience = "tokens"
[route.token]
issuer = "remote"
audience = "orders-api"
scopes = ["orders:read"]
claims = { tenant = "acme", level = [1, true] }
client = { app = ["spiffe://example.org/a"] }
introspect = { once_per = "10s" }
resource = "https://orders.example.org/orders"
[[route]]
name = "open"
paths = ["/open"]
authenticate = "none"
upstream = "payments"
[route.rate_limit]
per = "address"
requests = 100
window = "1s"
burst = 200
[[route]]
name = "payments"
paths = ["/payments/v1", "/payments/v1/**"]
callers = ["*"]
upstream = "payments"
audience = "payments"
rewrite = { from = "/payments/v1", to = "/" }
bind_body = "1MiB"
continue_transaction = true
upgrade = ["websocket", "foo/2"]
[rate_limits]
keys = 1000
failed_authentications = 10
[limits]
connections = 1000
handshake_timeout = "1s"
header_timeout = "2s"
body_timeout = "3s"
header_size = "8KiB"
header_fields = 50
body_size = "1MiB"
held_bodies = "2MiB"
streams = 7
drain_timeout = "0s"
[limits.caller]
connections = "10%"
requests_in_flight = 100
tunnels = 8
buffered_bodies = "512KiB"
[limits.address]
handshakes_in_progress = 9
trusted_networks = ["10.1.0.0/16", "2001:db8::1"]
[runtime]
workers = 2
[audit]
file = "audit.jsonl"
chains = "chains"
"#;
    place.write("keys.json", KEYS);
    place.write_private("secret", "0123456789abcdef\n");
    place.write_private("api-keys.hmac", [7; 32]);
    let loaded = place.good(text);
    assert_eq!(loaded.warnings, [""; 0]);
    for section in document::raw::SECTIONS.sections {
        // The text above does not contain `[rate_limits.redis]`, because a build without the
        // feature `redis` refuses it. Another test checks the section.
        let elsewhere = section.title == "[rate_limits.redis]";
        for (key, _) in section.keys {
            if elsewhere || *key == "redis" {
                continue;
            }
            assert!(
                text.contains(&format!("\n{key} = ")) || text.contains(&format!(".{key}]\n")),
                "{} {key}",
                section.title
            );
        }
    }
    assert_eq!(loaded.settings.workers, Some(2));
    let file = AuditDestination::File(place.path("audit.jsonl"));
    assert_eq!(loaded.settings.audit, file);
    let limits = &loaded.snapshot.limits;
    assert_eq!((limits.connections, limits.streams), (1000, 7));
    let caller = limits.caller;
    assert_eq!(caller.connections, Share::Percent(10));
    assert_eq!(caller.requests_in_flight, Share::Number(100));
    assert_eq!(caller.tunnels, 8);
    assert_eq!(caller.buffered_bodies, Share::Number(512 * 1024));
    assert_eq!(limits.handshake_timeout, Duration::from_secs(1));
    assert_eq!(limits.header_timeout, Duration::from_secs(2));
    assert_eq!(limits.body_timeout, Duration::from_secs(3));
    assert_eq!(limits.drain_timeout, Duration::ZERO);
    assert_eq!(limits.address.handshakes_in_progress, 9);
    for (address, counted) in [
        ("10.1.2.3", false),
        ("10.2.0.1", true),
        ("2001:db8::1", false),
    ] {
        let key = limits.address.key_of(address.parse().unwrap());
        assert_eq!(key.is_some(), counted, "{address}");
    }
    assert_eq!(
        (limits.header_bytes, limits.header_fields, limits.body_bytes),
        (8192, 50, Some(1 << 20))
    );
    let upstream = loaded.snapshot.upstreams.first().unwrap().config();
    let endpoints: Vec<_> = upstream
        .endpoints
        .iter()
        .map(|e| (&*e.host, e.port))
        .collect();
    assert_eq!(endpoints, [("10.0.0.1", 9001), ("::1", 80)]);
    assert_eq!(upstream.connect_timeout, Duration::from_millis(250));
    let head = upstream.response_limits;
    assert_eq!((head.header_bytes, head.header_fields), (16_384, 60));
    assert_eq!(upstream.stall_timeout, Some(Duration::from_secs(300)));
    assert_eq!(upstream.host.as_deref(), Some("orders.internal:80"));
    let tokens = &loaded.snapshot.routes.routes()[1];
    let methods = tokens.rule.authentication.to_string();
    assert_eq!(methods, "any of certificate, api-key, token");
    assert!(tokens.forward_token);
    assert_eq!(loaded.snapshot.api_keys.header(), "x-key");
    let open = &loaded.snapshot.routes.routes()[2];
    assert_eq!(open.rule.authentication, policy::rule::Authentication::None);
    assert!(open.rule.callers.is_empty());
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_file() {
    let place = Place::new();
    let text = whole()
        .replace(
            "address = \"127.0.0.1:8443\"",
            "adress = \"127.0.0.1:8443\"",
        )
        .replace("roots = [\"certs/trust.pem\"]", "roots = [\"nowhere.pem\"]")
        .replace(
            "keys = \"certs/signing\"",
            "keys = \"certs/signing\"\nlifetime = \"1h\"",
        )
        .replace("http://127", "ftp://127")
        .replace("upstream = \"orders\"", "upstream = \"order\"")
        + "\n[limits]\nstreams = \"many\"\n";
    let shown = place.errors(&text);
    let mut last = 0;
    for part in [
        "[listener] has no `address`",
        "unknown key `adress` in [listener]",
        "nowhere.pem: No such file",
        "1h is out of bounds",
        "this cannot be an endpoint",
        "no upstream named \"order\"",
        "a whole number, not a text",
    ] {
        let position = shown
            .find(part)
            .unwrap_or_else(|| panic!("no {part:?} in:\n{shown}"));
        assert!(position > last, "{part:?} stands too early in:\n{shown}");
        last = position;
    }
    assert_eq!(shown.matches("error: ").count(), 7, "{shown}");
}

#[test]
fn errors_are_available_to_machines() {
    let place = Place::new();
    let errors = place.load(&plus(UPSTREAM, "hosst = \"a\"")).unwrap_err();
    let records = errors.records();
    let record = records.first().unwrap();
    assert_eq!(
        record.line,
        Some(line_of(&plus(UPSTREAM, "hosst = \"a\""), "hosst"))
    );
    assert_eq!(record.column, Some(1));
    assert_eq!(record.help.as_deref(), Some("did you mean `host`?"));
}

#[test]
fn the_file_is_looked_for_in_three_places() {
    let nothing = |_: &Path| false;
    let error = choose_path(None, nothing).unwrap_err().to_string();
    for part in [
        "$COUNTERSIGN_CONFIG",
        "./countersign.toml",
        "/etc/countersign/countersign.toml",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(choose_path(Some("a".into()), nothing), Ok("a".into()));
    assert_eq!(
        choose_path(Some("".into()), |_| true),
        Ok(DEFAULT_PATHS[0].into())
    );
    let second = |path: &Path| path.starts_with("/etc");
    assert_eq!(choose_path(None, second), Ok(DEFAULT_PATHS[1].into()));
    assert_eq!(path(Some(Path::new("b"))), Ok("b".into()));
}

proptest::proptest! {
    #[test]
    fn damaged_files_are_refused_or_read_and_never_do_harm(
        cut in 0_usize..900,
        length in 0_usize..40,
        noise in "[\\PC\n\"\\[\\]={}#.]{0,12}",
    ) {
        let mut text: Vec<char> = whole().chars().collect();
        let start = cut.min(text.len());
        let end = (start + length).min(text.len());
        text.splice(start..end, noise.chars());
        let text: String = text.into_iter().collect();
        let mut diagnostics = Diagnostics::default();
        let read = document::Document::read(&text, &mut diagnostics);
        let refused = diagnostics.has_errors();
        proptest::prop_assert!(read.is_some() || refused);
        let shown = diagnostics.into_errors(Path::new("a.toml"), &text).to_string();
        proptest::prop_assert!(!refused || shown.contains("a.toml:"), "{}", shown);
    }
}
