//! Values of `[[route]]` that have a special syntax: how callers authenticate, and what their
//! tokens must contain.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::quantity::TimeSpan;
use super::schema::find;
use super::value::{At, FromToml, List, Several, wrong_type};
use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::identity::{IdentityPattern, Method};

/// How a route authenticates its callers.
#[derive(Debug, Clone)]
pub(crate) enum Authenticate {
    /// Callers must authenticate with all of these methods together.
    All(List<Method>),
    /// Callers must authenticate with at least one of these methods.
    Any(List<Method>),
    /// The route does not authenticate callers.
    Unauthenticated,
}

impl Authenticate {
    /// Returns the configured methods. Empty if the route does not authenticate callers.
    pub(crate) fn methods(&self) -> &[At<Method>] {
        match self {
            Self::All(methods) | Self::Any(methods) => methods,
            Self::Unauthenticated => &[],
        }
    }

    pub(crate) const fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Unauthenticated)
    }
}

impl FromToml for Authenticate {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        const FORM: &str =
            "{ all = [\"certificate\"] }, { any = [\"certificate\", \"api-key\"] } or \"none\"";
        const WHAT: &str = "this does not say how callers authenticate";
        let entries = match value.get_ref() {
            DeValue::String(text) if text == "none" => return Some(Self::Unauthenticated),
            DeValue::Table(table) => table,
            DeValue::String(_) => return wrong_form(value.span(), WHAT, FORM, diagnostics),
            _ => return wrong_type(value, FORM, diagnostics),
        };
        let mut entries = entries.iter();
        let (Some((key, list)), None) = (entries.next(), entries.next()) else {
            return wrong_form(value.span(), WHAT, FORM, diagnostics);
        };
        let make: fn(List<Method>) -> Self = match &**key.get_ref() {
            "all" => Self::All,
            "any" => Self::Any,
            _ => return wrong_form(key.span(), WHAT, FORM, diagnostics),
        };
        let methods = Several::<Method>::from_toml(list, diagnostics)?.0;
        for (index, method) in methods.iter().enumerate() {
            let mut earlier = methods.iter().take(index);
            if earlier.any(|earlier| earlier.value == method.value) {
                diagnostics.error(
                    Diagnostic::new(
                        method.place.clone(),
                        format!("\"{}\" stands twice", method.value.as_str()),
                    )
                    .help("each method stands once"),
                );
                return None;
            }
        }
        Some(make(methods))
    }
}

/// The claims that a token must have. Each claim must have one of the listed values.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClaimDemands(pub(crate) Vec<(String, Vec<Value>)>);

impl FromToml for ClaimDemands {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            return wrong_type(value, "a table of claims", diagnostics);
        };
        let read: Vec<(String, Vec<Value>)> = table
            .iter()
            .filter_map(|(name, wanted)| {
                let values = match wanted.get_ref() {
                    DeValue::Array(items) if !items.is_empty() => items
                        .iter()
                        .map(|item| claim(item, diagnostics))
                        .collect::<Option<Vec<_>>>()?,
                    _ => vec![claim(wanted, diagnostics)?],
                };
                Some((name.get_ref().to_string(), values))
            })
            .collect();
        (read.len() == table.len()).then_some(Self(read))
    }
}

/// Reads a permitted value of a claim. Only strings, integers and booleans are valid, because only
/// these types can be compared.
fn claim(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Value> {
    match value.get_ref() {
        DeValue::String(text) => Some(Value::from(&**text)),
        DeValue::Boolean(truth) => Some(Value::from(*truth)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(Value::from)
            .or_else(|| wrong_type(value, "a smaller number", diagnostics)),
        _ => wrong_type(
            value,
            "a text, a whole number, true or false, or a list of these",
            diagnostics,
        ),
    }
}

/// The key `client`: which callers may use a token, depending on its `client_id`. `Any` permits any
/// caller. `Caller` permits only the caller whose name is the `client_id`. `Listed` has the
/// permitted callers of each `client_id`.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    Any,
    Caller,
    Listed(Vec<(String, Vec<IdentityPattern>)>),
}

impl FromToml for Client {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        const FORM: &str = "\"any\", \"caller\" or { CLIENT_ID = [\"spiffe://example.org/…\"] }";
        const WHAT: &str = "this does not say which client belongs to which caller";
        match value.get_ref() {
            DeValue::String(text) if text == "any" => Some(Self::Any),
            DeValue::String(text) if text == "caller" => Some(Self::Caller),
            DeValue::String(_) => wrong_form(value.span(), WHAT, FORM, diagnostics),
            DeValue::Table(table) => listed(table, diagnostics),
            _ => wrong_type(value, FORM, diagnostics),
        }
    }
}

fn listed(table: &DeTable<'_>, diagnostics: &mut Diagnostics) -> Option<Client> {
    let read: Vec<(String, Vec<IdentityPattern>)> = table
        .iter()
        .filter_map(|(client, callers)| {
            let callers = Several::<IdentityPattern>::from_toml(callers, diagnostics)?;
            let callers = callers.0.into_iter().map(|caller| caller.value).collect();
            Some((client.get_ref().to_string(), callers))
        })
        .collect();
    (read.len() == table.len()).then_some(Client::Listed(read))
}

/// The key `introspect`: how often the gateway asks the issuer whether one token is still active.
/// `OncePer` is the time for which the gateway keeps the issuer's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Introspect {
    Always,
    OncePer(TimeSpan),
}

impl FromToml for Introspect {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        const FORM: &str = "\"always\" or { once_per = \"10s\" }";
        const WHAT: &str = "this does not say how often the issuer is asked";
        match value.get_ref() {
            DeValue::String(text) if text == "always" => Some(Self::Always),
            DeValue::String(_) => wrong_form(value.span(), WHAT, FORM, diagnostics),
            DeValue::Table(table) => match (find(table, "once_per"), table.len()) {
                (Some(time), 1) => TimeSpan::from_toml(time, diagnostics).map(Self::OncePer),
                _ => wrong_form(value.span(), WHAT, FORM, diagnostics),
            },
            _ => wrong_type(value, FORM, diagnostics),
        }
    }
}

fn wrong_form<T>(place: Span, what: &str, form: &str, diagnostics: &mut Diagnostics) -> Option<T> {
    diagnostics.error(Diagnostic::new(place, what.to_owned()).help(format!("write {form}")));
    None
}
