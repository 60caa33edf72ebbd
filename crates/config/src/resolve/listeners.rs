//! `[listener]`, `[[server_name]]`, `[public]` and `[admin]`: the listeners of the gateway, and
//! their certificates.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::context::Context;
use super::credentials::{covers, credentials, default_credentials};
use super::routes;
use super::trust::Domain;
use crate::diagnostics::{Diagnostic, Span};
use crate::document::Document;
use crate::document::raw::{Listener, ServerName};
use crate::document::value::{At, Field, PublicTls, Serve, Several, Words as _};
use crate::identity::{IdentityPattern, LeafFacts};
use crate::material::inventory::{CertificateSummary, ServerNameSummary};
use crate::snapshot::{AdminSettings, Operators, PublicSettings};
use crate::tls::{
    AuthorityNames, CertificateOwner, ClientCertificate, Credentials, MAX_AUTHORITY_NAMES,
    ServerEntry, ServerEntryConfig, ServerNames,
};
use crate::trust::{ClientTrust, TrustBundle};

/// What was built from `[listener]` and `[[server_name]]`.
#[derive(Default)]
pub(super) struct ListenerParts {
    pub(super) address: Option<SocketAddr>,
    pub(super) credentials: Option<Credentials>,
    pub(super) names: Option<ServerNames>,
    pub(super) balancers: Vec<IpNet>,
    /// The trust domains whose certificates `[listener]` accepts.
    pub(super) trust: Option<Arc<ClientTrust>>,
}

/// Builds the certificates and trust domains of `[listener]` and of each `[[server_name]]`.
pub(super) fn listener(
    document: &Document,
    domains: &[Domain],
    context: &mut Context<'_>,
) -> ListenerParts {
    let default_requirement = document
        .listener
        .as_ref()
        .map_or(ClientCertificate::Required, |section| {
            section.client_certificate.or(ClientCertificate::Required)
        });
    let mut entries = Vec::new();
    let mut parts = ListenerParts::default();
    if let Some(section) = &document.listener {
        parts.address = section.address.value().copied();
        parts.balancers = section.proxy_protocol.values();
        parts.credentials = default_credentials(section, document, context);
        let trust = client_trust(&section.trust_domains, domains, context);
        parts.trust = trust;
        if let (Some(credentials), Some(trust)) = (&parts.credentials, &parts.trust) {
            entries.push(ServerEntryConfig {
                names: Vec::new(),
                credentials: credentials.clone(),
                trust: Arc::clone(trust),
                client_certificate: default_requirement,
            });
        }
    }
    check_names(&document.server_names, context);
    for section in &document.server_names {
        let names: Vec<String> = section
            .names
            .items()
            .iter()
            .map(|n| n.value.to_string())
            .collect();
        let owner = CertificateOwner::ServerName(
            names.first().cloned().unwrap_or_default(),
            names.len().saturating_sub(1),
        );
        let credentials = credentials(&owner, &section.certificate, &section.private_key, context);
        let trust = client_trust(&section.trust_domains, domains, context);
        if let (Some(credentials), Some(trust)) = (credentials, trust) {
            check_covered(section, credentials.facts(), context);
            entries.push(ServerEntryConfig {
                names: section.names.values(),
                credentials,
                trust,
                client_certificate: section.client_certificate.or(default_requirement),
            });
        }
    }
    for entry in &entries {
        let summary = summary(entry, document, context);
        context.inventory.server_names.push(summary);
    }
    warn_of_unsent_names(&entries, context);
    if !context.diagnostics.has_errors() {
        match ServerNames::new(entries, &context.tickets) {
            Ok(names) => parts.names = Some(names),
            Err(error) => context.error(Diagnostic::whole(error.to_string())),
        }
    }
    parts
}

/// Returns the trust for client certificates, from the bundles of the trust domains in `names`. If
/// `names` is absent from the file, uses the bundles of all trust domains.
fn client_trust(
    names: &Field<Several<String>>,
    domains: &[Domain],
    context: &mut Context<'_>,
) -> Option<Arc<ClientTrust>> {
    let name_of = |domain: &Domain| domain.name.as_ref().map(|name| name.value.to_string());
    let known: Vec<String> = domains.iter().filter_map(name_of).collect();
    let mut bundles: Vec<Arc<TrustBundle>> = Vec::new();
    match names {
        Field::Bad => return None,
        Field::Absent => bundles.extend(domains.iter().filter_map(|domain| domain.bundle.clone())),
        Field::Good(_) => {
            for name in names.items() {
                match domains
                    .iter()
                    .find(|domain| name_of(domain).as_ref() == Some(&name.value))
                {
                    Some(domain) => bundles.extend(domain.bundle.clone()),
                    None => context.unknown_reference(
                        name,
                        "trust domain",
                        known.iter().map(String::as_str),
                    ),
                }
            }
        }
    }
    // `new` fails if two bundles overlap. `resolve::trust` has already reported this error.
    ClientTrust::new(bundles).ok().map(|trust| {
        let trust = trust.with_cache(Arc::clone(&context.path_cache));
        Arc::new(match &context.deny_list {
            Some(denied) => trust.with_deny_list(Arc::clone(denied)),
            None => trust,
        })
    })
}

/// Warns if the gateway does not send callers the names of the accepted authorities, because the
/// names are too long.
fn warn_of_unsent_names(entries: &[ServerEntryConfig], context: &mut Context<'_>) {
    let sizes = entries
        .iter()
        .filter_map(|entry| match AuthorityNames::of(&entry.trust) {
            AuthorityNames::TooLong(size) => Some(size),
            AuthorityNames::All(_) => None,
        });
    if let Some(size) = sizes.max() {
        let message = format!(
            "the names of all accepted roots and intermediates have {size} bytes, and at most \
             {MAX_AUTHORITY_NAMES} are sent: callers are not told which authorities are accepted, \
             and may choose another certificate"
        );
        context.warn(Diagnostic::whole(message).help(
            "remove roots and intermediates that are not needed, or accept fewer trust domains for \
             each server name (trust_domains)",
        ));
    }
}

fn check_names(sections: &[ServerName], context: &mut Context<'_>) {
    let mut seen: Vec<(String, &Span)> = Vec::new();
    for name in sections.iter().flat_map(|section| section.names.items()) {
        let text = name.value.to_string();
        if text.parse::<IpAddr>().is_ok() {
            context.error(
                Diagnostic::new(name.place.clone(), "a server name is not an IP address")
                    .help("clients send no server name with an address; the default entry of [listener] answers them"),
            );
        }
        match seen.iter().find(|(other, _)| *other == text) {
            Some((_, first)) => context.error(
                Diagnostic::new(name.place.clone(), format!("the name {text} stands twice"))
                    .label("the second")
                    .also((*first).clone(), "the first")
                    .help("each name selects exactly one [[server_name]]"),
            ),
            None => seen.push((text, &name.place)),
        }
    }
}

fn check_covered(section: &ServerName, facts: &LeafFacts, context: &mut Context<'_>) {
    for name in section.names.items() {
        if !covers(facts, &name.value.to_string()) {
            context.warn(
                Diagnostic::new(
                    name.place.clone(),
                    format!(
                        "the certificate is not for {}: it carries {}",
                        name.value,
                        facts.sans.summary()
                    ),
                )
                .help("clients will refuse it; use a certificate that carries this name"),
            );
        }
    }
}

fn summary(
    entry: &ServerEntryConfig,
    document: &Document,
    context: &Context<'_>,
) -> ServerNameSummary {
    let names: Vec<String> = entry.names.iter().map(ToString::to_string).collect();
    let section = document
        .server_names
        .iter()
        .find(|section| !names.is_empty() && section.names.values() == entry.names);
    let file = match section {
        Some(section) => section.certificate.value(),
        None => document
            .listener
            .as_ref()
            .and_then(|section| section.certificate.value()),
    };
    let file = file
        .map(|file| context.files.locate(file))
        .unwrap_or_default();
    ServerNameSummary {
        names,
        certificate: CertificateSummary::new(&file, entry.credentials.facts()),
        client_certificate: entry.client_certificate.word(),
        trust_domains: entry
            .trust
            .bundles()
            .iter()
            .map(|bundle| bundle.name().to_string())
            .collect(),
    }
}

/// Builds the public listener from `[public]`.
pub(super) fn public(
    document: &Document,
    listener: Option<&Credentials>,
    context: &mut Context<'_>,
) -> Option<PublicSettings> {
    let section = document.public.as_ref()?;
    let tls = match section.tls.or(PublicTls::Listener) {
        PublicTls::Off => None,
        PublicTls::Listener => {
            let has_certificate = document
                .listener
                .as_ref()
                .is_some_and(|listener| !listener.certificate.is_absent());
            if document.listener.is_some() && !has_certificate && document.has("server_name") {
                context.error(
                    Diagnostic::new(
                        section.place.clone(),
                        "[public] uses the certificate of [listener], which has none",
                    )
                    .help("give [listener] a certificate, or say tls = \"off\" in [public]"),
                );
            }
            listener.cloned()
        }
    };
    let serve = section.serve.values();
    let serves = |what: Serve, by_default: bool| {
        if section.serve.is_absent() {
            by_default
        } else {
            serve.contains(&what)
        }
    };
    Some(PublicSettings {
        address: *section.address.value()?,
        tls,
        keys: serves(Serve::Keys, true),
        health: serves(Serve::Health, true),
        metrics: serves(Serve::Metrics, false),
    })
}

/// Builds the operators' listener from `[admin]`, and its TLS configuration for operators.
pub(super) fn admin(
    document: &Document,
    listener: &ListenerParts,
    domains: &[Domain],
    context: &mut Context<'_>,
) -> Option<(AdminSettings, Option<Operators>)> {
    let section = document.admin.as_ref()?;
    check_operators(&section.operators, domains, context);
    let address = section.address.at()?;
    let with_operators = !section.operators.is_absent();
    if !with_operators && !address.value.ip().is_loopback() {
        context.error(
            Diagnostic::new(
                address.place.clone(),
                "the admin listener must be on loopback: it does not ask who is there",
            )
            .label("expected an address of this machine alone")
            .help(
                "write for example \"127.0.0.1:9901\", or name the `operators` who are let in by \
                 their certificates",
            ),
        );
    }
    let patterns = section.operators.values();
    let entry = match (&listener.credentials, &listener.trust) {
        _ if patterns.is_empty() => None,
        (Some(credentials), Some(trust)) => {
            match ServerEntry::for_operators(credentials.clone(), Arc::clone(trust)) {
                Ok(entry) => Some(entry),
                Err(error) => {
                    context.error(Diagnostic::whole(error.to_string()));
                    None
                }
            }
        }
        _ => {
            let absent = |listener: &Listener| listener.certificate.is_absent();
            if document.listener.as_ref().is_some_and(absent) && document.has("server_name") {
                context.error(
                    Diagnostic::new(
                        section.place.clone(),
                        "[admin] presents the certificate of [listener] to its operators, which has none",
                    )
                    .help("give [listener] a certificate, or remove `operators`"),
                );
            }
            None
        }
    };
    if entry.is_some() {
        let own = context.own_certificates.iter_mut();
        for certificate in own.filter(|own| own.owner == CertificateOwner::Listener) {
            certificate.serves_operators = true;
        }
    }
    let settings = AdminSettings {
        address: address.value,
        operators: patterns.clone(),
        socket: section
            .socket
            .value()
            .map(|file| context.files.locate(file)),
    };
    Some((settings, entry.map(|entry| Operators { entry, patterns })))
}

fn check_operators(
    field: &Field<Several<IdentityPattern>>,
    domains: &[Domain],
    context: &mut Context<'_>,
) {
    for pattern in field.items() {
        let fault = match pattern.value {
            IdentityPattern::AnyCaller => "every caller would be an operator",
            IdentityPattern::ApiKey(_) | IdentityPattern::Client { .. } => {
                "operators are known by their certificates"
            }
            _ => {
                routes::warn_if_unmatchable(pattern, domains, context);
                continue;
            }
        };
        context.error(
            Diagnostic::new(pattern.place.clone(), fault).help(
                "name identities that certificates carry, for example \"spiffe://example.org/ns/ops/**\"",
            ),
        );
    }
}

/// Reports two listeners that cannot be bound at the same time, because their addresses overlap.
pub(super) fn check_addresses(document: &Document, context: &mut Context<'_>) {
    let addresses: [(&str, Option<&At<SocketAddr>>); 3] = [
        (
            "[listener]",
            document
                .listener
                .as_ref()
                .and_then(|section| section.address.at()),
        ),
        (
            "[public]",
            document
                .public
                .as_ref()
                .and_then(|section| section.address.at()),
        ),
        (
            "[admin]",
            document
                .admin
                .as_ref()
                .and_then(|section| section.address.at()),
        ),
    ];
    let said = || {
        addresses
            .iter()
            .filter_map(|(title, address)| address.map(|address| (*title, address)))
    };
    for (index, (second_title, second)) in said().enumerate() {
        for (first_title, first) in said().take(index) {
            if collide(first.value, second.value) {
                context.error(
                    Diagnostic::new(
                        second.place.clone(),
                        format!("{first_title} and {second_title} cannot share an address"),
                    )
                    .also(first.place.clone(), "taken here")
                    .help("give one of them another port"),
                );
            }
        }
    }
}

/// Whether two addresses cannot be bound at the same time: the ports are equal (and not 0), and the
/// IP addresses are equal or one of them means all interfaces.
fn collide(first: SocketAddr, second: SocketAddr) -> bool {
    let (one, two) = (first.ip(), second.ip());
    first.port() != 0
        && first.port() == second.port()
        && (one == two || one.is_unspecified() || two.is_unspecified())
}
