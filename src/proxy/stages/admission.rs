//! What a request has to pass before anything of it is sent on: its connection, its
//! host and length, its credentials, and the places it needs.

use http::{HeaderValue, StatusCode, header, request};

use super::authorize::{self, Target};
use super::rate_limit::{self, RouteLimits};
use crate::authn::certificate::ConnectionProof;
use crate::authn::{Field, Presented, Rejection};
use crate::identity::{self, Principal};
use crate::policy::Permit;
use crate::proxy::connection::Connection;
use crate::proxy::wire::head::{FramingError, content_length};
use crate::proxy::wire::refusal::Refusal;
use crate::reason::ReasonCode;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;
use crate::upstream::Upstream;
use crate::upstream::gate::Pass;

/// Whether a connection may have a request served now. Its identity is the newest
/// afterwards.
pub(crate) fn begin(
    connection: &Connection,
    snapshot: &Snapshot,
    error: Option<FramingError>,
) -> Result<(), Refusal> {
    match (error, connection.cut_reason()) {
        // The identity no longer holds, although the connection still lasts a moment.
        (_, Some(denial)) => Err(denial.clone().into()),
        (Some(error), None) => Err(framing_refusal(error)),
        (None, None) if connection.is_stopping() => Err(Refusal::new(
            ReasonCode::ShuttingDown,
            "the gateway takes no more requests; repeat it on a new connection",
        )),
        (None, None) => Ok(connection.ensure_verified(snapshot)?),
    }
}

fn framing_refusal(error: FramingError) -> Refusal {
    let mut refusal = Refusal::new(error.reason, error.detail);
    if error.reason == ReasonCode::TooLarge {
        refusal.status = Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    refusal
}

/// The authority the caller asked for: the target's where it has one (h2,
/// absolute form), else the Host field.
pub(crate) fn authority(parts: &request::Parts) -> Result<String, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the request has more than one Host field",
        ));
    }
    let host = match host.map(HeaderValue::to_str) {
        None => None,
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the Host field is not a host",
            ));
        }
    };
    match (parts.uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "Host and request target name different hosts",
            ))
        }
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) => Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the request names no host",
        )),
    }
}

/// Whether the caller may use the route, and now; passes its token on where that is
/// wanted.
pub(crate) async fn authenticate(
    (connection, proof): (&Connection, Option<&ConnectionProof>),
    snapshot: &Snapshot,
    (presented, target): (&Presented, &Target),
    route: &Route,
    parts: &mut request::Parts,
    record: &mut AuditRecord,
) -> Result<Permit, Refusal> {
    let address = connection.facts().peer.ip();
    let throttle = RouteLimits {
        limiter: &snapshot.limiter,
        route,
        proof,
        address,
    };
    match throttle.before() {
        rate_limit::Step::Now(outcome) => outcome?,
        rate_limit::Step::Later(outcome) => outcome.await?,
    }
    let asking = authorize::Evidence {
        proof,
        presented,
        address,
        target,
    };
    let decided = match authorize::authorize(&asking, route) {
        authorize::Decision::Now(decided) => decided,
        authorize::Decision::Later(deciding) => deciding.await,
    };
    let permit = decided.inspect_err(|refusal| throttle.refused(refusal))?;
    match throttle.after(permit.principal()) {
        rate_limit::Step::Now(outcome) => outcome?,
        rate_limit::Step::Later(outcome) => outcome.await?,
    }
    if let Some(principal) = permit
        .principal()
        .filter(|_| !route.authenticators.is_empty())
    {
        record.credentials(principal);
        if let (true, Some(_), Field::One(token)) = (
            route.forward_token,
            principal.token(),
            &presented.authorization,
        ) {
            parts.headers.insert(header::AUTHORIZATION, token.clone());
        }
    }
    Ok(permit)
}

/// The declared length of the body, within bounds. Services get it in the one spelling
/// that none of them can misread: some take leading zeros for octal.
pub(crate) fn check_length(
    snapshot: &Snapshot,
    parts: &mut request::Parts,
) -> Result<Option<u64>, Refusal> {
    let Some(value) = parts.headers.get_mut(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = content_length(value.as_bytes()).ok_or_else(|| {
        Refusal::new(
            ReasonCode::MalformedRequest,
            "Content-Length is not a plain number",
        )
    })?;
    if value.len() > 1 && value.as_bytes().starts_with(b"0") {
        *value = length.into();
    }
    match snapshot.limits.body_bytes {
        Some(most) if length > most => Err(Refusal::new(
            ReasonCode::TooLarge,
            format!("the body has {length} bytes, at most {most} are accepted"),
        )),
        _ => Ok(Some(length)),
    }
}

/// A place among the requests of an upstream.
pub(crate) fn admit(upstream: &Upstream) -> Result<Pass, Refusal> {
    upstream.admit().ok_or_else(|| {
        Refusal::new(
            ReasonCode::Overloaded,
            format!("{} has too many requests in progress", upstream.name()),
        )
    })
}

/// A refusal after the caller was permitted: where its credential has ended
/// meanwhile, with how to come by another one.
pub(crate) fn bring_another(
    refusal: Refusal,
    permit: &Permit,
    asked: (&str, &str),
    route: &Route,
) -> Refusal {
    if refusal.denial.reason != ReasonCode::TokenExpired || !refusal.fields.is_empty() {
        return refusal;
    }
    let token = permit.principal().and_then(Principal::token);
    let by = match token {
        Some(_) => identity::Method::Token,
        None => identity::Method::ApiKey,
    };
    let rejection = Rejection {
        by: Some(by),
        denial: refusal.denial,
    };
    authorize::challenged(rejection, asked, route)
}
