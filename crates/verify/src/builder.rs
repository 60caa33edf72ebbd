//! The builder of an [`AssertionVerifier`], and its settings.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, system_clock};
use crate::jose::{JoseError, JwkSet};
use crate::keys::KeySource;
use crate::replay::ReplayCache;
use crate::verifier::AssertionVerifier;

/// The maximum skew that a verifier can allow. The skew is the difference between the
/// gateway's clock and the service's clock.
pub const MAX_SKEW: Duration = Duration::from_secs(30);

/// The allowed skew between the gateway's clock and the service's clock if
/// [`VerifierBuilder::skew`] is not called.
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

/// A source of keys that the service has passed to the builder.
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
    /// The issuer is missing or empty.
    #[error("no issuer: call .issuer(\"https://…\") with the gateway's issuer")]
    IssuerMissing,
    /// The audience is missing or empty.
    #[error("no audience: call .audience(\"…\") with this service's audience")]
    AudienceMissing,
    /// The service gave neither a key set nor a URL to fetch a key set from.
    #[error("no keys: give either a key set or the address of one")]
    KeysMissing,
    /// The service gave more than one source of keys, for example a key set and a URL.
    #[error("keys from several places: give one key set or one address")]
    KeysAmbiguous,
    /// The key set cannot be read.
    #[error("the key set is not usable: {0}")]
    KeySet(#[source] JoseError),
    /// The key set has no key that can verify assertions.
    #[error("the key set has no usable key")]
    KeySetEmpty,
    /// The skew is more than 30 s.
    #[error("a skew above 30 s would prolong every assertion")]
    SkewTooLarge,
    /// The authority is empty, or contains characters that belong to other
    /// parts of a URL.
    #[error("the authority must be as in a Host field: `name` or `name:port`")]
    Authority,
    /// A path prefix that is not empty must begin with `/`, must not end with `/`, and must not
    /// contain `?` or `#`.
    #[error("the path prefix must begin with `/` and not end with it")]
    PathPrefix,
    /// The capacity of the replay cache is 0.
    #[error("a replay cache needs a capacity of at least 1")]
    ReplayCapacity,
    /// The URL is not absolute, is neither `https` nor `http` with a loopback address, or contains
    /// a user or a fragment. With `discover`, the URL is the issuer, which must not have a query
    /// either.
    #[cfg(feature = "fetch")]
    #[error("keys are fetched over https, or over http from a loopback address only")]
    Url,
    /// The root certificates cannot be read, or there is no root certificate.
    #[cfg(feature = "fetch")]
    #[error("no usable root certificate: {0}")]
    RootCertificates(String),
}

impl VerifierBuilder {
    /// Sets the gateway's issuer. The verifier compares this value byte by byte with `iss`.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Sets this service's audience. The verifier compares this value byte by byte with `aud`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Sets the gateway's keys to a key set that is parsed already.
    pub fn jwks(mut self, keys: JwkSet) -> Self {
        self.keys.push(Keys::Given(keys));
        self
    }

    /// Sets the gateway's keys to a JWK set in JSON text.
    pub fn jwks_json(mut self, keys: impl Into<String>) -> Self {
        self.keys.push(Keys::Text(keys.into()));
        self
    }

    /// Sets the URL of the gateway's key set, usually
    /// `https://GATEWAY/.well-known/jwks.json`. The URL must be `https`, or `http` with a
    /// loopback address. The verifier fetches the key set when it first needs a key.
    ///
    /// A request to the key server takes at most 5 seconds. Verifications that need keys at the
    /// same time share one fetch and its outcome. At most 1,024 verifications wait for a fetch
    /// that another verification started. Further verifications do not wait, and fail with
    /// [`FetchProblem::Busy`](crate::FetchProblem::Busy). The next fetch starts at least 5
    /// seconds after the end of a fetch, or 1 second if the verifier has no usable keys.
    #[cfg(feature = "fetch")]
    pub fn jwks_url(mut self, url: impl Into<String>) -> Self {
        self.keys.push(Keys::Url(url.into()));
        self
    }

    /// Finds the URL of the key set in the issuer's metadata (RFC 8414 section 3). The
    /// `issuer` in the metadata must be identical to the configured issuer, and the
    /// `jwks_uri` must have the same origin.
    ///
    /// The same limits apply as for [`VerifierBuilder::jwks_url`]. The first fetch makes two
    /// requests, and therefore takes at most 10 seconds.
    #[cfg(feature = "fetch")]
    pub fn discover(mut self) -> Self {
        self.keys.push(Keys::Metadata);
        self
    }

    /// Sets the PEM root certificates that verify the key server. By default, the verifier
    /// uses the root certificates of the operating system.
    #[cfg(feature = "fetch")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates = Some(pem.into());
        self
    }

    /// Also accepts assertions that are not bound to one request. Routes with
    /// `binding = "caller"` send such assertions. A stolen assertion of this kind is valid
    /// for any request to this service until it expires.
    pub const fn allow_caller_binding(mut self) -> Self {
        self.caller_binding_allowed = true;
        self
    }

    /// Accepts an assertion only if it contains a hash of the body (`htb`), and only if the service
    /// gave the body to the verifier ([`RequestParts::with_body`](crate::RequestParts::with_body)).
    pub const fn require_body_binding(mut self) -> Self {
        self.body_binding_required = true;
        self
    }

    /// Sets the allowed difference between the gateway's clock and this service's clock.
    /// The maximum is 30 s and the default is 10 s. Fractions of a second are ignored.
    pub const fn skew(mut self, skew: Duration) -> Self {
        self.skew = Some(skew);
        self
    }

    /// Sets the authority that the gateway sends in requests to this service. The verifier then
    /// compares assertions with this authority, and ignores the authority of the received
    /// request. Use this setting if another proxy between gateway and service changes `Host`.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Sets the path prefix that another proxy between gateway and service removes.
    /// Example: the prefix is `/api` if the gateway sends `/api/orders` and this service
    /// receives `/orders`.
    pub fn path_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.path_prefix = prefix.into();
        self
    }

    /// Accepts each request-bound assertion only once. The cache remembers the `jti`
    /// (RFC 7519 section 4.1.7) of up to `capacity` assertions until they expire. If the
    /// cache is full of assertions that have not expired, further assertions are refused
    /// with [`VerifyError::ReplayCacheFull`](crate::VerifyError::ReplayCacheFull). Set
    /// `capacity` to at least the number of requests in 40 s (30 s lifetime and 10 s skew).
    ///
    /// If the system clock is set back, the cache still refuses used assertions. It cannot
    /// distinguish a removed entry from an assertion that was never used. Therefore it refuses
    /// every assertion that does not expire later than all removed entries, with
    /// [`VerifyError::Expired`](crate::VerifyError::Expired). Usually this affects only assertions
    /// that were signed before the clock was set back. There is one exception: the clocks of
    /// gateway and service were both ahead for longer than an assertion's lifetime. New assertions
    /// are then refused too, until the clock again shows the time at which it was set back. Restart
    /// the service in this case.
    pub const fn replay_cache(mut self, capacity: usize) -> Self {
        self.replay_capacity = Some(capacity);
        self
    }

    /// Replaces the system clock with `clock`, which returns the time in seconds since 1970.
    pub fn clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the verifier.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the issuer, the audience or the keys are missing, or if a setting
    /// would weaken verification. This method does not fetch keys.
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
