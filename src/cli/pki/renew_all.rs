//! `countersign pki renew --all`: renews the certificates of the inventory that are due.

use std::path::Path;

use serde_json::json;

use super::authority::open;
use crate::cli::common::format::{absolute, moment};
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::clock;
use crate::identity::text::printable;
use crate::pki::renewing::{is_due, serial_at};
use crate::pki::{Entry, Issued, Lifetime, Pki, Remaining, Renewal};
use crate::secret::Secret;

/// The result of checking the certificates once.
#[derive(Default)]
pub(super) struct Look {
    /// The earliest time at which a certificate that is not due yet will be due, in seconds since
    /// the Unix epoch. `None` if there is no such certificate.
    pub(super) due_at: Option<i64>,
    pub(super) renewed: Vec<Issued>,
    /// How the command ends if it does not keep running. `None` means success.
    pub(super) exit: Option<Exit>,
}

/// Which certificates are renewed, and for how long.
pub(super) struct Selection<'a> {
    /// The authority's directory.
    pub(super) dir: &'a Path,
    /// Selects certificates with less remaining lifetime than this. If `None`, selects all.
    pub(super) remaining: Option<Remaining>,
    /// The lifetime of the new certificates. If `None`, that of each current certificate.
    pub(super) lifetime: Option<Lifetime>,
}

/// The certificates that one run has found.
#[derive(Default)]
struct Found {
    due: Vec<Renewal>,
    not_due: u64,
    /// The earliest time at which a certificate that is not due yet will be due, in seconds since
    /// the Unix epoch.
    due_at: Option<i64>,
    /// Certificates that are due, but need a new request from their holder.
    requests: Vec<Entry>,
    /// Number of certificates whose file is missing or contains another certificate.
    elsewhere: u64,
}

/// Renews all certificates that are due. Opens the authority each time, because it may have been
/// rotated.
pub(super) fn run(
    selection: &Selection<'_>,
    unlocking: &PassphraseArgs,
    passphrase: &mut Option<Secret>,
    output: Output,
) -> Result<Look, CliError> {
    let mut pki = open(selection.dir)?;
    let mut failures = Vec::new();
    let found = find(&pki, selection.remaining, &mut failures)?;
    let mut look = Look {
        due_at: found.due_at,
        ..Look::default()
    };
    if !found.due.is_empty() {
        if let Some(secret) = passphrase.as_ref() {
            pki.set_passphrase(secret.clone());
        }
        let issuer = pki.issuer();
        unlocking.unlock(&mut pki, issuer)?;
        *passphrase = pki.passphrase().cloned();
    }
    let mut documents = Vec::new();
    for renewal in &found.due {
        let renewal = match selection.lifetime {
            Some(lifetime) => renewal.clone().lifetime(lifetime),
            None => renewal.clone(),
        };
        match pki.renew(&renewal, false) {
            Ok(issued) => {
                output.say(format_args!(
                    "Renewed {} until {}: {}, serial {} (earlier: {})",
                    issued.identity(),
                    moment(issued.not_after),
                    issued.certificate.display(),
                    issued.serial,
                    renewal.serial
                ));
                documents.push(renewed_document(&issued, &renewal, true));
                look.renewed.push(issued);
            }
            Err(error) => failures.push(format!("{}: {error}", renewal.names().join(", "))),
        }
    }
    report(&found, &documents, &failures, selection.dir, output);
    look.exit = match (failures.is_empty(), found.requests.is_empty()) {
        (false, _) => Some(Exit::Failed),
        (true, false) => Some(Exit::No),
        (true, true) => None,
    };
    Ok(look)
}

fn report(
    found: &Found,
    documents: &[serde_json::Value],
    failures: &[String],
    dir: &Path,
    output: Output,
) {
    for entry in &found.requests {
        output.note(format_args!(
            "note: {} ({}, until {}) needs a new request of its holder: countersign pki renew {} \
             --dir {} --csr NEW.csr",
            printable(&entry.names.join(", ")),
            entry.serial,
            moment(entry.not_after),
            printable(&entry.certificate.to_string_lossy()),
            dir.display()
        ));
    }
    output.json(&json!({
        "renewed": documents,
        "not_due": found.not_due,
        "needs_request": found.requests.iter().map(request_document).collect::<Vec<_>>(),
        "elsewhere": found.elsewhere,
        "failed": failures,
    }));
    output.say(format_args!(
        "{} renewed, {} not due, {} need a request, {} not in their places, {} failed",
        documents.len(),
        found.not_due,
        found.requests.len(),
        found.elsewhere,
        failures.len()
    ));
    for failure in failures {
        output.error(&CliError::failed(failure));
    }
}

/// Reads the newest certificate at each path in the inventory, and finds those that are due. Adds
/// error messages to `failures`.
fn find(
    pki: &Pki,
    remaining: Option<Remaining>,
    failures: &mut Vec<String>,
) -> Result<Found, CliError> {
    let mut found = Found::default();
    for entry in pki.newest()? {
        if !entry.certificate.exists() {
            found.elsewhere += 1;
            continue;
        }
        let renewal = match serial_at(&entry.certificate) {
            // The file contains another certificate than the inventory says.
            Ok(serial) if serial != entry.serial => {
                found.elsewhere += 1;
                continue;
            }
            Ok(_) => pki.renewal(&entry.certificate),
            Err(error) => Err(error),
        };
        let renewal = match renewal {
            Ok(renewal) => renewal,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        match not_due_until(&renewal, remaining) {
            Some(due) => {
                found.not_due += 1;
                found.due_at = Some(found.due_at.map_or(due, |earliest| earliest.min(due)));
            }
            None if renewal.needs_request() => found.requests.push(entry),
            None => found.due.push(renewal),
        }
    }
    Ok(found)
}

fn request_document(entry: &Entry) -> serde_json::Value {
    json!({
        "certificate": absolute(&entry.certificate),
        "names": entry.names,
        "serial": entry.serial,
        "not_after": clock::rfc3339(entry.not_after),
    })
}

/// Returns when a certificate will be due, in seconds since the Unix epoch. Returns `None` if it is
/// due now, or if `remaining` is `None`.
pub(super) fn not_due_until(renewal: &Renewal, remaining: Option<Remaining>) -> Option<i64> {
    let due = renewal.due_at(remaining?);
    (!is_due(due)).then_some(due)
}

/// Returns a renewed certificate as JSON.
pub(super) fn renewed_document(
    issued: &Issued,
    renewal: &Renewal,
    key_is_here: bool,
) -> serde_json::Value {
    json!({
        "certificate": absolute(&issued.certificate),
        "key": key_is_here.then(|| absolute(&issued.key)),
        "identity": issued.identity(),
        "names": issued.names,
        "profile": issued.profile.name(),
        "replaces": renewal.serial,
        "serial": issued.serial,
        "x5t#S256": issued.thumbprint,
        "not_before": clock::rfc3339(issued.not_before),
        "not_after": clock::rfc3339(issued.not_after),
    })
}
