//! The file as it is written, section by section.
//!
//! `raw` lists the known keys; [`super::resolve`] decides what they mean.
//!
//! A file imports only from those after it:
//!
//! - `raw`: the one table of known sections and keys
//! - `demands`: how callers authenticate, and which demands their tokens must meet
//! - `health_check`: how an upstream's health is checked
//! - `schema`: complaints about sections and keys that are unknown or missing
//! - `value`: single values with their places
//! - `quantity`: times, sizes and rates
//! - `url`: URLs

pub(in crate::config) mod demands;
mod health_check;
pub mod quantity;
pub(in crate::config) mod raw;
pub(in crate::config) mod schema;
pub(in crate::config) mod url;
pub(in crate::config) mod value;

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

/// The whole file.
#[derive(Debug, Default)]
pub(in crate::config) struct Document {
    pub(in crate::config) listener: Option<Listener>,
    pub(in crate::config) server_names: Vec<ServerName>,
    pub(in crate::config) tickets: Option<Tickets>,
    pub(in crate::config) trust_domains: Vec<Trust>,
    pub(in crate::config) crl_fetch: Option<CrlFetch>,
    pub(in crate::config) deny_list: Option<DenySection>,
    pub(in crate::config) assertion: Option<Assertion>,
    pub(in crate::config) public: Option<Public>,
    pub(in crate::config) admin: Option<Admin>,
    pub(in crate::config) token_issuers: Vec<TokenIssuerSection>,
    pub(in crate::config) api_keys_section: Option<ApiKeysSection>,
    pub(in crate::config) api_keys: Vec<ApiKeySection>,
    pub(in crate::config) upstreams: Vec<UpstreamSection>,
    pub(in crate::config) routes: Vec<RouteSection>,
    pub(in crate::config) rate_limits: Option<RateLimitsSection>,
    pub(in crate::config) limits: Option<LimitsSection>,
    pub(in crate::config) runtime: Option<Runtime>,
    pub(in crate::config) audit: Option<Audit>,
    /// Names of the sections that are there, right or wrong.
    sections: Vec<String>,
}

impl Document {
    /// Reads the file's text. Nothing comes back when it is not TOML.
    pub(in crate::config) fn read(source: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let root = syntax(source, diagnostics)?;
        let mut document = Self::default();
        for (key, value) in root.get_ref() {
            document.sections.push(key.get_ref().to_string());
            document.read_section(key, value, diagnostics);
        }
        Some(document)
    }

    /// Whether the file has a section, valid or not. `name` is without brackets.
    pub(in crate::config) fn has(&self, name: &str) -> bool {
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
    /// Reads `[tls.…]`: several separate sections below one name.
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
