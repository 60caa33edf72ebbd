//! `[[trust_domain]]`: which authorities are trusted, and which names they may certify.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::bounds::set_time_within;
use super::context::Context;
use super::trust_material::{DomainMaterial, DomainRules, domain_material, read_files};
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::Trust;
use crate::document::value::{At, Field};
use crate::identity::pattern::PathPattern;
use crate::identity::{IdentityPattern, NameType, TrustDomain};
use crate::material::units::UnitKey;
use crate::trust::{
    ClientTrustError, CrlNumber, CrlRules, RevocationDepth, RevocationPosture, TrustBundle,
    check_overlap,
};

const SHORTEST_UNREAD: Duration = Duration::from_secs(1);
/// The shortest and the longest `max_age`.
const MAX_AGES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);

/// What was built from one `[[trust_domain]]`. A field is `None` if it could not be built.
pub(super) struct Domain {
    /// The key `max_unread`: how long the files of the domain may be unreadable. After this time,
    /// the domain is suspended, and all its certificates are refused. `None` if the key is absent.
    pub(super) max_unread: Option<Duration>,
    /// The name of the domain, if it is valid.
    pub(super) name: Option<At<TrustDomain>>,
    /// The trust bundle. `None` if the domain has an error.
    pub(super) bundle: Option<Arc<TrustBundle>>,
    pub(super) vouches_for: Vec<IdentityPattern>,
    pub(super) identity_from: Vec<NameType>,
}

impl Domain {
    /// Whether a certificate of this domain can contain a name that matches the pattern.
    pub(super) fn can_name(&self, pattern: &IdentityPattern) -> bool {
        self.vouches_for.iter().any(|own| own.overlaps(pattern))
            && name_type(pattern).is_none_or(|kind| self.identity_from.contains(&kind))
    }
}

fn name_type(pattern: &IdentityPattern) -> Option<NameType> {
    match pattern {
        // `None` means all types of names, which is right for `*`. No certificate contains the
        // names of API keys and clients, so `vouches_for` refuses their patterns, and `None` has no
        // effect for them.
        IdentityPattern::AnyCaller
        | IdentityPattern::ApiKey(_)
        | IdentityPattern::Client { .. } => None,
        IdentityPattern::Spiffe { .. } => Some(NameType::Spiffe),
        IdentityPattern::Dns(_) => Some(NameType::Dns),
        IdentityPattern::Email { .. } => Some(NameType::Email),
        IdentityPattern::Upn { .. } => Some(NameType::Upn),
        IdentityPattern::Ip(_) => Some(NameType::Ip),
        IdentityPattern::Uri { .. } => Some(NameType::Uri),
    }
}

/// Builds the bundle of every trust domain. Checks that no two domains have the same root or can
/// certify the same name.
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
            check_pair(first, second, context);
        }
    }
    domains
}

fn check_pair(first: &Domain, second: &Domain, context: &mut Context<'_>) {
    let (Some(one), Some(two)) = (&first.bundle, &second.bundle) else {
        return;
    };
    let (Some(one_name), Some(two_name)) = (&first.name, &second.name) else {
        return;
    };
    if one_name.value == two_name.value {
        return;
    }
    let Err(error) = check_overlap(&[Arc::clone(one), Arc::clone(two)]) else {
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
    let crl_rules = crl_rules(section, context);
    let rules = match (&section.name, posture(section, context)) {
        (Field::Good(name), Some(posture)) => Some(DomainRules {
            name: name.clone(),
            posture,
            depth: section.revocation_depth.or(RevocationDepth::Chain),
            grace: section
                .grace
                .value()
                .map_or(Duration::ZERO, |grace| grace.get()),
            crl_rules,
            vouches_for: vouches_for.clone(),
            identity_from: identity_from.clone(),
        }),
        _ => None,
    };
    let material = match &rules {
        Some(rules) => {
            let key = UnitKey::trust_domain(&rules.name.value);
            let before: Option<DomainMaterial> = context.unit_before(&key);
            let material = context.unit(key.clone(), |context| {
                domain_material(section, rules, before.as_ref(), context)
            });
            if let Some(material) = &material {
                let digest = material.digest(&context.sources_of(&key));
                context.set_digest(&key, digest);
            }
            material
        }
        None => {
            // The domain is invalid, but its files are read to report their errors too.
            let _ = read_files(section, None, context);
            None
        }
    };
    let since = rules
        .as_ref()
        .and_then(|rules| context.units.suspended.get(&rules.name.value));
    let bundle = material.map(|material| match since {
        Some(since) => Arc::new(material.bundle.suspended(*since)),
        None => material.bundle,
    });
    Domain {
        name: section.name.at().cloned(),
        bundle,
        max_unread: max_unread(section, context),
        vouches_for,
        identity_from,
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

/// Returns the rules for CRLs, which the keys `crl_number` and `max_age` set. These keys are errors
/// if the trust domain has no CRLs.
fn crl_rules(section: &Trust, context: &mut Context<'_>) -> CrlRules {
    if !matches!(section.crls, Field::Bad) && section.crls.items().is_empty() {
        let keys = [
            ("crl_number", section.crl_number.at().map(|at| &at.place)),
            ("max_age", section.max_age.at().map(|at| &at.place)),
        ];
        for (key, place) in keys {
            if let Some(place) = place {
                let what = format!("`{key}` is about crls, and this trust domain has none");
                context.error(
                    Diagnostic::new(place.clone(), what)
                        .help(format!("remove `{key}`, or add crls")),
                );
            }
        }
    }
    let max_age = section.max_age.value().map(|_| {
        let mut max_age = Duration::ZERO;
        set_time_within(&section.max_age, MAX_AGES, &mut max_age, context);
        max_age
    });
    CrlRules {
        number: section.crl_number.or(CrlNumber::Required),
        max_age,
    }
}

/// Returns the value of `max_unread`. A value below one second is an error, because a short lack of
/// file descriptors would then suspend the domain. The key is also an error if `revocation` is not
/// `hard`, because it has an effect only with `hard`.
fn max_unread(section: &Trust, context: &mut Context<'_>) -> Option<Duration> {
    let said = section.max_unread.at()?;
    let bound = said.value.get();
    let mut refuse = |what: &str, help: &str| {
        context.error(Diagnostic::new(said.place.clone(), what).help(help));
    };
    if bound < SHORTEST_UNREAD {
        refuse(
            "this is shorter than a second",
            "write for example max_unread = \"10m\"",
        );
    }
    if section.revocation.or(RevocationPosture::Hard) != RevocationPosture::Hard {
        refuse(
            "`max_unread` says when revocation = \"hard\" refuses, and this trust domain does not say \"hard\"",
            "remove it, or say revocation = \"hard\"",
        );
    }
    Some(bound)
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
