//! Runs the stages of the gateway on an operator's question about a caller and a request, without a
//! connection.
//!
//! The order is the same as in `proxy::handshake` and `proxy::handler`, and every verdict comes
//! from the same functions. This module decides nothing itself.

use std::net::{IpAddr, Ipv4Addr};

use countersign_verify::claims::MAX_ASSERTION_BYTES;
use countersign_verify::jose::CompactJws;
use http::{Method, Uri};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Explanation, Question, Step, Verdict};
use crate::assertion::signer::RequestBinding;
use crate::authn::{ConnectionProof, RequestAddresses};
use crate::cli::common::format::moment;
use crate::clock;
use crate::config::Inventory;
use crate::identity::text::printable;
use crate::policy::{Authentication, Permit};
use crate::proxy::stages::authenticate::Evidence;
use crate::proxy::stages::authorize::{self, Decision};
use crate::proxy::stages::route;
use crate::proxy::stages::target::{self, Target};
use crate::proxy::wire::refusal::Refusal;
use crate::reason::ReasonCode;
use crate::route::{Binding, Route, WHOAMI_PATH};
use crate::snapshot::Snapshot;

/// The state of an explanation while it goes through the stages.
pub(super) struct Way<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) inventory: &'a Inventory,
    steps: Vec<Step>,
    claims: Option<Map<String, Value>>,
    /// The runtime on which keys are fetched, if a token needs them.
    runtime: Option<&'a tokio::runtime::Runtime>,
}

/// Used instead of the identifier of the transaction, which the gateway chooses. It has the same
/// length, so that the assertion has the same size.
const ANY_TRANSACTION: &str = "chosen-for-the-request";

/// Used instead of the request's addresses, which the question does not contain.
const UNKNOWN: RequestAddresses = RequestAddresses {
    caller: Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    connection: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
};

/// Explains what the gateway would do with the caller and request of a question.
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

impl Way<'_> {
    pub(super) fn step(
        &mut self,
        name: &'static str,
        verdict: Verdict,
        detail: String,
        facts: Value,
    ) {
        self.steps.push(Step {
            name,
            verdict,
            detail,
            more: Vec::new(),
            facts,
        });
    }

    pub(super) fn more(&mut self, lines: impl IntoIterator<Item = String>) {
        if let Some(step) = self.steps.last_mut() {
            step.more.extend(lines);
        }
    }

    /// Adds a step that reports a refusal. Returns the refusal unchanged.
    fn refuse(&mut self, name: &'static str, refusal: Refusal) -> Refusal {
        let denial = &refusal.denial;
        let detail = printable(&denial.detail);
        let facts = json!({ "reason": denial.reason });
        self.step(name, Verdict::Refused, detail, facts);
        refusal
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
        let target = Target::check(authority, url.path_and_query())
            .and_then(|target| {
                target::check_host(&snapshot.server_names, server_name, &target.host)
                    .map(|()| target)
            })
            .map_err(|refusal| self.refuse("target", refusal))?;
        self.step(
            "target",
            Verdict::Ok,
            format!(
                "{method} {} {}",
                target.host,
                printable(&target.decoded_path)
            ),
            json!({ "host": target.host, "path": target.decoded_path }),
        );
        if target.decoded_path == WHOAMI_PATH {
            return self.whoami(method);
        }
        let route = route::select(&snapshot.routes, method, &target)
            .map_err(|refusal| self.refuse("route", refusal))?;
        self.route(route);
        let asking = Evidence {
            proof: Some(proof),
            presented: question.presented,
            addresses: UNKNOWN,
            target: &target,
            deny_list: snapshot.deny_list.as_deref(),
        };
        let permit = match authorize::decide(&asking, route) {
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
        if !route.path_encoding.is_strict() {
            lines.push(format!("path_encoding {}", route.path_encoding));
        }
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

    /// Signs the assertion that the gateway would sign, and keeps its claims. The signature is
    /// dropped, so that the output cannot be used as an assertion.
    fn assertion(
        &mut self,
        method: &Method,
        route: &Route,
        target: &Target,
        permit: &Permit,
    ) -> Result<(), Refusal> {
        let (authority, _) = route::forwarded_authority(route, &target.authority)?;
        let forwarded = route::forwarded_path(route, &target.path_and_query)?;
        if permit.principal().is_none() {
            return Ok(());
        }
        let signer = &self.snapshot.signer;
        let now = clock::unix_now();
        let signed = match route.binding {
            Binding::Request => signer.sign_request(
                permit,
                route.recipient(),
                &RequestBinding {
                    method: method.as_str(),
                    authority,
                    path: forwarded.path(),
                    query: forwarded.query(),
                    body_hash: route.bind_body.map(|_| &[0; 32]),
                    transaction: ANY_TRANSACTION,
                },
                now,
            ),
            Binding::Caller => signer.sign_caller(permit, route.recipient(), now),
        }
        .map_err(Refusal::not_signed)?;
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
