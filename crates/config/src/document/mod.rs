//! The configuration file as it is written, section by section.
//!
//! `raw` lists the known keys. [`super::resolve`] decides what the values mean.
//!
//! Each file imports only from files below it in this list:
//!
//! - `raw`: the table of all known sections and keys
//! - `demands`: how callers authenticate, and what their tokens must contain
//! - `health_check`: how an upstream's health is checked
//! - `schema`: reports sections and keys that are unknown or missing
//! - `value`: single values with their places in the file
//! - `quantity`: durations, sizes and rates
//! - `url`: URLs

pub(crate) mod demands;
mod health_check;
pub mod quantity;
pub(crate) mod raw;
pub(crate) mod schema;
pub(crate) mod url;
pub(crate) mod value;

use std::borrow::Cow;

use toml::Spanned;
use toml::de::DeValue;

use super::diagnostics::Diagnostics;
use raw::{
    Admin, ApiKeySection, ApiKeysSection, Assertion, Audit, CrlFetch, DenySection, LimitsSection,
    Listener, Public, RateLimitsSection, RouteSection, Runtime, SECTIONS, ServerName, Tickets,
    TokenIssuerSection, Trust, UpstreamSection,
};
use schema::{only_table, syntax, tables, unknown_section};

/// The content of the configuration file. A field is `None` or empty if the file has no such
/// section.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) listener: Option<Listener>,
    pub(crate) server_names: Vec<ServerName>,
    pub(crate) tickets: Option<Tickets>,
    pub(crate) trust_domains: Vec<Trust>,
    pub(crate) crl_fetch: Option<CrlFetch>,
    pub(crate) deny_list: Option<DenySection>,
    pub(crate) assertion: Option<Assertion>,
    pub(crate) public: Option<Public>,
    pub(crate) admin: Option<Admin>,
    pub(crate) token_issuers: Vec<TokenIssuerSection>,
    pub(crate) api_keys_section: Option<ApiKeysSection>,
    pub(crate) api_keys: Vec<ApiKeySection>,
    pub(crate) upstreams: Vec<UpstreamSection>,
    pub(crate) routes: Vec<RouteSection>,
    pub(crate) rate_limits: Option<RateLimitsSection>,
    pub(crate) limits: Option<LimitsSection>,
    pub(crate) runtime: Option<Runtime>,
    pub(crate) audit: Option<Audit>,
    /// The names of the sections in the file, even if a section is invalid.
    sections: Vec<String>,
}

impl Document {
    /// Reads the text of a configuration file. Returns `None` if the text is not TOML.
    pub(crate) fn read(source: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let root = syntax(source, diagnostics)?;
        let mut document = Self::default();
        for (key, value) in root.get_ref() {
            document.sections.push(key.get_ref().to_string());
            document.read_section(key, value, diagnostics);
        }
        Some(document)
    }

    /// Whether the file has a section with this name, even if the section is invalid. `name` has no
    /// brackets.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.sections.iter().any(|section| section == name)
    }

    fn read_section(
        &mut self,
        key: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        diagnostics: &mut Diagnostics,
    ) {
        macro_rules! one {
            ($field:ident, $type:ident) => {
                self.$field = only_table(&$type::SECTION, key, value, diagnostics)
                    .map(|table| $type::read(table, key.span(), diagnostics))
            };
        }
        macro_rules! many {
            ($field:ident, $type:ident) => {
                self.$field = tables(&$type::SECTION, key, value, diagnostics)
                    .into_iter()
                    .map(|(table, place)| $type::read(table, place, diagnostics))
                    .collect()
            };
        }
        match &**key.get_ref() {
            "listener" => one!(listener, Listener),
            "server_name" => many!(server_names, ServerName),
            "tls" => self.read_tls(key, value, diagnostics),
            "trust_domain" => many!(trust_domains, Trust),
            "crl_fetch" => one!(crl_fetch, CrlFetch),
            "deny_list" => one!(deny_list, DenySection),
            "assertion" => one!(assertion, Assertion),
            "public" => one!(public, Public),
            "admin" => one!(admin, Admin),
            "token_issuer" => many!(token_issuers, TokenIssuerSection),
            "api_keys" => one!(api_keys_section, ApiKeysSection),
            "api_key" => many!(api_keys, ApiKeySection),
            "upstream" => many!(upstreams, UpstreamSection),
            "route" => many!(routes, RouteSection),
            "rate_limits" => one!(rate_limits, RateLimitsSection),
            "limits" => one!(limits, LimitsSection),
            "runtime" => one!(runtime, Runtime),
            "audit" => one!(audit, Audit),
            unknown => {
                let error = unknown_section(unknown, key.span(), value.get_ref(), &SECTIONS);
                diagnostics.error(error);
            }
        }
    }
}

impl Document {
    /// Reads the tables below `[tls]`, for example `[tls.tickets]`. Each of these tables is a
    /// separate section.
    fn read_tls(
        &mut self,
        key: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        diagnostics: &mut Diagnostics,
    ) {
        let DeValue::Table(sections) = value.get_ref() else {
            let error = unknown_section("tls", key.span(), value.get_ref(), &SECTIONS);
            return diagnostics.error(error);
        };
        for (key, value) in sections {
            match &**key.get_ref() {
                "tickets" => {
                    self.tickets = only_table(&Tickets::SECTION, key, value, diagnostics)
                        .map(|table| Tickets::read(table, key.span(), diagnostics));
                }
                unknown => diagnostics.error(unknown_section(
                    &format!("tls.{unknown}"),
                    key.span(),
                    value.get_ref(),
                    &SECTIONS,
                )),
            }
        }
    }
}
