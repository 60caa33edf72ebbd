//! Whole files through [`load`]: every error with its place and remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::assertion::{SigningAlgorithm, key_directory};
use crate::clock;
use crate::identity::TrustDomain;
use crate::pki::{CertificateProfile, IssueRequest, KeyProtection, Pki, SubjectNames};
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

fn whole() -> String {
    [LISTENER, TRUST, ASSERTION, PUBLIC, UPSTREAM, ROUTE].join("\n")
}

/// A directory with the files that the constants name.
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

    /// The one error names the line with `marker` and says all of `parts`.
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

/// The whole file with one text replaced.
#[track_caller]
fn with(from: &str, to: &str) -> String {
    let whole = whole();
    assert!(whole.contains(from), "{from}");
    whole.replacen(from, to, 1)
}

/// The whole file with more keys at the end of a section.
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
    let entry = snapshot.names.default_entry().unwrap();
    assert_eq!(entry.client_certificate(), ClientCertificate::Required);
    let settings = snapshot.signer.settings();
    assert_eq!(settings.header, "countersign-assertion");
    assert_eq!(settings.lifetime, Duration::from_secs(30));
    let bundle = snapshot.bundles.first().unwrap();
    assert_eq!(bundle.posture(), crate::trust::RevocationPosture::Hard);
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
    let text = r#"
[listener]
address = "127.0.0.1:8443"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
client_certificate = "optional"
trust_domains = ["example.org"]
[[server_name]]
names = ["gateway.example.org"]
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
client_certificate = "required"
trust_domains = ["example.org"]
[[trust_domain]]
name = "example.org"
roots = ["certs/trust.pem"]
intermediates = ["certs/intermediate.pem"]
crls = ["certs/crl/root.crl", "certs/crl/intermediate.crl"]
revocation = "soft"
revocation_depth = "leaf"
vouches_for = ["spiffe://example.org/**", "dns:*.example.org"]
identity_from = ["spiffe", "dns"]
[assertion]
issuer = "http://127.0.0.1:9080"
header = "X-Caller"
algorithm = "ES256"
lifetime = "5m"
keys = "certs/signing"
[public]
address = "127.0.0.1:9080"
tls = "off"
serve = ["keys", "metrics"]
[admin]
address = "[::1]:9901"
[[upstream]]
name = "orders"
endpoints = ["http://10.0.0.1:9001", "http://[::1]"]
allow_plaintext = true
host = "orders.internal:80"
connect_timeout = "250ms"
first_byte_timeout = "1h"
idle_timeout = "1m30s"
[[route]]
name = "orders"
hosts = ["orders.example.org"]
paths = ["/orders", "/orders/**"]
methods = ["GET"]
callers = ["*"]
except = ["spiffe://example.org/bad"]
authenticate = { all = ["certificate"] }
upstream = "orders"
audience = "orders"
binding = "caller"
[[route]]
name = "open"
paths = ["/open"]
authenticate = "none"
upstream = "orders"
[limits]
connections = 1000
handshake_timeout = "1s"
header_timeout = "2s"
body_timeout = "3s"
header_size = "8KiB"
body_size = "1MiB"
streams = 7
drain_timeout = "0s"
[runtime]
workers = 2
[audit]
file = "audit.jsonl"
"#;
    let loaded = place.good(text);
    assert_eq!(loaded.warnings, [""; 0]);
    for section in raw::SECTIONS {
        for (key, _) in section.keys {
            assert!(
                text.contains(&format!("\n{key} = ")),
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
    assert_eq!(limits.handshake_timeout, Duration::from_secs(1));
    assert_eq!(limits.header_timeout, Duration::from_secs(2));
    assert_eq!(limits.body_timeout, Duration::from_secs(3));
    assert_eq!(limits.drain_timeout, Duration::ZERO);
    assert_eq!(
        (limits.header_bytes, limits.body_bytes),
        (8192, Some(1 << 20))
    );
    let upstream = loaded.snapshot.upstreams.first().unwrap().config();
    let endpoints: Vec<_> = upstream
        .endpoints
        .iter()
        .map(|e| (&*e.host, e.port))
        .collect();
    assert_eq!(endpoints, [("10.0.0.1", 9001), ("::1", 80)]);
    assert_eq!(upstream.connect_timeout, Duration::from_millis(250));
    assert_eq!(upstream.host.as_deref(), Some("orders.internal:80"));
    let open = &loaded.snapshot.routes.routes()[1];
    assert_eq!(
        open.rule.authentication,
        crate::policy::rule::Authentication::None
    );
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
fn unknown_keys_and_sections_are_refused_with_a_suggestion() {
    let place = Place::new();
    for (section, line, help) in [
        (
            LISTENER,
            "client_certifcate = \"required\"",
            "did you mean `client_certificate`?",
        ),
        (TRUST, "vouches = []", "did you mean `vouches_for`?"),
        (
            UPSTREAM,
            "lifetime = \"1s\"",
            "`lifetime` is a key of [assertion]",
        ),
        (ROUTE, "colour = 1", "[[route]] knows: name, hosts"),
        (ROUTE, "token = { issuer = \"a\" }", "[[route]] knows: "),
        (LISTENER, "proxy_protocol = []", "[listener] knows: "),
    ] {
        let key = line.split(' ').next().unwrap();
        let text = plus(section, line);
        place.refuses(&text, line, &[&format!("unknown key `{key}`"), help]);
    }
    for (more, part) in [
        ("[[routes]]\nname = \"a\"\n", "did you mean [[route]]?"),
        (
            "[[token_issuer]]\nname = \"a\"\n",
            "the sections are [listener], ",
        ),
    ] {
        let text = format!("{}\n{more}", whole());
        place.refuses(&text, more.trim_end(), &["unknown section", part]);
    }
    let text = format!("workers = 2\n{}", whole());
    place.refuses(
        &text,
        "workers",
        &["outside any section", "belongs below [runtime]"],
    );
    let text = whole().replace("[[route]]", "[route]");
    place.refuses(&text, "[route]", &["written with two brackets"]);
    let text = whole().replace("[listener]", "[[listener]]");
    let shown = place.errors(&text);
    assert!(shown.contains("[listener] must stand once"), "{shown}");
}

#[test]
fn syntax_errors_are_shown_like_all_others() {
    let place = Place::new();
    for (line, part) in [
        ("host = unquoted", "syntax: "),
        ("host = \"a", "syntax: "),
        ("name = \"again\"", "duplicate key"),
        ("= 1", "syntax: "),
    ] {
        let text = plus(UPSTREAM, line);
        let shown = place.errors(&text);
        let place = format!("countersign.toml:{}:", line_of(&text, line));
        for part in [part, &place, "^", "help: "] {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    let errors = load(&place.path("nowhere.toml")).unwrap_err().to_string();
    assert!(
        errors.contains("cannot read") && errors.contains("nowhere.toml"),
        "{errors}"
    );
    assert!(errors.contains("countersign init"), "{errors}");
    place.write("binary.toml", [0xff, 0xfe]);
    let errors = load(&place.path("binary.toml")).unwrap_err().to_string();
    assert!(errors.contains("not UTF-8"), "{errors}");
}

#[test]
fn wrong_types_are_refused_where_they_stand() {
    let place = Place::new();
    for (section, line, parts) in [
        (
            LISTENER,
            "trust_domains = \"example.org\"",
            &["must be a list, not a text"][..],
        ),
        (
            LISTENER,
            "client_certificate = true",
            &["must be one of \"required\", \"optional\""],
        ),
        (
            LISTENER,
            "client_certificate = \"optionl\"",
            &["did you mean \"optional\"?"],
        ),
        (
            TRUST,
            "intermediates = [1]",
            &["must be a text in quotes, not a whole number"],
        ),
        (
            TRUST,
            "identity_from = [\"cn\"]",
            &["unknown word \"cn\"", "\"spiffe\", \"uri\""],
        ),
        (
            TRUST,
            "identity_from = [\"spiffe\", \"spiffe\"]",
            &["stands twice"],
        ),
        (
            TRUST,
            "revocation_depth = \"all\"",
            &["\"chain\", \"leaf\""],
        ),
        (
            ASSERTION,
            "lifetime = 30",
            &["must be a duration, not a whole number"],
        ),
        (
            ASSERTION,
            "lifetime = \"30\"",
            &["is not a duration", "\"30s\""],
        ),
        (ASSERTION, "lifetime = \"301s\"", &["between 1s and 5m"]),
        (ASSERTION, "lifetime = \"1500ms\"", &["whole seconds"]),
        (
            ASSERTION,
            "algorithm = \"RS256\"",
            &["expected one of \"ES256\", \"EdDSA\""],
        ),
        (
            ASSERTION,
            "header = \"a b\"",
            &["is not a header field name"],
        ),
        (
            ASSERTION,
            "header = \"Authorization\"",
            &["has another purpose"],
        ),
        (PUBLIC, "serve = []", &["this list is empty"]),
        (PUBLIC, "serve = [\"key\"]", &["did you mean \"keys\"?"]),
        (
            UPSTREAM,
            "connect_timeout = \"0s\"",
            &["between 1ms and 24h"],
        ),
        (
            UPSTREAM,
            "allow_plaintext = \"yes\"",
            &["must be true or false, not a text"],
        ),
        (
            UPSTREAM,
            "host = \"a/b\"",
            &["cannot stand in a Host field"],
        ),
        (UPSTREAM, "host = \"\"", &["this text is empty"]),
        (
            ROUTE,
            "methods = [\"get\"]",
            &["is not an HTTP method", "in capitals"],
        ),
        (ROUTE, "methods = []", &["this list is empty"]),
        (ROUTE, "hosts = [\"a*\"]", &["is not a host pattern"]),
        (ROUTE, "except = [\"alice\"]", &["does not say its type"]),
        (ROUTE, "authenticate = \"no\"", &["does not say how"]),
        (
            ROUTE,
            "authenticate = { all = [\"token\"] }",
            &["unknown word \"token\""],
        ),
        (
            ROUTE,
            "authenticate = { some = [\"certificate\"] }",
            &["does not say how"],
        ),
        (
            ROUTE,
            "authenticate = { all = [] }",
            &["this list is empty"],
        ),
        (ROUTE, "binding = \"none\"", &["\"request\", \"caller\""]),
    ] {
        place.refuses(&plus(section, line), line, parts);
    }
    for (section, parts) in [
        ("[limits]\nconnections = 0", &["out of range"][..]),
        ("[limits]\nstreams = -1", &["out of range"]),
        ("[limits]\nstreams = 1.5", &["not a decimal number"]),
        (
            "[limits]\nheader_size = \"1KiB\"",
            &["between 8KiB and 1MiB"],
        ),
        ("[limits]\nbody_size = \"0B\"", &["at least 1B"]),
        (
            "[limits]\nbody_size = \"1MB\"",
            &["is not a size", "\"32KiB\""],
        ),
        ("[runtime]\nworkers = 5000", &["more than 1024 workers"]),
        (
            "[admin]\naddress = \"localhost:1\"",
            &["is not an IP address with a port"],
        ),
        (
            "[admin]\naddress = \"0.0.0.0:9901\"",
            &["must be on loopback"],
        ),
    ] {
        let text = format!("{}\n{section}\n", whole());
        let shown = place.errors(&text);
        for part in parts.iter().chain(&["^"]) {
            assert!(shown.contains(part), "{part} {shown}");
        }
        assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
    }
}

#[test]
fn missing_keys_and_sections_are_named() {
    let place = Place::new();
    let shown = place.errors("");
    for title in [
        "[listener]",
        "[[trust_domain]]",
        "[assertion]",
        "[[upstream]]",
        "[[route]]",
    ] {
        assert!(
            shown.contains(&format!("there is no {title} section")),
            "{shown}"
        );
    }
    for (line, section, part) in [
        (
            "address = \"127.0.0.1:8443\"\n",
            "[listener]",
            "has no `address`",
        ),
        (
            "certificate = \"certs/issued/gateway.pem\"\n",
            "[listener]",
            "and no `certificate`",
        ),
        (
            "private_key = \"certs/issued/gateway.key\"\n",
            "[listener]",
            "and no `private_key`",
        ),
        (
            "name = \"example.org\"\n",
            "[[trust_domain]]",
            "has no `name`",
        ),
        (
            "roots = [\"certs/trust.pem\"]\n",
            "[[trust_domain]]",
            "has no `roots`",
        ),
        (
            "crls = [\"certs/crl/*.crl\"]\n",
            "[[trust_domain]]",
            "revocation = \"off\"",
        ),
        (
            "issuer = \"https://gateway.example.org:9080\"\n",
            "[assertion]",
            "has no `issuer`",
        ),
        ("keys = \"certs/signing\"\n", "[assertion]", "has no `keys`"),
        (
            "endpoints = [\"http://127.0.0.1:9001\"]\n",
            "[[upstream]]",
            "has no `endpoints`",
        ),
        ("paths = [\"/**\"]\n", "[[route]]", "has no `paths`"),
        (
            "callers = [\"spiffe://example.org/**\"]\n",
            "[[route]]",
            "callers = [\"*\"]",
        ),
        ("upstream = \"orders\"\n", "[[route]]", "has no `upstream`"),
        ("audience = \"orders\"\n", "[[route]]", "has no `audience`"),
    ] {
        place.refuses(&with(line, ""), section, &[part]);
    }
}

#[test]
fn certificates_and_keys_that_do_not_fit_are_refused() {
    let place = Place::new();
    let mut other = place.authority("other", "other.example");
    let names = SubjectNames::new().dns("other.example").unwrap();
    let request = IssueRequest::new("other".parse().unwrap(), names);
    other
        .issue(&request.profile(CertificateProfile::SERVER))
        .unwrap();
    place.write("empty", "");
    place.write("text", "hello\n");
    place.write("cut", &place.read("certs/issued/gateway.pem")[..300]);
    let certificate = "certificate = \"certs/issued/gateway.pem\"";
    let key = "private_key = \"certs/issued/gateway.key\"";
    for (from, to, part) in [
        (
            certificate,
            "certificate = \"nowhere.pem\"",
            "nowhere.pem: No such file",
        ),
        (certificate, "certificate = \"certs\"", "it is a directory"),
        (certificate, "certificate = \"empty\"", "is empty"),
        (
            certificate,
            "certificate = \"text\"",
            "is no certificate chain",
        ),
        (
            certificate,
            "certificate = \"cut\"",
            "is no certificate chain",
        ),
        (
            certificate,
            "certificate = \"certs/issued/gateway.key\"",
            "is no certificate chain",
        ),
        (
            key,
            "private_key = \"nowhere.key\"",
            "nowhere.key: No such file",
        ),
        (key, "private_key = \"text\"", "holds no usable private key"),
        (
            key,
            "private_key = \"certs/trust.pem\"",
            "holds a certificate and no usable",
        ),
        (
            key,
            "private_key = \"other/issued/other.key\"",
            "does not belong to",
        ),
    ] {
        let shown = place.errors(&with(from, to));
        let line = line_of(&whole(), from);
        for part in [part, &format!("countersign.toml:{line}:"), "^"] {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    let sealed = KeyProtection::passphrase("secret".to_owned().into()).unwrap();
    let domain = TrustDomain::parse("sealed.example").unwrap();
    Pki::create(&place.path("sealed"), &domain, &sealed).unwrap();
    let text = with(key, "private_key = \"sealed/root.key\"");
    place.refuses(
        &text,
        "private_key",
        &["protected by a passphrase", "openssl pkey"],
    );
}

#[test]
fn an_expired_server_certificate_is_refused() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    place.write(
        "certs/issued/gateway.pem",
        params.self_signed(&key).unwrap().pem(),
    );
    place.write("certs/issued/gateway.key", key.serialize_pem());
    place.refuses(
        &whole(),
        "certificate = ",
        &[
            "the certificate expired at 2021-01-01T00:00:00Z",
            "renew the certificate",
        ],
    );
    params.not_before = rcgen::date_time_ymd(2120, 1, 1);
    params.not_after = rcgen::date_time_ymd(2121, 1, 1);
    place.write(
        "certs/issued/gateway.pem",
        params.self_signed(&key).unwrap().pem(),
    );
    place.refuses(&whole(), "certificate = ", &["valid only from 2120"]);
}

#[test]
fn private_keys_that_others_can_read_are_warned_of() {
    let place = Place::new();
    let key = place.path("certs/issued/gateway.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    place.warns(
        &whole(),
        "private_key",
        &format!("chmod 600 {}", key.display()),
    );
}

#[test]
fn roots_are_taken_whole_or_not_at_all() {
    let place = Place::new();
    let trust = place.read("certs/trust.pem");
    let key = place.read("certs/root.key");
    let end = trust.find("-----END").unwrap();
    for (content, part) in [
        (String::new(), "is empty"),
        ("hello\n".to_owned(), "holds no PEM certificate"),
        (
            format!("{trust}{key}"),
            "a private key must not stand among trusted material",
        ),
        (place.read("certs/crl/root.crl"), "holds a X509 CRL block"),
        (trust[..end].to_owned(), "is damaged"),
        (format!("{trust}{}", &trust[..end]), "is damaged"),
        (trust.replace("MII", "!!!"), "is damaged"),
        (
            trust.replace(
                "-----BEGIN CERTIFICATE-----\n",
                "-----BEGIN CERTIFICATE-----\nAAAA",
            ),
            "a root certificate cannot be used",
        ),
        (
            place.read("certs/issued/gateway.pem"),
            "not a certificate authority",
        ),
    ] {
        place.write("roots.pem", content);
        let text = with("certs/trust.pem", "roots.pem");
        let shown = place.errors(&text);
        let line = line_of(&text, "roots = ");
        for part in [part, &format!("countersign.toml:{line}:"), "roots.pem"] {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    place.refuses(
        &with("certs/trust.pem", "nowhere.pem"),
        "roots = ",
        &["No such file"],
    );
}

#[test]
fn an_expired_root_alone_is_refused_and_beside_a_valid_one_left_out() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = params.self_signed(&key).unwrap().pem();
    place.write("old.pem", &expired);
    place.refuses(
        &with("certs/trust.pem", "old.pem"),
        "name = \"example.org\"",
        &["has no root certificate that is valid now"],
    );
    place.write("old.pem", expired + &place.read("certs/trust.pem"));
    place.warns(
        &with("certs/trust.pem", "old.pem"),
        "name = \"example.org\"",
        "was left out",
    );
}

#[test]
fn revocation_is_said_or_there_are_lists() {
    let place = Place::new();
    let crls = "crls = [\"certs/crl/*.crl\"]";
    for posture in ["hard", "soft"] {
        let text = with(crls, &format!("revocation = \"{posture}\""));
        place.refuses(&text, "revocation = ", &["no list to check", "\"off\""]);
    }
    place.good(&with(crls, "revocation = \"off\""));
    place.good(&with(crls, "crls = []\nrevocation = \"off\""));
    let text = plus(TRUST, "revocation = \"off\"");
    place.warns(&text, "revocation = \"off\"", "revoked callers are let in");
    for (written, parts) in [
        (
            "https://ca.example.org/a.crl",
            &["URLs are not supported yet"][..],
        ),
        ("certs/crl/*.pem", &["no file matches"]),
        ("certs/*/root.crl", &["'*' may stand in the file name only"]),
        ("nowhere/*.crl", &["cannot list"]),
        (
            "certs/trust.pem",
            &["holds a CERTIFICATE block; only X509 CRL blocks belong here"],
        ),
        ("countersign.toml", &["holds no revocation list"]),
    ] {
        let text = with(crls, &format!("crls = [\"{written}\"]"));
        place.refuses(&text, "crls = ", parts);
    }
    place.write("bad.crl", [0x30, 0x03, 1, 2, 3]);
    let text = with(crls, "crls = [\"bad.crl\"]");
    place.refuses(&text, "crls = ", &["bad.crl", "cannot be used"]);
}

#[test]
fn revocation_lists_may_be_der_or_several_in_one_file() {
    use rustls_pki_types::pem::PemObject as _;
    let place = Place::new();
    let both = place.read("certs/crl/root.crl") + &place.read("certs/crl/intermediate.crl");
    let lists: Vec<_> =
        rustls_pki_types::CertificateRevocationListDer::pem_slice_iter(both.as_bytes())
            .map(Result::unwrap)
            .collect();
    place.write("both.crl", &both);
    place.write("one.der", lists[0].as_ref());
    let text = with("certs/crl/*.crl", "both.crl\", \"one.der");
    place.write("countersign.toml", &text);
    let (_, inventory) = inspect(&place.path("countersign.toml")).unwrap();
    let found = &inventory.trust_domains[0].revocation_lists;
    assert_eq!(found.len(), 3);
    assert!(
        found
            .iter()
            .all(|list| list.next_update.is_some() && list.revoked == 0)
    );
}

#[test]
fn trust_domains_stand_apart() {
    let place = Place::new();
    place.authority("other", "other.example");
    let second = |name: &str, roots: &str, more: &str| {
        format!(
            "{}\n[[trust_domain]]\nname = \"{name}\"\nroots = [\"{roots}\"]\nrevocation = \"off\"\n{more}\n",
            whole()
        )
    };
    place.good(&second("other.example", "other/trust.pem", ""));
    let text = second("other.example", "certs/trust.pem", "");
    place.refuses(
        &text,
        "name = \"other.example\"",
        &["share a root", "and this one"],
    );
    let first = "vouches_for = [\"spiffe://example.org/**\", \"dns:*.example.org\"]";
    let text = second(
        "other.example",
        "other/trust.pem",
        "vouches_for = [\"dns:a.example.org\"]",
    )
    .replace(TRUST, &format!("{TRUST}{first}\n"));
    place.refuses(
        &text,
        "name = \"other.example\"",
        &["may both vouch for", "narrower"],
    );
    let text = second("example.org", "other/trust.pem", "");
    let shown = place.errors(&text);
    assert!(
        shown.contains("two trust domains are named \"example.org\""),
        "{shown}"
    );
    for (line, part) in [
        ("vouches_for = [\"*\"]", "not for everything"),
        (
            "vouches_for = [\"spiffe://a.example/**\"]",
            "only trust domain a.example can vouch",
        ),
        ("vouches_for = []", "this list is empty"),
    ] {
        place.refuses(&plus(TRUST, line), line, &[part]);
    }
    let line = "identity_from = [\"spiffe\", \"dns\"]";
    place.warns(&plus(TRUST, line), line, "callers named by dns are refused");
}

#[test]
fn names_and_references_are_checked() {
    let place = Place::new();
    for (from, to, marker, parts) in [
        (
            "upstream = \"orders\"",
            "upstream = \"order\"",
            "upstream = \"order\"",
            &["did you mean \"orders\"?"][..],
        ),
        (
            LISTENER,
            &format!("{LISTENER}trust_domains = [\"exmaple.org\"]\n"),
            "trust_domains",
            &["no trust domain named", "did you mean \"example.org\"?"],
        ),
    ] {
        let text = with(from, to);
        let shown = place.errors(&text);
        let line = line_of(&text, marker);
        for part in parts
            .iter()
            .copied()
            .chain([&*format!("countersign.toml:{line}:")])
        {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    let text = format!("{}\n{UPSTREAM}", whole());
    assert!(
        place
            .errors(&text)
            .contains("two upstreams are named \"orders\"")
    );
    let again = ROUTE.replace("/**", "/a");
    let text = format!("{}\n{again}", whole());
    assert!(
        place
            .errors(&text)
            .contains("two routes are named \"orders\"")
    );
    let unused = UPSTREAM.replace("\"orders\"", "\"spare\"");
    let text = format!("{}\n{unused}", whole());
    place.warns(
        &text,
        "name = \"spare\"",
        "no route leads to upstream \"spare\"",
    );
}

#[test]
fn server_names_are_distinct_names_with_their_certificates() {
    let place = Place::new();
    let entry = |names: &str, more: &str| {
        format!(
            "\n[[server_name]]\nnames = [{names}]\ncertificate = \"certs/issued/gateway.pem\"\nprivate_key = \"certs/issued/gateway.key\"\n{more}\n"
        )
    };
    let text = whole() + &entry("\"gateway.example.org\", \"Gateway.example.org.\"", "");
    place.refuses(
        &text,
        "\"gateway.example.org\", ",
        &["stands twice", "the first"],
    );
    let text = whole() + &entry("\"10.0.0.1\"", "");
    place.refuses(
        &text,
        "\"10.0.0.1\"",
        &["a server name is not an IP address"],
    );
    let text = whole() + &entry("\"other.example.org\"", "");
    place.warns(
        &text,
        "\"other.example.org\"",
        "the certificate is not for other.example.org",
    );
    let text = whole()
        + &entry(
            "\"gateway.example.org\"",
            "client_certificate = \"optional\"",
        );
    let loaded = place.good(&text);
    let named = loaded
        .snapshot
        .names
        .select(Some("gateway.example.org"))
        .unwrap();
    assert_eq!(named.client_certificate(), ClientCertificate::Optional);
    let default = loaded.snapshot.names.default_entry().unwrap();
    assert_eq!(default.client_certificate(), ClientCertificate::Required);
    let nameless = text
        .replacen("certificate = \"certs/issued/gateway.pem\"\n", "", 1)
        .replacen("private_key = \"certs/issued/gateway.key\"\n", "", 1);
    place.refuses(
        &nameless,
        "[public]",
        &["uses the certificate of [listener], which has none"],
    );
    let nameless = nameless.replace(
        PUBLIC,
        "[public]\naddress = \"0.0.0.0:9080\"\ntls = \"off\"\n",
    );
    let loaded = place.good(&nameless);
    assert!(loaded.snapshot.names.default_entry().is_none());
    let hosts = nameless.replace("paths =", "hosts = [\"a.example.org\"]\npaths =");
    place.warns(
        &hosts,
        "hosts = ",
        "no [[server_name]] serves a.example.org",
    );
}

#[test]
fn issuers_are_urls_that_lead_to_the_keys() {
    let place = Place::new();
    let issuer = "https://gateway.example.org:9080";
    for (bad, part) in [
        ("gateway", "it must begin with https://"),
        (
            "http://gateway.example.org",
            "http is for this machine alone",
        ),
        (
            "https://gateway.example.org/",
            "it must not end with a slash",
        ),
        ("https://gateway.example.org?a", "no query"),
        ("https://gateway.example.org#a", "no fragment"),
        ("https://me@gateway.example.org", "it must not name a user"),
    ] {
        place.refuses(&with(issuer, bad), "issuer = ", &[part]);
    }
    for (from, to, part) in [
        (issuer, "https://gateway.example.org", "it says port 443"),
        (
            issuer,
            "https://gateway.example.org:9080/a",
            "serves them at its root",
        ),
        (
            issuer,
            "http://127.0.0.1:9080",
            "it says http and [public] speaks https",
        ),
        (
            issuer,
            "https://other.example.org:9080",
            "is not for other.example.org",
        ),
        (PUBLIC, "", "there is no [public] listener"),
        (
            "0.0.0.0:9080\"",
            "0.0.0.0:9080\"\nserve = [\"health\"]",
            "does not serve keys",
        ),
        (
            "0.0.0.0:9080",
            "127.0.0.1:9080",
            "does not lead to 127.0.0.1",
        ),
    ] {
        place.warns(&with(from, to), "issuer = ", part);
    }
    let text = with(issuer, "http://127.0.0.1:9080")
        .replace("0.0.0.0:9080\"", "127.0.0.1:9080\"\ntls = \"off\"");
    assert_eq!(place.good(&text).warnings, [""; 0]);
    let text = with("certs/signing", "nowhere");
    let shown = place.errors(&text);
    assert!(
        shown.contains("nowhere") && shown.contains("countersign keys generate"),
        "{shown}"
    );
}

#[test]
fn listeners_do_not_share_an_address() {
    let place = Place::new();
    let text = format!(
        "{}\n[admin]\naddress = \"127.0.0.1:8443\" # admin\n",
        whole()
    );
    place.refuses(
        &text,
        "# admin",
        &["[listener] and [admin] cannot share an address"],
    );
    let text = with("0.0.0.0:9080", "0.0.0.0:8443");
    let shown = place.errors(&text);
    assert!(
        shown.contains("[listener] and [public] cannot share an address"),
        "{shown}"
    );
    let text = with("0.0.0.0:9080", "0.0.0.0:0").replace("127.0.0.1:8443", "127.0.0.1:0");
    place.good(&text);
}

#[test]
fn endpoints_are_plain_http_on_this_machine_unless_allowed() {
    let place = Place::new();
    let endpoint = "http://127.0.0.1:9001";
    for (bad, parts) in [
        (
            "https://127.0.0.1:9001",
            &["TLS to upstreams is not supported yet"][..],
        ),
        (
            "http://10.0.0.1:9001",
            &["allow_plaintext = true", "in the clear"],
        ),
        ("http://orders.internal", &["allow_plaintext = true"]),
        ("http://127.0.0.1:9001/a", &["an endpoint has no path"]),
        ("127.0.0.1:9001", &["must begin with"]),
        ("http://127.0.0.1:x", &["no valid host name or port"]),
    ] {
        place.refuses(&with(endpoint, bad), "endpoints = ", parts);
    }
    place.good(&with(endpoint, "http://localhost:9001"));
    let text = with(endpoint, "http://orders.internal:9001");
    place.good(&text.replace("endpoints =", "allow_plaintext = true\nendpoints ="));
}

#[test]
fn routes_say_who_may_use_them() {
    let place = Place::new();
    for line in ["callers = []", "callers = [\"sa/checkout\"]"] {
        let text = with("callers = [\"spiffe://example.org/**\"]", line);
        place.refuses(&text, line, &[]);
    }
    let text = plus(ROUTE, "authenticate = \"none\"");
    place.refuses(
        &text,
        "callers = ",
        &["no meaning where nobody is authenticated"],
    );
    let text = text.replace("callers = [\"spiffe://example.org/**\"]\n", "");
    place.warns(&text, "audience = ", "never used");
    place.refuses(
        &format!("{text}binding = \"caller\"\n"),
        "binding = ",
        &["`binding` has no meaning"],
    );
    for (pattern, part) in [
        (
            "spiffe://other.example/**",
            "add a [[trust_domain]] named \"other.example\"",
        ),
        ("dns:a.example.org", "extend vouches_for and identity_from"),
    ] {
        let text = with(
            "\"spiffe://example.org/**\"",
            &format!("\"*\", \"{pattern}\""),
        );
        place.warns(&text, "callers = ", part);
    }
    for means in ["{ all = [\"certificate\"] }", "{ any = [\"certificate\"] }"] {
        place.good(&plus(ROUTE, &format!("authenticate = {means}")));
    }
}

#[test]
fn routes_that_tie_and_audiences_with_two_bindings_are_refused() {
    let place = Place::new();
    let second = ROUTE.replace("name = \"orders\"", "name = \"again\"");
    let text = format!("{}\n{second}", whole());
    place.refuses(
        &text,
        "name = \"again\"",
        &[
            "match any host, /** equally well",
            "ties with this one",
            "more specific",
        ],
    );
    let second = second.replace("/**", "/a") + "binding = \"caller\"\n";
    let text = format!("{}\n{second}", whole());
    place.refuses(
        &text,
        "binding = ",
        &["has two bindings", "the earlier route"],
    );
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

/// Sections, keys and whether they are required, out of the document's tables.
fn documented() -> Vec<(String, Vec<(String, bool)>)> {
    let text = include_str!("../../docs/configuration.md");
    let mut sections: Vec<(String, Vec<(String, bool)>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line
            .strip_prefix("## `")
            .and_then(|rest| rest.strip_suffix('`'))
        {
            sections.push((title.to_owned(), Vec::new()));
        } else if let Some(rest) = line.strip_prefix("| `")
            && let (Some((key, cells)), Some((_, keys))) =
                (rest.split_once('`'), sections.last_mut())
        {
            let default = cells.split('|').nth(1).unwrap().trim();
            keys.push((key.to_owned(), default == "required"));
        }
    }
    sections
}

#[test]
fn the_document_and_the_known_keys_agree() {
    let known: Vec<(String, Vec<(String, bool)>)> = raw::SECTIONS
        .iter()
        .map(|section| {
            let keys = section.keys.iter();
            let keys = keys.map(|(key, need)| ((*key).to_owned(), *need == raw::Need::Required));
            (section.title.to_owned(), keys.collect())
        })
        .collect();
    assert_eq!(documented(), known);
}

#[test]
fn documented_limits_are_the_defaults() {
    let place = Place::new();
    let text = include_str!("../../docs/configuration.md");
    let (_, section) = text.split_once("## `[limits]`").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut limits = String::from("[limits]\n");
    for line in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let key = line.split('`').next().unwrap();
        let default = line.split('|').nth(1).unwrap().trim().trim_matches('`');
        if default != "no bound" {
            limits.push_str(&format!("{key} = {default}\n"));
        }
    }
    assert_eq!(limits.lines().count(), 8, "{limits}");
    let said = place
        .good(&format!("{}\n{limits}", whole()))
        .snapshot
        .limits;
    assert_eq!(format!("{said:?}"), format!("{:?}", Limits::default()));
}

#[test]
fn the_documented_examples_load_together() {
    let text = include_str!("../../docs/configuration.md");
    let mut whole = String::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```toml" => inside = true,
            "```" => inside = false,
            _ if inside => whole.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    let place = Place::new();
    let mut pki = Pki::open(&place.path("certs")).unwrap();
    let names = SubjectNames::new().dns("orders.example.org").unwrap();
    let request = IssueRequest::new("orders".parse().unwrap(), names);
    pki.issue(&request.profile(CertificateProfile::SERVER))
        .unwrap();
    assert_eq!(place.good(&whole).warnings, [""; 0]);
}
