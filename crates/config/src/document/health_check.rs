//! The key `health_check` of an `[[upstream]]`. Its value is an inline table.

use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;
use toml::Spanned;
use toml::de::DeValue;

use super::quantity::TimeSpan;
use super::value::{FromToml, Several, text, wrong_type};
use crate::diagnostics::suggest::nearest;
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::upstream::HealthCheck;

const FORM: &str = "{ path = \"/healthz\", interval = \"5s\" }";
const KEYS: [&str; 6] = [
    "path",
    "interval",
    "timeout",
    "status",
    "healthy",
    "unhealthy",
];
const MIN_SPAN: Duration = Duration::from_millis(100);
const MAX_SPAN: Duration = Duration::from_secs(3600);

impl FromToml for HealthCheck {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            return wrong_type(value, FORM, diagnostics);
        };
        let mut check = Self {
            path: PathAndQuery::from_static("/"),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            statuses: vec![StatusCode::OK],
            healthy: 2,
            unhealthy: 3,
        };
        let mut has_path = false;
        for (key, value) in table {
            match &**key.get_ref() {
                "path" => {
                    check.path = path(value, diagnostics)?;
                    has_path = true;
                }
                "interval" => check.interval = span(value, diagnostics)?,
                "timeout" => check.timeout = span(value, diagnostics)?,
                "status" => {
                    let statuses = Several::<Status>::from_toml(value, diagnostics)?;
                    check.statuses = statuses.0.iter().map(|status| status.value.0).collect();
                }
                "healthy" => check.healthy = u32::from_toml(value, diagnostics)?,
                "unhealthy" => check.unhealthy = u32::from_toml(value, diagnostics)?,
                other => {
                    let help = match nearest(other, KEYS) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("there are: {}", KEYS.join(", ")),
                    };
                    diagnostics.error(
                        Diagnostic::new(key.span(), format!("unknown key `{other}`"))
                            .label("not a key of a health check")
                            .help(help),
                    );
                    return None;
                }
            }
        }
        if !has_path {
            diagnostics.error(
                Diagnostic::new(value.span(), "this health check has no `path`")
                    .help(format!("write {FORM}")),
            );
            return None;
        }
        Some(check)
    }
}

fn path(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<PathAndQuery> {
    let written = text(value, "a path", diagnostics)?;
    let parsed = written.parse().ok().filter(|_| written.starts_with('/'));
    if parsed.is_none() {
        diagnostics
            .error(Diagnostic::new(value.span(), "this is not a path").help("write \"/healthz\""));
    }
    parsed
}

fn span(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Duration> {
    let span = TimeSpan::from_toml(value, diagnostics)?.get();
    let fits = (MIN_SPAN..=MAX_SPAN).contains(&span);
    if !fits {
        diagnostics.error(
            Diagnostic::new(value.span(), "this duration is out of bounds")
                .help("write a duration between 100ms and 1h"),
        );
    }
    fits.then_some(span)
}

/// A response status with which a service counts as healthy. It must be a final status (not 1xx).
#[derive(Debug, Clone, Copy)]
struct Status(StatusCode);

impl FromToml for Status {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let number = u32::from_toml(value, diagnostics)?;
        let status = u16::try_from(number)
            .ok()
            .filter(|number| (200..600).contains(number))
            .and_then(|number| StatusCode::from_u16(number).ok());
        if status.is_none() {
            diagnostics.error(
                Diagnostic::new(value.span(), "this is not the status of an answer")
                    .help("write numbers from 200 to 599"),
            );
        }
        status.map(Self)
    }
}
