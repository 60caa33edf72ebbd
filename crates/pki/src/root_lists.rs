//! Takes over revocation lists that a root has signed elsewhere.
//!
//! Each such list passes [`take_over`], whichever command it is given to. Afterwards, `pki.toml` has
//! the number of the list and all its revocations, as if the root had signed the list here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use x509_parser::revocation_list::RevokedCertificate as ListEntry;
use x509_parser::x509::ReasonCode;

use super::files::certificates;
use super::files::error::PkiError;
use super::records::state::State;
use super::signing::authority_certificate::AuthorityCertificate;
use super::signing::revoked::{RevocationReason, RevokedCertificate};
use super::signing::signatory::Signatory;
use super::store;
use crate::clock;
use crate::identity::leaf::significant;
use crate::identity::text::hex;
use crate::pem;
use crate::trust::{PathPurpose, PathTrust};

/// A revocation list that a root has signed elsewhere.
#[derive(Debug, Clone)]
pub(super) struct RootList {
    /// The file that the operator gave.
    path: PathBuf,
    pub(super) pem: String,
    pub(super) number: u64,
    pub(super) this_update: i64,
    pub(super) next_update: i64,
    pub(super) entries: Vec<Revocation>,
}

/// An entry of a list.
#[derive(Debug, Clone)]
pub(super) struct Revocation {
    /// The serial number in hexadecimal.
    pub(super) serial: String,
    time: i64,
    reason: RevocationReason,
}

/// What happens to revocations that `pki.toml` has and a list lacks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lost<'a> {
    /// The list is refused.
    Refused,
    /// They are removed from `pki.toml`, but not those of these serial numbers. Many authorities
    /// remove certificates that have expired from their lists.
    RemovedExcept(&'a [String]),
}

impl RootList {
    /// Reads a list of `root` that gateways can use.
    pub(super) fn read(
        path: &Path,
        root: &AuthorityCertificate,
        now: i64,
    ) -> Result<Self, PkiError> {
        let list = Self::read_of_any_time(path, root)?;
        if list.this_update > now {
            let begin = clock::rfc3339(list.this_update);
            return Err(list.disagree(format!(
                "it is valid only from {begin}, and gateways refuse all callers until then; compare \
                 the clocks of the two machines"
            )));
        }
        if clock::certificate_is_over(list.next_update, now) {
            let end = clock::rfc3339(list.next_update);
            return Err(list.disagree(format!(
                "it is out of date since {end}; have the root sign a new one"
            )));
        }
        Ok(list)
    }

    /// Same as [`RootList::read`], but the list may be out of date: its successor is signed here.
    pub(super) fn read_of_any_time(
        path: &Path,
        root: &AuthorityCertificate,
    ) -> Result<Self, PkiError> {
        let disagree = |why: String| PkiError::Disagree {
            path: path.to_owned(),
            why,
        };
        let lists = pem::revocation_lists(&store::read_named(path)?)
            .map_err(certificates::damaged(path))?;
        let [der] = lists.as_slice() else {
            return Err(disagree("it must hold one revocation list".to_owned()));
        };
        let (_, list) = x509_parser::parse_x509_crl(der)
            .map_err(|_| PkiError::unreadable(path, "it is not a revocation list"))?;
        if list.issuer().as_raw() != root.subject_der() {
            return Err(disagree(format!(
                "it is a revocation list of {}, not of the root {}",
                list.issuer(),
                root.facts().subject
            )));
        }
        // The verifier of gateways says whether it can use the list, and verifies the signature.
        let roots = [root.der().clone()];
        let trust = PathTrust::new(&roots, Vec::new(), Some(&lists), PathPurpose::Client);
        if let Some((_, why)) = trust.unusable_crls().first() {
            return Err(disagree(format!(
                "gateways cannot use it: {why}; {}",
                why.remedy()
            )));
        }
        if let Some(why) = trust.alarms().first() {
            return Err(disagree(why.clone()));
        }
        let next_update = list.next_update().map(|time| time.timestamp());
        let (Some(next_update), Some(number)) = (next_update, number_of(&list)) else {
            return Err(disagree(
                "its number or its nextUpdate is missing or too large".to_owned(),
            ));
        };
        Ok(Self {
            path: path.to_owned(),
            pem: pem::encode_revocation_list(der),
            number,
            this_update: list.last_update().timestamp(),
            next_update,
            entries: list.iter_revoked_certificates().map(revocation).collect(),
        })
    }

    fn disagree(&self, why: String) -> PkiError {
        PkiError::Disagree {
            path: self.path.clone(),
            why,
        }
    }

    /// Refuses a number or thisUpdate that gateways refuse, and another list with the number of the
    /// last one.
    fn check_order(&self, last: u64, published: Option<&str>) -> Result<(), PkiError> {
        if self.number < last {
            return Err(self.disagree(format!(
                "its number is {}, and that of the last list is {last}; gateways refuse a list whose \
                 number goes back",
                self.number
            )));
        }
        let published = published.filter(|known| *known != self.pem);
        let made = published.and_then(|known| in_list(known, |list| Some(made_at(list))));
        if let Some(made) = made.filter(|made| *made > self.this_update) {
            return Err(self.disagree(format!(
                "its thisUpdate is {}, and that of the published list is {}; gateways refuse a list \
                 that is older than the one in use",
                clock::rfc3339(self.this_update),
                clock::rfc3339(made)
            )));
        }
        if published.and_then(|known| in_list(known, number_of)) == Some(self.number) {
            return Err(self.disagree(format!(
                "its number is {}, which the published list has too, with another content; have the \
                 root sign a list with a higher number",
                self.number
            )));
        }
        Ok(())
    }
}

/// Records a list of the root `signatory` in `state`: its number and its revocations. `published` is
/// the present list of this root in PEM.
///
/// # Errors
/// If the number of the list goes back, or if it lacks a revocation (see [`Lost`]).
pub(super) fn take_over(
    state: &mut State,
    signatory: Signatory,
    list: &RootList,
    published: Option<&str>,
    lost: Lost<'_>,
) -> Result<(), PkiError> {
    list.check_order(state.last_number(signatory), published)?;
    let listed: HashSet<&str> = list.entries.iter().map(|e| e.serial.as_str()).collect();
    let is_lost = |entry: &RevokedCertificate| {
        entry.is_of(signatory) && !listed.contains(entry.serial.as_str())
    };
    let may_go = |entry: &RevokedCertificate| match lost {
        Lost::Refused => false,
        Lost::RemovedExcept(serials) => !serials.contains(&entry.serial),
    };
    if let Some(entry) = state.revoked.iter().find(|e| is_lost(e) && !may_go(e)) {
        let remedy = match lost {
            Lost::Refused => {
                ". If that certificate has expired, and the root does not list it any more: \
                 countersign pki crl --root-crl FILE --force"
            }
            Lost::RemovedExcept(_) => " and an intermediate of this authority",
        };
        return Err(list.disagree(format!(
            "it does not revoke {}, which is revoked{remedy}",
            entry.serial
        )));
    }
    state.revoked.retain(|entry| !is_lost(entry));
    let known: HashSet<String> = state
        .revoked
        .iter()
        .filter(|entry| entry.is_of(signatory))
        .map(|entry| entry.serial.clone())
        .collect();
    for entry in &list.entries {
        if !known.contains(&entry.serial) {
            state.revoked.push(RevokedCertificate {
                issuer: signatory.name,
                generation: signatory.generation,
                serial: entry.serial.clone(),
                time: entry.time,
                reason: entry.reason,
            });
        }
    }
    state.note_number(signatory, list.number);
    Ok(())
}

fn number_of(list: &x509_parser::revocation_list::CertificateRevocationList<'_>) -> Option<u64> {
    let number = u64::try_from(list.crl_number()?).ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

fn made_at(list: &x509_parser::revocation_list::CertificateRevocationList<'_>) -> i64 {
    list.last_update().timestamp()
}

/// Reads something from the first list in `pem`.
fn in_list<T>(
    pem: &str,
    read: impl FnOnce(&x509_parser::revocation_list::CertificateRevocationList<'_>) -> Option<T>,
) -> Option<T> {
    let lists = pem::revocation_lists(pem.as_bytes()).ok()?;
    let (_, list) = x509_parser::parse_x509_crl(lists.first()?).ok()?;
    read(&list)
}

fn revocation(entry: &ListEntry<'_>) -> Revocation {
    Revocation {
        serial: hex(significant(entry.raw_serial())),
        time: entry.revocation_date.timestamp(),
        reason: match entry.reason_code().map(|(_, reason)| reason) {
            Some(ReasonCode::KeyCompromise) => RevocationReason::KeyCompromise,
            Some(ReasonCode::CACompromise) => RevocationReason::CaCompromise,
            Some(ReasonCode::AffiliationChanged) => RevocationReason::AffiliationChanged,
            Some(ReasonCode::Superseded) => RevocationReason::Superseded,
            Some(ReasonCode::CessationOfOperation) => RevocationReason::CessationOfOperation,
            Some(ReasonCode::PrivilegeWithdrawn) => RevocationReason::PrivilegeWithdrawn,
            // Gateways refuse a certificate on hold like a revoked one.
            _ => RevocationReason::Unspecified,
        },
    }
}
