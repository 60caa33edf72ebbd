//! `Subject`: the input of the lints of certificates.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::BasicConstraints;

use super::rule::Family;
use crate::identity::LeafFacts;

/// The certificate that lints check, and what is known about it.
pub(super) struct Subject<'a> {
    pub(super) der: &'a [u8],
    pub(super) certificate: &'a X509Certificate<'a>,
    /// The facts in the certificate. `None` if an extension cannot be parsed, which a lint reports.
    pub(super) facts: Option<LeafFacts>,
    pub(super) issuer: Option<&'a X509Certificate<'a>>,
}

/// The lints that check certificates. See [`Family`].
pub(super) struct Certificates;

impl Family for Certificates {
    type Subject<'a> = Subject<'a>;
}

pub(super) fn is_authority(subject: &Subject<'_>) -> bool {
    basic_constraints(subject).is_some_and(|(_, constraints)| constraints.ca)
}

pub(super) fn is_leaf(subject: &Subject<'_>) -> bool {
    !is_authority(subject)
}

pub(super) fn basic_constraints<'a>(
    subject: &'a Subject<'_>,
) -> Option<(bool, &'a BasicConstraints)> {
    let extension = subject.certificate.basic_constraints().ok()??;
    Some((extension.critical, extension.value))
}
