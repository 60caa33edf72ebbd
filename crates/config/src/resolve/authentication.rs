//! How the callers of a route authenticate: the methods, and what their credentials must contain.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::tokens::IssuerPart;
use crate::authn::api_key::{ApiKeyAuthenticator, ApiKeys};
use crate::authn::bearer_token::{ClientRule, TokenAuthenticator};
use crate::authn::certificate::CertificateAuthenticator;
use crate::authn::challenge::metadata_url;
use crate::authn::token::binding::CertificateBinding;
use crate::authn::token::claims::Demands;
use crate::authn::token::issuer::{Introspection, RouteDemands};
use crate::authn::{Authenticator, Authenticators, Beside};
use crate::diagnostics::Diagnostic;
use crate::document::demands::{Authenticate, Client, Introspect};
use crate::document::raw::{RouteSection, RouteTokenSection};
use crate::document::value::{At, Field};
use crate::identity::{Method, MethodSet};
use crate::policy::Authentication;
use crate::route::ProtectedResource;

/// The API keys and token issuers of the configuration, which routes refer to.
pub(super) struct CredentialParts {
    pub(super) issuers: Vec<IssuerPart>,
    pub(super) api_keys: Option<Arc<ApiKeys>>,
}

/// How one route authenticates its callers, and whether it forwards their tokens.
pub(super) struct RouteAuthentication {
    pub(super) authenticators: Authenticators,
    pub(super) resource: Option<ProtectedResource>,
    pub(super) forward_token: bool,
}

/// Returns the authentication that the route requires, or `None` if it is invalid. A route with a
/// table `token` requires a token, even if `authenticate` does not name the method `token`.
pub(super) fn demanded(
    section: &RouteSection,
    context: &mut Context<'_>,
) -> Option<Authentication> {
    let said = match &section.authenticate {
        Field::Bad => return None,
        Field::Absent => None,
        Field::Good(said) => Some(said),
    };
    let has_token = !section.token.is_absent();
    if let Some(Authenticate::Unauthenticated) = said.map(|said| &said.value) {
        for (key, field) in [
            ("token", section.token.at().map(|at| &at.place)),
            (
                "forward_token",
                section.forward_token.at().map(|at| &at.place),
            ),
        ] {
            if let (Some(place), Some(said)) = (field, said) {
                context.error(
                    Diagnostic::new(
                        place.clone(),
                        format!("`{key}` has no meaning where nobody is authenticated"),
                    )
                    .also(said.place.clone(), "anybody may use this route")
                    .help(format!("remove `{key}`, or remove authenticate")),
                );
            }
        }
        return Some(Authentication::None);
    }
    let written = said.map_or(&[][..], |said| said.value.methods());
    if let Some(method) = written.iter().find(|method| method.value == Method::Token)
        && !has_token
    {
        context.error(
            Diagnostic::new(
                method.place.clone(),
                "this route does not say which tokens it takes",
            )
            .help("add token = { issuer = \"NAME\" } to the route"),
        );
        return None;
    }
    if let Some(forward) = section.forward_token.at()
        && forward.value
        && !has_token
    {
        context.error(
            Diagnostic::new(forward.place.clone(), "there is no token to forward")
                .help("add token = { issuer = \"NAME\" } to the route, or remove forward_token"),
        );
    }
    let mut methods: MethodSet = written.iter().map(|method| method.value).collect();
    if said.is_none() {
        methods = methods.with(Method::Certificate);
    }
    if has_token {
        methods = methods.with(Method::Token);
    }
    let any = matches!(said.map(|said| &said.value), Some(Authenticate::Any(_)));
    let nameless = !any && !methods.contains(Method::Certificate);
    if nameless && methods.iter().count() > 1 {
        let place = said.map_or_else(|| section.place.clone(), |said| said.place.clone());
        context.error(
            Diagnostic::new(place, "a token and an API key would name two callers")
                .help("add \"certificate\", which then names the caller, or demand one of them"),
        );
        return None;
    }
    Some(
        if methods == MethodSet::default().with(Method::Certificate) {
            Authentication::Certificate
        } else if any {
            Authentication::Any(methods)
        } else {
            Authentication::All(methods)
        },
    )
}

/// Builds the authenticators of a route.
pub(super) fn authenticators(
    section: &RouteSection,
    authentication: Authentication,
    parts: &CredentialParts,
    context: &mut Context<'_>,
) -> Option<RouteAuthentication> {
    let methods = authentication.methods();
    let beside = match authentication {
        _ if !methods.contains(Method::Certificate) => Beside::Ignored,
        Authentication::Any(_) => Beside::Alternative,
        _ => Beside::Demanded,
    };
    let mut resource = None;
    let mut each: Vec<Box<dyn Authenticator>> = Vec::new();
    if matches!(
        authentication,
        Authentication::All(_) | Authentication::Any(_)
    ) {
        for method in methods.iter() {
            each.push(match method {
                Method::Certificate => Box::new(CertificateAuthenticator),
                Method::ApiKey => Box::new(api_key(section, beside, parts)?),
                Method::Token => {
                    let (token, described) = token(section, beside, parts, context)?;
                    resource = Some(described);
                    Box::new(token)
                }
            });
        }
    }
    Some(RouteAuthentication {
        authenticators: Authenticators::new(authentication, each),
        resource,
        forward_token: section.forward_token.or(false),
    })
}

fn api_key(
    section: &RouteSection,
    beside: Beside,
    parts: &CredentialParts,
) -> Option<ApiKeyAuthenticator> {
    Some(ApiKeyAuthenticator {
        keys: Arc::clone(parts.api_keys.as_ref()?),
        route: section.name.value()?.clone(),
        beside,
    })
}

fn token(
    section: &RouteSection,
    beside: Beside,
    parts: &CredentialParts,
    context: &mut Context<'_>,
) -> Option<(TokenAuthenticator, ProtectedResource)> {
    let said = &section.token.at()?.value;
    let reference = said.issuer.at()?;
    let known = || parts.issuers.iter().filter_map(|part| part.name.as_ref());
    let Some(part) = parts.issuers.iter().find(|part| {
        part.name
            .as_ref()
            .is_some_and(|name| name.value == reference.value)
    }) else {
        context.unknown_reference(
            reference,
            "token_issuer",
            known().map(|name| name.value.as_str()),
        );
        return None;
    };
    check_audience(said, part, context);
    let client = client(said, beside, context);
    let resource = resource(said, context);
    let introspection = introspection(said, part, context)?;
    let demands = Demands {
        audience: said.audience.value().cloned(),
        scopes: said.scopes.values(),
        claims: said.claims.value().cloned().unwrap_or_default().0,
    };
    let described = ProtectedResource {
        identifier: resource.clone()?,
        issuer: part.url.clone()?,
        scopes: demands.scopes.clone(),
        bound: part.binding == CertificateBinding::Required,
    };
    let token = TokenAuthenticator {
        issuer: Arc::clone(part.issuer.as_ref()?),
        demands: RouteDemands::new(demands, introspection),
        client: client?,
        beside,
        resource: resource?,
    };
    Some((token, described))
}

fn check_audience(said: &RouteTokenSection, part: &IssuerPart, context: &mut Context<'_>) {
    if let Some(audience) = said.audience.at()
        && !part.audiences.is_empty()
        && !part.audiences.contains(&audience.value)
    {
        context.error(
            Diagnostic::new(
                audience.place.clone(),
                format!("the issuer's `audience` does not have {:?}", audience.value),
            )
            .help(format!(
                "add it there, or choose among: {}",
                part.audiences.join(", ")
            )),
        );
    }
}

fn client(
    said: &RouteTokenSection,
    beside: Beside,
    context: &mut Context<'_>,
) -> Option<ClientRule> {
    let written = match &said.client {
        Field::Bad => return None,
        Field::Absent => return Some(ClientRule::Any),
        Field::Good(written) => written,
    };
    let rule = match &written.value {
        Client::Any => ClientRule::Any,
        Client::Caller => ClientRule::IsCaller,
        Client::Listed(clients) => ClientRule::Listed(clients.clone()),
    };
    if beside == Beside::Ignored && !matches!(rule, ClientRule::Any) {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "there is no certificate that the token's client could belong to",
            )
            .help("add \"certificate\" to authenticate, or name the clients in callers: \"client:ISSUER/CLIENT_ID\""),
        );
        return None;
    }
    Some(rule)
}

/// Reads the key `resource`: the identifier of a protected resource (RFC 9728). Returns `None` if
/// it is invalid, and `Some(None)` if the key is absent.
fn resource(said: &RouteTokenSection, context: &mut Context<'_>) -> Option<Option<String>> {
    let written: &At<String> = match &said.resource {
        Field::Bad => return None,
        Field::Absent => return Some(None),
        Field::Good(written) => written,
    };
    let good = metadata_url(&written.value).is_some()
        && !written.value.ends_with('/')
        && !written.value.contains(['?', '#'])
        && written.value.parse::<http::Uri>().is_ok();
    if good {
        return Some(Some(written.value.clone()));
    }
    context.error(
        Diagnostic::new(
            written.place.clone(),
            "this does not identify a protected resource",
        )
        .label("expected an https URL without query, fragment and final slash")
        .help("write for example \"https://orders.example.org/orders\""),
    );
    None
}

fn introspection(
    said: &RouteTokenSection,
    part: &IssuerPart,
    context: &mut Context<'_>,
) -> Option<Introspection> {
    let written = match &said.introspect {
        Field::Bad => return None,
        Field::Absent => return Some(Introspection::AsNeeded),
        Field::Good(written) => written,
    };
    if !part.introspects {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "this issuer cannot be asked about tokens",
            )
            .help("add [token_issuer.introspection] to it, or remove `introspect`"),
        );
        return None;
    }
    match written.value {
        Introspect::Always => Some(Introspection::Always),
        Introspect::OncePer(time) => {
            let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
            if bounds.contains(&time.get()) {
                return Some(Introspection::OncePer(time.get().as_secs()));
            }
            context.error(
                Diagnostic::new(written.place.clone(), format!("{time} is out of bounds"))
                    .help("write a duration between 1s and 1h, or \"always\""),
            );
            None
        }
    }
}
