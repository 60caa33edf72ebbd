//! Renews leaves: issues a leaf with the same names and usages as an existing one, and with a new
//! key.
//!
//! Names and usages are read from the certificate file and not from the inventory, so the file is
//! sufficient. Certificates of other authorities and revoked certificates are refused. Expired
//! certificates can be renewed, because callers must be able to continue after an outage.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::issuing::{Issued, LeafKey};
use super::records::inventory::{Cause, Filter};
use super::signing::lifetime::{Lifetime, LifetimeError};
use super::signing::names::{RequestError, SubjectNames};
use super::signing::profile::{BACKDATING, CertificateProfile};
use super::signing::request::IssueRequest;
use super::store::{SafeName, key};
use crate::clock;
use crate::identity::LeafFacts;
use crate::reason::ReasonCode;

/// When a certificate must be renewed: as soon as its remaining lifetime is below this limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remaining {
    /// A percentage of the certificate's whole lifetime.
    Percent(u8),
    /// A length of time before the certificate expires, for example ten days.
    Time(Lifetime),
}

impl FromStr for Remaining {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, LifetimeError> {
        match text.strip_suffix('%') {
            Some(number) => number
                .parse()
                .ok()
                .filter(|percent| (1..=100).contains(percent))
                .map(Self::Percent)
                .ok_or(LifetimeError::Form),
            None => text.parse().map(Self::Time),
        }
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(formatter, "{percent}%"),
            Self::Time(time) => time.fmt(formatter),
        }
    }
}

/// A certificate that can be renewed, and the request for the new certificate.
#[derive(Debug, Clone)]
pub struct Renewal {
    request: IssueRequest,
    /// The serial number of the current certificate.
    pub serial: String,
    /// notBefore of the current certificate, in seconds since the Unix epoch.
    pub not_before: i64,
    /// notAfter of the current certificate, in seconds since the Unix epoch.
    pub not_after: i64,
}

impl Renewal {
    /// Returns when the certificate must be renewed, in seconds since the Unix epoch. `remaining`
    /// is the limit for the remaining lifetime.
    #[must_use]
    pub fn due_at(&self, remaining: Remaining) -> i64 {
        let left = match remaining {
            Remaining::Percent(percent) => {
                let whole = self.not_after.saturating_sub(self.not_before);
                whole.saturating_mul(i64::from(percent)) / 100
            }
            Remaining::Time(time) => time.as_seconds(),
        };
        self.not_after.saturating_sub(left)
    }

    /// Sets the lifetime of the new certificate. The default is the lifetime of the current
    /// certificate, or the maximum of the profile if that is shorter.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.request = self.request.lifetime(lifetime);
        self
    }

    /// Sets the files of the new certificate to `PREFIX.pem` and `PREFIX.key`. By default, the
    /// files of the current certificate are replaced.
    #[must_use]
    pub fn out(mut self, prefix: impl Into<PathBuf>, overwrite: bool) -> Self {
        self.request = self.request.out(prefix).overwrite(overwrite);
        self
    }
}

impl Pki {
    /// Reads the certificate that will be renewed: the first certificate in the PEM file `path`.
    ///
    /// # Errors
    /// If this authority has not issued the certificate, if the certificate is revoked, or if the
    /// name of the file does not end with `.pem`.
    pub fn renewal(&self, path: &Path) -> Result<Renewal, PkiError> {
        let not_ours = || PkiError::NotIssuedHere(path.to_owned());
        let presented = certificates::read_beside_key(path)?;
        let leaf = presented.first().ok_or_else(not_ours)?;
        let facts = LeafFacts::read(leaf).map_err(|error| PkiError::unreadable(path, error))?;
        let issuer = self
            .issuers()
            .find(|signatory| self.certificate_of(*signatory).has_signed(leaf))
            .filter(|_| !facts.is_ca)
            .ok_or_else(not_ours)?;
        let state = self.states.read(&self.layout().state())?;
        if state.is_revoked(issuer, &facts.serial_hex()) {
            return Err(RequestError::new(
                ReasonCode::CertificateRevoked,
                "a revoked certificate is not renewed; issue a new one with pki issue",
            )
            .into());
        }
        let lifetime = facts
            .not_after
            .saturating_sub(facts.not_before)
            .saturating_sub(BACKDATING);
        let profile = self.profile_of(&facts)?;
        let prefix = prefix_of(path)?;
        let request = IssueRequest::new(label_of(&facts, &prefix), names_of(&facts)?)
            .lifetime(Lifetime::from_seconds(lifetime).min(profile.max_lifetime()))
            .profile(profile)
            .out(prefix)
            .overwrite(true);
        Ok(Renewal {
            request,
            serial: facts.serial_hex(),
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }

    /// Returns the profile for the new certificate. This is the profile with the name that the
    /// inventory has recorded. If the inventory has no record, or the profile no longer exists, it
    /// is the profile with the usages of the current certificate.
    fn profile_of(&self, facts: &LeafFacts) -> Result<CertificateProfile, PkiError> {
        let filter = Filter {
            serial: Some(facts.serial_hex()),
            ..Filter::default()
        };
        let recorded = self.issued(&filter)?;
        let profile = recorded
            .first()
            .and_then(|(entry, _)| self.profiles.leaf(&entry.profile));
        Ok(match profile {
            Some(profile) => profile.clone(),
            None => self.profiles.in_place_of(with_usages_of(facts)),
        })
    }

    /// Issues the new certificate. If `keep_key` is true, the new certificate has the key in
    /// `PREFIX.key`, and otherwise a new key. The current certificate stays valid until it expires.
    ///
    /// # Errors
    /// Same as [`Pki::issue`].
    pub fn renew(&mut self, renewal: &Renewal, keep_key: bool) -> Result<Issued, PkiError> {
        if !keep_key {
            return self.issue_with(&renewal.request, LeafKey::New, Cause::Renew);
        }
        let (_, path) = self.layout().leaf_files(&renewal.request)?;
        let kept = key::read(&path, None)?;
        self.issue_with(&renewal.request, LeafKey::Kept(&kept), Cause::Renew)
    }
}

/// Whether the time `due_at` has passed (in seconds since the Unix epoch).
#[must_use]
pub fn is_due(due_at: i64) -> bool {
    clock::certificate_now() >= due_at
}

fn prefix_of(path: &Path) -> Result<PathBuf, PkiError> {
    match path.extension() {
        Some(extension) if extension == "pem" => Ok(path.with_extension("")),
        _ => Err(PkiError::NotPem(path.to_owned())),
    }
}

/// Returns the label for the new certificate: the common name of the current one, or the name of
/// its file. If both cannot name a file, returns a fixed label.
fn label_of(facts: &LeafFacts, prefix: &Path) -> SafeName {
    let stem = prefix.file_name().and_then(|name| name.to_str());
    let common_name = facts
        .subject
        .strip_prefix("CN=")
        .and_then(|rest| rest.split(',').next());
    [common_name, stem]
        .into_iter()
        .flatten()
        .find_map(|text| text.parse().ok())
        .unwrap_or_else(SafeName::renewed)
}

fn names_of(facts: &LeafFacts) -> Result<SubjectNames, RequestError> {
    let mut names = SubjectNames::new();
    for uri in &facts.sans.uri {
        names = names.uri(uri)?;
    }
    for name in &facts.sans.dns {
        names = names.dns(name)?;
    }
    for address in &facts.sans.ip {
        names = names.ip(*address);
    }
    for address in &facts.sans.email {
        names = names.email(address)?;
    }
    Ok(names)
}

fn with_usages_of(facts: &LeafFacts) -> CertificateProfile {
    match facts.extended_key_usage {
        Some(usages) if usages.client && !usages.server => CertificateProfile::CLIENT,
        Some(usages) if usages.server && !usages.client => CertificateProfile::SERVER,
        _ => CertificateProfile::PEER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_life_is_a_part_or_a_time() {
        assert_eq!("33%".parse(), Ok(Remaining::Percent(33)));
        assert_eq!("8h".parse(), Ok(Remaining::Time(Lifetime::hours(8))));
        for text in ["0%", "101%", "%", "-1%", "", "8"] {
            assert!(text.parse::<Remaining>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_third_is_left_when_two_thirds_are_over() {
        let renewal = Renewal {
            request: IssueRequest::new(SafeName::renewed(), SubjectNames::new()),
            serial: String::new(),
            not_before: 1_000,
            not_after: 1_300,
        };
        assert_eq!(renewal.due_at(Remaining::Percent(33)), 1_201);
        assert_eq!(
            renewal.due_at(Remaining::Time(Lifetime::from_seconds(60))),
            1_240
        );
    }
}
