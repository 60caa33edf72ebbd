//! `[[api_key]]` and `[api_keys]`: API keys for callers that have no certificate.

use std::sync::Arc;

use http::HeaderName;

use super::assertion::{self, is_reserved};
use super::context::{Context, names};
use crate::authn::api_key::{ApiKey, ApiKeys, DEFAULT_HEADER, KeyDigest, MIN_HMAC_KEY};
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::ApiKeySection;
use crate::identity::caller::{PLAIN_NAME_FORM, is_plain_name};
use crate::material::units::UnitKey;
use crate::secret::Secret;

/// Builds the API keys of all `[[api_key]]` sections. Returns `None` if one of them, or a setting
/// of `[api_keys]`, is invalid.
pub(super) fn api_keys(document: &Document, context: &mut Context<'_>) -> Option<Arc<ApiKeys>> {
    let sections = &document.api_keys;
    context.unique("API key", names(sections.iter().map(|s| &s.name)));
    let header = header(document, context);
    let hmac_key = hmac_key(document, context);
    let keys: Vec<Option<ApiKey>> = sections
        .iter()
        .map(|section| api_key(section, document, context))
        .collect();
    let keys: Vec<ApiKey> = keys.into_iter().collect::<Option<_>>()?;
    if keys.is_empty() && document.api_keys_section.is_none() {
        return Some(Arc::new(ApiKeys::none(header?)));
    }
    match ApiKeys::new(header?, hmac_key?, keys) {
        Ok(keys) => Some(Arc::new(keys)),
        Err(error) => {
            let place = sections.iter().find_map(|section| {
                let name = section.name.at()?;
                (name.value == error.second).then(|| name.place.clone())
            });
            context.error(
                Diagnostic::new(place.unwrap_or_default(), error.to_string())
                    .help("make a new key for one of them: countersign api-key new"),
            );
            None
        }
    }
}

fn header(document: &Document, context: &mut Context<'_>) -> Option<HeaderName> {
    let Some(written) = document
        .api_keys_section
        .as_ref()
        .and_then(|section| section.header.at())
    else {
        return Some(DEFAULT_HEADER);
    };
    let assertion = document.assertion.as_ref();
    let assertion = assertion.map(|section| section.header.or(assertion::DEFAULT_HEADER));
    if is_reserved(&written.value) || assertion.as_ref() == Some(&written.value) {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                format!("the header field {} has another purpose", written.value),
            )
            .help("leave the key out for X-API-Key"),
        );
        return None;
    }
    Some(written.value.clone())
}

fn hmac_key(document: &Document, context: &mut Context<'_>) -> Option<Secret> {
    let Some(section) = &document.api_keys_section else {
        if let Some(first) = document.api_keys.first() {
            context.error(
                Diagnostic::new(first.place.clone(), "there is no [api_keys] section")
                    .help("add [api_keys] with the hmac_key that this key was made with"),
            );
        }
        return None;
    };
    let written = section.hmac_key.at()?;
    let path = context.files.locate(&written.value);
    let unit = UnitKey::new("hmac_key of [api_keys]");
    let key = context.read_private_unit(unit, written, &path)?;
    if key.expose().len() < MIN_HMAC_KEY {
        context.error(
            super::pem::about(
                written,
                &path,
                &format!("is no HMAC key: it has fewer than {MIN_HMAC_KEY} bytes"),
            )
            .help("countersign api-key new makes one"),
        );
        return None;
    }
    Some(key)
}

fn api_key(
    section: &ApiKeySection,
    document: &Document,
    context: &mut Context<'_>,
) -> Option<ApiKey> {
    let made = "countersign api-key new prints the whole entry";
    if let Some(name) = section.name.at()
        && !is_plain_name(&name.value)
    {
        context.error(
            Diagnostic::new(name.place.clone(), "this cannot name an API key").help(format!(
                "write {PLAIN_NAME_FORM}: the caller is api-key:NAME"
            )),
        );
    }
    if let Some(id) = section.id.at()
        && !ApiKey::is_id(&id.value)
    {
        context.error(
            Diagnostic::new(id.place.clone(), "this is no identifier of an API key")
                .label("expected 16 hexadecimal digits in lower case")
                .help(made),
        );
    }
    let digest = section.hash.at().and_then(|hash| {
        let digest = KeyDigest::parse(&hash.value);
        if digest.is_none() {
            context.error(
                Diagnostic::new(hash.place.clone(), "this is no hash of an API key")
                    .label("expected 43 base64url characters")
                    .help(made),
            );
        }
        digest
    });
    for route in section.routes.items() {
        let known = || names(document.routes.iter().map(|route| &route.name)).map(|(name, _)| name);
        if !known().any(|name| name == route.value) {
            let known: Vec<&str> = known().collect();
            context.unknown_reference(route, "route", known.into_iter());
        }
    }
    Some(ApiKey {
        name: section.name.value()?.clone(),
        id: section.id.value()?.clone(),
        digest: digest?,
        expires: section.expires.value().map(|moment| moment.0),
        routes: section.routes.values(),
        networks: section.networks.values(),
        connection_networks: section.connection_networks.values(),
        callers: section.callers.values(),
    })
}
