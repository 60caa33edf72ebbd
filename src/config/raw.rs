//! The configuration file as it is written: every section, every key, each
//! value with its place.
//!
//! The `sections!` table is the one list of known keys: a key that is not in it
//! is refused, and `docs/configuration.md` is compared with it. Whether values
//! make sense together is decided in [`super::resolve`].

use std::net::SocketAddr;

use http::{HeaderName, Method};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Diagnostics, Span};
use super::quantity::{ByteSize, TimeSpan};
use super::suggest::nearest;
use super::value::{Field, FromToml, List, Means, PublicTls, Serve, Several, wrong_type};
use crate::assertion::SigningAlgorithm;
use crate::identity::pattern::{HostPattern, PathPattern};
use crate::identity::{IdentityPattern, NameType, TrustDomain};
use crate::route::Binding;
use crate::tls::ClientCertificate;
use crate::trust::{RevocationDepth, RevocationPosture};

/// A section's name as it is written, its keys, and which of them it cannot do
/// without.
#[derive(Debug, Clone, Copy)]
pub(super) struct SectionKeys {
    pub(super) title: &'static str,
    pub(super) keys: &'static [(&'static str, Need)],
}

/// Whether a section can do without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    Optional,
}

use Need::{Optional, Required};

macro_rules! sections {
    ($(
        $title:literal
        $(#[$doc:meta])*
        $name:ident { $($key:ident: $type:ty = $need:ident,)+ }
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub(super) struct $name {
                /// Where the section begins.
                #[allow(dead_code, reason = "some sections complain about single keys only")]
                pub(super) place: Span,
                $(pub(super) $key: Field<$type>,)+
            }

            impl $name {
                const SECTION: SectionKeys = SectionKeys {
                    title: $title,
                    keys: &[$((stringify!($key), $need)),+],
                };

                fn read(
                    table: &DeTable<'_>,
                    place: Span,
                    diagnostics: &mut Diagnostics,
                ) -> Self {
                    check_keys(&Self::SECTION, table, &place, diagnostics);
                    let absent = |field: &str| {
                        let need = Self::SECTION.keys.iter().find(|(key, _)| *key == field);
                        need.is_some_and(|(_, need)| *need == Required)
                    };
                    Self {
                        place,
                        $($key: match Field::read(find(table, stringify!($key)), diagnostics) {
                            // `check_keys` has reported that it is missing.
                            Field::Absent if absent(stringify!($key)) => Field::Bad,
                            field => field,
                        },)+
                    }
                }
            }
        )+

        /// All sections and their keys.
        pub(super) const SECTIONS: &[SectionKeys] = &[$($name::SECTION),+];
    };
}

sections! {
    "[listener]"
    /// Where callers connect.
    Listener {
        address: SocketAddr = Required,
        certificate: String = Optional,
        private_key: String = Optional,
        client_certificate: ClientCertificate = Optional,
        trust_domains: Several<String> = Optional,
    }

    "[[server_name]]"
    /// A certificate and trust of its own for some names.
    ServerName {
        names: Several<HostPattern> = Required,
        certificate: String = Required,
        private_key: String = Required,
        client_certificate: ClientCertificate = Optional,
        trust_domains: Several<String> = Optional,
    }

    "[[trust_domain]]"
    /// Whose certificates are believed.
    Trust {
        name: TrustDomain = Required,
        roots: Several<String> = Required,
        intermediates: List<String> = Optional,
        crls: List<String> = Optional,
        revocation: RevocationPosture = Optional,
        revocation_depth: RevocationDepth = Optional,
        vouches_for: Several<IdentityPattern> = Optional,
        identity_from: Several<NameType> = Optional,
    }

    "[assertion]"
    /// What services are told.
    Assertion {
        issuer: String = Required,
        header: HeaderName = Optional,
        algorithm: SigningAlgorithm = Optional,
        lifetime: TimeSpan = Optional,
        keys: String = Required,
    }

    "[public]"
    /// The read-only listener for everybody.
    Public {
        address: SocketAddr = Required,
        tls: PublicTls = Optional,
        serve: Several<Serve> = Optional,
    }

    "[admin]"
    /// The operators' listener.
    Admin {
        address: SocketAddr = Required,
    }

    "[[upstream]]"
    /// A service behind the gateway.
    UpstreamSection {
        name: String = Required,
        endpoints: Several<String> = Required,
        allow_plaintext: bool = Optional,
        host: String = Optional,
        connect_timeout: TimeSpan = Optional,
        first_byte_timeout: TimeSpan = Optional,
        idle_timeout: TimeSpan = Optional,
    }

    "[[route]]"
    /// Who may send what where.
    RouteSection {
        name: String = Required,
        hosts: Several<HostPattern> = Optional,
        paths: Several<PathPattern> = Required,
        methods: Several<Method> = Optional,
        callers: Several<IdentityPattern> = Optional,
        except: List<IdentityPattern> = Optional,
        authenticate: Authenticate = Optional,
        upstream: String = Required,
        audience: String = Optional,
        binding: Binding = Optional,
    }

    "[limits]"
    /// Bounds on everything.
    LimitsSection {
        connections: u32 = Optional,
        handshake_timeout: TimeSpan = Optional,
        header_timeout: TimeSpan = Optional,
        body_timeout: TimeSpan = Optional,
        header_size: ByteSize = Optional,
        body_size: ByteSize = Optional,
        streams: u32 = Optional,
        drain_timeout: TimeSpan = Optional,
    }

    "[runtime]"
    /// The process.
    Runtime {
        workers: u32 = Optional,
    }

    "[audit]"
    /// Where the audit log goes.
    Audit {
        file: String = Optional,
    }
}

/// How a route authenticates its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authenticate {
    Certificate,
    Nobody,
}

impl FromToml for Authenticate {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        const FORM: &str = "{ all = [\"certificate\"] }, { any = [\"certificate\"] } or \"none\"";
        let entries = match value.get_ref() {
            DeValue::String(text) if text == "none" => return Some(Self::Nobody),
            DeValue::Table(table) => table,
            DeValue::String(_) => return wrong_form(value.span(), FORM, diagnostics),
            _ => return wrong_type(value, FORM, diagnostics),
        };
        let mut entries = entries.iter();
        let (Some((key, list)), None) = (entries.next(), entries.next()) else {
            return wrong_form(value.span(), FORM, diagnostics);
        };
        if !matches!(&**key.get_ref(), "all" | "any") {
            return wrong_form(key.span(), FORM, diagnostics);
        }
        Several::<Means>::from_toml(list, diagnostics)?;
        Some(Self::Certificate)
    }
}

fn wrong_form<T>(place: Span, form: &str, diagnostics: &mut Diagnostics) -> Option<T> {
    diagnostics.error(
        Diagnostic::new(place, "this does not say how callers authenticate")
            .help(format!("write {form}")),
    );
    None
}

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) listener: Option<Listener>,
    pub(super) server_names: Vec<ServerName>,
    pub(super) trust_domains: Vec<Trust>,
    pub(super) assertion: Option<Assertion>,
    pub(super) public: Option<Public>,
    pub(super) admin: Option<Admin>,
    pub(super) upstreams: Vec<UpstreamSection>,
    pub(super) routes: Vec<RouteSection>,
    pub(super) limits: Option<LimitsSection>,
    pub(super) runtime: Option<Runtime>,
    pub(super) audit: Option<Audit>,
    /// Names of the sections that are there, right or wrong.
    sections: Vec<String>,
}

impl Document {
    /// Reads the file's text. Nothing comes back when it is not TOML.
    pub(super) fn read(source: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let (root, errors) = DeTable::parse_recoverable(source);
        if !errors.is_empty() {
            for error in errors {
                diagnostics.error(syntax_error(&error, source));
            }
            return None;
        }
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
        key: &Spanned<std::borrow::Cow<'_, str>>,
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
            "trust_domain" => many!(trust_domains, Trust),
            "assertion" => one!(assertion, Assertion),
            "public" => one!(public, Public),
            "admin" => one!(admin, Admin),
            "upstream" => many!(upstreams, UpstreamSection),
            "route" => many!(routes, RouteSection),
            "limits" => one!(limits, LimitsSection),
            "runtime" => one!(runtime, Runtime),
            "audit" => one!(audit, Audit),
            unknown => diagnostics.error(unknown_section(unknown, key.span(), value.get_ref())),
        }
    }
}

fn find<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
    table
        .iter()
        .find(|(name, _)| **name.get_ref() == *key)
        .map(|(_, value)| value)
}

/// Reports unknown keys and missing ones.
fn check_keys(
    section: &SectionKeys,
    table: &DeTable<'_>,
    place: &Span,
    diagnostics: &mut Diagnostics,
) {
    for key in table.keys() {
        let name: &str = key.get_ref();
        if !section.keys.iter().any(|(known, _)| *known == name) {
            diagnostics.error(unknown_key(name, key.span(), section));
        }
    }
    for (key, need) in section.keys {
        if *need == Required && find(table, key).is_none() {
            diagnostics.error(
                Diagnostic::new(place.clone(), format!("{} has no `{key}`", section.title))
                    .label(format!("`{key}` is missing here"))
                    .help(format!("add `{key}`; docs/configuration.md describes it")),
            );
        }
    }
}

fn unknown_key(name: &str, place: Span, section: &SectionKeys) -> Diagnostic {
    let error = Diagnostic::new(
        place,
        format!(
            "unknown key `{}` in {}",
            crate::identity::text::printable(name),
            section.title
        ),
    )
    .label("unknown key");
    let known = || section.keys.iter().map(|(key, _)| *key);
    if let Some(key) = nearest(name, known()) {
        return error.help(format!("did you mean `{key}`?"));
    }
    let elsewhere = SECTIONS
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

fn unknown_section(name: &str, place: Span, value: &DeValue<'_>) -> Diagnostic {
    let bare = |section: &SectionKeys| section.title.trim_matches(['[', ']']);
    let shown = crate::identity::text::printable(name);
    if !matches!(value, DeValue::Table(_) | DeValue::Array(_)) {
        let error = Diagnostic::new(place, format!("unknown key `{shown}` outside any section"))
            .label("unknown key");
        let owner = SECTIONS
            .iter()
            .find(|section| section.keys.iter().any(|(key, _)| *key == name));
        return match owner {
            Some(section) => error.help(format!("`{name}` belongs below {}", section.title)),
            None => error.help("every key belongs below a section such as [listener]"),
        };
    }
    let error =
        Diagnostic::new(place, format!("unknown section `{shown}`")).label("unknown section");
    match nearest(name, SECTIONS.iter().map(bare)) {
        Some(near) => {
            let title = SECTIONS
                .iter()
                .find(|section| bare(section) == near)
                .map_or(near, |section| section.title);
            error.help(format!("did you mean {title}?"))
        }
        None => {
            let titles: Vec<_> = SECTIONS.iter().map(|section| section.title).collect();
            error.help(format!("the sections are {}", titles.join(", ")))
        }
    }
}

fn only_table<'t, 'i>(
    section: &SectionKeys,
    key: &Spanned<std::borrow::Cow<'_, str>>,
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

fn tables<'t, 'i>(
    section: &SectionKeys,
    key: &Spanned<std::borrow::Cow<'_, str>>,
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
