//! Bearer tokens in HTTP: finds the token in a request, and creates challenges for a token.
//!
//! Implements RFC 6750 sections 2.1 and 3, and RFC 9728. Only the `Authorization` field is read,
//! because tokens in a query often appear in logs (RFC 9700 section 4.3.2).

use serde_json::{Value, json};

use super::authenticator::Resource;
use super::presented::Field;
use crate::policy::Denial;
use crate::reason::{Category, ReasonCode};

/// The well-known path of a resource's metadata (RFC 9728 section 3.1).
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// Returns the request's bearer token. Returns `None` if there is no bearer credential.
///
/// # Errors
/// `malformed-request` if there are several credentials, or the credential is not a `b64token` (RFC
/// 6750 section 2.1).
pub fn bearer_token<'a>(
    authorization: &'a Field,
    query: Option<&str>,
) -> Result<Option<&'a str>, Denial> {
    let refused = |detail: &str| Denial::new(ReasonCode::MalformedRequest, detail);
    let field = match authorization {
        Field::Absent => return Ok(None),
        Field::Several => return Err(refused("there is more than one Authorization field")),
        Field::One(field) => field,
    };
    let Ok(field) = field.to_str() else {
        return Err(refused("the Authorization field is not text"));
    };
    let (scheme, rest) = field.split_once(' ').unwrap_or((field, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Ok(None);
    }
    let token = rest.trim_start_matches(' ');
    if !is_b64token(token) {
        return Err(refused("the Authorization field is not one bearer token"));
    }
    let twice = query.is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some("access_token"))
    });
    if twice {
        return Err(refused("there is a token in the query as well"));
    }
    Ok(Some(token))
}

fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty()
        && body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

/// Returns the value of a `WWW-Authenticate` field for a refusal. `metadata` is the URL of the
/// resource's metadata. `scopes` are the scopes that the route requires.
///
/// If the request has no token, the challenge has no error code (RFC 6750 section 3.1). The client
/// then knows that it must present a token, and does not refresh one.
#[must_use]
pub fn challenge(reason: ReasonCode, metadata: &str, scopes: &[String]) -> String {
    let error = match reason {
        ReasonCode::TokenMissing => None,
        ReasonCode::TokenScope => Some("insufficient_scope"),
        ReasonCode::MalformedRequest => Some("invalid_request"),
        _ if reason.category() == Category::Token => Some("invalid_token"),
        _ => None,
    };
    let mut text = String::from("Bearer ");
    push_parameter(&mut text, "resource_metadata", metadata);
    if let Some(error) = error {
        push_parameter(&mut text, "error", error);
        push_parameter(&mut text, "error_description", reason.title());
    }
    // A challenge without an error names the scopes too, so that the client knows what to request
    // from its issuer.
    if !scopes.is_empty() && matches!(error, None | Some("insufficient_scope")) {
        push_parameter(&mut text, "scope", &scopes.join(" "));
    }
    text
}

/// Appends a parameter. Removes `"` and `\`, which RFC 6750 section 3 does not allow in values.
fn push_parameter(text: &mut String, name: &str, value: &str) {
    if !text.ends_with(' ') {
        text.push_str(", ");
    }
    text.push_str(name);
    text.push_str("=\"");
    text.extend(
        value
            .chars()
            .filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')),
    );
    text.push('"');
}

/// Returns the metadata of one protected resource (RFC 9728 section 2).
#[must_use]
pub fn resource_metadata(
    resource: &str,
    issuers: &[String],
    scopes: &[String],
    bound: bool,
) -> Value {
    let mut document = json!({
        "resource": resource,
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
        "tls_client_certificate_bound_access_tokens": bound,
    });
    if !scopes.is_empty()
        && let Value::Object(members) = &mut document
    {
        members.insert("scopes_supported".to_owned(), json!(scopes));
    }
    document
}

impl Resource<'_> {
    /// Returns the default URL of the metadata of this resource.
    #[must_use]
    pub fn metadata_url(&self) -> String {
        let path = if self.path == "/" { "" } else { self.path };
        format!("https://{}{METADATA_PATH}{path}", self.authority)
    }
}

/// Returns the URL of a resource's metadata. The well-known path is inserted between the host and
/// the path (RFC 9728 section 3.1). Returns `None` if `resource` is not an `https` URL.
#[must_use]
pub fn metadata_url(resource: &str) -> Option<String> {
    let rest = resource.strip_prefix("https://")?;
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, String::new()),
    };
    let path = if path == "/" { "" } else { path.as_str() };
    (!host.is_empty()).then(|| format!("https://{host}{METADATA_PATH}{path}"))
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;
    use http::{HeaderMap, HeaderValue};

    use super::*;

    const METADATA: &str = "https://a.example/.well-known/oauth-protected-resource";

    fn token(fields: &[&str], query: Option<&str>) -> Result<Option<String>, ReasonCode> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        bearer_token(&Field::take(&mut headers, &AUTHORIZATION), query)
            .map(|token| token.map(str::to_owned))
            .map_err(|denial| denial.reason)
    }

    #[test]
    fn one_bearer_token_is_found() {
        for field in [
            "Bearer a.b-c_~+/==",
            "bearer a.b-c_~+/==",
            "BEARER   a.b-c_~+/==",
        ] {
            assert_eq!(
                token(&[field], Some("a=1")),
                Ok(Some("a.b-c_~+/==".to_owned()))
            );
        }
        assert_eq!(token(&[], None), Ok(None));
        assert_eq!(token(&[], Some("access_token=x")), Ok(None));
        for other in ["Basic eDp5", "DPoP a.b.c", "BearerX a", "a.b.c", ""] {
            assert_eq!(token(&[other], None), Ok(None), "{other}");
        }
    }

    #[test]
    fn two_credentials_or_half_a_one_are_malformed() {
        for fields in [
            &["Bearer a", "Bearer b"][..],
            &["Bearer a", "Bearer a"],
            &["Basic eDp5", "Bearer a"],
            &["Bearer a, Bearer b"],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer ="],
            &["Bearer a=b"],
            &["Bearer \"a\""],
            &["Bearer\ta"],
        ] {
            let expected = if fields == ["Bearer\ta"] {
                Ok(None)
            } else {
                Err(ReasonCode::MalformedRequest)
            };
            assert_eq!(token(fields, None), expected, "{fields:?}");
        }
        assert_eq!(
            token(&["Bearer a"], Some("x=1&access_token=b")),
            Err(ReasonCode::MalformedRequest)
        );
    }

    #[test]
    fn challenges_say_what_to_do() {
        let scopes = ["orders:read".to_owned(), "we\"ird\\".to_owned()];
        let challenge = |reason| challenge(reason, METADATA, &scopes);
        assert_eq!(
            challenge(ReasonCode::TokenMissing),
            format!(r#"Bearer resource_metadata="{METADATA}", scope="orders:read weird""#)
        );
        assert_eq!(
            challenge(ReasonCode::TokenExpired),
            format!(
                r#"Bearer resource_metadata="{METADATA}", error="invalid_token", error_description="The token has expired.""#
            )
        );
        assert!(challenge(ReasonCode::TokenScope).contains(r#"error="insufficient_scope""#));
        assert!(challenge(ReasonCode::TokenScope).ends_with(r#"scope="orders:read weird""#));
        assert!(challenge(ReasonCode::MalformedRequest).contains(r#"error="invalid_request""#));
    }

    #[test]
    fn metadata_lies_between_host_and_path() {
        let at = |resource| metadata_url(resource).unwrap();
        assert_eq!(at("https://a.example"), METADATA);
        assert_eq!(at("https://a.example/"), METADATA);
        assert_eq!(
            at("https://a.example/orders/x"),
            format!("{METADATA}/orders/x")
        );
        for path in ["", "/", "/orders/x"] {
            let resource = Resource {
                authority: "a.example",
                path,
            };
            let identifier = format!("https://a.example{path}");
            assert_eq!(Some(resource.metadata_url()), metadata_url(&identifier));
        }
        assert_eq!(metadata_url("http://a.example"), None);
        assert_eq!(metadata_url("https://"), None);
        let document = resource_metadata("https://a.example", &["https://i".to_owned()], &[], true);
        assert_eq!(document["tls_client_certificate_bound_access_tokens"], true);
        assert!(document.get("scopes_supported").is_none());
    }
}
