//! `OwnCertificate`: a certificate that the gateway presents, and how long it is still valid.

use std::fmt;
use std::path::{Path, PathBuf};

use super::credentials::Credentials;
use crate::identity::LeafFacts;
use crate::identity::text::{hex, shell};
use crate::{clock, crypto};

/// A certificate should be renewed when one third of its lifetime is left. This number is the
/// divisor of the lifetime.
const RENEWAL_PART: i64 = 3;

/// The section of the configuration that contains a certificate of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateOwner {
    /// `[listener]`. Operators and services may see the certificate of this section, too.
    Listener,
    /// `[[server_name]]`, with the first of its names, and the number of its other names.
    ServerName(String, usize),
    /// `[[upstream]]`, with the name of the upstream.
    Upstream(String),
    /// `[token_issuer.introspection]`, with the name of the token issuer.
    TokenIssuer(String),
}

impl CertificateOwner {
    /// Returns the word that stands for the section in metrics.
    #[must_use]
    pub const fn usage(&self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::ServerName(..) => "server-name",
            Self::Upstream(_) => "upstream",
            Self::TokenIssuer(_) => "token-issuer",
        }
    }

    /// Returns the first server name, or the name of the upstream or token issuer. The text is
    /// empty for `[listener]`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Listener => "",
            Self::ServerName(name, _) | Self::Upstream(name) | Self::TokenIssuer(name) => name,
        }
    }
}

impl fmt::Display for CertificateOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener => formatter.write_str("[listener]"),
            Self::ServerName(name, 0) => write!(formatter, "[[server_name]] {name}"),
            Self::ServerName(name, more) => {
                write!(formatter, "[[server_name]] {name} and {more} more")
            }
            Self::Upstream(name) => write!(formatter, "[[upstream]] {name}"),
            Self::TokenIssuer(name) => {
                write!(formatter, "[token_issuer.introspection] of {name}")
            }
        }
    }
}

/// How much of the lifetime of a certificate is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeLeft {
    /// More than a third is left.
    Enough,
    /// At most a third is left. The certificate should have been renewed.
    Expiring,
    /// The certificate has expired, so peers refuse it.
    Expired,
}

/// A certificate that the gateway presents: a leaf, or an intermediate that is sent with the leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The section of the configuration that names `file`.
    pub owner: CertificateOwner,
    /// The file that contains the certificate.
    pub file: PathBuf,
    /// The subject of the certificate in RFC 4514 form.
    pub subject: String,
    /// The serial number of the certificate in hexadecimal.
    pub serial: String,
    /// SHA-256 hash of the certificate's DER. The serial numbers of a leaf and an intermediate may
    /// be equal, because they have different issuers.
    pub hash: [u8; 32],
    /// Whether the certificate is an intermediate.
    pub is_intermediate: bool,
    /// notBefore in seconds since the Unix epoch.
    pub not_before: i64,
    /// notAfter in seconds since the Unix epoch.
    pub not_after: i64,
    /// Whether the admin listener also presents the certificate, to operators.
    pub serves_operators: bool,
}

impl OwnCertificate {
    /// Returns the certificates of a chain, the leaf first. Leaves out intermediates that cannot be
    /// read.
    #[must_use]
    pub fn all_of(owner: &CertificateOwner, file: &Path, credentials: &Credentials) -> Vec<Self> {
        let chain = &credentials.certified().cert;
        // The expiry of an intermediate that cannot be read is unknown. Such an intermediate is no
        // error here, because the peers decide whether they accept the chain.
        (chain.iter().enumerate())
            .filter_map(|(position, der)| {
                let facts = LeafFacts::read(der).ok()?;
                Some(Self {
                    owner: owner.clone(),
                    file: file.to_owned(),
                    serial: hex(&facts.serial),
                    hash: crypto::sha256(der),
                    is_intermediate: position > 0,
                    not_before: facts.not_before,
                    not_after: facts.not_after,
                    subject: facts.subject,
                    serves_operators: false,
                })
            })
            .collect()
    }

    /// Returns how much of the certificate's lifetime is left at `now` (seconds since the Unix
    /// epoch).
    #[must_use]
    pub const fn left(&self, now: i64) -> LifeLeft {
        if clock::certificate_is_over(self.not_after, now) {
            LifeLeft::Expired
        } else if now >= self.renewal_due() {
            LifeLeft::Expiring
        } else {
            LifeLeft::Enough
        }
    }

    /// Returns when the certificate should be renewed, in seconds since the Unix epoch.
    #[must_use]
    pub const fn renewal_due(&self) -> i64 {
        let life = self.not_after.saturating_sub(self.not_before);
        self.not_after.saturating_sub(life / RENEWAL_PART)
    }

    /// Returns an alarm for the operator. Returns `None` if more than a third of the lifetime is
    /// left at `now` (seconds since the Unix epoch). The file and the subject come last in the
    /// alarm, because long texts are cut at the end.
    #[must_use]
    pub fn alarm(&self, now: i64) -> Option<String> {
        let what = match self.is_intermediate {
            false => format!("the certificate of {}", self.owner),
            true => format!("an intermediate beside the certificate of {}", self.owner),
        };
        let end = clock::rfc3339(self.not_after);
        let says = match self.left(now) {
            LifeLeft::Enough => return None,
            LifeLeft::Expiring => format!(
                "expires at {end}, and at most a third of its life is left; from then on {}",
                self.consequence()
            ),
            LifeLeft::Expired => format!("expired at {end}: {}", self.consequence()),
        };
        let (file, subject) = (self.file.display(), &self.subject);
        Some(format!("{what} {says} ({file}, {subject})"))
    }

    /// Returns a command for the operator. The command renews a leaf. For an intermediate, the
    /// command shows the certificates in the file.
    #[must_use]
    pub fn command(&self) -> String {
        let file = shell(&self.file);
        match self.is_intermediate {
            false => format!("countersign pki renew {file} --dir DIR"),
            // Only the issuer can supply a chain with a new intermediate.
            true => format!("countersign pki inspect {file}"),
        }
    }

    fn consequence(&self) -> String {
        // A peer does not need the intermediate if it knows another path to a trusted root.
        let who = |all: &str| match self.is_intermediate {
            false => format!("{all} are turned away"),
            true => format!("{all} that need it are turned away"),
        };
        match &self.owner {
            CertificateOwner::Listener if self.serves_operators => who("callers and operators"),
            CertificateOwner::Listener => who("callers"),
            CertificateOwner::ServerName(..) => who("callers of these names"),
            CertificateOwner::Upstream(_) => {
                "its services turn the gateway's requests away".to_owned()
            }
            CertificateOwner::TokenIssuer(_) => {
                "callers are turned away whose tokens the issuer is asked about".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_life_is_when_it_should_be_renewed() {
        let certificate = OwnCertificate {
            owner: CertificateOwner::Upstream("orders".to_owned()),
            file: PathBuf::from("a.pem"),
            subject: "CN=a".to_owned(),
            serial: "01".to_owned(),
            hash: [0; 32],
            is_intermediate: false,
            not_before: 1_000,
            not_after: 1_300,
            serves_operators: false,
        };
        for (now, left) in [
            (0, LifeLeft::Enough),
            (1_199, LifeLeft::Enough),
            (1_200, LifeLeft::Expiring),
            (1_300, LifeLeft::Expiring),
            (1_301, LifeLeft::Expired),
        ] {
            assert_eq!(certificate.left(now), left, "{now}");
            assert_eq!(certificate.alarm(now).is_some(), left != LifeLeft::Enough);
        }
    }

    #[test]
    fn long_names_do_not_hide_the_end_and_what_follows() {
        let certificate = OwnCertificate {
            owner: CertificateOwner::ServerName("orders.example.org".to_owned(), 11),
            file: PathBuf::from("/etc/countersign/certs/issued/".repeat(8) + "gateway.pem"),
            subject: "CN=a".to_owned(),
            serial: "01".to_owned(),
            hash: [0; 32],
            is_intermediate: false,
            not_before: 1_000,
            not_after: 1_300,
            serves_operators: false,
        };
        let shown = crate::identity::text::printable(&certificate.alarm(1_301).unwrap());
        for part in [
            "orders.example.org and 11 more",
            "1970-01-01T00:21:40Z",
            "turned away",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }
}
