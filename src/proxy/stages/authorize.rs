//! The stages that decide about a request: target, host, route, caller.
//!
//! `handler` runs them for live requests, `countersign explain` for imagined
//! ones, so that both decide alike. Nothing here needs a connection, and nothing
//! here may look at one.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};

use crate::assertion::signer::SignError;
use crate::authn::certificate::{CertificateAuthenticator, ConnectionProof};
use crate::authn::{Credentials, Outcome, Presented, Rejection, Resource};
use crate::clock;
use crate::policy::{self, Authentication, Denial, Permit};
pub(crate) use crate::proxy::wire::refusal::Refusal;
use crate::proxy::wire::target;
use crate::reason::ReasonCode;
use crate::route::{Route, RouteTable, Selected};
use crate::tls::ServerNames;

/// What a request asks for, checked.
pub(crate) struct Target {
    /// The authority as the caller wrote it.
    pub(crate) authority: String,
    /// Its host, normalized.
    pub(crate) host: String,
    /// Path and query, octet by octet.
    pub(crate) path_and_query: PathAndQuery,
    /// The path, decoded, for matching only.
    pub(crate) decoded: String,
}

/// Checks what a request asks for.
pub(crate) fn target(
    authority: String,
    path_and_query: Option<&PathAndQuery>,
) -> Result<Target, Refusal> {
    let host = target::normalized_host(&authority)?.into_owned();
    let path_and_query = path_and_query
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    if path_and_query.as_str() == "*" {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "OPTIONS * is not about any route",
        ));
    }
    // HTTP/1.1 checks this on the raw bytes; h2 has no such place.
    if !path_and_query
        .as_str()
        .bytes()
        .all(|b| (0x21..=0x7e).contains(&b) && b != b'#')
    {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the request target has characters that must be percent-encoded",
        ));
    }
    let decoded = target::checked_path(path_and_query.path())?.into_owned();
    Ok(Target {
        authority,
        host,
        path_and_query,
        decoded,
    })
}

/// The host must select the entry that the connection was opened for.
pub(crate) fn check_host(
    names: &ServerNames,
    opened_for: Option<&str>,
    host: &str,
) -> Result<(), Refusal> {
    match (names.select(opened_for), names.select_host(host)) {
        (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ok(()),
        _ => Err(Refusal::new(
            ReasonCode::HostMismatch,
            match opened_for {
                Some(name) => format!("this connection was opened for {name}, not for {host}"),
                None => format!("this connection was opened without a server name, not for {host}"),
            },
        )),
    }
}

/// The route of a request.
pub(crate) fn select<'r>(
    routes: &'r RouteTable,
    method: &Method,
    target: &Target,
) -> Result<&'r Arc<Route>, Refusal> {
    let find = |path: &str| routes.select(&target.host, path, method);
    let selected = find(&target.decoded);
    if let Some(bare) = target::without_parameters(&target.decoded) {
        // The service may or may not cut path parameters off; both readings must
        // lead to the same route.
        let same = match (&selected, &find(&bare)) {
            (Selected::Route(a), Selected::Route(b)) => Arc::ptr_eq(a, b),
            (Selected::Nothing, Selected::Nothing) => true,
            _ => false,
        };
        if !same {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the path's parameters after ';' make it ambiguous which route it means",
            ));
        }
    }
    match selected {
        Selected::Route(route) => Ok(route),
        Selected::Nothing => Err(Refusal::new(
            ReasonCode::NoRoute,
            format!(
                "no route matches {} {}",
                target.host,
                target.path_and_query.path()
            ),
        )),
        Selected::MethodNotAllowed(allow) => Err(Refusal {
            // Without methods to offer it is one that nobody here knows.
            status: allow.is_empty().then_some(StatusCode::NOT_IMPLEMENTED),
            allow,
            ..Refusal::new(
                ReasonCode::MethodNotAllowed,
                format!("{method} is not allowed here"),
            )
        }),
    }
}

/// Everything about a request that decides whether its caller may use a route.
pub(crate) struct Evidence<'a> {
    /// What its connection proved.
    pub(crate) proof: Option<&'a ConnectionProof>,
    /// The credentials it brought along.
    pub(crate) presented: &'a Presented,
    /// Where it comes from.
    pub(crate) address: IpAddr,
    /// What it is about.
    pub(crate) target: &'a Target,
}

/// A decision, or one that somebody has to be asked for.
pub(crate) enum Decision<'a> {
    Now(Result<Permit, Refusal>),
    /// Boxed: the many requests without it need no room for it.
    Later(Pin<Box<dyn Future<Output = Result<Permit, Refusal>> + Send + 'a>>),
}

/// Whether the caller may use the route.
pub(crate) fn authorize<'a>(asking: &'a Evidence<'a>, route: &'a Route) -> Decision<'a> {
    if !route.authenticators.is_empty() {
        return Decision::Later(Box::pin(authorize_by_credentials(asking, route)));
    }
    Decision::Now(authorize_by_certificate(asking.proof, route))
}

/// For routes that ask for a certificate alone, or for nothing.
fn authorize_by_certificate(
    proof: Option<&ConnectionProof>,
    route: &Route,
) -> Result<Permit, Refusal> {
    let principal = match route.rule.authentication {
        Authentication::None => None,
        Authentication::Certificate | Authentication::All(_) | Authentication::Any(_) => {
            match CertificateAuthenticator::judge(proof) {
                Outcome::Authenticated(principal) => Some(principal),
                Outcome::NotApplicable => None,
                Outcome::Rejected(denial) => return Err(denial.into()),
            }
        }
    };
    Ok(policy::decide(&route.rule, principal)?)
}

async fn authorize_by_credentials(asking: &Evidence<'_>, route: &Route) -> Result<Permit, Refusal> {
    let credentials = Credentials {
        proof: asking.proof,
        presented: asking.presented,
        query: asking.target.path_and_query.query(),
        address: asking.address,
        now: clock::unix_now(),
    };
    let principal = route
        .authenticators
        .authenticate(&credentials)
        .await
        .map_err(|rejection| {
            let target = asking.target;
            let asked = (&*target.authority, target.path_and_query.path());
            challenged(rejection, asked, route)
        })?;
    Ok(policy::decide(&route.rule, Some(principal))?)
}

/// The refusal for credentials that are missing, not good, or good no longer, with
/// what the caller should do about it. `authority` and `path` are those asked for.
pub(crate) fn challenged(
    rejection: Rejection,
    (authority, path): (&str, &str),
    route: &Route,
) -> Refusal {
    let resource = Resource { authority, path };
    let challenges = route.authenticators.challenges(&rejection, &resource);
    let mut refusal = Refusal::from(rejection.denial);
    refusal.fields = challenges
        .into_iter()
        .map(|challenge| (WWW_AUTHENTICATE, challenge))
        .collect();
    refusal
}

/// The Host that the service sees, and that assertions name. `asked_for` is the
/// caller's.
pub(crate) fn forwarded_authority<'a>(
    route: &'a Route,
    asked_for: &'a str,
) -> Result<(&'a str, HeaderValue), Refusal> {
    let authority = match &route.upstream.config().host {
        Some(host) => host,
        None => asked_for,
    };
    let value = HeaderValue::from_str(authority)
        .map_err(|_| Refusal::new(ReasonCode::MalformedRequest, "the host is malformed"))?;
    Ok((authority, value))
}

/// Path and query that the service sees, and that assertions name. `asked_for` is
/// what policy has decided about.
pub(crate) fn forwarded_path(
    route: &Route,
    asked_for: &PathAndQuery,
) -> Result<PathAndQuery, Refusal> {
    match &route.rewrite {
        None => Ok(asked_for.clone()),
        Some(rewrite) => rewrite.apply(asked_for).ok_or_else(|| {
            Refusal::new(ReasonCode::MalformedRequest, "the path cannot be rewritten")
        }),
    }
}

/// What a caller is told whose assertion could not be signed.
pub(crate) fn unsigned(error: SignError) -> Refusal {
    match error {
        SignError::Expired => Refusal::from(Denial::new(
            ReasonCode::CertificateExpired,
            "the certificate path has expired",
        )),
        SignError::CredentialExpired => Refusal::from(Denial::new(
            ReasonCode::TokenExpired,
            "the token or API key has expired",
        )),
        SignError::TooLong => Refusal::new(
            ReasonCode::TooLarge,
            "the URL or the certificate's names are too long for an assertion",
        ),
        SignError::Nobody | SignError::NoKey | SignError::Failed => {
            tracing::error!(%error, "no assertion was signed");
            Refusal::new(ReasonCode::Overloaded, "no assertion can be signed")
        }
    }
}
