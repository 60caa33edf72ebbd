//! The settings that a verifier needs.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, system_clock};
use crate::jose::{JoseError, JwkSet};
use crate::keys::KeySource;
use crate::replay::ReplayCache;
use crate::verifier::AssertionVerifier;

/// The largest difference of clocks that may be allowed.
pub const MAX_SKEW: Duration = Duration::from_secs(30);

/// The difference of clocks that is allowed by default.
pub const DEFAULT_SKEW: Duration = Duration::from_secs(10);

/// Collects the settings of an [`AssertionVerifier`].
#[derive(Default)]
#[must_use]
pub struct VerifierBuilder {
    issuer: Option<String>,
    audience: Option<String>,
    keys: Vec<Keys>,
    caller_binding_allowed: bool,
    body_binding_required: bool,
    skew: Option<Duration>,
    authority: Option<String>,
    path_prefix: String,
    replay_capacity: Option<usize>,
    clock: Option<Clock>,
    #[cfg(feature = "fetch")]
    root_certificates: Option<Vec<u8>>,
}

/// The source of the keys, as given to the builder.
enum Keys {
    Given(JwkSet),
    Text(String),
    #[cfg(feature = "fetch")]
    Url(String),
    #[cfg(feature = "fetch")]
    Metadata,
}

/// Why a verifier cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No issuer, or an empty one.
    #[error("no issuer: call .issuer(\"https://…\") with the gateway's issuer")]
    IssuerMissing,
    /// No audience, or an empty one.
    #[error("no audience: call .audience(\"…\") with this service's audience")]
    AudienceMissing,
    /// Neither keys nor a URL to fetch them from.
    #[error("no keys: give either a key set or the address of one")]
    KeysMissing,
    /// More than one source of keys.
    #[error("keys from several places: give one key set or one address")]
    KeysAmbiguous,
    /// The key set cannot be read.
    #[error("the key set is not usable: {0}")]
    KeySet(#[source] JoseError),
    /// The key set has no key that can verify assertions.
    #[error("the key set has no usable key")]
    KeySetEmpty,
    /// More than 30 s of skew.
    #[error("a skew above 30 s would prolong every assertion")]
    SkewTooLarge,
    /// The authority is empty, or contains characters that belong to other
    /// parts of a URL.
    #[error("the authority must be as in a Host field: `name` or `name:port`")]
    Authority,
    /// The prefix is not empty and does not begin with `/`, or it ends with
    /// `/`.
    #[error("the path prefix must begin with `/` and not end with it")]
    PathPrefix,
    /// A replay cache with capacity 0.
    #[error("a replay cache needs a capacity of at least 1")]
    ReplayCapacity,
    /// The URL is neither `https` nor `http` on the loopback interface.
    #[cfg(feature = "fetch")]
    #[error("keys are fetched over https, or over http from a loopback address only")]
    Url,
    /// The root certificates cannot be read, or there are none.
    #[cfg(feature = "fetch")]
    #[error("no usable root certificate: {0}")]
    RootCertificates(String),
}

impl VerifierBuilder {
    /// Sets the gateway's issuer. It is compared exactly with `iss`.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Sets this service's audience. It is compared exactly with `aud`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Sets the gateway's keys, as a key set that was read before.
    pub fn jwks(mut self, keys: JwkSet) -> Self {
        self.keys.push(Keys::Given(keys));
        self
    }

    /// Sets the gateway's keys, as the JSON text of a JWK set.
    pub fn jwks_json(mut self, keys: impl Into<String>) -> Self {
        self.keys.push(Keys::Text(keys.into()));
        self
    }

    /// Sets the URL of the gateway's key set, usually
    /// `https://GATEWAY/.well-known/jwks.json`. It is fetched when it is first
    /// needed, over `https`, or over `http` from a loopback address.
    ///
    /// A request to the key server takes at most 5 seconds. Verifications that
    /// need keys at the same time share one fetch and its outcome; at most 1,024
    /// wait for it, and further ones fail at once with
    /// [`FetchProblem::Busy`](crate::FetchProblem::Busy). After a fetch, the next
    /// one starts 5 seconds later at the earliest, or 1 second if there are no
    /// keys.
    #[cfg(feature = "fetch")]
    pub fn jwks_url(mut self, url: impl Into<String>) -> Self {
        self.keys.push(Keys::Url(url.into()));
        self
    }

    /// Finds the key set through the issuer's metadata (RFC 8414 section 3).
    /// The `issuer` of the metadata must be identical, and its `jwks_uri` must
    /// have the same origin.
    ///
    /// The limits are those of [`VerifierBuilder::jwks_url`]. The first fetch makes
    /// two requests, and therefore takes at most 10 seconds.
    #[cfg(feature = "fetch")]
    pub fn discover(mut self) -> Self {
        self.keys.push(Keys::Metadata);
        self
    }

    /// Sets the root certificates for fetching keys, as PEM. By default the
    /// roots of the system are used.
    #[cfg(feature = "fetch")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates = Some(pem.into());
        self
    }

    /// Also accepts assertions that are bound to the caller only, from routes
    /// with `binding = "caller"`. If such an assertion is stolen, it can be
    /// used for any request to this service until it expires.
    pub const fn allow_caller_binding(mut self) -> Self {
        self.caller_binding_allowed = true;
        self
    }

    /// Accepts only assertions with `htb`, and only if the body was given
    /// ([`RequestParts::with_body`](crate::RequestParts::with_body)).
    pub const fn require_body_binding(mut self) -> Self {
        self.body_binding_required = true;
        self
    }

    /// Sets the allowed difference between the gateway's clock and this one: at
    /// most 30 s, by default 10 s. Fractions of a second are ignored.
    pub const fn skew(mut self, skew: Duration) -> Self {
        self.skew = Some(skew);
        self
    }

    /// Sets the authority to which the gateway sends requests. It is needed if
    /// another proxy between gateway and service changes `Host`. The authority
    /// of the request is then ignored.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Sets the prefix that another proxy between gateway and service removes
    /// from the path: `/api` if the gateway sends `/api/orders` and this
    /// service receives `/orders`.
    pub fn path_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.path_prefix = prefix.into();
        self
    }

    /// Accepts each request-bound assertion only once, by its `jti` (RFC 7519
    /// section 4.1.7). Up to `capacity` assertions are remembered until they
    /// expire. If the cache is full of valid ones, further assertions are refused
    /// with [`VerifyError::ReplayCacheFull`](crate::VerifyError::ReplayCacheFull).
    /// Choose at least the number of requests in 40 s (lifetime and skew).
    ///
    /// If the clock is set back, an assertion that was used stays refused. An
    /// unused one is refused with
    /// [`VerifyError::Expired`](crate::VerifyError::Expired) if it expires no later
    /// than one that the cache has already removed. This affects assertions from
    /// before the change. If the clocks of gateway and service were both ahead for
    /// longer than an assertion is valid, all assertions are refused until the
    /// clock reaches that time again. Restart the service in this case.
    pub const fn replay_cache(mut self, capacity: usize) -> Self {
        self.replay_capacity = Some(capacity);
        self
    }

    /// Replaces the clock of the system. `clock` returns the seconds since
    /// 1970.
    pub fn clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the verifier.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if issuer, audience or keys are missing, or if a setting
    /// would weaken verification. Nothing is fetched yet.
    pub fn build(mut self) -> Result<AssertionVerifier, BuildError> {
        let issuer = non_empty(self.issuer.take()).ok_or(BuildError::IssuerMissing)?;
        let audience = non_empty(self.audience.take()).ok_or(BuildError::AudienceMissing)?;
        let skew = self.skew.unwrap_or(DEFAULT_SKEW);
        if skew > MAX_SKEW {
            return Err(BuildError::SkewTooLarge);
        }
        if self.authority.as_deref().is_some_and(|authority| {
            authority.is_empty() || authority.contains(['/', '?', '#', '@', ' '])
        }) {
            return Err(BuildError::Authority);
        }
        let prefix = &self.path_prefix;
        if !prefix.is_empty()
            && (!prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']))
        {
            return Err(BuildError::PathPrefix);
        }
        if self.replay_capacity == Some(0) {
            return Err(BuildError::ReplayCapacity);
        }
        let clock = self.clock.take().unwrap_or_else(system_clock);
        Ok(AssertionVerifier {
            keys: self.key_source(&issuer, &clock)?,
            issuer,
            audience,
            caller_binding_allowed: self.caller_binding_allowed,
            body_binding_required: self.body_binding_required,
            skew,
            authority: self.authority,
            path_prefix: self.path_prefix,
            replay_cache: self.replay_capacity.map(ReplayCache::new),
            clock,
        })
    }

    #[cfg_attr(
        not(feature = "fetch"),
        expect(
            unused_variables,
            reason = "only fetching needs the issuer and the time"
        )
    )]
    fn key_source(&mut self, issuer: &str, clock: &Clock) -> Result<KeySource, BuildError> {
        let keys = self.keys.pop().ok_or(BuildError::KeysMissing)?;
        if !self.keys.is_empty() {
            return Err(BuildError::KeysAmbiguous);
        }
        match keys {
            Keys::Given(keys) => fixed(keys),
            Keys::Text(text) => {
                fixed(JwkSet::from_json(text.as_bytes()).map_err(BuildError::KeySet)?)
            }
            #[cfg(feature = "fetch")]
            Keys::Url(url) => self.remote(crate::fetch::Location::key_set(&url)?, clock),
            #[cfg(feature = "fetch")]
            Keys::Metadata => self.remote(crate::fetch::Location::metadata(issuer)?, clock),
        }
    }

    #[cfg(feature = "fetch")]
    fn remote(
        &self,
        location: crate::fetch::Location,
        clock: &Clock,
    ) -> Result<KeySource, BuildError> {
        crate::fetch::RemoteKeys::new(
            location,
            self.root_certificates.as_deref(),
            Arc::clone(clock),
        )
        .map(|remote| KeySource::Remote(Arc::new(remote)))
    }
}

impl std::fmt::Debug for VerifierBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VerifierBuilder")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn fixed(keys: JwkSet) -> Result<KeySource, BuildError> {
    if keys.is_empty() {
        return Err(BuildError::KeySetEmpty);
    }
    Ok(KeySource::Static(Arc::new(keys)))
}
