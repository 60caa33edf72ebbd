//! Lints of revocation lists.

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::rule::Severity::{Error, Warning};
use super::rule::{Family, Finding, Lint, lints, run, unreadable, when};
use crate::reason::ReasonCode;
use crate::trust::{SignedParts, check_signature};

/// Checks a revocation list with all lints. `now` is in seconds since the Unix epoch.
#[must_use]
pub fn revocation_list(der: &[u8], now: i64) -> Vec<Finding> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => run(
            LINTS,
            &Subject {
                der,
                list: &list,
                now,
            },
        ),
        _ => unreadable("it is not a revocation list"),
    }
}

struct Subject<'a> {
    der: &'a [u8],
    list: &'a CertificateRevocationList<'a>,
    now: i64,
}

impl Subject<'_> {
    fn has(&self, test: fn(&ParsedExtension<'_>) -> bool) -> bool {
        self.list
            .extensions()
            .iter()
            .any(|extension| test(extension.parsed_extension()))
    }
}

struct Lists;

impl Family for Lists {
    type Subject<'a> = Subject<'a>;
}

const LINTS: &[Lint<Lists>] = lints! {
    "list-number-missing", Error, "RFC 5280 section 5.2.3", |s|
        when(!s.has(|e| matches!(e, ParsedExtension::CRLNumber(_))), "it has no number");
    "list-authority-key-identifier-missing", Error, "RFC 5280 section 5.2.1", |s|
        when(!s.has(|e| matches!(e, ParsedExtension::AuthorityKeyIdentifier(_))),
            "it has no authority key identifier");
    "list-next-update-missing", Error, "RFC 5280 section 5.1.2.5", |s|
        when(s.list.next_update().is_none(), "it does not say when the next one is due");
    "list-stale", Error, "RFC 5280 section 6.3.3", |s| {
        let next = s.list.next_update()?;
        when(next.timestamp() < s.now, "the next one is overdue: gateways refuse with revocation-stale")
    };
    "unsupported-key", Error, "reason code unsupported-key", |s|
        signature_problem(s, ReasonCode::UnsupportedKey);
    "signature-weak", Error, "RFC 9155", |s| signature_problem(s, ReasonCode::WeakKey);
    "list-partial", Warning, "RFC 5280 section 5.2.5", |s|
        when(s.has(|e| matches!(e, ParsedExtension::IssuingDistributionPoint(_))),
            "it covers one distribution point only");
};

fn signature_problem(subject: &Subject<'_>, wanted: ReasonCode) -> Option<String> {
    let signed = SignedParts::read(subject.der)?;
    let (reason, message) = check_signature(signed.algorithm)
        .err()?
        .describe("its signature");
    (reason == wanted).then_some(message)
}
