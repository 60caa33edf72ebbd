//! Renews leaves: issues a leaf with the same names and usages as an existing one, and with a new
//! key.
//!
//! Names and usages are read from the certificate file and not from the inventory, so the file is
//! sufficient. Certificates of other authorities and revoked certificates are refused. Expired
//! certificates can be renewed, because callers must be able to continue after an outage.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::issuing::{Issued, LeafKey};
use super::records::inventory::{Cause, Entry, Filter};
use super::signing::csr::SigningRequest;
use super::signing::lifetime::{Lifetime, LifetimeError};
use super::signing::names::{RequestError, SubjectNames};
use super::signing::profile::{BACKDATING, CertificateProfile};
use super::signing::request::IssueRequest;
use super::store::{SafeName, key};
use crate::clock;
use crate::identity::LeafFacts;
use crate::identity::text::printable;
use crate::reason::ReasonCode;

/// `renew --all` skips certificates that expired longer ago than this, in seconds. They are
/// probably not used any more.
const OVER_SINCE_LONG: i64 = 30 * 24 * 3600;

/// The remaining lifetime below which a certificate is renewed.
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
    /// The path of the current certificate.
    path: PathBuf,
    /// Whether the certificate was signed from a request, so that only its holder has the private
    /// key.
    needs_request: bool,
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

    /// Whether the renewal needs a new request from the holder of the private key.
    #[must_use]
    pub const fn needs_request(&self) -> bool {
        self.needs_request
    }

    /// Returns the names in printed form.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        printed(&self.request.names)
    }

    /// Sets the lifetime of the new certificate. By default, it is the lifetime of the current
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
        let recorded = self.recorded(&facts)?;
        let profile = self.profile_of(&facts, recorded.as_ref());
        let prefix = prefix_of(path)?;
        let was_requested = recorded.is_some_and(|entry| entry.cause == Cause::Sign.as_str());
        let request = IssueRequest::new(label_of(&facts, &prefix), names_of(&facts)?)
            .lifetime(Lifetime::from_seconds(lifetime).min(profile.max_lifetime()))
            .profile(profile)
            .out(prefix)
            .overwrite(true);
        let (_, key) = self.layout().leaf_files(&request)?;
        Ok(Renewal {
            request,
            path: path.to_owned(),
            needs_request: was_requested && !is_key_of(&key, leaf),
            serial: facts.serial_hex(),
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }

    /// Returns the entry of a certificate in the inventory. Returns `None` if there is none.
    fn recorded(&self, facts: &LeafFacts) -> Result<Option<Entry>, PkiError> {
        let filter = Filter {
            serial: Some(facts.serial_hex()),
            ..Filter::default()
        };
        let found = self.issued(&filter)?.into_iter().next();
        Ok(found.map(|(entry, _)| entry))
    }

    /// Returns the current version of the profile under which the certificate was issued. If the
    /// inventory does not contain the certificate, or if the profile no longer exists, returns a
    /// profile with the same usages.
    fn profile_of(&self, facts: &LeafFacts, recorded: Option<&Entry>) -> CertificateProfile {
        match recorded.and_then(|entry| self.profiles.leaf(&entry.profile)) {
            Some(profile) => profile.clone(),
            None => self.profiles.in_place_of(with_usages_of(facts)),
        }
    }

    /// Issues the new certificate. If `keep_key` is true, the new certificate has the key in
    /// `PREFIX.key`, and otherwise a new key. The current certificate stays valid until it expires.
    ///
    /// # Errors
    /// Same as [`Pki::issue`]. Also if the renewal needs a request from the holder of the key.
    pub fn renew(&mut self, renewal: &Renewal, keep_key: bool) -> Result<Issued, PkiError> {
        self.check_renewal(renewal)?;
        if !keep_key {
            return self.issue_with(&renewal.request, LeafKey::New, Cause::Renew);
        }
        let (_, path) = self.layout().leaf_files(&renewal.request)?;
        let kept = key::read(&path, None)?;
        self.issue_with(&renewal.request, LeafKey::Kept(&kept), Cause::Renew)
    }

    /// Checks that a certificate can be renewed without a request from its holder.
    ///
    /// # Errors
    /// [`PkiError::NeedsRequest`] if the renewal needs a request.
    pub fn check_renewal(&self, renewal: &Renewal) -> Result<(), PkiError> {
        if !renewal.needs_request {
            return Ok(());
        }
        Err(PkiError::NeedsRequest {
            certificate: renewal.path.clone(),
            directory: self.layout().directory().to_owned(),
            names: names_for_openssl(&renewal.request.names),
        })
    }

    /// Renews a certificate for the key of a new request. The request must have the same names as
    /// the certificate.
    ///
    /// # Errors
    /// Same as [`Pki::sign`]. Also if the names differ, or if the renewal needs no request because
    /// the key is in the key file.
    pub fn renew_requested(
        &mut self,
        renewal: &Renewal,
        signing: &SigningRequest,
    ) -> Result<Issued, PkiError> {
        let (before, asked) = (renewal.names(), printed(signing.names()));
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        if sorted(&before) != sorted(&asked) {
            return Err(PkiError::OtherNames {
                certificate: renewal.path.clone(),
                before: before.join(", "),
                asked: asked.join(", "),
            });
        }
        let (_, key) = self.layout().leaf_files(&renewal.request)?;
        if !renewal.needs_request && key.exists() {
            return Err(PkiError::KeyIsHere {
                certificate: renewal.path.clone(),
                key,
            });
        }
        self.sign(signing, &renewal.request)
    }

    /// Returns the certificates that can be renewed, in the order of issuing: the newest
    /// certificate at each path. Ignores certificates that are revoked, or that expired more than
    /// 30 days ago.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn newest(&self) -> Result<Vec<Entry>, PkiError> {
        let filter = Filter {
            live_at: Some(clock::certificate_now().saturating_sub(OVER_SINCE_LONG)),
            ..Filter::default()
        };
        let mut newest: HashMap<PathBuf, Entry> = HashMap::new();
        self.each_issued(&filter, |(entry, _)| {
            newest.insert(entry.certificate.clone(), entry);
            ControlFlow::Continue(())
        })?;
        let mut newest: Vec<Entry> = newest.into_values().collect();
        newest.sort_by_key(|entry| entry.id);
        Ok(newest)
    }
}

/// Returns the serial number of the first certificate of a PEM file.
///
/// # Errors
/// If the file cannot be read, or contains no certificate.
pub fn serial_at(path: &Path) -> Result<String, PkiError> {
    let presented = certificates::read_beside_key(path)?;
    let leaf = presented
        .first()
        .ok_or_else(|| PkiError::NotIssuedHere(path.to_owned()))?;
    LeafFacts::read(leaf)
        .map(|facts| facts.serial_hex())
        .map_err(|error| PkiError::unreadable(path, error))
}

/// Whether the file `key` contains the private key of `certificate`. Returns false if the key
/// cannot be read.
fn is_key_of(key: &Path, certificate: &CertificateDer<'_>) -> bool {
    let Ok(key) = key::read(key, None) else {
        return false;
    };
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, leaf)| leaf.public_key().raw == key.subject_public_key_info())
}

fn printed(names: &SubjectNames) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Returns the names as the value of subjectAltName for `openssl req`.
fn names_for_openssl(names: &SubjectNames) -> String {
    let name = |text: String| match text.split_once(':') {
        Some(("dns", name)) => format!("DNS:{name}"),
        Some(("mailto", address)) => format!("email:{address}"),
        Some(("ip", address)) => format!("IP:{address}"),
        _ => format!("URI:{text}"),
    };
    let names: Vec<String> = printed(names).into_iter().map(name).collect();
    names.join(",")
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
    // The new certificate would lack the name.
    if let Some(name) = facts.sans.upn.first() {
        return Err(RequestError::new(
            ReasonCode::MalformedIdentity,
            format!(
                "the certificate has the user principal name (UPN) {:?}, which pki renew cannot write",
                printable(name)
            ),
        ));
    }
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
    fn a_certificate_is_not_renewed_without_its_user_principal_name() {
        let mut params = rcgen::CertificateParams::default();
        let name = rcgen::OtherNameValue::Utf8String("alice@corp.test".to_owned());
        params.subject_alt_names = vec![
            rcgen::SanType::DnsName("a.corp.test".try_into().unwrap()),
            rcgen::SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], name)),
        ];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let facts = LeafFacts::read(certificate.der()).unwrap();
        let error = names_of(&facts).unwrap_err();
        assert!(error.to_string().contains("alice@corp.test"), "{error}");
    }

    #[test]
    fn names_are_written_as_openssl_reads_them() {
        let names = SubjectNames::new()
            .uri("spiffe://example.org/a")
            .and_then(|names| names.dns("*.example.org"))
            .and_then(|names| names.email("a@example.org"))
            .and_then(|names| names.ip_text("::1"))
            .unwrap();
        assert_eq!(
            names_for_openssl(&names),
            "URI:spiffe://example.org/a,DNS:*.example.org,email:a@example.org,IP:::1"
        );
    }

    #[test]
    fn a_third_is_left_when_two_thirds_are_over() {
        let renewal = Renewal {
            request: IssueRequest::new(SafeName::renewed(), SubjectNames::new()),
            path: PathBuf::new(),
            needs_request: false,
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
