//! `Principal`: the caller of one request, and how it was authenticated.

use std::fmt;
use std::sync::Arc;

use super::caller::CallerName;
use super::peer::PeerIdentity;
use super::token::TokenClaims;

/// A way of authenticating a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// A client certificate, verified in the TLS handshake.
    Certificate,
    /// An API key.
    ApiKey,
    /// A token of a configured issuer.
    Token,
}

impl Method {
    /// All methods, cheapest first. Authenticators are asked in this order.
    pub const ALL: [Self; 3] = [Self::Certificate, Self::ApiKey, Self::Token];

    /// Returns the word used in configuration, assertions and audit lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::ApiKey => "api-key",
            Self::Token => "token",
        }
    }
}

/// A set of methods.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MethodSet(u8);

impl MethodSet {
    /// Returns the set with one more method.
    #[must_use]
    pub const fn with(self, method: Method) -> Self {
        Self(self.0 | 1 << method as u8)
    }

    /// Whether the set contains the method.
    #[must_use]
    pub const fn contains(self, method: Method) -> bool {
        self.0 & 1 << method as u8 != 0
    }

    /// Iterates over the methods in the order of [`Method::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Method> {
        Method::ALL
            .into_iter()
            .filter(move |method| self.contains(*method))
    }
}

impl FromIterator<Method> for MethodSet {
    fn from_iter<I: IntoIterator<Item = Method>>(methods: I) -> Self {
        methods.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Debug for MethodSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

/// The words, separated by commas.
impl fmt::Display for MethodSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, method) in self.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(formatter, "{comma}{}", method.as_str())?;
        }
        Ok(())
    }
}

/// An API key that was presented and is valid. Contains only names and identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyUse {
    /// The name of the key in the configuration.
    pub name: Box<str>,
    /// The public identifier of the key.
    pub id: Box<str>,
    /// The key is refused from this second on.
    pub expires: Option<u64>,
}

/// The credential that names the caller.
#[derive(Debug, Clone)]
enum Caller {
    /// The certificate of the caller.
    Certified(Arc<PeerIdentity>),
    /// Another credential: there is no certificate, or the route does not ask
    /// for one.
    Named(Arc<CallerName>),
}

/// The authenticated caller of one request.
#[derive(Debug, Clone)]
pub struct Principal {
    caller: Caller,
    authenticated_at: u64,
    resumed: bool,
    token: Option<Arc<TokenClaims>>,
    api_key: Option<Arc<ApiKeyUse>>,
}

impl Principal {
    /// Creates a caller known by its certificate, whose key it proved at `authenticated_at`
    /// (seconds since the Unix epoch): in this TLS session or, if `resumed`, in the session that it
    /// resumes.
    #[must_use]
    pub const fn from_certificate(
        peer: Arc<PeerIdentity>,
        authenticated_at: u64,
        resumed: bool,
    ) -> Self {
        Self {
            caller: Caller::Certified(peer),
            authenticated_at,
            resumed,
            token: None,
            api_key: None,
        }
    }

    /// Creates a caller without certificate, named by a credential that was checked at
    /// `authenticated_at` (seconds since the Unix epoch).
    #[must_use]
    pub fn named(name: CallerName, authenticated_at: u64) -> Self {
        Self {
            caller: Caller::Named(Arc::new(name)),
            authenticated_at,
            resumed: false,
            token: None,
            api_key: None,
        }
    }

    /// Returns the same caller with the token that accompanied its request.
    #[must_use]
    pub fn with_token(mut self, token: Arc<TokenClaims>) -> Self {
        self.token = Some(token);
        self
    }

    /// Returns the same caller with the API key that accompanied its request.
    #[must_use]
    pub fn with_api_key(mut self, key: ApiKeyUse) -> Self {
        self.api_key = Some(Arc::new(key));
        self
    }

    /// Combines the results of two credentials of one request. None if they name different callers.
    #[must_use]
    pub fn together_with(mut self, other: Self) -> Option<Self> {
        if self.caller() != other.caller() {
            return None;
        }
        if let (Caller::Named(_), Caller::Certified(_)) = (&self.caller, &other.caller) {
            self.caller = other.caller;
            self.authenticated_at = other.authenticated_at;
            self.resumed = other.resumed;
        }
        self.token = self.token.or(other.token);
        self.api_key = self.api_key.or(other.api_key);
        Some(self)
    }

    /// Returns the token that accompanied the request.
    #[must_use]
    pub const fn token(&self) -> Option<&Arc<TokenClaims>> {
        self.token.as_ref()
    }

    /// Returns the API key that accompanied the request.
    #[must_use]
    pub fn api_key(&self) -> Option<&ApiKeyUse> {
        self.api_key.as_deref()
    }

    /// Returns when the caller last proved that it holds the certificate's key, or the credential
    /// of a caller without certificate was checked; in seconds since the Unix epoch.
    #[must_use]
    pub const fn authenticated_at(&self) -> u64 {
        self.authenticated_at
    }

    /// Whether the TLS session was resumed.
    #[must_use]
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// Returns the caller's one name: the assertion's `sub`.
    #[must_use]
    pub fn caller(&self) -> &CallerName {
        match &self.caller {
            Caller::Certified(peer) => peer.caller(),
            Caller::Named(name) => name,
        }
    }

    /// Returns the certificate's identity, if that names the caller.
    #[must_use]
    pub const fn peer(&self) -> Option<&Arc<PeerIdentity>> {
        match &self.caller {
            Caller::Certified(peer) => Some(peer),
            Caller::Named(_) => None,
        }
    }

    /// Returns the second from which the credentials other than the certificate are no longer
    /// valid. None if there are none, or if they do not expire.
    #[must_use]
    pub fn ends(&self) -> Option<u64> {
        let token = self.token.as_ref().map(|token| token.expires);
        let key = self.api_key.as_ref().and_then(|key| key.expires);
        match (token, key) {
            (Some(token), Some(key)) => Some(token.min(key)),
            (end, None) | (None, end) => end,
        }
    }

    /// Returns the methods that authenticated this request.
    #[must_use]
    pub fn methods(&self) -> MethodSet {
        let used = [
            (Method::Certificate, self.peer().is_some()),
            (Method::ApiKey, self.api_key.is_some()),
            (Method::Token, self.token.is_some()),
        ];
        used.into_iter()
            .filter_map(|(method, used)| used.then_some(method))
            .collect()
    }
}
