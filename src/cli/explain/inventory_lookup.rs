//! `countersign explain --pki DIR`: finds the caller's certificate in the inventory of an
//! authority, and shows its entry beside the gateway's decision.

use std::path::Path;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use crate::cli::common::output::CliError;
use crate::cli::pki::list::document;
use crate::clock;
use crate::crypto;
use crate::identity::LeafFacts;
use crate::identity::text::printable;
use crate::pki::{Entry, Filter, Pki, Status};

/// The entry of a certificate in the inventory. `None` if there is no entry.
pub(super) struct InventoryLookup(Option<(Entry, Status)>);

impl InventoryLookup {
    /// Finds the entry of a leaf certificate by its thumbprint.
    pub(super) fn look_up(dir: &Path, chain: &[CertificateDer<'_>]) -> Result<Self, CliError> {
        let pki = Pki::open(dir)?;
        let Some(leaf) = chain.first() else {
            return Ok(Self(None));
        };
        let Ok(facts) = LeafFacts::read(leaf) else {
            return Ok(Self(None));
        };
        let filter = Filter {
            serial: Some(facts.serial_hex()),
            ..Filter::default()
        };
        let thumbprint = Base64UrlUnpadded::encode_string(&crypto::sha256(leaf));
        let mut found = pki.issued(&filter)?.into_iter();
        Ok(Self(
            found.find(|(entry, _)| entry.thumbprint == thumbprint),
        ))
    }

    /// Returns the entry as JSON, or null if there is no entry.
    pub(super) fn document(&self) -> Value {
        self.0.as_ref().map_or(Value::Null, document)
    }

    /// Describes the entry on one line.
    pub(super) fn line(&self, dir: &Path) -> String {
        let place = dir.display();
        let Some((entry, status)) = &self.0 else {
            return format!("The inventory in {place} does not know this certificate.");
        };
        let since = clock::rfc3339(entry.issued_at);
        let (by, cause) = (printable(&entry.issued_by), printable(&entry.cause));
        let mut line = format!(
            "The inventory in {place} knows it: signed {since} by {by} ({cause}), profile {}, {}",
            printable(&entry.profile),
            status.as_str()
        );
        if let Some((at, reason)) = &entry.revoked {
            line.push_str(&format!(
                " since {} ({})",
                clock::rfc3339(*at),
                printable(reason)
            ));
        }
        line.push('.');
        line
    }

    /// Returns a warning if the certificate is revoked, but the gateway does not refuse it for that
    /// reason.
    pub(super) fn warning(&self, reason: Option<&str>) -> Option<&'static str> {
        let (_, status) = self.0.as_ref()?;
        (*status == Status::Revoked && reason != Some("certificate-revoked")).then_some(
            "it is revoked there, and the lists of this configuration do not say so: are they \
             the newest ones?",
        )
    }
}
