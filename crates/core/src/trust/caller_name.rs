//! Determines the name of a caller from a verified leaf certificate and one trust bundle.
//!
//! The key `identity_from` lists name types by preference. The first of these types that the leaf
//! contains is used. Exactly one name of that type must be a name that the bundle may certify. The
//! common name never names a caller.

use super::bundle::TrustBundle;
use super::certificate::error::PathError;
use crate::identity::text::{is_printable, printable};
use crate::identity::{CallerName, LeafFacts, NameType, SpiffeId};
use crate::reason::ReasonCode;

/// Returns the SPIFFE ID of a leaf, or `None` if the leaf has none. A leaf with a SPIFFE ID must
/// have no other URI name (X509-SVID section 2).
///
/// This function does not check the key usage. Path verification has already checked it.
pub(super) fn spiffe_id(leaf: &LeafFacts) -> Result<Option<SpiffeId>, PathError> {
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

/// Returns the name that the leaf gives its caller, according to `identity_from` and `vouches_for`
/// of `bundle`.
pub(super) fn name_under(
    bundle: &TrustBundle,
    leaf: &LeafFacts,
    spiffe_id: Option<&SpiffeId>,
) -> Result<CallerName, PathError> {
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
            let caller = choose(bundle, names)?;
            refuse_hazardous_names(leaf)?;
            return Ok(caller);
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

/// Refuses a leaf if any of its names has control characters, line ends, invisible characters or
/// quotation marks, even if another name names the caller. All names go to services, in the
/// assertion and in header fields, and to logs.
fn refuse_hazardous_names(leaf: &LeafFacts) -> Result<(), PathError> {
    let sans = &leaf.sans;
    let mut names = sans.uri.iter().chain(&sans.dns).chain(&sans.email);
    match names.find(|name| name.contains('"') || !is_printable(name)) {
        None => Ok(()),
        Some(name) => Err((
            ReasonCode::MalformedIdentity,
            format!(
                "a subject alternative name has control characters or quotation marks: {}",
                printable(name)
            ),
        )),
    }
}

/// Returns all names of one type in the leaf. If one of these names is malformed, returns an error,
/// and the leaf is refused.
fn names_of(leaf: &LeafFacts, name_type: NameType) -> Result<Vec<CallerName>, PathError> {
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
        NameType::Upn => leaf
            .sans
            .upn
            .iter()
            .map(|name| CallerName::from_upn(name))
            .collect(),
        NameType::Ip => Ok(leaf.sans.ip.iter().copied().map(CallerName::Ip).collect()),
    }
    .map_err(|error| (ReasonCode::MalformedIdentity, error.to_string()))
}

fn choose(bundle: &TrustBundle, names: Vec<CallerName>) -> Result<CallerName, PathError> {
    let carried: Vec<String> = names.iter().map(ToString::to_string).collect();
    let carried = printable(&carried.join(", "));
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
