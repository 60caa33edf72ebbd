//! `Limiter`: limits the requests of each caller on a route, and the failed authentications of each
//! caller or address.
//!
//! Requests are counted in this process, or in a store that several gateways share. A request
//! counts for a caller only after the caller's identity was proven. Otherwise an attacker could
//! send requests in a caller's name, and so use up the caller's limit.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::Denial;
use super::rate_limit::{RateLimit, RateTable, Verdict};
use crate::crypto;
use crate::identity::share_key::address_network;
use crate::identity::{CallerName, Principal};
use crate::reason::ReasonCode;

/// The attribute by which requests are grouped for counting. Each group has a count of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    /// Each caller is a group.
    Caller,
    /// Each pair of a token issuer and a subject of its tokens is a group.
    Subject,
    /// Each API key is a group.
    ApiKey,
    /// All requests of the route are one group.
    Route,
    /// Each IPv4 address, and each IPv6 network with a prefix of 64 bits, is a group.
    Address,
}

impl Per {
    /// Returns the name of this attribute in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Subject => "subject",
            Self::ApiKey => "api-key",
            Self::Route => "route",
            Self::Address => "address",
        }
    }
}

/// One limit of one route.
#[derive(Debug, Clone)]
pub struct RouteLimit {
    /// The attribute by which requests are grouped.
    pub per: Per,
    /// The number of requests that each group may make.
    pub limit: RateLimit,
    /// Identifies the limit among all limits of all routes. The identifier is the same in other
    /// gateways with the same limit, and after a reload.
    id: [u8; 32],
}

impl RouteLimit {
    /// Creates a limit of the route with the name `route`.
    #[must_use]
    pub fn new(route: &str, per: Per, limit: RateLimit) -> Self {
        let id = crypto::sha256(format!("{route:?}|{per:?}|{limit:?}").as_bytes());
        Self { per, limit, id }
    }
}

/// The group for which a request is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted<'a> {
    /// All requests of this caller.
    Caller(&'a CallerName),
    /// All requests with tokens of this issuer and this subject.
    Subject(&'a str, &'a str),
    /// All requests with the API key that has this identifier.
    ApiKey(&'a str),
    /// All requests of the route.
    Everybody,
    /// All requests from this IPv4 address, or from this IPv6 network of 64 bits.
    Address(IpAddr),
}

impl<'a> Counted<'a> {
    /// Returns the group of an address. An IPv6 address counts as its network of 64 bits, because
    /// one client usually has the whole network.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self::Address(address_network(address))
    }

    /// Returns the group of a request that was authenticated as `principal`. Returns `None` if the
    /// attribute `per` is missing, for example because the caller used no token.
    #[must_use]
    pub fn of(per: Per, principal: &'a Principal) -> Option<Self> {
        match per {
            Per::Caller => Some(Self::Caller(principal.caller())),
            Per::Subject => {
                let token = principal.token()?;
                Some(Self::Subject(&token.issuer, token.subject.as_deref()?))
            }
            Per::ApiKey => Some(Self::ApiKey(&principal.api_key()?.id)),
            Per::Route => Some(Self::Everybody),
            Per::Address => None,
        }
    }

    /// Returns a text that differs for different groups.
    fn text(&self) -> String {
        match self {
            Self::Caller(name) => format!("caller {name}"),
            Self::Subject(issuer, subject) => format!("subject {issuer:?} {subject:?}"),
            Self::ApiKey(id) => format!("api-key {id}"),
            Self::Everybody => "everybody".to_owned(),
            Self::Address(address) => format!("address {address}"),
        }
    }
}

/// Determines what happens to a request if the shared store does not respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// The request is counted in this process.
    Local,
    /// The request is allowed.
    Allow,
    /// The request is refused.
    Deny,
}

/// The error if the shared store does not respond. Contains the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store of rate limits does not answer: {0}")]
pub struct StoreFailed(pub String);

/// The result of counting a request in the shared store, as a future.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<Verdict, StoreFailed>> + Send + 'a>>;

/// A store in which several gateways count requests together.
pub trait SharedStore: fmt::Debug + Send + Sync {
    /// Counts one request of `key` against `limit`.
    fn take<'a>(&'a self, key: &'a [u8; 32], limit: &'a RateLimit) -> Asked<'a>;

    /// Makes all later accesses to the store run on `runtime`.
    fn run_on(&self, runtime: &tokio::runtime::Handle);

    /// Returns the reason why the store does not respond. Returns `None` if it works.
    fn problem(&self) -> Option<String>;
}

/// Limits the requests of routes, and failed authentications.
#[derive(Debug)]
pub struct Limiter {
    table: Arc<RateTable>,
    failed: RateLimit,
    shared: Option<(Arc<dyn SharedStore>, OnStoreFailure)>,
}

/// A refusal because of a rate limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitDenial {
    /// The denial for the request.
    pub denial: Box<Denial>,
    /// The verdict about the request, the limit, and the name of the limit. `None` if the request
    /// could not be counted.
    pub verdict: Option<(Verdict, RateLimit, &'static str)>,
}

impl Limiter {
    /// Creates a limiter that counts in `table`. `failed` limits the failed authentications of each
    /// caller or address.
    #[must_use]
    pub const fn new(table: Arc<RateTable>, failed: RateLimit) -> Self {
        Self {
            table,
            failed,
            shared: None,
        }
    }

    /// Makes the limiter count the requests of routes in a shared store.
    #[must_use]
    pub fn sharing(mut self, store: Arc<dyn SharedStore>, on_failure: OnStoreFailure) -> Self {
        self.shared = Some((store, on_failure));
        self
    }

    /// Returns the table with the counts of this process. After a reload, the new limiter uses the
    /// same table.
    #[must_use]
    pub const fn table(&self) -> &Arc<RateTable> {
        &self.table
    }

    /// Returns the shared store, if there is one.
    #[must_use]
    pub fn shared(&self) -> Option<&Arc<dyn SharedStore>> {
        self.shared.as_ref().map(|(store, _)| store)
    }

    /// Counts a request in this process.
    ///
    /// # Errors
    /// Returns a denial if the request exceeds the limit.
    pub fn count(&self, limit: &RouteLimit, key: Counted<'_>) -> Result<(), LimitDenial> {
        let verdict = self.table.take(&(limit.id, key), &limit.limit);
        judge(verdict, limit)
    }

    /// Counts a request in the shared store. If there is no shared store, counts the request in
    /// this process. If the store does not respond, [`OnStoreFailure`] determines the result.
    ///
    /// # Errors
    /// Returns a denial if the request exceeds the limit. Also returns a denial if the store does
    /// not respond and the setting is [`OnStoreFailure::Deny`].
    pub async fn count_shared(
        &self,
        limit: &RouteLimit,
        counted: Counted<'_>,
    ) -> Result<(), LimitDenial> {
        let Some((store, on_failure)) = &self.shared else {
            return self.count(limit, counted);
        };
        let mut key = limit.id.to_vec();
        key.extend_from_slice(counted.text().as_bytes());
        let key = crypto::sha256(&key);
        match (store.take(&key, &limit.limit).await, on_failure) {
            (Ok(verdict), _) => judge(verdict, limit),
            (Err(_), OnStoreFailure::Allow) => Ok(()),
            (Err(_), OnStoreFailure::Local) => self.count(limit, counted),
            (Err(_), OnStoreFailure::Deny) => Err(LimitDenial {
                denial: Box::new(Denial::new(
                    ReasonCode::Overloaded,
                    "requests cannot be counted at the moment",
                )),
                verdict: None,
            }),
        }
    }

    /// Checks whether an address or caller may try to authenticate. Does not count the attempt.
    ///
    /// # Errors
    /// Returns a denial if too many authentications of this address or caller have failed.
    pub fn may_authenticate(&self, key: Counted<'_>) -> Result<(), LimitDenial> {
        let verdict = self.table.peek(&failed_key(key), &self.failed);
        if verdict.allowed {
            return Ok(());
        }
        Err(LimitDenial {
            denial: Box::new(Denial::new(
                ReasonCode::RateLimited,
                match key {
                    Counted::Address(_) => "too many failed authentications from this address",
                    _ => "too many failed authentications of this caller",
                },
            )),
            verdict: Some((verdict, self.failed, "failed-authentication")),
        })
    }

    /// Counts a failed authentication of an address or caller.
    pub fn failed(&self, key: Counted<'_>) {
        self.table.take(&failed_key(key), &self.failed);
    }
}

impl Default for Limiter {
    /// Creates a limiter with the smallest table and no shared store. This is sufficient if no rate
    /// limits are configured.
    fn default() -> Self {
        Self::new(
            Arc::new(RateTable::new(1)),
            RateLimit::FAILED_AUTHENTICATION,
        )
    }
}

fn failed_key(key: Counted<'_>) -> impl Hash {
    ("failed authentication", key)
}

fn judge(verdict: Verdict, limit: &RouteLimit) -> Result<(), LimitDenial> {
    if verdict.allowed {
        return Ok(());
    }
    let per = limit.per.as_str();
    Err(LimitDenial {
        denial: Box::new(Denial::new(
            ReasonCode::RateLimited,
            format!("too many requests per {per}"),
        )),
        verdict: Some((verdict, limit.limit, per)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug)]
    struct Broken;

    impl SharedStore for Broken {
        fn take<'a>(&'a self, _: &'a [u8; 32], _: &'a RateLimit) -> Asked<'a> {
            Box::pin(async { Err(StoreFailed("broken".into())) })
        }

        fn run_on(&self, _: &tokio::runtime::Handle) {}

        fn problem(&self) -> Option<String> {
            None
        }
    }

    fn limit(per: Per) -> RouteLimit {
        let limit = RateLimit::new(1, Duration::from_secs(3600), 1).unwrap();
        RouteLimit::new("orders", per, limit)
    }

    #[test]
    fn addresses_of_one_network_are_counted_together() {
        let of = |text: &str| Counted::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn limits_are_counted_apart() {
        let limiter = Limiter::new(
            Arc::new(RateTable::new(100)),
            RateLimit::FAILED_AUTHENTICATION,
        );
        let (alice, bob) = (Counted::ApiKey("alice"), Counted::ApiKey("bob"));
        assert_eq!(limiter.count(&limit(Per::ApiKey), alice), Ok(()));
        assert!(limiter.count(&limit(Per::ApiKey), alice).is_err());
        assert_eq!(limiter.count(&limit(Per::ApiKey), bob), Ok(()));
        assert_eq!(limiter.count(&limit(Per::Caller), alice), Ok(()));
        let texts = [
            Counted::Subject("a", "b c").text(),
            Counted::Subject("a b", "c").text(),
            Counted::ApiKey("a").text(),
            Counted::Everybody.text(),
        ];
        for (index, text) in texts.iter().enumerate() {
            assert!(!texts[index + 1..].contains(text), "{text}");
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_does_what_was_said() {
        for (on_failure, second) in [
            (OnStoreFailure::Local, Some(ReasonCode::RateLimited)),
            (OnStoreFailure::Allow, None),
            (OnStoreFailure::Deny, Some(ReasonCode::Overloaded)),
        ] {
            let table = Arc::new(RateTable::new(100));
            let limiter = Limiter::new(table, RateLimit::FAILED_AUTHENTICATION)
                .sharing(Arc::new(Broken), on_failure);
            let limit = limit(Per::Route);
            let first = limiter.count_shared(&limit, Counted::Everybody).await;
            assert_eq!(first.is_err(), on_failure == OnStoreFailure::Deny);
            let refused = limiter.count_shared(&limit, Counted::Everybody).await;
            assert_eq!(refused.err().map(|exceeded| exceeded.denial.reason), second);
        }
    }

    #[test]
    fn failures_are_counted_and_successes_are_not() {
        let failed = RateLimit::new(2, Duration::from_secs(3600), 2).unwrap();
        let limiter = Limiter::new(Arc::new(RateTable::new(100)), failed);
        let address = Counted::address(IpAddr::from([10, 0, 0, 1]));
        for _ in 0..10 {
            assert!(limiter.may_authenticate(address).is_ok());
        }
        limiter.failed(address);
        assert!(limiter.may_authenticate(address).is_ok());
        limiter.failed(address);
        assert!(limiter.may_authenticate(address).is_err());
        assert!(
            limiter
                .may_authenticate(Counted::address(IpAddr::from([10, 0, 0, 2])))
                .is_ok()
        );
    }
}
