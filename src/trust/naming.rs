//! Which name does a verified leaf give its holder under one bundle?
//!
//! The first type in `identity_from` that the leaf carries decides, and exactly
//! one name of that type must be one the bundle may vouch for. The common name
//! is never looked at.

use super::bundle::TrustBundle;
use super::path::PathRefusal;
use crate::identity::leaf::key_usage;
use crate::identity::{CallerName, LeafFacts, NameType, SpiffeId};
use crate::reason::ReasonCode;

/// Rules that hold for a leaf under any bundle.
///
/// A leaf that claims a SPIFFE ID has no other URI name (X509-SVID section 2),
/// and no leaf may have the rights of an authority or lack digitalSignature.
pub(super) fn check_leaf(leaf: &LeafFacts) -> Result<Option<SpiffeId>, PathRefusal> {
    if leaf.claims_authority() {
        return Err((
            ReasonCode::WrongUsage,
            "the leaf may sign certificates or revocation lists (CA, keyCertSign or cRLSign)"
                .to_owned(),
        ));
    }
    if !leaf.usage_allows(key_usage::DIGITAL_SIGNATURE) {
        return Err((
            ReasonCode::WrongUsage,
            "the leaf's key usage lacks digitalSignature".to_owned(),
        ));
    }
    let Some(claimed) = leaf
        .sans
        .uri
        .iter()
        .find(|uri| SpiffeId::is_claimed_by(uri))
    else {
        return Ok(None);
    };
    if leaf.sans.uri.len() > 1 {
        return Err((
            ReasonCode::AmbiguousIdentity,
            format!(
                "the leaf carries a SPIFFE ID and other URI names: {}",
                leaf.sans.summary()
            ),
        ));
    }
    let id = SpiffeId::parse(claimed).map_err(|error| {
        (
            ReasonCode::MalformedIdentity,
            format!("the leaf's SPIFFE ID is malformed: {error}"),
        )
    })?;
    if id.path().is_empty() {
        return Err((
            ReasonCode::MalformedIdentity,
            "the leaf's SPIFFE ID is that of a trust domain, not of a workload".to_owned(),
        ));
    }
    Ok(Some(id))
}

/// The caller's name under `bundle`.
pub(super) fn name_under(
    bundle: &TrustBundle,
    leaf: &LeafFacts,
    spiffe_id: Option<&SpiffeId>,
) -> Result<CallerName, PathRefusal> {
    if let Some(id) = spiffe_id
        && id.trust_domain() != &bundle.name
    {
        return Err((
            ReasonCode::TrustDomainMismatch,
            format!(
                "an authority of {} vouches for {id}, which belongs to {}",
                bundle.name,
                id.trust_domain()
            ),
        ));
    }
    for name_type in &bundle.identity_from {
        let names = names_of(leaf, *name_type)?;
        if !names.is_empty() {
            return choose(bundle, names);
        }
    }
    let reads: Vec<_> = bundle.identity_from.iter().map(|t| t.as_str()).collect();
    Err((
        ReasonCode::NoIdentity,
        format!(
            "the leaf carries {}; trust domain {} reads {}",
            leaf.sans.summary(),
            bundle.name,
            reads.join(", ")
        ),
    ))
}

/// Every name of one type; any malformed one refuses the leaf.
fn names_of(leaf: &LeafFacts, name_type: NameType) -> Result<Vec<CallerName>, PathRefusal> {
    let uris = || {
        leaf.sans
            .uri
            .iter()
            .map(|uri| CallerName::from_uri(uri))
            .filter(move |parsed| {
                parsed
                    .as_ref()
                    .map_or(true, |name| name.name_type() == Some(name_type))
            })
            .collect::<Result<Vec<_>, _>>()
    };
    match name_type {
        NameType::Spiffe | NameType::Uri => uris(),
        NameType::Dns => leaf
            .sans
            .dns
            .iter()
            .map(|name| CallerName::from_dns(name))
            .collect(),
        NameType::Email => leaf
            .sans
            .email
            .iter()
            .map(|address| CallerName::from_email(address))
            .collect(),
        NameType::Ip => Ok(leaf.sans.ip.iter().copied().map(CallerName::Ip).collect()),
    }
    .map_err(|error| (ReasonCode::MalformedIdentity, error.to_string()))
}

fn choose(bundle: &TrustBundle, names: Vec<CallerName>) -> Result<CallerName, PathRefusal> {
    let carried: Vec<String> = names.iter().map(ToString::to_string).collect();
    let carried = crate::identity::text::printable(&carried.join(", "));
    let mut vouched = names.into_iter().filter(|name| {
        bundle
            .vouches_for
            .iter()
            .any(|pattern| pattern.matches(name))
    });
    match (vouched.next(), vouched.next()) {
        (Some(name), None) => Ok(name),
        (Some(_), Some(_)) => Err((
            ReasonCode::AmbiguousIdentity,
            format!("more than one name could name the caller: {carried}"),
        )),
        (None, _) => Err((
            ReasonCode::TrustDomainMismatch,
            format!("trust domain {} may not vouch for {carried}", bundle.name),
        )),
    }
}
