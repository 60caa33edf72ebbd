//! Rate limits on the way of a request: what can be counted before anything is
//! authenticated is counted before, so that a flood costs no cryptography.

use std::net::IpAddr;
use std::pin::Pin;

use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};

use crate::authn::certificate::ConnectionProof;
use crate::identity::{CallerName, Method, Principal};
use crate::policy::throttle::{Counted, Exceeded, Limiter, Per, RouteLimit};
use crate::proxy::wire::refusal::Refusal;
use crate::reason::{Category, ReasonCode};
use crate::route::Route;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A request on its way to a route.
pub(super) struct RouteLimits<'a> {
    pub(super) limiter: &'a Limiter,
    pub(super) route: &'a Route,
    pub(super) proof: Option<&'a ConnectionProof>,
    pub(super) address: IpAddr,
}

/// Whether it may go on, now or once a store has been asked.
pub(super) enum Step<'a> {
    Now(Result<(), Refusal>),
    Later(Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send + 'a>>),
}

impl<'a> RouteLimits<'a> {
    /// Before credentials are looked at.
    pub(super) fn before(&'a self) -> Step<'a> {
        if !self.route.authenticators.is_empty()
            && let Err(exceeded) = self.limiter.may_authenticate(self.tries())
        {
            return Step::Now(Err(refusal(exceeded)));
        }
        self.count(move |limit| self.known(limit.per))
    }

    /// Once the caller is known.
    pub(super) fn after(&'a self, principal: Option<&'a Principal>) -> Step<'a> {
        self.count(move |limit| match self.known(limit.per) {
            // It was counted before.
            Some(_) => None,
            // Only those who may use the route use up what there is for all.
            None if limit.per == Per::Route => Some(Counted::Everybody),
            None => Counted::of(limit.per, principal?),
        })
    }

    /// Takes note of a refusal: of credentials that are not good.
    pub(super) fn refused(&self, refusal: &Refusal) {
        let reason = refusal.denial.reason;
        let failed = reason.category() == Category::Token
            && reason.status() == 401
            && reason != ReasonCode::TokenMissing;
        if failed && !self.route.authenticators.is_empty() {
            self.limiter.failed(self.tries());
        }
    }

    /// Whom failed authentications are counted to: whoever has proven a certificate
    /// answers for itself, not for all who share its address.
    fn tries(&self) -> Counted<'a> {
        match self.proof {
            Some(proof) => Counted::Caller(proof.identity.caller()),
            None => Counted::address(self.address),
        }
    }

    /// Whom a request is counted to before it is authenticated, where that is known
    /// for sure.
    fn known(&self, per: Per) -> Option<Counted<'a>> {
        match per {
            Per::Address => Some(Counted::address(self.address)),
            Per::Caller => self.certified().map(Counted::Caller),
            Per::Route | Per::Subject | Per::ApiKey => None,
        }
    }

    /// The caller by its certificate, where the route looks at that.
    fn certified(&self) -> Option<&'a CallerName> {
        let methods = self.route.rule.authentication.methods();
        let proof = self.proof.filter(|_| methods.contains(Method::Certificate));
        proof.map(|proof| proof.identity.caller())
    }

    fn count(&'a self, whom: impl Fn(&RouteLimit) -> Option<Counted<'a>> + Send + 'a) -> Step<'a> {
        let counted = self
            .route
            .limits
            .iter()
            .filter_map(move |limit| Some((limit, whom(limit)?)));
        if self.limiter.shared().is_some() && !self.route.limits.is_empty() {
            return Step::Later(Box::pin(async move {
                for (limit, whom) in counted {
                    let taken = self.limiter.count_shared(limit, whom).await;
                    taken.map_err(refusal)?;
                }
                Ok(())
            }));
        }
        for (limit, whom) in counted {
            if let Err(exceeded) = self.limiter.count(limit, whom) {
                return Step::Now(Err(refusal(exceeded)));
            }
        }
        Step::Now(Ok(()))
    }
}

/// 429 with what the limit says (draft-ietf-httpapi-ratelimit-headers).
fn refusal(exceeded: Exceeded) -> Refusal {
    let mut refusal = Refusal::from(*exceeded.denial);
    if let Some((verdict, limit, policy)) = exceeded.verdict {
        let texts = [
            (RATE_LIMIT, verdict.field(policy)),
            (RATE_LIMIT_POLICY, limit.policy_field(policy)),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?)));
        let pause = HeaderValue::from(verdict.retry_after_seconds());
        refusal.fields = texts.chain([(RETRY_AFTER, pause)]).collect();
    }
    refusal
}
