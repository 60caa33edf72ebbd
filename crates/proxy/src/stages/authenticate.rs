//! Authentication: finds the principal that a request's certificate and credentials prove.

use http::header::WWW_AUTHENTICATE;

use super::target::Target;
use crate::authn::certificate::CertificateAuthenticator;
use crate::authn::{
    AuthnDenial, ConnectionProof, Credentials, Outcome, Presented, RequestAddresses, Resource,
};
use crate::clock;
use crate::identity::{Method, Principal};
use crate::policy::{self, Authentication, Denial, Permit};
use crate::reason::ReasonCode;
use crate::route::Route;
use crate::trust::DenyList;
use crate::wire::refusal::Refusal;

/// The parts of a request that can authenticate its caller.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The identity that the caller proved in the TLS handshake.
    pub proof: Option<&'a ConnectionProof>,
    /// The tokens and API keys in the request's header.
    pub presented: &'a Presented,
    /// Where the request comes from.
    pub addresses: RequestAddresses,
    /// The checked target of the request.
    pub target: &'a Target,
    /// The deny list. It is checked for the names that a token or API key proves. The names in a
    /// certificate were checked when the certificate was verified.
    pub deny_list: Option<&'a DenyList>,
}

/// Authenticates by the certificate alone, on routes without authenticators. Returns `None` if the
/// route requires no authentication, or if the connection has no certificate.
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

/// Returns a denial if the route authenticates callers by certificate and does not allow the caller
/// that the certificate names. No token or API key of the caller can change this denial.
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

/// Authenticates with the route's authenticators. If an authenticator asks a token issuer about a
/// token, waits for the issuer's response.
pub(super) async fn by_credentials(
    evidence: &Evidence<'_>,
    route: &Route,
) -> Result<Principal, Refusal> {
    let credentials = Credentials {
        proof: evidence.proof,
        presented: evidence.presented,
        query: evidence.target.path_and_query.query(),
        addresses: evidence.addresses,
        now: clock::unix_now(),
    };
    route
        .authenticators
        .authenticate(&credentials)
        .await
        .map_err(|denied| with_challenges(denied, &evidence.target.resource(), route))
}

/// Makes the refusal for missing or rejected credentials. The `WWW-Authenticate` challenges tell
/// the caller which credentials the route requires.
fn with_challenges(denied: AuthnDenial, resource: &Resource<'_>, route: &Route) -> Refusal {
    let challenges = route.authenticators.challenges(&denied, resource);
    let mut refusal = Refusal::from(denied.denial);
    refusal.fields = challenges
        .into_iter()
        .map(|challenge| (WWW_AUTHENTICATE, challenge))
        .collect();
    refusal
}

/// Adds `WWW-Authenticate` challenges to the refusal if the caller's credential expired after the
/// request was permitted.
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
