//! `Principal`: the caller of one request, and the credentials with which the caller was
//! authenticated.

use std::fmt;
use std::sync::Arc;

use super::caller::CallerName;
use super::peer::PeerIdentity;
use super::token::TokenClaims;

/// A method with which the caller of a request is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// A client certificate, verified in the TLS handshake.
    Certificate,
    /// An API key in a header field of the request.
    ApiKey,
    /// An access token of a configured issuer.
    Token,
}

impl Method {
    /// All methods. Authenticators are called in this order, so the method with the least work
    /// comes first.
    pub const ALL: [Self; 3] = [Self::Certificate, Self::ApiKey, Self::Token];

    /// Returns the word that stands for the method in the configuration, assertions and audit
    /// lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::ApiKey => "api-key",
            Self::Token => "token",
        }
    }
}

/// A set of methods, as one bit for each method.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MethodSet(u8);

impl MethodSet {
    /// Returns the set with `method` added.
    #[must_use]
    pub const fn with(self, method: Method) -> Self {
        Self(self.0 | 1 << method as u8)
    }

    /// Whether the set contains the method.
    #[must_use]
    pub const fn contains(self, method: Method) -> bool {
        self.0 & 1 << method as u8 != 0
    }

    /// Parses the printed form of a set, for example from an audit line. Returns `None` if it has an
    /// unknown method.
    #[must_use]
    pub fn from_printed(text: &str) -> Option<Self> {
        let method = |word: &str| {
            let mut all = Method::ALL.into_iter();
            all.find(|method| method.as_str() == word.trim())
        };
        text.split(',').map(method).collect()
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

/// Prints the names of the methods, separated by commas.
impl fmt::Display for MethodSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, method) in self.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(formatter, "{comma}{}", method.as_str())?;
        }
        Ok(())
    }
}

/// A valid API key that came with a request. Contains no secret, only names and identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyUse {
    /// The name of the key in the configuration.
    pub name: Box<str>,
    /// The public part of the API key, which identifies it.
    pub id: Box<str>,
    /// When the key expires, in seconds since the Unix epoch. The key is refused from this second
    /// on. `None` if the key does not expire.
    pub expires: Option<u64>,
}

/// Which credential names the caller.
#[derive(Debug, Clone)]
enum Caller {
    /// The client certificate names the caller.
    Certified(Arc<PeerIdentity>),
    /// An API key or a token names the caller. There is no client certificate, or the route does
    /// not ask for one.
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
    /// Creates the principal that the client certificate names. `authenticated_at` is when the
    /// caller proved possession of its private key, in seconds since the Unix epoch. If `resumed`
    /// is true, the caller gave this proof in an earlier TLS session, which the current session
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

    /// Creates the principal that an API key or a token names. This credential was checked at
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

    /// Returns the same caller, with the token that came with the request.
    #[must_use]
    pub fn with_token(mut self, token: Arc<TokenClaims>) -> Self {
        self.token = Some(token);
        self
    }

    /// Returns the same caller, with the API key that came with the request.
    #[must_use]
    pub fn with_api_key(mut self, key: ApiKeyUse) -> Self {
        self.api_key = Some(Arc::new(key));
        self
    }

    /// Combines two callers that were authenticated by different credentials of the same request.
    /// Returns `None` if they are not the same caller.
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

    /// Returns the token that came with the request, if it was accepted.
    #[must_use]
    pub const fn token(&self) -> Option<&Arc<TokenClaims>> {
        self.token.as_ref()
    }

    /// Returns the API key that came with the request, if it was accepted.
    #[must_use]
    pub fn api_key(&self) -> Option<&ApiKeyUse> {
        self.api_key.as_deref()
    }

    /// Returns when the caller was authenticated, in seconds since the Unix epoch. With a
    /// certificate, this is when the caller last proved possession of its private key. With other
    /// credentials, this is when the credential was checked.
    #[must_use]
    pub const fn authenticated_at(&self) -> u64 {
        self.authenticated_at
    }

    /// Whether the TLS session is resumed, so that possession of the private key was proven in an
    /// earlier session.
    #[must_use]
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// Returns the name of the caller, which becomes the assertion's `sub`.
    #[must_use]
    pub fn caller(&self) -> &CallerName {
        match &self.caller {
            Caller::Certified(peer) => peer.caller(),
            Caller::Named(name) => name,
        }
    }

    /// Returns the verified identity of the client certificate. Returns `None` if another
    /// credential names the caller.
    #[must_use]
    pub const fn peer(&self) -> Option<&Arc<PeerIdentity>> {
        match &self.caller {
            Caller::Certified(peer) => Some(peer),
            Caller::Named(_) => None,
        }
    }

    /// Returns when the token or the API key expires, whichever is earlier, in seconds since the
    /// Unix epoch. Returns `None` if neither of them expires.
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
