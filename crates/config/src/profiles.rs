//! Reads `profiles.toml`: the certificate profiles that an operator has written for an authority.
//! Unknown keys are refused, and errors have the same form as those of the gateway's configuration:
//! file, line, caret (`^`), remedy.

use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::diagnostics::{ConfigErrors, Diagnostic, Diagnostics, Span};
use super::document::raw::sections;
use super::document::schema::Need::{Optional, Required};
use super::document::schema::{
    Family, SectionKeys, check_keys, find, syntax, tables, unknown_section,
};
use super::document::url::HttpUrl;
use super::document::value::{At, CommonName, Field, Several, Usage};
use crate::identity::{IdentityPattern, TrustDomain};
use crate::pki::signing::authority::MAX_ATTRIBUTE;
use crate::pki::signing::profile::{MAX_AUTHORITY_LIFETIME, MAX_LEAF_LIFETIME};
use crate::pki::{CertificateProfile, KeyAlgorithm, Lifetime, ProfileRules, Profiles, Usages};

sections! {
    "docs/pki.md" SECTIONS

    "[[profile]]"
    /// A certificate profile: which certificates it allows, and their lifetime.
    ProfileSection {
        name: String = Required,
        usages: Several<Usage> = Optional,
        lifetime: Lifetime = Optional,
        max_lifetime: Lifetime = Optional,
        identities: Several<IdentityPattern> = Optional,
        key_types: Several<KeyAlgorithm> = Optional,
        crl_urls: Several<String> = Optional,
        issuer_urls: Several<String> = Optional,
        organization: String = Optional,
        organizational_unit: String = Optional,
        common_name: CommonName = Optional,
    }
}

/// Reads the profiles of an authority from the file at `path`. Returns the built-in profiles if the
/// file does not exist. `domain` is the trust domain of the authority.
///
/// # Errors
/// All errors in the file.
pub fn profiles(path: &Path, domain: &TrustDomain) -> Result<Profiles, ConfigErrors> {
    if !path.exists() {
        return Ok(Profiles::default());
    }
    let source = fs::read_to_string(path).map_err(|error| {
        let error = Diagnostic::whole(format!("cannot read the profiles file: {error}"))
            .help("it is a TOML file in UTF-8; let yourself read it, or take it away");
        ConfigErrors::whole(path, error).of("the profiles file")
    })?;
    let mut diagnostics = Diagnostics::default();
    let profiles = read(&source, domain, &mut diagnostics);
    if diagnostics.has_errors() {
        return Err(diagnostics
            .into_errors(path, &source)
            .of("the profiles file"));
    }
    Ok(profiles)
}

fn read(source: &str, domain: &TrustDomain, diagnostics: &mut Diagnostics) -> Profiles {
    let mut profiles = Profiles::default();
    let Some(root) = syntax(source, diagnostics) else {
        return profiles;
    };
    let mut seen: Vec<At<String>> = Vec::new();
    for section in sections(&root, diagnostics) {
        let Some(name) = section.name.at() else {
            continue;
        };
        if let Some(first) = seen.iter().find(|known| known.value == name.value) {
            diagnostics.error(
                Diagnostic::new(
                    name.place.clone(),
                    format!("two profiles are named {:?}", name.value),
                )
                .also(first.place.clone(), "the first one")
                .help("give one of them another name, or put both into one"),
            );
            continue;
        }
        seen.push(name.clone());
        let reading = Reading {
            section: &section,
            name,
            domain,
            known: &profiles,
        };
        if let Some(profile) = reading.profile(diagnostics) {
            profiles.set(profile);
        }
    }
    profiles
}

fn sections(root: &Spanned<DeTable<'_>>, diagnostics: &mut Diagnostics) -> Vec<ProfileSection> {
    let mut found = Vec::new();
    for (key, value) in root.get_ref() {
        match &**key.get_ref() {
            "profile" => found.extend(
                tables(&ProfileSection::SECTION, key, value, diagnostics)
                    .into_iter()
                    .map(|(table, place)| ProfileSection::read(table, place, diagnostics)),
            ),
            unknown => {
                let error = unknown_section(unknown, key.span(), value.get_ref(), &SECTIONS);
                diagnostics.error(error);
            }
        }
    }
    found
}

/// One `[[profile]]` section, and what is needed to check its values.
struct Reading<'a> {
    section: &'a ProfileSection,
    name: &'a At<String>,
    domain: &'a TrustDomain,
    known: &'a Profiles,
}

impl Reading<'_> {
    fn profile(&self, diagnostics: &mut Diagnostics) -> Option<CertificateProfile> {
        self.check_name(diagnostics)?;
        let is_intermediate = self.name.value == "intermediate";
        let rules = self.rules(is_intermediate, diagnostics);
        let built_in = if is_intermediate {
            Some(self.known.intermediate())
        } else {
            self.known.leaf(&self.name.value)
        };
        let usages = self.usages(is_intermediate, built_in, diagnostics);
        let limit = if is_intermediate {
            MAX_AUTHORITY_LIFETIME
        } else {
            MAX_LEAF_LIFETIME
        };
        let (lifetime, max_lifetime) = self.lifetimes(built_in, limit, diagnostics)?;
        if is_intermediate {
            return Some(CertificateProfile::custom_intermediate(
                lifetime,
                max_lifetime,
                rules?,
            ));
        }
        let name = self.name.value.clone();
        Some(CertificateProfile::custom(
            name,
            usages?,
            lifetime,
            max_lifetime,
            rules?,
        ))
    }

    fn check_name(&self, diagnostics: &mut Diagnostics) -> Option<()> {
        let name = &self.name.value;
        let is_plain = name.len() <= 64
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let refuse = |message: &str, help: &str| {
            Diagnostic::new(self.name.place.clone(), message.to_owned()).help(help.to_owned())
        };
        if !is_plain {
            diagnostics.error(refuse(
                "this cannot name a profile",
                "use up to 64 lower-case letters, digits and '-', beginning with a letter",
            ));
            return None;
        }
        if name == "root" {
            diagnostics.error(refuse(
                "roots have no profile",
                "say what a root is like to: countersign pki init",
            ));
            return None;
        }
        Some(())
    }

    fn usages(
        &self,
        is_intermediate: bool,
        built_in: Option<&CertificateProfile>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Usages> {
        match &self.section.usages {
            Field::Absent if is_intermediate => None,
            Field::Absent => {
                let known = built_in.and_then(CertificateProfile::usages);
                if known.is_none() {
                    diagnostics.error(
                        Diagnostic::new(
                            self.name.place.clone(),
                            format!("profile {:?} has no `usages`", self.name.value),
                        )
                        .label("what are its certificates for?")
                        .help("add usages = [\"client\"], [\"server\"] or both"),
                    );
                }
                known
            }
            Field::Bad => None,
            Field::Good(at) if is_intermediate => {
                self.not_for_intermediates("usages", &at.place, diagnostics);
                None
            }
            Field::Good(at) => {
                let has = |usage| at.value.0.iter().any(|said| said.value == usage);
                Some(Usages {
                    client: has(Usage::Client),
                    server: has(Usage::Server),
                })
            }
        }
    }

    fn not_for_intermediates(&self, key: &str, place: &Span, diagnostics: &mut Diagnostics) {
        diagnostics.error(
            Diagnostic::new(
                place.clone(),
                format!("an intermediate has no `{key}`: it signs certificates and lists"),
            )
            .help("leave it out here, and say it in the profiles of leaves"),
        );
    }

    fn lifetimes(
        &self,
        built_in: Option<&CertificateProfile>,
        limit: Lifetime,
        diagnostics: &mut Diagnostics,
    ) -> Option<(Lifetime, Lifetime)> {
        let (asked, max_lifetime) = (&self.section.lifetime, &self.section.max_lifetime);
        if let Some(at) = max_lifetime.at().filter(|at| at.value > limit) {
            diagnostics.error(
                Diagnostic::new(at.place.clone(), "this is longer than certificates last")
                    .label(format!("at most {limit}"))
                    .help(format!("write at most \"{limit}\"")),
            );
            return None;
        }
        let usual = built_in.map_or(
            CertificateProfile::CLIENT.lifetime(),
            CertificateProfile::lifetime,
        );
        let bound = max_lifetime.or(limit);
        if let Some(at) = asked.at().filter(|at| at.value > bound) {
            diagnostics.error(
                Diagnostic::new(at.place.clone(), "this is longer than `max_lifetime`")
                    .label(format!("at most {bound}"))
                    .help("write a shorter lifetime, or a longer max_lifetime"),
            );
            return None;
        }
        Some((asked.or(usual.min(bound)), bound))
    }

    fn rules(&self, is_intermediate: bool, diagnostics: &mut Diagnostics) -> Option<ProfileRules> {
        let section = self.section;
        let identities = match &section.identities {
            Field::Absent => Vec::new(),
            Field::Bad => return None,
            Field::Good(at) if is_intermediate => {
                self.not_for_intermediates("identities", &at.place, diagnostics);
                return None;
            }
            field @ Field::Good(_) => {
                self.check_identities(field, diagnostics)?;
                field.values()
            }
        };
        if let Some(at) = section.common_name.at().filter(|_| is_intermediate) {
            self.not_for_intermediates("common_name", &at.place, diagnostics);
            return None;
        }
        Some(ProfileRules {
            identities,
            key_types: section.key_types.values(),
            crl_urls: urls(&section.crl_urls, diagnostics)?,
            issuer_urls: urls(&section.issuer_urls, diagnostics)?,
            organization: attribute(&section.organization, diagnostics)?,
            organizational_unit: attribute(&section.organizational_unit, diagnostics)?,
            without_common_name: section.common_name.value() == Some(&CommonName::None),
        })
    }

    /// Refuses patterns of SPIFFE IDs in another trust domain. The authority issues no such names,
    /// so these patterns could never allow a name.
    fn check_identities(
        &self,
        field: &Field<Several<IdentityPattern>>,
        diagnostics: &mut Diagnostics,
    ) -> Option<()> {
        let mut all_are_ours = Some(());
        for pattern in field.items() {
            let theirs = pattern.value.spiffe_trust_domain();
            if let Some(theirs) = theirs.filter(|theirs| *theirs != self.domain) {
                diagnostics.error(
                    Diagnostic::new(
                        pattern.place.clone(),
                        format!("this authority does not vouch for trust domain {theirs}"),
                    )
                    .help(format!("write spiffe://{}/…", self.domain)),
                );
                all_are_ours = None;
            }
        }
        all_are_ours
    }
}

fn urls(field: &Field<Several<String>>, diagnostics: &mut Diagnostics) -> Option<Vec<String>> {
    let mut all_are_urls = true;
    for written in field.items() {
        if let Err(why) = HttpUrl::parse(&written.value) {
            diagnostics.error(
                Diagnostic::new(
                    written.place.clone(),
                    format!("this URL cannot be used: {why}"),
                )
                .help("write for example \"http://pki.example.org/intermediate.crl\""),
            );
            all_are_urls = false;
        }
    }
    all_are_urls.then(|| field.values())
}

fn attribute(field: &Field<String>, diagnostics: &mut Diagnostics) -> Option<Option<String>> {
    let Some(at) = field.at() else {
        return Some(None);
    };
    if at.value.chars().count() > MAX_ATTRIBUTE {
        diagnostics.error(
            Diagnostic::new(at.place.clone(), "this is too long for a subject")
                .label(format!("at most {MAX_ATTRIBUTE} characters"))
                .help("write less (RFC 5280 appendix A.1)"),
        );
        return None;
    }
    Some(Some(at.value.clone()))
}

#[cfg(test)]
#[path = "tests/profiles.rs"]
mod tests;
