//! `Lint`: one rule. `Finding`: a problem that a lint has found.

use serde::Serialize;

/// How serious the finding of a lint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A standard forbids the certificate or list, or gateways refuse it.
    Error,
    /// The certificate or list works, but it is not advisable.
    Warning,
}

/// A problem in a certificate or a revocation list that a lint has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How serious the problem is.
    pub severity: Severity,
    /// The name of the lint that found the problem, for example `serial-not-positive`.
    pub lint: &'static str,
    /// A description of the problem in one sentence.
    pub message: String,
    /// The section of a standard that contains the rule.
    pub reference: &'static str,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{}: {} ({})",
            self.lint, self.message, self.reference
        )
    }
}

/// A group of lints that check the same kind of object. `Subject` is the input of their checks.
pub(super) trait Family {
    type Subject<'a>;
}

/// One rule: its name, the severity of its findings, its source, and its check.
pub(super) struct Lint<F: Family> {
    pub(super) name: &'static str,
    pub(super) severity: Severity,
    pub(super) reference: &'static str,
    pub(super) check: fn(&F::Subject<'_>) -> Option<String>,
}

pub(super) fn run<F: Family>(lints: &[Lint<F>], subject: &F::Subject<'_>) -> Vec<Finding> {
    lints
        .iter()
        .filter_map(|lint| {
            Some(Finding {
                severity: lint.severity,
                lint: lint.name,
                message: (lint.check)(subject)?,
                reference: lint.reference,
            })
        })
        .collect()
}

/// Returns the only finding for data that cannot be parsed.
pub(super) fn unreadable(why: &str) -> Vec<Finding> {
    vec![Finding {
        severity: Severity::Error,
        lint: "unreadable",
        message: why.to_owned(),
        reference: "RFC 5280 section 4.1",
    }]
}

/// Returns `message` if `wrong` is true, and otherwise `None`. Lints return the result of this
/// function from their checks.
pub(super) fn when(wrong: bool, message: &str) -> Option<String> {
    wrong.then(|| message.to_owned())
}

macro_rules! lints {
    ($( $name:literal, $severity:ident, $reference:literal, $check:expr; )+) => {
        &[ $( Lint { name: $name, severity: $severity, reference: $reference, check: $check }, )+ ]
    };
}
pub(super) use lints;
