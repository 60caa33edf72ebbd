//! Rules for the names that one leaf may contain, and under which profile.

use super::names::{MAX_NAMES, RequestError, SubjectName, SubjectNames};
use super::profile::CertificateProfile;
use crate::identity::{CallerName, SpiffeId, TrustDomain};
use crate::reason::ReasonCode;

impl SubjectNames {
    /// Returns the profile that fits the names. Used if none is requested.
    ///
    /// A SPIFFE ID, a host name and an IP address serve either end of a
    /// connection; a wildcard names servers, a mail address or URI clients.
    #[must_use]
    pub fn natural_profile(&self) -> CertificateProfile {
        let any = |test: fn(&SubjectName) -> bool| self.0.iter().any(test);
        if any(|name| matches!(name, SubjectName::WildcardDns(_))) {
            return CertificateProfile::SERVER;
        }
        let serves_both = any(|name| {
            matches!(
                name,
                SubjectName::Caller(CallerName::Spiffe(_) | CallerName::Dns(_) | CallerName::Ip(_))
            )
        });
        if serves_both {
            CertificateProfile::PEER
        } else {
            CertificateProfile::CLIENT
        }
    }

    /// Checks the names as a whole against the authority's trust domain and
    /// gives the profile to issue under, which may be wider than `asked`.
    pub(crate) fn check(
        &self,
        asked: &CertificateProfile,
        domain: &TrustDomain,
    ) -> Result<CertificateProfile, RequestError> {
        if self.0.is_empty() {
            return Err(RequestError::new(
                ReasonCode::NoIdentity,
                "the certificate would carry no name; give --spiffe, --dns, --ip, --email or --uri",
            ));
        }
        if self.0.len() > MAX_NAMES {
            return Err(RequestError::new(
                ReasonCode::ChainTooLong,
                format!("a certificate carries at most {MAX_NAMES} names"),
            ));
        }
        let wildcard = self
            .0
            .iter()
            .find(|name| matches!(name, SubjectName::WildcardDns(_)));
        if let Some(id) = self.spiffe_id() {
            self.check_spiffe(id, domain)?;
            if let Some(wildcard) = wildcard {
                return Err(RequestError::new(
                    ReasonCode::MalformedIdentity,
                    format!("{wildcard} cannot stand beside a SPIFFE ID, whose holder is a caller"),
                ));
            }
            // X509-SVID section 4.4: the extended key usage, if present, has
            // both usages. A narrower profile is therefore widened.
            return Ok(asked.for_both_ends());
        }
        match wildcard {
            Some(wildcard) if asked.usages().is_none_or(|usages| usages.client) => {
                Err(RequestError::new(
                    ReasonCode::MalformedIdentity,
                    format!(
                        "{wildcard} names no caller; wildcards need --profile server, or one for servers only"
                    ),
                ))
            }
            _ => Ok(asked.clone()),
        }
    }

    /// Checks the rules of X509-SVID sections 2, 3.1 and 4.1.
    fn check_spiffe(&self, id: &SpiffeId, domain: &TrustDomain) -> Result<(), RequestError> {
        let uris = self
            .0
            .iter()
            .filter(|name| {
                matches!(
                    name,
                    SubjectName::Caller(CallerName::Spiffe(_) | CallerName::Uri(_))
                )
            })
            .count();
        if uris > 1 {
            return Err(RequestError::new(
                ReasonCode::AmbiguousIdentity,
                format!(
                    "{id} must be the only URI name; the others need a certificate of their own"
                ),
            ));
        }
        if id.trust_domain() != domain {
            return Err(RequestError::new(
                ReasonCode::TrustDomainMismatch,
                format!(
                    "{id} belongs to trust domain {}; this authority vouches for {domain} only",
                    id.trust_domain()
                ),
            ));
        }
        if id.path().is_empty() {
            return Err(RequestError::new(
                ReasonCode::MalformedIdentity,
                format!("{id} has no path: it names the trust domain itself, not a workload"),
            ));
        }
        Ok(())
    }
}
