//! Rate limits of a route. If the key of a limit is known before authentication, the request is
//! counted before authentication. A flood of requests then causes no cryptographic work.

use std::net::IpAddr;

use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};

use crate::authn::ConnectionProof;
use crate::identity::{CallerName, Method, Principal};
use crate::now_or_later::NowOrLater;
use crate::policy::throttle::{Counted, LimitDenial, Limiter, Per, RouteLimit};
use crate::reason::{Category, ReasonCode};
use crate::route::Route;
use crate::wire::refusal::Refusal;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The rate limits of a route, applied to one request.
pub(super) struct RouteLimits<'a> {
    pub(super) limiter: &'a Limiter,
    pub(super) route: &'a Route,
    pub(super) proof: Option<&'a ConnectionProof>,
    /// The caller's IP address.
    pub(super) address: IpAddr,
}

/// The result of a limit check. It is `Later` if a shared store of request counts must be asked.
pub(super) type LimitCheck<'a> = NowOrLater<'a, Result<(), Refusal>>;

impl<'a> RouteLimits<'a> {
    /// Counts the request under the limits whose key is known before authentication. Also refuses
    /// the request if too many earlier authentications of the caller or the caller's address have
    /// failed.
    pub(super) fn before_authentication(&'a self) -> LimitCheck<'a> {
        if !self.route.authenticators.is_empty()
            && let Err(limited) = self.limiter.may_authenticate(self.attempts_key())
        {
            return NowOrLater::Now(Err(refusal(limited)));
        }
        self.count(move |limit| self.early_key(limit.per))
    }

    /// Counts the request under the limits whose key is known only after authentication.
    pub(super) fn after_authentication(
        &'a self,
        principal: Option<&'a Principal>,
    ) -> LimitCheck<'a> {
        self.count(move |limit| match self.early_key(limit.per) {
            // The key was known before authentication, so `before_authentication` has counted the
            // request.
            Some(_) => None,
            // A limit for the whole route is counted only after authorization. Callers that may not
            // use the route then cannot exhaust the limit.
            None if limit.per == Per::Route => Some(Counted::Everybody),
            None => Counted::of(limit.per, principal?),
        })
    }

    /// Counts a failed authentication if `refusal` says that the credentials were rejected. If the
    /// caller has a certificate, also counts a failed authentication if too many credentials of the
    /// caller were being checked at the same time.
    pub(super) fn record_failure(&self, refusal: &Refusal) {
        let reason = refusal.denial.reason;
        let is_refused = reason.category() == Category::Token
            && reason.status() == 401
            && reason != ReasonCode::TokenMissing;
        // `CallerLimit` means that too many credentials of the caller were being checked at the
        // same time. With a certificate, this counts as a failed authentication of the caller.
        // Without a certificate, it does not count: it would count for the address, and many
        // callers with valid tokens may share the address.
        let is_callers_own = reason == ReasonCode::CallerLimit && self.proof.is_some();
        let failed = is_refused || is_callers_own;
        if failed && !self.route.authenticators.is_empty() {
            self.limiter.failed(self.attempts_key());
        }
    }

    /// Returns the key under which failed authentications are counted. If there is a certificate,
    /// the key is the caller, so that one caller cannot lock out the other callers at its address.
    fn attempts_key(&self) -> Counted<'a> {
        match self.proof {
            Some(proof) => Counted::Caller(proof.identity.caller()),
            None => Counted::address(self.address),
        }
    }

    /// Returns the key of a limit, if the key is known before authentication.
    fn early_key(&self, per: Per) -> Option<Counted<'a>> {
        match per {
            Per::Address => Some(Counted::address(self.address)),
            Per::Caller => self.certified_caller().map(Counted::Caller),
            Per::Route | Per::Subject | Per::ApiKey => None,
        }
    }

    /// Returns the caller that the certificate names. Returns `None` if there is no certificate or
    /// if the route does not accept certificates.
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
            return NowOrLater::Later(Box::pin(async move {
                for (limit, key) in counted {
                    let taken = self.limiter.count_shared(limit, key).await;
                    taken.map_err(refusal)?;
                }
                Ok(())
            }));
        }
        for (limit, key) in counted {
            if let Err(limited) = self.limiter.count(limit, key) {
                return NowOrLater::Now(Err(refusal(limited)));
            }
        }
        NowOrLater::Now(Ok(()))
    }
}

/// Makes a 429 refusal with the header fields of draft-ietf-httpapi-ratelimit-headers.
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
