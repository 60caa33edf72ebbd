//! Rate limits of a route. A limit whose key is known before authentication is counted
//! before it, so that a flood costs no cryptography.

use std::net::IpAddr;
use std::pin::Pin;

use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};

use crate::authn::certificate::ConnectionProof;
use crate::identity::{CallerName, Method, Principal};
use crate::policy::throttle::{Counted, LimitDenial, Limiter, Per, RouteLimit};
use crate::proxy::wire::refusal::Refusal;
use crate::reason::{Category, ReasonCode};
use crate::route::Route;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The limits of a route, for one request.
pub(super) struct RouteLimits<'a> {
    pub(super) limiter: &'a Limiter,
    pub(super) route: &'a Route,
    pub(super) proof: Option<&'a ConnectionProof>,
    pub(super) address: IpAddr,
}

/// Whether the request is within its limits: known now, or after a shared store was asked.
pub(super) enum LimitCheck<'a> {
    Now(Result<(), Refusal>),
    Later(Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send + 'a>>),
}

impl<'a> RouteLimits<'a> {
    /// Counts the request for the limits whose key is known already.
    pub(super) fn before_authentication(&'a self) -> LimitCheck<'a> {
        if !self.route.authenticators.is_empty()
            && let Err(limited) = self.limiter.may_authenticate(self.attempts_key())
        {
            return LimitCheck::Now(Err(refusal(limited)));
        }
        self.count(move |limit| self.early_key(limit.per))
    }

    /// Counts the request for the limits that need the caller.
    pub(super) fn after_authentication(
        &'a self,
        principal: Option<&'a Principal>,
    ) -> LimitCheck<'a> {
        self.count(move |limit| match self.early_key(limit.per) {
            // Counted before authentication.
            Some(_) => None,
            // A limit for the whole route is counted here, so that callers who may not use
            // the route cannot use it up.
            None if limit.per == Per::Route => Some(Counted::Everybody),
            None => Counted::of(limit.per, principal?),
        })
    }

    /// Counts a refusal if it was for credentials that are not accepted, or for more of
    /// them at once than a caller may have checked.
    pub(super) fn record_failure(&self, refusal: &Refusal) {
        let reason = refusal.denial.reason;
        let is_refused = reason.category() == Category::Token
            && reason.status() == 401
            && reason != ReasonCode::TokenMissing;
        // An address may be that of many callers, whose good tokens together are too many.
        let is_callers_own = reason == ReasonCode::CallerLimit && self.proof.is_some();
        let failed = is_refused || is_callers_own;
        if failed && !self.route.authenticators.is_empty() {
            self.limiter.failed(self.attempts_key());
        }
    }

    /// The key of failed authentications: the caller if its certificate is proven, so that
    /// it does not lock out others at its address.
    fn attempts_key(&self) -> Counted<'a> {
        match self.proof {
            Some(proof) => Counted::Caller(proof.identity.caller()),
            None => Counted::address(self.address),
        }
    }

    /// The key of a limit if it is known for certain before authentication.
    fn early_key(&self, per: Per) -> Option<Counted<'a>> {
        match per {
            Per::Address => Some(Counted::address(self.address)),
            Per::Caller => self.certified_caller().map(Counted::Caller),
            Per::Route | Per::Subject | Per::ApiKey => None,
        }
    }

    /// The caller by its certificate, if the route authenticates by certificate.
    fn certified_caller(&self) -> Option<&'a CallerName> {
        let methods = self.route.rule.authentication.methods();
        let proof = self.proof.filter(|_| methods.contains(Method::Certificate));
        proof.map(|proof| proof.identity.caller())
    }

    fn count(
        &'a self,
        key: impl Fn(&RouteLimit) -> Option<Counted<'a>> + Send + 'a,
    ) -> LimitCheck<'a> {
        let counted = self
            .route
            .limits
            .iter()
            .filter_map(move |limit| Some((limit, key(limit)?)));
        if self.limiter.shared().is_some() && !self.route.limits.is_empty() {
            return LimitCheck::Later(Box::pin(async move {
                for (limit, key) in counted {
                    let taken = self.limiter.count_shared(limit, key).await;
                    taken.map_err(refusal)?;
                }
                Ok(())
            }));
        }
        for (limit, key) in counted {
            if let Err(limited) = self.limiter.count(limit, key) {
                return LimitCheck::Now(Err(refusal(limited)));
            }
        }
        LimitCheck::Now(Ok(()))
    }
}

/// 429 with the fields of draft-ietf-httpapi-ratelimit-headers.
fn refusal(limited: LimitDenial) -> Refusal {
    let mut refusal = Refusal::from(*limited.denial);
    if let Some((verdict, limit, policy)) = limited.verdict {
        let texts = [
            (RATE_LIMIT, verdict.field(policy)),
            (RATE_LIMIT_POLICY, limit.policy_field(policy)),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?)));
        let retry_after = HeaderValue::from(verdict.retry_after_seconds());
        refusal.fields = texts.chain([(RETRY_AFTER, retry_after)]).collect();
    }
    refusal
}
