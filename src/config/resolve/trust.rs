//! `[[trust_domain]]`: whose certificates are believed, and for which names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateRevocationListDer;

use super::pem::{Found, material};
use super::summaries::{list_summaries, root_summaries};
use super::{Context, crl_fetch, pem};
use crate::config::diagnostics::{Diagnostic, Span};
use crate::config::document::Document;
use crate::config::inventory::TrustDomainSummary;
use crate::config::raw::Trust;
use crate::config::value::{At, Field, Words as _};
use crate::identity::pattern::PathPattern;
use crate::identity::{IdentityPattern, NameType, TrustDomain};
use crate::trust::{
    BundleError, ClientTrust, ClientTrustError, RevocationDepth, RevocationPosture, TrustBundle,
    TrustBundleConfig,
};

/// One trust domain as far as it could be built.
pub(super) struct Domain {
    /// Its name, where it has a usable one.
    pub(super) name: Option<At<TrustDomain>>,
    /// None when something was wrong with it.
    pub(super) bundle: Option<Arc<TrustBundle>>,
    pub(super) vouches_for: Vec<IdentityPattern>,
    pub(super) identity_from: Vec<NameType>,
}

impl Domain {
    /// Whether a caller matching this pattern can come from this domain.
    pub(super) fn can_name(&self, pattern: &IdentityPattern) -> bool {
        self.vouches_for.iter().any(|own| own.overlaps(pattern))
            && name_type(pattern).is_none_or(|kind| self.identity_from.contains(&kind))
    }
}

fn name_type(pattern: &IdentityPattern) -> Option<NameType> {
    match pattern {
        // No certificate carries the last two; `vouches_for` refuses them.
        IdentityPattern::AnyCaller
        | IdentityPattern::ApiKey(_)
        | IdentityPattern::Client { .. } => None,
        IdentityPattern::Spiffe { .. } => Some(NameType::Spiffe),
        IdentityPattern::Dns(_) => Some(NameType::Dns),
        IdentityPattern::Email { .. } => Some(NameType::Email),
        IdentityPattern::Ip(_) => Some(NameType::Ip),
        IdentityPattern::Uri { .. } => Some(NameType::Uri),
    }
}

/// Builds the bundle of every trust domain and checks that they stand apart.
pub(super) fn domains(document: &Document, context: &mut Context<'_>) -> Vec<Domain> {
    let sections = &document.trust_domains;
    context.unique(
        "trust domain",
        sections.iter().filter_map(|section| {
            let name = section.name.at()?;
            Some((name.value.as_str(), &name.place))
        }),
    );
    let domains: Vec<Domain> = sections
        .iter()
        .map(|section| domain(section, context))
        .collect();
    for (index, second) in domains.iter().enumerate() {
        for first in domains.iter().take(index) {
            check_apart(first, second, context);
        }
    }
    domains
}

fn check_apart(first: &Domain, second: &Domain, context: &mut Context<'_>) {
    let (Some(one), Some(two)) = (&first.bundle, &second.bundle) else {
        return;
    };
    let (Some(one_name), Some(two_name)) = (&first.name, &second.name) else {
        return;
    };
    if one_name.value == two_name.value {
        return;
    }
    let Err(error) = ClientTrust::check_disjoint(&[Arc::clone(one), Arc::clone(two)]) else {
        return;
    };
    let help = match &error {
        ClientTrustError::SharedAnchor(..) => {
            "take the root out of one of the two: each root belongs to exactly one trust domain"
        }
        ClientTrustError::Overlap(..) => "make the vouches_for of one of the two narrower",
    };
    context.error(
        Diagnostic::new(two_name.place.clone(), error.to_string())
            .label("this trust domain")
            .also(one_name.place.clone(), "and this one")
            .help(help),
    );
}

fn domain(section: &Trust, context: &mut Context<'_>) -> Domain {
    let vouches_for = vouches_for(section, context);
    let identity_from = identity_from(section, &vouches_for, context);
    let roots = match &section.roots {
        Field::Good(roots) => material(&roots.value.0, context, pem::certificates),
        _ => None,
    };
    let intermediates = match &section.intermediates {
        Field::Bad => None,
        files => material(files.items(), context, pem::certificates),
    };
    let lists = revocation_lists(section, context);
    let posture = posture(section, context);
    let depth = section.revocation_depth.or(RevocationDepth::Chain);
    let bundle = match (&section.name, roots, intermediates, lists, posture) {
        (Field::Good(name), Some(roots), Some(intermediates), Some(lists), Some(posture)) => {
            let mut config = TrustBundleConfig {
                name: name.value.clone(),
                roots: roots.iter().map(|found| found.value.clone()).collect(),
                intermediates: intermediates.into_iter().map(|found| found.value).collect(),
                crls: Vec::new(),
                posture,
                depth,
                grace: section
                    .grace
                    .value()
                    .map_or(Duration::ZERO, |grace| grace.get()),
                vouches_for: vouches_for.clone(),
                identity_from: identity_from.clone(),
            };
            let (lists, before) = crl_fetch::hold_to_copies(lists, &config, context);
            let summary = TrustDomainSummary {
                name: name.value.to_string(),
                roots: root_summaries(&roots),
                revocation_lists: list_summaries(&lists, posture, context),
                revocation: posture.word(),
                revocation_depth: depth.word(),
                vouches_for: vouches_for.iter().map(ToString::to_string).collect(),
                identity_from: identity_from.iter().map(|kind| kind.as_str()).collect(),
            };
            context.inventory.trust_domains.push(summary);
            // Large ones are not copied.
            let (lists, origins): (Vec<_>, Vec<_>) = lists.into_iter().map(Found::split).unzip();
            config.crls = lists;
            let before = before.as_ref();
            build((config, before), &name.place, &roots, &origins, context)
        }
        _ => None,
    };
    Domain {
        name: section.name.at().cloned(),
        bundle,
        vouches_for,
        identity_from,
    }
}

fn build(
    (config, before): (TrustBundleConfig, Option<&TrustBundle>),
    name: &Span,
    roots: &[Found<rustls_pki_types::CertificateDer<'static>>],
    lists: &[Found<()>],
    context: &mut Context<'_>,
) -> Option<Arc<TrustBundle>> {
    let of = |files: Option<(&PathBuf, &Span)>, why: &str| match files {
        Some((path, place)) => {
            Diagnostic::new(place.clone(), format!("{}: {why}", path.display())).label("this file")
        }
        None => Diagnostic::new(name.clone(), why.to_owned()),
    };
    let previous = context.previous.and_then(|previous| {
        previous
            .bundles
            .iter()
            .find(|bundle| *bundle.name() == config.name)
    });
    let previous = previous.map(|bundle| &**bundle).or(before);
    match TrustBundle::build_after(config, context.now, previous) {
        Ok(bundle) => {
            for alarm in bundle.alarms() {
                let remedy = if alarm.starts_with("revocation list") {
                    "fetch the current list from its issuer"
                } else {
                    "remove or replace the root certificate"
                };
                context.warn(Diagnostic::new(name.clone(), alarm.clone()).help(remedy));
            }
            Some(Arc::new(bundle))
        }
        Err(error) => {
            let shown = match &error {
                BundleError::Root { index, why, .. } => of(
                    roots.get(index - 1).map(|root| (&root.path, &root.place)),
                    &format!("a root certificate cannot be used: {why}"),
                )
                .help("name the certificate of a certificate authority"),
                BundleError::RevocationList { index, why, .. } => of(
                    lists.get(index - 1).map(|list| (&list.path, &list.place)),
                    &format!("a revocation list cannot be used: {why}"),
                )
                .help("fetch the list again from its issuer"),
                BundleError::NoValidRoot { .. } | BundleError::NoRevocationList { .. } => {
                    of(None, &error.to_string())
                        .help("give it a root certificate that is valid now")
                }
            };
            context.error(shown);
            None
        }
    }
}

fn revocation_lists(
    section: &Trust,
    context: &mut Context<'_>,
) -> Option<Vec<Found<CertificateRevocationListDer<'static>>>> {
    let name = match &section.name {
        Field::Good(name) => Some(&name.value),
        _ => None,
    };
    let mut all = Some(Vec::new());
    for written in section.crls.items() {
        let found = match name {
            Some(name) if crl_fetch::is_url(written) => crl_fetch::lists(written, name, context),
            None if crl_fetch::is_url(written) => None,
            _ => material(
                std::slice::from_ref(written),
                context,
                pem::revocation_lists,
            ),
        };
        match (found, &mut all) {
            (Some(found), Some(all)) => all.extend(found),
            _ => all = None,
        }
    }
    match &section.crls {
        Field::Bad => None,
        _ => all,
    }
}

fn posture(section: &Trust, context: &mut Context<'_>) -> Option<RevocationPosture> {
    let has_lists = match &section.crls {
        Field::Bad => return None,
        lists => !lists.items().is_empty(),
    };
    match (&section.revocation, has_lists) {
        (Field::Bad, _) => None,
        (Field::Absent, true) => Some(RevocationPosture::Hard),
        (Field::Good(said), true) => {
            if said.value == RevocationPosture::Off {
                context.warn(
                    Diagnostic::new(
                        said.place.clone(),
                        "revocation is off although there are crls: revoked callers are let in",
                    )
                    .help("say \"hard\" or remove crls"),
                );
            }
            Some(said.value)
        }
        (Field::Good(said), false) if said.value == RevocationPosture::Off => Some(said.value),
        (Field::Good(said), false) => {
            context.error(
                Diagnostic::new(
                    said.place.clone(),
                    "revocation is to be checked, but there is no list to check",
                )
                .label("needs crls")
                .help("add crls = [\"certs/crl/*.crl\"], or say revocation = \"off\""),
            );
            None
        }
        (Field::Absent, false) => {
            context.error(
                Diagnostic::new(
                    section.place.clone(),
                    "this trust domain has no crls and does not say what that means",
                )
                .label("crls or revocation is missing")
                .help(
                    "add crls = [\"certs/crl/*.crl\"], or say revocation = \"off\" to let revoked \
                     callers in",
                ),
            );
            None
        }
    }
}

fn vouches_for(section: &Trust, context: &mut Context<'_>) -> Vec<IdentityPattern> {
    let Some(name) = section.name.value() else {
        return section.vouches_for.values();
    };
    if section.vouches_for.is_absent() {
        let own = PathPattern::parse("/**")
            .ok()
            .map(|path| IdentityPattern::Spiffe {
                trust_domain: name.clone(),
                path: Some(path),
            });
        return own.into_iter().collect();
    }
    for pattern in section.vouches_for.items() {
        let refusal = match &pattern.value {
            IdentityPattern::AnyCaller => Some((
                "a trust domain vouches for names of stated types, not for everything".to_owned(),
                format!("write for example \"spiffe://{name}/**\" or \"dns:*.{name}\""),
            )),
            IdentityPattern::Spiffe { trust_domain, .. } if trust_domain != name => Some((
                format!("only trust domain {trust_domain} can vouch for its SPIFFE IDs"),
                format!("add a [[trust_domain]] named \"{trust_domain}\""),
            )),
            IdentityPattern::ApiKey(_) | IdentityPattern::Client { .. } => Some((
                "no certificate carries such a name".to_owned(),
                "remove it: API keys and token issuers vouch for these names".to_owned(),
            )),
            _ => None,
        };
        if let Some((message, help)) = refusal {
            context.error(Diagnostic::new(pattern.place.clone(), message).help(help));
        }
    }
    section.vouches_for.values()
}

fn identity_from(
    section: &Trust,
    vouches_for: &[IdentityPattern],
    context: &mut Context<'_>,
) -> Vec<NameType> {
    if section.identity_from.is_absent() {
        return vec![NameType::Spiffe];
    }
    let mut types: Vec<NameType> = Vec::new();
    for kind in section.identity_from.items() {
        let word = kind.value.as_str();
        if types.contains(&kind.value) {
            context.error(
                Diagnostic::new(kind.place.clone(), format!("\"{word}\" stands twice"))
                    .help("each type stands once, the preferred one first"),
            );
            continue;
        }
        types.push(kind.value);
        let can_vouch = |pattern| name_type(pattern) == Some(kind.value);
        if !vouches_for.is_empty() && !vouches_for.iter().any(can_vouch) {
            context.warn(
                Diagnostic::new(
                    kind.place.clone(),
                    format!("callers named by {word} are refused: vouches_for has no such pattern"),
                )
                .help("add a pattern of this type to vouches_for, or remove the type here"),
            );
        }
    }
    types
}
