//! Checks of name constraints (RFC 5280 section 4.2.1.10) that webpki does not make. Also finds the
//! reason if webpki refuses a name without giving one.
//!
//! webpki applies constraints to DNS names and IP addresses in subjectAltName. It refuses
//! constrained names of all other types without a reason. Two checks are missing in webpki:
//! - webpki compares a wildcard with an excluded name as text. So it accepts `*.example.org`
//!   although `a.example.org` is excluded.
//! - webpki ignores e-mail addresses and host names in the subject.
//!
//! This module adds these checks. Its checks only refuse certificates. A certificate that webpki
//! refuses stays refused.

use std::net::IpAddr;

use x509_parser::der_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::extensions::{GeneralName, NameConstraints};
use x509_parser::x509::X509Name;

use super::error::PathError;
use crate::identity::text::printable;
use crate::reason::ReasonCode;

/// The name constraints of one issuer, as far as this module checks them.
#[derive(Debug, Clone, Default)]
pub(crate) struct IssuerConstraints {
    /// The permitted DNS names in lower case, without leading dot.
    permitted_dns: Vec<String>,
    excluded_dns: Vec<String>,
    subtrees: usize,
    email: bool,
    uri: bool,
    directory: bool,
    other: bool,
}

/// The names in a leaf to which name constraints can apply.
#[derive(Debug, Clone, Default)]
pub(crate) struct CarriedNames {
    /// The part after `*.` of each DNS name with a wildcard: `example.org` for `*.example.org`.
    wildcard_bases: Vec<String>,
    has_dns: bool,
    email: bool,
    uri: bool,
    other: bool,
    /// Common names that have the form of a DNS name, in lower case.
    common_names: Vec<String>,
    subject_email: bool,
    count: usize,
}

/// Maximum number of comparisons of names with constraints, for one leaf and one issuer. webpki has
/// the same limit, but counts only its own comparisons.
const MAX_COMPARISONS: usize = 250_000;

impl IssuerConstraints {
    /// Reads name constraints. `value` is their DER encoding. If the parser cannot read one of the
    /// two lists of subtrees (permitted, excluded), it ignores this list and all data after it. The
    /// result would be incomplete, so this function then returns `None`.
    pub(crate) fn read(constraints: &NameConstraints<'_>, value: &[u8]) -> Option<Self> {
        let lists = usize::from(constraints.permitted_subtrees.is_some())
            + usize::from(constraints.excluded_subtrees.is_some());
        (lists_in(value)? == lists).then(|| Self::of(constraints))
    }

    fn of(constraints: &NameConstraints<'_>) -> Self {
        let mut read = Self::default();
        for subtree in constraints.permitted_subtrees.iter().flatten() {
            read.note(&subtree.base);
            if let GeneralName::DNSName(name) = &subtree.base {
                read.permitted_dns.push(normal(name));
            }
        }
        for subtree in constraints.excluded_subtrees.iter().flatten() {
            read.note(&subtree.base);
            if let GeneralName::DNSName(name) = &subtree.base {
                read.excluded_dns.push(normal(name));
            }
        }
        read
    }

    fn note(&mut self, base: &GeneralName<'_>) {
        self.subtrees += 1;
        match base {
            GeneralName::DNSName(_) | GeneralName::IPAddress(_) => {}
            GeneralName::RFC822Name(_) => self.email = true,
            GeneralName::URI(_) => self.uri = true,
            GeneralName::DirectoryName(_) => self.directory = true,
            _ => self.other = true,
        }
    }

    /// Whether no names are constrained.
    pub(crate) const fn is_empty(&self) -> bool {
        self.subtrees == 0
    }

    /// Checks the constraints that webpki does not check.
    pub(crate) fn check(&self, carried: &CarriedNames) -> Result<(), PathError> {
        let refuse = |why: String| Err((ReasonCode::NameConstraint, why));
        if self.subtrees.saturating_mul(carried.count) > MAX_COMPARISONS {
            return refuse(format!(
                "{} names under {} name constraints are too many to compare",
                carried.count, self.subtrees
            ));
        }
        // A wildcard matches any first label. So it matches an excluded name if the excluded name
        // without its first label equals the part after `*.`.
        let escaping = carried.wildcard_bases.iter().find(|base| {
            self.excluded_dns
                .iter()
                .filter_map(|excluded| excluded.split_once('.'))
                .any(|(_, parent)| parent == base.as_str())
        });
        if let Some(base) = escaping {
            return refuse(format!(
                "*.{} stands for a name that an issuer excludes",
                printable(base)
            ));
        }
        // RFC 5280 section 4.2.1.10: if subjectAltName has no e-mail address, a constraint on
        // e-mail addresses applies to the e-mail address in the subject.
        if self.email && carried.subject_email && !carried.email {
            return refuse(UNSUPPORTED_EMAIL.to_owned());
        }
        // The gateway never uses the common name as a caller's name. But if subjectAltName has no
        // DNS name, other programs use the common name as DNS name.
        match carried.common_names.iter().find(|name| self.forbids(name)) {
            Some(name) if !carried.has_dns => refuse(format!(
                "the common name {} violates a name constraint of an issuer",
                printable(name)
            )),
            _ => Ok(()),
        }
    }

    fn forbids(&self, name: &str) -> bool {
        let within = |base: &String| {
            base.is_empty()
                || name
                    .strip_suffix(base.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.excluded_dns.iter().any(within)
            || !self.permitted_dns.is_empty() && !self.permitted_dns.iter().any(within)
    }

    /// Returns a type of name that the issuer constrains, that the leaf contains, and for which
    /// constraints are not supported. Returns `None` if there is no such type.
    pub(crate) const fn unsupported(&self, carried: &CarriedNames) -> Option<&'static str> {
        if self.email && (carried.email || carried.subject_email) {
            Some("e-mail")
        } else if self.uri && carried.uri {
            Some("URI")
        } else if self.directory {
            // Every leaf has a subject, which is a directory name. So webpki applies a constraint
            // on directory names to every leaf.
            Some("directory-name")
        } else if self.other && carried.other {
            Some("other-name")
        } else {
            None
        }
    }
}

const UNSUPPORTED_EMAIL: &str = "an issuer constrains e-mail names and the subject carries one; \
    e-mail name constraints are not supported and refuse them all";

impl CarriedNames {
    pub(crate) fn note_subject(&mut self, subject: &X509Name<'_>) {
        self.count += subject.iter_attributes().count();
        self.subject_email = subject.iter_email().next().is_some();
        self.common_names = subject
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .filter(|name| could_be_dns(name))
            .map(normal)
            .collect();
    }

    pub(crate) fn note(&mut self, name: &GeneralName<'_>) {
        self.count += 1;
        match name {
            GeneralName::DNSName(name) => {
                self.has_dns = true;
                if let Some(base) = name.strip_prefix("*.") {
                    self.wildcard_bases.push(normal(base));
                }
            }
            GeneralName::RFC822Name(_) => self.email = true,
            GeneralName::URI(_) => self.uri = true,
            GeneralName::IPAddress(_) | GeneralName::DirectoryName(_) => {}
            _ => self.other = true,
        }
    }
}

/// Returns the number of elements of the SEQUENCE in `value`. In name constraints, each element is
/// one list of subtrees.
fn lists_in(value: &[u8]) -> Option<usize> {
    let (_, sequence) = Any::from_der(value).ok()?;
    let mut rest = sequence.data;
    let mut count = 0;
    while !rest.is_empty() {
        (rest, _) = Any::from_der(rest).ok()?;
        count += 1;
    }
    Some(count)
}

fn could_be_dns(name: &str) -> bool {
    name.contains('.')
        && name.parse::<IpAddr>().is_err()
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"-_.*".contains(&octet))
}

fn normal(name: &str) -> String {
    name.trim_start_matches('.')
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluding(name: &str) -> IssuerConstraints {
        IssuerConstraints {
            excluded_dns: vec![normal(name)],
            subtrees: 1,
            ..IssuerConstraints::default()
        }
    }

    fn carrying(names: &[GeneralName<'_>]) -> CarriedNames {
        let mut carried = CarriedNames::default();
        names.iter().for_each(|name| carried.note(name));
        carried
    }

    #[test]
    fn a_wildcard_may_not_stand_for_an_excluded_name() {
        let wildcard = carrying(&[GeneralName::DNSName("*.Example.org")]);
        for (excluded, allowed) in [
            ("a.example.org", false),
            (".a.example.org", false),
            ("b.a.example.org", true),
            ("a.example.com", true),
            ("aexample.org", true),
        ] {
            assert_eq!(
                excluding(excluded).check(&wildcard).is_ok(),
                allowed,
                "{excluded}"
            );
        }
    }

    #[test]
    fn lists_that_cannot_be_read_are_not_passed_over() {
        // The parser ignores the invalid list of permitted subtrees, and the list of excluded
        // subtrees after it. So `read` must return `None`, or a.example.org would not be excluded.
        let excluded = [&[0xa1, 0x11, 0x30, 0x0f, 0x82, 0x0d][..], b"a.example.org"].concat();
        for (permitted, readable) in [(&[][..], true), (&[0xa0, 0x00][..], false)] {
            let length = u8::try_from(permitted.len() + excluded.len()).unwrap();
            let value = [&[0x30, length][..], permitted, &excluded].concat();
            let (_, constraints) = NameConstraints::from_der(&value).unwrap();
            let read = IssuerConstraints::read(&constraints, &value);
            assert_eq!(read.is_some(), readable);
        }
    }

    #[test]
    fn common_names_count_only_without_dns_names() {
        let mut carried = CarriedNames {
            common_names: vec!["a.example.org".to_owned()],
            ..CarriedNames::default()
        };
        assert!(excluding("example.org").check(&carried).is_err());
        assert!(excluding("le.org").check(&carried).is_ok());
        let permitting = IssuerConstraints {
            permitted_dns: vec!["example.com".to_owned()],
            ..IssuerConstraints::default()
        };
        assert!(permitting.check(&carried).is_err());
        carried.has_dns = true;
        assert!(excluding("example.org").check(&carried).is_ok());
    }

    #[test]
    fn an_address_as_common_name_is_no_dns_name() {
        for (name, is) in [
            ("a.example.org", true),
            ("*.example.org", true),
            ("127.0.0.1", false),
            ("A caller", false),
            ("caller", false),
        ] {
            assert_eq!(could_be_dns(name), is, "{name}");
        }
    }

    #[test]
    fn e_mail_addresses_of_the_subject_count_too() {
        let constraints = IssuerConstraints {
            email: true,
            ..IssuerConstraints::default()
        };
        let carried = CarriedNames {
            subject_email: true,
            ..CarriedNames::default()
        };
        assert!(constraints.check(&carried).is_err());
        assert_eq!(constraints.unsupported(&carried), Some("e-mail"));
        assert_eq!(constraints.unsupported(&CarriedNames::default()), None);
    }
}
