//! Checks the names in tokens and API keys against the deny list.
//!
//! This module does not check the names in certificates. They are checked when the chain is
//! verified, and again whenever the list changes.

use super::engine::Denial;
use crate::clock;
use crate::identity::text::printable;
use crate::identity::{CallerName, Principal};
use crate::reason::ReasonCode;
use crate::trust::DenyList;

/// Checks the names in the credentials of one request, except for the names in a certificate. The
/// name of an API key is checked even if a certificate names the caller, because the key may be
/// stolen.
///
/// # Errors
/// `identity-denied` if one of the names is on the list.
pub fn check_denied(list: Option<&DenyList>, principal: &Principal) -> Result<(), Denial> {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(());
    };
    let now = clock::certificate_now();
    let key = principal
        .api_key()
        .map(|key| CallerName::from_api_key(&key.name));
    let key = key.transpose().map_err(|_| {
        let why = "the name of the API key cannot be compared with the deny list";
        Denial::new(ReasonCode::IdentityDenied, why)
    })?;
    let named = principal.peer().is_none().then(|| principal.caller());
    for name in named.into_iter().chain(&key) {
        if let Some(note) = list.denies_name(name, now) {
            return Err(Denial {
                note: (!note.is_empty()).then(|| printable(&note).into()),
                ..Denial::new(
                    ReasonCode::IdentityDenied,
                    format!("{name} is on the deny list"),
                )
            });
        }
    }
    Ok(())
}
