//! `rate_limit` of routes, and `[rate_limits]`.

use std::sync::Arc;
use std::time::Duration;

use super::Context;
use crate::config::diagnostics::Diagnostic;
use crate::config::document::Document;
use crate::config::raw::{RouteLimitSection, RouteSection};
use crate::config::value::{At, Field, Words as _};
use crate::identity::Method;
use crate::policy::Authentication;
use crate::policy::rate_limit::{RateLimit, RateTable};
use crate::policy::throttle::{Limiter, Per, RouteLimit};

/// Keys that there is room for, where nothing is said.
const DEFAULT_KEYS: u32 = 100_000;
/// More would take gigabytes.
const MOST_KEYS: u32 = 20_000_000;
/// In which time so many authentications may fail.
const FAILED_WINDOW: Duration = Duration::from_secs(60);

/// Builds the limiter. What was counted goes on, unless there is another number of
/// keys.
pub(super) fn limiter(document: &Document, context: &mut Context<'_>) -> Option<Limiter> {
    let section = document.rate_limits.as_ref();
    let keys = match section.map(|section| &section.keys) {
        None | Some(Field::Absent) => DEFAULT_KEYS,
        Some(Field::Bad) => return None,
        Some(Field::Good(said)) if said.value > MOST_KEYS => {
            context.error(
                Diagnostic::new(
                    said.place.clone(),
                    format!("{} keys are too many", said.value),
                )
                .help(format!("write at most {MOST_KEYS}; each takes 34 bytes")),
            );
            return None;
        }
        Some(Field::Good(said)) => said.value,
    };
    let failed = match section.map(|section| &section.failed_authentications) {
        None | Some(Field::Absent) => RateLimit::FAILED_AUTHENTICATION,
        Some(Field::Bad) => return None,
        Some(Field::Good(said)) => RateLimit::new(said.value, FAILED_WINDOW, said.value).ok()?,
    };
    // Most gateways count nothing at all.
    let counts = document
        .routes
        .iter()
        .any(|route| !route.rate_limit.is_absent() || !route.token.is_absent())
        || !document.api_keys.is_empty();
    let keys = if counts { keys as usize } else { 1 };
    let known = context
        .previous
        .map(|previous| previous.limiter.table())
        .filter(|table| table.capacity() == RateTable::capacity_for(keys));
    let table = known.map_or_else(|| Arc::new(RateTable::new(keys)), Arc::clone);
    Some(Limiter::new(table, failed))
}

/// The limits of one route; `None` when one is bad.
pub(super) fn of_route(
    section: &RouteSection,
    authentication: Option<Authentication>,
    context: &mut Context<'_>,
) -> Option<Vec<RouteLimit>> {
    let said = match &section.rate_limit {
        Field::Bad => return None,
        Field::Absent => return Some(Vec::new()),
        Field::Good(said) => &said.value.0,
    };
    let route = section.name.value()?;
    let limits: Vec<Option<RouteLimit>> = said
        .iter()
        .map(|said| limit(route, said, authentication, context))
        .collect();
    limits.into_iter().collect()
}

fn limit(
    route: &str,
    said: &At<RouteLimitSection>,
    authentication: Option<Authentication>,
    context: &mut Context<'_>,
) -> Option<RouteLimit> {
    let (per, requests, window) = (
        said.value.per.at()?,
        *said.value.requests.value()?,
        said.value.window.at()?,
    );
    let burst = match &said.value.burst {
        Field::Bad => return None,
        Field::Absent => requests,
        Field::Good(burst) => burst.value,
    };
    if let Some(authentication) = authentication {
        let methods = authentication.methods();
        let needs = match per.value {
            Per::Subject => Some(Method::Token),
            Per::ApiKey => Some(Method::ApiKey),
            Per::Caller if authentication == Authentication::None => Some(Method::Certificate),
            Per::Caller | Per::Route | Per::Address => None,
        };
        if let Some(method) = needs.filter(|method| !methods.contains(*method)) {
            context.error(
                Diagnostic::new(
                    per.place.clone(),
                    format!(
                        "nothing would be counted per {}: the route does not authenticate by {}",
                        per.value.word(),
                        method.as_str()
                    ),
                )
                .help("choose another `per`, or change `authenticate`"),
            );
            return None;
        }
    }
    match RateLimit::new(requests, window.value.get(), burst) {
        Ok(limit) => Some(RouteLimit::new(route, per.value, limit)),
        Err(error) => {
            context.error(
                Diagnostic::new(
                    window.place.clone(),
                    format!("this is no rate limit: {error}"),
                )
                .help("write for example { per = \"caller\", requests = 100, window = \"1s\" }"),
            );
            None
        }
    }
}
