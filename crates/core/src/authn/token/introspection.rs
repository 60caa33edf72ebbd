//! Token introspection (RFC 7662): asks the issuer whether a token is active.
//!
//! Used for opaque tokens, and for routes on which a revoked token must not stay valid until its
//! `exp`. "Not active" is a valid response. Without a well-formed response, the gateway responds to
//! the caller with 503 and never with 401, because the token may be valid.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use countersign_verify::jose::{base64url_encode, parse_object, signing_input};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Uri};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use super::single_flight::{FlightResult, SingleFlight};
use crate::clock;
use crate::crypto::{self, SignatureScheme, SigningKeyPair};
use crate::http_client::{FetchError, HttpClient, MAX_EXCHANGES};
use crate::identity::ShareKey;
use crate::policy::Denial;
use crate::policy::share::{CallerLimit, Place, PlaceLimits, Places, Share};
use crate::reason::ReasonCode;
use crate::secret::Secret;

/// Lifetime of the client assertion (RFC 7523) that authenticates the gateway, in seconds.
const CLIENT_ASSERTION_SECONDS: u64 = 60;

/// How the gateway authenticates to the issuer.
#[derive(Debug)]
pub enum ClientAuthentication {
    /// A password in the `Authorization` field (RFC 6749 section 2.3.1).
    Basic {
        /// The gateway's client identifier.
        client_id: String,
        /// The client password.
        secret: Secret,
    },
    /// A signed JWT, the client assertion (RFC 7523 section 2.2).
    PrivateKeyJwt {
        /// The gateway's client identifier.
        client_id: String,
        /// The `aud` that the issuer expects: its identifier or its token endpoint.
        audience: String,
        /// The `kid` of the key at the issuer.
        key_id: String,
        /// The signature scheme of the key.
        scheme: SignatureScheme,
        /// The private key that signs the client assertion.
        key: Box<SigningKeyPair>,
    },
    /// The client certificate of the TLS connection to the issuer (RFC 8705 section 2).
    Certificate {
        /// The gateway's client identifier.
        client_id: String,
    },
}

/// The result of an introspection: the claims if the token is active, and `None` if it is not.
type Introspected = Result<Option<Arc<Map<String, Value>>>, IntrospectionError>;

/// Sends requests to one introspection endpoint.
pub struct Introspector {
    endpoint: Uri,
    client: HttpClient,
    authentication: ClientAuthentication,
    /// Introspection requests in progress. The key of the map is the SHA-256 of the token.
    flights: SingleFlight<[u8; 32], Introspected>,
    /// Counts the requests in progress of each caller.
    places: Arc<Places>,
}

/// Limits the number of requests to one issuer in progress, in total and for each caller.
const PLACES: PlaceLimits = PlaceLimits {
    // `HttpClient` limits the total number itself.
    max: usize::MAX,
    shared: MAX_EXCHANGES,
    share: Share::QUARTER,
};
/// How long a request waits if its caller has too many requests to the issuer in progress.
const PLACE_TIMEOUT: Duration = Duration::from_millis(250);

impl fmt::Debug for Introspector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Introspector")
            .field("endpoint", &self.endpoint)
            .field("authentication", &self.authentication)
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

/// The reason why a token could not be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntrospectionError {
    /// The endpoint sent no response.
    #[error("the introspection endpoint gives no answer: {0}")]
    Fetch(#[from] FetchError),
    /// The response is not a valid introspection response.
    #[error("the introspection endpoint's answer has no `active`, or is malformed")]
    Malformed,
    /// The caller has reached its limit of requests to the issuer in progress.
    #[error("too many of the caller's tokens are being asked about")]
    CallerLimit,
    /// The HTTP request to the issuer could not be created.
    #[error("the request to the introspection endpoint could not be made")]
    Request,
}

impl From<IntrospectionError> for Denial {
    fn from(error: IntrospectionError) -> Self {
        if error == IntrospectionError::CallerLimit {
            return Self::caller_limit(
                CallerLimit::Introspection,
                "too many other tokens of this caller are being asked about",
            );
        }
        tracing::warn!(%error, "a token could not be checked");
        Self::new(
            ReasonCode::KeysUnavailable,
            "the issuer cannot be asked about the token at the moment",
        )
    }
}

impl Introspector {
    /// Creates an introspector for one endpoint.
    #[must_use]
    pub fn new(endpoint: Uri, client: HttpClient, authentication: ClientAuthentication) -> Self {
        Self {
            endpoint,
            client,
            authentication,
            flights: SingleFlight::default(),
            places: Arc::default(),
        }
    }

    /// Sets the runtime on which all further requests to the issuer are sent.
    pub fn run_on(&self, runtime: &tokio::runtime::Handle) {
        self.client.run_on(runtime);
    }

    /// Returns the issuer's claims about an active token. Returns `None` if the token is not
    /// active. The claims are not checked yet. Concurrent requests with the same token share one
    /// request to the issuer. The request to the issuer counts as a request of the `caller` that
    /// caused it.
    ///
    /// # Errors
    /// [`IntrospectionError`] if the issuer did not respond properly, or the caller has reached its
    /// limit.
    pub async fn ask(&self, token: &str, caller: ShareKey) -> Introspected {
        let asking = async {
            let place = self
                .places
                .enter_within(caller, PLACES, PLACE_TIMEOUT, MAX_EXCHANGES);
            match place.await {
                Ok(place) => FlightResult::Shared(Box::pin(self.exchange(token, place)).await),
                // The limit applies only to this caller. If a request of another caller waits for
                // the same result, that request must ask the issuer itself.
                Err(_) => FlightResult::Own(Err(IntrospectionError::CallerLimit)),
            }
        };
        self.flights
            .join(crypto::sha256(token.as_bytes()), asking)
            .await
    }

    async fn exchange(&self, token: &str, place: Place) -> Introspected {
        let request = self.request(token)?;
        let response = self.client.send(request, place).await?;
        let members =
            parse_object(&response.body, "answer").map_err(|_| IntrospectionError::Malformed)?;
        match members.get("active") {
            Some(Value::Bool(true)) => Ok(Some(Arc::new(members))),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err(IntrospectionError::Malformed),
        }
    }

    fn request(&self, token: &str) -> Result<Request<Full<Bytes>>, IntrospectionError> {
        let mut form = Form::default();
        form.push("token", token);
        form.push("token_type_hint", "access_token");
        let mut request = Request::post(self.endpoint.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        match &self.authentication {
            ClientAuthentication::Basic { client_id, secret } => {
                request = request.header(AUTHORIZATION, basic(client_id, secret)?);
            }
            ClientAuthentication::PrivateKeyJwt { client_id, .. } => {
                form.push("client_id", client_id);
                form.push(
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                );
                form.push("client_assertion", &self.client_assertion()?);
            }
            ClientAuthentication::Certificate { client_id } => form.push("client_id", client_id),
        }
        request
            .body(Full::new(Bytes::from(form.0)))
            .map_err(|_| IntrospectionError::Request)
    }

    /// Signs a client assertion (RFC 7523 section 3). Each request to the issuer has a new one, so
    /// that none can be replayed.
    fn client_assertion(&self) -> Result<String, IntrospectionError> {
        let ClientAuthentication::PrivateKeyJwt {
            client_id,
            audience,
            key_id,
            scheme,
            key,
        } = &self.authentication
        else {
            return Err(IntrospectionError::Request);
        };
        let algorithm = match scheme {
            SignatureScheme::EcdsaP256Sha256 => "ES256",
            SignatureScheme::Ed25519 => "EdDSA",
        };
        let now = clock::unix_now();
        let id = crypto::random::<16>().map_err(|_| IntrospectionError::Request)?;
        let header = json!({"alg": algorithm, "kid": key_id, "typ": "JWT"});
        let claims = json!({
            "iss": client_id, "sub": client_id, "aud": audience, "jti": base64url_encode(&id),
            "iat": now, "exp": now.saturating_add(CLIENT_ASSERTION_SECONDS),
        });
        let mut assertion = signing_input(&header.to_string(), &claims.to_string());
        let signature = key
            .sign(assertion.as_bytes())
            .map_err(|_| IntrospectionError::Request)?;
        assertion.push('.');
        assertion.push_str(&base64url_encode(&signature));
        Ok(assertion)
    }
}

/// Returns the Basic credentials. Both parts are form-encoded before they are joined (RFC 6749
/// section 2.3.1).
fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, IntrospectionError> {
    let secret = std::str::from_utf8(secret.expose()).map_err(|_| IntrospectionError::Request)?;
    let mut pair = zeroize::Zeroizing::new(String::new());
    push_encoded(&mut pair, client_id);
    pair.push(':');
    push_encoded(&mut pair, secret);
    let text = format!("Basic {}", Base64::encode_string(pair.as_bytes()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| IntrospectionError::Request)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A body of type `application/x-www-form-urlencoded`.
#[derive(Default)]
struct Form(String);

impl Form {
    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        push_encoded(&mut self.0, name);
        self.0.push('=');
        push_encoded(&mut self.0, value);
    }
}

fn push_encoded(text: &mut String, value: &str) {
    use fmt::Write as _;
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
#[path = "introspection_tests.rs"]
mod tests;
