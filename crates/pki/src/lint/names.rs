//! Lints of the names of a leaf.

use super::rule::Severity::{Error, Warning};
use super::rule::{Lint, lints, when};
use super::subject::{Certificates, is_authority, is_leaf};
use crate::identity::text::printable;
use crate::identity::{CallerName, LeafFacts, SpiffeId};

pub(super) const LINTS: &[Lint<Certificates>] = lints! {
    "no-subject-alternative-name", Error, "RFC 9525 section 2", |s| {
        let facts = s.facts.as_ref()?;
        let sans = &facts.sans;
        let none = sans.uri.is_empty() && sans.dns.is_empty() && sans.email.is_empty()
            && sans.ip.is_empty() && sans.upn.is_empty();
        when(is_leaf(s) && none, "it carries no name that anybody reads; a common name is none")
    };
    "names-not-critical", Error, "RFC 5280 section 4.2.1.6", |s| {
        let names = s.certificate.subject_alternative_name().ok()??;
        when(s.certificate.subject().iter().next().is_none() && !names.critical,
            "its subject is empty and its names are not critical")
    };
    "spiffe-id-not-alone", Error, "X509-SVID section 2", |s| {
        let facts = s.facts.as_ref()?;
        when(claimed(facts).is_some() && facts.sans.uri.len() > 1,
            "it has a SPIFFE ID and other URI names")
    };
    "spiffe-id-malformed", Error, "SPIFFE-ID section 2", |s| {
        let claimed = claimed(s.facts.as_ref()?)?;
        let error = SpiffeId::parse(claimed).err()?;
        Some(format!("{:?}: {error}", printable(claimed)))
    };
    "spiffe-id-path", Error, "X509-SVID section 4.1", |s| {
        let id = SpiffeId::parse(claimed(s.facts.as_ref()?)?).ok()?;
        when(id.path().is_empty() != is_authority(s),
            "an authority's SPIFFE ID has no path, a workload's has one")
    };
    "spiffe-usages", Error, "X509-SVID section 4.4", |s| {
        let facts = s.facts.as_ref()?;
        let usages = facts.extended_key_usage?;
        when(is_leaf(s) && claimed(facts).is_some() && !(usages.client && usages.server),
            "it has a SPIFFE ID and is not for clients and servers both")
    };
    "name-malformed", Error, "RFC 5280 section 4.2.1.6", |s| {
        malformed(s.facts.as_ref()?).map(|name| format!("the name {:?} is malformed", printable(name)))
    };
    "wildcard-names-no-caller", Warning, "RFC 9525 section 6.3", |s| {
        let facts = s.facts.as_ref()?;
        let client = facts.extended_key_usage.is_some_and(|usages| usages.client);
        when(client && facts.sans.dns.iter().any(|name| name.starts_with("*.")),
            "it is for clients and has a wildcard, which names no one caller")
    };
    "many-names", Warning, "RFC 8446 section 4.4.2", |s|
        when(s.facts.as_ref().is_some_and(|facts| facts.sans.dns.len() + facts.sans.uri.len() > 64),
            "it carries more than 64 names, and every handshake carries them");
};

fn claimed(facts: &LeafFacts) -> Option<&str> {
    facts
        .sans
        .uri
        .iter()
        .map(String::as_str)
        .find(|uri| SpiffeId::is_claimed_by(uri))
}

fn malformed(facts: &LeafFacts) -> Option<&str> {
    let dns = facts.sans.dns.iter().find(|name| {
        let host = name.strip_prefix("*.").unwrap_or(name);
        CallerName::from_dns(host).is_err()
    });
    let email = facts
        .sans
        .email
        .iter()
        .find(|address| CallerName::from_email(address).is_err());
    let uri = facts
        .sans
        .uri
        .iter()
        .find(|uri| !SpiffeId::is_claimed_by(uri) && CallerName::from_uri(uri).is_err());
    dns.or(email).or(uri).map(String::as_str)
}
