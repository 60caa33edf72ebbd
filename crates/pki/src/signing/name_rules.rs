//! Rules for the set of names in one leaf, and the profile that the names need.

use super::names::{MAX_NAMES, RequestError, SubjectName, SubjectNames};
use super::profile::CertificateProfile;
use crate::identity::{CallerName, SpiffeId, TrustDomain};
use crate::reason::ReasonCode;

impl SubjectNames {
    /// Returns the built-in profile that fits the names. A request that selects no profile gets
    /// this profile.
    ///
    /// A holder with a SPIFFE ID, a host name or an IP address can be a client and a server. A
    /// wildcard is only for servers. A mail address or another URI is only for clients.
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

    /// Checks the names together. `domain` is the trust domain of the authority. Returns the
    /// profile to use. This is `asked`, but for a SPIFFE ID it always has both usages.
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
            // X509-SVID section 4.4: if extendedKeyUsage is present, it must contain both usages.
            // So the missing usage is added.
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

    /// Checks the rules of X509-SVID sections 2, 3.1 and 4.1 for a leaf with the SPIFFE ID `id`.
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
