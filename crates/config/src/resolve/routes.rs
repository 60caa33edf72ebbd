//! `[[route]]`: which requests go to which upstream, and for which callers.

use super::authentication::{self, CredentialParts};
use super::context::{Context, names};
use super::trust::Domain;
use super::upstreams::UpstreamPart;
use super::{bounds, path_encoding, rate_limits};
use crate::assertion::AssertionDetail;
use crate::diagnostics::{Diagnostic, Span};
use crate::document::Document;
use crate::document::demands::Authenticate;
use crate::document::raw::RouteSection;
use crate::document::value::{At, Field, Words as _};
use crate::identity::IdentityPattern;
use crate::policy::Rule;
use crate::policy::rule::Authentication;
use crate::route::{Binding, Route, RouteMeter, RouteTable, WHOAMI_PATH};

/// Maximum value of `bind_body` in bytes. The gateway buffers request bodies of up to `bind_body`
/// bytes, because the assertion contains a hash of the body.
const MAX_BOUND_BODY: u64 = 64 * 1024 * 1024;

/// Builds the routes of all `[[route]]` sections.
pub(super) fn routes(
    document: &Document,
    upstreams: &[UpstreamPart],
    domains: &[Domain],
    credentials: &CredentialParts,
    context: &mut Context<'_>,
) -> Option<RouteTable> {
    let sections = &document.routes;
    context.unique("route", names(sections.iter().map(|s| &s.name)));
    let routes: Vec<Option<Route>> = sections
        .iter()
        .map(|section| route(section, upstreams, domains, credentials, context))
        .collect();
    check_audiences(sections, context);
    path_encoding::warn_of_neighbours(sections, &routes, context);
    check_hosts_served(document, context);
    warn_of_unused(sections, upstreams, context);
    warn_of_no_transactions(sections, upstreams, context);
    let complete = routes.iter().all(Option::is_some);
    match RouteTable::build(routes.into_iter().flatten().collect()) {
        Ok(table) => complete.then_some(table),
        Err(ties) => {
            let place = |name: &str| {
                let sections = sections.iter();
                names(sections.map(|section| &section.name))
                    .find(|(other, _)| *other == name)
                    .map(|(_, place)| place.clone())
                    .unwrap_or_default()
            };
            for tie in ties {
                context.error(
                    Diagnostic::new(
                        place(&tie.second),
                        format!(
                            "routes {:?} and {:?} match {} equally well",
                            tie.first, tie.second, tie.what
                        ),
                    )
                    .label("this route")
                    .also(place(&tie.first), "ties with this one")
                    .help("make one of them more specific, or give them different methods; their order means nothing"),
                );
            }
            None
        }
    }
}

fn route(
    section: &RouteSection,
    upstreams: &[UpstreamPart],
    domains: &[Domain],
    credentials: &CredentialParts,
    context: &mut Context<'_>,
) -> Option<Route> {
    refuse_own_path(section, context);
    check_rewrite(section, context);
    check_request_keys(section, context);
    let rule = rule(section, domains, credentials, context);
    let demanded = rule.as_ref().map(|rule| rule.authentication);
    let authentication = demanded.and_then(|demanded| {
        authentication::authenticators(section, demanded, credentials, context)
    });
    let limits = rate_limits::of_route(section, demanded, context);
    let audience = audience(section, context);
    let upstream = section.upstream.at().and_then(|reference| {
        let found = upstreams.iter().find(|part| {
            part.name
                .as_ref()
                .is_some_and(|name| name.value == reference.value)
        });
        match found {
            Some(part) => part.upstream.clone(),
            None => {
                let known = upstreams.iter().filter_map(|part| part.name.as_ref());
                context.unknown_reference(
                    reference,
                    "upstream",
                    known.map(|name| name.value.as_str()),
                );
                None
            }
        }
    });
    let authentication = authentication?;
    Some(Route {
        name: section.name.value()?.clone(),
        hosts: section.hosts.values(),
        paths: match section.paths.values() {
            paths if paths.is_empty() => return None,
            paths => paths,
        },
        methods: section.methods.values(),
        rule: rule?,
        authenticators: authentication.authenticators,
        resource: authentication.resource,
        limits: limits?,
        forward_token: authentication.forward_token,
        upstream: upstream?,
        audience: audience?,
        binding: section.binding.or(Binding::Request),
        detail: section.assertion.or(AssertionDetail::Full),
        path_encoding: path_encoding::path_encoding(section, context),
        rewrite: section.rewrite.value().cloned(),
        bind_body: bounds::size(&section.bind_body, 1..=MAX_BOUND_BODY, context),
        continue_transaction: section.continue_transaction.or(false),
        upgrade: section.upgrade.values(),
        meter: RouteMeter::default(),
    })
}

/// Refuses a path without wildcards that the gateway serves itself, because the route would never
/// receive a request for this path. A path pattern with wildcards may match such a path.
fn refuse_own_path(section: &RouteSection, context: &mut Context<'_>) {
    for path in section.paths.items() {
        if path.value.is_exact() && path.value.matches(WHOAMI_PATH) {
            context.error(
                Diagnostic::new(path.place.clone(), "the gateway itself answers this path")
                    .label("no route is asked for it")
                    .help("remove it; a wider pattern covers everything else below /.well-known/"),
            );
        }
    }
}

/// Checks that every path of the route starts with `from` of the key `rewrite`, which is the prefix
/// that is replaced.
fn check_rewrite(section: &RouteSection, context: &mut Context<'_>) {
    let Some(rewrite) = section.rewrite.at() else {
        return;
    };
    for path in section.paths.items() {
        if !rewrite.value.covers(&path.value) {
            context.error(
                Diagnostic::new(
                    path.place.clone(),
                    "this path does not begin with what `rewrite` exchanges",
                )
                .also(rewrite.place.clone(), "exchanged here")
                .help("give the route paths below `from` only, or make two routes"),
            );
        }
    }
}

/// Refuses the keys `bind_body` and `continue_transaction` if the route sends no assertion about
/// each request. This is so if the route authenticates no caller or has `binding = "caller"`.
fn check_request_keys(section: &RouteSection, context: &mut Context<'_>) {
    let nobody = section
        .authenticate
        .value()
        .is_some_and(Authenticate::is_unauthenticated);
    let caller = section.binding.value() == Some(&Binding::Caller);
    if !nobody && !caller {
        return;
    }
    for (key, place) in [
        ("bind_body", place_of(&section.bind_body)),
        (
            "continue_transaction",
            place_of(&section.continue_transaction),
        ),
    ] {
        if let Some(place) = place {
            let why = if nobody {
                "where no assertion is sent"
            } else {
                "where assertions are about the caller alone"
            };
            context.error(
                Diagnostic::new(place, format!("`{key}` has no meaning {why}"))
                    .help(format!("remove `{key}`")),
            );
        }
    }
}

/// Reads which callers may use the route. The route must define this, because a default could open
/// or close the route by mistake.
fn rule(
    section: &RouteSection,
    domains: &[Domain],
    credentials: &CredentialParts,
    context: &mut Context<'_>,
) -> Option<Rule> {
    let authentication = authentication::demanded(section, context);
    match &section.authenticate {
        Field::Bad => return None,
        Field::Good(said) if said.value.is_unauthenticated() => {
            let mut complete = true;
            for (key, place) in [
                ("callers", place_of(&section.callers)),
                ("except", place_of(&section.except)),
                ("binding", place_of(&section.binding)),
                ("assertion", place_of(&section.assertion)),
            ] {
                if let Some(place) = place {
                    complete = false;
                    context.error(
                        Diagnostic::new(
                            place,
                            format!("`{key}` has no meaning where nobody is authenticated"),
                        )
                        .also(said.place.clone(), "anybody may use this route")
                        .help(format!("remove `{key}`, or remove authenticate")),
                    );
                }
            }
            return complete.then_some(Rule {
                authentication: Authentication::None,
                callers: Vec::new(),
                except: Vec::new(),
            });
        }
        _ => {}
    }
    if section.callers.is_absent() {
        context.error(
            Diagnostic::new(section.place.clone(), "[[route]] has no `callers`")
                .label("`callers` is missing here")
                .help("say who may use it; callers = [\"*\"] is any authenticated caller"),
        );
        return None;
    }
    let excepted = section.except.items();
    for pattern in section.callers.items().iter().chain(excepted) {
        match &pattern.value {
            IdentityPattern::ApiKey(_) | IdentityPattern::Client { .. } => {
                warn_of_unknown(pattern, credentials, context);
            }
            _ => warn_if_unmatchable(pattern, domains, context),
        }
    }
    Some(Rule {
        authentication: authentication?,
        callers: match section.callers.values() {
            callers if callers.is_empty() => return None,
            callers => callers,
        },
        except: excepted.iter().map(|item| item.value.clone()).collect(),
    })
}

fn place_of<T>(field: &Field<T>) -> Option<Span> {
    field.at().map(|at| at.place.clone())
}

/// Warns if a pattern of callers names an API key or token issuer that is not configured.
fn warn_of_unknown(
    pattern: &At<IdentityPattern>,
    credentials: &CredentialParts,
    context: &mut Context<'_>,
) {
    let (known, help) = match &pattern.value {
        IdentityPattern::ApiKey(Some(name)) => {
            let keys = credentials.api_keys.as_ref();
            let known = keys.is_none_or(|keys| keys.names().any(|known| known == &**name));
            (
                known,
                format!("add an [[api_key]] named \"{name}\", or correct the pattern"),
            )
        }
        IdentityPattern::Client { issuer, .. } => {
            let mut names = credentials
                .issuers
                .iter()
                .filter_map(|part| part.name.as_ref());
            (
                names.any(|name| name.value == **issuer),
                format!("add a [[token_issuer]] named \"{issuer}\", or correct the pattern"),
            )
        }
        _ => return,
    };
    if !known {
        let what = format!("no caller can match {}", pattern.value);
        context.warn(Diagnostic::new(pattern.place.clone(), what).help(help));
    }
}

/// Warns if no trust domain can certify a name that matches the pattern. Then no caller can match
/// the pattern.
pub(super) fn warn_if_unmatchable(
    pattern: &At<IdentityPattern>,
    domains: &[Domain],
    context: &mut Context<'_>,
) {
    let vouched = domains.iter().any(|domain| domain.can_name(&pattern.value));
    if !vouched && !domains.is_empty() {
        let domain = pattern.value.spiffe_trust_domain();
        let known = |name: &str| {
            domains
                .iter()
                .any(|d| d.name.as_ref().is_some_and(|n| n.value.as_str() == name))
        };
        let help = match domain {
            Some(domain) if !known(domain.as_str()) => {
                format!("add a [[trust_domain]] named \"{domain}\", or correct the pattern")
            }
            _ => "extend vouches_for and identity_from of a trust domain, or correct the pattern"
                .to_owned(),
        };
        context.warn(
            Diagnostic::new(
                pattern.place.clone(),
                format!(
                    "no caller can match {}: no trust domain vouches for such a name",
                    pattern.value
                ),
            )
            .help(help),
        );
    }
}

fn audience(section: &RouteSection, context: &mut Context<'_>) -> Option<String> {
    let nobody = section
        .authenticate
        .value()
        .is_some_and(Authenticate::is_unauthenticated);
    match &section.audience {
        Field::Good(audience) => {
            if nobody {
                context.warn(
                    Diagnostic::new(
                        audience.place.clone(),
                        "this audience is never used: without an authenticated caller there is no assertion",
                    )
                    .help("remove it"),
                );
            }
            Some(audience.value.clone())
        }
        Field::Absent if nobody => Some(String::new()),
        Field::Bad => None,
        Field::Absent => {
            context.error(
                Diagnostic::new(section.place.clone(), "[[route]] has no `audience`")
                    .label("`audience` is missing here")
                    .help("say for which service the assertion is, for example the upstream's name; the service demands exactly this text"),
            );
            None
        }
    }
}

/// Refuses two routes with the same audience but different bindings, or with a different content of
/// the assertion. Otherwise a service could receive assertions that it does not expect. Routes
/// without authentication are ignored, because they send no assertions.
fn check_audiences(sections: &[RouteSection], context: &mut Context<'_>) {
    check_same(sections, "bindings", context, |section| {
        (
            section.binding.or(Binding::Request).word(),
            place_of(&section.binding),
        )
    });
    check_same(sections, "kinds of assertions", context, |section| {
        let detail = section.assertion.or(AssertionDetail::Full);
        (detail.as_str(), place_of(&section.assertion))
    });
}

/// Refuses two routes with the same audience if `read` returns different words for them.
fn check_same(
    sections: &[RouteSection],
    what: &str,
    context: &mut Context<'_>,
    read: impl Fn(&RouteSection) -> (&'static str, Option<Span>),
) {
    let mut seen: Vec<(&At<String>, &str)> = Vec::new();
    for section in sections {
        if section
            .authenticate
            .value()
            .is_some_and(Authenticate::is_unauthenticated)
        {
            continue;
        }
        let Some(audience) = section.audience.at() else {
            continue;
        };
        let (word, place) = read(section);
        match seen.iter().find(|(other, _)| other.value == audience.value) {
            None => seen.push((audience, word)),
            Some((_, other)) if *other == word => {}
            Some((first, other)) => {
                let place = place.unwrap_or_else(|| audience.place.clone());
                let first = first.place.clone();
                context.error(
                    Diagnostic::new(
                        place,
                        format!(
                            "audience {:?} has two {what}: \"{word}\" here, \"{other}\" in an earlier route",
                            audience.value,
                        ),
                    )
                    .also(first, "the earlier route")
                    .help("give all routes of an audience the same, or one of them another audience"),
                );
            }
        }
    }
}

/// Warns about hosts of routes that no `[[server_name]]` names, if `[listener]` has no certificate.
/// Callers cannot connect for these hosts.
fn check_hosts_served(document: &Document, context: &mut Context<'_>) {
    let default_entry = document
        .listener
        .as_ref()
        .is_none_or(|listener| !listener.certificate.is_absent());
    if default_entry {
        return;
    }
    let served = || document.server_names.iter().flat_map(|s| s.names.items());
    for host in document.routes.iter().flat_map(|route| route.hosts.items()) {
        if !served().any(|name| name.value.overlaps(&host.value)) {
            context.warn(
                Diagnostic::new(
                    host.place.clone(),
                    format!(
                        "no [[server_name]] serves {}, and there is no default certificate",
                        host.value
                    ),
                )
                .help("add it to the names of a [[server_name]]"),
            );
        }
    }
}

/// Warns if a route continues transactions, but no caller can continue a transaction. Only a
/// service can do so, and only if the `identity` of its `[[upstream]]` has no wildcard.
fn warn_of_no_transactions(
    sections: &[RouteSection],
    upstreams: &[UpstreamPart],
    context: &mut Context<'_>,
) {
    let named = upstreams
        .iter()
        .filter_map(|part| part.upstream.as_ref()?.config().identity.as_ref())
        .any(IdentityPattern::names_one);
    let mut asking = sections
        .iter()
        .filter_map(|section| section.continue_transaction.at().filter(|said| said.value));
    if let (false, Some(said)) = (named, asking.next()) {
        context.warn(
            Diagnostic::new(
                said.place.clone(),
                "no transaction can go on: no upstream has an `identity` without wildcards",
            )
            .help("add the identity of the service that calls here to its own [[upstream]]"),
        );
    }
}

fn warn_of_unused(
    sections: &[RouteSection],
    upstreams: &[UpstreamPart],
    context: &mut Context<'_>,
) {
    for name in upstreams.iter().filter_map(|part| part.name.as_ref()) {
        let used = sections
            .iter()
            .any(|section| section.upstream.value() == Some(&name.value));
        if !used {
            context.warn(
                Diagnostic::new(
                    name.place.clone(),
                    format!("no route leads to upstream {:?}", name.value),
                )
                .help("add a [[route]], or remove the upstream"),
            );
        }
    }
}
