//! The file as a whole: sections in their order, and complaints about keys and
//! sections that are unknown, missing or written the wrong way.
//!
//! Which keys there are is said in [`super::raw`]; what they mean is decided in
//! [`super::resolve`].

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Diagnostics, Span};
use super::raw::{
    Admin, ApiKeySection, ApiKeysSection, Assertion, Audit, CrlFetch, DenySection, LimitsSection,
    Listener, Need, Public, RateLimitsSection, RouteSection, Runtime, SECTIONS, SectionKeys,
    ServerName, Tickets, TokenIssuerSection, Trust, UpstreamSection,
};
use super::suggest::nearest;
use crate::identity::text::printable;

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) listener: Option<Listener>,
    pub(super) server_names: Vec<ServerName>,
    pub(super) tickets: Option<Tickets>,
    pub(super) trust_domains: Vec<Trust>,
    pub(super) crl_fetch: Option<CrlFetch>,
    pub(super) deny_list: Option<DenySection>,
    pub(super) assertion: Option<Assertion>,
    pub(super) public: Option<Public>,
    pub(super) admin: Option<Admin>,
    pub(super) token_issuers: Vec<TokenIssuerSection>,
    pub(super) api_keys_section: Option<ApiKeysSection>,
    pub(super) api_keys: Vec<ApiKeySection>,
    pub(super) upstreams: Vec<UpstreamSection>,
    pub(super) routes: Vec<RouteSection>,
    pub(super) rate_limits: Option<RateLimitsSection>,
    pub(super) limits: Option<LimitsSection>,
    pub(super) runtime: Option<Runtime>,
    pub(super) audit: Option<Audit>,
    /// Names of the sections that are there, right or wrong.
    sections: Vec<String>,
}

/// Everything that can stand in one kind of file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) sections: &'static [SectionKeys],
    /// Where they are described.
    pub(super) document: &'static str,
}

/// The file as a table. Nothing comes back when it is not TOML.
pub(super) fn syntax<'i>(
    source: &'i str,
    diagnostics: &mut Diagnostics,
) -> Option<Spanned<DeTable<'i>>> {
    let (root, errors) = DeTable::parse_recoverable(source);
    if errors.is_empty() {
        return Some(root);
    }
    for error in errors {
        diagnostics.error(syntax_error(&error, source));
    }
    None
}

impl Document {
    /// Reads the file's text. Nothing comes back when it is not TOML.
    pub(super) fn read(source: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let root = syntax(source, diagnostics)?;
        let mut document = Self::default();
        for (key, value) in root.get_ref() {
            document.sections.push(key.get_ref().to_string());
            document.read_section(key, value, diagnostics);
        }
        Some(document)
    }

    /// Whether a section is there, right or wrong. `name` is without brackets.
    pub(super) fn has(&self, name: &str) -> bool {
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
    /// `[tls.…]`: sections of their own below one name.
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

pub(super) fn find<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
    table
        .iter()
        .find(|(name, _)| **name.get_ref() == *key)
        .map(|(_, value)| value)
}

/// Reports unknown keys and missing ones.
pub(super) fn check_keys(
    section: &SectionKeys,
    family: &Family,
    table: &DeTable<'_>,
    place: &Span,
    diagnostics: &mut Diagnostics,
) {
    for key in table.keys() {
        let name: &str = key.get_ref();
        if !section.keys.iter().any(|(known, _)| *known == name) {
            diagnostics.error(unknown_key(name, key.span(), section, family));
        }
    }
    for (key, need) in section.keys {
        if *need == Need::Required && find(table, key).is_none() {
            diagnostics.error(
                Diagnostic::new(place.clone(), format!("{} has no `{key}`", section.title))
                    .label(format!("`{key}` is missing here"))
                    .help(format!("add `{key}`; {} describes it", family.document)),
            );
        }
    }
}

fn unknown_key(name: &str, place: Span, section: &SectionKeys, family: &Family) -> Diagnostic {
    let error = Diagnostic::new(
        place,
        format!("unknown key `{}` in {}", printable(name), section.title),
    )
    .label("unknown key");
    let known = || section.keys.iter().map(|(key, _)| *key);
    if let Some(key) = nearest(name, known()) {
        return error.help(format!("did you mean `{key}`?"));
    }
    let elsewhere = family
        .sections
        .iter()
        .find(|other| other.keys.iter().any(|(key, _)| *key == name));
    match elsewhere {
        Some(other) => error.help(format!("`{name}` is a key of {}", other.title)),
        None => error.help(format!(
            "{} knows: {}",
            section.title,
            known().collect::<Vec<_>>().join(", ")
        )),
    }
}

pub(super) fn unknown_section(
    name: &str,
    place: Span,
    value: &DeValue<'_>,
    family: &Family,
) -> Diagnostic {
    let sections = family.sections;
    let bare = |section: &SectionKeys| section.title.trim_matches(['[', ']']);
    let shown = printable(name);
    if !matches!(value, DeValue::Table(_) | DeValue::Array(_)) {
        let error = Diagnostic::new(place, format!("unknown key `{shown}` outside any section"))
            .label("unknown key");
        let owner = sections
            .iter()
            .find(|section| section.keys.iter().any(|(key, _)| *key == name));
        return match owner {
            Some(section) => error.help(format!("`{name}` belongs below {}", section.title)),
            None => error.help("every key belongs below a section such as [listener]"),
        };
    }
    let error =
        Diagnostic::new(place, format!("unknown section `{shown}`")).label("unknown section");
    match nearest(name, sections.iter().map(bare)) {
        Some(near) => {
            let title = sections
                .iter()
                .find(|section| bare(section) == near)
                .map_or(near, |section| section.title);
            error.help(format!("did you mean {title}?"))
        }
        None => {
            let titles: Vec<_> = sections.iter().map(|section| section.title).collect();
            error.help(format!("the sections are {}", titles.join(", ")))
        }
    }
}

fn only_table<'t, 'i>(
    section: &SectionKeys,
    key: &Spanned<Cow<'_, str>>,
    value: &'t Spanned<DeValue<'i>>,
    diagnostics: &mut Diagnostics,
) -> Option<&'t DeTable<'i>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(table);
    }
    diagnostics.error(
        Diagnostic::new(
            key.span(),
            format!("{} must stand once, as a section", section.title),
        )
        .help(format!("write {} on a line of its own", section.title)),
    );
    None
}

pub(super) fn tables<'t, 'i>(
    section: &SectionKeys,
    key: &Spanned<Cow<'_, str>>,
    value: &'t Spanned<DeValue<'i>>,
    diagnostics: &mut Diagnostics,
) -> Vec<(&'t DeTable<'i>, Span)> {
    let mut found = Vec::new();
    let mut refuse = |place: Span| {
        diagnostics.error(
            Diagnostic::new(
                place,
                format!("{} is written with two brackets", section.title),
            )
            .label("may stand several times")
            .help(format!("write {} on a line of its own", section.title)),
        );
    };
    match value.get_ref() {
        DeValue::Array(elements) => {
            for element in elements.iter() {
                match element.get_ref() {
                    DeValue::Table(table) => found.push((table, element.span())),
                    _ => refuse(element.span()),
                }
            }
        }
        _ => refuse(key.span()),
    }
    found
}

fn syntax_error(error: &toml::de::Error, source: &str) -> Diagnostic {
    let place = error.span().unwrap_or(source.len()..source.len());
    let help = if error.message().contains("duplicate key") {
        "a key stands once in its section, and a section with single brackets once in the file"
    } else {
        "this is not TOML; texts stand in double quotes, lists in brackets (https://toml.io)"
    };
    Diagnostic::new(place, format!("syntax: {}", error.message())).help(help)
}
