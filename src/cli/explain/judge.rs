//! The gateway's stages, run on a question instead of a connection.
//!
//! The order is that of `proxy::connection` and `proxy::handler`; every verdict
//! comes from the functions they call. Nothing is decided here.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use countersign_verify::claims::MAX_ASSERTION_BYTES;
use countersign_verify::jose::CompactJws;
use http::{Method, Uri};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::assertion::signer::RequestBinding;
use crate::authn::Presented;
use crate::authn::certificate::ConnectionProof;
use crate::cli::chain;
use crate::cli::words::moment;
use crate::clock;
use crate::config::Inventory;
use crate::crypto;
use crate::identity::text::{hex, printable};
use crate::identity::{LeafFacts, PeerIdentity};
use crate::policy::{Authentication, Permit};
use crate::proxy::decide::{self, Decision, Refusal, Target};
use crate::reason::{ReasonCode, TlsAlert};
use crate::route::{Binding, Route, WHOAMI_PATH};
use crate::snapshot::Snapshot;
use crate::tls::{ClientCertificate, ServerEntry};

/// What is asked about.
pub(super) struct Question<'a> {
    pub(super) chain: &'a [CertificateDer<'static>],
    /// With scheme and authority.
    pub(super) url: Option<&'a Uri>,
    pub(super) method: &'a Method,
    /// `Authorization`, where there is a token.
    pub(super) presented: &'a Presented,
    /// The URL says no more than the server name.
    pub(super) handshake_only: bool,
}

/// One step's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It passes.
    Ok,
    /// It is shown; nothing depends on it.
    Note,
    /// It refuses the caller.
    Refused,
}

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Refused => "REFUSED",
        }
    }
}

/// One step of the way.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    #[serde(rename = "step")]
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) more: Vec<String>,
    /// The same for machines.
    #[serde(skip_serializing_if = "Value::is_null")]
    facts: Value,
}

/// What the caller gets.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub(super) enum Answer {
    /// The handshake succeeds, and nothing else was asked.
    Connected,
    /// The service's answer.
    Forwarded { upstream: String },
    /// An answer of the gateway itself.
    Here { status: u16 },
    /// A refusal: an alert in the handshake, or a status.
    Refused {
        status: Option<u16>,
        alert: Option<Alert>,
        reason: &'static str,
        detail: String,
        hint: &'static str,
        mender: &'static str,
    },
}

impl Answer {
    pub(super) const fn is_allowed(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    fn in_handshake(reason: ReasonCode, detail: &str, alert: Option<TlsAlert>) -> Self {
        Self::refused(reason, detail, None, alert)
    }

    fn refused(
        reason: ReasonCode,
        detail: &str,
        status: Option<u16>,
        alert: Option<TlsAlert>,
    ) -> Self {
        Self::Refused {
            status,
            alert: alert.map(|alert| Alert {
                number: alert.number(),
                name: alert.name(),
            }),
            reason: reason.as_str(),
            detail: printable(detail),
            hint: reason.hint(),
            mender: reason.mender().as_str(),
        }
    }
}

/// A TLS alert.
#[derive(Debug, Serialize)]
pub(super) struct Alert {
    pub(super) number: u8,
    pub(super) name: &'static str,
}

/// All steps up to the first refusal, and what comes of it.
#[derive(Debug)]
pub(super) struct Explanation {
    pub(super) steps: Vec<Step>,
    pub(super) claims: Option<Map<String, Value>>,
    pub(super) answer: Answer,
}

/// The way through the stages.
struct Way<'a> {
    snapshot: &'a Snapshot,
    inventory: &'a Inventory,
    steps: Vec<Step>,
    claims: Option<Map<String, Value>>,
    /// Fetches keys where a token needs them.
    runtime: Option<&'a tokio::runtime::Runtime>,
}

/// The caller's address is not among what is asked about.
const UNKNOWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Explains what the gateway does with a question.
pub(super) fn explain(
    snapshot: &Snapshot,
    inventory: &Inventory,
    question: &Question<'_>,
) -> Explanation {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let mut way = Way {
        snapshot,
        inventory,
        steps: Vec::new(),
        claims: None,
        runtime: runtime.as_ref().ok(),
    };
    let answer = match way.shake_hands(question) {
        Err(answer) => answer,
        Ok((proof, server_name)) => match question.url.filter(|_| !question.handshake_only) {
            None => Answer::Connected,
            Some(url) => way
                .request(question, url, &proof, server_name.as_deref())
                .unwrap_or_else(|refusal| {
                    let status = refusal.status().as_u16();
                    let denial = &refusal.denial;
                    Answer::refused(denial.reason, &denial.detail, Some(status), None)
                }),
        },
    };
    Explanation {
        steps: way.steps,
        claims: way.claims,
        answer,
    }
}

/// The TLS server name that clients send for a URL; none for an address.
fn server_name(url: &Uri) -> Option<String> {
    let host = url.host()?.trim_end_matches('.');
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>()
        .is_err()
        .then(|| host.to_ascii_lowercase())
}

impl Way<'_> {
    fn step(&mut self, name: &'static str, verdict: Verdict, detail: String, facts: Value) {
        self.steps.push(Step {
            name,
            verdict,
            detail,
            more: Vec::new(),
            facts,
        });
    }

    fn more(&mut self, lines: impl IntoIterator<Item = String>) {
        if let Some(step) = self.steps.last_mut() {
            step.more.extend(lines);
        }
    }

    /// Notes a refusal on its way out.
    fn refuse(&mut self, name: &'static str, refusal: Refusal) -> Refusal {
        let denial = &refusal.denial;
        let detail = printable(&denial.detail);
        let facts = json!({ "reason": denial.reason });
        self.step(name, Verdict::Refused, detail, facts);
        refusal
    }

    fn shake_hands(
        &mut self,
        question: &Question<'_>,
    ) -> Result<(ConnectionProof, Option<String>), Answer> {
        let name = question.url.and_then(server_name);
        let snapshot = self.snapshot;
        let Some(entry) = snapshot.names.select(name.as_deref()) else {
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

    /// Subject and file of the root at the end of the path.
    fn root_of(&self, identity: &PeerIdentity) -> Option<(String, String)> {
        let domain = identity.trust_domain().as_str();
        let domains = self.inventory.trust_domains.iter();
        let roots = domains
            .filter(|said| said.name == domain)
            .flat_map(|said| &said.roots);
        for root in roots {
            let Ok(found) = chain::certificates(Path::new(&root.file)) else {
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

    /// Adds the revocation lists to the last step.
    fn lists<'b>(&mut self, bundles: impl Iterator<Item = &'b crate::trust::TrustBundle>) {
        let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        let mut lines = Vec::new();
        for bundle in bundles {
            for list in bundle.freshness(now) {
                lines.push(format!(
                    "list {} of {}: {} revoked, next due {}{}",
                    list.number,
                    printable(&list.issuer),
                    list.entries,
                    moment(list.next_update),
                    list.alarm().map(|_| ", look after it").unwrap_or_default(),
                ));
            }
        }
        self.more(lines);
    }

    fn request(
        &mut self,
        question: &Question<'_>,
        url: &Uri,
        proof: &ConnectionProof,
        server_name: Option<&str>,
    ) -> Result<Answer, Refusal> {
        let method = question.method;
        let snapshot = self.snapshot;
        let authority = url.authority().map_or("", |a| a.as_str()).to_owned();
        let target = decide::target(authority, url.path_and_query())
            .and_then(|target| {
                decide::check_host(&snapshot.names, server_name, &target.host).map(|()| target)
            })
            .map_err(|refusal| self.refuse("target", refusal))?;
        self.step(
            "target",
            Verdict::Ok,
            format!("{method} {} {}", target.host, printable(&target.decoded)),
            json!({ "host": target.host, "path": target.decoded }),
        );
        if target.decoded == WHOAMI_PATH {
            return self.whoami(method);
        }
        let route = decide::select(&snapshot.routes, method, &target)
            .map_err(|refusal| self.refuse("route", refusal))?;
        self.route(route);
        let asking = decide::Asking {
            proof: Some(proof),
            presented: question.presented,
            address: UNKNOWN,
            target: &target,
        };
        let permit = match decide::authorize(&asking, route) {
            Decision::Now(decided) => decided,
            Decision::Later(deciding) => match self.runtime {
                Some(runtime) => runtime.block_on(deciding),
                None => Err(Refusal::new(
                    ReasonCode::Overloaded,
                    "the system refuses what it takes to judge a token",
                )),
            },
        };
        let permit = permit.map_err(|refusal| self.refuse("rule", refusal))?;
        self.rule(route, &permit);
        self.assertion(method, route, &target, &permit)
            .map_err(|refusal| self.refuse("assertion", refusal))?;
        Ok(Answer::Forwarded {
            upstream: route.upstream.name().to_owned(),
        })
    }

    fn whoami(&mut self, method: &Method) -> Result<Answer, Refusal> {
        if *method != Method::GET && *method != Method::HEAD {
            let refusal = Refusal::new(
                ReasonCode::MethodNotAllowed,
                format!("{method} is not allowed here"),
            );
            return Err(self.refuse("route", refusal));
        }
        self.step(
            "route",
            Verdict::Ok,
            "the gateway itself answers this path".to_owned(),
            json!({ "route": "whoami" }),
        );
        Ok(Answer::Here { status: 200 })
    }

    fn route(&mut self, route: &Route) {
        self.step(
            "route",
            Verdict::Ok,
            format!("{:?}, to {}", route.name, route.upstream.name()),
            json!({ "route": route.name, "upstream": route.upstream.name() }),
        );
        let joined = |items: Vec<String>| items.join(" ");
        let paths = route.paths.iter().map(ToString::to_string).collect();
        let callers: Vec<String> = route.rule.callers.iter().map(ToString::to_string).collect();
        let except: Vec<String> = route.rule.except.iter().map(ToString::to_string).collect();
        let mut lines = vec![format!("paths {}", joined(paths))];
        if let Some(rewrite) = &route.rewrite {
            lines.push(format!("before it is forwarded, {rewrite}"));
        }
        if route.rule.authentication != Authentication::None {
            lines.push(format!("callers {}", joined(callers)));
        }
        if !route.authenticators.is_empty() {
            lines.push(format!("authenticate {}", route.rule.authentication));
        }
        if !except.is_empty() {
            lines.push(format!("except {}", joined(except)));
        }
        self.more(lines);
    }

    fn rule(&mut self, route: &Route, permit: &Permit) {
        let Some(principal) = permit.principal() else {
            let detail = "anybody may use this route; no assertion is sent".to_owned();
            return self.step("rule", Verdict::Ok, detail, Value::Null);
        };
        let mut patterns = route.rule.callers.iter();
        let pattern = patterns.find(|pattern| pattern.matches(principal.caller()));
        let pattern = pattern.map(ToString::to_string).unwrap_or_default();
        self.step(
            "rule",
            Verdict::Ok,
            format!("{pattern} in callers matches"),
            json!({ "callers": pattern, "methods": principal.methods().to_string() }),
        );
        if let Some(token) = principal.token() {
            let bound = if token.bound { "bound" } else { "not bound" };
            self.more([format!(
                "token of {} for {}, {bound} to the certificate, until {}",
                printable(&token.issuer),
                printable(token.client_id.as_deref().unwrap_or("no client")),
                moment(i64::try_from(token.expires).unwrap_or(i64::MAX)),
            )]);
        }
    }

    /// Signs what the gateway would sign and keeps the claims; the signature is
    /// thrown away, so that nothing printed here can be used.
    fn assertion(
        &mut self,
        method: &Method,
        route: &Route,
        target: &Target,
        permit: &Permit,
    ) -> Result<(), Refusal> {
        let (authority, _) = decide::forwarded_authority(route, &target.authority)?;
        let forwarded = decide::forwarded_path(route, &target.path_and_query)?;
        if permit.principal().is_none() {
            return Ok(());
        }
        let signer = &self.snapshot.signer;
        let now = clock::unix_now();
        let signed = match route.binding {
            Binding::Request => signer.sign_request(
                permit,
                &route.audience,
                &RequestBinding {
                    method: method.as_str(),
                    authority,
                    path: forwarded.path(),
                    query: forwarded.query(),
                    body_hash: None,
                    transaction: "the-request-id",
                },
                now,
            ),
            Binding::Caller => signer.sign_caller(permit, &route.audience, now),
        }
        .map_err(decide::unsigned)?;
        self.claims = signed
            .header_value()
            .to_str()
            .ok()
            .and_then(|wire| CompactJws::parse(wire, MAX_ASSERTION_BYTES).ok())
            .and_then(|jws| serde_json::from_slice(jws.unverified_payload()).ok());
        let binding = match route.binding {
            Binding::Request => "this very request",
            Binding::Caller => "the caller",
        };
        self.step(
            "assertion",
            Verdict::Ok,
            format!(
                "in {}, for {:?}, about {binding}",
                signer.settings().header,
                route.audience
            ),
            json!({ "header": signer.settings().header.as_str(), "audience": route.audience }),
        );
        Ok(())
    }
}
