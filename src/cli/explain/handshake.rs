//! Explains the steps of a TLS connection: server name, chain, path, revocation, identity.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};

use super::answer::{Answer, Question, Verdict};
use super::judge::Way;
use crate::authn::ConnectionProof;
use crate::cli::common::certificate_files;
use crate::cli::common::format::moment;
use crate::clock;
use crate::crypto;
use crate::identity::text::{hex, printable};
use crate::identity::{LeafFacts, PeerIdentity};
use crate::reason::{ReasonCode, TlsAlert};
use crate::tls::{ClientCertificate, ServerEntry};

/// Returns the TLS server name that clients send for a URL. Returns `None` if the host is an IP
/// address.
fn server_name(url: &Uri) -> Option<String> {
    let host = url.host()?.trim_end_matches('.');
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>()
        .is_err()
        .then(|| host.to_ascii_lowercase())
}

impl Way<'_> {
    pub(super) fn shake_hands(
        &mut self,
        question: &Question<'_>,
    ) -> Result<(ConnectionProof, Option<String>), Answer> {
        let name = question.url.and_then(server_name);
        let snapshot = self.snapshot;
        let Some(entry) = snapshot.server_names.select(name.as_deref()) else {
            let detail = match &name {
                Some(name) => format!("no [[server_name]] entry answers for {name}"),
                None => "there is no default entry; give --url with a host name".to_owned(),
            };
            self.step("server name", Verdict::Refused, detail.clone(), Value::Null);
            return Err(Answer::in_handshake(
                ReasonCode::HostMismatch,
                &detail,
                None,
            ));
        };
        self.entry(entry, name.as_deref());
        self.chain(question.chain);
        let now = UnixTime::since_unix_epoch(clock::since_epoch());
        let verified = question
            .chain
            .split_first()
            .map(|(leaf, intermediates)| entry.trust().verify(leaf, intermediates, now));
        match verified {
            Some(Ok(identity)) => {
                self.identity(&identity);
                let proof = ConnectionProof {
                    identity,
                    proven_at: clock::unix_now(),
                    resumed: false,
                };
                Ok((proof, name))
            }
            Some(Err(refusal)) => {
                let facts = json!({ "reason": refusal.reason });
                let recorded = refusal.recorded();
                let detail = printable(&recorded);
                self.step("path", Verdict::Refused, detail, facts);
                self.lists(entry.trust().bundles().iter().map(|bundle| &**bundle));
                let alert = refusal
                    .reason
                    .alert()
                    .unwrap_or(TlsAlert::CertificateUnknown);
                Err(Answer::in_handshake(refusal.reason, &recorded, Some(alert)))
            }
            None => Err(Answer::in_handshake(
                ReasonCode::NoCertificate,
                "there is no certificate",
                ReasonCode::NoCertificate.alert(),
            )),
        }
    }

    fn entry(&mut self, entry: &ServerEntry, name: Option<&str>) {
        let said = self.inventory.server_names.get(entry.index());
        let names = match said {
            Some(said) if !said.names.is_empty() => {
                format!("[[server_name]] {}", said.names.join(", "))
            }
            _ => "the default entry of [listener]".to_owned(),
        };
        let requirement = match entry.client_certificate() {
            ClientCertificate::Required => "required",
            ClientCertificate::Optional => "optional",
        };
        let domains: Vec<String> = entry
            .trust()
            .bundles()
            .iter()
            .map(|bundle| bundle.name().to_string())
            .collect();
        let asked = name.map_or_else(|| "no server name".to_owned(), printable);
        self.step(
            "server name",
            Verdict::Ok,
            format!("{asked} selects {names}"),
            json!({
                "server_name": name,
                "entry": said.map(|said| &said.names),
                "client_certificate": requirement,
                "trust_domains": domains,
            }),
        );
        self.more([format!(
            "client certificate {requirement}, from {}",
            domains.join(", ")
        )]);
    }

    fn chain(&mut self, chain: &[CertificateDer<'_>]) {
        let mut lines = Vec::new();
        let mut facts = Vec::new();
        for (position, der) in chain.iter().enumerate() {
            let number = position + 1;
            match LeafFacts::read(der) {
                Ok(read) => {
                    lines.push(format!(
                        "{number}. {} [{}], serial {}, until {}",
                        printable(&read.subject),
                        read.sans.summary(),
                        read.serial_hex(),
                        moment(read.not_after),
                    ));
                    lines.push(format!("   issued by {}", printable(&read.issuer)));
                    facts.push(json!({
                        "subject": printable(&read.subject),
                        "issuer": printable(&read.issuer),
                        "names": read.sans.summary(),
                        "serial": read.serial_hex(),
                        "not_before": clock::rfc3339(read.not_before),
                        "not_after": clock::rfc3339(read.not_after),
                        "sha256": hex(&read.thumbprint),
                    }));
                }
                Err(error) => {
                    lines.push(format!("{number}. cannot be read: {error}"));
                    facts.push(json!({ "unreadable": error.to_string() }));
                }
            }
        }
        let count = match chain.len() {
            1 => "1 certificate is presented".to_owned(),
            count => format!("{count} certificates are presented"),
        };
        self.step("chain", Verdict::Note, count, Value::Array(facts));
        self.more(lines);
    }

    fn identity(&mut self, identity: &PeerIdentity) {
        let anchor = hex(identity.anchor());
        let root = self.root_of(identity);
        let subject = root.as_ref().map_or("a root", |(subject, _)| subject);
        self.step(
            "path",
            Verdict::Ok,
            format!(
                "leads to {subject} and holds until {}",
                moment(identity.path_not_after())
            ),
            json!({
                "anchor_sha256": anchor,
                "anchor": root.as_ref().map(|(subject, _)| subject),
                "file": root.as_ref().map(|(_, file)| file),
                "not_after": clock::rfc3339(identity.path_not_after()),
            }),
        );
        let file = root.map_or_else(String::new, |(_, file)| format!(" in {file}"));
        self.more([format!("root with SHA-256 {anchor}{file}")]);
        let snapshot = self.snapshot;
        let mine =
            |bundle: &&Arc<crate::trust::TrustBundle>| bundle.name() == identity.trust_domain();
        let bundle = snapshot.bundles.iter().find(mine);
        self.step(
            "revocation",
            Verdict::Ok,
            match identity.crl_this_update() {
                Some(update) => format!(
                    "{}, by lists no older than {}",
                    identity.revocation().as_str(),
                    moment(update)
                ),
                None => identity.revocation().as_str().to_owned(),
            },
            json!({
                "revocation": identity.revocation().as_str(),
                "crl_this_update": identity.crl_this_update().map(clock::rfc3339),
            }),
        );
        self.lists(bundle.into_iter().map(|bundle| &**bundle));
        self.step(
            "identity",
            Verdict::Ok,
            format!(
                "{} of trust domain {}",
                printable(&identity.caller().to_string()),
                identity.trust_domain()
            ),
            json!({
                "caller": identity.caller().to_string(),
                "trust_domain": identity.trust_domain().to_string(),
            }),
        );
    }

    /// Returns the subject of the root certificate of the verified path, and the file that contains
    /// this root certificate.
    fn root_of(&self, identity: &PeerIdentity) -> Option<(String, String)> {
        let domain = identity.trust_domain().as_str();
        let domains = self.inventory.trust_domains.iter();
        let roots = domains
            .filter(|said| said.name == domain)
            .flat_map(|said| &said.roots);
        for root in roots {
            let Ok(found) = certificate_files::certificates(Path::new(&root.file)) else {
                continue;
            };
            let Some(der) = found
                .iter()
                .find(|der| crypto::sha256(der) == *identity.anchor())
            else {
                continue;
            };
            let subject = LeafFacts::read(der).map(|facts| printable(&facts.subject));
            return Some((subject.unwrap_or_default(), root.file.clone()));
        }
        None
    }

    /// Adds a line for each CRL of `bundles` to the last step.
    fn lists<'b>(&mut self, bundles: impl Iterator<Item = &'b crate::trust::TrustBundle>) {
        let now = clock::certificate_now();
        let mut lines = Vec::new();
        for bundle in bundles {
            for list in bundle.freshness(now) {
                lines.push(format!(
                    "list {} of {}: {} revoked, next due {}{}",
                    list.number.as_deref().unwrap_or("without number"),
                    printable(&list.issuer),
                    list.entries,
                    moment(list.next_update),
                    list.alarm().map(|_| ", look after it").unwrap_or_default(),
                ));
            }
        }
        self.more(lines);
    }
}
