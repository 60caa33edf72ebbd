//! `OwnCertificate`: a certificate that the gateway presents, and how long it is still valid.

use std::fmt;
use std::path::{Path, PathBuf};

use super::credentials::Credentials;
use crate::identity::LeafFacts;
use crate::identity::text::{hex, shell};
use crate::{clock, crypto};

/// A certificate should be renewed when this part of its life is left: a third.
const RENEWAL_PART: i64 = 3;

/// The section of the configuration that a certificate belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateOwner {
    /// `[listener]`, whose certificate operators and services may see too.
    Listener,
    /// `[[server_name]]`, with the first of its names, and the number of others.
    ServerName(String, usize),
    /// `[[upstream]]`, with its name.
    Upstream(String),
    /// `[token_issuer.introspection]`, with the name of the token issuer.
    TokenIssuer(String),
}

impl CertificateOwner {
    /// Returns the word for the use of the certificate in metrics.
    #[must_use]
    pub const fn usage(&self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::ServerName(..) => "server-name",
            Self::Upstream(_) => "upstream",
            Self::TokenIssuer(_) => "token-issuer",
        }
    }

    /// Returns the name of the owner, of server names the first one. Empty for the listener.
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

/// How much of its life a certificate has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeLeft {
    /// More than a third.
    Enough,
    /// At most a third: it should have been renewed.
    Expiring,
    /// Nothing. Peers refuse the certificate.
    Expired,
}

/// A certificate that the gateway presents: a leaf, or an intermediate that is sent with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The section that names it.
    pub owner: CertificateOwner,
    /// The file that contains it.
    pub file: PathBuf,
    /// Its subject (RFC 4514).
    pub subject: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// SHA-256 hash of its DER. The serial numbers of a leaf and an intermediate may be equal,
    /// because they have different issuers.
    pub hash: [u8; 32],
    /// Whether it is an intermediate.
    pub is_intermediate: bool,
    /// notBefore in seconds since the Unix epoch.
    pub not_before: i64,
    /// notAfter in seconds since the Unix epoch.
    pub not_after: i64,
    /// Whether operators see it too, at the admin listener.
    pub serves_operators: bool,
}

impl OwnCertificate {
    /// Returns the certificates of a chain, the leaf first.
    #[must_use]
    pub fn all_of(owner: &CertificateOwner, file: &Path, credentials: &Credentials) -> Vec<Self> {
        let chain = &credentials.certified().cert;
        // An intermediate that cannot be read is not looked after; peers judge it anyway.
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

    /// Returns how much of its life is left at `now` (seconds since the Unix epoch).
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

    /// Returns an alarm for the operator, if there is one at `now`. Times and consequence come
    /// first, because long texts are cut.
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

    /// Returns the command that renews the certificate.
    #[must_use]
    pub fn command(&self) -> String {
        let file = shell(&self.file);
        match self.is_intermediate {
            false => format!("countersign pki renew {file} --dir DIR"),
            // A chain with another intermediate comes from the issuer.
            true => format!("countersign pki inspect {file}"),
        }
    }

    fn consequence(&self) -> String {
        // Peers that know another path to a root that they trust do not need the intermediate.
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
