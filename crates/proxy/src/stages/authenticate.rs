//! Authentication: the principal that a request's certificate and credentials prove.

use std::net::IpAddr;

use http::header::WWW_AUTHENTICATE;

use super::target::Target;
use crate::authn::certificate::CertificateAuthenticator;
use crate::authn::{AuthnDenial, ConnectionProof, Credentials, Outcome, Presented, Resource};
use crate::clock;
use crate::identity::{Method, Principal};
use crate::policy::{self, Authentication, Denial, Permit};
use crate::reason::ReasonCode;
use crate::route::Route;
use crate::wire::refusal::Refusal;

/// The parts of a request that can authenticate its caller.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The identity that the connection proved.
    pub proof: Option<&'a ConnectionProof>,
    /// The credentials in the request's header.
    pub presented: &'a Presented,
    /// The caller's address.
    pub address: IpAddr,
    /// What the request asks for.
    pub target: &'a Target,
}

/// Authenticates for a route that requires only a certificate, or nothing.
pub(super) fn by_certificate(
    proof: Option<&ConnectionProof>,
    route: &Route,
) -> Result<Option<Principal>, Refusal> {
    match route.rule.authentication {
        Authentication::None => Ok(None),
        Authentication::Certificate | Authentication::All(_) | Authentication::Any(_) => {
            match CertificateAuthenticator::judge(proof) {
                Outcome::Authenticated(principal) => Ok(Some(principal)),
                Outcome::NotApplicable => Ok(None),
                Outcome::Denied(denial) => Err(denial.into()),
            }
        }
    }
}

/// Returns the denial if the certificate names the caller of the route, and this caller is
/// not allowed, whatever other credentials it has.
pub(super) fn not_allowed_by_certificate(
    proof: Option<&ConnectionProof>,
    route: &Route,
) -> Option<Denial> {
    let methods = route.rule.authentication.methods();
    match CertificateAuthenticator::judge(proof) {
        Outcome::Authenticated(principal)
            if methods.contains(Method::Certificate) && !route.rule.allows(principal.caller()) =>
        {
            Some(policy::not_allowed(principal.caller()))
        }
        _ => None,
    }
}

/// Authenticates with the route's authenticators, which may have to ask a token issuer.
pub(super) async fn by_credentials(
    evidence: &Evidence<'_>,
    route: &Route,
) -> Result<Principal, Refusal> {
    let credentials = Credentials {
        proof: evidence.proof,
        presented: evidence.presented,
        query: evidence.target.path_and_query.query(),
        address: evidence.address,
        now: clock::unix_now(),
    };
    route
        .authenticators
        .authenticate(&credentials)
        .await
        .map_err(|denied| with_challenges(denied, &evidence.target.resource(), route))
}

/// Makes the refusal for credentials that are missing or not accepted. Its challenges tell
/// the caller which credentials are needed.
fn with_challenges(denied: AuthnDenial, resource: &Resource<'_>, route: &Route) -> Refusal {
    let challenges = route.authenticators.challenges(&denied, resource);
    let mut refusal = Refusal::from(denied.denial);
    refusal.fields = challenges
        .into_iter()
        .map(|challenge| (WWW_AUTHENTICATE, challenge))
        .collect();
    refusal
}

/// Adds challenges to a refusal of a permitted request if its credential has expired while
/// the request was in progress.
pub fn with_reauth_challenge(
    refusal: Refusal,
    permit: &Permit,
    resource: &Resource<'_>,
    route: &Route,
) -> Refusal {
    if refusal.denial.reason != ReasonCode::TokenExpired || !refusal.fields.is_empty() {
        return refusal;
    }
    let token = permit.principal().and_then(Principal::token);
    let by = match token {
        Some(_) => Method::Token,
        None => Method::ApiKey,
    };
    let denied = AuthnDenial {
        by: Some(by),
        denial: refusal.denial,
    };
    with_challenges(denied, resource, route)
}
