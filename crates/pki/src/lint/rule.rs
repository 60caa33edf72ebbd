//! `Lint`: one rule, and its findings.

use serde::Serialize;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Forbidden by a standard, or refused by gateways.
    Error,
    /// Works, and is unwise.
    Warning,
}

/// A problem that a lint has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity of the problem.
    pub severity: Severity,
    /// The lint's name.
    pub lint: &'static str,
    /// The problem, in one sentence.
    pub message: String,
    /// The standard or section that contains the rule.
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

/// The kind of object that a group of lints checks.
pub(super) trait Family {
    type Subject<'a>;
}

/// One rule, with its name, severity and check.
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

/// Returns the finding for an encoding that cannot be parsed.
pub(super) fn unreadable(why: &str) -> Vec<Finding> {
    vec![Finding {
        severity: Severity::Error,
        lint: "unreadable",
        message: why.to_owned(),
        reference: "RFC 5280 section 4.1",
    }]
}

/// Returns the message of a lint whose text is fixed.
pub(super) fn when(wrong: bool, message: &str) -> Option<String> {
    wrong.then(|| message.to_owned())
}

macro_rules! lints {
    ($( $name:literal, $severity:ident, $reference:literal, $check:expr; )+) => {
        &[ $( Lint { name: $name, severity: $severity, reference: $reference, check: $check }, )+ ]
    };
}
pub(super) use lints;
