//! `rate_limit` of `[[route]]`, and `[rate_limits]`.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::{RedisSection, RouteLimitSection, RouteSection};
use crate::document::value::{At, Field, Words as _};
use crate::identity::Method;
#[cfg(feature = "redis")]
use crate::material::units::UnitKey;
use crate::policy::Authentication;
use crate::policy::rate_limit::{RateLimit, RateTable};
use crate::policy::throttle::{Limiter, Per, RouteLimit};

/// Default maximum number of rate-limit keys. Each key is, for example, a caller or an address
/// whose requests are counted.
const DEFAULT_KEYS: u32 = 100_000;
/// Maximum value of `keys` in `[rate_limits]`. Each key takes 34 bytes, so this many keys take 680
/// MB.
const MAX_KEYS: u32 = 20_000_000;
/// The time window in which the failed authentications of a client are counted.
const FAILED_WINDOW: Duration = Duration::from_secs(60);

/// Default timeout of an operation in the Redis store.
#[cfg(feature = "redis")]
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(100);

/// Builds the rate limiter. Uses the table of the limiter in service, with its counts, if that
/// table has the right capacity.
pub(super) fn limiter(document: &Document, context: &mut Context<'_>) -> Option<Limiter> {
    let section = document.rate_limits.as_ref();
    let keys = match section.map(|section| &section.keys) {
        None | Some(Field::Absent) => DEFAULT_KEYS,
        Some(Field::Bad) => return None,
        Some(Field::Good(said)) if said.value > MAX_KEYS => {
            context.error(
                Diagnostic::new(
                    said.place.clone(),
                    format!("{} keys are too many", said.value),
                )
                .help(format!("write at most {MAX_KEYS}; each takes 34 bytes")),
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
    // Keys are counted only if a route has a rate limit, or if authentication by token or API key
    // can fail. Otherwise, a table of one key saves memory.
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
    let limiter = Limiter::new(table, failed);
    match section.map(|section| &section.redis) {
        None | Some(Field::Absent) => Some(limiter),
        Some(Field::Bad) => None,
        Some(Field::Good(said)) => sharing(limiter, said, context),
    }
}

/// Returns `limiter` with the Redis store that `said` configures.
#[cfg(feature = "redis")]
fn sharing(
    limiter: Limiter,
    said: &At<RedisSection>,
    context: &mut Context<'_>,
) -> Option<Limiter> {
    let section = &said.value;
    let url = section.url.at()?;
    check_url(url, section, context)?;
    let mut timeout = DEFAULT_TIMEOUT;
    super::bounds::set_time(&section.timeout, &mut timeout, context);
    // The store is a separate unit, so the store's connections stay open when other units are
    // loaded.
    let unit = UnitKey::new("store of [rate_limits.redis]");
    let store = context.unit(unit, |context| store(url, timeout, section, context))?;
    Some(limiter.sharing(store, *section.on_store_failure.value()?))
}

#[cfg(feature = "redis")]
fn store(
    url: &At<String>,
    timeout: Duration,
    section: &RedisSection,
    context: &mut Context<'_>,
) -> Option<Arc<crate::policy::redis_store::RedisStore>> {
    use crate::policy::redis_store::{RedisSettings, RedisStore};

    let password = match &section.password_file {
        Field::Bad => return None,
        Field::Absent => None,
        Field::Good(written) => {
            let path = context.files.locate(&written.value);
            let files = &mut context.files;
            Some(files.read_private(written, &path, context.diagnostics)?)
        }
    };
    let roots = match &section.roots {
        Field::Bad => return None,
        Field::Absent => None,
        Field::Good(written) => {
            let path = context.files.locate(&written.value);
            let roots = super::pem::roots(written, &path, context)?;
            // The redis library has its own PEM parser. To make it read the same certificates, they
            // are parsed here and encoded again.
            let text: String = roots
                .iter()
                .map(|der| crate::pem::encode_certificate(der))
                .collect();
            Some(text.into_bytes())
        }
    };
    let store = RedisStore::new(RedisSettings {
        url: url.value.clone(),
        username: section.username.value().cloned(),
        // The line ending that editors and shells add to the file is not part of the password.
        password: password
            .map(|secret| crate::secret::Secret::new(secret.expose().trim_ascii_end().to_vec())),
        roots,
        timeout,
        prefix: section.prefix.or("countersign:".to_owned()),
    });
    match store {
        Ok(store) => Some(Arc::new(store)),
        Err(error) => {
            context.error(
                Diagnostic::new(url.place.clone(), format!("this is no store: {error}"))
                    .help("write for example \"rediss://redis.internal:6379/0\""),
            );
            None
        }
    }
}

/// Checks the URL of the Redis store. The redis library also accepts other schemes, passwords in
/// parameters, and `#insecure`, which the gateway refuses. The URL must contain no secret.
/// Connections to other machines must be encrypted, unless the configuration allows plain text. The
/// store's certificate is always verified.
#[cfg(feature = "redis")]
fn check_url(url: &At<String>, section: &RedisSection, context: &mut Context<'_>) -> Option<()> {
    let (scheme, rest) = url.value.split_once("://").unwrap_or_default();
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let is_loopback = || {
        crate::document::url::HttpUrl::parse(&format!("http://{authority}"))
            .is_ok_and(|url| url.is_loopback())
    };
    let names_user = |pair: &str| pair.starts_with("user") || pair.starts_with("pass");
    let (what, help) = if !["redis", "rediss", "redis+unix"].contains(&scheme) {
        (
            "this is no store",
            "write for example \"rediss://redis.internal:6379/0\"",
        )
    } else if authority.contains('@') || query.split('&').any(names_user) {
        (
            "a password has no place in the configuration",
            "remove user and password; write username and password_file",
        )
    } else if !fragment.is_empty() {
        (
            "nothing comes after # in the URL of a store",
            "remove it; the store's certificate is always verified, with roots",
        )
    } else if scheme == "redis" && !section.allow_plaintext.or(false) && !is_loopback() {
        (
            "this store is not on this machine, so its answers could be forged",
            "write rediss:// with roots, or add allow_plaintext = true where the network itself is trusted",
        )
    } else {
        return Some(());
    };
    context.error(Diagnostic::new(url.place.clone(), what).help(help));
    None
}

#[cfg(not(feature = "redis"))]
fn sharing(_: Limiter, said: &At<RedisSection>, context: &mut Context<'_>) -> Option<Limiter> {
    context.error(
        Diagnostic::new(
            said.place.clone(),
            "this build of countersign knows no Redis",
        )
        .help("take one that was built with --features redis, or remove this"),
    );
    None
}

/// Returns the rate limits of one route. Returns `None` if one of them is invalid.
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
