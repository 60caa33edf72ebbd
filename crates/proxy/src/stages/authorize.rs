//! Authorization: decides whether a caller may use a route, and whether the route's rate limits
//! allow the request now.

use super::RequestContext;
use super::authenticate::{self, Evidence};
use super::rate_limit::RouteLimits;
use super::target::Target;
use crate::authn::Presented;
use crate::now_or_later::NowOrLater;
use crate::policy::{self, Permit};
use crate::route::Route;
use crate::telemetry::record::AuditRecord;
use crate::wire::refusal::Refusal;

/// A decision about a request. It is `Later` only if the route has authenticators. On other routes
/// no future for the decision is allocated.
pub type Decision<'a> = NowOrLater<'a, Result<Permit, Refusal>>;

/// Authenticates the caller, and decides by the route's rule whether the caller may use the route.
pub fn decide<'a>(evidence: &'a Evidence<'a>, route: &'a Route) -> Decision<'a> {
    if !route.authenticators.is_empty() {
        // If the route does not allow the caller that the certificate names, no token can change
        // this denial. The token is therefore not checked, and the token issuer gets no request.
        if let Some(denial) = authenticate::not_allowed_by_certificate(evidence.proof, route) {
            return Decision::Now(Err(denial.into()));
        }
        return Decision::Later(Box::pin(async move {
            let principal = authenticate::by_credentials(evidence, route).await?;
            policy::check_denied(evidence.deny_list, &principal)?;
            Ok(policy::decide(&route.rule, Some(principal))?)
        }));
    }
    let principal = authenticate::by_certificate(evidence.proof, route);
    Decision::Now(principal.and_then(|principal| Ok(policy::decide(&route.rule, principal)?)))
}

/// Decides about a request and applies the route's rate limits. Each limit is applied as early as
/// possible, so that a request above the limit costs little.
pub(crate) async fn authorize(
    context: RequestContext<'_>,
    target: &Target,
    presented: &Presented,
    route: &Route,
    record: &mut AuditRecord,
) -> Result<Permit, Refusal> {
    let addresses = context.connection.addresses();
    let limits = RouteLimits {
        limiter: &context.snapshot.limiter,
        route,
        proof: context.proof,
        address: context.connection.facts().peer.ip(),
    };
    match limits.before_authentication() {
        NowOrLater::Now(outcome) => outcome?,
        NowOrLater::Later(outcome) => outcome.await?,
    }
    let evidence = Evidence {
        proof: context.proof,
        presented,
        addresses,
        target,
        deny_list: context.snapshot.deny_list.as_deref(),
    };
    let decided = match decide(&evidence, route) {
        Decision::Now(decided) => decided,
        Decision::Later(deciding) => deciding.await,
    };
    let permit = decided.inspect_err(|refusal| limits.record_failure(refusal))?;
    match limits.after_authentication(permit.principal()) {
        NowOrLater::Now(outcome) => outcome?,
        NowOrLater::Later(outcome) => outcome.await?,
    }
    if let Some(principal) = permit
        .principal()
        .filter(|_| !route.authenticators.is_empty())
    {
        record.credentials(principal);
    }
    Ok(permit)
}
